//! An image of a machine's disk, or of one partition: used blocks, everything else as holes.
//!
//! Only what a filesystem says is in use is copied, where a program can tell (e2image, xfs_copy); otherwise everything. What lies between
//! partitions is copied as it is, for bootloaders live there. A mounted filesystem is frozen while it is copied, and thawed
//! whatever happens ([`freeze`]). What is in swap space never leaves the machine. Reads the source, never writes to it.

mod blocks;
mod freeze;
mod loops;
mod mounts;
mod plan;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pinst_command::{ask_within, clean};
use thiserror::Error;

use self::freeze::{FreezeError, Frozen};
pub(crate) use self::loops::{Loop, succeeded};
use self::mounts::{Mount, Mounts};
use self::plan::{Segment, What};
use super::holes;
use super::layout::{self, FilesystemKind, Layout};
use super::process::Watch;
use super::source::{Part, ReadAt as _, Source};

/// How a disk is captured.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether filesystems of the source may be mounted for writing.
    pub running: bool,
    /// The longest that a filesystem is frozen: whoever writes to it waits that long.
    pub freeze: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { running: false, freeze: Duration::from_secs(600) }
    }
}

/// What was captured.
#[derive(Debug)]
pub struct Captured {
    /// Length of the image.
    pub len: u64,
    /// What it takes on the disk; the rest are holes.
    pub stored: u64,
    /// Part by part, in their order.
    pub parts: Vec<Taken>,
    /// What is in it.
    pub layout: Layout,
}

/// A filesystem, or another part of the disk that is no gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The number of the partition; none when there is no table.
    pub partition: Option<u32>,
    /// Its filesystem, where it is known.
    pub filesystem: Option<FilesystemKind>,
    /// What was copied.
    pub method: Method,
    /// In what state.
    pub state: State,
}

/// What was copied of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// The blocks that its filesystem says are in use.
    Used,
    /// All that is not zero, free blocks too, and with them what was deleted.
    Everything {
        /// Why.
        reason: String,
    },
    /// Swap space: only that it is.
    Header,
}

/// In what state a part was while it was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not mounted, or only for reading: consistent.
    AtRest,
    /// Mounted, and frozen for so long: consistent.
    Frozen(Duration),
    /// In use, and nothing could hold its writers: the copy may be inconsistent.
    InUse,
}

impl Captured {
    /// What people read: what is consistent and what is not.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut out = self.layout.describe();
        for part in &self.parts {
            out.push_str(&format!("{part}\n"));
        }
        let (len, stored) = (layout::size(self.len), layout::size(self.stored));
        out.push_str(&format!("{stored} of {len} are stored, the rest is free\n"));
        out
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            Some(number) => write!(f, "partition {number}")?,
            None => f.write_str("the filesystem")?,
        }
        match &self.method {
            Method::Used => f.write_str(": its used blocks")?,
            Method::Everything { reason } => write!(f, ": everything that is not zero ({reason})")?,
            Method::Header => return f.write_str(": swap space, of which nothing was copied"),
        }
        match self.state {
            State::AtRest => f.write_str(", consistent: nobody wrote to it"),
            State::Frozen(time) => {
                write!(f, ", consistent: it was frozen for {:.1} s", time.as_secs_f64())
            }
            State::InUse => f.write_str(
                ", NOT CONSISTENT: it was in use and cannot be frozen; unmount it, or capture the machine switched off",
            ),
        }
    }
}

/// Why a disk was not captured.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// It cannot be read.
    #[error("cannot capture {}: {source}", path.display())]
    Read {
        /// The disk.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image cannot be written.
    #[error("cannot write the image {}: {source}", path.display())]
    Write {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing on it that is known.
    #[error("cannot capture {}: it has neither a partition table nor a known filesystem", path.display())]
    Unknown {
        /// The disk.
        path: PathBuf,
    },
    /// Memory of the machine's programs.
    #[error("cannot capture {}: it is swap space, which holds what programs had in memory", path.display())]
    Swap {
        /// The device.
        path: PathBuf,
    },
    /// Somebody writes to it.
    #[error("cannot capture {}: {} is mounted from it; unmount that, or capture the running machine", path.display(), mount.display())]
    Mounted {
        /// The disk.
        path: PathBuf,
        /// Where a filesystem of it is mounted.
        mount: PathBuf,
    },
    /// The image would lie on what is frozen.
    #[error("cannot write the image {} on the filesystem of {}, which is captured: name a file on another", path.display(), mount.display())]
    TargetInside {
        /// The image.
        path: PathBuf,
        /// Where the filesystem is mounted.
        mount: PathBuf,
    },
    /// A filesystem cannot be frozen.
    #[error("cannot capture {}: {source}", path.display())]
    Freeze {
        /// The disk.
        path: PathBuf,
        /// Why.
        #[source]
        source: FreezeError,
    },
    /// It was asked to stop.
    #[error("the capture of {} was ended", path.display())]
    Stopped {
        /// The disk.
        path: PathBuf,
    },
}

/// Captures a disk, a partition, or a file with one, into a new file.
///
/// # Errors
/// When it cannot be read or written, or is in use in a way that is not allowed. No file is left then.
pub fn capture(
    path: &Path,
    image: &Path,
    options: &Options,
    watch: &Watch<'_>,
) -> Result<Captured, CaptureError> {
    let read = |source| CaptureError::Read { path: path.to_owned(), source };
    let write = |source| CaptureError::Write { path: image.to_owned(), source };
    let real = path.canonicalize().map_err(read)?;
    let meta = real.metadata().map_err(read)?;
    if !meta.is_file() && !meta.file_type().is_block_device() {
        return Err(read(io::Error::other("it is neither a block device nor a file")));
    }
    if meta.file_type().is_block_device() {
        flush(&real).map_err(read)?;
    }
    let source = Source::open(&real).map_err(read)?;
    let found = layout::read(&source).map_err(read)?;
    let found = found.ok_or_else(|| CaptureError::Unknown { path: path.to_owned() })?;
    if found.kind() == (layout::Kind::Partition { filesystem: FilesystemKind::Swap }) {
        return Err(CaptureError::Swap { path: path.to_owned() });
    }
    let mounts = Mounts::of(&meta).map_err(read)?;
    let dir = match image.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let file = tempfile::Builder::new().prefix(".capture-").tempfile_in(dir).map_err(write)?;
    file.as_file().set_len(source.len()).map_err(write)?;
    let job = Job {
        path,
        image,
        real: &real,
        is_device: !meta.is_file(),
        source: &source,
        out: file.as_file(),
        out_path: file.path(),
        mounts: &mounts,
        options,
        watch,
    };
    let mut parts = Vec::new();
    for segment in plan::of(&found) {
        parts.extend(job.take(&segment)?);
        (watch.progress)(segment.end, Some(source.len()));
    }
    file.as_file().sync_all().map_err(write)?;
    let taken = Source::open(file.path()).map_err(write)?;
    let layout = layout::read(&taken).map_err(write)?;
    let layout = layout.ok_or_else(|| CaptureError::Unknown { path: path.to_owned() })?;
    let stored = taken.file().metadata().map_err(write)?.blocks().saturating_mul(512);
    file.persist_noclobber(image).map_err(|e| write(e.error))?;
    Ok(Captured { len: source.len(), stored, parts, layout })
}

/// What was read of a device before may be older than what its filesystem has written since.
fn flush(device: &Path) -> io::Result<()> {
    let mut command = clean("blockdev");
    command.arg("--flushbufs").arg(device);
    let said = ask_within(command, b"", 1024, Duration::from_secs(60))?;
    if said.success { Ok(()) } else { Err(io::Error::other(said.stderr)) }
}

/// One capture.
struct Job<'a> {
    path: &'a Path,
    image: &'a Path,
    real: &'a Path,
    is_device: bool,
    source: &'a Source,
    out: &'a File,
    out_path: &'a Path,
    mounts: &'a Mounts,
    options: &'a Options,
    watch: &'a Watch<'a>,
}

impl Job<'_> {
    fn read(&self, source: io::Error) -> CaptureError {
        if self.watch.is_stopped() {
            return CaptureError::Stopped { path: self.path.to_owned() };
        }
        CaptureError::Read { path: self.path.to_owned(), source }
    }

    fn copy(&self, start: u64, end: u64) -> Result<(), CaptureError> {
        let copied = holes::copy(self.source, self.out, (start, end), self.watch);
        copied.map(drop).map_err(|e| self.read(e))
    }

    /// Takes a segment; what is said of it, when it is a part.
    fn take(&self, segment: &Segment) -> Result<Option<Taken>, CaptureError> {
        if self.watch.is_stopped() {
            return Err(CaptureError::Stopped { path: self.path.to_owned() });
        }
        match segment.what {
            What::Gap => self.copy(segment.start, segment.end).map(|()| None),
            What::Part { partition, filesystem: Some(FilesystemKind::Swap) } => {
                // the signature is at the end of a page of 4 or 64 KiB
                let end = segment.end.min(segment.start.saturating_add(4096));
                self.copy(segment.start, end)?;
                let filesystem = Some(FilesystemKind::Swap);
                let (method, state) = (Method::Header, State::AtRest);
                Ok(Some(Taken { partition, filesystem, method, state }))
            }
            What::Part { partition, filesystem } => {
                let (method, state) = self.held(segment, filesystem)?;
                Ok(Some(Taken { partition, filesystem, method, state }))
            }
        }
    }

    /// Takes a part while nobody writes to it, if that can be had.
    fn held(
        &self,
        segment: &Segment,
        filesystem: Option<FilesystemKind>,
    ) -> Result<(Method, State), CaptureError> {
        let Some(mount) = self.mounts.at(segment.start).find(|mount| mount.writable) else {
            let held = self.mounts.is_held(segment.start);
            let state = if held { State::InUse } else { State::AtRest };
            return Ok((self.part(segment, filesystem, None)?, state));
        };
        self.refuse(mount)?;
        // made before the freeze: it writes to /dev
        let loops = blocks::loops(self, segment, filesystem);
        let frozen = match Frozen::freeze(&mount.point, self.options.freeze) {
            Ok(frozen) => frozen,
            Err(FreezeError::Unsupported { .. }) => {
                rustix::fs::sync();
                return Ok((self.part(segment, filesystem, loops)?, State::InUse));
            }
            Err(source) => return Err(CaptureError::Freeze { path: self.path.to_owned(), source }),
        };
        if self.is_device {
            flush(self.real).map_err(|e| self.read(e))?;
        }
        let method = self.part(segment, filesystem, loops)?;
        let time = frozen.thaw();
        let time =
            time.map_err(|source| CaptureError::Freeze { path: self.path.to_owned(), source })?;
        Ok((method, State::Frozen(time)))
    }

    fn refuse(&self, mount: &Mount) -> Result<(), CaptureError> {
        if !self.options.running {
            let (path, mount) = (self.path.to_owned(), mount.point.clone());
            return Err(CaptureError::Mounted { path, mount });
        }
        let dev = self.out.metadata().map_err(|e| self.read(e))?.dev();
        let point = mount.point.metadata().map_err(|e| self.read(e))?;
        if dev == point.dev() {
            let (path, mount) = (self.image.to_owned(), mount.point.clone());
            return Err(CaptureError::TargetInside { path, mount });
        }
        Ok(())
    }

    fn part(
        &self,
        segment: &Segment,
        filesystem: Option<FilesystemKind>,
        loops: Option<blocks::Loops>,
    ) -> Result<Method, CaptureError> {
        // read anew: freezing has changed it
        let volume = Part {
            of: self.source,
            start: segment.start,
            len: segment.end.saturating_sub(segment.start),
        };
        let now = layout::filesystem(&volume).map_err(|e| self.read(e))?;
        let clean = now.is_some_and(|now| now.clean);
        let reason = match filesystem {
            Some(kind) if kind.is_ext() && !clean => {
                "its journal has not been read, so its free blocks are not known".to_owned()
            }
            Some(kind) if kind.is_ext() => match blocks::ext(self, segment) {
                Ok(()) => return Ok(Method::Used),
                Err(e) => e.to_string(),
            },
            Some(FilesystemKind::Xfs) => match blocks::xfs(self, segment, loops) {
                Ok(()) => return Ok(Method::Used),
                Err(e) => e.to_string(),
            },
            Some(kind) => format!("nothing here tells the free blocks of {kind}"),
            None => "its format is not known".to_owned(),
        };
        if self.watch.is_stopped() {
            return Err(CaptureError::Stopped { path: self.path.to_owned() });
        }
        blocks::clear(self.out, segment, self.source.len()).map_err(|e| self.read(e))?;
        self.copy(segment.start, segment.end)?;
        Ok(Method::Everything { reason })
    }
}
