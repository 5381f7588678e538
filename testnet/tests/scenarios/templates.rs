//! Templates: published on one node, shown on another, and rendered by a scout into the system that it installs.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use p2pinst_api::request::{Info, ReadRoots};
use p2pinst_api::{Client, DataDir};
use p2pinst_testnet::bins::Bins;
use p2pinst_testnet::exec::{Done, Exec, run};
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Invite, Lab, Node};
use p2pinst_trust::ScoutCluster;
use serde::Deserialize;

use crate::harness::{LATER, lacks, scenario};
use crate::repository::arm;

const GRAPH: &str = r#"
[appliances]
compute = "computes"
login = "people"

[[edge]]
from = "compute"
to = "gpu"
when = "gpu=true"
"#;
const COMPUTE: &str = r#"
[user-data]
main = """
hostname: {{ name }}
final_message: "{{ site }} {{ labels.gpu }} {{ macs[0] }} {{ groups | join(',') }} {{ partitions[0].mount }} {{ appliance }}"
"""
"#;
const GPU: &str = "packages = [\"nvidia-driver\"]\n";
const SETUP: &str = r#"
name = "test"

[[disk]]
match = {}
wipe = "once"

[[disk.partition]]
label = "root"
size = "rest"
filesystem = "ext4"
mount = "/"
image = "tree"

[[file]]
path = "/var/lib/cloud/seed/nocloud/user-data"
template = "site"
appliance = "compute"

[boot]
next = "none"
bootloader = "none"
"#;

/// A loop device over a sparse file; goes when it is dropped.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn new(file: &Path) -> Result<Self> {
        fs::File::create(file).and_then(|f| f.set_len(64 << 20)).context("cannot make a disk")?;
        let said = run("losetup", ["--show".as_ref(), "-f".as_ref(), file.as_os_str()])?;
        Ok(Self { path: said.trim().into() })
    }

    fn name(&self) -> Result<&str> {
        self.path.file_name().and_then(|n| n.to_str()).context("no name")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for (program, args) in [("partx", "-d"), ("losetup", "-d")] {
            Exec::new(program).arg(args).arg(&self.path).run().ok();
        }
    }
}

/// A small system as a tar archive.
fn tree(lab: &Lab) -> Result<PathBuf> {
    let tree = lab.dir().join("tree");
    for dir in ["etc", "usr/bin", "var/lib"] {
        fs::create_dir_all(tree.join(dir)).context("cannot make a directory")?;
    }
    fs::write(tree.join("etc/os-release"), "ID=test\n").context("cannot write")?;
    let tar = lab.dir().join("tree.tar");
    let pack = Exec::new("tar").arg("-C").arg(&tree).args(["--numeric-owner", "-cf"]).arg(&tar);
    pack.arg(".").run()?.ok()?;
    Ok(tar)
}

/// The file that says of which cluster a scout is.
fn cluster_file(lab: &Lab, node: &Node) -> Result<PathBuf> {
    let dir = DataDir::new(node.data());
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    let bytes = runtime.block_on(async {
        let mut client = Client::connect(&dir).await.context("no node")?;
        let info = client.call(Info {}).await.context("no answer")?;
        let roots = client.call(ReadRoots {}).await.context("no roots")?.chain;
        ScoutCluster { cluster: info.cluster, roots, peers: vec![] }.encode().context("no file")
    })?;
    let path = lab.dir().join("cluster.cbor");
    fs::write(&path, bytes).context("cannot write")?;
    Ok(path)
}

#[derive(Debug, Deserialize)]
struct Rendered {
    appliance: String,
    nodes: Vec<String>,
    text: String,
}

/// What is in a file of the first partition of a disk.
fn inside(lab: &Lab, disk: &Loop, path: &str) -> Result<String> {
    let at = lab.dir().join("mounted");
    fs::create_dir_all(&at).context("cannot make a directory")?;
    // as the plan lays it out
    let mount = Exec::new("mount").args(["-o", "ro,loop,offset=1048576"]).arg(&disk.path).arg(&at);
    mount.run()?.ok()?;
    let text = fs::read_to_string(at.join(path));
    run("umount", [&at])?;
    text.with_context(|| format!("no {path}"))
}

#[test]
fn a_scout_renders_what_the_setup_wants() {
    if lacks("losetup", "mount") || lacks("sfdisk", "fdisk") || lacks("mkfs.ext4", "e2fsprogs") {
        return;
    }
    let loops = fs::metadata("/dev/loop-control").is_ok_and(|m| m.file_type().is_char_device());
    if !loops {
        return crate::harness::skipped("no loop devices");
    }
    scenario(3, |lab| {
        lab.form(2, &Invite::default())?;
        let (n1, n2) = (lab.node(1)?, lab.node(2)?);
        n1.ok(["grant", "n2", "--role", "boot"])?;
        arm(n2)?;
        let site = lab.dir().join("site");
        fs::create_dir_all(site.join("nodes")).context("cannot make a directory")?;
        let write =
            |name: &str, text: &str| fs::write(site.join(name), text).context("cannot write");
        write("graph.toml", GRAPH)?;
        write("nodes/compute.toml", COMPUTE)?;
        write("nodes/gpu.toml", GPU)?;
        let site = site.to_str().context("no text")?;
        n1.ok(["template", "publish", site, "--name", "site"])?;
        let tar = tree(lab)?;
        n1.cli(["image", "publish"]).arg(&tar).args(["--name", "tree"]).limit(LATER).run()?.ok()?;

        // the machine: a namespace with a disk
        let host = lab.node(3)?;
        let disk = Loop::new(&lab.dir().join("disk.raw"))?;
        let link = host.exec("cat").arg("/sys/class/net/eth0/address").run()?.ok()?.stdout;
        let mac = link.trim();
        n1.ok(["machine", "adopt", mac, "--name", "b1", "--label", "gpu=true"])?;
        let setup = lab.dir().join("setup.toml");
        let ordered = |n: &Node, text: &str| {
            fs::write(&setup, text).context("cannot write")?;
            let deploy = n.cli(["deploy", "--setup"]).arg(&setup);
            deploy.args(["--nodes", "b1", "--power", "none", "--yes"]).run()
        };
        let missing = ordered(n1, &SETUP.replace("\"site\"", "\"none\""))?.fails_with(1)?;
        ensure!(missing.stderr.contains("none"), "{missing}");
        ordered(n1, SETUP)?.ok()?;

        let bins = Bins::find()?;
        let log = lab.dir().join("scout.log");
        let scout = host.exec("sh").args(["-c", "exec \"$@\" 2> \"$0\""]).arg(&log);
        let scout = scout.arg(&bins.daemon).args(["scout", "--stay", "--nic", "eth0", "--dir"]);
        let scout = scout.arg(lab.dir().join("scout")).arg("--cluster");
        let scout = scout.arg(cluster_file(lab, n1)?).arg("--disk").arg(disk.name()?);
        let peer = format!("{}:4080", n2.host().ip);
        let ended = scout.arg("--peer").arg(peer).limit(LATER).run();
        let said = || fs::read_to_string(&log).unwrap_or_default();
        ended.and_then(Done::ok).with_context(said)?;
        let text = inside(lab, &disk, "var/lib/cloud/seed/nocloud/user-data")?;
        ensure!(text.contains("hostname: b1"), "{text}");
        ensure!(text.contains(&format!("true {mac} all")), "{text}");
        ensure!(text.contains("/ compute") && text.contains("nvidia-driver"), "{text}");
        // shown by a node that did not publish it, from what the scout has told
        let shown: Rendered = eventually(LATER, "it is rendered", || {
            let render = n2.cli(["render", "b1", "user-data", "--appliance", "compute", "--json"]);
            render.arg("--setup").arg(&setup).run()?.ok()?.json()
        })?;
        ensure!((shown.appliance.as_str(), shown.nodes.len()) == ("compute", 2), "{shown:?}");
        ensure!(shown.text.trim() == text.trim(), "{}\n{text}", shown.text);
        let which = n2.refused(1, ["render", "b1", "user-data"])?;
        ensure!(which.stderr.contains("compute, login"), "{which}");
        Ok(())
    });
}
