//! A distribution's own installer, started by a scout in its place: it finds its answers, packages at a peer, and what makes the new
//! system a member.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::exec::{Exec, run};
use p2pinst_testnet::vm::{Bus, Firmware, Spec, Vm, why_no_machines};
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Lab, os};
use p2pinst_types::Mac;

use crate::baremetal::{PATIENCE, scout, site};
use crate::harness::{LATER, lacks, scenario, skipped};

/// Firmware, a scout, and a kernel after it, on a busy machine.
const STARTED: Duration = Duration::from_secs(600);
/// What debian-installer does until it has its components, on a busy machine.
const ASKED: Duration = Duration::from_secs(1200);
/// The package with debian-installer's kernel and initrd, and where they are in it.
const NETBOOT: &str = "debian-installer-12-netboot-amd64";
const TEXT: &str = "usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64";
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

/// The same for debian-installer.
const DEBIAN_SETUP: &str = r#"
name = "by-debian-installer"
agent = true

[installer]
image = "d-i"
arguments = "auto=true priority=critical console=ttyS0,115200n8 DEBIAN_FRONTEND=text"

[[file]]
path = "/preseed.cfg"
template = "site"
format = "preseed"
"#;

/// Its packages are the test's own, and not signed.
const DEBIAN: &str = r#"
[preseed]
main = """
d-i debian-installer/locale string en_US.UTF-8
d-i keyboard-configuration/xkb-keymap select us
d-i netcfg/choose_interface select auto
d-i netcfg/get_hostname string {{ name }}
d-i netcfg/get_domain string lab
d-i netcfg/get_nameservers string 10.77.250.1
d-i anna/no_kernel_modules boolean true
d-i debian-installer/allow_unauthenticated boolean true
d-i mirror/country string manual
d-i mirror/http/hostname string {{ (mirrors[0].url | split("/"))[2] }}
d-i mirror/http/directory string /boot/mirror/{{ mirrors[0].repository }}
d-i mirror/http/proxy string
d-i mirror/suite string bookworm
d-i mirror/udeb/suite string bookworm
"""
"#;

/// A component that says whose it is, and makes a member of an empty system.
const COMPONENT: &str = r#"#!/bin/sh
set -e
mkdir -p /tmp/new/etc
sh /p2pinst/join /tmp/new
echo "the component has run on $(hostname): $(ls /tmp/new/var/lib/p2pinst | tr '\n' ' ')" > /dev/ttyS0
"#;

const GRAPH: &str = "[appliances]\ncompute = \"computes\"\n";
const COMPUTE: &str = r#"
[preseed]
main = """
d-i netcfg/get_hostname string {{ name }}
d-i x/mirror string {{ mirrors[0].url }}
"""
"#;

fn write(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.dir().join(name);
    let above = path.parent().context("no directory")?;
    fs::create_dir_all(above).context("cannot make a directory")?;
    fs::write(&path, text).context("cannot write")?;
    Ok(path)
}

/// Publishes the scout, the repository below `packages`, and a graph of one node; waits until machines can boot.
fn prepare(lab: &Lab, scout: &Path, compute: &str) -> Result<()> {
    let n1 = lab.node(1)?;
    n1.cli(["scout", "publish"]).arg(scout).limit(LATER).run()?.ok()?;
    let packages = lab.dir().join("packages");
    let publish = n1.cli(["repository", "publish"]).arg(&packages).args(["--name", "debs"]);
    publish.limit(LATER).run()?.ok()?;
    write(lab, "site/graph.toml", GRAPH)?;
    write(lab, "site/nodes/compute.toml", compute)?;
    let graph = n1.cli(["template", "publish"]).arg(lab.dir().join("site"));
    graph.args(["--name", "site"]).run()?.ok()?;
    eventually(STARTED, "it has the scout's files", || {
        ensure!(n1.log_text().contains("the files of the scout are here"), "not yet");
        Ok(())
    })
}

/// A repository of debian-installer's components: one, which it takes by itself.
fn components(lab: &Lab) -> Result<()> {
    let control = "Package: p2pinst-component\nVersion: 1\nArchitecture: all\n\
        Section: debian-installer\nPriority: standard\nInstaller-Menu-Item: 2500\n\
        Maintainer: p2pinst <root@localhost>\nDescription: Say whose machine it is\n";
    write(lab, "component/DEBIAN/control", control)?;
    let script = write(lab, "component/DEBIAN/postinst", COMPONENT)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    // what a menu entry is called
    let template = "Template: debian-installer/p2pinst-component/title\nType: text\n\
        Description: Say whose machine it is\n";
    write(lab, "component/DEBIAN/templates", template)?;
    let list = "dists/bookworm/main/debian-installer/binary-amd64/Packages";
    let list_at = write(lab, &format!("packages/{list}"), "")?;
    let packages = lab.dir().join("packages");
    fs::create_dir_all(packages.join("pool")).context("cannot make a directory")?;
    let build = Exec::new("dpkg-deb").arg("--build").arg(lab.dir().join("component"));
    build.arg(packages.join("pool/p2pinst-component_1_all.udeb")).run()?.ok()?;
    let index = Exec::new("sh").args(["-c", "cd \"$0\" && dpkg-scanpackages -tudeb pool"]);
    fs::write(&list_at, index.arg(&packages).run()?.ok()?.stdout).context("cannot write")?;
    let sum = run("sha256sum", [&list_at])?;
    let sum = sum.split_whitespace().next().context("no sum")?.to_owned();
    let size = fs::metadata(&list_at).context("no list")?.len();
    let entry = list.trim_start_matches("dists/bookworm/");
    let release = format!(
        "Suite: stable\nCodename: bookworm\nArchitectures: all amd64\nComponents: main\nSHA256:\n {sum} {size} {entry}\n"
    );
    write(lab, "packages/dists/bookworm/Release", &release)?;
    // by that it knows that there is something for it
    let there = "Suite: stable\nComponent: main\nArchitecture: amd64\n";
    write(lab, "packages/dists/bookworm/main/binary-amd64/Release", there)?;
    Ok(())
}

/// Debian-installer's kernel and initrd, kept from test to test; the reason where they cannot be had.
fn debian_installer() -> Result<std::result::Result<PathBuf, String>> {
    let dir = os::cache()?.join("d-i");
    if !dir.join(TEXT).join("initrd.gz").exists() {
        fs::create_dir_all(&dir).context("cannot make a directory")?;
        let fetch = "cd \"$0\" && apt-get download \"$1\" && dpkg-deb -x \"$1\"_*.deb .";
        let fetch = Exec::new("sh").args(["-c", fetch]).arg(&dir).arg(NETBOOT);
        let done = fetch.limit(STARTED).run()?;
        if done.code != Some(0) {
            return Ok(Err(format!("no {NETBOOT}: {done}")));
        }
    }
    Ok(Ok(dir.join(TEXT)))
}

#[test]
#[ignore = "takes minutes of an emulated machine, and fetches 130 MB of Debian: run it by its name"]
fn debian_installer_finds_its_answers_and_a_component_at_a_peer() {
    if lacks("dpkg-scanpackages", "dpkg-dev") || lacks("apt-get", "apt") {
        return;
    }
    if let Some(why) = why_no_machines() {
        return skipped(&why);
    }
    let netboot = match debian_installer().expect("a cache") {
        Ok(netboot) => netboot,
        Err(why) => return skipped(&why),
    };
    scenario(1, |lab| {
        let site = site(lab, 1, PATIENCE)?;
        let n1 = lab.node(1)?;
        let publish = n1.cli(["image", "publish"]).arg(netboot.join("linux")).arg("--initrd");
        let publish = publish.arg(netboot.join("initrd.gz")).args(["--name", "d-i"]);
        publish.limit(LATER).run()?.ok()?;
        components(lab)?;
        prepare(lab, &scout(lab, n1)?, DEBIAN)?;
        let mac = Mac([0x52, 0x54, 0, 0x77, 0, 0x22]);
        n1.ok(["machine", "adopt", &mac.to_string(), "--name", "b2"])?;
        let setup = write(lab, "setup.toml", DEBIAN_SETUP)?;
        let deploy = n1.cli(["deploy", "--setup"]).arg(&setup);
        deploy.args(["--nodes", "b2", "--yes"]).run()?.ok()?;
        let spec = Spec::new("b2", Firmware::Uefi { http: true }, mac).memory(1536);
        let vm = Vm::new(&site.segment, spec.disk(DISK, "DISK2", Bus::Virtio))?;
        vm.power_on()?;
        let ran = "the component has run on b2: identity node.key";
        vm.wait_for(ran, ASKED).with_context(|| vm.serial_tail(80))
    });
}

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
        let publish = n1.cli(["image", "publish"]).arg(made.join("vmlinuz")).arg("--initrd");
        let publish = publish.arg(made.join("initrd")).args(["--name", "stand-in"]);
        publish.limit(LATER).run()?.ok()?;
        let write = |name: &str, text: &str| write(lab, name, text);
        write("packages/pool/package", "what is installed")?;
        prepare(lab, &made, COMPUTE)?;

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
