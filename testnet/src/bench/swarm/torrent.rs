//! BitTorrent: opentracker and a seed on the first host, a leecher on every other that goes on
//! serving. Without DHT, local discovery and encryption: with them it is slower.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::method::PYTHON;
use super::race::{Finish, Race};
use crate::exec::{Exec, run};
use crate::net::Host;

const TRACKER: u16 = 6969;
/// A client's port: one for each host, since all may share the loopback interface.
const PORT: usize = 6880;
/// The tracker listens after this time.
const READY: Duration = Duration::from_millis(700);
/// The seed has told the tracker of itself after this time. Clients that come before it would ask
/// the tracker only once, and then wait for long.
const SEEDING: Duration = Duration::from_secs(3);
/// A client in Python, which has the only bindings to libtorrent that Debian has.
const LIBTORRENT: &str = include_str!("lt.py");

/// Who speaks BitTorrent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    Aria2,
    Libtorrent,
}

pub(super) fn serve(race: &mut Race<'_>, client: Client) -> Result<()> {
    let publisher = race.publisher()?.clone();
    let offered = race.offer()?;
    let torrent = torrent(race);
    let bytes = fs::metadata(&offered).context("cannot read the file's length")?.len();
    run(
        "mktorrent",
        [
            "-l".to_owned(),
            piece(bytes).to_string(),
            "-a".to_owned(),
            format!("http://{}:{TRACKER}/announce", publisher.ip),
            "-o".to_owned(),
            torrent.display().to_string(),
            offered.display().to_string(),
        ],
    )?;
    let made = fs::read(&torrent).context("cannot read the torrent")?;
    let info = info(&made).context("mktorrent made no torrent")?.to_vec();
    let sum = Exec::new("sha1sum").stdin(info).run()?.ok()?.stdout;
    let hash = sum.split_whitespace().next().context("sha1sum printed nothing")?;
    // It refuses what is not in its list, and changes its root to where the list is.
    race.write("whitelist", &format!("{hash}\n"))?;
    let settings = format!(
        "listen.tcp_udp {}:{TRACKER}\naccess.whitelist /whitelist\ntracker.user nobody\n\
         tracker.rootdir {}\n",
        publisher.ip,
        race.dir.display()
    );
    let file = race.write("opentracker.conf", &settings)?;
    race.serve("tracker", &publisher.exec("opentracker").arg("-f").arg(file), READY)?;
    race.write("lt.py", LIBTORRENT)?;
    let seed = match client {
        Client::Aria2 => aria2(race, &publisher).arg("--bt-seed-unverified=true").arg(torrent),
        Client::Libtorrent => libtorrent(race, &publisher, "seed"),
    };
    race.serve("seed", &seed, SEEDING)
}

pub(super) fn start(race: &mut Race<'_>, client: Client) -> Result<Vec<Finish>> {
    let hook = race.dir.join("hook");
    fs::write(&hook, "#!/bin/sh\ndate +%s.%N >\"$MARK\"\n").context("cannot write a script")?;
    run("chmod", ["755".as_ref(), hook.as_os_str()])?;
    let hosts = race.receivers().to_vec();
    let leecher = |host: &Host| {
        let exec = match client {
            Client::Aria2 => aria2(race, host)
                .env("MARK", mark(race, host))
                .arg("--on-bt-download-complete")
                .arg(&hook)
                .arg(torrent(race)),
            Client::Libtorrent => libtorrent(race, host, "leech"),
        };
        race.crew.start(&format!("leech{}", host.index), &exec)?;
        Ok(Finish::Mark(mark(race, host)))
    };
    hosts.iter().map(leecher).collect()
}

fn aria2(race: &Race<'_>, host: &Host) -> Exec {
    let fixed = [
        "--no-conf",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
        "--follow-torrent=mem",
        "--seed-ratio=0.0",
        "--seed-time=600",
        "--file-allocation=none",
        "--bt-max-peers=70",
        "--bt-tracker-interval=3",
        "--bt-request-peer-speed-limit=0",
        "--summary-interval=0",
        "--console-log-level=warn",
        "--disable-ipv6=true",
    ];
    let port = format!("--listen-port={}", PORT + host.index);
    host.exec("aria2c").args(fixed).arg(port).arg("-d").arg(race.home(host))
}

fn libtorrent(race: &Race<'_>, host: &Host, role: &str) -> Exec {
    let exec = host.exec(PYTHON).arg(race.dir.join("lt.py")).arg(torrent(race));
    let port = (PORT + host.index).to_string();
    let exec = exec.arg(race.home(host)).arg(host.ip.to_string()).arg(port).arg(role);
    exec.arg(mark(race, host))
}

fn torrent(race: &Race<'_>) -> PathBuf {
    race.dir.join("file.torrent")
}

fn mark(race: &Race<'_>, host: &Host) -> PathBuf {
    race.dir.join(format!("done{}", host.index))
}

/// The power of two that a piece is long: 256 KiB, and so that there are at most 2048 of them.
fn piece(bytes: u64) -> u32 {
    bytes.div_ceil(2048).next_power_of_two().ilog2().max(18)
}

/// The part of a torrent that its name is the hash of: a dictionary, the last entry.
fn info(torrent: &[u8]) -> Option<&[u8]> {
    let key = b"4:info";
    let at = torrent.windows(key.len()).position(|w| w == key)? + key.len();
    torrent.get(at..torrent.len().checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_few_and_not_tiny() {
        assert_eq!(piece(1), 18);
        assert_eq!(piece(64 << 20), 18);
        assert_eq!(piece(1 << 30), 19);
        assert_eq!(piece(1_000_000_000), 19);
    }

    #[test]
    fn the_info_of_a_torrent_is_found() {
        assert_eq!(info(b"d8:announce1:x4:infod4:name1:aee"), Some(&b"d4:name1:ae"[..]));
        assert_eq!(info(b"d8:announce1:xe"), None);
    }
}
