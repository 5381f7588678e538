//! What else there is on a segment: peers of other clusters, and peers that lie.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::{Invite, Lab, Node};

use crate::blank::{Blank, SETUP, cluster_file, lacks_disks, tree};
use crate::harness::{LATER, SOON, scenario};
use crate::hostile;
use crate::repository::arm;
use crate::strangers::two_clusters;

/// What no compression and no run of bytes makes smaller.
const LOAD: usize = 12 << 20;
/// How long a scout tries to be let in where nobody may.
const TRIES: Duration = Duration::from_secs(8);

/// Publishes a system, and orders that the machine gets it.
fn order(lab: &Lab, node: &Node, mac: &str, files: &[(&str, &[u8])]) -> Result<()> {
    let tar = tree(lab, &format!("tree-{}", node.name()), files)?;
    node.cli(["image", "publish"]).arg(&tar).args(["--name", "tree"]).limit(LATER).run()?.ok()?;
    node.ok(["machine", "adopt", mac, "--name", "b1"])?;
    let setup = lab.dir().join("setup.toml");
    fs::write(&setup, SETUP).context("cannot write")?;
    let deploy = node.cli(["deploy", "--setup"]).arg(&setup);
    deploy.args(["--nodes", "b1", "--power", "none", "--yes"]).run()?.ok()?;
    Ok(())
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
