//! From a blank machine to a member: any peer boots it, its image comes from the swarm, its own system checks in.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use p2pinst_testnet::bins::Bins;
use p2pinst_testnet::exec::{Exec, run};
use p2pinst_testnet::os::{self, BANNER, why_no_image};
use p2pinst_testnet::vm::{
    Bmc, Bus, Firmware, ForeignDhcp, Offer, PASSWORD, Range, Segment, Spec, USER, Vm,
    why_no_machines,
};
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Invite, Lab, Node};
use serde::Deserialize;

use crate::harness::{LATER, SOON, lacks, scenario, skipped};

/// Firmware, a scout and a whole Debian, emulated on a busy machine.
const INSTALLED: Duration = Duration::from_secs(540);
const DHCP: Ipv4Addr = Ipv4Addr::new(10, 77, 250, 1);
const RANGE: Range =
    Range { first: Ipv4Addr::new(10, 77, 200, 1), last: Ipv4Addr::new(10, 77, 200, 99) };
/// The image, and the disk that it goes to, in MiB.
const IMAGE: u64 = 640;
const DISK: u64 = 1024;

const MAC: &str = "52:54:00:77:00:11";
const CONTROLLER: Ipv4Addr = Ipv4Addr::new(10, 77, 251, 1);
/// How long the machine may say nothing, in seconds, where nobody is killed.
const PATIENCE: u32 = 300;
/// The same where its peers are: it boots in less.
const IMPATIENCE: u32 = 60;
/// What a scout says when it has its certificate.
const CERTIFIED: &str = "this machine is the scout of its order now";
/// Who has sent so many bytes to a machine that has nothing sends it the scout.
const LOADED: u64 = 8 << 20;

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

fn site<'a>(lab: &'a Lab, nodes: usize, patience: u32) -> Result<Site<'a>> {
    let segment = Segment::of(lab)?;
    lab.form(nodes, &Invite::default())?;
    let first = lab.node(1)?;
    for node in lab.nodes() {
        first.ok(["grant", node.name(), "--role", "boot", "--role", "power"])?;
        node.stop()?;
        let config = node.data().join("config.toml");
        let text = fs::read_to_string(&config).context("no configuration")?;
        ensure!(text.contains("mode = \"off\""), "{text}");
        let text = text.replace("mode = \"off\"", "mode = \"armed\"");
        let text = text.replace("patience_secs = 300", &format!("patience_secs = {patience}"));
        fs::write(&config, text).context("cannot write")?;
        node.start()?;
    }
    let dhcp = ForeignDhcp::start(&segment, "dhcp", DHCP, RANGE, &Offer::Nothing)?;
    Ok(Site { lab, segment, _dhcp: dhcp })
}

#[derive(Debug, Deserialize)]
struct Published {
    images: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    image: Image,
}

#[derive(Debug, Deserialize)]
struct Image {
    kind: String,
    files: BTreeMap<String, Blob>,
}

#[derive(Debug, Deserialize)]
struct Blob {
    root: String,
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
    /// Bytes that are written, of how many.
    done: Option<(u64, u64)>,
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
        let published: Published = first.json(["image", "ls"])?;
        let images = published.images.into_iter().map(|listed| listed.image);
        let debian = images.filter(|i| i.kind == "disk").flat_map(|i| i.files.into_values());
        let root = debian.last().context("no image")?.root;
        for node in self.lab.nodes() {
            if node.name() != first.name() {
                node.cli(["fetch", &root]).limit(INSTALLED).run()?.ok()?;
            }
            eventually(INSTALLED, "it has the scout's files", || {
                ensure!(node.log_text().contains("the files of the scout are here"), "not yet");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Orders an installation, and returns the order's name.
    fn deploy(&self, name: &str, blank: &Blank) -> Result<String> {
        let first = self.node(1)?;
        first.ok(["machine", "adopt", MAC, "--name", name])?;
        let password = self.lab.dir().join("password");
        fs::write(&password, PASSWORD).context("cannot write the password")?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        let line = format!("ipmi://{}", blank.bmc.ip());
        let set = first.cli(["power", "set", name, &line, "--user", USER, "--password-file"]);
        set.arg(password).run()?.ok()?;
        let setup = self.lab.dir().join("setup.toml");
        fs::write(&setup, SETUP).context("cannot write the setup")?;
        let deploy = first.cli(["deploy", "--setup"]).arg(&setup);
        let done = deploy.args(["--nodes", name, "--power", "cycle", "--yes"]).run()?.ok()?;
        let order = done.stdout.split_whitespace().next().unwrap_or_default().to_owned();
        ensure!(order.contains('-'), "no name of an order: {done}");
        Ok(order)
    }

    fn wait_for_health(&self, order: &str, vm: &Vm) -> Result<()> {
        let healthy = eventually(INSTALLED, "the machine is healthy", || {
            let progress: Progress = self.living()?.json(["status", order])?;
            let machine = progress.lines.first().context("no machine")?;
            ensure!(machine.order.state == "healthy", "{}", self.living()?.ok(["status", order])?);
            Ok(())
        });
        healthy.with_context(|| vm.serial_tail(80)).with_context(|| self.seen())
    }

    /// What the nodes saw of the machine.
    fn seen(&self) -> String {
        let log = |node: &Node| node.ok(["boot", "log", "b1"]).unwrap_or_default();
        self.lab.nodes().iter().map(|n| format!("== {}\n{}", n.name(), log(n))).collect()
    }
}

/// A machine with nothing on it, and its controller.
struct Blank {
    vm: Vm,
    bmc: Bmc,
}

impl Blank {
    fn new(segment: &Segment, firmware: Firmware) -> Result<Self> {
        let spec = Spec::new("b1", firmware, MAC.parse()?).memory(1024);
        let vm = Vm::new(segment, spec.disk(DISK << 20, "DISK1", Bus::Virtio))?;
        let bmc = Bmc::start(segment, &vm, CONTROLLER)?;
        Ok(Self { vm, bmc })
    }

    /// What was asked of its controller that switches it.
    fn switched(&self) -> Result<Vec<String>> {
        let asked = self.vm.asked()?;
        Ok(asked.into_iter().filter(|a| a.starts_with("set power")).collect())
    }
}

/// From nothing to a member; `meanwhile` is what happens on the way.
fn installs(
    firmware: Firmware,
    patience: u32,
    meanwhile: impl FnOnce(&Site<'_>, &Blank, &str) -> Result<()>,
) {
    if lacks("ipmi_sim", "openipmi") || lacks("ipmitool", "ipmitool") {
        return;
    }
    if let Some(why) = why_no_machines().or_else(why_no_image) {
        return skipped(&why);
    }
    scenario(3, |lab| {
        let site = site(lab, 3, patience)?;
        site.publish("one")?;
        let blank = Blank::new(&site.segment, firmware)?;
        let order = site.deploy("b1", &blank)?;
        meanwhile(&site, &blank, &order)?;
        let installed = blank.vm.wait_for(&format!("{BANNER} one, as b1"), INSTALLED);
        installed.with_context(|| site.seen())?;
        site.wait_for_health(&order, &blank.vm)?;
        // it is a member like any other, and what is ordered for all it gets
        eventually(SOON, "it is in the roster", || {
            ensure!(site.living()?.ok(["node", "ls"])?.contains("b1"));
            Ok(())
        })
    });
}

/// Its power is switched once: off, where it is off already, and on.
fn started_once(_: &Site<'_>, blank: &Blank, _: &str) -> Result<()> {
    blank.vm.wait_for(CERTIFIED, INSTALLED)?;
    let switched = blank.switched()?;
    ensure!(switched == ["set power 1"], "{switched:?}\n{}", blank.bmc.log());
    Ok(())
}

#[test]
fn a_blank_uefi_machine_is_powered_boots_by_http_and_becomes_a_member() {
    installs(Firmware::Uefi { http: true }, PATIENCE, started_once);
}

#[test]
#[ignore = "takes minutes of an emulated machine: run it by its name"]
fn a_blank_uefi_machine_boots_by_pxe_and_becomes_a_member() {
    installs(Firmware::Uefi { http: false }, PATIENCE, started_once);
}

#[test]
#[ignore = "takes minutes of an emulated machine: run it by its name"]
fn a_blank_bios_machine_boots_by_ipxe_and_becomes_a_member() {
    installs(Firmware::Bios, PATIENCE, started_once);
}

/// What a course of faults needs of one stage of the way.
impl Site<'_> {
    /// The node that has offered the machine a boot file.
    fn offers(&self) -> Result<&Node> {
        eventually(INSTALLED, "a node offers a boot file", || {
            for node in self.lab.nodes().iter().filter(|n| n.pid().is_ok()) {
                let log = node.ok(["boot", "log", "b1"])?;
                if log.contains("offered a boot file") {
                    return Ok(node);
                }
            }
            bail!("nobody has")
        })
    }

    /// The node that sends the scout: `LOADED` bytes have left it since those were counted.
    fn serves(&self, before: &[u64]) -> Result<&Node> {
        eventually(INSTALLED, "a node sends the scout", || {
            for (node, before) in self.lab.nodes().iter().zip(before) {
                if node.sent()? > before + LOADED {
                    return Ok(node);
                }
            }
            bail!("nobody does")
        })
    }

    fn sent(&self) -> Result<Vec<u64>> {
        self.lab.nodes().iter().map(Node::sent).collect()
    }

    /// A node that runs.
    fn living(&self) -> Result<&Node> {
        self.lab.nodes().iter().find(|n| n.pid().is_ok()).context("no node runs")
    }

    /// Waits until half of the image is on the machine's disk.
    fn half_written(&self, order: &str) -> Result<()> {
        eventually(INSTALLED, "half of the image is written", || {
            let progress: Progress = self.living()?.json(["status", order])?;
            let machine = progress.lines.first().context("no machine")?;
            let (done, of) = machine.order.done.unwrap_or_default();
            ensure!(of > 0 && done * 2 >= of, "{done} of {of}");
            Ok(())
        })
    }
}

#[test]
#[ignore = "takes minutes of an emulated machine: run it by its name"]
fn the_machine_comes_up_though_whoever_boots_it_is_killed_at_each_stage() {
    installs(Firmware::Uefi { http: true }, IMPATIENCE, |site, blank, order| {
        // who offers: the firmware finds nobody there, and the machine is started once more
        let first = site.offers()?;
        first.kill()?;
        eventually(INSTALLED, "its power is switched once more", || {
            let switched = blank.switched()?;
            ensure!(
                switched.ends_with(&["set power 0".into(), "set power 1".into()]),
                "{switched:?}"
            );
            Ok(())
        })?;
        // who sends the scout
        let before = site.sent()?;
        let second = site.serves(&before)?;
        ensure!(second.name() != first.name(), "a dead node serves");
        first.start()?;
        second.kill()?;
        blank.vm.wait_for(CERTIFIED, INSTALLED).with_context(|| site.seen())?;
        second.start()?;
        // who has booted it, while the disk is written
        site.half_written(order)?;
        first.kill()
    });
}

#[test]
#[ignore = "takes minutes of an emulated machine: run it by its name"]
fn a_machine_that_loses_power_goes_on_where_it_was() {
    installs(Firmware::Uefi { http: true }, IMPATIENCE, |site, blank, order| {
        blank.vm.wait_for(CERTIFIED, INSTALLED)?;
        site.half_written(order)?;
        blank.vm.power_off()?;
        blank.vm.forget();
        // nobody switches it on but the node that misses it
        blank.vm.wait_for(CERTIFIED, INSTALLED).with_context(|| site.seen())?;
        blank.vm.wait_for("were here", INSTALLED)
    });
}
