//! Which filesystems of a disk are mounted, and where on the disk they begin.
//!
//! The kernel may know a partition as one, or as a loop device over the disk or its file: both are followed (sysfs, proc(5)).

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Dev, major, makedev, minor};

/// Partitions of loop devices over files of partitions: deeper nobody builds.
const DEPTH: usize = 4;

/// A mounted filesystem.
#[derive(Debug, Clone)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) writable: bool,
    /// Where it begins on the disk.
    start: u64,
}

/// What of a disk is in use.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    mounts: Vec<Mount>,
    /// Where parts begin that something else holds: a volume manager, swapping, an array.
    held: Vec<u64>,
}

/// A disk, or a file with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Device(Dev),
    File(Dev, u64),
}

impl Mounts {
    /// What is mounted of this device or file.
    pub(super) fn of(meta: &Metadata) -> io::Result<Self> {
        let thing = if meta.file_type().is_block_device() {
            Thing::Device(meta.rdev())
        } else {
            Thing::File(meta.dev(), meta.ino())
        };
        let mut found = Self::default();
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            let Some((dev, point, writable)) = parse(line) else { continue };
            if let Some(start) = place(dev, thing) {
                found.mounts.push(Mount { point, writable, start });
            }
        }
        for entry in fs::read_dir("/sys/class/block")? {
            let path = entry?.path();
            let held = fs::read_dir(path.join("holders")).is_ok_and(|mut dir| dir.next().is_some());
            if held && let Some(start) = device(&path).and_then(|dev| place(dev, thing)) {
                found.held.push(start);
            }
        }
        Ok(found)
    }

    /// The mounts of what begins here.
    pub(super) fn at(&self, start: u64) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(move |mount| mount.start == start)
    }

    /// Whether something else than a mount holds what begins here.
    pub(super) fn is_held(&self, start: u64) -> bool {
        self.held.contains(&start)
    }
}

/// Device, mount point, and whether the filesystem is mounted for writing anywhere.
fn parse(line: &str) -> Option<(Dev, PathBuf, bool)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let fields: Vec<_> = mount.split(' ').collect();
    let mut about = filesystem.split(' ');
    let (_kind, source, options) = (about.next()?, about.next()?, about.next()?);
    let dev = number(fields.get(2)?)?;
    // btrfs and others have numbers of no device
    let dev = match major(dev) {
        0 => {
            fs::metadata(unescape(source)).ok().filter(|m| m.file_type().is_block_device())?.rdev()
        }
        _ => dev,
    };
    let writable = options.split(',').next() != Some("ro");
    Some((dev, unescape(fields.get(4)?), writable))
}

fn number(text: &str) -> Option<Dev> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Blanks, tabs, line feeds and backslashes are written in octal.
fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.and_then(|d| u8::from_str_radix(d, 8).ok());
        match (byte, code) {
            (b'\\', Some(code)) => {
                out.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

/// Where a device begins on the disk, if it is of it.
fn place(dev: Dev, on: Thing) -> Option<u64> {
    let mut at = Thing::Device(dev);
    let mut start = 0_u64;
    for _ in 0..DEPTH {
        if at == on {
            return Some(start);
        }
        let Thing::Device(dev) = at else { return None };
        let dir = Path::new("/sys/dev/block").join(format!("{}:{}", major(dev), minor(dev)));
        let more;
        (at, more) = below(&dir)?;
        start = start.checked_add(more)?;
    }
    None
}

/// What a device is a part of, and where it begins there.
fn below(dir: &Path) -> Option<(Thing, u64)> {
    if dir.join("partition").exists() {
        let disk = dir.canonicalize().ok()?;
        let sectors: u64 = read(&disk.join("start"))?.parse().ok()?;
        return Some((Thing::Device(device(disk.parent()?)?), sectors.checked_mul(512)?));
    }
    let offset: u64 = read(&dir.join("loop/offset"))?.parse().ok()?;
    let file = fs::metadata(read(&dir.join("loop/backing_file"))?).ok()?;
    let thing = if file.file_type().is_block_device() {
        Thing::Device(file.rdev())
    } else {
        Thing::File(file.dev(), file.ino())
    };
    Some((thing, offset))
}

fn device(dir: &Path) -> Option<Dev> {
    number(&read(&dir.join("dev"))?)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let line = r"36 35 98:2 / /mnt\040two\134x rw,noatime shared:1 master:2 - ext3 /dev/x ro,errors=continue";
        let (dev, point, writable) = parse(line).unwrap();
        assert_eq!((major(dev), minor(dev)), (98, 2));
        assert_eq!(point, Path::new(r"/mnt two\x"));
        assert!(!writable, "the filesystem decides, not one of its mounts");
        assert!(parse("36 35 0:2 / /proc rw - proc proc rw").is_none());
        for bad in ["", "a - b", "1 2 3:4 / /x rw - ext4"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
