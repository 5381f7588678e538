//! Which pieces of a blob are there: one bit per piece, with its count kept.
//!
//! Pure. The encoding is the least significant bit first, `ceil(pieces / 8)` bytes, the spare bits
//! of the last byte zero, so that each set has exactly one encoding.

use p2pinst_types::PieceIndex;
use thiserror::Error;

use crate::layer::MAX_PIECES;

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// Why bytes are not a bitmap of so many pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BitmapError {
    /// More pieces than any blob has.
    #[error("a bitmap of {0} pieces is too large")]
    TooLarge(u32),
    /// Too few or too many bytes.
    #[error("a bitmap of {pieces} pieces does not have {got} bytes")]
    Length {
        /// Pieces expected.
        pieces: u32,
        /// Bytes given.
        got: usize,
    },
    /// Bits are set behind the last piece.
    #[error("a bitmap of {0} pieces has bits behind the last")]
    Spare(u32),
}

/// A set of pieces out of a fixed number. Takes `pieces / 8` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    pieces: u32,
    ones: u32,
    words: Box<[u64]>,
}

impl Bitmap {
    /// No piece out of `pieces`.
    #[must_use]
    pub fn new(pieces: u32) -> Self {
        Self { pieces, ones: 0, words: vec![0; pieces.div_ceil(WORD) as usize].into() }
    }

    /// All of `pieces`.
    #[must_use]
    pub fn full(pieces: u32) -> Self {
        let mut words = vec![u64::MAX; pieces.div_ceil(WORD) as usize];
        if let (Some(last), spare @ 1..) = (words.last_mut(), pieces % WORD) {
            *last = (1 << spare) - 1;
        }
        Self { pieces, ones: pieces, words: words.into() }
    }

    /// Out of how many pieces this is a set.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Pieces in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Whether no piece is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// Whether every piece is in the set.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ones == self.pieces
    }

    /// Whether the piece is in the set; `false` for a piece that does not exist.
    #[must_use]
    pub fn get(&self, piece: PieceIndex) -> bool {
        piece.0 < self.pieces
            && self
                .words
                .get((piece.0 / WORD) as usize)
                .is_some_and(|w| w >> (piece.0 % WORD) & 1 == 1)
    }

    /// Adds a piece; whether that changed anything. A piece that does not exist changes nothing.
    pub fn set(&mut self, piece: PieceIndex) -> bool {
        let change = piece.0 < self.pieces && !self.get(piece);
        if change && let Some(word) = self.words.get_mut((piece.0 / WORD) as usize) {
            *word |= 1 << (piece.0 % WORD);
            self.ones += 1;
        }
        change
    }

    /// Takes a piece out; whether that changed anything.
    pub fn clear(&mut self, piece: PieceIndex) -> bool {
        let change = self.get(piece);
        if change && let Some(word) = self.words.get_mut((piece.0 / WORD) as usize) {
            *word &= !(1 << (piece.0 % WORD));
            self.ones -= 1;
        }
        change
    }

    /// The pieces in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        ones(self.words.iter().copied())
    }

    /// The pieces that are not in the set, in order.
    pub fn missing(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        let pieces = self.pieces;
        ones(self.words.iter().map(|w| !w)).take_while(move |p| p.0 < pieces)
    }

    /// The set in words of 64 pieces, the least significant bit first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Bytes that a bitmap of so many pieces is encoded in.
    #[must_use]
    pub fn encoded_len(pieces: u32) -> usize {
        pieces.div_ceil(8) as usize
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let end = out.len() + Self::encoded_len(self.pieces);
        self.words.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
        out.truncate(end);
    }

    /// Reads a bitmap of `pieces` pieces.
    ///
    /// # Errors
    /// When the bytes are not the encoding of such a bitmap.
    pub fn decode(pieces: u32, bytes: &[u8]) -> Result<Self, BitmapError> {
        if pieces > MAX_PIECES {
            return Err(BitmapError::TooLarge(pieces));
        }
        if bytes.len() != Self::encoded_len(pieces) {
            return Err(BitmapError::Length { pieces, got: bytes.len() });
        }
        let words: Box<[u64]> = bytes
            .chunks(8)
            .map(|c| c.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
            .collect();
        let spare = pieces % WORD;
        if spare != 0 && words.last().is_some_and(|w| w >> spare != 0) {
            return Err(BitmapError::Spare(pieces));
        }
        let ones = words.iter().map(|w| w.count_ones()).sum();
        Ok(Self { pieces, ones, words })
    }
}

fn ones(words: impl Iterator<Item = u64>) -> impl Iterator<Item = PieceIndex> {
    words.zip(0u32..).flat_map(|(mut word, at)| {
        std::iter::from_fn(move || {
            let bit = word.trailing_zeros();
            word &= word.wrapping_sub(1);
            (bit < WORD).then_some(PieceIndex(at * WORD + bit))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges() {
        for n in [0, 1, 7, 8, 63, 64, 65, 128, 1000] {
            let (none, all) = (Bitmap::new(n), Bitmap::full(n));
            assert_eq!((none.count(), all.count()), (0, n));
            assert_eq!(none.missing().count(), n as usize);
            assert_eq!(all.iter().count(), n as usize);
            assert_eq!(all.missing().count(), 0);
            assert!(!all.get(PieceIndex(n)) && !all.clone().set(PieceIndex(n)));
        }
        assert!(Bitmap::decode(9, &[0xff, 0x01]).unwrap().is_full());
        assert_eq!(Bitmap::decode(9, &[0xff, 0x03]), Err(BitmapError::Spare(9)));
        assert_eq!(Bitmap::decode(9, &[0xff]), Err(BitmapError::Length { pieces: 9, got: 1 }));
        assert!(Bitmap::decode(u32::MAX, &[]).is_err());
    }

    #[test]
    fn golden_bytes() {
        let mut map = Bitmap::new(19);
        [0, 3, 8, 18].into_iter().for_each(|i| assert!(map.set(PieceIndex(i))));
        let mut out = Vec::new();
        map.encode(&mut out);
        assert_eq!(out, [0b1001, 1, 0b100]);
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(
            n in 1u32..300,
            ops in prop::collection::vec((any::<bool>(), 0u32..310), 0..200),
        ) {
            let (mut map, mut set) = (Bitmap::new(n), BTreeSet::new());
            for (add, i) in ops {
                let piece = PieceIndex(i);
                if add {
                    prop_assert_eq!(map.set(piece), i < n && set.insert(i));
                } else {
                    prop_assert_eq!(map.clear(piece), set.remove(&i));
                }
            }
            prop_assert_eq!(map.count() as usize, set.len());
            prop_assert!(map.iter().map(|p| p.0).eq(set.iter().copied()));
            prop_assert!(map.missing().map(|p| p.0).eq((0..n).filter(|i| !set.contains(i))));
            let mut out = Vec::new();
            map.encode(&mut out);
            prop_assert_eq!(Bitmap::decode(n, &out).unwrap(), map);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(n in 0u32..200, bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(map) = Bitmap::decode(n, &bytes) {
                let mut out = Vec::new();
                map.encode(&mut out);
                prop_assert_eq!(out, bytes);
            }
        }
    }
}
