//! Cables that are pulled.

use std::time::Duration;

use anyhow::{Result, ensure};
use p2pinst_testnet::{Deb, eventually};

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all};

#[test]
fn eventually_a_node_whose_cable_was_cut_catches_up() {
    cluster(4, |lab| {
        lab.cut(4)?;
        lab.node(1)?.sees_up(3, LATER)?;
        publish_to_all(lab.node(1)?, &deb(lab, "far", "1.0")?, &["--wait"]).run()?.ok()?;
        lab.restore(4)?;
        lab.node(4)?.installs("far", "1.0", LATER)
    });
}

#[test]
fn eventually_a_fetch_goes_on_after_a_pause_of_the_link() {
    cluster(3, |lab| {
        lab.network().switch()?.limit(3, "20mbit")?;
        let file = Deb::new("paused", "1.0").payload(8 << 20).build(lab.dir())?;
        let published = lab.node(1)?.publish(&file, &["--group", "all", "--urgent"])?;
        eventually(SOON, "n3 fetches", || {
            let seen = lab.node(3)?.deployment(&published.deployment)?;
            ensure!(seen.machine("n3")?.state == "fetching", "the status is: {}", seen.line());
            Ok(())
        })?;
        lab.cut(3)?;
        lab.node(2)?.installs("paused", "1.0", SOON)?;
        lab.restore(3)?;
        lab.node(3)?.installs("paused", "1.0", LATER)
    });
}

#[test]
fn anytime_node_ls_tells_within_seconds_who_is_up() {
    cluster(4, |lab| {
        let seconds = Duration::from_secs(20);
        lab.node(2)?.kill()?;
        for i in [1, 3, 4] {
            lab.node(i)?.sees_up(3, seconds)?;
            ensure!(!lab.node(i)?.roster()?.named("n2")?.up);
        }
        lab.node(2)?.start()?;
        lab.nodes().iter().try_for_each(|n| n.sees_up(4, seconds))
    });
}

#[test]
fn anytime_the_status_is_the_same_on_every_node() {
    cluster(4, |lab| {
        let file = deb(lab, "same", "1.0")?;
        let published = lab.node(1)?.publish(&file, &["--group", "all", "--urgent", "--wait"])?;
        let check = |node: &p2pinst_testnet::Node| -> Result<()> {
            eventually(SOON, &format!("{} sees four installed", node.name()), || {
                let seen = node.deployment(&published.deployment)?;
                ensure!(seen.ordered == 4 && seen.count("installed") == 4, "{}", seen.line());
                ensure!(seen.counts.get("installed") == Some(&4), "counts: {:?}", seen.counts);
                Ok(())
            })
        };
        lab.nodes().iter().try_for_each(check)
    });
}
