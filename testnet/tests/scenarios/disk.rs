//! Disks that are full, or that return other bytes than were written.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::cluster::says;
use p2pinst_testnet::exec::run;
use p2pinst_testnet::root::expect_whole;
use p2pinst_testnet::{Deb, Invite, Node, eventually};

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all, scenario};

const MIB: u64 = 1 << 20;

/// Puts a node's data on a disk of that size.
fn small_disk(node: &Node, size: &str) -> Result<()> {
    fs::create_dir_all(node.data())?;
    let dir = node.data();
    let size = format!("size={size},mode=0700");
    run("mount", ["-t", "tmpfs", "-o", &size, "tmpfs"].map(Path::new).into_iter().chain([&*dir]))?;
    Ok(())
}

fn enlarge(node: &Node, size: &str) -> Result<()> {
    let dir = node.data();
    let size = format!("remount,size={size}");
    run("mount", ["-o", &size].map(Path::new).into_iter().chain([&*dir]))?;
    Ok(())
}

#[test]
fn eventually_a_node_with_a_full_disk_goes_on_when_there_is_room() {
    scenario(3, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        small_disk(n2, "24m")?;
        lab.form(3, &Invite::default())?;
        let big = Deb::new("big", "1.0").payload(40 * MIB).build(lab.dir())?;
        let published = n1.publish(&big, &["--group", "all", "--urgent"])?;
        lab.node(3)?.installs("big", "1.0", SOON)?;
        eventually(SOON, "n2 says that its disk is full", || {
            let seen = n1.deployment(&published.deployment)?;
            let n2 = seen.machine("n2")?;
            let told = n2.detail.contains("space") || n2.detail.contains("full");
            ensure!(told, "the status is: {}", seen.line());
            Ok(())
        })?;
        // It goes on with what fits.
        publish_to_all(n1, &deb(lab, "small", "1.0")?, &[]).run()?.ok()?;
        n2.installs("small", "1.0", LATER)?;
        enlarge(n2, "200m")?;
        n2.installs("big", "1.0", LATER)?;
        expect_whole(&n2.root())
    });
}

#[test]
fn eventually_a_full_disk_gives_up_what_nobody_needs_first() {
    scenario(2, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        small_disk(n2, "64m")?;
        lab.form(2, &Invite::default())?;
        for version in ["1.0", "2.0", "3.0"] {
            let file = Deb::new("big", version).payload(30 * MIB).build(lab.dir())?;
            let id = n1.publish(&file, &["--group", "all", "--urgent"])?.deployment;
            n2.installs("big", version, LATER)?;
            let seen = n1.sees_state(&id, "n2", "installed", SOON)?;
            ensure!(seen.machine("n2")?.attempt == 1, "it failed before: {}", seen.line());
        }
        // two that are both needed do not fit: the pieces of the first stay
        let other = Deb::new("other", "1.0").payload(30 * MIB).build(lab.dir())?;
        let id = n1.publish(&other, &["--group", "all", "--urgent"])?.deployment;
        eventually(SOON, "n2 says that there is no space, and what to do", || {
            let seen = n1.deployment(&id)?;
            let detail = &seen.machine("n2")?.detail;
            let told = detail.contains("no space") && detail.contains("retire");
            ensure!(told, "the status is: {}", seen.line());
            Ok(())
        })?;
        crate::storage::holds(n2, "big 3.0 all")?;
        enlarge(n2, "200m")?;
        n2.installs("other", "1.0", LATER)
    });
}

#[test]
fn a_publisher_with_a_full_disk_is_told() {
    scenario(1, |lab| {
        let n1 = lab.node(1)?;
        small_disk(n1, "24m")?;
        lab.form(1, &Invite::default())?;
        let big = Deb::new("big", "1.0").payload(40 * MIB).build(lab.dir())?;
        let done = publish_to_all(n1, &big, &[]).run()?.fails_with(1)?;
        says(&done, &["space"])?;
        ensure!(n1.status()?.deployments.is_empty(), "an order without its bytes was made");
        publish_to_all(n1, &deb(lab, "small", "1.0")?, &["--wait"]).run()?.ok()?;
        Ok(())
    });
}

/// The files below a directory.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// Changes a byte in every 16 KiB of the biggest blob that a node holds.
pub(crate) fn rot(node: &Node) -> Result<()> {
    let blobs = files(&node.data().join("blobs"))?;
    let len = |p: &PathBuf| fs::metadata(p).map_or(0, |m| m.len());
    let blob = blobs.into_iter().max_by_key(len).context("the node holds no blob")?;
    let size = len(&blob);
    ensure!(size >= MIB, "{} has only {size} bytes", blob.display());
    let file = OpenOptions::new().read(true).write(true).open(&blob)?;
    for at in (0..size).step_by(16 << 10) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[!byte[0]], at)?;
    }
    Ok(())
}

#[test]
fn anytime_what_a_disk_damaged_is_noticed_and_never_leaves() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        n1.ok(["group", "create", "second", "--hosts", "n2"])?;
        let file = Deb::new("rotten", "1.0").payload(8 * MIB).build(lab.dir())?;
        n1.publish(&file, &["--group", "second", "--urgent", "--wait"])?;
        rot(n2)?;
        // n1 is slow, so that n3 asks n2 as well.
        lab.network().switch()?.limit(1, "20mbit")?;
        publish_to_all(n1, &file, &[]).run()?.ok()?;
        n3.installs("rotten", "1.0", LATER)?;
        expect_whole(&n3.root())?;
        let payload = "usr/share/rotten/payload";
        let [a, b] = [fs::read(n2.root().join(payload))?, fs::read(n3.root().join(payload))?];
        ensure!(a == b, "the bytes that n3 installed are not those that n2 did");
        ensure!(n2.log_text().contains("disk damaged"), "n2 has not noticed");
        ensure!(!n3.log_text().contains("wrong bytes"), "n2 has sent what its disk damaged");
        Ok(())
    });
}
