//! The machine that this runs on, with its own disk and firmware: for a virtual machine that is made for this.
//!
//! It wants a blank disk with the serial number `P2PINST-LAB`, and an archive of a system with a kernel, GRUB and systemd-boot at
//! `P2PINST_TREE`. The disk starts by itself afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;

use p2pinst_boot::setup::apply::{Cause, Nodes};
use p2pinst_boot::setup::document::Rendering;
use p2pinst_boot::setup::{
    Context, Epoch, ImageFacts, ImageKind, Plan, Request, Roots, Setup, Subject, apply, inventory,
    plan, probe,
};
use p2pinst_types::{MachineId, Name};

use super::lab::{Copies, MIB, name};

const DOCUMENT: &str = r#"
name = "machine"
hostname = "{{name}}"
[[disk]]
match = { serial = "P2PINST-LAB" }
wipe = "once"
[[disk.partition]]
label = "bios"
type = "bios-boot"
size = "1MiB"
[[disk.partition]]
label = "esp"
type = "esp"
size = "200MiB"
mount = "/boot/efi"
[[disk.partition]]
label = "root"
size = "rest"
filesystem = "ext4"
mount = "/"
image = "tree"
[[disk.partition]]
label = "swap"
size = "64MiB"
filesystem = "swap"
[[file]]
path = "/etc/default/grub"
content = "GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX=\"console=ttyS0\"\n"
[[file]]
path = "/etc/kernel/cmdline"
content = "rw console=ttyS0\n"
[[file]]
path = "/etc/systemd/system/multi-user.target.d/lab.conf"
content = "[Unit]\nWants=lab.service\n"
[[file]]
path = "/etc/systemd/system/lab.service"
content = """
[Unit]
After=swap.target local-fs.target
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c 'echo LAB-STARTED on $(hostname) id $(wc -c </etc/machine-id); findmnt -lno TARGET,FSTYPE --real; cat /proc/swaps; systemctl --no-block poweroff'
"""
"#;

fn plan_here() -> Plan {
    let inventory = inventory::read(&Roots::default());
    let disks: Vec<_> = inventory
        .disks
        .iter()
        .filter(|d| d.serial.as_deref() == Some("P2PINST-LAB"))
        .cloned()
        .collect();
    let found = probe::read(&Roots::default(), &disks).unwrap();
    let images: BTreeMap<Name, ImageFacts> =
        [(name("tree"), ImageFacts { kind: ImageKind::Tar, size: 500 * MIB })].into();
    let subject = Subject { machine: MachineId([5; 16]), name: name("node05"), epoch: Epoch(1) };
    let setup = Setup::parse(DOCUMENT).unwrap();
    let templates = BTreeSet::new();
    let request = Request {
        setup: &setup,
        subject: &subject,
        inventory: &inventory,
        found: &found,
        images: &images,
        templates: &templates,
    };
    plan(&request).unwrap_or_else(|refusals| panic!("{refusals}"))
}

#[test]
#[ignore = "erases the disk P2PINST-LAB of the machine that it runs on"]
fn this_very_machine() {
    let tree = env::var("P2PINST_TREE").expect("P2PINST_TREE names an archive");
    let dir = tempfile::tempdir().unwrap();
    symlink(tree, dir.path().join("tree.tar")).unwrap();
    let plan = plan_here();
    eprintln!("{}", plan.describe());
    let images = Copies(dir.path().to_owned());
    let templates = |_: &Rendering| -> Result<String, Cause> { Err("there are none".into()) };
    let work = dir.path().join("work");
    let watch = |_: &_| ControlFlow::Continue(());
    let (roots, nodes) = (Roots::default(), Nodes::Kernel);
    let context = Context {
        roots,
        work: &work,
        nodes,
        images: &images,
        templates: &templates,
        agent: &[],
        watch: &watch,
    };
    let applied = apply(&plan, &context).unwrap_or_else(|error| panic!("{error}"));
    eprintln!("{applied:?}");
    let again = plan_here();
    assert!(again.steps.is_empty() && again.hash() == plan.hash(), "{}", again.describe());
}
