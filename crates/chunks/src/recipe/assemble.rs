//! Building pieces of what is here. Blocking.

use std::collections::BTreeMap;
use std::ops::Range;

use p2pinst_types::PieceIndex;

use super::{Place, Plan, Seed};
use crate::bitmap::Bitmap;
use crate::store::{BlobStore, Put, PutError};

/// Ranges of a piece that are asked for one by one; a piece that lacks more is asked for whole.
pub const PARTS: usize = 32;
/// A piece of which less than this is here, in bytes, is asked for whole.
const WORTH: u64 = 16 << 10;

/// What was built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assembled {
    /// Bytes that were copied from here and count.
    pub local: u64,
    /// Bytes of zeros that count.
    pub zero: u64,
    /// Pieces that were built, and are verified.
    pub pieces: u32,
    /// Pieces that did not verify though all of their chunks did: the recipe is wrong.
    pub wrong: u32,
    /// Whether the blob is complete now.
    pub complete: bool,
    /// Pieces of which a part is in its place, unverified, with what is missing of them: bytes of the
    /// piece, in order, at most [`PARTS`].
    pub partial: BTreeMap<PieceIndex, Vec<Range<u32>>>,
}

/// Builds the pieces of a blob that was begun, as far as the plan knows where they are, and stores those
/// that verify. Of pieces of which only a part is here it stores that part, without believing it. Goes on
/// as long as `go_on` says so, which is told of each piece that is new.
///
/// # Errors
/// When a piece cannot be stored. What is built stays.
pub fn assemble(
    store: &BlobStore,
    plan: &Plan,
    seeds: &[Seed],
    go_on: &mut dyn FnMut(Option<PieceIndex>) -> bool,
) -> Result<Assembled, PutError> {
    let blob = *plan.blob();
    let have = store.status(&blob.root).ok_or(PutError::Unknown { root: blob.root })?.have;
    let mut build = Build {
        store,
        plan,
        have,
        piece: PieceIndex(0),
        bytes: Vec::new(),
        parts: Vec::new(),
        done: Assembled::default(),
    };
    let mut chunk_bytes = Vec::new();
    for (range, chunk, place) in plan.chunks() {
        if !go_on(None) {
            break;
        }
        if !build.wants(&range) {
            build.skip(&range);
            continue;
        }
        let source = match place {
            Place::Local(local) => {
                let seed = seeds.get(local.seed);
                match seed.is_some_and(|s| s.read(&chunk, local, &mut chunk_bytes)) {
                    true => Source::Bytes(&chunk_bytes),
                    false => Source::Missing,
                }
            }
            Place::Zero => Source::Zero,
            Place::Missing => Source::Missing,
        };
        build.take(range, source, go_on)?;
    }
    Ok(build.done)
}

/// What is known of a stretch of the blob.
#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    Bytes(&'a [u8]),
    Zero,
    Missing,
}

/// What one part of a piece was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Was {
    Local,
    Zero,
    Missing,
}

struct Build<'a> {
    store: &'a BlobStore,
    plan: &'a Plan,
    /// What needs no building.
    have: Bitmap,
    /// The piece that is being built, and its bytes so far.
    piece: PieceIndex,
    bytes: Vec<u8>,
    /// What those are, in order.
    parts: Vec<(Was, u32)>,
    done: Assembled,
}

impl Build<'_> {
    /// The pieces that a stretch of the blob is part of.
    fn pieces(&self, range: &Range<u64>) -> Range<u32> {
        let len = self.plan.blob().piece_len();
        let piece = |at: u64| u32::try_from(at / len).unwrap_or(u32::MAX);
        piece(range.start)..piece(range.end.saturating_sub(1)).saturating_add(1)
    }

    /// Whether any piece with a part in that stretch is not here.
    fn wants(&self, range: &Range<u64>) -> bool {
        self.pieces(range).any(|p| !self.have.get(PieceIndex(p)))
    }

    /// All pieces there are here: the next stretch may begin in the last of them.
    fn skip(&mut self, range: &Range<u64>) {
        self.bytes.clear();
        self.parts.clear();
        self.piece = PieceIndex(self.pieces(&(range.end..range.end + 1)).start);
    }

    /// Takes the next stretch of the blob, and stores the pieces that end in it.
    fn take(
        &mut self,
        range: Range<u64>,
        source: Source<'_>,
        go_on: &mut dyn FnMut(Option<PieceIndex>) -> bool,
    ) -> Result<(), PutError> {
        let mut at = range.start;
        while at < range.end {
            let piece = self.plan.blob().range(self.piece).unwrap_or_default();
            let end = piece.end.min(range.end);
            let len = usize::try_from(end.saturating_sub(at)).unwrap_or(0);
            if len == 0 {
                break; // the blob ends here
            }
            if !self.have.get(self.piece) {
                let skip = usize::try_from(at - range.start).unwrap_or(0);
                self.add(source, skip, len);
            }
            at = end;
            if end == piece.end {
                self.finish_piece(go_on)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, source: Source<'_>, skip: usize, len: usize) {
        let was = match source {
            Source::Bytes(bytes) => {
                let part = bytes.get(skip..skip + len).unwrap_or_default();
                self.bytes.extend_from_slice(part);
                Was::Local
            }
            Source::Zero => Was::Zero,
            Source::Missing => Was::Missing,
        };
        if was != Was::Local {
            self.bytes.resize(self.bytes.len() + len, 0);
        }
        let len = u32::try_from(len).unwrap_or(0);
        match self.parts.last_mut() {
            Some((last, sum)) if *last == was => *sum += len,
            _ => self.parts.push((was, len)),
        }
    }

    fn sum(&self, kind: Was) -> u64 {
        let of = self.parts.iter().filter(|(was, _)| *was == kind);
        of.map(|(_, len)| u64::from(*len)).sum()
    }

    fn finish_piece(
        &mut self,
        go_on: &mut dyn FnMut(Option<PieceIndex>) -> bool,
    ) -> Result<(), PutError> {
        let piece = self.piece;
        self.piece = PieceIndex(piece.0 + 1);
        if !self.have.get(piece) {
            if self.sum(Was::Missing) == 0 {
                self.store_piece(piece, go_on)?;
            } else {
                self.store_parts(piece)?;
            }
        }
        self.bytes.clear();
        self.parts.clear();
        Ok(())
    }

    fn store_piece(
        &mut self,
        piece: PieceIndex,
        go_on: &mut dyn FnMut(Option<PieceIndex>) -> bool,
    ) -> Result<(), PutError> {
        match self.store.put_piece(&self.plan.blob().root, piece, &self.bytes) {
            Ok(Put::Duplicate) => {}
            Ok(put) => {
                self.done.local += self.sum(Was::Local);
                self.done.zero += self.sum(Was::Zero);
                self.done.pieces += 1;
                self.done.complete |= put == Put::Completed;
                go_on(Some(piece));
            }
            Err(PutError::Bad(_)) => self.done.wrong += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Puts what is here of a piece into its place, for whoever gets the rest.
    fn store_parts(&mut self, piece: PieceIndex) -> Result<(), PutError> {
        let mut missing: Vec<Range<u32>> = Vec::new();
        let mut at = 0;
        for (was, len) in &self.parts {
            if *was == Was::Missing {
                missing.push(at..at + len);
            }
            at += len;
        }
        let here = self.sum(Was::Local) + self.sum(Was::Zero);
        if missing.len() > PARTS || here < WORTH {
            return Ok(());
        }
        self.store.put_unverified(&self.plan.blob().root, piece, &self.bytes, &missing)?;
        self.done.partial.insert(piece, missing);
        Ok(())
    }
}
