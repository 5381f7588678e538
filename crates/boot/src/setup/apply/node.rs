//! The way from a partition to a device: the kernel's own, or a loop device over its place on the disk.
//!
//! The kernel is told of partitions one by one (BLKPG): it need not read their table, which may be still to come. Where that is
//! not possible, a loop device reaches the same bytes.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::error::IoContext;
use super::tool::Tool;
use super::{ApplyError, Nodes};

/// How long the kernel and udev may take to show a partition.
const APPEAR: Duration = Duration::from_secs(5);
/// Between two looks for it.
const AGAIN: Duration = Duration::from_millis(50);

/// Where a partition lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) number: u32,
    pub(super) start: u64,
    pub(super) size: u64,
}

/// A device for a partition; a loop device goes with it.
#[derive(Debug)]
pub(super) enum Node {
    Kernel(PathBuf),
    Loop(LoopDevice),
}

impl Node {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Kernel(path) => path,
            Self::Loop(device) => &device.path,
        }
    }
}

/// A loop device. The kernel takes it apart when nobody has it open any more: also after a kill.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    fn over(disk: &Path, slice: Slice, sector: u32) -> Result<Self, ApplyError> {
        let what = format!("reach partition {} of {}", slice.number, disk.display());
        let said = Tool::new("losetup", what.clone())
            .args(["--show", "-f", "-b"])
            .arg(sector.to_string())
            .args(["-o", &slice.start.to_string(), "--sizelimit", &slice.size.to_string()])
            .arg(disk)
            .run()?;
        let path = PathBuf::from(said.trim());
        if !path.is_absolute() {
            return Err(ApplyError::NoNode { what, why: format!("losetup says {said:?}") });
        }
        let opened = File::open(&path).on("open", &path);
        // what the kernel was told of whatever was on this loop device before: it outlives that, and mkfs.vfat refuses
        // devices with partitions
        forget(&path);
        // of one that is open this only says that it goes when it is closed
        Tool::new("losetup", what).arg("-d").arg(&path).run()?;
        Ok(Self { path, _open: opened? })
    }
}

/// A way to a partition of `disk`.
pub(super) fn node(
    nodes: Nodes,
    disk: &Path,
    slice: Slice,
    sector: u32,
) -> Result<Node, ApplyError> {
    let kernel = || in_kernel(disk, slice);
    let found = match nodes {
        Nodes::Loop => None,
        Nodes::Kernel | Nodes::Auto => kernel()?,
    };
    match (found, nodes) {
        (Some(path), _) => Ok(Node::Kernel(path)),
        (None, Nodes::Kernel) => Err(ApplyError::NoNode {
            what: format!("partition {} of {}", slice.number, disk.display()),
            why: "the kernel shows no device for it".to_owned(),
        }),
        (None, _) => LoopDevice::over(disk, slice, sector).map(Node::Loop),
    }
}

/// Tells the kernel of the partitions of a disk, as they are in its table now. Whether it takes them is seen by
/// who needs one.
pub(super) fn tell_kernel(disk: &Path) {
    let known = Tool::new("partx", "tell the kernel of partitions").arg("-u").arg(disk).succeeds();
    if !known {
        let _asked = Tool::new("blockdev", "read the partition table again")
            .arg("--rereadpt")
            .arg(disk)
            .succeeds();
    }
    let _settled =
        Tool::new("udevadm", "wait for udev").args(["settle", "--timeout=10"]).succeeds();
}

/// Makes the kernel forget the partitions of a disk.
pub(super) fn forget(disk: &Path) {
    let _forgotten = Tool::new("partx", "forget partitions").arg("-d").arg(disk).succeeds();
}

/// The kernel's device for a partition, where there is one and it lies where it should.
fn in_kernel(disk: &Path, slice: Slice) -> Result<Option<PathBuf>, ApplyError> {
    let real = fs::canonicalize(disk).on("find", disk)?;
    let Some(name) = real.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
    let between = if name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    let path = Path::new("/dev").join(format!("{name}{between}{}", slice.number));
    if lies_at(&path, slice) {
        return Ok(Some(path));
    }
    let shown =
        || Path::new("/sys/class/block").join(path.file_name().unwrap_or_default()).exists();
    let (number, what) = (slice.number.to_string(), "tell the kernel of a partition");
    if shown() {
        let _gone = Tool::new("delpart", what).arg(disk).arg(&number).succeeds();
    }
    // of this one alone: the table may be still to come
    let (start, size) = ((slice.start / 512).to_string(), (slice.size / 512).to_string());
    let _known = Tool::new("addpart", what).arg(disk).args([&number, &start, &size]).succeeds();
    // only the name in /dev may come later
    let shown = shown();
    let deadline = Instant::now() + APPEAR;
    while shown && Instant::now() < deadline {
        if lies_at(&path, slice) {
            return Ok(Some(path));
        }
        thread::sleep(AGAIN);
    }
    Ok(None)
}

fn lies_at(path: &Path, slice: Slice) -> bool {
    let Ok(node) = fs::metadata(path) else { return false };
    let (major, minor) = (rustix::fs::major(node.rdev()), rustix::fs::minor(node.rdev()));
    let dir = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let value =
        |key| fs::read_to_string(dir.join(key)).ok()?.trim().parse::<u64>().ok()?.checked_mul(512);
    node.file_type().is_block_device()
        && (value("start"), value("size")) == (Some(slice.start), Some(slice.size))
}
