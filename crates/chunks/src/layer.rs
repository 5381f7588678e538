//! The piece layer: one blake3 chaining value per piece, which together merge to the blob's root.
//!
//! A [`PieceLayer`] exists only when it has been verified, so whoever holds one can check any piece
//! alone, in any order, from anybody. Pure; owns nothing on disk.

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use p2pinst_types::piece::GeometryError;
use p2pinst_types::{BlobRef, Hash, PieceIndex};
use thiserror::Error;

/// Bytes of one chaining value.
pub const CV_LEN: usize = 32;
/// Pieces of one blob: 16 TiB in pieces of 4 MiB. A geometry with more pieces is refused, since its
/// layer would be larger than 128 MiB.
pub const MAX_PIECES: u32 = 1 << 22;
/// Chaining values in one page of a layer: 64 KiB, so that a page is no longer than a small piece.
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

/// The bytes that went by were not as many as announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{got} bytes were read where {expected} were announced")]
pub struct LengthError {
    /// Bytes announced.
    pub expected: u64,
    /// Bytes seen (at least: counting stops soon after the announced length).
    pub got: u64,
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

/// Collects the pages of a layer as they come from a source, in order.
#[derive(Debug)]
pub struct LayerPages {
    blob: BlobRef,
    expected: usize,
    bytes: Vec<u8>,
}

impl LayerPages {
    /// Begins to collect. Memory grows with the pages that come, to 32 bytes per piece at most.
    ///
    /// # Errors
    /// When the blob has more than [`MAX_PIECES`] pieces.
    pub fn new(blob: BlobRef) -> Result<Self, LayerError> {
        Ok(Self { blob, expected: expected_len(&blob)?, bytes: Vec::new() })
    }

    /// The piece at which the next page must begin; `None` when all pages are there.
    #[must_use]
    pub fn next_page(&self) -> Option<PieceIndex> {
        let have = u32::try_from(self.bytes.len() / CV_LEN).ok()?;
        (self.bytes.len() < self.expected).then_some(PieceIndex(have))
    }

    /// Takes the next page.
    ///
    /// # Errors
    /// When it is not the next page: the source does not follow the protocol.
    pub fn push(&mut self, from: PieceIndex, page: &[u8]) -> Result<(), LayerError> {
        let fits = self.bytes.len() + page.len() <= self.expected;
        let whole = !page.is_empty() && page.len().is_multiple_of(CV_LEN);
        if self.next_page() != Some(from) || !fits || !whole {
            return Err(LayerError::Page { root: self.blob.root, from, got: page.len() });
        }
        self.bytes.extend_from_slice(page);
        Ok(())
    }

    /// The verified layer.
    ///
    /// # Errors
    /// When pages are missing or the whole does not merge to the root: one of the sources lied.
    pub fn finish(self) -> Result<PieceLayer, LayerError> {
        PieceLayer::new(self.blob, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(len: usize, seed: u8) -> Vec<u8> {
        let mut out = vec![0; len];
        Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
        out
    }

    fn build(data: &[u8], step: usize) -> PieceLayer {
        let mut builder = LayerBuilder::new(data.len() as u64).unwrap();
        data.chunks(step.max(1)).for_each(|c| builder.update(c));
        builder.finish().unwrap()
    }

    fn check(len: usize, step: usize) {
        let data = bytes(len, 1);
        let layer = build(&data, step);
        let blob = *layer.blob();
        assert_eq!(blob.root, Hash::of(&data), "{len}");
        assert_eq!(blob.len(), len as u64);
        assert_eq!(PieceLayer::new(blob, layer.as_bytes().to_vec()).unwrap(), layer);
        for piece in blob.indices() {
            let range = blob.range(piece).unwrap();
            let part = &data[range.start as usize..range.end as usize];
            layer.check_piece(piece, part).unwrap();
            let mut bad = part.to_vec();
            bad.push(0);
            assert!(layer.check_piece(piece, &bad).is_err());
            if let Some(b) = bad.get_mut(part.len() / 2).filter(|_| !part.is_empty()) {
                *b ^= 1;
                assert!(layer.check_piece(piece, &bad[..part.len()]).is_err());
                assert!(layer.check_piece(piece, &bad[1..part.len()]).is_err());
            }
        }
        let past = PieceIndex(blob.pieces());
        assert!(matches!(layer.check_piece(past, b""), Err(PieceError::NoSuchPiece { .. })));
    }

    #[test]
    fn roots_are_those_of_b3sum() {
        let p = 64 * 1024;
        let edges = [0, 1, 1023, 1024, 1025, p - 1, p, p + 1, 2 * p - 1, 2 * p, 2 * p + 1];
        for len in edges.into_iter().chain((3..=9).flat_map(|n| [n * p - 5, n * p, n * p + 1])) {
            check(len, 50_000);
        }
    }

    #[test]
    fn larger_pieces_merge_too() {
        let data = bytes((64 << 20) + 12_345, 3);
        let layer = build(&data, 1 << 20);
        assert_eq!(layer.blob().piece_len(), 128 << 10);
        assert_eq!(layer.blob().root, Hash::of(&data));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_length_any_steps(len in 0usize..900_000, step in 1usize..200_000) {
            check(len, step);
        }

        #[test]
        fn a_flipped_bit_in_the_layer_is_noticed(pieces in 1usize..12, at in any::<prop::sample::Index>()) {
            let layer = build(&bytes(pieces * 65_536, 2), 1 << 20);
            let mut raw = layer.as_bytes().to_vec();
            let at = at.index(raw.len());
            raw[at] ^= 4;
            prop_assert_eq!(
                PieceLayer::new(*layer.blob(), raw),
                Err(LayerError::Mismatch { root: layer.blob().root })
            );
        }
    }

    #[test]
    fn short_and_long_input_is_an_error() {
        for (announced, given, got) in
            [(10, 9, 9), (10, 11, 11), (0, 1, 1), (70_000, 80_000, 70_001)]
        {
            let mut builder = LayerBuilder::new(announced).unwrap();
            builder.update(&vec![7; given]);
            assert_eq!(builder.finish(), Err(LengthError { expected: announced, got }));
        }
        assert!(LayerBuilder::new(u64::MAX).is_err());
    }

    #[test]
    fn pages_come_in_order_and_bounded() {
        // 64 KiB pieces of a length that only the wire can name: the layer is two pages long
        let data = bytes(65_536, 4);
        let layer = build(&data, 65_536);
        let mut pages = LayerPages::new(*layer.blob()).unwrap();
        assert_eq!(pages.next_page(), Some(PieceIndex(0)));
        assert!(pages.push(PieceIndex(1), layer.as_bytes()).is_err());
        assert!(pages.push(PieceIndex(0), b"").is_err());
        assert!(pages.push(PieceIndex(0), &[0; 33]).is_err());
        assert!(pages.push(PieceIndex(0), &[0; 64]).is_err());
        pages.push(PieceIndex(0), layer.page(PieceIndex(0))).unwrap();
        assert_eq!(pages.next_page(), None);
        assert!(pages.push(PieceIndex(1), &[0; 32]).is_err());
        assert_eq!(pages.finish().unwrap(), layer);
        assert_eq!(layer.page(PieceIndex(9)), b"");
        let huge = BlobRef::with_piece_log2(Hash([0; 32]), 16 << 40, 16).unwrap();
        assert!(matches!(LayerPages::new(huge), Err(LayerError::TooManyPieces { .. })));
    }
}
