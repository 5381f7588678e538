//! The database outlives disks and machines: damaged stores, replicas that die, what is retired.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::cluster::says;
use p2pinst_testnet::{Invite, Lab, Node, eventually};
use serde::Deserialize;
use serde_json::Value;

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all, scenario};

#[derive(Debug, Deserialize)]
struct History {
    answered: usize,
    replicas: usize,
    behind: Vec<String>,
    checksum: String,
    entries: Vec<Value>,
}

fn history(asked: &Node, of: &str) -> Result<History> {
    asked.json(["history", of])
}

/// Short intervals: repair comes every ten of them.
fn hasten(lab: &Lab, interval: u32) -> Result<()> {
    for node in lab.nodes() {
        let path = node.data().join("config.toml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let lines = text.lines().filter(|l| !l.starts_with("sync_secs"));
        let text = format!("sync_secs = {interval}\n{}\n", lines.collect::<Vec<_>>().join("\n"));
        fs::write(&path, text)?;
        node.kill()?;
    }
    lab.nodes().iter().try_for_each(Node::start_daemon)
}

/// Writes other bytes over a part of a file.
fn damage(path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let len = file.metadata()?.len();
    ensure!(len > 64 << 10, "the store has only {len} bytes");
    for at in (4096..len).step_by(1000) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[!byte[0]], at)?;
    }
    Ok(())
}

#[test]
fn eventually_a_damaged_store_is_rebuilt_from_the_peers() {
    cluster(4, |lab| {
        let [n1, n3] = [lab.node(1)?, lab.node(3)?];
        publish_to_all(n1, &deb(lab, "first", "1.0")?, &["--wait"]).run()?.ok()?;
        let before = history(n1, "n3")?;
        ensure!(before.entries.len() == 1, "{before:?}");
        n3.stop()?;
        damage(&n3.data().join("store.redb"))?;
        // redb fails on it, when it opens the file or later: then the daemon ends, and its
        // supervisor starts it again
        drop(n3.start_daemon());
        eventually(SOON, "n3 tells", || {
            if n3.ended()?.is_some() {
                n3.start_daemon()?;
            }
            ensure!(n3.log_text().contains("the store is damaged"), "n3 has not told");
            Ok(())
        })?;
        ensure!(n3.data().join("store.redb.damaged").exists(), "what is left is gone");
        n3.sees_up(4, LATER)?;
        eventually(LATER, "n3 knows its history again", || {
            let after = history(n3, "n3")?;
            ensure!(after.checksum == before.checksum, "{after:?}");
            Ok(())
        })?;
        publish_to_all(n1, &deb(lab, "second", "1.0")?, &["--wait"]).run()?.ok()?;
        n3.installs("first", "1.0", SOON)?;
        n3.installs("second", "1.0", SOON)?;
        eventually(LATER, "both are in n3's history, and the first is not there twice", || {
            let after = history(n1, "n3")?;
            ensure!(after.entries.len() == 2, "{after:?}");
            Ok(())
        })
    });
}

#[test]
fn finally_nothing_is_lost_when_a_third_of_the_machines_dies() {
    scenario(20, |lab| {
        lab.form(20, &Invite::default())?;
        hasten(lab, 2)?;
        let n1 = lab.node(1)?;
        n1.sees_up(20, LATER)?;
        publish_to_all(n1, &deb(lab, "kept", "1.0")?, &["--wait"]).run()?.ok()?;
        let names: Vec<String> = lab.nodes().iter().map(|n| n.name().to_owned()).collect();
        let whole = |asked: &Node| -> Result<()> {
            for name in &names {
                let read = history(asked, name)?;
                let held = read.answered == read.replicas && read.replicas == 8;
                let good = read.entries.len() == 1 && read.behind.is_empty();
                ensure!(held && good, "{name}: {read:?}");
            }
            Ok(())
        };
        eventually(LATER, "every history has eight replicas", || whole(n1))?;
        // 30 %, for ever, and others each time; never the one that asks
        let seed = u64::from(std::process::id());
        let mut dead = BTreeSet::new();
        let mut next = seed;
        while dead.len() < 6 {
            next = next.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            dead.insert(2 + usize::try_from(next >> 33).unwrap_or(0) % 19);
        }
        eprintln!("seed {seed}: {dead:?} die");
        dead.iter().try_for_each(|n| lab.node(*n)?.kill())?;
        n1.sees_up(14, LATER)?;
        for name in &names {
            let read = history(n1, name)?;
            ensure!(
                read.entries.len() == 1,
                "seed {seed}: the history of {name} is lost: {read:?}"
            );
        }
        eventually(LATER, "every history has eight replicas again", || whole(n1))?;
        let last = lab.nodes().iter().rev().find(|n| n.name() != "n1").context("a node")?;
        let alive = if dead.contains(&20) { n1 } else { last };
        whole(alive).with_context(|| format!("seed {seed}, asked {}", alive.name()))
    });
}

#[test]
fn eventually_a_copy_that_differs_is_told_and_mended() {
    cluster(4, |lab| {
        let [n1, n2, n4] = [lab.node(1)?, lab.node(2)?, lab.node(4)?];
        // n4 is cut off while n2's history grows
        lab.cut(4)?;
        n1.sees_up(3, LATER)?;
        n1.ok(["group", "create", "second", "--hosts", "n2"])?;
        let file = deb(lab, "one", "1.0")?;
        n1.publish(&file, &["--group", "second", "--urgent", "--wait"])?;
        ensure!(history(n1, "n2")?.entries.len() == 1, "n2 has a history");
        // its copy is thrown away: only repair can bring it back, since n2 has been acknowledged
        n2.kill()?;
        lab.restore(4)?;
        n4.sees_up(3, LATER)?;
        let mut told = Vec::new();
        eventually(LATER, "n4's copy is mended", || {
            let read = history(n1, "n2")?;
            told.extend(read.behind.clone());
            ensure!(read.answered == 3 && read.behind.is_empty(), "{read:?}");
            Ok(())
        })?;
        ensure!(history(n4, "n2")?.entries.len() == 1, "n4 knows n2's history");
        ensure!(told.contains(&"n4".to_owned()), "the difference was not reported: {told:?}");
        Ok(())
    });
}

#[test]
fn finally_what_is_retired_is_over_everywhere() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        n3.stop()?;
        let first = n1.publish(&deb(lab, "old", "1.0")?, &["--group", "all", "--urgent"])?;
        n2.installs("old", "1.0", SOON)?;
        let refused = n1.refused(1, ["retire", "nobody-7"])?;
        says(&refused, &["no deployment nobody-7"])?;
        n1.ok(["retire", first.name.as_str(), "--reason", "superseded"])?;
        n3.start()?;
        publish_to_all(n1, &deb(lab, "new", "1.0")?, &["--wait"]).run()?.ok()?;
        n3.installs("new", "1.0", SOON)?;
        ensure!(n3.installs("old", "1.0", std::time::Duration::ZERO).is_err(), "n3 has it");
        for node in [n1, n2, n3] {
            let status = node.status()?;
            ensure!(status.deployments.len() == 1, "{}: {status:?}", node.name());
        }
        let kept = history(n3, "n2")?;
        ensure!(kept.entries.len() == 2, "histories stay: {kept:?}");
        Ok(())
    });
}
