//! Where the bytes of a blob lie: in a file of the store, or on a disk that is being made of them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::sparse;

/// So many bytes at the beginning of a target stay in memory until all is there: without them nothing starts from a disk, and no
/// filesystem is mounted.
pub const HELD_BACK: u64 = 1 << 20;

/// A disk or partition (or a file of the right length) onto which a blob is written, piece by piece and out of order.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    file: File,
    /// The first [`HELD_BACK`] bytes of the blob, as far as they are here.
    head: RwLock<Vec<u8>>,
}

impl Target {
    /// Opens it; its content stays. It must have room for the blob.
    pub(super) fn open(path: &Path, len: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let kind = file.metadata()?.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            return Err(io::Error::other("it is neither a disk nor a file"));
        }
        let room = room(&file)?;
        if room < len {
            let reason = format!("it has room for {room} bytes, and the image has {len}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, reason));
        }
        let head = vec![0; usize::try_from(HELD_BACK.min(len)).unwrap_or(0)];
        Ok(Self { path: path.to_owned(), file, head: RwLock::new(head) })
    }

    /// Splits a stretch of the blob: what is held back, and what lies on the disk.
    fn split(&self, offset: u64, len: usize) -> (Range<usize>, usize) {
        let held = self.head.read().unwrap_or_else(PoisonError::into_inner).len();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(held);
        let end = start.saturating_add(len).min(held);
        (start..end, end - start)
    }

    /// The beginning, as far as it is here.
    pub(super) fn held_back(&self) -> Vec<u8> {
        self.head.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the beginning too: all else must be durable.
    pub(super) fn finish(&self) -> io::Result<()> {
        let head = self.head.read().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(&head, 0)?;
        self.file.sync_all()
    }
}

/// The length of a file or disk.
fn room(mut file: &File) -> io::Result<u64> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0))
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) enum Data {
    File(Arc<File>),
    Target(Arc<Target>),
}

impl Data {
    pub(super) fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(out, offset),
            Self::Target(target) => {
                let (held, len) = target.split(offset, out.len());
                let (first, rest) = out.split_at_mut(len);
                let head = target.head.read().unwrap_or_else(PoisonError::into_inner);
                first.copy_from_slice(head.get(held).unwrap_or_default());
                drop(head);
                target.file.read_exact_at(rest, offset + len as u64)
            }
        }
    }

    /// Writes without runs of zeros, which become holes where there can be such.
    pub(super) fn write_sparse_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => sparse::write_at(file, bytes, offset),
            Self::Target(target) => {
                let (file, rest, at) = hold_back(target, bytes, offset);
                sparse::write_at(file, rest, at)
            }
        }
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(bytes, offset),
            Self::Target(target) => {
                let (file, rest, at) = hold_back(target, bytes, offset);
                file.write_all_at(rest, at)
            }
        }
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_data(),
            Self::Target(target) => target.file.sync_data(),
        }
    }

    /// Makes a file of the store as long as it has to be again.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.set_len(len),
            Self::Target(_) => Ok(()),
        }
    }
}

/// Keeps what belongs to the beginning; the rest, and where it belongs.
fn hold_back<'a, 'b>(
    target: &'a Target,
    bytes: &'b [u8],
    offset: u64,
) -> (&'a File, &'b [u8], u64) {
    let (held, len) = target.split(offset, bytes.len());
    let (first, rest) = bytes.split_at(len);
    if len > 0 {
        let mut head = target.head.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = head.get_mut(held) {
            place.copy_from_slice(first);
        }
    }
    (&target.file, rest, offset + len as u64)
}
