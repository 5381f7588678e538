//! How a blob is cut: pieces are aligned power-of-two ranges, complete blake3 subtrees.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bytes::Hash;
use crate::limits;

/// The number of a piece within its blob, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PieceIndex(pub u32);

/// A blob's geometry that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no blob has {len} bytes in pieces of 2^{log2}")]
pub struct GeometryError {
    /// Length in bytes.
    pub len: u64,
    /// Base-two logarithm of the piece length.
    pub log2: u8,
}

/// Smallest piece: 32 KiB.
const MIN_LOG2: u8 = 15;
/// Up to this length a blob is one piece.
const ONE: u64 = 64 << 10;
/// Shorter pieces cost more of the processor; longer ones delay the last node.
const COSTLY: u64 = 128 << 10;
/// Largest piece: 4 MiB.
const MAX_LOG2: u8 = 22;

/// A blob: its blake3 root (what `b3sum` prints), its length and its piece size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawBlobRef", into = "RawBlobRef")]
pub struct BlobRef {
    /// blake3 of the whole.
    pub root: Hash,
    len: u64,
    piece_log2: u8,
}

/// The wire form of [`BlobRef`], before its geometry is checked.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct RawBlobRef {
    root: Hash,
    len: u64,
    piece_log2: u8,
}

impl TryFrom<RawBlobRef> for BlobRef {
    type Error = GeometryError;
    fn try_from(raw: RawBlobRef) -> Result<Self, GeometryError> {
        Self::with_piece_log2(raw.root, raw.len, raw.piece_log2)
    }
}

impl From<BlobRef> for RawBlobRef {
    fn from(b: BlobRef) -> Self {
        Self { root: b.root, len: b.len, piece_log2: b.piece_log2 }
    }
}

impl BlobRef {
    /// A blob cut as publishers cut, in pieces of
    /// `clamp(next_pow2(max(min(len / 1024, 128 KiB), len / 4096)), 32 KiB, 4 MiB)`; up to 64 KiB are one
    /// piece.
    ///
    /// # Errors
    /// When `len` is above [`limits::BLOB`].
    pub fn new(root: Hash, len: u64) -> Result<Self, GeometryError> {
        Self::with_piece_log2(root, len, Self::piece_log2_for(len))
    }

    /// A blob cut in pieces of `2^piece_log2` bytes.
    ///
    /// # Errors
    /// When the length or the piece size is out of bounds.
    pub fn with_piece_log2(root: Hash, len: u64, piece_log2: u8) -> Result<Self, GeometryError> {
        if len > limits::BLOB || !(MIN_LOG2..=MAX_LOG2).contains(&piece_log2) {
            return Err(GeometryError { len, log2: piece_log2 });
        }
        Ok(Self { root, len, piece_log2 })
    }

    /// The piece size, as a base-two logarithm, that a publisher chooses for a length.
    #[must_use]
    pub fn piece_log2_for(len: u64) -> u8 {
        let ideal =
            (len / 1024).min(COSTLY).max(len / 4096).max(1).next_power_of_two().trailing_zeros();
        let least = if len <= ONE { MIN_LOG2 + 1 } else { MIN_LOG2 };
        u8::try_from(ideal).unwrap_or(MAX_LOG2).clamp(least, MAX_LOG2)
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the blob has no byte at all. It still has one (empty) piece.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of every piece but the last.
    #[must_use]
    pub fn piece_len(&self) -> u64 {
        1 << self.piece_log2
    }

    /// Number of pieces; at least one.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        u32::try_from(self.len.div_ceil(self.piece_len())).unwrap_or(u32::MAX).max(1)
    }

    /// The bytes of a piece within the blob; `None` when there is no such piece.
    #[must_use]
    pub fn range(&self, piece: PieceIndex) -> Option<Range<u64>> {
        if piece.0 >= self.pieces() {
            return None;
        }
        let start = u64::from(piece.0) << self.piece_log2;
        Some(start..self.len.min(start + self.piece_len()))
    }

    /// All pieces, in order.
    pub fn indices(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.pieces()).map(PieceIndex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(len: u64) -> BlobRef {
        BlobRef::new(Hash([0; 32]), len).unwrap()
    }

    #[test]
    fn geometry() {
        assert_eq!(blob(0).pieces(), 1);
        assert_eq!(blob(0).range(PieceIndex(0)), Some(0..0));
        assert_eq!(blob(1).pieces(), 1);
        assert_eq!(blob(64 << 10).pieces(), 1);
        assert_eq!(blob((64 << 10) + 1).pieces(), 3);
        assert_eq!(blob(32 << 20).piece_len(), 32 << 10);
        assert_eq!(blob(64 << 20).piece_len(), 64 << 10);
        assert_eq!(blob(64 << 20).pieces(), 1024);
        assert_eq!(blob((64 << 20) + 1024).pieces(), 513);
        assert_eq!(blob(512 << 20).pieces(), 4096);
        assert_eq!(blob(1000 << 20).piece_len(), 256 << 10);
        assert_eq!(blob(1 << 40).piece_len(), 4 << 20);
        let b = blob(100_000);
        assert_eq!(b.range(PieceIndex(1)), Some(32_768..65_536));
        assert_eq!(b.range(PieceIndex(3)), Some(98_304..100_000));
        assert_eq!(b.range(PieceIndex(4)), None);
        assert!(BlobRef::new(Hash([0; 32]), u64::MAX).is_err());
        assert!(BlobRef::with_piece_log2(Hash([0; 32]), 5, 63).is_err());
    }
}
