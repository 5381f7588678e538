//! p2pinst brings one file from the first host to all others.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::crew::Crew;
use super::outcome::{Busy, Outcome, Sums};
use super::wire::Wire;
use crate::bench::now_ms;
use crate::cluster::Invite;
use crate::lab::Lab;
use crate::node::Node;
use crate::stats::{own_cpu_seconds, peak_rss};
use crate::view::{Deployment, Published};
use crate::wait::eventually;

/// A new cluster comes to rest within this time.
const SETTLE: Duration = Duration::from_secs(3);
/// How often is looked who is done. The times are the nodes' own: this one only says until when
/// processor time counts.
const LOOK: Duration = Duration::from_millis(50);
/// How long reports of what is done may take to the node that is asked.
const REPORTS: Duration = Duration::from_secs(60);

/// Makes a new cluster, publishes the file, and ends the cluster. Every copy is checked.
///
/// # Errors
/// When a node does not get the file.
pub(super) fn run(
    lab: &Lab,
    source: &Path,
    hash: &blake3::Hash,
    limit: Duration,
) -> Result<Outcome> {
    clear(lab)?;
    let outcome = play(lab, source, hash, limit);
    if outcome.is_err() {
        eprintln!("{}", lab.log_tails(5));
    }
    clear(lab)?;
    outcome
}

fn play(lab: &Lab, source: &Path, hash: &blake3::Hash, limit: Duration) -> Result<Outcome> {
    lab.form(lab.nodes().len(), &Invite::default())?;
    thread::sleep(SETTLE);
    let first = lab.node(1)?;
    let others = lab.nodes().get(1..).unwrap_or_default();
    let mut crew = Crew::new(&lab.dir().join("publish"))?;
    let wire = Wire::read(lab)?;
    let (cpu, busy, begun) = (daemons(lab)?, Busy::now()?, now_ms()?);
    let words = ["--group", "all", "--urgent", "--json"];
    let publish = crew.start("publish", &first.cli(["publish"]).arg(source).args(words))?;
    while !crew.ended(publish) || !others.iter().all(has_fetched) {
        let waited = Duration::from_millis(now_ms()?.saturating_sub(begun));
        let missing = || others.iter().filter(|n| !has_fetched(n)).count();
        ensure!(waited < limit, "{} nodes were not done within {limit:?}", missing());
        if crew.ended(publish) {
            crew.succeeded(publish)?;
        } else {
            crew.look();
        }
        thread::sleep(LOOK);
    }
    let mut sums = Sums {
        cpu: daemons(lab)? - cpu + crew.cpu(),
        busy: busy.seconds_since()?,
        peak: crew.peak(),
        wire: wire.map(|before| Wire::read(lab).map(|w| w.unwrap_or_default().since(&before))),
    };
    for node in lab.nodes() {
        sums.peak = sums.peak.max(peak_rss(node.pid()?)?);
    }
    let published: Published = serde_json::from_str(&crew.stdout(publish))
        .context("`publish --json` printed something else")?;
    let seen = reports(first, &published.deployment)?;
    let reached = |name: &str| -> Result<u64> {
        let at = seen.machine(name)?.reached_at("verified");
        at.with_context(|| format!("{name} never verified"))
    };
    let done = others.iter().map(|n| reached(n.name())).collect::<Result<Vec<_>>>()?;
    for node in others {
        let length = fs::metadata(source).context("cannot read the file's length")?.len();
        let copies = files(&node.data(), length)?;
        let copy = copies.first().with_context(|| format!("{} has no such file", node.name()))?;
        super::check(copy, hash)?;
    }
    let mut outcome = Outcome::new(begun, &done, sums)?;
    let asked = seen.machines.iter().filter(|m| m.name != first.name());
    let asked = asked.filter_map(|m| m.reached_at("fetching")).min();
    outcome.twice = others.iter().map(|n| twice(&n.log_text())).sum();
    outcome.first_fetch = asked.map(|at| (at as f64 - begun as f64) / 1000.0);
    Ok(outcome)
}

/// Processor seconds of the daemons alone: what dpkg-deb does with what they have is not the
/// distribution.
fn daemons(lab: &Lab) -> Result<f64> {
    lab.nodes().iter().map(|n| own_cpu_seconds(n.pid()?)).sum()
}

/// Whether a node has the whole file, by its log: asking it would be work for it.
fn has_fetched(node: &Node) -> bool {
    node.log_text().lines().any(|l| l.contains("fetched") && l.contains("deployment"))
}

/// The bytes that a node got twice, by its log.
fn twice(log: &str) -> Option<u64> {
    let (_, rest) = log.split_once("duplicate_bytes=")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

fn reports(first: &Node, deployment: &str) -> Result<Deployment> {
    eventually(REPORTS, "every machine has reported", || {
        let seen = first.deployment(deployment)?;
        ensure!(seen.last_reached("verified").is_some(), "the status is: {}", seen.line());
        Ok(seen)
    })
}

/// The files of that length below a directory.
fn files(dir: &Path, length: u64) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let about = entry.metadata().with_context(cannot)?;
        if about.is_dir() {
            found.extend(files(&entry.path(), length)?);
        } else if about.is_file() && about.len() == length {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Ends all daemons, and removes what they had.
fn clear(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        if node.ended()?.is_none() && node.pid().is_ok() {
            node.kill()?;
        }
    }
    for node in lab.nodes() {
        for dir in [node.data(), node.root()] {
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", dir.display()));
                }
                _ => {}
            }
        }
        // Each cluster writes a log of its own.
        fs::remove_file(node.log()).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_what_came_twice() {
        let log = "x\nINFO fetched deployment=n1-1 bytes=7 sources=3 duplicate_bytes=4096\ny";
        assert_eq!(twice(log), Some(4096));
        assert_eq!(twice("INFO fetched deployment=n1-1"), None);
    }

    #[test]
    fn files_are_found_by_their_length() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("blobs/ab");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("cd"), "12345").unwrap();
        fs::write(deep.join("other"), "1234").unwrap();
        assert_eq!(files(temp.path(), 5).unwrap(), [deep.join("cd")]);
    }
}
