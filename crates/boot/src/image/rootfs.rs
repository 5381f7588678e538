//! A tar of a root filesystem, unpacked into a mounted directory.
//!
//! GNU tar does it: owners by number, modes, hard links, devices, attributes, ACLs, holes and times. It is never shown the archive itself, only what
//! [`super::archive::Writer`] makes of checked entries. It never follows a symbolic link: neither one of the archive
//! ([`super::archive::Walker`] refuses that) nor one that was in the target before (asked of the kernel, by openat2). What the target
//! cannot hold is tried out on it before, so that the refusal says what and where.

mod probe;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use p2pinst_command::clean;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use thiserror::Error;

use self::probe::{Probe, ProbeError};
use super::archive::{ArchiveError, Entry, Limits, Place, Walker, What, Writer};
use super::process::{Running, Watch};

/// Read and written at a time.
const BUFFER: usize = 256 * 1024;

/// What becomes of device files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Devices {
    /// They are made.
    #[default]
    Keep,
    /// An archive with one is refused.
    Refuse,
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// What it may ask for.
    pub limits: Limits,
    /// Whether it may have devices.
    pub devices: Devices,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extracted {
    /// Entries.
    pub entries: u64,
    /// Bytes of data.
    pub bytes: u64,
}

/// Why an archive was not unpacked, or not wholly.
#[derive(Debug, Error)]
pub enum RootfsError {
    /// The target is not there, no directory, or the running system.
    #[error("cannot unpack into {}: {source}", target.display())]
    Target {
        /// The directory.
        target: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in the archive.
    #[error("cannot unpack into {}: {source}", target.display())]
    Archive {
        /// The directory.
        target: PathBuf,
        /// Why.
        #[source]
        source: ArchiveError,
    },
    /// A path leads through a link that was there before.
    #[error(
        "cannot unpack {path:?} into {}: a symbolic link is in its way; unpack into an empty filesystem",
        target.display()
    )]
    Link {
        /// The directory.
        target: PathBuf,
        /// The path in it.
        path: String,
    },
    /// Devices are not wanted.
    #[error("cannot unpack into {}: {path:?} is a device file", target.display())]
    Device {
        /// The directory.
        target: PathBuf,
        /// The path in it.
        path: String,
    },
    /// The target cannot hold something.
    #[error(
        "cannot unpack {path:?} into {}: its filesystem cannot hold {what} ({source}); use another, like ext4",
        target.display()
    )]
    Unfit {
        /// The directory.
        target: PathBuf,
        /// The path in it.
        path: String,
        /// What it cannot hold.
        what: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// GNU tar cannot be started.
    #[error("cannot start tar: {0}; install Debian's package tar")]
    NoTool(#[source] io::Error),
    /// GNU tar did not do all.
    #[error("not all could be unpacked into {}: {said}", target.display())]
    Incomplete {
        /// The directory.
        target: PathBuf,
        /// What tar said.
        said: String,
    },
    /// It was asked to stop.
    #[error("unpacking into {} was ended", target.display())]
    Stopped {
        /// The directory.
        target: PathBuf,
    },
}

/// Unpacks an archive into a directory; what is there already stays, unless the archive has something of that name.
///
/// # Errors
/// When something is refused, or not all could be unpacked. What was unpacked before stays.
pub fn extract(
    archive: impl Read,
    target: &Path,
    options: &Options,
    watch: &Watch<'_>,
) -> Result<Extracted, RootfsError> {
    let target_error = |source| RootfsError::Target { target: target.to_owned(), source };
    let real = target.canonicalize().map_err(target_error)?;
    if real == Path::new("/") {
        return Err(target_error(io::Error::other("it is the running system")));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, &real, flags, Mode::empty()).map_err(|e| target_error(e.into()))?;
    let mut tar = Running::start(command(&real), Stdio::piped(), Stdio::null())
        .map_err(RootfsError::NoTool)?;
    let pipe = tar.take_stdin().ok_or_else(|| RootfsError::NoTool(io::Error::other("no pipe")))?;
    let mut work = Work {
        target,
        dir,
        options,
        watch,
        last: None,
        probe: Probe::default(),
        done: Extracted { entries: 0, bytes: 0 },
    };
    let mut walker = Walker::new(archive, options.limits);
    match work.feed(&mut walker, Writer::new(pipe)) {
        Ok(()) => {}
        // it says itself why it no longer listens
        Err(Stop::Pipe(source)) => {
            let ended = tar.finish().map_err(target_error)?;
            let said = if ended.said.is_empty() { source.to_string() } else { ended.said };
            return Err(RootfsError::Incomplete { target: target.to_owned(), said });
        }
        Err(Stop::Refused(error)) => return Err(error),
    }
    let ended = tar.finish().map_err(target_error)?;
    if !ended.success || !ended.said.is_empty() {
        return Err(RootfsError::Incomplete { target: target.to_owned(), said: ended.said });
    }
    let synced = File::open(&real).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
    synced.map_err(target_error)?;
    Ok(work.done)
}

fn command(target: &Path) -> Command {
    let mut tar = clean("tar");
    tar.args(["--extract", "--file=-", "--numeric-owner", "--same-owner", "--same-permissions"])
        .args(["--xattrs", "--xattrs-include=*", "--acls", "--delay-directory-restore"])
        // clocks of blank machines are often wrong
        .args(["--warning=no-timestamp", "--directory"])
        .arg(target);
    tar
}

enum Stop {
    Refused(RootfsError),
    Pipe(io::Error),
}

impl From<RootfsError> for Stop {
    fn from(error: RootfsError) -> Self {
        Self::Refused(error)
    }
}

struct Work<'a> {
    target: &'a Path,
    dir: OwnedFd,
    options: &'a Options,
    watch: &'a Watch<'a>,
    /// The directory that was last found free of links.
    last: Option<Vec<u8>>,
    probe: Probe,
    done: Extracted,
}

impl Work<'_> {
    fn feed<R: Read>(
        &mut self,
        walker: &mut Walker<R>,
        mut writer: Writer<ChildStdin>,
    ) -> Result<(), Stop> {
        let mut buffer = vec![0; BUFFER];
        while let Some(entry) = walker.next_entry().map_err(|e| self.archive(e))? {
            self.check(&entry, walker)?;
            writer.begin(&entry).map_err(Stop::Pipe)?;
            loop {
                if self.watch.is_stopped() {
                    return Err(RootfsError::Stopped { target: self.target.to_owned() }.into());
                }
                let n = walker.data(&mut buffer).map_err(|e| self.archive(e))?;
                let Some(bytes) = buffer.get(..n).filter(|bytes| !bytes.is_empty()) else { break };
                writer.data(bytes).map_err(Stop::Pipe)?;
                self.done.bytes += n as u64;
                (self.watch.progress)(self.done.bytes, None);
            }
            self.done.entries += 1;
        }
        drop(writer.finish().map_err(Stop::Pipe)?);
        Ok(())
    }

    fn archive(&self, source: ArchiveError) -> RootfsError {
        RootfsError::Archive { target: self.target.to_owned(), source }
    }

    fn check<R: Read>(&mut self, entry: &Entry, walker: &Walker<R>) -> Result<(), RootfsError> {
        let path = || p2pinst_command::text(entry.place.as_bytes());
        if matches!(entry.what, What::Device { .. }) && self.options.devices == Devices::Refuse {
            return Err(RootfsError::Device { target: self.target.to_owned(), path: path() });
        }
        self.refuse_links(&entry.place, entry.place.parent())?;
        if let What::HardLink(to) = &entry.what
            && !walker.is_link(to)
        {
            // a further name of a link that was there before would be a link of ours that nobody knows of
            self.refuse_links(to, to.as_bytes())?;
        }
        let unfit = |e: ProbeError| RootfsError::Unfit {
            target: self.target.to_owned(),
            path: path(),
            what: e.what,
            source: e.source,
        };
        self.probe.check(&self.dir, entry).map_err(unfit)
    }

    /// No part of `way` may be a symbolic link that is in the target.
    fn refuse_links(&mut self, place: &Place, way: &[u8]) -> Result<(), RootfsError> {
        if way.is_empty() || self.last.as_deref() == Some(way) {
            return Ok(());
        }
        match open_beneath(&self.dir, way) {
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {
                self.last = Some(way.to_vec());
                Ok(())
            }
            Err(Errno::LOOP) => Err(RootfsError::Link {
                target: self.target.to_owned(),
                path: p2pinst_command::text(place.as_bytes()),
            }),
            Err(e) => Err(RootfsError::Target { target: self.target.to_owned(), source: e.into() }),
        }
    }
}

/// Opens what is at `way` below `dir`, through no link of any kind.
fn open_beneath(dir: &OwnedFd, way: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // with NOFOLLOW a link at the end would be opened itself
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(dir, way, flags, Mode::empty(), resolve)
}
