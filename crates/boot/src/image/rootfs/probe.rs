//! Whether a filesystem holds what an archive has: tried out, once for each kind and filesystem.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::process::{Gid, Uid};

use super::open_beneath;
use crate::image::archive::{Entry, What};
use crate::image::tree::namespace;

/// An ACL as the kernel stores it (posix_acl_xattr.h): version 2; owner, user 1, group, mask and others may read.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 4, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255,
    255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

/// What a filesystem may not hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trait {
    Owner,
    Symlink,
    HardLink,
    Fifo,
    Device,
    Acl,
    Attribute(String),
}

/// Something that a filesystem does not hold.
#[derive(Debug)]
pub(super) struct ProbeError {
    pub(super) what: String,
    pub(super) source: io::Error,
}

/// What was tried out already.
#[derive(Debug, Default)]
pub(super) struct Probe {
    held: HashSet<(u64, Trait)>,
    /// The directory that was last looked up, and its device.
    last: Option<(Vec<u8>, u64)>,
}

impl Probe {
    /// Whether the filesystem at the entry's place holds what it has.
    pub(super) fn check(&mut self, target: &OwnedFd, entry: &Entry) -> Result<(), ProbeError> {
        for (needed, xattr) in needs(entry) {
            let device = self.device(target, entry.place.parent());
            let device = device.map_err(|source| wrong("files", source))?;
            if self.held.contains(&(device, needed.clone())) {
                continue;
            }
            let near = nearest(target, entry.place.parent()).map_err(|e| wrong("files", e))?;
            let dir = try_in(&near).map_err(|e| wrong("files", e))?;
            try_out(dir.path(), &needed, entry, xattr).map_err(|e| wrong(&needed.words(), e))?;
            drop((dir, near));
            self.held.insert((device, needed));
        }
        Ok(())
    }

    fn device(&mut self, target: &OwnedFd, parent: &[u8]) -> io::Result<u64> {
        if let Some((last, device)) = &self.last
            && last == parent
        {
            return Ok(*device);
        }
        let device = fs::metadata(proc_path(&nearest(target, parent)?))?.dev();
        self.last = Some((parent.to_vec(), device));
        Ok(device)
    }
}

fn wrong(what: &str, source: io::Error) -> ProbeError {
    ProbeError { what: what.to_owned(), source }
}

impl Trait {
    fn words(&self) -> String {
        match self {
            Self::Owner => "owners of files".into(),
            Self::Symlink => "symbolic links".into(),
            Self::HardLink => "hard links".into(),
            Self::Fifo => "named pipes".into(),
            Self::Device => "device files".into(),
            Self::Acl => "POSIX ACLs".into(),
            Self::Attribute(space) => format!("extended attributes of {space}"),
        }
    }
}

type Attribute<'a> = Option<&'a (Vec<u8>, Vec<u8>)>;

fn needs(entry: &Entry) -> impl Iterator<Item = (Trait, Attribute<'_>)> {
    let what = match entry.what {
        What::Symlink(_) => Some(Trait::Symlink),
        What::HardLink(_) => Some(Trait::HardLink),
        What::Fifo => Some(Trait::Fifo),
        What::Device { .. } => Some(Trait::Device),
        What::File | What::Sparse { .. } | What::Dir => None,
    };
    let owner = (entry.uid != 0 || entry.gid != 0).then_some(Trait::Owner);
    let acl = entry.acls.is_some().then_some(Trait::Acl);
    let attributes = entry.xattrs.iter().map(|x| (Trait::Attribute(namespace(&x.0)), Some(x)));
    what.into_iter().chain(owner).chain(acl).map(|t| (t, None)).chain(attributes)
}

/// The directory at `way`, or the nearest above it that is there: what is made between lies on the same filesystem.
fn nearest(target: &OwnedFd, mut way: &[u8]) -> io::Result<OwnedFd> {
    while !way.is_empty() {
        if let Ok(dir) = open_beneath(target, way)
            && fs::metadata(proc_path(&dir)).is_ok_and(|m| m.is_dir())
        {
            return Ok(dir);
        }
        let end = way.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        way = way.get(..end).unwrap_or_default();
    }
    target.try_clone()
}

fn proc_path(fd: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

fn try_in(dir: &OwnedFd) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(".p2pinst-").tempdir_in(proc_path(dir))
}

fn try_out(dir: &Path, needed: &Trait, entry: &Entry, xattr: Attribute<'_>) -> io::Result<()> {
    let file = File::create(dir.join("file"))?;
    let other = dir.join("other");
    match needed {
        Trait::Owner => {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        Trait::Symlink => symlink("to", other)?,
        Trait::HardLink => fs::hard_link(dir.join("file"), other)?,
        Trait::Fifo => rustix::fs::mknodat(CWD, &other, FileType::Fifo, Mode::RUSR, 0)?,
        Trait::Device => {
            let null = rustix::fs::makedev(1, 3);
            rustix::fs::mknodat(CWD, &other, FileType::CharacterDevice, Mode::RUSR, null)?;
        }
        Trait::Acl => {
            let name = "system.posix_acl_access";
            rustix::fs::fsetxattr(&file, name, &ACL, XattrFlags::empty())?;
        }
        Trait::Attribute(_) => {
            if let Some((name, value)) = xattr {
                rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty())?;
            }
        }
    }
    Ok(())
}
