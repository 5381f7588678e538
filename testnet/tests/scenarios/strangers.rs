//! Whoever is no member gets a closed connection, and both sides note why.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use p2pinst_testnet::cluster::says;
use p2pinst_testnet::root::dpkg_status;
use p2pinst_testnet::{Invite, Node, eventually};

use crate::harness::{SOON, cluster, deb, publish_to_all, scenario};

fn notes(node: &Node, words: &[&str]) -> Result<()> {
    eventually(SOON, &format!("{} notes {words:?}", node.name()), || {
        let log = node.log_text().to_lowercase();
        let found = log.lines().any(|l| words.iter().all(|w| l.contains(w)));
        ensure!(found, "no line of the log has {words:?}");
        Ok(())
    })
}

/// n1 makes the cluster `lab`, n2 the cluster `other`.
pub(crate) fn two_clusters(n1: &Node, n2: &Node) -> Result<()> {
    n1.init()?;
    n2.init_as("other").run()?.ok()?;
    n2.prepare_root()?;
    n2.start()
}

#[test]
fn daemons_of_two_clusters_that_meet_part_and_both_note_why() {
    scenario(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        two_clusters(n1, n2)?;
        n3.join(&n2.invite(&Invite::default())?)?;
        n3.sees_up(2, SOON)?;
        // The address of n2 changes hands: its machine is now a member of the cluster of n1.
        n2.kill()?;
        fs::rename(n2.data(), lab.dir().join("old"))?;
        n2.join(&n1.invite(&Invite::default())?)?;
        n1.sees_up(2, SOON)?;
        // n3 looks for the old n2 there.
        notes(n3, &["refused", "another cluster"])?;
        notes(n2, &["refused", "another cluster"])?;
        n3.sees_up(1, SOON)?;
        for (node, names) in [(n1, ["n1", "n2"]), (n2, ["n1", "n2"]), (n3, ["n2", "n3"])] {
            let mut seen: Vec<_> = node.roster()?.nodes.into_iter().map(|n| n.name).collect();
            seen.sort();
            ensure!(seen == names, "the roster of {} is {seen:?}", node.name());
        }
        publish_to_all(n1, &deb(lab, "ours", "1.0")?, &["--wait"]).run()?.ok()?;
        n2.installs("ours", "1.0", SOON)?;
        ensure!(dpkg_status(&n3.root(), "ours").is_err(), "n3 got what is not for it");
        Ok(())
    });
}

#[test]
fn a_token_that_leads_to_another_cluster_lets_nobody_in_and_both_sides_tell_why() {
    scenario(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        two_clusters(n1, n2)?;
        let wrong = n2.invite(&Invite::default().with(&["--bootstrap", &n1.listen()]))?;
        says(&n3.join_with(&wrong).run()?.fails_with(1)?, &["10.77.0.1", "another cluster"])?;
        notes(n1, &["refused", "another cluster"])?;
        ensure!(n1.roster()?.nodes.len() == 1 && n2.roster()?.nodes.len() == 1);
        Ok(())
    });
}

#[test]
fn a_wrong_door_beside_a_right_one_does_no_harm() {
    scenario(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        two_clusters(n1, n2)?;
        let [wrong, right] = [n1.listen(), n2.listen()];
        let doors = Invite::default().with(&["--bootstrap", &wrong, "--bootstrap", &right]);
        n3.join(&n2.invite(&doors)?)?;
        n3.sees_up(2, SOON)?;
        notes(n1, &["refused", "another cluster"])?;
        ensure!(n1.roster()?.nodes.len() == 1, "n1 has let somebody in");
        Ok(())
    });
}

#[test]
fn noise_on_the_port_does_no_harm() {
    cluster(2, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        let target = n1.host().ip.to_string();
        for noise in ["", "GET / HTTP/1.0\\r\\n\\r\\n", "\\x13/multistream/1.0.0\\n"] {
            // Sends, and reads until the other side closes.
            let script = format!(
                "exec 3<>/dev/tcp/{target}/4001; printf '{noise}' >&3; head -c 4096 /dev/urandom \
                 >&3 2>/dev/null; timeout 20 cat <&3 >/dev/null"
            );
            let limit = Duration::from_secs(30);
            let done = n2.host().exec("bash").args(["-c", &script]).limit(limit).run()?;
            ensure!(done.code != Some(124), "the connection was not closed in 20 s: {done}");
        }
        publish_to_all(n1, &deb(lab, "unmoved", "1.0")?, &["--wait"]).run()?.ok()?;
        n2.installs("unmoved", "1.0", SOON)
    });
}
