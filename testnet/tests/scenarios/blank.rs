//! Machines with nothing on them that are namespaces: the scout is a process there, the disk a loop device.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use p2pinst_testnet::bins::Bins;
use p2pinst_testnet::exec::{Done, Exec, run};
use p2pinst_testnet::{Lab, Node};

use crate::harness::{lacks, skipped};

/// The size of a disk.
const DISK: u64 = 64 << 20;
/// One partition, with the archive `tree` in it, and no boot loader: nobody starts it.
pub(crate) const SETUP: &str = r#"
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

[boot]
next = "none"
bootloader = "none"
"#;

/// Whether what such machines need is missing, which is said.
pub(crate) fn lacks_disks() -> bool {
    let loops = fs::metadata("/dev/loop-control").is_ok_and(|m| m.file_type().is_char_device());
    if !loops {
        skipped("no loop devices");
    }
    !loops
        || lacks("losetup", "mount")
        || lacks("sfdisk", "fdisk")
        || lacks("mkfs.ext4", "e2fsprogs")
}

/// A loop device over a sparse file; goes when it is dropped.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn new(file: &Path) -> Result<Self> {
        fs::File::create(file).and_then(|f| f.set_len(DISK)).context("cannot make a disk")?;
        let said = run("losetup", ["--show".as_ref(), "-f".as_ref(), file.as_os_str()])?;
        Ok(Self { path: said.trim().into() })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for (program, args) in [("partx", "-d"), ("losetup", "-d")] {
            Exec::new(program).arg(args).arg(&self.path).run().ok();
        }
    }
}

/// See the module.
pub(crate) struct Blank<'a> {
    lab: &'a Lab,
    host: &'a Node,
    disk: Loop,
    /// Where its scout asks for a code; none: nowhere.
    pub(crate) consoles: Vec<PathBuf>,
}

impl<'a> Blank<'a> {
    pub(crate) fn new(lab: &'a Lab, host: &'a Node) -> Result<Self> {
        let disk = Loop::new(&lab.dir().join(format!("{}.disk", host.name())))?;
        Ok(Self { lab, host, disk, consoles: Vec::new() })
    }

    /// The address of its network card.
    pub(crate) fn mac(&self) -> Result<String> {
        let shown = self.host.exec("cat").arg("/sys/class/net/eth0/address").run()?.ok()?;
        Ok(shown.stdout.trim().to_owned())
    }

    /// Runs a scout of a cluster until its machine is installed, and no longer than this. It asks whom that file names, and
    /// these.
    pub(crate) fn scout(
        &self,
        cluster: &Path,
        peers: &[&Node],
        limit: Duration,
    ) -> Result<Scouted> {
        let (dir, log) = (self.lab.dir(), self.lab.dir().join("scout.log"));
        let secs = limit.as_secs().to_string();
        let scout = self.host.exec("sh").args(["-c", "exec timeout \"$@\" 2> \"$0\""]).arg(&log);
        let scout = scout.arg(&secs).arg(Bins::find()?.daemon);
        let scout = scout.args(["scout", "--stay", "--nic", "eth0", "--dir"]);
        let scout = scout.arg(dir.join("scout")).arg("--cluster").arg(cluster);
        let disk = self.disk.path.file_name().context("no name")?;
        let mut scout = scout.arg("--disk").arg(disk);
        for console in &self.consoles {
            scout = scout.arg("--console").arg(console);
        }
        if self.consoles.is_empty() {
            scout = scout.args(["--console", "/dev/null"]);
        }
        for peer in peers {
            scout = scout.arg("--peer").arg(format!("{}:4080", peer.host().ip));
        }
        let done = scout.limit(limit + Duration::from_secs(30)).run()?;
        Ok(Scouted { done, said: fs::read_to_string(log).unwrap_or_default() })
    }

    /// What is in a file of its first partition.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        let at = self.lab.dir().join("mounted");
        fs::create_dir_all(&at).context("cannot make a directory")?;
        // as the plan lays it out
        let mount = Exec::new("mount").args(["-o", "ro,loop,offset=1048576"]);
        mount.arg(&self.disk.path).arg(&at).run()?.ok()?;
        let bytes = fs::read(at.join(path));
        run("umount", [&at])?;
        bytes.with_context(|| format!("no {path}"))
    }

    /// Whether nobody has written anything to its disk.
    pub(crate) fn is_blank(&self) -> Result<bool> {
        let bytes = fs::read(&self.disk.path).context("cannot read the disk")?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }
}

/// The file that says of which cluster a scout is.
pub(crate) fn cluster_file(lab: &Lab, node: &Node) -> Result<PathBuf> {
    let path = lab.dir().join(format!("{}.cluster", node.name()));
    node.cli(["scout", "cluster"]).arg(&path).run()?.ok()?;
    Ok(path)
}

/// How a scout ended.
pub(crate) struct Scouted {
    done: Done,
    pub(crate) said: String,
}

impl Scouted {
    /// It must have ended by itself, with its machine installed.
    pub(crate) fn installed(self) -> Result<String> {
        self.done.ok().with_context(|| self.said.clone())?;
        Ok(self.said)
    }
}

/// A small system as a tar archive: these files, and what every system has.
pub(crate) fn tree(lab: &Lab, name: &str, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    let tree = lab.dir().join(name);
    for dir in ["etc", "usr/bin", "var/lib"] {
        fs::create_dir_all(tree.join(dir)).context("cannot make a directory")?;
    }
    for (path, content) in [("etc/os-release", &b"ID=test\n"[..])].iter().chain(files) {
        fs::write(tree.join(path), content).context("cannot write")?;
    }
    let tar = lab.dir().join(format!("{name}.tar"));
    let pack = Exec::new("tar").arg("-C").arg(&tree).args(["--numeric-owner", "-cf"]).arg(&tar);
    pack.arg(".").run()?.ok()?;
    Ok(tar)
}
