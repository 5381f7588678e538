//! Whether a disk gives back what was written to it: some pieces of it, read from the disk itself.
//!
//! Knows no hashes: the caller says whether a piece is right. Only reads.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use p2pinst_types::PieceIndex;
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::source::{ReadAt as _, Source};

/// What direct reads are aligned to: the largest sector of usual disks.
const ALIGN: usize = 4096;
/// The largest piece that there is.
const PIECE_MAX: u64 = 4 << 20;

/// How an image is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    /// The image's length.
    pub len: u64,
    /// The length of all pieces but the last.
    pub piece: u64,
}

impl Pieces {
    fn count(self) -> u64 {
        self.len.div_ceil(self.piece)
    }

    fn range(self, index: u64) -> (u64, u64) {
        let start = index.saturating_mul(self.piece);
        (start, self.len.saturating_sub(start).min(self.piece))
    }
}

/// Why a disk was not read back.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// It cannot be read.
    #[error("cannot read {} back: {source}", path.display())]
    Read {
        /// The disk.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is shorter than the image.
    #[error("cannot read {} back: it ends after {len} bytes, the image has {wanted}", path.display())]
    Short {
        /// The disk.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// The image's.
        wanted: u64,
    },
    /// Pieces that cannot be.
    #[error("there are no pieces of {piece} bytes")]
    Geometry {
        /// Their length.
        piece: u64,
    },
}

/// Reads the first, the last, and `count` other pieces, drawn by `random`, and names those that `is_right` refuses.
///
/// # Errors
/// When the disk is too short or cannot be read.
pub fn sample(
    path: &Path,
    pieces: Pieces,
    count: usize,
    random: &mut dyn FnMut() -> u64,
    is_right: &dyn Fn(PieceIndex, &[u8]) -> bool,
) -> Result<Vec<PieceIndex>, VerifyError> {
    let Pieces { len, piece } = pieces;
    if !piece.is_power_of_two() || !(ALIGN as u64..=PIECE_MAX).contains(&piece) {
        return Err(VerifyError::Geometry { piece });
    }
    let error = |source| VerifyError::Read { path: path.to_owned(), source };
    let disk = Disk::open(path).map_err(error)?;
    if disk.cached.len() < len {
        let (path, here) = (path.to_owned(), disk.cached.len());
        return Err(VerifyError::Short { path, len: here, wanted: len });
    }
    let mut buffer = Aligned::new(usize::try_from(piece).unwrap_or(0));
    let mut wrong = Vec::new();
    for index in draw(pieces.count(), count, random) {
        let (start, size) = pieces.range(index);
        let bytes = disk.read(start, size, &mut buffer).map_err(error)?;
        let index = PieceIndex(u32::try_from(index).unwrap_or(u32::MAX));
        if !is_right(index, bytes) {
            wrong.push(index);
        }
    }
    Ok(wrong)
}

/// The first, the last, and `count` others, in order; all, where there are no more.
fn draw(all: u64, count: usize, random: &mut dyn FnMut() -> u64) -> BTreeSet<u64> {
    let Some(last) = all.checked_sub(1) else { return BTreeSet::new() };
    let mut drawn = BTreeSet::from([0, last]);
    let wanted = (count as u64).saturating_add(drawn.len() as u64);
    if wanted >= all {
        return (0..all).collect();
    }
    while (drawn.len() as u64) < wanted {
        // the next that is not drawn yet, so that any `random` comes to an end
        let mut index = random() % all;
        while !drawn.insert(index) {
            index = (index + 1) % all;
        }
    }
    drawn
}

struct Disk {
    /// Past the cache, where the filesystem can.
    direct: Option<File>,
    cached: Source,
}

impl Disk {
    fn open(path: &Path) -> io::Result<Self> {
        let cached = Source::open(path)?;
        // what is not on the disk yet cannot be read from it
        cached.file().sync_data()?;
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let direct = match direct {
            Ok(file) => Some(file),
            Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => None,
            Err(e) => return Err(e),
        };
        Ok(Self { direct, cached })
    }

    fn read<'b>(&self, start: u64, size: u64, buffer: &'b mut Aligned) -> io::Result<&'b [u8]> {
        let want = usize::try_from(size).unwrap_or(0);
        let bytes = buffer.bytes();
        let whole = want.next_multiple_of(ALIGN);
        if let (Some(file), Some(part)) = (&self.direct, bytes.get_mut(..whole)) {
            match read_all(file, start, part) {
                Ok(n) if n >= want => return Ok(bytes.get(..want).unwrap_or_default()),
                Ok(_) => {}
                // sectors that are larger, or an end that is not one
                Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => {}
                Err(e) => return Err(e),
            }
        }
        let len = std::num::NonZeroU64::new(size);
        rustix::fs::fadvise(self.cached.file(), start, len, Advice::DontNeed)?;
        let part = bytes.get_mut(..want).unwrap_or_default();
        if self.cached.read_at(start, part)? < want {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(part)
    }
}

fn read_all(file: &File, start: u64, buffer: &mut [u8]) -> io::Result<usize> {
    use std::os::unix::fs::FileExt as _;
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // behind the end of a file that is no multiple of a sector
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// A buffer that direct reads accept.
struct Aligned {
    memory: Vec<u8>,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        Self { memory: vec![0; len + ALIGN], len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let skip = self.memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        self.memory.get_mut(skip..).and_then(|m| m.get_mut(..self.len)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use proptest::prelude::*;

    use super::*;

    const PIECE: u64 = 32 << 10;

    fn disk(len: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        for index in 0..len.div_ceil(PIECE) {
            let byte = u8::try_from(index % 251 + 1).unwrap();
            let size = usize::try_from((len - index * PIECE).min(PIECE)).unwrap();
            file.as_file().write_all_at(&vec![byte; size], index * PIECE).unwrap();
        }
        file
    }

    fn is_right(index: PieceIndex, bytes: &[u8]) -> bool {
        let byte = u8::try_from(index.0 % 251 + 1).unwrap();
        bytes.iter().all(|b| *b == byte)
    }

    #[test]
    fn first_and_last_are_always_read() {
        // the last piece ends within a sector
        let len = 100 * PIECE + 777;
        let file = disk(len);
        let pieces = Pieces { len, piece: PIECE };
        let check = |count| sample(file.path(), pieces, count, &mut || 7, &is_right).unwrap();
        assert!(check(10).is_empty() && check(1000).is_empty());
        file.as_file().write_all_at(b"!", 0).unwrap();
        file.as_file().write_all_at(b"!", len - 1).unwrap();
        file.as_file().write_all_at(b"!", 8 * PIECE).unwrap();
        file.as_file().write_all_at(b"!", 60 * PIECE + 5).unwrap();
        let found = |count| check(count).iter().map(|p| p.0).collect::<Vec<_>>();
        assert_eq!(found(0), [0, 100]);
        assert_eq!(found(3), [0, 8, 100], "7, 8 and 9 are drawn");
        assert_eq!(found(99), [0, 8, 60, 100]);
        let longer = Pieces { len: len + 1, piece: PIECE };
        let short = sample(file.path(), longer, 1, &mut || 0, &is_right);
        assert!(matches!(short, Err(VerifyError::Short { .. })));
    }

    proptest! {
        #[test]
        fn pieces_are_drawn_once(all in 0u64..500, count in 0usize..600, seed in any::<u64>()) {
            let mut state = seed;
            let mut random = || { state = state.wrapping_mul(6364136223846793005).wrapping_add(1); state >> 33 };
            let drawn = draw(all, count, &mut random);
            let first_and_last = all.min(2);
            prop_assert_eq!(drawn.len() as u64, all.min(first_and_last + count as u64));
            prop_assert!(all == 0 || drawn.contains(&0) && drawn.contains(&(all - 1)));
            prop_assert!(drawn.iter().all(|index| *index < all));
        }
    }
}
