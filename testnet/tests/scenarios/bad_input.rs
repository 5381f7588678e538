//! Files, groups and packages that cannot be: each is refused, with a word on what to do.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::cluster::says;
use p2pinst_testnet::exec::Exec;
use p2pinst_testnet::root::{add_shell, dpkg_status, expect_whole};
use p2pinst_testnet::{Deb, Lab, eventually};
use serde_json::Value;

use crate::harness::{SOON, cluster, deb, lacks, publish_to_all};

/// Publishing must fail with these words, and leave no order behind.
fn refused(lab: &Lab, file: &str, words: &[&str]) -> Result<()> {
    let n1 = lab.node(1)?;
    let done = publish_to_all(n1, &lab.dir().join(file), &[]).run()?.fails_with(1)?;
    says(&done, words)?;
    ensure!(n1.status()?.deployments.is_empty(), "an order was made");
    Ok(())
}

#[test]
fn what_is_no_package_is_refused() {
    cluster(1, |lab| {
        fs::write(lab.dir().join("text.deb"), "not a package\n".repeat(1000))?;
        refused(lab, "text.deb", &["text.deb", "not a Debian package"])
    });
}

#[test]
fn a_truncated_package_is_refused() {
    cluster(1, |lab| {
        let file = Deb::new("cut", "1.0").payload(200_000).build(lab.dir())?;
        let whole = fs::read(&file)?;
        fs::write(lab.dir().join("cut.deb"), &whole[..100_000])?;
        refused(lab, "cut.deb", &["cut.deb", "truncated"])
    });
}

#[test]
fn an_empty_file_is_refused() {
    cluster(1, |lab| {
        fs::write(lab.dir().join("empty.deb"), "")?;
        refused(lab, "empty.deb", &["empty.deb", "empty"])
    });
}

#[test]
fn what_cannot_be_read_is_refused() {
    cluster(1, |lab| {
        refused(lab, "missing.deb", &["missing.deb", "cannot read"])?;
        fs::create_dir(lab.dir().join("dir.deb"))?;
        refused(lab, "dir.deb", &["dir.deb", "not a file"])?;
        unreadable(lab)
    });
}

/// A file that this user may not read. Root may read any, unless that power is taken away.
fn unreadable(lab: &Lab) -> Result<()> {
    let n1 = lab.node(1)?;
    let file = deb(lab, "secret", "1.0")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000))?;
    let caps = "-dac_override,-dac_read_search";
    let done = Exec::new("setpriv")
        .args(["--bounding-set", caps, "--inh-caps", caps])
        .args(publish_to_all(n1, &file, &[]).words())
        .run()?
        .fails_with(1)?;
    says(&done, &["secret_1.0_all.deb", "permission denied"])?;
    ensure!(n1.status()?.deployments.is_empty(), "an order was made");
    Ok(())
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    cluster(1, |lab| {
        let path = Deb::new("moving", "1.0").payload(48 << 20).build(lab.dir())?;
        let file = OpenOptions::new().write(true).open(&path)?;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Within the payload: the archive stays well formed.
                for i in (0u64..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    file.write_all_at(&i.to_le_bytes(), (20 << 20) + i % 1000 * 8).ok();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let done = publish_to_all(lab.node(1)?, &path, &[]).run();
            stop.store(true, Ordering::Relaxed);
            says(&done?.fails_with(1)?, &["changed while it was read"])
        })?;
        ensure!(lab.node(1)?.status()?.deployments.is_empty());
        // When it is left alone, it goes.
        publish_to_all(lab.node(1)?, &path, &["--wait"]).run()?.ok()?;
        Ok(())
    });
}

#[test]
fn a_package_for_another_architecture_says_so() {
    cluster(2, |lab| {
        let file = Deb::new("foreign", "1.0").arch("riscv64").build(lab.dir())?;
        let done = publish_to_all(lab.node(1)?, &file, &["--wait"]).run()?.fails_with(1)?;
        says(&done, &["riscv64"])?;
        for node in lab.nodes() {
            ensure!(dpkg_status(&node.root(), "foreign").is_err(), "{} has it", node.name());
        }
        Ok(())
    });
}

#[test]
fn an_unknown_group_is_refused() {
    cluster(1, |lab| {
        let file = deb(lab, "lost", "1.0")?;
        let done = lab.node(1)?.cli(["publish"]).arg(&file).args(["--group", "nobody"]).run()?;
        says(&done.fails_with(1)?, &["nobody", "group create"])?;
        ensure!(lab.node(1)?.status()?.deployments.is_empty());
        Ok(())
    });
}

#[test]
fn a_group_without_members_is_told() {
    cluster(1, |lab| {
        let n1 = lab.node(1)?;
        n1.ok(["group", "create", "empty", "--select", "gpu=true"])?;
        let file = deb(lab, "lonely", "1.0")?;
        let done = n1.cli(["publish"]).arg(&file).args(["--group", "empty", "--urgent"]).run()?;
        says(&done.fails_with(1)?, &["empty", "no members", "group show"])?;
        ensure!(n1.status()?.deployments.is_empty(), "an order for nobody was made");
        Ok(())
    });
}

#[test]
fn expressions_that_cannot_be_read_are_refused() {
    cluster(1, |lab| {
        let n1 = lab.node(1)?;
        for args in [["--hosts", "n[1-"], ["--select", "gpu=true,,"]] {
            let done = n1.cli(["group", "create", "bad"]).args(args).run()?;
            says(&done.fails_with(2)?, &args)?;
        }
        says(&n1.refused(2, ["group", "create", "neither"])?, &["--hosts", "--select"])?;
        for name in ["bad", "neither"] {
            says(&n1.refused(1, ["group", "show", name])?, &[name])?;
        }
        Ok(())
    });
}

#[test]
fn a_missing_dependency_is_named_and_nothing_is_unpacked() {
    cluster(2, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        let needy = Deb::new("needy", "1.0").field("Depends", "not-there (>= 2)");
        let file = needy.build(lab.dir())?;
        let done = publish_to_all(n1, &file, &["--wait"]).run()?.fails_with(1)?;
        says(&done, &["not-there"])?;
        let seen = n1.status()?;
        let only = seen.deployments.first().context("the order stands")?;
        for node in [n1, n2] {
            let machine = only.machine(node.name())?;
            ensure!(machine.state == "failed", "the status is: {}", only.line());
            ensure!(machine.detail.contains("not-there"), "the detail is `{}`", machine.detail);
            ensure!(dpkg_status(&node.root(), "needy").is_err(), "something was unpacked");
            expect_whole(&node.root())?;
        }
        Ok(())
    });
}

/// Publishes a package whose script fails: the command, the status and the history tell.
fn publish_broken(lab: &Lab, version: &str) -> Result<()> {
    let [n1, n2] = [lab.node(1)?, lab.node(2)?];
    let broken = Deb::new("scripted", version).script("postinst", "echo no luck >&2; exit 7");
    let file = broken.build(lab.dir())?;
    let done = publish_to_all(n1, &file, &["--wait"]).run()?.fails_with(1)?;
    says(&done, &["scripted", "failed", "history"])?;
    let seen = n1.status()?;
    let order = seen.deployments.iter().find(|d| d.package.version == version);
    let order = order.context("the order stands")?;
    for node in [n1, n2] {
        let machine = order.machine(node.name())?;
        ensure!(machine.state == "failed", "the status is: {}", order.line());
        ensure!(machine.detail.contains("dpkg"), "the detail is `{}`", machine.detail);
        // What the package manager said stands in the history, for everybody.
        eventually(SOON, "the history has it", || {
            let history: Value = n1.json(["history", node.name()])?;
            let last = history["entries"].as_array().and_then(|e| e.last()).context("none")?;
            ensure!(last["package"]["version"] == version, "{history}");
            ensure!(last["outcome"] == "failed" && last["exit_code"] == 1, "{history}");
            ensure!(last["log"].as_str().is_some_and(|l| l.contains("no luck")), "{history}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_failing_script_leaves_nothing_behind_and_a_fix_gets_through() {
    scripted(|lab| {
        publish_broken(lab, "1.0")?;
        for node in lab.nodes() {
            let there = dpkg_status(&node.root(), "scripted");
            ensure!(there.is_err(), "{} is left with: {there:?}", node.name());
            ensure!(!node.root().join("usr/share/scripted").exists(), "files are left");
            expect_whole(&node.root())?;
        }
        publish_fixed(lab, "1.1")
    });
}

#[test]
fn a_failing_script_of_an_upgrade_is_noticed_and_a_fix_gets_through() {
    scripted(|lab| {
        publish_to_all(lab.node(1)?, &deb(lab, "scripted", "1.0")?, &["--wait"]).run()?.ok()?;
        publish_broken(lab, "1.1")?;
        for node in lab.nodes() {
            // What dpkg cannot undo is not hidden either.
            let status = dpkg_status(&node.root(), "scripted")?;
            ensure!(status == "install ok half-configured 1.1", "dpkg says {status}");
        }
        publish_fixed(lab, "1.2")
    });
}

/// Two nodes whose roots have a shell.
fn scripted(play: impl FnOnce(&Lab) -> Result<()>) {
    if lacks("busybox", "busybox-static") {
        return;
    }
    cluster(2, |lab| {
        lab.nodes().iter().try_for_each(|n| add_shell(&n.root()))?;
        play(lab)
    });
}

fn publish_fixed(lab: &Lab, version: &str) -> Result<()> {
    let fixed = Deb::new("scripted", version).script("postinst", "touch /ran").build(lab.dir())?;
    publish_to_all(lab.node(1)?, &fixed, &["--wait"]).run()?.ok()?;
    for node in lab.nodes() {
        node.installs("scripted", version, SOON)?;
        expect_whole(&node.root())?;
        ensure!(node.root().join("ran").exists(), "the script did not run");
    }
    Ok(())
}

#[test]
fn a_root_without_a_database_is_refused_with_the_command_that_makes_one() {
    cluster(1, |lab| {
        let n1 = lab.node(1)?;
        n1.stop()?;
        let empty = lab.dir().join("empty-root");
        fs::create_dir(&empty)?;
        fs::rename(n1.root(), lab.dir().join("away"))?;
        fs::rename(&empty, n1.root())?;
        let done = n1.daemon().limit(Duration::from_secs(15)).run()?;
        ensure!(done.code.is_some_and(|c| c != 0), "{done}");
        says(&done, &["p2pinst root prepare"])
    });
}
