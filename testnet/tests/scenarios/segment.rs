//! What else there is on a segment: peers of other clusters, and peers that lie.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use p2pinst_testnet::exec::Done;
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Invite, Lab, Node};

use crate::blank::{Blank, SETUP, cluster_file, lacks_disks, tree};
use crate::harness::{LATER, SOON, scenario};
use crate::hostile;
use crate::repository::arm;
use crate::strangers::two_clusters;
use crate::terminal::Terminal;

/// What no compression and no run of bytes makes smaller.
const LOAD: usize = 12 << 20;
/// How long a scout tries to be let in where nobody may.
const TRIES: Duration = Duration::from_secs(8);

/// Publishes a system, and orders that the machine gets it.
fn order(lab: &Lab, node: &Node, mac: &str, files: &[(&str, &[u8])]) -> Result<()> {
    publish(lab, node, mac, files)?;
    deploy(lab, node, &[])?.ok()?;
    Ok(())
}

fn publish(lab: &Lab, node: &Node, mac: &str, files: &[(&str, &[u8])]) -> Result<()> {
    let tar = tree(lab, &format!("tree-{}", node.name()), files)?;
    node.cli(["image", "publish"]).arg(&tar).args(["--name", "tree"]).limit(LATER).run()?.ok()?;
    node.ok(["machine", "adopt", mac, "--name", "b1"])?;
    Ok(())
}

fn deploy(lab: &Lab, node: &Node, args: &[&str]) -> Result<Done> {
    let setup = lab.dir().join("setup.toml");
    fs::write(&setup, SETUP).context("cannot write")?;
    let deploy = node.cli(["deploy", "--setup"]).arg(&setup);
    deploy.args(["--nodes", "b1", "--power", "none", "--yes"]).args(args).run()
}

/// Bytes that are all different each time, from a seed.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_scout_of_another_cluster_is_sent_away_and_finds_its_own() {
    if lacks_disks() {
        return;
    }
    scenario(3, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        two_clusters(n1, n2)?;
        for node in [n1, n2] {
            node.ok(["grant", node.name(), "--role", "boot"])?;
            arm(node)?;
        }
        let blank = Blank::new(lab, lab.node(3)?)?;
        let mac = blank.mac()?;
        // both have an order for it
        for node in [n1, n2] {
            order(lab, node, &mac, &[("etc/whose", node.name().as_bytes())])?;
        }
        // nobody of its own cluster is there
        let ours = cluster_file(lab, n1)?;
        n1.stop()?;
        let away = blank.scout(&ours, &[n2], TRIES)?;
        ensure!(away.said.contains("made for another cluster"), "{}", away.said);
        ensure!(away.installed().is_err() && blank.is_blank()?, "its disk was touched");
        n1.start()?;
        blank.scout(&ours, &[n2], LATER)?.installed()?;
        let whose = blank.read("etc/whose")?;
        ensure!(whose == n1.name().as_bytes(), "{whose:?}");
        Ok(())
    });
}

#[test]
fn a_machine_of_a_group_that_asks_for_a_code_is_let_in_when_it_is_typed() {
    if lacks_disks() {
        return;
    }
    scenario(2, |lab| {
        lab.form(1, &Invite::default())?;
        let n1 = lab.node(1)?;
        n1.ok(["grant", "n1", "--role", "boot"])?;
        arm(n1)?;
        let mut blank = Blank::new(lab, lab.node(2)?)?;
        let [nobody, somebody] = [Terminal::new()?, Terminal::new()?];
        blank.consoles = [&nobody, &somebody].map(|t| t.device.clone()).into();
        publish(lab, n1, &blank.mac()?, &[("etc/whose", b"ours")])?;
        // ordered before the group asked
        deploy(lab, n1, &[])?.ok()?;
        n1.ok(["group", "policy", "all", "--console-code", "wanted"])?;
        let cluster = cluster_file(lab, n1)?;
        let away = blank.scout(&cluster, &[n1], TRIES)?;
        ensure!(away.said.contains("the group all asks for a code"), "{}", away.said);
        ensure!(away.installed().is_err() && blank.is_blank()?, "its disk was touched");
        ensure!(somebody.shown().is_empty(), "it asks for a code that there is not");
        let refused = deploy(lab, n1, &[])?;
        ensure!(refused.stderr.contains("the group all asks for a code"), "{refused}");
        refused.fails_with(1)?;
        let file = lab.dir().join("code");
        fs::write(&file, "471147").context("cannot write")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).context("cannot protect")?;
        deploy(lab, n1, &["--code-file", &file.to_string_lossy()])?.ok()?;
        thread::scope(|scope| {
            let scout = scope.spawn(|| blank.scout(&cluster, &[n1], LATER));
            let asked = |times| {
                eventually(SOON, "a code is asked for", || {
                    for terminal in [&nobody, &somebody] {
                        let shown = terminal.shown();
                        let all = shown.matches("code of the order:").count();
                        let enough =
                            all >= if terminal.device == nobody.device { 1 } else { times };
                        ensure!(enough, "{shown:?}");
                    }
                    Ok(())
                })
            };
            asked(1)?;
            let waits = |why: &str| {
                eventually(SOON, "it is said why it waits", || {
                    let shown = n1.ok(["boot", "show", "b1"])?;
                    ensure!(shown.contains(why), "{shown}");
                    Ok(())
                })
            };
            waits("the order wants a code, typed at this machine's console")?;
            somebody.types("081508")?;
            waits("the code is wrong")?;
            asked(2)?;
            ensure!(blank.is_blank()?, "its disk was touched");
            somebody.types("471147")?;
            scout.join().map_err(|_| anyhow!("the scout's thread panicked"))??.installed()?;
            anyhow::Ok(())
        })?;
        ensure!(blank.read("etc/whose")? == b"ours", "another system");
        // what is typed is not shown: serial lines are recorded
        let shown = somebody.shown();
        ensure!(!shown.contains("471147") && !shown.contains("081508"), "{shown:?}");
        Ok(())
    });
}

#[test]
fn an_image_is_whole_though_a_peer_sends_something_else() {
    if lacks_disks() {
        return;
    }
    scenario(3, |lab| {
        lab.form(2, &Invite::default())?;
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        n1.ok(["grant", "n1", "--role", "boot"])?;
        arm(n1)?;
        let blank = Blank::new(lab, lab.node(3)?)?;
        let noise = noise(LOAD);
        order(lab, n1, &blank.mac()?, &[("etc/noise", &noise)])?;
        let images: serde_json::Value = n1.json(["image", "ls"])?;
        let root = images["images"][0]["image"]["files"]["rootfs.tar"]["root"].as_str();
        let root = root.with_context(|| format!("no image: {images}"))?;
        n2.cli(["fetch", root]).limit(LATER).run()?.ok()?;
        // n2 has all of it, and answers with something else from now on
        n2.stop()?;
        let liar = hostile::start(n2, hostile::Manner::Garbage)?;
        n1.sees_up(2, SOON)?;
        // n1 is slow, so that the scout asks n2 as well
        lab.network().switch()?.limit(1, "20mbit")?;
        let said = blank.scout(&cluster_file(lab, n1)?, &[n1], LATER)?.installed()?;
        ensure!(said.contains("wrong bytes"), "it did not meet the liar:\n{said}");
        ensure!(blank.read("etc/noise")? == noise, "something else is on its disk");
        drop(liar);
        Ok(())
    });
}
