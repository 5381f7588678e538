//! Several publishers at once.

use std::thread;

use anyhow::{Result, anyhow, ensure};
use p2pinst_testnet::cluster::says;
use p2pinst_testnet::exec::Done;
use p2pinst_testnet::{Deb, Lab};

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all};

/// Publishes one file on n1 and one on n2 at the same time.
fn both(lab: &Lab, files: [&std::path::Path; 2]) -> Result<[Done; 2]> {
    let [n1, n2] = [lab.node(1)?, lab.node(2)?];
    thread::scope(|scope| {
        let first = scope.spawn(|| publish_to_all(n1, files[0], &[]).run());
        let second = scope.spawn(|| publish_to_all(n2, files[1], &[]).run());
        let join = |t: thread::ScopedJoinHandle<'_, Result<Done>>| {
            t.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        };
        Ok([join(first)?, join(second)?])
    })
}

#[test]
fn eventually_all_have_what_two_published_at_once() {
    cluster(4, |lab| {
        lab.node(1)?.share_power(lab.node(2)?)?;
        for round in 1..=3 {
            let version = format!("1.{round}");
            let [a, b] = [deb(lab, "left", &version)?, deb(lab, "right", &version)?];
            for done in both(lab, [&a, &b])? {
                done.ok()?;
            }
            for node in lab.nodes() {
                node.installs("left", &version, SOON)?;
                node.installs("right", &version, SOON)?;
            }
        }
        Ok(())
    });
}

#[test]
fn eventually_all_have_the_higher_of_two_versions_published_at_once() {
    cluster(4, |lab| {
        lab.node(1)?.share_power(lab.node(2)?)?;
        for round in 1..=3 {
            let build =
                |version: &str| Deb::new("raced", version).payload(1 << 20).build(lab.dir());
            let (low, high) = (format!("{round}.0"), format!("{round}.9"));
            let [older, newer] = both(lab, [&build(&low)?, &build(&high)?])?;
            newer.ok()?;
            if older.code != Some(0) {
                // It came second, and was told so.
                says(&older.fails_with(1)?, &["--allow-downgrade"])?;
            }
            for node in lab.nodes() {
                node.installs("raced", &high, SOON)?;
            }
        }
        Ok(())
    });
}

#[test]
fn eventually_two_sides_of_a_split_agree_on_the_higher_version() {
    cluster(4, |lab| {
        lab.node(1)?.share_power(lab.node(3)?)?;
        let switch = lab.network().switch()?;
        switch.split(&[3, 4])?;
        lab.node(1)?.sees_up(2, LATER)?;
        lab.node(3)?.sees_up(2, LATER)?;
        let [low, high] = [deb(lab, "split", "1.0")?, deb(lab, "split", "2.0")?];
        publish_to_all(lab.node(1)?, &high, &["--wait"]).run()?.ok()?;
        publish_to_all(lab.node(3)?, &low, &["--wait"]).run()?.ok()?;
        lab.node(2)?.installs("split", "2.0", SOON)?;
        lab.node(4)?.installs("split", "1.0", SOON)?;
        switch.join(&[3, 4])?;
        for node in lab.nodes() {
            node.installs("split", "2.0", LATER)?;
        }
        lab.meet(4)?;
        for node in lab.nodes() {
            let count = node.status()?.deployments.len();
            ensure!(count == 2, "{} knows {count} orders", node.name());
        }
        Ok(())
    });
}
