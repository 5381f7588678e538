//! The piece layer: one blake3 chaining value per piece, which together merge to the blob's root.
//!
//! A [`PieceLayer`] exists only when it has been verified, so whoever holds one can check any piece
//! alone, in any order, from anybody. Pure; owns nothing on disk.

mod builder;
mod pages;

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use p2pinst_types::{BlobRef, Hash, PieceIndex};
use thiserror::Error;

pub use self::builder::{LayerBuilder, LengthError};
pub use self::pages::LayerPages;

/// Bytes of one chaining value.
pub const CV_LEN: usize = 32;
/// Pieces of one blob: 16 TiB in pieces of 4 MiB. A geometry with more pieces is refused, since its
/// layer would be larger than 128 MiB.
pub const MAX_PIECES: u32 = 1 << 22;
/// Chaining values in one page of a layer: 64 KiB, so that a page is about as long as a small piece.
pub const PAGE_PIECES: u32 = 2048;

/// Why bytes are not the piece layer of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayerError {
    /// The blob has more pieces than any blob may have.
    #[error("blob {} claims {pieces} pieces, at most {MAX_PIECES} are possible", root.short())]
    TooManyPieces {
        /// The blob.
        root: Hash,
        /// What it claims.
        pieces: u32,
    },
    /// Not one value per piece.
    #[error("the piece layer of {} has {got} bytes instead of {expected}", root.short())]
    Length {
        /// The blob.
        root: Hash,
        /// Bytes that its geometry asks for.
        expected: usize,
        /// Bytes that there are.
        got: usize,
    },
    /// The values do not merge to the root: the source lied or the bytes were damaged.
    #[error("the piece layer does not belong to blob {}", root.short())]
    Mismatch {
        /// The blob.
        root: Hash,
    },
    /// A page that was not the next one, or not whole values.
    #[error("a page of {got} bytes at piece {} does not continue the layer of {}", from.0, root.short())]
    Page {
        /// The blob.
        root: Hash,
        /// Where the page says it begins.
        from: PieceIndex,
        /// Its length in bytes.
        got: usize,
    },
}

/// Why bytes are not a piece of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PieceError {
    /// The blob has no piece of that number.
    #[error("blob {} has no piece {}", root.short(), piece.0)]
    NoSuchPiece {
        /// The blob.
        root: Hash,
        /// The number asked for.
        piece: PieceIndex,
    },
    /// The bytes hash to something else, or are too few or too many.
    #[error("these {len} bytes are not piece {} of blob {}", piece.0, root.short())]
    Mismatch {
        /// The blob.
        root: Hash,
        /// The piece that they were said to be.
        piece: PieceIndex,
        /// How many bytes there were.
        len: usize,
    },
}

/// The verified piece layer of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceLayer {
    blob: BlobRef,
    bytes: Box<[u8]>,
}

impl PieceLayer {
    /// Takes the layer's bytes if they merge to the blob's root.
    ///
    /// # Errors
    /// When there is not exactly one value per piece, or they do not merge to the root.
    pub fn new(blob: BlobRef, bytes: Vec<u8>) -> Result<Self, LayerError> {
        let expected = expected_len(&blob)?;
        if bytes.len() != expected {
            return Err(LayerError::Length { root: blob.root, expected, got: bytes.len() });
        }
        if merge(&bytes) != Some(blob.root) {
            return Err(LayerError::Mismatch { root: blob.root });
        }
        Ok(Self { blob, bytes: bytes.into() })
    }

    /// The blob that this is the layer of.
    #[must_use]
    pub fn blob(&self) -> &BlobRef {
        &self.blob
    }

    /// All chaining values, in order: 32 bytes per piece.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The values from piece `from` on, at most [`PAGE_PIECES`] of them; empty past the end.
    #[must_use]
    pub fn page(&self, from: PieceIndex) -> &[u8] {
        let start = (from.0 as usize).saturating_mul(CV_LEN).min(self.bytes.len());
        let end = start.saturating_add(PAGE_PIECES as usize * CV_LEN).min(self.bytes.len());
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// Checks that bytes are the piece of that number.
    ///
    /// # Errors
    /// When there is no such piece, or the bytes are not it.
    pub fn check_piece(&self, piece: PieceIndex, bytes: &[u8]) -> Result<(), PieceError> {
        let root = self.blob.root;
        let range = self.blob.range(piece).ok_or(PieceError::NoSuchPiece { root, piece })?;
        let start = piece.0 as usize * CV_LEN;
        let expected = self.bytes.get(start..start + CV_LEN);
        let good = bytes.len() as u64 == range.end - range.start
            && expected == Some(hash_piece(&self.blob, range.start, bytes).as_slice());
        if good { Ok(()) } else { Err(PieceError::Mismatch { root, piece, len: bytes.len() }) }
    }
}

/// The chaining value of a piece that begins at `start`; a blob of one piece has its root there.
/// The bytes must be exactly as long as the piece (blake3 refuses empty or overlong subtrees).
fn hash_piece(blob: &BlobRef, start: u64, bytes: &[u8]) -> ChainingValue {
    if blob.pieces() == 1 {
        return *blake3::hash(bytes).as_bytes();
    }
    Hasher::new().set_input_offset(start).update(bytes).finalize_non_root()
}

/// Bytes that the layer of a blob has.
fn expected_len(blob: &BlobRef) -> Result<usize, LayerError> {
    let pieces = blob.pieces();
    if pieces > MAX_PIECES {
        return Err(LayerError::TooManyPieces { root: blob.root, pieces });
    }
    Ok(pieces as usize * CV_LEN)
}

/// Merges the values of a layer to the root. An odd value at the end of a level rises unmerged:
/// that is blake3's tree, whose left subtrees are always complete.
pub(crate) fn merge(bytes: &[u8]) -> Option<Hash> {
    let (values, rest) = bytes.as_chunks::<CV_LEN>();
    if !rest.is_empty() {
        return None;
    }
    let mut level = values.to_vec();
    loop {
        match level.as_slice() {
            [] => return None,
            [only] => return Some(Hash(*only)),
            [left, right] => {
                return Some(Hash(*merge_subtrees_root(left, right, Mode::Hash).as_bytes()));
            }
            _ => {}
        }
        level = level
            .chunks(2)
            .filter_map(|pair| match pair {
                [left, right] => Some(merge_subtrees_non_root(left, right, Mode::Hash)),
                [odd] => Some(*odd),
                _ => None,
            })
            .collect();
    }
}

#[cfg(test)]
mod tests;
