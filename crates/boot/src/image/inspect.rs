//! What is in a file or on a disk, for people and for those who write it.

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::archive::{ArchiveError, Limits};
use super::format::{self, Format};
use super::layout::{self, Content, Layout};
use super::process::Watch;
use super::source::{ReadAt as _, Source};
use super::tree;

/// Why something cannot be looked into.
#[derive(Debug, Error)]
pub enum InspectError {
    /// It is not there, or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or device.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing that is known.
    #[error("{} has no partition table, no known filesystem, and is no tar", path.display())]
    Unknown {
        /// The file or device.
        path: PathBuf,
    },
    /// Something that has to be unpacked first.
    #[error(
        "{} is {}: it is published unpacked (p2pinst image publish), and can be looked into then",
        path.display(), in_words(*format)
    )]
    Packed {
        /// The file.
        path: PathBuf,
        /// How it is packed.
        format: Format,
    },
    /// A tar that is refused.
    #[error("cannot look into {}: {source}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ArchiveError,
    },
}

fn in_words(format: Format) -> &'static str {
    match format {
        Format::Zstd => "compressed with zstd",
        Format::Gzip => "compressed with gzip",
        Format::Xz => "compressed with xz",
        Format::Foreign(by) => by,
        Format::Qcow2 => "a disk in QEMU's format",
        Format::Vmdk => "a disk in VMware's format",
        Format::Vdi => "a disk in VirtualBox's format",
        Format::Vhdx => "a disk in Hyper-V's format",
        Format::Tar | Format::Plain => "not packed",
    }
}

/// Looks into a raw image, a block device, or a tar.
///
/// # Errors
/// When it cannot be read, or is none of these.
pub fn inspect(path: &Path, watch: &Watch<'_>) -> Result<Layout, InspectError> {
    let read = |source| InspectError::Read { path: path.to_owned(), source };
    let kind = path.metadata().map_err(read)?.file_type();
    // opening a pipe waits for its other end
    if !kind.is_file() && !std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
        return Err(read(io::Error::other("it is neither a file nor a block device")));
    }
    let source = Source::open(path).map_err(read)?;
    inspect_within(path, source, Limits::default(), watch)
}

pub(super) fn inspect_within(
    path: &Path,
    source: Source,
    limits: Limits,
    watch: &Watch<'_>,
) -> Result<Layout, InspectError> {
    let read = |source| InspectError::Read { path: path.to_owned(), source };
    let unknown = || InspectError::Unknown { path: path.to_owned() };
    match format::of(&source).map_err(read)? {
        Format::Plain => layout::read(&source).map_err(read)?.ok_or_else(unknown),
        Format::Tar => {
            let len = source.len();
            let archive = BufReader::with_capacity(1 << 20, source.into_file());
            let (tree, warnings) = tree::read(archive, limits, watch)
                .map_err(|source| InspectError::Archive { path: path.to_owned(), source })?;
            Ok(Layout { len, content: Content::Rootfs(tree), warnings })
        }
        format => Err(InspectError::Packed { path: path.to_owned(), format }),
    }
}
