//! What can be read at any place: bytes in memory, files, block devices.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Something of a known length that can be read anywhere.
pub trait ReadAt {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads what is at `offset`; fewer bytes than asked for only at the end.
    ///
    /// # Errors
    /// When the bytes cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Exactly `N` bytes at `offset`, or nothing where they do not all lie inside.
    ///
    /// # Errors
    /// When the bytes cannot be read.
    fn array<const N: usize>(&self, offset: u64) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        Ok((self.read_at(offset, &mut bytes)? == N).then_some(bytes))
    }
}

impl ReadAt for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.get(start..));
        let rest = rest.unwrap_or_default();
        let n = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }
}

/// A regular file or a block device.
#[derive(Debug)]
pub struct Source {
    file: File,
    len: u64,
}

impl Source {
    /// Opens it for reading.
    ///
    /// # Errors
    /// When it cannot be opened, or has no length.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        // of a block device the metadata know no length
        let len = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        Ok(Self { file, len })
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The open file; nobody has read of it.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }
}

impl ReadAt for Source {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = left.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..want) else { return Ok(0) };
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

/// A part of something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a, S: ?Sized> {
    pub(crate) of: &'a S,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl<S: ReadAt + ?Sized> ReadAt for Part<'_, S> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = left.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..want) else { return Ok(0) };
        match self.start.checked_add(offset) {
            Some(offset) => self.of.read_at(offset, buffer),
            None => Ok(0),
        }
    }
}

/// Numbers in bytes; nothing where the bytes end before.
pub(crate) trait Numbers {
    fn chunk<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    fn le16(&self, at: usize) -> Option<u16> {
        self.chunk(at).map(u16::from_le_bytes)
    }

    fn le32(&self, at: usize) -> Option<u32> {
        self.chunk(at).map(u32::from_le_bytes)
    }

    fn le64(&self, at: usize) -> Option<u64> {
        self.chunk(at).map(u64::from_le_bytes)
    }

    fn be32(&self, at: usize) -> Option<u32> {
        self.chunk(at).map(u32::from_be_bytes)
    }

    fn be64(&self, at: usize) -> Option<u64> {
        self.chunk(at).map(u64::from_be_bytes)
    }
}

impl Numbers for [u8] {
    fn chunk<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }
}
