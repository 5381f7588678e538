//! Who is a member, what it is called, and who has power: as it changes while the cluster works.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::cluster::says;
use p2pinst_testnet::root::dpkg_status;
use p2pinst_testnet::{Invite, Node, eventually};
use serde_json::{Value, json};

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all, scenario};

fn notes(node: &Node, words: &[&str]) -> Result<()> {
    eventually(SOON, &format!("{} notes {words:?}", node.name()), || {
        let log = node.log_text().to_lowercase();
        let found = log.lines().any(|l| words.iter().all(|w| l.contains(w)));
        ensure!(found, "no line of the log has {words:?}");
        Ok(())
    })
}

/// Waits until a node sees machines of exactly these names.
fn sees_names(node: &Node, names: &[&str]) -> Result<()> {
    eventually(LATER, &format!("{} sees {names:?}", node.name()), || {
        let mut seen: Vec<String> = node.roster()?.nodes.into_iter().map(|n| n.name).collect();
        seen.sort();
        ensure!(seen == names, "it sees {seen:?}");
        Ok(())
    })
}

/// Waits until a node knows a root of that version, and has it in force.
fn has_root(node: &Node, version: u64) -> Result<()> {
    eventually(LATER, &format!("{} has root v{version}", node.name()), || {
        let root: Value = node.json(["root", "show"])?;
        let seen = (root["version"].as_u64(), root["in_force"].as_u64());
        ensure!(seen == (Some(version), Some(version)), "it has {seen:?}");
        Ok(())
    })
}

#[test]
fn a_label_makes_a_member_that_gets_what_was_ordered() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        n1.ok(["group", "create", "gpu", "--select", "gpu=true"])?;
        n1.ok(["node", "label", "n2", "gpu=true"])?;
        let file = deb(lab, "cuda", "1.0")?;
        let published = n1.publish(&file, &["--group", "gpu", "--urgent", "--wait"])?;
        n2.installs("cuda", "1.0", SOON)?;
        ensure!(dpkg_status(&n3.root(), "cuda").is_err(), "n3 is no member");
        // a label later: the order is older than the member
        n1.ok(["node", "label", "n3", "gpu=true", "rack=7"])?;
        n3.installs("cuda", "1.0", SOON)?;
        n2.sees_state(&published.deployment, "n3", "installed", SOON)?;
        ensure!(n2.roster()?.named("n3")?.labels.len() == 2);
        // without it the package stays, and what comes next does not come
        n1.ok(["node", "label", "n2", "gpu-"])?;
        let file = deb(lab, "cuda", "2.0")?;
        n1.publish(&file, &["--group", "gpu", "--urgent", "--wait"])?;
        n3.installs("cuda", "2.0", SOON)?;
        n2.installs("cuda", "1.0", SOON)?;
        n2.refused(1, ["node", "label", "n1", "x=y"])?; // no operator's key there
        Ok(())
    });
}

#[test]
fn a_machine_is_renamed_and_its_old_name_given_to_another() {
    scenario(4, |lab| {
        lab.form(3, &Invite::default())?;
        let [n1, n2, n4] = [lab.node(1)?, lab.node(2)?, lab.node(4)?];
        publish_to_all(n1, &deb(lab, "before", "1.0")?, &["--wait"]).run()?.ok()?;
        n1.ok(["node", "rename", "n2", "gpu-02"])?;
        for i in 1..=3 {
            sees_names(lab.node(i)?, &["gpu-02", "n1", "n3"])?;
        }
        notes(n2, &["another name", "gpu-02"])?;
        says(&n1.refused(1, ["node", "rename", "n3", "gpu-02"])?, &["gpu-02"])?;
        // its past, also under the new name; its own idea of itself, also after a restart
        let past: Value = lab.node(3)?.json(["history", "gpu-02"])?;
        ensure!(past["entries"].as_array().is_some_and(|e| e.len() == 1), "{past}");
        n2.stop()?;
        n2.start()?;
        let own: Value = n2.json(["history"])?;
        ensure!(own["machine"] == "gpu-02", "{own}");
        // the old name is free
        let token = n1.invite(&Invite::default())?;
        let listen = n4.listen();
        n4.ok(["join", &token, "--name", "n2", "--listen", &listen])?;
        n4.prepare_root()?;
        n4.start()?;
        for i in 1..=4 {
            sees_names(lab.node(i)?, &["gpu-02", "n1", "n2", "n3"])?;
        }
        n1.sees_up(4, SOON)
    });
}

/// Two sides of a partition give one name to two machines.
#[test]
fn eventually_a_name_that_was_given_twice_belongs_to_the_first() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        n1.share_power(n3)?;
        lab.cut(3)?;
        n1.sees_up(2, LATER)?;
        n1.ok(["node", "rename", "n2", "gold"])?;
        n3.ok(["node", "rename", "n1", "gold"])?;
        sees_names(n3, &["gold", "n2", "n3"])?;
        lab.restore(3)?;
        for node in [n1, n2, n3] {
            sees_names(node, &["gold", "n1", "n3"])?;
            let gold = node.roster()?.named("gold")?.addrs.clone();
            ensure!(gold.iter().any(|a| a.contains(&n2.host().ip.to_string())), "{gold:?}");
        }
        Ok(())
    });
}

#[test]
fn r16_a_removed_machine_loses_the_others_and_stops_installing() {
    cluster(4, |lab| {
        let [n1, n2, n4] = [lab.node(1)?, lab.node(2)?, lab.node(4)?];
        publish_to_all(n1, &deb(lab, "early", "1.0")?, &["--wait"]).run()?.ok()?;
        // one hears it while it is connected, the other when it comes back
        n4.kill()?;
        n1.ok(["node", "rm", "n2", "--reason", "disk stolen"])?;
        n1.ok(["node", "rm", "n4"])?;
        for i in [1, 3] {
            sees_names(lab.node(i)?, &["n1", "n3"])?;
        }
        n4.start()?;
        for (node, reason) in [(n2, "disk stolen"), (n4, "")] {
            notes(node, &["removed from the cluster", "p2pinst leave"])?;
            let ls = node.cli(["node", "ls"]).run()?.ok()?;
            says(&ls, &["was removed from the cluster", reason, "leave"])?;
        }
        // what is ordered now is not for them, and nobody waits for them
        let published = publish_to_all(n1, &deb(lab, "late", "1.0")?, &["--wait"]).run()?.ok()?;
        ensure!(!published.stderr.contains("n2"), "{published}");
        lab.node(3)?.installs("late", "1.0", SOON)?;
        for node in [n2, n4] {
            node.sees_up(0, LATER)?;
            ensure!(dpkg_status(&node.root(), "late").is_err(), "{} has it", node.name());
        }
        // it remembers
        n4.stop()?;
        n4.start()?;
        says(&n4.cli(["node", "ls"]).run()?.ok()?, &["was removed from the cluster"])?;
        // and comes back with a new invite, under its old name
        n4.ok(["leave", "--yes"])?;
        let token = n1.invite(&Invite::default())?;
        eventually(SOON, "the daemon of n4 ends", || {
            ensure!(n4.ended()?.is_some(), "it runs");
            Ok(())
        })?;
        n4.join(&token)?;
        n4.installs("late", "1.0", LATER)?;
        sees_names(n1, &["n1", "n3", "n4"])
    });
}

#[test]
fn a_machine_leaves_and_joins_again() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        publish_to_all(n1, &deb(lab, "first", "1.0")?, &["--wait"]).run()?.ok()?;
        says(&n3.refused(2, ["leave"])?, &["--yes"])?;
        let left: Value = n3.json(["leave", "--yes", "--reason", "moves"])?;
        ensure!(left["told"] == 2 && left["ended"] == true, "{left}");
        eventually(SOON, "its daemon ends by itself", || {
            let ending = n3.ended()?.context("it runs")?;
            ensure!(ending.clean, "{}", ending.words);
            Ok(())
        })?;
        notes(n3, &["has left the cluster"])?;
        for node in [n1, n2] {
            sees_names(node, &["n1", "n2"])?;
        }
        publish_to_all(n1, &deb(lab, "second", "1.0")?, &["--wait"]).run()?.ok()?;
        // the daemon has nothing to run for; a new invite makes it a member, under the same name
        let done = n3.daemon().limit(Duration::from_secs(15)).run()?;
        says(&done, &["belongs to no cluster", "p2pinst join"])?;
        n3.join(&n1.invite(&Invite::default())?)?;
        n3.installs("second", "1.0", LATER)?;
        for node in [n1, n2] {
            sees_names(node, &["n1", "n2", "n3"])?;
        }
        n1.sees_up(3, SOON)
    });
}

#[test]
fn a_machine_that_reaches_nobody_does_not_leave_unheard() {
    cluster(2, |lab| {
        let n2 = lab.node(2)?;
        lab.cut(2)?;
        n2.sees_up(1, LATER)?;
        says(&n2.refused(3, ["leave", "--yes"])?, &["node rm n2", "--alone"])?;
        n2.ok(["leave", "--yes", "--alone"])?;
        lab.node(1)?.ok(["node", "rm", "n2"])?;
        sees_names(lab.node(1)?, &["n1"])
    });
}

#[test]
fn eventually_a_machine_that_slept_through_two_rotations_is_back() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        let early = n1.invite(&Invite::default())?;
        n3.kill()?;
        n1.ok(["root", "rotate"])?;
        n1.ok(["root", "rotate"])?;
        has_root(n1, 3)?;
        // the operator keeps its power; a machine that was off gets what is ordered now
        publish_to_all(n1, &deb(lab, "rotated", "1.0")?, &[]).run()?.ok()?;
        n2.installs("rotated", "1.0", LATER)?;
        n3.start()?;
        n3.installs("rotated", "1.0", LATER)?;
        for node in [n1, n2, n3] {
            has_root(node, 3)?;
        }
        n1.sees_up(3, SOON)?;
        // the newest root gives power, and those of before no more
        let key = n3.new_key()?;
        n1.grant(&key, n3, &["operator", "publisher"])?;
        publish_to_all(n3, &deb(lab, "granted", "1.0")?, &["--wait"]).run()?.ok()?;
        // a token of before the rotations still lets a machine in
        n3.ok(["leave", "--yes"])?;
        eventually(SOON, "the daemon of n3 ends", || {
            ensure!(n3.ended()?.is_some(), "it runs");
            Ok(())
        })?;
        n3.join(&early)?;
        n3.installs("granted", "1.0", LATER)
    });
}

#[test]
fn r12_a_revoked_operator_orders_nothing_any_more() {
    cluster(2, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        let key = n2.new_key()?;
        n1.grant(&key, n2, &["operator", "publisher"])?;
        publish_to_all(n2, &deb(lab, "good", "1.0")?, &["--wait"]).run()?.ok()?;
        let token = n2.invite(&Invite::default())?;
        let open = eventually(SOON, "n1 hears of the invite", || {
            let invites: Value = n1.json(["invite", "ls"])?;
            Ok(invites["invites"][0]["invite"].as_str().context("no invite")?.to_owned())
        })?;
        n1.ok(["revoke", &key, "--reason", "has left"])?;
        // not by trying: until then it would be obeyed
        eventually(SOON, "n2 hears of it", || {
            let keys: Value = n2.json(["key", "ls"])?;
            ensure!(keys["keys"][0]["roles"] == json!([]), "{keys}");
            Ok(())
        })?;
        let done = publish_to_all(n2, &deb(lab, "bad", "1.0")?, &[]).run()?;
        ensure!(done.code == Some(1), "{done}");
        n2.refused(1, ["invite"])?;
        n2.refused(1, ["revoke", &open])?;
        // what it did before stands, until that is revoked too
        ensure!(n1.status()?.deployments.len() == 1);
        n1.ok(["revoke", &open])?;
        let n2_again = n2.cli(["join", &token]).run()?;
        ensure!(n2_again.code == Some(1), "{n2_again}");
        let left: Value = n1.json(["invite", "ls"])?;
        ensure!(left["invites"].as_array().is_some_and(Vec::is_empty), "{left}");
        for node in [n1, n2] {
            ensure!(dpkg_status(&node.root(), "bad").is_err(), "{} has it", node.name());
        }
        Ok(())
    });
}
