//! Cables that crawl, and cables that are pulled for a while.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use p2pinst_testnet::net::{Sites, Wan};
use p2pinst_testnet::{Invite, LabOptions, eventually};
use serde_json::Value;

use super::{MIB, Swarm, received};
use crate::harness::{LATER, cluster, scenario_in};

#[test]
fn eventually_all_others_finish_while_one_crawls() {
    cluster(4, |lab| {
        let swarm = Swarm::new(lab, "brisk", 16 * MIB)?;
        swarm.rate(&[1, 2, 3], "20mbit")?;
        // the publisher gives it pieces that nobody else has
        swarm.rate(&[4], "200kbit")?;
        swarm.publish()?;
        swarm.arrives(&[2, 3])?;
        let has = swarm.percent(4)?;
        ensure!(has < 50, "n4 has {has} % by now: it did not crawl");
        swarm.rate(&[4], "100mbit")?;
        swarm.arrives(&[4])
    });
}

#[test]
fn eventually_what_is_asked_of_a_source_that_crawls_comes_from_others() {
    cluster(4, |lab| {
        let swarm = Swarm::new(lab, "stolen", 12 * MIB)?;
        let n1 = lab.node(1)?;
        n1.ok(["group", "create", "second", "--hosts", "n2"])?;
        n1.publish(&swarm.file, &["--group", "second", "--urgent", "--wait"])?;
        // n2 has all of it, and says so
        swarm.rate(&[1, 3, 4], "20mbit")?;
        swarm.rate(&[2], "200kbit")?;
        swarm.publish()?;
        swarm.arrives(&[3, 4])
    });
}

#[test]
fn eventually_a_node_whose_cable_was_out_halfway_goes_on_where_it_was() {
    cluster(4, |lab| {
        let swarm = Swarm::new(lab, "torn", 16 * MIB)?;
        swarm.rate(&[1, 2, 3, 4], "20mbit")?;
        swarm.publish()?;
        swarm.halfway(4, 40)?;
        lab.cut(4)?;
        // long enough that all others take it for dead, and it takes them
        lab.node(1)?.sees_up(3, LATER)?;
        lab.node(4)?.sees_up(1, LATER)?;
        swarm.arrives(&[2, 3])?;
        let (missing, then) = (swarm.missing(4)?, received(lab.node(4)?)?);
        lab.restore(4)?;
        swarm.arrives(&[4])?;
        let came = received(lab.node(4)?)? - then;
        let most = missing + missing / 4 + MIB;
        ensure!(came <= most, "n4 missed {missing} bytes, and {came} came");
        Ok(())
    });
}

#[test]
fn eventually_a_half_that_was_cut_off_halfway_has_all() {
    cluster(6, |lab| {
        let swarm = Swarm::new(lab, "islands", 16 * MIB)?;
        swarm.rate(&[1, 2, 3, 4, 5, 6], "20mbit")?;
        swarm.publish()?;
        swarm.halfway(4, 20)?;
        lab.network().switch()?.split(&[4, 5, 6])?;
        swarm.arrives(&[1, 2, 3])?;
        [1, 4].iter().try_for_each(|n| lab.node(*n)?.sees_up(3, LATER))?;
        let whole: Vec<usize> = [4, 5, 6].into_iter().filter(|n| whole(&swarm, *n)).collect();
        ensure!(whole.is_empty(), "{whole:?} were too fast for this test");
        lab.network().switch()?.join(&[4, 5, 6])?;
        swarm.arrives(&[4, 5, 6])
    });
}

#[test]
fn eventually_a_site_that_was_cut_off_halfway_has_all() {
    let wan = Wan { rate: Some("20mbit".to_owned()), delay: Duration::from_millis(10) };
    let sites = Some(Sites { count: 2, wan });
    let options = LabOptions::hosts(6).rate(Some("100mbit".to_owned())).sites(sites);
    scenario_in(&options, |lab| {
        lab.form(6, &Invite::default())?;
        let swarm = Swarm::new(lab, "province", 16 * MIB)?;
        let deployment = swarm.publish()?;
        swarm.halfway(5, 20)?;
        let switch = lab.network().switch()?;
        switch.cut_site(2)?;
        swarm.arrives(&[2, 3])?;
        [1, 5].iter().try_for_each(|n| lab.node(*n)?.sees_up(3, LATER))?;
        let whole: Vec<usize> = [4, 5, 6].into_iter().filter(|n| whole(&swarm, *n)).collect();
        ensure!(whole.is_empty(), "{whole:?} were too fast for this test");
        switch.restore_site(2)?;
        swarm.arrives(&[4, 5, 6])?;
        eventually(LATER, "little has come twice", || {
            let seen: Value = lab.node(1)?.json(["status", deployment.as_str()])?;
            let site = &seen["deployments"][0]["transfer"]["sites"][0];
            let copies = site["copies"].as_f64().context("no copies")?;
            ensure!(site["machines"] == 3 && (0.9..=1.5).contains(&copies), "{site}");
            Ok(())
        })
    });
}

fn whole(swarm: &Swarm<'_>, node: usize) -> bool {
    swarm.percent(node).is_ok_and(|p| p == 100)
}
