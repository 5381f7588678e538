//! What a file becomes before it is published: raw disks and partitions, plain tars.
//!
//! Clients convert nothing: a raw image is written piece by piece as it comes, and a plain tar has the same bytes
//! where two versions have the same files. Never reads another file than the one that is given. What is made lies in
//! a directory of the caller's, and is removed with the [`Prepared`].

mod qemu;
mod unpack;

use std::io::{self, BufReader, Seek as _};
use std::path::{Path, PathBuf};

use tempfile::TempPath;
use thiserror::Error;

use super::archive::{ArchiveError, Limits};
use super::format::{self, Format};
use super::inspect::{InspectError, inspect_within};
use super::layout::{Kind, Layout};
use super::process::Watch;
use super::source::{ReadAt as _, Source};

/// How often something is unpacked: a compressed image of a virtual machine is two.
const STEPS: usize = 3;

/// How an image is prepared.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where new files are made: it needs room for the image.
    pub work_dir: PathBuf,
    /// The longest image that is made, in bytes.
    pub max_len: u64,
    /// What a tar may ask for.
    pub limits: Limits,
}

/// What is published.
#[derive(Debug)]
pub struct Prepared {
    /// The file: the given one, where nothing had to be converted.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its length.
    pub len: u64,
    /// What is in it.
    pub description: Layout,
    /// The file, where it was made; it is removed with this.
    pub made: Option<TempPath>,
}

/// Why a file cannot be published as an image.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// It cannot be read.
    #[error("cannot read the image {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a device, a directory, a pipe.
    #[error("cannot publish {}: it is not a regular file; capture a disk with: p2pinst image capture", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Nothing that is known.
    #[error(
        "cannot publish {} as an image: it has no partition table, no known filesystem, and is no tar",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// A compression that is not read.
    #[error("cannot publish {}: it is compressed with {by}; unpack it, or use zstd, gzip or xz", path.display())]
    Compression {
        /// The file.
        path: PathBuf,
        /// The compression.
        by: &'static str,
    },
    /// Compressed again and again.
    #[error("cannot publish {}: it is packed more than {STEPS} times", path.display())]
    Nested {
        /// The file.
        path: PathBuf,
    },
    /// A virtual machine's disk that is not whole in itself.
    #[error("cannot publish {}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Too large.
    #[error("cannot publish {}: what it holds is longer than {}", path.display(), super::layout::size(*limit))]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The longest image.
        limit: u64,
    },
    /// Compressed bytes that are wrong.
    #[error("cannot unpack {}: {said}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the decompressor said.
        said: String,
    },
    /// A program is missing.
    #[error("cannot convert {}: {program} cannot be started ({source}); install Debian's package {package}", path.display())]
    NoTool {
        /// The file.
        path: PathBuf,
        /// Which.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is made cannot be written.
    #[error("cannot write into {}: {source}; is there room?", dir.display())]
    Write {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A tar that is refused.
    #[error("cannot publish {}: {source}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ArchiveError,
    },
    /// It was asked to stop.
    #[error("the preparation of {} was ended", path.display())]
    Stopped {
        /// The file.
        path: PathBuf,
    },
}

/// Makes of a file what is published.
///
/// # Errors
/// When it is no image, is refused, or cannot be converted.
pub fn prepare(
    path: &Path,
    options: &Options,
    watch: &Watch<'_>,
) -> Result<Prepared, PrepareError> {
    let read = |source| PrepareError::Read { path: path.to_owned(), source };
    // before opening: opening a pipe waits for its other end
    if !path.metadata().map_err(read)?.is_file() {
        return Err(PrepareError::NotAFile { path: path.to_owned() });
    }
    // an absolute path is never taken for an option, nor for a protocol
    let given = std::path::absolute(path).map_err(read)?;
    let job = Job { given: &given, options, watch };
    let mut made: Option<TempPath> = None;
    for _ in 0..STEPS {
        let at = made.as_deref().unwrap_or(&given);
        let source = Source::open(at).map_err(read)?;
        let format = format::of(&source).map_err(read)?;
        made = match format {
            Format::Zstd | Format::Gzip | Format::Xz => Some(job.unpack(source, format)?),
            Format::Qcow2 | Format::Vmdk | Format::Vdi | Format::Vhdx => {
                Some(job.convert(at, &source, format)?)
            }
            Format::Foreign(by) => {
                return Err(PrepareError::Compression { path: given, by });
            }
            Format::Tar | Format::Plain => {
                let description = job.describe(at, source)?;
                let (kind, len) = (description.kind(), description.len);
                let path = at.to_owned();
                return Ok(Prepared { path, kind, len, description, made });
            }
        };
    }
    Err(PrepareError::Nested { path: given })
}

/// One file's way.
struct Job<'a> {
    given: &'a Path,
    options: &'a Options,
    watch: &'a Watch<'a>,
}

impl Job<'_> {
    fn path(&self) -> PathBuf {
        self.given.to_owned()
    }

    fn new_file(&self) -> Result<tempfile::NamedTempFile, PrepareError> {
        let dir = &self.options.work_dir;
        let file = tempfile::Builder::new().prefix("image-").tempfile_in(dir);
        file.map_err(|source| PrepareError::Write { dir: dir.clone(), source })
    }

    fn too_long(&self) -> PrepareError {
        PrepareError::TooLong { path: self.path(), limit: self.options.max_len }
    }

    fn describe(&self, at: &Path, source: Source) -> Result<Layout, PrepareError> {
        if source.len() > self.options.max_len {
            return Err(self.too_long());
        }
        inspect_within(at, source, self.options.limits, self.watch).map_err(|e| match e {
            InspectError::Read { source, .. } => PrepareError::Read { path: self.path(), source },
            InspectError::Unknown { .. } | InspectError::Packed { .. } => {
                PrepareError::Unknown { path: self.path() }
            }
            InspectError::Archive { source, .. } if self.watch.is_stopped() => {
                drop(source);
                PrepareError::Stopped { path: self.path() }
            }
            InspectError::Archive { source, .. } => {
                PrepareError::Archive { path: self.path(), source }
            }
        })
    }
}

/// A file from its beginning, in large reads.
fn rewound(source: Source) -> io::Result<BufReader<std::fs::File>> {
    let mut file = source.into_file();
    file.rewind()?;
    Ok(BufReader::with_capacity(super::holes::BUFFER, file))
}
