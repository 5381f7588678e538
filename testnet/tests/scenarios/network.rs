//! Cables that are pulled.

use std::env;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use p2pinst_testnet::cluster::at_once;
use p2pinst_testnet::node::PORT;
use p2pinst_testnet::{Deb, Invite, Node, eventually};

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all, scenario};

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
        let check = |node: &Node| -> Result<()> {
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

/// Not a test: a program that has nothing to do with p2pinst, on its port of another address.
#[test]
#[ignore = "the process that another test starts on its hosts"]
fn helper_squatter() {
    let listener = TcpListener::bind(("127.0.0.1", PORT)).expect("a free port");
    listener.incoming().for_each(drop);
}

#[test]
fn anytime_a_program_on_the_same_port_of_another_address_is_in_nobodys_way() {
    scenario(3, |lab| {
        let squat = ["--exact", "network::helper_squatter", "--ignored"];
        let start = |n: &Node| n.exec(env::current_exe()?).args(squat).start();
        let squatters = at_once(lab.nodes(), start)?;
        for node in lab.nodes() {
            let try_it = format!("exec 3<>/dev/tcp/127.0.0.1/{PORT}");
            eventually(SOON, "the port is taken", || {
                node.exec("bash").args(["-c", &try_it]).run()?.ok().map(drop)
            })?;
        }
        lab.form(3, &Invite::default())?;
        publish_to_all(lab.node(1)?, &deb(lab, "undisturbed", "1.0")?, &["--wait"]).run()?.ok()?;
        drop(squatters);
        Ok(())
    });
}
