//! The node's health: what is looked at, and how bad what is found is. The judgements are pure;
//! what they judge is passed in.

use std::path::Path;
use std::time::Duration;

use dht_store::Store;
use p2pinst_api::DataDir;
use p2pinst_api::inspect::Check;
use p2pinst_files::Lock;
use p2pinst_install::Dpkg;
use p2pinst_install::journal::{Journal, Step};
use p2pinst_trust::Refusal;
use p2pinst_types::Millis;

use crate::config::Config;
use crate::identity::{Identity, load_key};

/// With less room than this nothing can be stored reliably.
const NO_ROOM: u64 = 32 << 20;
/// With less room than this packages will soon not fit.
const LITTLE_ROOM: u64 = 512 << 20;
/// From here on a wrong clock is worth telling.
const CLOCK: Duration = Duration::from_secs(10);
/// A record that has waited this long for its replicas is worth telling.
const OUTBOX: Duration = Duration::from_secs(60);
/// Syncs that may be missed before it is worth telling.
const SYNCS: u32 = 3;
/// Records set aside that are worth telling: a few come and go.
const ASIDE: usize = 100;

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// `12s`, `5m`, `3h`
fn age(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s => format!("{}h", s / 3600),
    }
}

/// Whether there is room where a path is.
#[must_use]
pub fn disk(name: &str, path: &Path) -> Check {
    let shown = path.display();
    match rustix::fs::statvfs(path) {
        Ok(found) => room(name, &shown.to_string(), found.f_bavail.saturating_mul(found.f_frsize)),
        Err(e) => Check::fail(
            name,
            format!("cannot look at the disk of {shown}: {e}"),
            "does the directory exist, and may the node's user read it?",
        ),
    }
}

fn room(name: &str, path: &str, free: u64) -> Check {
    let message = format!("{} are free for {path}", mib(free));
    match free {
        0..NO_ROOM => Check::fail(name, message, "make room: nothing can be stored or installed"),
        NO_ROOM..LITTLE_ROOM => {
            Check::warn(name, message, "make room before the next packages come")
        }
        _ => Check::ok(name, message),
    }
}

/// Whether enough other machines are connected; `others`: in the roster, besides this one; `kept`:
/// of those that this node is to keep connected, and how many these are.
#[must_use]
pub fn peers(connected: usize, others: usize, kept: (usize, usize)) -> Check {
    let message = format!("{connected} of {others} other machines are connected");
    let look = "see who is down: p2pinst node ls; is the network up, is the port open?";
    if others == 0 {
        return Check::ok("peers", "this is the only machine of the cluster");
    }
    if connected == 0 {
        let message = format!("{message}: this node is isolated");
        return Check::fail("peers", message, look);
    }
    let (kept, wanted) = kept;
    if kept * 2 < wanted {
        let message = format!("{message}: {kept} of the {wanted} that this node keeps connected");
        return Check::warn("peers", message, look);
    }
    Check::ok("peers", message)
}

/// Whether the machine's clock is right; `ahead_ms`: ahead of cluster time.
#[must_use]
pub fn clock(ahead_ms: i64) -> Check {
    let by = Duration::from_millis(ahead_ms.unsigned_abs());
    if by < CLOCK {
        return Check::ok("clock", "the clock agrees with the cluster's");
    }
    let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
    let message = format!("this machine's clock is {} {way} the cluster's", age(by));
    Check::warn("clock", message, "set it (chrony, ntpd); until then the cluster's time is used")
}

/// Whether this node's records reach their replicas; `oldest`: the age of the one that waits longest.
#[must_use]
pub fn outbox(waiting: usize, oldest: Option<Duration>) -> Check {
    match oldest {
        None => Check::ok("outbox", "all records of this node are with their replicas"),
        Some(oldest) if oldest < OUTBOX => {
            Check::ok("outbox", format!("{waiting} records are on their way to their replicas"))
        }
        Some(oldest) => Check::warn(
            "outbox",
            format!("{waiting} records wait for their replicas, the oldest for {}", age(oldest)),
            "others see old statuses of this machine until its replicas can be reached",
        ),
    }
}

/// Whether this node has synced lately; `last`: with whom, and how long ago.
#[must_use]
pub fn sync(
    last: Option<(String, Duration)>,
    others: usize,
    interval: Duration,
    up: Duration,
) -> Check {
    let late = interval * SYNCS + Duration::from_secs(10);
    let hint =
        "orders may be missing here; can other machines be reached? see: p2pinst debug peers";
    match last {
        _ if others == 0 => Check::ok("sync", "there is nobody to sync with"),
        Some((with, ago)) if ago <= late => {
            Check::ok("sync", format!("synced with {with} {} ago", age(ago)))
        }
        Some((with, ago)) => {
            Check::warn("sync", format!("last synced with {with}, {} ago", age(ago)), hint)
        }
        None if up <= late => {
            Check::ok("sync", format!("not yet synced, {} after the start", age(up)))
        }
        None => Check::warn("sync", format!("not synced since the start {} ago", age(up)), hint),
    }
}

/// Whether the cluster still knows this machine.
#[must_use]
pub fn member(in_roster: bool, refused: Option<Refusal>) -> Check {
    match refused {
        None if in_roster => Check::ok("member", "this machine is in the roster"),
        Some(why) => Check::fail(
            "member",
            format!("this machine is not a member any more: {why}"),
            "an operator makes a new invite: p2pinst invite; then join again from an empty data directory",
        ),
        None => Check::warn(
            "member",
            "this machine's admission has not come back from the cluster yet",
            "wait for the next sync; if it stays so, ask an operator",
        ),
    }
}

/// Whether there are records that this version cannot read.
#[must_use]
pub fn versions(unknown: usize) -> Check {
    if unknown == 0 {
        return Check::ok("versions", "every record is understood");
    }
    let message = format!("{unknown} records need a newer version of p2pinst; they are passed on");
    Check::warn("versions", message, "update p2pinst on this machine")
}

/// Whether keys were seen to sign twice; `names`: of those keys.
#[must_use]
pub fn equivocators(names: &[String]) -> Check {
    if names.is_empty() {
        return Check::ok("twins", "no key was seen in use twice");
    }
    let message = format!("signed two records of one number: {}", names.join(", "));
    Check::warn(
        "twins",
        message,
        "is a key, or a restored disk, in use on two machines? revoke it if so",
    )
}

/// Whether records pile up that cannot be judged.
#[must_use]
pub fn aside(held: usize) -> Check {
    let message = format!("{held} records are set aside");
    if held < ASIDE {
        return Check::ok("aside", message);
    }
    let hint = "they depend on something that is not here, or are dated in the future: whose clock is wrong?";
    Check::warn("aside", message, hint)
}

/// Whether the package database can be read and is well.
#[must_use]
pub fn packages(root: &Path, log: &Path) -> Check {
    let broken = Dpkg::open(root, log)
        .map_err(|e| e.to_string())
        .and_then(|d| d.audit().map_err(|e| e.to_string()));
    match broken {
        Err(why) => Check::fail(
            "packages",
            format!("the package database cannot be read: {why}"),
            "nothing can be installed before that is repaired",
        ),
        Ok(broken) if broken.is_empty() => {
            Check::ok("packages", format!("the package database of {} is well", root.display()))
        }
        Ok(broken) => {
            let names: Vec<String> = broken.iter().take(5).map(ToString::to_string).collect();
            Check::warn(
                "packages",
                format!("{} packages are broken: {}", broken.len(), names.join(", ")),
                "look at them: dpkg --audit; p2pinst tries a repair before it installs",
            )
        }
    }
}

/// Whether an installation was interrupted and is not resolved. `since`: the node's start; what
/// began after it is at work. `None`: the node does not run.
#[must_use]
pub fn interrupted(journal: &Path, since: Option<Millis>) -> Check {
    match Journal::unfinished(journal) {
        Err(e) => Check::fail("journal", e.to_string(), "restore the file, or move it away"),
        Ok(open) => {
            let stuck = |at: Millis| since.is_none_or(|since| at < since);
            let open: Vec<String> = open
                .iter()
                .filter(|r| r.step == Step::Installing && stuck(r.at))
                .map(|r| r.deployment.short())
                .collect();
            if open.is_empty() {
                return Check::ok("journal", "no installation was interrupted");
            }
            Check::warn(
                "journal",
                format!("installations were interrupted: {}", open.join(", ")),
                "they are taken up when the node starts; if they stay, see its log",
            )
        }
    }
}

/// Whether the store can be read; `read`: what came of it.
#[must_use]
pub fn store(read: Result<String, String>) -> Check {
    match read {
        Ok(message) => Check::ok("store", message),
        Err(why) => Check::fail(
            "store",
            why,
            "is the disk well? if the file is lost, move it away and start the node: it reads all back from the others",
        ),
    }
}

/// What can be told of a data directory whose node does not answer.
#[must_use]
pub fn offline(dir: &DataDir) -> Vec<Check> {
    let shown = dir.path().display();
    let daemon = match Lock::holder(&dir.lock()) {
        Some(pid) => Check::fail(
            "daemon",
            format!("process {pid} runs on {shown} but does not answer"),
            "see its log; stop it and start it again",
        ),
        None => Check::fail(
            "daemon",
            format!("no p2pinstd runs on {shown}"),
            format!("start it: p2pinstd --data-dir {shown}"),
        ),
    };
    let mut checks = vec![daemon];
    let identity = Identity::load(dir);
    checks.push(match &identity {
        Ok(identity) => Check::ok("identity", format!("this is {}", identity.name)),
        Err(e) => Check::fail("identity", e.to_string(), "restore the file, or join anew"),
    });
    checks.push(match load_key(dir) {
        Ok(_) => Check::ok("key", "the node's key is there"),
        Err(e) => Check::fail("key", e.to_string(), "restore the file, or join anew"),
    });
    checks.push(match Config::load(dir) {
        Ok(_) => Check::ok("config", "the configuration can be read"),
        Err(e) => Check::fail("config", e.to_string(), "correct the file"),
    });
    checks.push(disk("disk", dir.path()));
    // not while a node has it, or is just starting
    if let (Ok(identity), Ok(Some(_lock))) = (&identity, Lock::try_exclusive(&dir.lock())) {
        checks.push(store(look_into(dir, identity)));
    }
    checks.push(interrupted(&dir.journal(), None));
    checks
}

fn look_into(dir: &DataDir, identity: &Identity) -> Result<String, String> {
    let roots = identity.roots(dir).map_err(|e| e.to_string())?;
    let store = Store::open(&dir.store(), roots).map_err(|e| e.to_string())?;
    let (control, data, _) = store.size();
    let machines = store.views().machines.len();
    Ok(format!("{machines} machines, {} records are stored", control + data))
}

#[cfg(test)]
mod tests {
    use p2pinst_api::inspect::Level;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_hint_comes_with_whatever_is_not_well() {
        let checks = [
            (peers(0, 0, (0, 0)), Level::Ok),
            (peers(0, 3, (0, 3)), Level::Fail),
            (peers(1, 3, (1, 3)), Level::Warn),
            (peers(3, 3, (3, 3)), Level::Ok),
            (peers(1, 3, (0, 0)), Level::Ok),
            (peers(22, 300, (21, 22)), Level::Ok),
            (peers(60, 300, (9, 22)), Level::Warn),
            (clock(9_999), Level::Ok),
            (clock(-3_600_000), Level::Warn),
            (outbox(0, None), Level::Ok),
            (outbox(2, Some(Duration::from_secs(59))), Level::Ok),
            (outbox(2, Some(MINUTE)), Level::Warn),
            (sync(None, 0, MINUTE, 60 * MINUTE), Level::Ok),
            (sync(None, 1, MINUTE, MINUTE), Level::Ok),
            (sync(None, 1, MINUTE, 4 * MINUTE), Level::Warn),
            (sync(Some(("n2".to_owned(), MINUTE)), 1, MINUTE, MINUTE), Level::Ok),
            (sync(Some(("n2".to_owned(), 4 * MINUTE)), 1, MINUTE, MINUTE), Level::Warn),
            (member(true, None), Level::Ok),
            (member(false, Some(Refusal::Revoked)), Level::Fail),
            (member(false, None), Level::Warn),
            (versions(0), Level::Ok),
            (versions(1), Level::Warn),
            (equivocators(&[]), Level::Ok),
            (equivocators(&["alice".to_owned()]), Level::Warn),
            (aside(99), Level::Ok),
            (aside(100), Level::Warn),
            (store(Ok(String::new())), Level::Ok),
            (store(Err(String::new())), Level::Fail),
            (room("disk", "/", NO_ROOM - 1), Level::Fail),
            (room("disk", "/", NO_ROOM), Level::Warn),
            (room("disk", "/", LITTLE_ROOM), Level::Ok),
        ];
        for (check, level) in checks {
            assert_eq!(check.level, level, "{check:?}");
            assert_eq!(check.hint.is_some(), level > Level::Ok, "{check:?}");
        }
        assert!(peers(0, 3, (0, 3)).message.contains("isolated"));
        assert_eq!(clock(-3_600_000).message, "this machine's clock is 60m behind the cluster's");
    }

    #[test]
    fn a_directory_without_a_node_is_looked_at_as_far_as_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let checks = offline(&DataDir::new(dir.path()));
        let level = |name: &str| checks.iter().find(|c| c.name == name).map(|c| c.level);
        assert_eq!(level("daemon"), Some(Level::Fail));
        assert_eq!(level("identity"), Some(Level::Fail));
        assert_eq!(level("journal"), Some(Level::Ok));
        assert!(level("disk").is_some_and(|l| l < Level::Fail));
        assert_eq!(level("store"), None, "without an identity nobody knows whose it is");
        assert_eq!(disk("disk", &dir.path().join("nowhere")).level, Level::Fail);
        assert_eq!(packages(dir.path(), &dir.path().join("log")).level, Level::Fail);
    }
}
