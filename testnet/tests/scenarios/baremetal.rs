//! From a blank machine to a member: any peer boots it, its image comes from the swarm, its own system checks in.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::bins::Bins;
use p2pinst_testnet::exec::{Exec, run};
use p2pinst_testnet::os::{self, BANNER, why_no_image};
use p2pinst_testnet::vm::{
    Bus, Firmware, ForeignDhcp, Offer, Range, Segment, Spec, Vm, why_no_machines,
};
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Invite, Lab, Node};
use serde::Deserialize;

use crate::harness::{LATER, SOON, scenario, skipped};

/// Firmware, a scout and a whole Debian, emulated on a busy machine.
const INSTALLED: Duration = Duration::from_secs(540);
const DHCP: Ipv4Addr = Ipv4Addr::new(10, 77, 250, 1);
const RANGE: Range =
    Range { first: Ipv4Addr::new(10, 77, 200, 1), last: Ipv4Addr::new(10, 77, 200, 99) };
/// The image, and the disk that it goes to, in MiB.
const IMAGE: u64 = 640;
const DISK: u64 = 1024;

const SETUP: &str = r#"
name = "test"
hostname = "{{name}}"
agent = true

[[disk]]
match = { serial = "DISK1" }
wipe = "once"
image = "debian"
grow = true
"#;

/// A cluster whose nodes boot machines, and the site's own DHCP server beside it.
struct Site<'a> {
    lab: &'a Lab,
    segment: Segment,
    _dhcp: ForeignDhcp,
}

/// A scout of this build, kept from test to test.
fn scout(lab: &Lab, node: &Node) -> Result<PathBuf> {
    let dir = lab.dir().join("scout");
    let bins = Bins::find()?;
    let slim = lab.dir().join("slim");
    fs::create_dir_all(&slim).context("cannot make a directory")?;
    for (program, name) in [(&bins.daemon, "p2pinstd"), (&bins.cli, "p2pinst")] {
        let to = slim.join(name);
        run("strip", ["-o".as_ref(), to.as_os_str(), program.as_os_str()])?;
    }
    let cache = os::cache()?.join("scout");
    let build = Exec::new(slim.join("p2pinst")).arg("--data-dir").arg(node.data());
    let build = build.args(["scout", "build", "--kernel", "cloud", "--quick", "--out"]).arg(&dir);
    build.arg("--cache").arg(cache).limit(Duration::from_secs(600)).run()?.ok()?;
    Ok(dir)
}

fn site<'a>(lab: &'a Lab, nodes: usize) -> Result<Site<'a>> {
    let segment = Segment::of(lab)?;
    lab.form(nodes, &Invite::default())?;
    let first = lab.node(1)?;
    for node in lab.nodes() {
        first.ok(["grant", node.name(), "--role", "boot", "--role", "power"])?;
        node.stop()?;
        let config = node.data().join("config.toml");
        let text = fs::read_to_string(&config).context("no configuration")?;
        ensure!(text.contains("mode = \"off\""), "{text}");
        fs::write(&config, text.replace("mode = \"off\"", "mode = \"armed\""))
            .context("cannot write")?;
        node.start()?;
    }
    let dhcp = ForeignDhcp::start(&segment, "dhcp", DHCP, RANGE, &Offer::Nothing)?;
    Ok(Site { lab, segment, _dhcp: dhcp })
}

#[derive(Debug, Deserialize)]
struct Progress {
    lines: Vec<Machine>,
}

#[derive(Debug, Deserialize)]
struct Machine {
    order: Order,
}

#[derive(Debug, Deserialize)]
struct Order {
    state: String,
}

impl Site<'_> {
    fn node(&self, n: usize) -> Result<&Node> {
        self.lab.node(n)
    }

    /// Publishes the scout and the image, and brings both to all nodes.
    fn publish(&self, version: &str) -> Result<()> {
        let first = self.node(1)?;
        let scout = scout(self.lab, first)?;
        first.cli(["scout", "publish"]).arg(&scout).limit(LATER).run()?.ok()?;
        let image = self.lab.dir().join("debian.raw");
        os::make(&image, IMAGE, version)?;
        let publish = first.cli(["image", "publish"]).arg(&image).args(["--name", "debian"]);
        publish.limit(INSTALLED).run()?.ok()?;
        Ok(())
    }

    /// Orders an installation, and returns the order's name.
    fn deploy(&self, name: &str, mac: &str) -> Result<String> {
        let first = self.node(1)?;
        first.ok(["machine", "adopt", mac, "--name", name])?;
        let setup = self.lab.dir().join("setup.toml");
        fs::write(&setup, SETUP).context("cannot write the setup")?;
        let deploy = first.cli(["deploy", "--setup"]).arg(&setup);
        let done = deploy.args(["--nodes", name, "--power", "none", "--yes"]).run()?.ok()?;
        let order = done.stdout.split_whitespace().next().unwrap_or_default().to_owned();
        ensure!(order.contains('-'), "no name of an order: {done}");
        Ok(order)
    }

    fn wait_for_health(&self, order: &str, vm: &Vm) -> Result<()> {
        let healthy = eventually(INSTALLED, "the machine is healthy", || {
            let progress: Progress = self.node(1)?.json(["status", order])?;
            let machine = progress.lines.first().context("no machine")?;
            ensure!(machine.order.state == "healthy", "{}", self.node(1)?.ok(["status", order])?);
            Ok(())
        });
        healthy.with_context(|| vm.serial_tail(80))
    }
}

fn installs(firmware: Firmware) {
    if let Some(why) = why_no_machines().or_else(why_no_image) {
        return skipped(&why);
    }
    scenario(3, |lab| {
        let site = site(lab, 3)?;
        site.publish("one")?;
        let mac = "52:54:00:77:00:11";
        let order = site.deploy("b1", mac)?;
        let spec = Spec::new("b1", firmware, mac.parse()?).memory(1024);
        let vm = Vm::new(&site.segment, spec.disk(DISK << 20, "DISK1", Bus::Virtio))?;
        vm.power_on()?;
        vm.wait_for("this machine is the scout of its order now", INSTALLED)?;
        vm.wait_for(&format!("{BANNER} one, as b1"), INSTALLED)?;
        site.wait_for_health(&order, &vm)?;
        // it is a member like any other, and what is ordered for all it gets
        let n2 = site.node(2)?;
        eventually(SOON, "it is in the roster", || {
            ensure!(n2.ok(["node", "ls"])?.contains("b1"));
            Ok(())
        })
    });
}

#[test]
#[ignore = "takes minutes of an emulated machine: run it by its name"]
fn a_blank_uefi_machine_boots_by_http_and_becomes_a_member() {
    installs(Firmware::Uefi { http: true });
}

#[test]
#[ignore = "takes minutes of an emulated machine: run it by its name"]
fn a_blank_uefi_machine_boots_by_pxe_and_becomes_a_member() {
    installs(Firmware::Uefi { http: false });
}

#[test]
#[ignore = "takes minutes of an emulated machine: run it by its name"]
fn a_blank_bios_machine_boots_by_ipxe_and_becomes_a_member() {
    installs(Firmware::Bios);
}
