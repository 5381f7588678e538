//! What nodes keep of files, and why: seeds, preheats, pins, the quota, and what goes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::root::{dpkg_status, expect_whole};
use p2pinst_testnet::stats::Sample;
use p2pinst_testnet::wait::throughout;
use p2pinst_testnet::{Deb, Lab, Node, eventually};
use serde_json::Value;

use crate::harness::{LATER, SOON, cluster, publish_to_all};

const MIB: u64 = 1 << 20;

/// The blobs of a node.
pub(crate) fn blobs(node: &Node) -> Result<Vec<Value>> {
    let listed: Value = node.json(["store", "ls"])?;
    listed["blobs"].as_array().cloned().context("blobs")
}

/// The blob of that root, if the node has any of it.
pub(crate) fn blob(node: &Node, root: &str) -> Result<Option<Value>> {
    Ok(blobs(node)?.into_iter().find(|b| b["root"] == root))
}

/// The blob that is this package (`name version all`).
pub(crate) fn blob_of(node: &Node, package: &str) -> Result<Option<Value>> {
    let is = |b: &Value| b["releases"].as_array().is_some_and(|r| r.iter().any(|p| p == package));
    Ok(blobs(node)?.into_iter().find(is))
}

/// Waits until a node has all of a package's file.
pub(crate) fn holds(node: &Node, package: &str) -> Result<()> {
    eventually(LATER, &format!("{} holds {package}", node.name()), || {
        let blob = blob_of(node, package)?.context("nothing of it")?;
        ensure!(blob["state"] == "complete", "{blob}");
        Ok(())
    })
}

/// Changes the configuration of a node, which is started again.
fn configure(node: &Node, from: &str, to: &str) -> Result<()> {
    let file = node.data().join("config.toml");
    let text = fs::read_to_string(&file)?;
    ensure!(text.contains(from), "{from} is not in {text}");
    node.stop()?;
    fs::write(&file, text.replacen(from, to, 1))?;
    node.start()
}

/// A file of noise.
pub(crate) fn noise(lab: &Lab, name: &str, bytes: u64) -> Result<PathBuf> {
    // what a package holds is noise
    let deb = Deb::new(name, "1.0").payload(bytes).build(lab.dir())?;
    let file = lab.dir().join(name);
    fs::rename(deb, &file)?;
    Ok(file)
}

fn same(a: &Path, b: &Path) -> Result<()> {
    ensure!(fs::read(a)? == fs::read(b)?, "{} is not {}", a.display(), b.display());
    Ok(())
}

#[test]
fn eventually_a_seeded_file_is_with_whoever_asks_for_it_and_nobody_else() {
    cluster(4, |lab| {
        let [n1, n2, n3, n4] = [lab.node(1)?, lab.node(2)?, lab.node(3)?, lab.node(4)?];
        let file = noise(lab, "image", 5 * MIB)?;
        let root = n1.cli(["seed"]).arg(&file).run()?.ok()?.stdout.trim().to_owned();
        ensure!(root.len() == 64, "stdout is to be the root: {root}");
        let at_n3 = lab.dir().join("at-n3");
        let fetched: Value = n3
            .cli(["fetch", &root, "--json", "-o"])
            .arg(&at_n3)
            .limit(LATER)
            .run()?
            .ok()?
            .json()?;
        same(&file, &at_n3)?;
        ensure!(fetched["size"] == fs::metadata(&file)?.len(), "{fetched}");
        ensure!(blob(n2, &root)?.is_none(), "n2 has what it has not asked for");
        // the seed goes, and comes back pinned; n3 has given it on meanwhile
        n1.kill()?;
        let at_n4 = lab.dir().join("at-n4");
        n4.cli(["fetch", &root, "--hard-link", "-o"]).arg(&at_n4).limit(LATER).run()?.ok()?;
        same(&file, &at_n4)?;
        n1.start()?;
        let kept = blob(n1, &root)?.context("the seed is gone")?;
        ensure!(kept["pinned"] == true && kept["state"] == "complete", "{kept}");
        n1.ok(["store", "gc", "--all"])?;
        ensure!(blob(n1, &root)?.is_some(), "what is pinned was removed");
        n1.ok(["store", "unpin", &root[..12]])?;
        // a node that has just started removes nothing before it has looked at its orders
        eventually(SOON, "what nobody needs goes", || {
            n1.ok(["store", "gc", "--all"])?;
            ensure!(blob(n1, &root)?.is_none());
            Ok(())
        })?;
        // a file that nobody has
        let none = n2.cli(["fetch", &"ab".repeat(32)]).limit(LATER).run()?.fails_with(1)?;
        ensure!(none.stderr.contains("no node"), "{none}");
        Ok(())
    });
}

#[test]
fn eventually_a_preheated_package_is_everywhere_and_installed_nowhere() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        let file = Deb::new("warm", "1.0").payload(4 * MIB).build(lab.dir())?;
        let preheat = |what: &std::ffi::OsStr, args: &[&str]| {
            n1.cli(["preheat"])
                .arg(what)
                .args(["--group", "all", "--urgent"])
                .args(args)
                .limit(LATER)
        };
        let done: Value = preheat(file.as_os_str(), &["--wait", "--json"]).run()?.ok()?.json()?;
        ensure!(done["finished"] == true && done["preheat"] == true, "{done}");
        let id = done["deployment"].as_str().context("an id")?;
        for node in lab.nodes() {
            holds(node, "warm 1.0 all")?;
            n1.sees_state(id, node.name(), "verified", SOON)?;
            ensure!(dpkg_status(&node.root(), "warm").is_err(), "{} installed it", node.name());
        }
        // it stays so over a restart, and nothing is begun anew
        n3.stop()?;
        n3.start()?;
        n3.ok(["store", "gc", "--all"])?;
        holds(n3, "warm 1.0 all")?;
        ensure!(n1.deployment(id)?.machine("n3")?.attempt == 1);
        // published, it is there already
        let before = Sample::of(n3.pid()?)?.received;
        publish_to_all(n1, &file, &["--wait"]).run()?.ok()?;
        n3.installs("warm", "1.0", SOON)?;
        let came = Sample::of(n3.pid()?)?.received - before;
        ensure!(came < MIB, "{came} bytes came again");
        n1.ok(["retire", id])?;
        for node in [n2, n3] {
            eventually(SOON, "the order is over", || {
                ensure!(node.status()?.deployments.len() == 1);
                Ok(())
            })?;
            node.ok(["store", "gc", "--all"])?;
            holds(node, "warm 1.0 all")?; // for the other order
        }
        // what was published before can be preheated by its name
        let done: Value =
            preheat("warm=1.0".as_ref(), &["--wait", "--json"]).run()?.ok()?.json()?;
        ensure!(done["finished"] == true, "{done}");
        let none = preheat("cold=1.0".as_ref(), &[]).run()?.fails_with(1)?;
        ensure!(none.stderr.contains("neither a file nor a release"), "{none}");
        Ok(())
    });
}

#[test]
fn eventually_what_was_superseded_makes_room_and_what_is_too_large_is_refused() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        configure(n2, "quota = \"80%\"", "quota = \"20MiB\"")?;
        n2.sees_up(3, SOON)?;
        for version in ["1.0", "2.0", "3.0", "4.0"] {
            let file = Deb::new("grows", version).payload(6 * MIB).build(lab.dir())?;
            n1.publish(&file, &["--group", "all", "--urgent"])?;
            n2.installs("grows", version, LATER)?;
        }
        holds(n2, "grows 4.0 all")?;
        let listed: Value = n2.json(["store", "ls"])?;
        ensure!(listed["bytes"].as_u64().is_some_and(|b| b <= 20 * MIB), "{listed}");
        ensure!(listed["high"] == 20 * MIB, "{listed}");
        ensure!(blob_of(n2, "grows 1.0 all")?.is_none(), "the oldest is still there: {listed}");
        ensure!(blob_of(n3, "grows 1.0 all")?.is_some(), "n3 has room, and removed it");
        // what can never fit
        let big = Deb::new("big", "1.0").payload(24 * MIB).build(lab.dir())?;
        let id = n1.publish(&big, &["--group", "all", "--urgent"])?.deployment;
        n3.installs("big", "1.0", LATER)?;
        eventually(SOON, "n2 says why it does not take it", || {
            let seen = n1.deployment(&id)?;
            let n2 = seen.machine("n2")?;
            let told = n2.detail.contains("20.0 MiB at most") && n2.detail.contains("quota");
            ensure!(told, "the status is: {}", seen.line());
            Ok(())
        })?;
        holds(n2, "grows 4.0 all")?;
        configure(n2, "quota = \"20MiB\"", "quota = \"60MiB\"")?;
        n2.installs("big", "1.0", LATER)?;
        expect_whole(&n2.root())
    });
}

#[test]
fn eventually_a_part_whose_order_was_retired_goes() {
    cluster(3, |lab| {
        let [n1, n3] = [lab.node(1)?, lab.node(3)?];
        lab.network().switch()?.limit(3, "5mbit")?;
        let file = Deb::new("over", "1.0").payload(24 * MIB).build(lab.dir())?;
        let id = n1.publish(&file, &["--group", "all", "--urgent"])?.deployment;
        eventually(LATER, "n3 has a part", || {
            let part = blob_of(n3, "over 1.0 all")?.context("nothing")?;
            ensure!(part["have"].as_u64() > Some(MIB), "{part}");
            Ok(())
        })?;
        let part = blob_of(n3, "over 1.0 all")?.context("nothing")?;
        ensure!(part["state"] == "part", "it was too fast for this test");
        ensure!(part["orders"].as_array().is_some_and(|o| o.len() == 1), "{part}");
        n3.ok(["store", "gc", "--all"])?;
        ensure!(blob_of(n3, "over 1.0 all")?.is_some(), "what comes in was removed");
        n1.ok(["retire", &id])?;
        eventually(LATER, "the part is removed", || {
            n3.ok(["store", "gc"])?;
            ensure!(blob_of(n3, "over 1.0 all")?.is_none());
            Ok(())
        })
    });
}

#[test]
fn eventually_who_fetches_from_a_store_that_loses_the_file_goes_on_elsewhere() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        let file = noise(lab, "vanishes", 24 * MIB)?;
        let root = n1.cli(["seed"]).arg(&file).run()?.ok()?.stdout.trim().to_owned();
        n2.cli(["fetch", &root]).limit(LATER).run()?.ok()?;
        lab.network().switch()?.limit(1, "20mbit")?;
        lab.network().switch()?.limit(2, "20mbit")?;
        let at_n3 = lab.dir().join("at-n3");
        let fetching = n3.cli(["fetch", &root, "-o"]).arg(&at_n3).limit(LATER * 2).start()?;
        let has = |part: u64| {
            let some = blob(n3, &root)?.context("nothing")?;
            ensure!(some["have"].as_u64() > Some(part), "{some}");
            Ok(some)
        };
        eventually(LATER, "n3 has a part", || has(4 * MIB))?;
        // somebody deletes the file below the node
        for ext in ["blob", "layer"] {
            fs::remove_file(n2.data().join(format!("blobs/{root}.{ext}")))?;
        }
        let gone = n2.cli(["store", "verify"]).run()?;
        ensure!(blob(n2, &root)?.is_none(), "n2 still shows it: {gone}");
        fetching.finish()?.ok()?;
        same(&file, &at_n3)?;
        for node in lab.nodes() {
            ensure!(node.ended()?.is_none(), "{} has ended", node.name());
            ensure!(!node.log_text().contains("panicked"), "{} has panicked", node.name());
        }
        Ok(())
    });
}

#[test]
fn eventually_what_the_disk_damaged_is_found_and_fetched_again() {
    cluster(2, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        let file = Deb::new("rots", "1.0").payload(8 * MIB).build(lab.dir())?;
        publish_to_all(n1, &file, &["--wait"]).run()?.ok()?;
        holds(n2, "rots 1.0 all")?;
        n2.ok(["store", "verify"])?;
        let root = blob_of(n2, "rots 1.0 all")?.context("a blob")?["root"].clone();
        let root = root.as_str().context("a root")?;
        crate::disk::rot(n2)?;
        let found = n2.cli(["store", "verify", root, "--json"]).run()?.fails_with(1)?;
        let found: Value = serde_json::from_str(&found.stdout)?;
        ensure!(found["damaged"].as_u64() > Some(100), "{found}");
        holds(n2, "rots 1.0 all")?;
        n2.ok(["store", "verify", root])?;
        let at = n2.data().join(format!("blobs/{root}.blob"));
        same(&file, &at)?;
        throughout(std::time::Duration::from_millis(500), "n2 lives", || {
            ensure!(n2.ended()?.is_none());
            Ok(())
        })
    });
}
