//! Copied disks and restored snapshots: accidents of honest people.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use p2pinst_api::request::Info;
use p2pinst_api::view::NodeInfo;
use p2pinst_api::{Client, DataDir};
use p2pinst_testnet::cluster::says;
use p2pinst_testnet::exec::run;
use p2pinst_testnet::{Lab, Node, eventually};
use serde_json::Value;

use crate::clocks::{library, set_wrong};
use crate::harness::{LATER, SOON, deb, publish_to_all, scenario, skipped};

fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn info(node: &Node) -> Result<NodeInfo> {
    wait(async { Ok(Client::connect(&DataDir::new(node.data())).await?.call(Info {}).await?) })
}

/// Copies a directory as it is.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    run("cp", ["-a".as_ref(), from.as_os_str(), to.as_os_str()]).map(drop)
}

/// Copies the data directory of a node that is stopped for that, as a crash would leave it.
fn snapshot(lab: &Lab, node: &Node) -> Result<PathBuf> {
    let copied = lab.dir().join(format!("snapshot-of-{}", node.name()));
    node.kill()?;
    copy(&node.data(), &copied)?;
    node.start()?;
    Ok(copied)
}

/// Puts the copy of `of` on the disk of another host, which listens on its own address.
fn put_copy(copied: &Path, of: &Node, on: &Node) -> Result<()> {
    copy(copied, &on.data())?;
    let config = on.data().join("config.toml");
    let text = fs::read_to_string(&config)?.replace(&of.listen(), &on.listen());
    fs::write(&config, text)?;
    on.prepare_root()
}

/// Nobody has signed two records of one number.
fn nobody_is_two(lab: &Lab) -> Result<()> {
    for node in lab.nodes().iter().filter(|n| n.log().exists()) {
        let log = node.log_text();
        let proof = log.lines().find(|l| l.contains("has signed two records"));
        ensure!(proof.is_none(), "{} says {}", node.name(), proof.unwrap_or_default());
    }
    Ok(())
}

/// The packages of a node's history, oldest first, as another node reads it.
fn history(from: &Node, of: &Node) -> Result<Vec<String>> {
    let history: Value = from.json(["history", of.name()])?;
    let entries = history["entries"].as_array().context("entries")?;
    let package = |e: &Value| e["package"]["name"].as_str().map(str::to_owned);
    entries.iter().map(|e| package(e).context("a package")).collect()
}

fn has_history(from: &Node, of: &Node, wanted: &[&str]) -> Result<()> {
    let what = format!("{} reads that history of {}", from.name(), of.name());
    eventually(SOON, &what, || {
        let found = history(from, of)?;
        ensure!(found == wanted, "it is {found:?}");
        Ok(())
    })
}

#[test]
fn eventually_a_cloned_disk_is_refused_and_both_machines_are_named() {
    scenario(4, |lab| {
        lab.form(3, &p2pinst_testnet::Invite::default())?;
        let [n1, n2, n4] = [lab.node(1)?, lab.node(2)?, lab.node(4)?];
        let copied = snapshot(lab, n2)?;
        lab.meet(3)?;
        put_copy(&copied, n2, n4)?;
        n4.start()?;
        eventually(SOON, "n1 names both", || {
            let nodes: Value = n1.json(["node", "ls"])?;
            let nodes = nodes["nodes"].as_array().context("nodes")?;
            let n2 = nodes.iter().find(|n| n["name"] == "n2").context("n2")?;
            ensure!(n2["up"] == true, "n2 is not up");
            let at = |which: &str| n2["cloned"][which].to_string();
            ensure!(at("first").contains("10.77.0.2/"), "first: {}", at("first"));
            ensure!(at("second").contains("10.77.0.4/"), "second: {}", at("second"));
            Ok(())
        })?;
        let log = n1.log_text();
        let line =
            log.lines().find(|l| l.contains("two machines use one key")).context("a line")?;
        ensure!(line.contains("10.77.0.2/") && line.contains("10.77.0.4/"), "{line}");
        says(&n1.cli(["node", "ls"]).run()?.ok()?, &["10.77.0.4", "refused", "hint"])?;
        // The copy knows what happened, and what to do.
        let refused = eventually(SOON, "the copy knows", || {
            info(n4)?.refused.context("it does not say that it is refused")
        })?;
        ensure!(refused.reason.contains("another machine"), "{}", refused.reason);
        ensure!(refused.advice.contains("invite --replace"), "{}", refused.advice);
        ensure!(n4.log_text().contains("the cluster refuses this node"));
        says(&n4.cli(["node", "ls"]).run()?.ok()?, &["refuses this node", "p2pinst join"])?;
        // The first goes on working.
        publish_to_all(n1, &deb(lab, "onward", "1.0")?, &["--wait"]).run()?.ok()?;
        for i in 1..=3 {
            lab.node(i)?.installs("onward", "1.0", SOON)?;
            lab.node(i)?.sees_up(3, SOON)?;
        }
        nobody_is_two(lab)
    });
}

#[test]
fn eventually_a_life_that_does_not_answer_gives_way_to_the_next() {
    scenario(4, |lab| {
        lab.form(3, &p2pinst_testnet::Invite::default())?;
        let [n1, n2, n4] = [lab.node(1)?, lab.node(2)?, lab.node(4)?];
        let copied = snapshot(lab, n2)?;
        lab.meet(3)?;
        // It hangs, and its connections are still open: so does power loss look to the others.
        n2.freeze()?;
        put_copy(&copied, n2, n4)?;
        n4.start()?;
        n4.sees_up(3, SOON)?;
        ensure!(n1.log_text().contains("a node has started anew"), "n1 has not noticed");
        publish_to_all(n1, &deb(lab, "moved", "1.0")?, &["--wait"]).run()?.ok()?;
        n4.installs("moved", "1.0", SOON)?;
        // Now the first is the later one.
        n2.thaw()?;
        eventually(LATER, "the one that hung knows", || {
            info(n2)?.refused.context("it does not say that it is refused")
        })?;
        n4.sees_up(3, SOON)?;
        nobody_is_two(lab)
    });
}

/// `ahead`: after the copy was made, the node's clock was wrong by this for a while, so that the
/// lives which it has forgotten are later than the one that it begins.
fn put_back(ahead: Option<&str>) {
    if ahead.is_some() && library().is_none() {
        return skipped("`faketime` is missing: apt-get install faketime");
    }
    scenario(4, |lab| {
        lab.form(4, &p2pinst_testnet::Invite::default())?;
        let [n1, n3] = [lab.node(1)?, lab.node(3)?];
        publish_to_all(n1, &deb(lab, "one", "1.0")?, &["--wait"]).run()?.ok()?;
        let copied = snapshot(lab, n3)?;
        if let Some(ahead) = ahead {
            n3.kill()?;
            set_wrong(n3, ahead)?;
            n3.start()?;
        }
        lab.meet(4)?;
        for name in ["two", "three"] {
            publish_to_all(n1, &deb(lab, name, "1.0")?, &["--wait"]).run()?.ok()?;
        }
        has_history(n1, n3, &["one", "two", "three"])?;
        n3.kill()?;
        copy(&copied, &n3.data())?;
        if ahead.is_some() {
            set_wrong(n3, "+0")?;
        }
        n3.start()?;
        lab.meet(4)?;
        publish_to_all(n1, &deb(lab, "four", "1.0")?, &["--wait"]).run()?.ok()?;
        for reader in [n1, n3, lab.node(4)?] {
            has_history(reader, n3, &["one", "two", "three", "four"])?;
        }
        ensure!(n3.log_text().contains("the cluster knows more of this machine"));
        // What it had done is still told as it was.
        for deployment in n1.status()?.deployments {
            ensure!(deployment.count("installed") == 4, "{}", deployment.line());
        }
        let later = n3.log_text().contains("the node begins a new life");
        ensure!(later == ahead.is_some(), "a life after the forgotten ones was begun: {later}");
        nobody_is_two(lab)
    });
}

#[test]
fn eventually_a_node_whose_data_was_put_back_goes_on_from_what_the_cluster_knows() {
    put_back(None);
}

#[test]
fn eventually_a_node_whose_data_was_put_back_does_so_after_its_clock_was_ahead() {
    put_back(Some("+1h"));
}

#[test]
fn eventually_an_administrator_whose_disk_was_put_back_publishes_on() {
    scenario(3, |lab| {
        lab.form(3, &p2pinst_testnet::Invite::default())?;
        let n1 = lab.node(1)?;
        publish_to_all(n1, &deb(lab, "one", "1.0")?, &["--wait"]).run()?.ok()?;
        let copied = snapshot(lab, n1)?;
        lab.meet(3)?;
        publish_to_all(n1, &deb(lab, "two", "1.0")?, &["--wait"]).run()?.ok()?;
        n1.kill()?;
        copy(&copied, &n1.data())?;
        // At once, before it is connected with anybody.
        n1.start_daemon()?;
        let published = eventually(SOON, "it can be asked to publish", || {
            n1.publish(&deb(lab, "three", "1.0")?, &["--group", "all", "--urgent"])
        })?;
        for node in lab.nodes() {
            node.installs("three", "1.0", SOON)?;
        }
        let status = lab.node(2)?.status()?;
        let mut names: Vec<&str> = status.deployments.iter().map(|d| d.name.as_str()).collect();
        names.sort_unstable();
        ensure!(names == ["admin-1", "admin-2", "admin-3"], "the orders are {names:?}");
        ensure!(status.deployment(&published.deployment)?.name == "admin-3");
        // And it may still invite and group: nobody is suspended.
        n1.ok(["group", "create", "some", "--hosts", "n2"])?;
        nobody_is_two(lab)
    });
}

#[test]
fn eventually_a_machine_that_lost_its_disk_gets_its_place_and_its_packages_again() {
    scenario(5, |lab| {
        lab.form(4, &p2pinst_testnet::Invite::default())?;
        let [n1, n3, n5] = [lab.node(1)?, lab.node(3)?, lab.node(5)?];
        for name in ["one", "two"] {
            publish_to_all(n1, &deb(lab, name, "1.0")?, &["--wait"]).run()?.ok()?;
        }
        let id = |node: &Node| -> Result<String> {
            let shown: Value = node.json(["node", "show", "n3"])?;
            Ok(shown["machine"].as_str().context("a machine")?.to_owned())
        };
        let machine = id(n1)?;
        let old = lab.dir().join("the-lost-disk");
        n3.kill()?;
        copy(&n3.data(), &old)?;
        for gone in [n3.data(), n3.root()] {
            fs::remove_dir_all(&gone).with_context(|| format!("remove {}", gone.display()))?;
        }
        // Nobody else takes its place, and the token says whose it is.
        let token = n1.ok(["invite", "--replace", "n3"])?.trim().to_owned();
        let listen = n3.listen();
        let other = n3.cli(["join", &token, "--name", "n7", "--listen", &listen]).run()?;
        says(&other.fails_with(2)?, &["place of n3"])?;
        let joined = n3.cli(["join", &token, "--listen", &listen]).run()?.ok()?;
        says(&joined, &["as n3"])?;
        n3.prepare_root()?;
        n3.start()?;
        lab.meet(4)?;
        for node in [n1, n3] {
            ensure!(id(node)? == machine, "it is another machine");
        }
        for name in ["one", "two"] {
            n3.installs(name, "1.0", SOON)?;
        }
        eventually(SOON, "the history goes on", || {
            let mut all = history(n1, n3)?;
            ensure!(all.len() == 4, "it is {all:?}");
            ensure!(all[..2] == ["one", "two"], "it begins with {all:?}");
            all.sort_unstable();
            ensure!(all == ["one", "one", "two", "two"], "it is {all:?}");
            Ok(())
        })?;
        for deployment in n1.status()?.deployments {
            n1.sees_state(&deployment.id, "n3", "installed", SOON)?;
        }
        // A second machine has no use for the token, and the old key none for anything.
        let again = n5.cli(["join", &token, "--listen", &n5.listen()]).run()?;
        again.fails_with(1)?;
        fs::remove_dir_all(n5.data()).ok();
        put_copy(&old, n3, n5)?;
        n5.start()?;
        let refused = eventually(SOON, "the old key is refused", || {
            info(n5)?.refused.context("it does not say that it is refused")
        })?;
        ensure!(refused.reason.contains("revoked"), "{}", refused.reason);
        lab.meet(4)?;
        nobody_is_two(lab)
    });
}
