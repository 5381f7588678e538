//! Hashing a blob once, as its bytes go by.

use blake3::Hasher;
use blake3::hazmat::HasherExt;
use p2pinst_types::piece::GeometryError;
use p2pinst_types::{BlobRef, Hash, PieceIndex};
use thiserror::Error;

use super::{CV_LEN, MAX_PIECES, PieceLayer, merge};

/// The bytes that went by were not as many as announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{got} bytes were read where {expected} were announced")]
pub struct LengthError {
    /// Bytes announced.
    pub expected: u64,
    /// Bytes seen (at least: counting stops soon after the announced length).
    pub got: u64,
}

/// Hashes a blob as its bytes go by: root and piece layer in one pass.
#[derive(Debug)]
pub struct LayerBuilder {
    /// The geometry; its root is not known yet.
    shape: BlobRef,
    piece: PieceIndex,
    seen: u64,
    excess: bool,
    hasher: Hasher,
    layer: Vec<u8>,
}

impl LayerBuilder {
    /// Begins a blob of `len` bytes. The length comes first, since the piece size follows from it.
    ///
    /// # Errors
    /// When no blob may be that long.
    pub fn new(len: u64) -> Result<Self, GeometryError> {
        let shape = BlobRef::new(Hash([0; 32]), len)?;
        let layer = Vec::with_capacity(shape.pieces().min(MAX_PIECES) as usize * CV_LEN);
        let (piece, hasher) = (PieceIndex(0), Hasher::new());
        Ok(Self { shape, piece, seen: 0, excess: false, hasher, layer })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = self.shape.range(self.piece).map_or(self.seen, |r| r.end);
            let room = usize::try_from(end - self.seen).unwrap_or(usize::MAX);
            let Some((head, tail)) = bytes.split_at_checked(room.min(bytes.len())) else { return };
            if head.is_empty() {
                self.excess = true;
                return;
            }
            self.hasher.update(head);
            self.seen += head.len() as u64;
            if self.seen == end && end < self.shape.len() {
                self.next_piece(end);
            }
            bytes = tail;
        }
    }

    fn next_piece(&mut self, start: u64) {
        self.layer.extend_from_slice(&self.hasher.finalize_non_root());
        self.hasher = Hasher::new();
        self.hasher.set_input_offset(start);
        self.piece = PieceIndex(self.piece.0 + 1);
    }

    /// The blob's layer, and with it its root.
    ///
    /// # Errors
    /// When fewer or more bytes went by than announced.
    pub fn finish(mut self) -> Result<PieceLayer, LengthError> {
        let expected = self.shape.len();
        let error = LengthError { expected, got: self.seen + u64::from(self.excess) };
        if self.seen != expected || self.excess {
            return Err(error);
        }
        if self.shape.pieces() == 1 {
            self.layer.extend_from_slice(self.hasher.finalize().as_bytes());
        } else {
            self.layer.extend_from_slice(&self.hasher.finalize_non_root());
        }
        let mut blob = self.shape;
        blob.root = merge(&self.layer).ok_or(error)?;
        Ok(PieceLayer { blob, bytes: self.layer.into() })
    }
}
