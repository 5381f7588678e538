//! Who is up: known to all within seconds, without anybody talking to all.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::cluster::at_once;
use p2pinst_testnet::node::PORT;
use p2pinst_testnet::{Invite, Lab, Node, eventually};

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all, scenario};

/// Waits until all of these see a machine so; returns how long it took.
fn all_see(nodes: &[&Node], name: &str, up: bool, within: Duration) -> Result<Duration> {
    let start = Instant::now();
    for node in nodes {
        eventually(within, &format!("{} sees that {name} is up: {up}", node.name()), || {
            let seen = node.roster()?.named(name)?.clone();
            ensure!(seen.up == up, "it is {} ({:?})", seen.state, seen.seen_by);
            Ok(())
        })?;
    }
    let took = start.elapsed();
    println!("{name} up {up}: known to {} nodes in {took:?}", nodes.len());
    Ok(took)
}

#[test]
fn anytime_a_killed_a_stopped_and_a_cut_off_node_are_known_within_seconds() {
    cluster(5, |lab| {
        let all: Vec<&Node> = lab.nodes().iter().collect();
        let others =
            |but: &str| -> Vec<&Node> { all.iter().copied().filter(|n| n.name() != but).collect() };
        // The goal is 5 s on a machine of one's own; here it is shared with who knows whom.
        lab.node(2)?.kill()?;
        all_see(&others("n2"), "n2", false, Duration::from_secs(10))?;
        lab.node(2)?.start()?;
        all_see(&all, "n2", true, SOON)?;

        lab.node(3)?.stop()?;
        all_see(&others("n3"), "n3", false, Duration::from_secs(3))?;
        ensure!(lab.node(1)?.roster()?.named("n3")?.state == "down");
        lab.node(3)?.start()?;
        all_see(&all, "n3", true, SOON)?;

        lab.cut(4)?;
        all_see(&others("n4"), "n4", false, Duration::from_secs(15))?;
        lab.restore(4)?;
        all_see(&all, "n4", true, SOON)?;
        lab.nodes().iter().try_for_each(|n| n.sees_up(5, SOON))
    });
}

#[test]
fn eventually_an_isolated_node_says_so_and_says_when_it_is_back() {
    cluster(3, |lab| {
        let n3 = lab.node(3)?;
        let says = |text: &str| {
            eventually(SOON, &format!("n3 says: {text}"), || {
                let log = n3.log_text();
                let times = log.lines().filter(|l| l.contains(text)).count();
                ensure!(times == 1, "it says it {times} times");
                Ok(())
            })
        };
        lab.cut(3)?;
        says("this node is isolated")?;
        let listed = n3.cli(["node", "ls"]).run()?.ok()?;
        ensure!(listed.stderr.contains("reaches no other"), "{}", listed.stderr);
        ensure!(n3.roster()?.up() == 1, "it does not guess");
        lab.restore(3)?;
        says("no longer isolated")?;
        n3.sees_up(3, SOON)?;
        let listed = n3.cli(["node", "ls"]).run()?.ok()?;
        ensure!(!listed.stderr.contains("reaches no other"), "{}", listed.stderr);
        says("this node is isolated")
    });
}

#[test]
fn eventually_a_member_with_another_address_is_found() {
    cluster(4, |lab| {
        let n4 = lab.node(4)?;
        n4.stop()?;
        lab.node(1)?.sees_up(3, SOON)?;
        // another port is another address
        let (before, after) = (n4.listen(), format!("/ip4/{}/tcp/{}", n4.host().ip, PORT + 77));
        let file = n4.data().join("config.toml");
        let config = std::fs::read_to_string(&file)?;
        ensure!(config.contains(&before), "{config}");
        std::fs::write(&file, config.replace(&before, &after))?;
        n4.start()?;
        lab.meet(4)?;
        // one that was away meanwhile knows only the old address
        lab.node(1)?.kill()?;
        lab.node(1)?.start()?;
        lab.meet(4)?;
        for node in lab.nodes() {
            eventually(SOON, "the new address is shown", || {
                let addrs = node.roster()?.named("n4")?.addrs.clone();
                ensure!(addrs == [after.clone()], "{addrs:?}");
                Ok(())
            })?;
        }
        publish_to_all(lab.node(1)?, &deb(lab, "moved", "1.0")?, &["--wait"]).run()?.ok()?;
        n4.installs("moved", "1.0", Duration::ZERO)
    });
}

/// A cluster whose nodes keep few connections each, and close others soon.
fn sparse(lab: &Lab, count: usize, connections: usize) -> Result<()> {
    let setting = format!("connections = {connections}\nunused_secs = 5\n");
    let restart = |node: &Node| -> Result<()> {
        node.stop()?;
        let file = node.data().join("config.toml");
        let config = std::fs::read_to_string(&file).context("its configuration")?;
        let is_set = |l: &&str| l.starts_with("connections") || l.starts_with("unused_secs");
        let lines = config.lines().filter(|l| !is_set(l));
        std::fs::write(&file, setting.clone() + &lines.collect::<Vec<_>>().join("\n"))?;
        node.start()
    };
    lab.form(count, &Invite::default())?;
    at_once(lab.nodes(), restart)?;
    lab.nodes().iter().try_for_each(|n| n.sees_up(count, LATER))
}

#[test]
fn eventually_in_a_cluster_larger_than_the_connections_all_know_all() {
    scenario(12, |lab| {
        sparse(lab, 12, 4)?;
        let peers = |node: &Node| -> Result<usize> {
            // the fourth column is the state; 01: a connection is open
            let table = node.exec("cat").args(["/proc/net/tcp"]).run()?.ok()?.stdout;
            Ok(table.lines().filter(|l| l.split_whitespace().nth(3) == Some("01")).count())
        };
        publish_to_all(lab.node(1)?, &deb(lab, "far", "1.0")?, &["--wait"]).run()?.ok()?;
        for node in lab.nodes() {
            node.installs("far", "1.0", Duration::ZERO)?;
        }
        lab.node(5)?.kill()?;
        let others: Vec<&Node> = lab.nodes().iter().filter(|n| n.name() != "n5").collect();
        all_see(&others, "n5", false, Duration::from_secs(30))?;
        let heard = |n: &&Node| Ok(n.roster()?.named("n5")?.seen_by.is_some());
        let heard: Result<Vec<bool>> = others.iter().map(heard).collect();
        ensure!(heard?.contains(&true), "nobody heard of it through another");
        lab.node(5)?.start()?;
        lab.nodes().iter().try_for_each(|n| n.sees_up(12, LATER))?;
        // what was connected for a purpose is closed again
        eventually(LATER, "connections that nobody needs are closed", || {
            let counts = lab.nodes().iter().map(peers).collect::<Result<Vec<usize>>>()?;
            ensure!(counts.iter().sum::<usize>() <= 12 * 6, "{counts:?}");
            Ok(())
        })?;
        lab.nodes().iter().try_for_each(|n| n.sees_up(12, Duration::ZERO))
    });
}
