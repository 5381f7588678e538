//! Parts of pieces: what a downloader lacks that has the rest of a piece from an older version.

use std::ops::Range;

use thiserror::Error;

use super::{Body, HEADER, PIECE_MAX, RANGE, WireError, tag};
use crate::recipe::PARTS;
use p2pinst_types::PieceIndex;

/// Bytes before the ranges of parts in their frame: header, piece, number of ranges.
pub const PARTS_PREFIX: usize = HEADER + 4 + 1;

/// Ranges that are no parts of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("these are not 1 to {PARTS} ranges of a piece, in order and apart")]
pub struct PartsError;

/// Which bytes of a piece: 1 to [`PARTS`] ranges that are not empty, in order, and do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts(Box<[Range<u32>]>);

impl Parts {
    /// Takes ranges if they are parts of a piece.
    ///
    /// # Errors
    /// When they are too many or none, out of order, or beyond the longest piece.
    pub fn new(ranges: Vec<Range<u32>>) -> Result<Self, PartsError> {
        let mut last = 0;
        for range in &ranges {
            if range.start < last || range.end <= range.start {
                return Err(PartsError);
            }
            last = range.end;
        }
        let fits = (1..=PARTS).contains(&ranges.len()) && last as usize <= PIECE_MAX;
        if fits { Ok(Self(ranges.into())) } else { Err(PartsError) }
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u32>] {
        &self.0
    }

    /// Bytes in all of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|r| (r.end - r.start) as usize).sum()
    }

    /// The parts of a whole piece, in order; `None` when it is too short.
    #[must_use]
    pub fn of<'a>(&self, piece: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        self.0.iter().map(|r| piece.get(r.start as usize..r.end as usize)).collect()
    }

    /// Each range's begin, with its bytes of those that came; `None` when they are not as many.
    #[must_use]
    pub fn placed<'a>(&self, mut bytes: &'a [u8]) -> Option<Vec<(u32, &'a [u8])>> {
        let mut out = Vec::with_capacity(self.0.len());
        for range in &self.0 {
            let (part, rest) = bytes.split_at_checked((range.end - range.start) as usize)?;
            out.push((range.start, part));
            bytes = rest;
        }
        bytes.is_empty().then_some(out)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for range in &self.0 {
            out.extend_from_slice(&range.start.to_be_bytes());
            out.extend_from_slice(&range.end.to_be_bytes());
        }
    }
}

impl Body<'_> {
    /// So many ranges.
    pub(super) fn parts(&mut self, count: usize) -> Result<Parts, WireError> {
        let mut ranges = Vec::with_capacity(count.min(PARTS));
        for _ in 0..count {
            let start = u32::from_be_bytes(self.take()?);
            ranges.push(start..u32::from_be_bytes(self.take()?));
        }
        Ok(Parts::new(ranges)?)
    }

    /// All the rest: ranges.
    pub(super) fn rest_parts(&mut self) -> Result<Parts, WireError> {
        let count = self.rest.len() / RANGE;
        let parts = self.parts(count)?;
        self.end().map(|()| parts)
    }
}

/// The beginning of the frame of parts: their bytes follow as they are, so that they need not be copied.
#[must_use]
pub fn parts_prefix(piece: PieceIndex, parts: &Parts) -> Vec<u8> {
    let len = 5 + parts.0.len() * RANGE + parts.bytes();
    let mut out = vec![tag::PARTS];
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&piece.0.to_be_bytes());
    out.push(u8::try_from(parts.0.len()).unwrap_or(u8::MAX));
    parts.encode(&mut out);
    out
}
