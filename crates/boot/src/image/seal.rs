//! What makes one machine out of an image, taken out of it: identity and keys.
//!
//! Works on a captured image, never on a machine: the image is mounted, secrets are overwritten and removed, free
//! space becomes holes, and then every byte of the image is searched for what was removed. Only what is found nowhere
//! is sealed.

mod search;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pinst_command::{ask_within, clean};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use thiserror::Error;

use self::search::Needles;
use super::capture::{Loop, succeeded};
use super::layout::{self, Content, FilesystemKind, Layout};
use super::process::Watch;
use super::source::{Part, Source};

/// A file up to this is overwritten, and looked for afterwards: keys are shorter.
const SECRET_MAX: u64 = 64 << 10;
/// Directories in directories.
const DEPTH: usize = 32;
/// Mounting and trimming.
const TIME: Duration = Duration::from_secs(600);
/// What else is one machine's own: the seed of its random numbers, the key of its stored credentials.
const SYSTEM: [&str; 2] = ["var/lib/systemd/random-seed", "var/lib/systemd/credential.secret"];

/// What was taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Paths, as they were in the image.
    pub removed: Vec<PathBuf>,
    /// Whether there was a machine-id, which is empty now.
    pub machine_id: bool,
}

/// Why an image is not sealed. It must not be published then.
#[derive(Debug, Error)]
pub enum SealError {
    /// It cannot be read.
    #[error("cannot seal {}: {source}", image.display())]
    Read {
        /// The image.
        image: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no root filesystem that can be changed here.
    #[error("cannot seal {}: no ext or xfs filesystem with /etc was found in it", image.display())]
    NoRoot {
        /// The image.
        image: PathBuf,
    },
    /// A filesystem cannot be mounted or changed.
    #[error("cannot seal {}, partition {partition}: {source}", image.display())]
    Partition {
        /// The image.
        image: PathBuf,
        /// The number of the partition; 0 when there is no table.
        partition: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A secret is still there.
    #[error("{} still has the content of {} at byte {offset}: do not publish it", image.display(), secret.display())]
    Leaks {
        /// The image.
        image: PathBuf,
        /// Whose content.
        secret: PathBuf,
        /// Where in the image.
        offset: u64,
    },
}

/// Takes out of an image what is one machine's own: machine-id, ssh host keys, and the directories named
/// (p2pinst's data), as they are called on the machine.
///
/// # Errors
/// When it cannot be done, or something is still to be found afterwards.
pub fn seal(image: &Path, data_dirs: &[PathBuf], watch: &Watch<'_>) -> Result<Sealed, SealError> {
    let read = |source| SealError::Read { image: image.to_owned(), source };
    let real = image.canonicalize().map_err(read)?;
    let source = Source::open(&real).map_err(read)?;
    let layout = layout::read(&source).map_err(read)?;
    let mut sealed = Sealed::default();
    let mut needles = Needles::default();
    let mut has_root = false;
    for (number, start, len, kind) in layout.iter().flat_map(filesystems) {
        let wrong =
            |source| SealError::Partition { image: image.to_owned(), partition: number, source };
        let mounted = Mounted::new(&real, (start, len), kind).map_err(wrong)?;
        let root = mounted.root().map_err(wrong)?;
        let mut work = Work { root: &root, sealed: &mut sealed, needles: &mut needles };
        if work.open("etc", OFlags::PATH | OFlags::DIRECTORY).is_ok() {
            has_root = true;
            work.system().map_err(wrong)?;
        }
        for dir in data_dirs {
            work.remove_data(dir).map_err(wrong)?;
        }
        drop(root);
        mounted.finish().map_err(wrong)?;
    }
    if !has_root {
        return Err(SealError::NoRoot { image: image.to_owned() });
    }
    // what was read before may be older than what the mounts have written
    let source = Source::open(&real).map_err(read)?;
    for (partition, start, len, _) in layout.iter().flat_map(filesystems) {
        let volume = Part { of: &source, start, len };
        if layout::filesystem(&volume).map_err(read)?.is_none_or(|f| !f.clean) {
            let source = io::Error::other("it is still mounted, in another mount namespace");
            return Err(SealError::Partition { image: image.to_owned(), partition, source });
        }
    }
    match needles.find_in(&source, watch).map_err(read)? {
        None => Ok(sealed),
        Some((secret, offset)) => Err(SealError::Leaks { image: image.to_owned(), secret, offset }),
    }
}

/// Filesystems that can be mounted and overwritten: number, place, length.
///
/// btrfs writes nothing twice to one place, and mixes up two filesystems with one UUID.
fn filesystems(layout: &Layout) -> Vec<(u32, u64, u64, FilesystemKind)> {
    let can = |kind: FilesystemKind| kind.is_ext() || kind == FilesystemKind::Xfs;
    match &layout.content {
        Content::Disk(disk) => disk
            .partitions
            .iter()
            .filter_map(|p| {
                let kind = p.filesystem.as_ref()?.kind;
                can(kind).then_some((p.number, p.start, p.len, kind))
            })
            .collect(),
        Content::Partition(f) if can(f.kind) => vec![(0, 0, layout.len, f.kind)],
        _ => Vec::new(),
    }
}

/// A filesystem of the image, mounted at a place of its own.
#[derive(Debug)]
struct Mounted {
    device: Option<Loop>,
    dir: Option<tempfile::TempDir>,
}

impl Mounted {
    fn new(image: &Path, (start, len): (u64, u64), kind: FilesystemKind) -> io::Result<Self> {
        let device = Loop::attach(image, start, len, false)?;
        let dir = tempfile::Builder::new().prefix("p2pinst-seal-").tempdir()?;
        let mut command = clean("mount");
        // the filesystem that it was copied from may be mounted here too
        let options = if kind == FilesystemKind::Xfs { "nouuid," } else { "" };
        command.arg("-o").arg(format!("{options}nosuid,nodev,noexec"));
        command.args(["-t", kind.name()]).arg(device.path()).arg(dir.path());
        ask_within(command, b"", 4096, TIME).and_then(succeeded)?;
        Ok(Self { device: Some(device), dir: Some(dir) })
    }

    fn root(&self) -> io::Result<OwnedFd> {
        let dir = self.dir.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(CWD, dir.path(), flags, Mode::empty())?)
    }

    /// Makes holes of what is free, and unmounts.
    fn finish(mut self) -> io::Result<()> {
        if let Some(dir) = &self.dir {
            let mut trim = clean("fstrim");
            trim.arg(dir.path());
            // where it cannot be done, the search says whether it had to be
            let said = ask_within(trim, b"", 4096, TIME)?;
            if !said.success {
                tracing::debug!(said = said.stderr, "free space stays as it is");
            }
        }
        self.unmount()?;
        self.device.take().map_or(Ok(()), Loop::detach)
    }

    fn unmount(&mut self) -> io::Result<()> {
        let Some(dir) = self.dir.take() else { return Ok(()) };
        let mut command = clean("umount");
        command.arg(dir.path());
        let said = ask_within(command, b"", 4096, TIME).and_then(succeeded);
        if said.is_err() {
            // never remove what is below a mount
            let _path = dir.keep();
        }
        said.map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            tracing::warn!(%error, "an image stays mounted");
        }
    }
}

struct Work<'a> {
    root: &'a OwnedFd,
    sealed: &'a mut Sealed,
    needles: &'a mut Needles,
}

impl Work<'_> {
    /// Opens a path of the image, whose links lead to other places of it and nowhere else.
    fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    fn dir(&self, path: &Path) -> io::Result<Option<Dir>> {
        let Some(path) = path.to_str() else { return Ok(None) };
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => Ok(Some(Dir { fd, name: path.into() })),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// machine-id, host keys, seeds.
    fn system(&mut self) -> io::Result<()> {
        match self.open("etc/machine-id", OFlags::WRONLY) {
            Ok(file) => {
                let file = File::from(file);
                self.sealed.machine_id |= file.metadata()?.len() > 0;
                file.set_len(0)?;
                file.sync_all()?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        if let Some(dbus) = self.dir(Path::new("var/lib/dbus"))? {
            let path = dbus.path().join("machine-id");
            // usually a link to the other
            if path.symlink_metadata().is_ok_and(|m| m.is_file()) {
                fs::remove_file(path)?;
            }
        }
        if let Some(ssh) = self.dir(Path::new("etc/ssh"))? {
            for entry in fs::read_dir(ssh.path())? {
                let entry = entry?;
                if entry.file_name().as_bytes().starts_with(b"ssh_host_") {
                    self.remove(&entry.path(), &ssh.name.join(entry.file_name()), 0)?;
                }
            }
        }
        for path in SYSTEM.map(Path::new) {
            self.remove_at(path)?;
        }
        Ok(())
    }

    /// A directory, also where this filesystem is mounted further down: /var, /var/lib.
    fn remove_data(&mut self, dir: &Path) -> io::Result<()> {
        let mut rest = dir.strip_prefix("/").unwrap_or(dir);
        while rest.file_name().is_some() {
            // a name alone is too little to go by
            if rest.components().count() > 1 {
                self.remove_at(rest)?;
            }
            let mut parts = rest.components();
            parts.next();
            rest = parts.as_path();
        }
        Ok(())
    }

    fn remove_at(&mut self, path: &Path) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let Some(dir) = self.dir(parent)? else { return Ok(()) };
        let at = dir.path().join(name);
        if at.symlink_metadata().is_ok() {
            self.remove(&at, path, 0)?;
        }
        Ok(())
    }

    /// Removes a file or a directory, through no link; what may be a secret is overwritten before.
    fn remove(&mut self, at: &Path, name: &Path, depth: usize) -> io::Result<()> {
        let meta = at.symlink_metadata()?;
        if meta.is_dir() {
            if depth > DEPTH {
                return Err(io::Error::other("directories lie too deep"));
            }
            for entry in fs::read_dir(at)? {
                let entry = entry?;
                self.remove(&entry.path(), &name.join(entry.file_name()), depth + 1)?;
            }
            fs::remove_dir(at)?;
        } else {
            // of two names the other may be somebody else's
            if meta.is_file() && meta.len() <= SECRET_MAX && meta.nlink() == 1 {
                self.overwrite(at, name)?;
            }
            fs::remove_file(at)?;
        }
        if depth == 0 {
            self.sealed.removed.push(Path::new("/").join(name));
        }
        Ok(())
    }

    fn overwrite(&mut self, at: &Path, name: &Path) -> io::Result<()> {
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let mut file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(at)?;
        let mut content = Vec::new();
        Read::by_ref(&mut file).take(SECRET_MAX).read_to_end(&mut content)?;
        // what everybody may read is no secret
        if file.metadata()?.mode() & 0o077 == 0 {
            self.needles.add(&content, &Path::new("/").join(name));
        }
        io::Seek::rewind(&mut file)?;
        file.write_all(&vec![0; content.len()])?;
        file.sync_all()
    }
}

/// An open directory of the image.
#[derive(Debug)]
struct Dir {
    fd: OwnedFd,
    name: PathBuf,
}

impl Dir {
    fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.fd.as_raw_fd().to_string())
    }
}
