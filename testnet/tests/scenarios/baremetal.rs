//! From a blank machine to a member: any peer boots it, its image comes from the swarm, its own system checks in.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use p2pinst_api::DataDir;
use p2pinst_testnet::bins::Bins;
use p2pinst_testnet::exec::{Exec, run};
use p2pinst_testnet::net::{Sites, Wan};
use p2pinst_testnet::os::{self, BANNER, why_no_image};
use p2pinst_testnet::vm::{
    Bmc, Bus, Firmware, ForeignDhcp, Offer, PASSWORD, Range, Segment, Spec, USER, Vm,
    why_no_machines,
};
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Invite, Lab, LabOptions, Node};
use p2pinst_trust::{ScoutCluster, keytext};
use p2pinst_types::Mac;
use serde::Deserialize;

use crate::harness::{LATER, SOON, lacks, scenario, scenario_in, skipped};
use crate::repository::arm;

/// Firmware, a scout and a whole Debian, three machines at once emulated by two processors that do other things too.
const INSTALLED: Duration = Duration::from_secs(900);
const DHCP: Ipv4Addr = Ipv4Addr::new(10, 77, 250, 1);
const RANGE: Range =
    Range { first: Ipv4Addr::new(10, 77, 200, 1), last: Ipv4Addr::new(10, 77, 200, 99) };
/// The image, and the disk that it goes to, in MiB.
const IMAGE: u64 = 640;
const DISK: u64 = 1024;

/// How long a machine may say nothing, in seconds, where nobody is killed: longer than it takes, however busy the processors are.
pub(crate) const PATIENCE: u32 = 1800;
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
match = { min_size = "1GB" }
wipe = "once"
image = "debian"
grow = true
"#;

/// A cluster whose nodes boot machines, and the site's own DHCP server beside it.
pub(crate) struct Site<'a> {
    lab: &'a Lab,
    pub(crate) segment: Segment,
    _dhcp: ForeignDhcp,
}

/// A scout of this build, kept from test to test.
pub(crate) fn scout(lab: &Lab, node: &Node) -> Result<PathBuf> {
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
    gives_no_secret_away(lab, &dir)?;
    Ok(dir)
}

/// Anybody on the segment may download a scout: no key of the lab is in its files.
fn gives_no_secret_away(lab: &Lab, scout: &Path) -> Result<()> {
    let mut secrets = Vec::new();
    let dirs = lab.nodes().iter().map(|node| DataDir::new(node.data()));
    let dirs: Vec<_> = dirs.filter(|dir| dir.node_key().exists()).collect();
    for dir in &dirs {
        let mut files = vec![dir.node_key()];
        if dir.keys().exists() {
            let entries = fs::read_dir(dir.keys()).context("cannot read the keys")?;
            let entries = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
            files.extend(entries.into_iter().filter(|p| p.extension().is_some_and(|e| e == "key")));
        }
        for file in files {
            let text = fs::read(&file).with_context(|| format!("no {}", file.display()))?;
            let (_, key) = keytext::read(&text).with_context(|| format!("{}", file.display()))?;
            secrets.push(key.to_seed().to_vec());
            let mut words = text.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
            secrets.push(words.next_back().context("an empty key")?.to_vec());
        }
    }
    // of the nodes, and of the operator who made the cluster
    ensure!(secrets.len() > 2 * dirs.len(), "only {} secrets", secrets.len());
    let read = |name: &str| fs::read(scout.join(name)).with_context(|| format!("no {name}"));
    // one compressed archive, and that of the cluster as it is
    let initrd = read("initrd")?;
    let mut unpacked = Vec::new();
    let frame = zstd::Decoder::with_buffer(&initrd[..]).context("not compressed")?.single_frame();
    frame.take(1 << 30).read_to_end(&mut unpacked).context("cannot unpack the initrd")?;
    let has = |bytes: &[u8], what: &[u8]| memchr::memmem::find(bytes, what).is_some();
    // what is looked for is found where it is
    ensure!(has(&initrd, ScoutCluster::PATH.trim_start_matches('/').as_bytes()), "no cluster");
    ensure!(has(&unpacked, b"usr/sbin/p2pinstd"), "no daemon");
    let files = [
        ("vmlinuz", read("vmlinuz")?),
        ("scout.efi", read("scout.efi")?),
        ("initrd", initrd),
        ("what is in the initrd", unpacked),
    ];
    for (name, bytes) in files {
        ensure!(!secrets.iter().any(|s| has(&bytes, s)), "there is a key in {name}");
    }
    Ok(())
}

/// That many nodes of the lab boot machines, and switch their power.
pub(crate) fn site<'a>(lab: &'a Lab, nodes: usize, patience: u32) -> Result<Site<'a>> {
    let segment = Segment::of(lab)?;
    lab.form(nodes, &Invite::default())?;
    let first = lab.node(1)?;
    for node in lab.nodes().iter().take(nodes) {
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

    /// Orders that all of them be installed, and returns the order's name.
    fn deploy(&self, rack: &[Blank]) -> Result<String> {
        let first = self.node(1)?;
        let password = self.lab.dir().join("password");
        fs::write(&password, PASSWORD).context("cannot write the password")?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        for blank in rack {
            let (name, mac) = (blank.name(), blank.vm.mac().to_string());
            first.ok(["machine", "adopt", &mac, "--name", name])?;
            let line = format!("ipmi://{}", blank.bmc.ip());
            let set = first.cli(["power", "set", name, &line, "--user", USER, "--password-file"]);
            set.arg(&password).run()?.ok()?;
        }
        let setup = self.lab.dir().join("setup.toml");
        fs::write(&setup, SETUP).context("cannot write the setup")?;
        let nodes = format!("b[1-{}]", rack.len());
        let deploy = first.cli(["deploy", "--setup"]).arg(&setup);
        let done = deploy.args(["--nodes", &nodes, "--power", "cycle", "--yes"]).run()?.ok()?;
        let order = done.stdout.split_whitespace().next().unwrap_or_default().to_owned();
        ensure!(order.contains('-'), "no name of an order: {done}");
        Ok(order)
    }

    /// How far each machine of an order is.
    fn progress(&self, order: &str) -> Result<Vec<Order>> {
        let progress: Progress = self.living()?.json(["status", order])?;
        ensure!(!progress.lines.is_empty(), "no machine");
        Ok(progress.lines.into_iter().map(|line| line.order).collect())
    }

    fn wait_for_health(&self, order: &str) -> Result<()> {
        eventually(INSTALLED, "all machines are healthy", || {
            let healthy = self.progress(order)?.iter().all(|machine| machine.state == "healthy");
            ensure!(healthy, "{}", self.living()?.ok(["status", order])?);
            Ok(())
        })
    }

    /// What the nodes saw of the machines.
    fn seen(&self) -> String {
        let log = |node: &Node| node.ok(["boot", "log"]).unwrap_or_default();
        self.lab.nodes().iter().map(|n| format!("== {}\n{}", n.name(), log(n))).collect()
    }
}

/// A machine with nothing on it, and its controller.
struct Blank {
    vm: Vm,
    bmc: Bmc,
}

impl Blank {
    /// The n-th of a rack.
    fn new(segment: &Segment, n: u8, firmware: Firmware) -> Result<Self> {
        let (name, mac) = (format!("b{n}"), Mac([0x52, 0x54, 0, 0x77, 0, 0x10 + n]));
        let spec = Spec::new(&name, firmware, mac).memory(1024);
        let vm = Vm::new(segment, spec.disk(DISK << 20, &format!("DISK{n}"), Bus::Virtio))?;
        let bmc = Bmc::start(segment, &vm, Ipv4Addr::new(10, 77, 251, n))?;
        Ok(Self { vm, bmc })
    }

    fn name(&self) -> &str {
        &self.vm.spec().name
    }

    /// What was asked of its controller that switches it.
    fn switched(&self) -> Result<Vec<String>> {
        let asked = self.vm.asked()?;
        Ok(asked.into_iter().filter(|a| a.starts_with("set power")).collect())
    }

    /// Waits until the system that was installed says who it is.
    fn wait_for_its_own_system(&self) -> Result<()> {
        self.vm.wait_for(&format!("{BANNER} one, as {}", self.name()), INSTALLED)
    }
}

/// From nothing to members; `meanwhile` is what happens on the way.
fn install(
    rack: &[Firmware],
    patience: u32,
    meanwhile: impl FnOnce(&Site<'_>, &[Blank], &str) -> Result<()>,
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
        let numbered = (1..).zip(rack.iter().copied());
        let blanks = numbered.map(|(n, firmware)| Blank::new(&site.segment, n, firmware));
        let rack: Vec<Blank> = blanks.collect::<Result<_>>()?;
        let order = site.deploy(&rack)?;
        let done = meanwhile(&site, &rack, &order)
            .and_then(|()| rack.iter().try_for_each(Blank::wait_for_its_own_system))
            .and_then(|()| site.wait_for_health(&order));
        let tails = || rack.iter().map(|b| b.vm.serial_tail(60)).collect::<Vec<_>>().join("\n");
        done.with_context(tails).with_context(|| site.seen())?;
        // they are members like any other, and what is ordered for all they get
        eventually(SOON, "they are in the roster", || {
            let roster = site.living()?.ok(["node", "ls"])?;
            ensure!(rack.iter().all(|blank| roster.contains(blank.name())), "{roster}");
            Ok(())
        })
    });
}

#[test]
fn a_rack_of_blank_machines_is_powered_and_boots_as_each_can_and_all_become_members() {
    // UEFI HTTP Boot, UEFI PXE, BIOS by iPXE
    let rack = [Firmware::Uefi { http: true }, Firmware::Uefi { http: false }, Firmware::Bios];
    install(&rack, PATIENCE, |_, rack, _| {
        for blank in rack {
            blank.vm.wait_for(CERTIFIED, INSTALLED)?;
            // once: on, where it is off already
            let switched = blank.switched()?;
            ensure!(switched == ["set power 1"], "{switched:?}\n{}", blank.bmc.log());
        }
        Ok(())
    });
}

/// What PXE firmware of UEFI says, as perfdhcp takes it, for one machine.
const FIRMWARE: [&str; 8] = [
    "-b",
    "mac=52:54:00:77:00:11",
    "-o",
    "60,505845436c69656e743a417263683a30303030373a554e44493a303033303136",
    "-o",
    "93,0007",
    "-o",
    "94,010310",
];

/// From memory: it knows nobody outside of its site any more, and needs nobody.
#[test]
fn an_armed_machine_is_offered_its_file_though_the_site_is_cut_off() {
    if lacks("perfdhcp", "kea-admin") {
        return;
    }
    if let Some(why) = why_no_image() {
        return skipped(&why);
    }
    let wan = Wan { rate: None, delay: Duration::from_millis(10) };
    let sites = Some(Sites { count: 2, wan });
    scenario_in(&LabOptions::hosts(4).sites(sites), |lab| {
        lab.form(3, &Invite::default())?;
        let (first, there) = (lab.node(1)?, lab.node(3)?);
        first.ok(["grant", there.name(), "--role", "boot"])?;
        arm(there)?;
        let scout = scout(lab, first)?;
        first.cli(["scout", "publish"]).arg(&scout).limit(LATER).run()?.ok()?;
        first.ok(["machine", "adopt", "52:54:00:77:00:11", "--name", "b1"])?;
        first.ok(["boot", "arm", "b1", "--inspect"])?;
        eventually(LATER, "it has the scout's files, and the order", || {
            ensure!(there.log_text().contains("the files of the scout are here"), "no files");
            ensure!(there.ok(["boot", "ls"])?.contains("b1"), "no order");
            Ok(())
        })?;
        lab.network().switch()?.cut_site(2)?;
        let machine = lab.node(4)?;
        let ask = machine.exec("perfdhcp").args(["-4", "-i", "-R", "1", "-r", "10", "-p", "5"]);
        let ask = ask.args(["-W", "1000000", "-l", &machine.host().ip.to_string()]).args(FIRMWARE);
        // it ends with 3 where some were not answered before it had asked for the last time
        let report = ask.arg(there.host().ip.to_string()).limit(SOON).run()?.stdout;
        let number = |what: &str| {
            let line = report.lines().find_map(|line| line.trim().strip_prefix(what));
            line.and_then(|n| n.trim().parse::<u64>().ok()).with_context(|| report.clone())
        };
        let (sent, answered) = (number("sent packets:")?, number("received packets:")?);
        let delays: Vec<_> = report.lines().filter(|line| line.contains("delay")).collect();
        eprintln!("{answered} of {sent} answered; {}", delays.join(", "));
        ensure!(sent > 25 && answered + 2 >= sent, "{report}");
        let log = there.ok(["boot", "log"])?;
        ensure!(log.contains("offered a boot file"), "{log}");
        Ok(())
    });
}

/// What a course of faults needs of one stage of the way.
impl Site<'_> {
    /// The node that has offered the machine a boot file.
    fn offers(&self) -> Result<&Node> {
        eventually(INSTALLED, "a node offers a boot file", || {
            for node in self.lab.nodes().iter().filter(|n| n.pid().is_ok()) {
                let log = node.ok(["boot", "log"])?;
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
            let (done, of) = self.progress(order)?[0].done.unwrap_or_default();
            ensure!(of > 0 && done * 2 >= of, "{done} of {of}");
            Ok(())
        })
    }
}

#[test]
#[ignore = "takes minutes of an emulated machine: run it by its name"]
fn the_machine_comes_up_though_whoever_boots_it_is_killed_at_each_stage() {
    install(&[Firmware::Uefi { http: true }], IMPATIENCE, |site, rack, order| {
        let blank = &rack[0];
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
        blank.vm.wait_for(CERTIFIED, INSTALLED)?;
        second.start()?;
        // who has booted it, while the disk is written
        site.half_written(order)?;
        first.kill()
    });
}

#[test]
#[ignore = "takes minutes of an emulated machine: run it by its name"]
fn a_machine_that_loses_power_goes_on_where_it_was() {
    install(&[Firmware::Uefi { http: true }], IMPATIENCE, |site, rack, order| {
        let blank = &rack[0];
        blank.vm.wait_for(CERTIFIED, INSTALLED)?;
        site.half_written(order)?;
        blank.vm.power_off()?;
        blank.vm.forget();
        // nobody switches it on but the node that misses it
        blank.vm.wait_for(CERTIFIED, INSTALLED)?;
        blank.vm.wait_for("were here", INSTALLED)
    });
}
