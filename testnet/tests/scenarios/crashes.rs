//! Nodes that die at the worst moment, and come back, or not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::exec::{alive, run, signal};
use p2pinst_testnet::root::{add_shell, dpkg_status, expect_whole};
use p2pinst_testnet::stats::Sample;
use p2pinst_testnet::{Deb, Node, eventually};
use serde_json::Value;

use crate::harness::{LATER, SOON, cluster, deb, lacks, publish_to_all};
use crate::storage::blob_of;

const MIB: u64 = 1 << 20;

#[test]
fn eventually_a_node_that_was_down_during_publish_catches_up() {
    cluster(4, |lab| {
        let n4 = lab.node(4)?;
        n4.kill()?;
        lab.node(1)?.sees_up(3, SOON)?;
        let file = deb(lab, "missed", "1.0")?;
        publish_to_all(lab.node(1)?, &file, &["--wait"]).run()?.ok()?;
        for i in 1..=3 {
            lab.node(i)?.installs("missed", "1.0", Duration::ZERO)?;
        }
        n4.start()?;
        n4.installs("missed", "1.0", SOON)
    });
}

#[test]
fn eventually_a_node_killed_while_fetching_resumes() {
    cluster(3, |lab| {
        let [n1, n3] = [lab.node(1)?, lab.node(3)?];
        lab.network().switch()?.limit(3, "20mbit")?;
        let file = Deb::new("big", "1.0").payload(16 * MIB).build(lab.dir())?;
        let begun = Sample::of(n3.pid()?)?.received;
        n1.publish(&file, &["--group", "all", "--urgent"])?;
        let got = |node: &Node| Ok::<_, anyhow::Error>(Sample::of(node.pid()?)?.received - begun);
        eventually(LATER, "a half is fetched", || {
            ensure!(got(n3)? > 8 * MIB, "only {} bytes", got(n3)?);
            Ok(())
        })?;
        n3.kill()?;
        ensure!(dpkg_status(&n3.root(), "big").is_err(), "it was too fast for this test");
        n3.start()?;
        let before = got(n3)?;
        n3.installs("big", "1.0", LATER)?;
        let again = got(n3)?.saturating_sub(before);
        ensure!(again < 12 * MIB, "{again} bytes were fetched after the restart");
        expect_whole(&n3.root())
    });
}

/// The pieces that a node's record of a partial blob names: what was synced.
fn recorded(node: &Node, root: &str) -> Result<u64> {
    let file = node.data().join(format!("blobs/{root}.have"));
    let bytes = std::fs::read(&file).with_context(|| format!("no {}", file.display()))?;
    let bits = bytes.get(44..bytes.len() - 32).context("a record of pieces")?;
    Ok(bits.iter().map(|b| u64::from(b.count_ones())).sum())
}

#[test]
fn eventually_a_node_killed_again_and_again_fetches_nothing_twice_that_was_synced() {
    const SIZE: u64 = 24 * MIB;
    cluster(3, |lab| {
        let [n1, n3] = [lab.node(1)?, lab.node(3)?];
        lab.network().switch()?.limit(3, "20mbit")?;
        let file = Deb::new("big", "1.0").payload(SIZE).build(lab.dir())?;
        n1.publish(&file, &["--group", "all", "--urgent"])?;
        let mut lost = 0;
        for part in [SIZE / 8, SIZE / 3, SIZE / 2, SIZE * 3 / 4] {
            let blob = eventually(LATER, &format!("{part} bytes are there"), || {
                let blob = blob_of(n3, "big 1.0 all")?.context("nothing of it")?;
                ensure!(blob["have"].as_u64() > Some(part), "{blob}");
                Ok(blob)
            })?;
            ensure!(blob["state"] == "part", "it was too fast for this test: {blob}");
            n3.freeze()?;
            let root = blob["root"].as_str().context("a root")?;
            let (synced, had) = (recorded(n3, root)?, blob["have"].as_u64().context("bytes")?);
            n3.kill()?;
            n3.start()?;
            let now = blob_of(n3, "big 1.0 all")?.context("nothing is left of it")?;
            let piece = 32 << 10; // of a blob of that size; the last is shorter
            let has = now["have"].as_u64().context("bytes")?;
            ensure!(has + piece > synced * piece, "{synced} pieces, then {now}");
            lost += had.saturating_sub(synced * piece);
        }
        let before = Sample::of(n3.pid()?)?.received;
        let left =
            SIZE - blob_of(n3, "big 1.0 all")?.context("nothing")?["have"].as_u64().unwrap_or(0);
        n3.installs("big", "1.0", LATER)?;
        let came = Sample::of(n3.pid()?)?.received - before;
        ensure!(came < left + 3 * MIB, "{came} bytes came where {left} were missing");
        // what was not synced was of a moment
        ensure!(lost < 4 * 8 * MIB, "{lost} bytes were lost");
        expect_whole(&n3.root())
    });
}

/// The processes of a node's host whose name is that.
fn running(node: &Node, name: &str) -> Result<Vec<u32>> {
    let ns = node.host().namespace.clone().context("a host with a namespace")?;
    let pids = run("ip", ["netns", "pids", &ns])?;
    let is = |pid: &u32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim() == name && alive(*pid)
    };
    Ok(pids.lines().filter_map(|p| p.trim().parse().ok()).filter(is).collect())
}

/// Kills n2 while dpkg runs a script there; with dpkg or without; and starts it again.
fn killed_while_dpkg_runs(also_dpkg: bool) {
    if lacks("busybox", "busybox-static") {
        return;
    }
    cluster(2, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        add_shell(&n1.root())?;
        add_shell(&n2.root())?;
        let slow = Deb::new("slow", "1.0").script("postinst", "sleep 3; echo once >>/ran");
        n1.publish(&slow.build(lab.dir())?, &["--group", "all", "--urgent"])?;
        eventually(SOON, "dpkg runs the script on n2", || {
            running(n2, "sleep")?.first().copied().context("no script runs")
        })?;
        n2.kill()?;
        if also_dpkg {
            for name in ["dpkg", "slow.postinst", "sh", "sleep"] {
                running(n2, name)?.into_iter().try_for_each(|p| signal(p, "KILL"))?;
            }
            eventually(SOON, "dpkg is gone", || {
                ensure!(running(n2, "dpkg")?.is_empty());
                Ok(())
            })?;
            ensure!(dpkg_status(&n2.root(), "slow")?.contains("half-configured"));
        }
        n2.start()?;
        n2.installs("slow", "1.0", LATER)?;
        expect_whole(&n2.root())?;
        let id = n1.status()?.deployments.first().context("one order")?.id.clone();
        n1.sees_state(&id, "n2", "installed", SOON)?;
        let history: Value = n2.json(["history"])?;
        let entries = history["entries"].as_array().context("entries")?.len();
        ensure!(entries >= 1, "it was installed, but the history is empty");
        let runs = std::fs::read_to_string(n2.root().join("ran"))?.lines().count();
        ensure!(runs == 1, "the script got to its end {runs} times");
        Ok(())
    });
}

#[test]
fn eventually_a_node_killed_while_dpkg_runs_takes_up_what_dpkg_did() {
    killed_while_dpkg_runs(false);
}

#[test]
fn eventually_a_node_killed_with_its_dpkg_repairs_the_root() {
    killed_while_dpkg_runs(true);
}

#[test]
fn eventually_all_have_what_was_durable_when_the_publisher_died() {
    cluster(4, |lab| {
        // n4 is slow, so that it cannot have all when two others do.
        lab.network().switch()?.limit(4, "20mbit")?;
        let file = Deb::new("durable", "1.0").payload(8 * MIB).build(lab.dir())?;
        let published =
            lab.node(1)?.publish(&file, &["--group", "all", "--urgent", "--durable", "2"])?;
        lab.node(1)?.kill()?;
        ensure!(published.holders.len() >= 2, "holders: {:?}", published.holders);
        for i in 2..=4 {
            lab.node(i)?.installs("durable", "1.0", LATER)?;
        }
        Ok(())
    });
}

#[test]
fn eventually_an_order_survives_the_restart_of_its_publisher() {
    cluster(3, |lab| {
        lab.network().switch()?.limit(1, "10mbit")?;
        let file = Deb::new("returned", "1.0").payload(4 * MIB).build(lab.dir())?;
        lab.node(1)?.publish(&file, &["--group", "all", "--urgent"])?;
        lab.node(1)?.kill()?;
        lab.node(1)?.start()?;
        lab.nodes().iter().try_for_each(|n| n.installs("returned", "1.0", LATER))
    });
}

#[test]
fn eventually_a_cluster_that_lost_power_goes_on() {
    cluster(4, |lab| {
        let n1 = lab.node(1)?;
        publish_to_all(n1, &deb(lab, "before", "1.0")?, &["--wait"]).run()?.ok()?;
        for node in lab.nodes() {
            node.kill()?;
        }
        for node in lab.nodes() {
            node.start()?;
        }
        lab.meet(4)?;
        let seen = lab.node(3)?.status()?;
        let only = seen.deployments.first().context("the order is remembered")?;
        ensure!(only.count("installed") == 4, "the status is: {}", only.line());
        publish_to_all(n1, &deb(lab, "after", "1.0")?, &["--wait"]).run()?.ok()?;
        lab.nodes().iter().try_for_each(|n| n.installs("after", "1.0", SOON))
    });
}

#[test]
fn finally_a_daemon_ends_cleanly_when_asked() {
    cluster(2, |lab| {
        lab.nodes().iter().try_for_each(Node::stop)?;
        lab.nodes().iter().try_for_each(Node::start)?;
        lab.meet(2)
    });
}

#[test]
fn eventually_a_frozen_node_catches_up() {
    cluster(4, |lab| {
        lab.node(3)?.freeze()?;
        let file = deb(lab, "thawed", "1.0")?;
        lab.node(1)?.publish(&file, &["--group", "all", "--urgent"])?;
        for i in [1, 2, 4] {
            lab.node(i)?.installs("thawed", "1.0", SOON)?;
        }
        lab.node(3)?.thaw()?;
        lab.node(3)?.installs("thawed", "1.0", LATER)
    });
}
