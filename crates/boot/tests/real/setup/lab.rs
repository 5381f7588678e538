//! A machine with disks: a sysfs of files, and loop devices over sparse files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use p2pinst_boot::setup::apply::{Applied, ApplyError, Cause, Nodes};
use p2pinst_boot::setup::document::Rendering;
use p2pinst_boot::setup::plan::Step;
use p2pinst_boot::setup::{
    Context, Epoch, Found, ImageFacts, ImageKind, Images, Inject, Plan, Refusals, Request, Roots,
    Setup, Subject, apply, inventory, plan, probe, release,
};
use p2pinst_types::record::{Firmware, Inventory};
use p2pinst_types::{Hash, MachineId, Name};

pub(super) const MIB: u64 = 1 << 20;

/// Whether this is root; says so when not.
pub(super) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// Whether the kernel mounts these filesystems; says so when not.
pub(super) fn has_filesystem(kind: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    let known = known.lines().any(|line| line.split_whitespace().last() == Some(kind));
    if !known {
        eprintln!("SKIPPED: this kernel has no {kind}");
    }
    known
}

/// Whether the kernel has LVM's device-mapper; says so when not.
pub(super) fn has_volumes() -> bool {
    let known = fs::read_to_string("/proc/devices").unwrap().contains("device-mapper");
    if !known {
        eprintln!("SKIPPED: this kernel has no device-mapper");
    }
    known
}

/// Unmounts a directory, which other tests' programs may have open for a moment.
pub(super) fn unmount(dir: &Path) {
    for _ in 0..200 {
        if Command::new("umount").arg(dir).output().unwrap().status.success() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    eprintln!("{} cannot be unmounted", dir.display());
    let _later = Command::new("umount").arg("-l").arg(dir).output();
}

/// What a program says; it must succeed.
pub(super) fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A disk of a lab.
pub(super) struct LabDisk {
    pub(super) name: &'static str,
    pub(super) serial: Option<&'static str>,
    pub(super) size: u64,
    pub(super) sector: u32,
}

impl LabDisk {
    pub(super) fn new(name: &'static str, serial: &'static str, mib: u64) -> Self {
        Self { name, serial: Some(serial), size: mib * MIB, sector: 512 }
    }
}

pub(super) struct Lab {
    pub(super) dir: PathBuf,
    /// Who made it takes it apart.
    pub(super) rig: Option<Rig>,
    pub(super) firmware: Firmware,
    pub(super) nodes: Nodes,
    pub(super) epoch: u64,
    pub(super) agent: Vec<Inject>,
}

impl Lab {
    pub(super) fn new(disks: &[LabDisk]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().to_owned();
        for sub in ["sys/block", "proc", "dev", "images", "work"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        symlink("/proc/self/mounts", dir.join("proc/mounts")).unwrap();
        symlink("/proc/swaps", dir.join("proc/swaps")).unwrap();
        let mut lab = Self::at(&dir);
        lab.rig = Some(Rig { dir, loops: Vec::new(), _temp: temp });
        disks.iter().for_each(|disk| lab.add(disk));
        lab
    }

    /// The lab that another process has made.
    pub(super) fn at(dir: &Path) -> Self {
        let (firmware, nodes) = (Firmware::Uefi, Nodes::Auto);
        Self { dir: dir.to_owned(), rig: None, firmware, nodes, epoch: 1, agent: Vec::new() }
    }

    fn add(&mut self, disk: &LabDisk) {
        let file = self.file(disk.name);
        fs::File::create(&file).unwrap().set_len(disk.size).unwrap();
        let sector = disk.sector.to_string();
        // with partitions by the kernel possible: whether it is so is the way's own matter
        let device =
            said("losetup", &["--show", "-f", "-P", "-b", &sector, file.to_str().unwrap()]);
        let device = PathBuf::from(device.trim());
        // a run that was killed may have left partitions on it
        let _gone = Command::new("partx").arg("-d").arg(&device).output();
        symlink(&device, self.dev(disk.name)).unwrap();
        self.rig.as_mut().unwrap().loops.push(device);
        let sys = self.dir.join("sys/block").join(disk.name);
        fs::create_dir_all(sys.join("device")).unwrap();
        fs::write(sys.join("size"), (disk.size / 512).to_string()).unwrap();
        fs::write(sys.join("device/model"), "LAB DISK\n").unwrap();
        if let Some(serial) = disk.serial {
            fs::write(sys.join("device/serial"), serial).unwrap();
        }
    }

    pub(super) fn file(&self, disk: &str) -> PathBuf {
        self.dir.join(format!("{disk}.img"))
    }

    pub(super) fn dev(&self, disk: &str) -> PathBuf {
        self.dir.join("dev").join(disk)
    }

    pub(super) fn roots(&self) -> Roots {
        let sub = |name: &str| self.dir.join(name);
        Roots {
            sys: sub("sys"),
            proc: sub("proc"),
            dev: sub("dev"),
            also: Vec::new(),
            nics: Vec::new(),
        }
    }

    pub(super) fn inventory(&self) -> Inventory {
        Inventory { firmware: self.firmware, ..inventory::read(&self.roots()) }
    }

    pub(super) fn found(&self) -> Found {
        probe::read(&self.roots(), &self.inventory().disks).unwrap()
    }

    /// The images in the lab's directory: `x.tar`, `x.disk`, `x.part`.
    fn facts(&self) -> BTreeMap<Name, ImageFacts> {
        let files = fs::read_dir(self.dir.join("images")).unwrap().flatten();
        let fact = |entry: fs::DirEntry| {
            let file = entry.file_name().into_string().unwrap();
            let (stem, kind) = file.rsplit_once('.').unwrap();
            let kind = match kind {
                "tar" => ImageKind::Tar,
                "disk" => ImageKind::Disk,
                _ => ImageKind::Partition,
            };
            (name(stem), ImageFacts { kind, size: entry.metadata().unwrap().len() })
        };
        files.map(fact).collect()
    }

    pub(super) fn plan(&self, document: &str) -> Result<Plan, Refusals> {
        release(&self.dir.join("work")).unwrap();
        let setup = Setup::parse(&format!("name = \"lab\"\n{document}")).unwrap();
        // of its own, as btrfs wants no two filesystems with one identifier on a machine
        let hash = Hash::of(self.dir.as_os_str().as_encoded_bytes());
        let subject = Subject {
            machine: MachineId::from_slice(&hash.as_bytes()[..16]).unwrap(),
            name: name("node01"),
            epoch: Epoch(self.epoch),
        };
        plan(&Request {
            setup: &setup,
            subject: &subject,
            inventory: &self.inventory(),
            found: &self.found(),
            images: &self.facts(),
            templates: &BTreeSet::from([name("motd")]),
        })
    }

    pub(super) fn apply(&self, plan: &Plan) -> Result<Applied, ApplyError> {
        self.apply_watched(plan, &|_| ControlFlow::Continue(()))
    }

    pub(super) fn apply_watched(
        &self,
        plan: &Plan,
        watch: &dyn Fn(&Step) -> ControlFlow<()>,
    ) -> Result<Applied, ApplyError> {
        let images = Copies(self.dir.join("images"));
        let templates = |wanted: &Rendering| -> Result<String, Cause> {
            Ok(format!("rendered {} as {}\n", wanted.templates, wanted.format))
        };
        let work = self.dir.join("work");
        apply(
            plan,
            &Context {
                roots: self.roots(),
                work: &work,
                nodes: self.nodes,
                images: &images,
                templates: &templates,
                agent: &self.agent,
                watch,
            },
        )
    }

    /// Plans and applies; then nothing is to be done any more.
    pub(super) fn set_up(&self, document: &str) -> Plan {
        let first = self.plan(document).unwrap();
        self.apply(&first).unwrap();
        self.settled(document, &first);
        first
    }

    pub(super) fn settled(&self, document: &str, first: &Plan) {
        let second = self.plan(document).unwrap();
        assert_eq!(second.steps, [], "{}", second.describe());
        assert_eq!(second.hash(), first.hash(), "{}\n{}", first.describe(), second.describe());
    }

    /// Looks into the filesystem of a partition, which is mounted for that.
    pub(super) fn inside<T>(&self, disk: &str, number: u32, look: impl FnOnce(&Path) -> T) -> T {
        let found = self.found();
        let parts = &found.disks[disk].table.as_ref().unwrap().partitions;
        let part = parts.iter().find(|part| part.number == number).unwrap();
        let sector = found.disks[disk].sector.to_string();
        let (start, size) = (part.start.to_string(), part.size.to_string());
        let disk = self.dev(disk);
        let device = said(
            "losetup",
            &[
                "--show",
                "-f",
                "-b",
                &sector,
                "-o",
                &start,
                "--sizelimit",
                &size,
                disk.to_str().unwrap(),
            ],
        );
        let mounted =
            Mounted { device: device.trim().to_owned(), dir: tempfile::tempdir().unwrap().keep() };
        said("mount", &[&mounted.device, mounted.dir.to_str().unwrap()]);
        look(&mounted.dir)
    }

    /// What is in the whole disk, to be compared.
    pub(super) fn hash(&self, disk: &str) -> String {
        said("sha256sum", &[self.file(disk).to_str().unwrap()])
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    }

    /// A tree of files as an image.
    pub(super) fn tar(&self, image: &str, make: impl FnOnce(&Path)) {
        let tree = tempfile::tempdir().unwrap();
        make(tree.path());
        let file = self.dir.join("images").join(format!("{image}.tar"));
        said(
            "tar",
            &[
                "-C",
                tree.path().to_str().unwrap(),
                "--numeric-owner",
                "-cf",
                file.to_str().unwrap(),
                ".",
            ],
        );
    }
}

pub(super) struct Rig {
    dir: PathBuf,
    loops: Vec<PathBuf>,
    _temp: tempfile::TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _released = release(&self.dir.join("work"));
        for device in &self.loops {
            let _gone = Command::new("partx").arg("-d").arg(device).output();
            let _gone = Command::new("losetup").arg("-d").arg(device).output();
        }
    }
}

struct Mounted {
    device: String,
    dir: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.dir);
        let _gone = Command::new("losetup").args(["-d", &self.device]).output();
        // never what is in it: that would be a disk's
        let _gone = fs::remove_dir(&self.dir);
    }
}

/// Is there, beside the images, when they were let go of.
pub(super) const LET_GO: &str = "../let-go";

/// Images that are files in a directory.
pub(super) struct Copies(pub(super) PathBuf);

impl Images for Copies {
    fn write_raw(&self, image: &Name, device: &Path) -> Result<Vec<u8>, Cause> {
        let from = ["disk", "part"].map(|kind| self.0.join(format!("{image}.{kind}")));
        let from = from.into_iter().find(|path| path.exists()).ok_or("no such image")?;
        let (bytes, to) = (fs::read(from)?, fs::OpenOptions::new().write(true).open(device)?);
        let (head, rest) = bytes.split_at(bytes.len().min(1 << 20));
        to.write_all_at(rest, head.len() as u64)?;
        to.sync_all()?;
        Ok(head.to_vec())
    }

    fn let_go(&self) -> Result<(), Cause> {
        let table = fs::read_to_string("/proc/self/mounts")?;
        let root = fs::canonicalize(self.0.join("..").join("work/root")).unwrap_or_default();
        let root = root.to_str().filter(|root| !root.is_empty());
        let mounted = table.lines().filter_map(|line| line.split(' ').nth(1));
        match root.is_some_and(|root| mounted.into_iter().any(|path| path.starts_with(root))) {
            true => Err("the new system is mounted already".into()),
            false => Ok(fs::write(self.0.join(LET_GO), b"")?),
        }
    }

    fn extract_tar(&self, image: &Name, dir: &Path) -> Result<(), Cause> {
        let tar = self.0.join(format!("{image}.tar"));
        let done = Command::new("tar").arg("-C").arg(dir).arg("-xf").arg(tar).output()?;
        if done.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&done.stderr).into())
        }
    }
}
