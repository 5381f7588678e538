//! The main job: from nothing to a package on every member.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::cluster::says;
use p2pinst_testnet::exec::Done;
use p2pinst_testnet::root::{dpkg_status, expect_installed};
use p2pinst_testnet::view::Status;
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Deb, Invite, Lab, Node};
use serde_json::Value;

use crate::harness::{SOON, cluster, deb, publish_to_all, scenario};

/// Runs a line of a shell on a host, in the lab's directory.
fn shell(lab: &Lab, host: usize, line: &str) -> Result<Done> {
    let bins = p2pinst_testnet::bins::Bins::find()?;
    let path = format!("{}:{}", bins.dir.display(), std::env::var("PATH")?);
    let line = format!("cd {} && {line}", lab.dir().display());
    lab.node(host)?.exec("sh").args(["-c", &line]).env("PATH", path).run()?.ok()
}

#[test]
fn the_sequence_works_as_written() {
    scenario(2, |lab| {
        let hello = Deb::new("hello", "1.0").build(lab.dir())?;
        fs::rename(hello, lab.dir().join("hello.deb"))?;
        shell(lab, 1, "p2pinst root prepare r1")?;
        shell(lab, 2, "p2pinst root prepare r2")?;

        // Nothing waits between these lines: a script would not.
        shell(
            lab,
            1,
            "p2pinst --data-dir d1 init --name lab --node-name n1 --listen /ip4/10.77.0.1/tcp/4001",
        )?;
        shell(lab, 1, "p2pinstd --data-dir d1 --root r1 >logs/n1.log 2>&1 &")?;
        let token = shell(lab, 1, "p2pinst --data-dir d1 invite --label gpu=true")?.stdout;
        ensure!(token.lines().count() == 1, "stdout of invite is `{token}`");
        let token = token.trim();
        shell(
            lab,
            2,
            &format!(
                "p2pinst --data-dir d2 join {token} --name n2 --listen /ip4/10.77.0.2/tcp/4001"
            ),
        )?;
        shell(lab, 2, "p2pinstd --data-dir d2 --root r2 >logs/n2.log 2>&1 &")?;
        shell(lab, 1, "p2pinst --data-dir d1 group create gpu --select 'gpu=true'")?;
        shell(lab, 1, "p2pinst --data-dir d1 publish hello.deb --group gpu --urgent --wait")?;
        let status: Status = shell(lab, 2, "p2pinst --data-dir d2 status --json")?.json()?;

        expect_installed(&lab.dir().join("r2"), "hello", "1.0")?;
        ensure!(dpkg_status(&lab.dir().join("r1"), "hello").is_err(), "n1 is not of the group");
        let only = status.deployments.first().context("one deployment")?;
        ensure!(only.ordered == 1 && only.count("installed") == 1, "status: {}", only.line());
        ensure!(only.package.name == "hello" && only.group == "gpu" && only.mode == "urgent");
        Ok(())
    });
}

#[test]
fn a_token_may_come_as_argument_file_or_on_stdin() {
    scenario(4, |lab| {
        let [n1, n2, n3, n4] = [lab.node(1)?, lab.node(2)?, lab.node(3)?, lab.node(4)?];
        n1.init()?;
        let token = n1.invite(&Invite::default().uses(3))?;
        n2.join_with(&token).run()?.ok()?;
        let file = lab.dir().join("token");
        fs::write(&file, format!("{token}\n"))?;
        let listen = [n3.listen(), n4.listen()];
        let rest = |name: &str, i: usize| {
            ["--name".to_owned(), name.to_owned(), "--listen".to_owned(), listen[i].clone()]
        };
        n3.cli(["join", "--token-file"]).arg(&file).args(rest("n3", 0)).run()?.ok()?;
        n4.cli(["join"]).args(rest("n4", 1)).stdin(token).run()?.ok()?;
        ensure!(n1.roster()?.nodes.len() == 4);
        Ok(())
    });
}

#[test]
fn a_group_by_hosts_and_a_group_by_label_get_what_is_theirs() {
    scenario(5, |lab| {
        let nodes = lab.nodes();
        nodes[0].init()?;
        let gpu = nodes[0].invite(&Invite::label("gpu=true").uses(2))?;
        let plain = nodes[0].invite(&Invite::default().uses(2))?;
        for (node, token) in nodes[1..].iter().zip([&gpu, &gpu, &plain, &plain]) {
            node.join(token)?;
        }
        lab.meet(5)?;
        nodes[3].ok(["group", "ls"])?;
        nodes[0].ok(["group", "create", "gpu", "--select", "gpu=true"])?;
        nodes[0].ok(["group", "create", "tail", "--hosts", "n[4-5]"])?;
        let [a, b] = [deb(lab, "for-gpu", "1.0")?, deb(lab, "for-tail", "1.0")?];
        nodes[0].publish(&a, &["--group", "gpu", "--urgent", "--wait"])?;
        nodes[0].publish(&b, &["--group", "tail", "--urgent", "--wait"])?;
        for (i, node) in nodes.iter().enumerate() {
            let has = |name| dpkg_status(&node.root(), name).is_ok();
            ensure!(has("for-gpu") == [1, 2].contains(&i), "for-gpu on {}", node.name());
            ensure!(has("for-tail") == [3, 4].contains(&i), "for-tail on {}", node.name());
        }
        Ok(())
    });
}

#[test]
fn a_machine_that_joins_late_gets_the_newest_from_its_peers() {
    scenario(4, |lab| {
        let [n1, n2, n4] = [lab.node(1)?, lab.node(2)?, lab.node(4)?];
        n1.init()?;
        let token = n1.invite(&Invite::label("gpu=true").uses(2))?;
        n2.join(&token)?;
        lab.node(3)?.join(&token)?;
        lab.meet(3)?;
        // A token names the members that its maker has met.
        let late = n1.invite(&Invite::label("gpu=true"))?;
        n1.ok(["group", "create", "gpu", "--select", "gpu=true"])?;
        let mut newest = String::new();
        for version in ["1.0", "1.1"] {
            let file = Deb::new("late", version).payload(2 << 20).build(lab.dir())?;
            newest = n1.publish(&file, &["--group", "gpu", "--urgent", "--wait"])?.deployment;
        }
        n1.kill()?;
        n4.join(&late)?;
        n4.installs("late", "1.1", SOON)?;
        // From now on the history has it, too.
        n4.sees_state(&newest, "n4", "installed", SOON)?;
        let history: Value = n4.json(["history"])?;
        let entries = history["entries"].as_array().context("entries")?.len();
        ensure!(entries == 1, "what was superseded is skipped, but: {history}");
        Ok(())
    });
}

#[test]
fn history_tells_what_was_done_on_every_node() {
    cluster(3, |lab| {
        for version in ["1.0", "1.1"] {
            publish_to_all(lab.node(1)?, &deb(lab, "told", version)?, &["--wait"]).run()?.ok()?;
        }
        for node in lab.nodes() {
            let history: Value = node.json(["history", "n2"])?;
            let entries = history["entries"].as_array().context("entries")?;
            ensure!(entries.len() == 2, "{} tells {history}", node.name());
            ensure!(entries[0]["action"] == "install", "{history}");
            ensure!(entries[1]["action"] == "upgrade", "{history}");
            ensure!(entries[1]["old_version"] == "1.0", "{history}");
        }
        Ok(())
    });
}

/// Restarts a node with another idea of how much load of others is quiet, in percent.
pub(crate) fn quiet_below(node: &Node, percent: &str) -> Result<()> {
    node.stop()?;
    let file = node.data().join("config.toml");
    let text = fs::read_to_string(&file)?;
    let wanted = [("cpu_percent", percent), ("interval_secs", "1"), ("sample_secs", "1")];
    let mut found = 0;
    let lines = text.lines().map(|line| {
        let key = line.split('=').next().unwrap_or_default().trim();
        match wanted.iter().find(|(k, _)| *k == key) {
            Some((_, value)) => {
                found += 1;
                format!("{key} = {value}\n")
            }
            None => format!("{line}\n"),
        }
    });
    let text: String = lines.collect();
    ensure!(found == wanted.len(), "{} has other keys:\n{text}", file.display());
    fs::write(&file, text)?;
    node.start()
}

#[test]
fn an_order_without_urgent_is_done_when_the_node_is_idle() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        // Other tests may keep the processors busy: n2 calls that quiet, n3 nothing.
        quiet_below(n2, "101.0")?;
        quiet_below(n3, "0.0")?;
        lab.meet(3)?;
        let file = deb(lab, "patient", "1.0")?;
        let published = n1.publish(&file, &["--group", "all"])?;
        let id = &published.deployment;
        ensure!(n1.deployment(id)?.mode == "load-aware", "it is not load-aware");
        n2.installs("patient", "1.0", SOON)?;
        eventually(SOON, "n3 tells why it waits", || {
            let seen = n1.sees_state(id, "n3", "waiting", SOON)?;
            let detail = &seen.machine("n3")?.detail;
            ensure!(detail.contains("idle") && detail.contains("other programs"), "`{detail}`");
            Ok(())
        })?;
        // What is urgent does not wait, and does not take the rest along.
        publish_to_all(n1, &deb(lab, "pressing", "1.0")?, &["--wait"]).run()?.ok()?;
        n3.installs("pressing", "1.0", SOON)?;
        ensure!(dpkg_status(&n3.root(), "patient").is_err(), "n3 did not wait");
        quiet_below(n3, "101.0")?;
        n3.installs("patient", "1.0", SOON)
    });
}

#[test]
fn every_command_has_help_and_the_version_is_told() {
    scenario(1, |lab| {
        let node = lab.node(1)?;
        let version: Value = node.json(["version"])?;
        ensure!(version["version"].is_string(), "{version}");
        for command in ["init", "invite", "join", "key", "grant", "node", "group", "publish"] {
            let help = node.ok([command, "--help"])?;
            ensure!(help.contains("--json") && help.contains("--data-dir"), "{help}");
        }
        // Without a cluster, and with words that make no sense.
        says(&node.refused(1, ["status"])?, &["p2pinst", "init", "join"])?;
        node.refused(2, ["publish"])?;
        node.refused(2, ["nonsense"])?;
        Ok(())
    });
}
