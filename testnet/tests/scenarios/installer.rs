//! A distribution's own installer, started by a scout in its place: it finds its answers, packages at a peer, and what makes the new
//! system a member.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::exec::{Exec, run};
use p2pinst_testnet::vm::{Bus, Firmware, Spec, Vm, why_no_machines};
use p2pinst_testnet::wait::eventually;
use p2pinst_types::Mac;

use crate::baremetal::{PATIENCE, scout, site};
use crate::harness::{LATER, lacks, scenario, skipped};

/// Firmware, a scout, and a kernel after it, on a busy machine.
const STARTED: Duration = Duration::from_secs(600);
/// The size of the disk, in bytes.
const DISK: u64 = 256 << 20;

const SETUP: &str = r#"
name = "by-installer"
agent = true

[installer]
image = "stand-in"
arguments = "console=ttyS0,115200n8 panic=60 host={{name}}"

[[file]]
path = "/preseed.cfg"
template = "site"
format = "preseed"

[[file]]
path = "/usr/sbin/p2pinstd"
mode = "0755"
content = '''
"#;

/// What is started is a scout's kernel and initrd once more; in the place of the daemon it has this, which does what installers do.
const INSTALLER: &str = r#"#!/bin/sh
exec 2>&1
grep -qw host=b1 /proc/cmdline || exit 1
grep -q '^d-i netcfg/get_hostname string b1$' /preseed.cfg || exit 2
url=$(sed -n 's/^d-i x\/mirror string //p' /preseed.cfg)
until busybox wget -q -O /tmp/package "$url/pool/package"; do sleep 1; done
set -e
mkfs.ext4 -q -F /dev/vda
mkdir -p /target
mount -t ext4 /dev/vda /target
mkdir /target/etc
cp /preseed.cfg /tmp/package /target
# as debian-installer does it, without what is between
sed -n 's/^d-i preseed\/late_command string //p' /preseed.cfg > /tmp/late
sh -e /tmp/late
umount /target
sync
echo "the installer has done its work"
busybox poweroff -f
'''
"#;

const GRAPH: &str = "[appliances]\ncompute = \"computes\"\n";
const COMPUTE: &str = r#"
[preseed]
main = """
d-i netcfg/get_hostname string {{ name }}
d-i x/mirror string {{ mirrors[0].url }}
"""
"#;

#[test]
fn a_scout_starts_an_installer_and_the_system_that_it_makes_checks_in() {
    if lacks("busybox", "busybox-static") || lacks("strip", "binutils") {
        return;
    }
    if let Some(why) = why_no_machines() {
        return skipped(&why);
    }
    scenario(2, |lab| {
        let site = site(lab, 1, PATIENCE)?;
        let (n1, system) = (lab.node(1)?, lab.node(2)?);
        let made = scout(lab, n1)?;
        n1.cli(["scout", "publish"]).arg(&made).limit(LATER).run()?.ok()?;
        let publish = n1.cli(["image", "publish"]).arg(made.join("vmlinuz")).arg("--initrd");
        let publish = publish.arg(made.join("initrd")).args(["--name", "stand-in"]);
        publish.limit(LATER).run()?.ok()?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = lab.dir().join(name);
            let above = path.parent().context("no directory")?;
            fs::create_dir_all(above).context("cannot make a directory")?;
            fs::write(&path, text).context("cannot write")?;
            Ok(path)
        };
        write("packages/pool/package", "what is installed")?;
        let packages = lab.dir().join("packages");
        let publish = n1.cli(["repository", "publish"]).arg(&packages).args(["--name", "debs"]);
        publish.limit(LATER).run()?.ok()?;
        write("site/graph.toml", GRAPH)?;
        write("site/nodes/compute.toml", COMPUTE)?;
        n1.cli(["template", "publish"])
            .arg(lab.dir().join("site"))
            .args(["--name", "site"])
            .run()?
            .ok()?;
        eventually(STARTED, "it has the scout's files", || {
            ensure!(n1.log_text().contains("the files of the scout are here"), "not yet");
            Ok(())
        })?;

        let mac = Mac([0x52, 0x54, 0, 0x77, 0, 0x21]);
        n1.ok(["machine", "adopt", &mac.to_string(), "--name", "b1"])?;
        let setup = write("setup.toml", &format!("{SETUP}{INSTALLER}"))?;
        let deploy = n1.cli(["deploy", "--setup"]).arg(&setup).args(["--nodes", "b1"]);
        // it may erase everything: that is asked
        let unasked = deploy.run()?.fails_with(2)?;
        ensure!(unasked.stderr.contains("may be lost"), "{unasked}");
        let deploy = n1.cli(["deploy", "--setup"]).arg(&setup).args(["--nodes", "b1", "--yes"]);
        let order = deploy.run()?.ok()?.stdout.trim().to_owned();
        let spec = Spec::new("b1", Firmware::Uefi { http: true }, mac).memory(1536);
        let vm = Vm::new(&site.segment, spec.disk(DISK, "DISK1", Bus::Virtio))?;
        vm.power_on()?;
        let done = vm.wait_for("the installer has done its work", STARTED);
        done.and_then(|()| vm.wait_off(LATER)).with_context(|| vm.serial_tail(60))?;
        let told = n1.ok(["status", &order])?;
        ensure!(told.contains("the installer stand-in has taken over"), "{told}");

        // the system that it has made, on a host of its own
        let at = lab.dir().join("mounted");
        fs::create_dir_all(&at).context("cannot make a directory")?;
        Exec::new("mount").args(["-o", "loop"]).arg(vm.disk(0)).arg(&at).run()?.ok()?;
        let copied = || -> Result<()> {
            ensure!(fs::read(at.join("package"))? == b"what is installed", "another package");
            let copy = Exec::new("cp").arg("-a").arg(at.join("var/lib/p2pinst/."));
            copy.arg(system.data()).run()?.ok()?;
            let unit = fs::read_link(
                at.join("etc/systemd/system/multi-user.target.wants/p2pinstd.service"),
            );
            ensure!(unit.is_ok_and(|to| to.ends_with("p2pinstd.service")), "nothing starts it");
            ensure!(at.join("usr/sbin/p2pinstd").is_file(), "no program");
            Ok(())
        }();
        run("umount", [&at])?;
        copied?;
        system.prepare_root()?;
        system.start()?;
        eventually(LATER, "its own system has checked in", || {
            let told = n1.ok(["status", &order])?;
            ensure!(told.contains("healthy"), "{told}");
            Ok(())
        })
    });
}
