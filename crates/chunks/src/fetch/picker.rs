//! Which piece to ask for next: the rarest at this site first, ties at random.
//!
//! The pieces that are wanted lie in one bitmap per availability, so that finding the rarest piece
//! that a peer has is a search through words of 64 pieces, and a change of availability moves one
//! bit.

use p2pinst_types::PieceIndex;
use rand::{Rng, RngExt};

use crate::bitmap::Bitmap;

/// Availabilities told apart; beyond that a piece is just common.
const LEVELS: usize = 32;

/// The wanted pieces (neither here nor in flight) by how many peers at this site have them.
#[derive(Debug)]
pub(super) struct Picker {
    wanted: Bitmap,
    /// Peers that have each piece.
    sources: Vec<u16>,
    /// The wanted pieces of each availability; the last holds all that are at least so common.
    levels: Vec<Bitmap>,
}

impl Picker {
    /// Wants what is not in `have`.
    pub(super) fn new(have: &Bitmap) -> Self {
        let mut wanted = Bitmap::new(have.pieces());
        for piece in have.missing() {
            wanted.set(piece);
        }
        let sources = vec![0; have.pieces() as usize];
        Self { levels: vec![wanted.clone()], wanted, sources }
    }

    /// Pieces wanted.
    pub(super) fn wanted(&self) -> u32 {
        self.wanted.count()
    }

    /// The wanted pieces in words of 64.
    pub(super) fn wanted_words(&self) -> &[u64] {
        self.wanted.words()
    }

    pub(super) fn wants(&self, piece: PieceIndex) -> bool {
        self.wanted.get(piece)
    }

    /// How many of a peer's pieces are wanted.
    pub(super) fn useful(&self, have: &Bitmap) -> u32 {
        let both = self.wanted.words().iter().zip(have.words());
        both.map(|(a, b)| (a & b).count_ones()).sum()
    }

    /// One peer more has the piece.
    pub(super) fn gained(&mut self, piece: PieceIndex) {
        self.change(piece, |n| n.saturating_add(1));
    }

    /// One peer less has the piece.
    pub(super) fn lost(&mut self, piece: PieceIndex) {
        self.change(piece, |n| n.saturating_sub(1));
    }

    fn change(&mut self, piece: PieceIndex, by: impl FnOnce(u16) -> u16) {
        let Some(slot) = self.sources.get_mut(piece.0 as usize) else { return };
        let (old, new) = (*slot, by(*slot));
        *slot = new;
        let same = usize::from(old.min(new)) >= LEVELS - 1;
        if !same && self.wanted.get(piece) {
            self.level(old).clear(piece);
            self.level(new).set(piece);
        }
    }

    /// The level of an availability, made when first needed.
    #[allow(clippy::indexing_slicing, reason = "the levels up to this one have just been made")]
    fn level(&mut self, sources: u16) -> &mut Bitmap {
        let at = usize::from(sources).min(LEVELS - 1);
        while self.levels.len() <= at {
            self.levels.push(Bitmap::new(self.wanted.pieces()));
        }
        &mut self.levels[at]
    }

    /// The wanted pieces that nobody at this site has.
    pub(super) fn nowhere_near(&self) -> Option<&Bitmap> {
        self.levels.first()
    }

    pub(super) fn availability(&self, piece: PieceIndex) -> u16 {
        self.sources.get(piece.0 as usize).copied().unwrap_or(0)
    }

    /// The piece is asked for, or here: no longer wanted. Whether it was.
    pub(super) fn take(&mut self, piece: PieceIndex) -> bool {
        let sources = self.availability(piece);
        self.level(sources).clear(piece);
        self.wanted.clear(piece)
    }

    /// The piece did not come: wanted again. Whether it was not.
    pub(super) fn give_back(&mut self, piece: PieceIndex) -> bool {
        let sources = self.availability(piece);
        self.level(sources).set(piece);
        self.wanted.set(piece)
    }

    /// One of the rarest wanted pieces that a peer has.
    pub(super) fn rarest(&self, have: &Bitmap, rng: &mut impl Rng) -> Option<PieceIndex> {
        let levels = self.levels.iter().filter(|level| !level.is_empty());
        levels.filter_map(|level| common(level, have, rng)).next()
    }

    /// Any wanted piece that a peer has.
    pub(super) fn any(&self, have: &Bitmap, rng: &mut impl Rng) -> Option<PieceIndex> {
        common(&self.wanted, have, rng)
    }
}

/// A random piece of both sets: the search begins at a random word, and takes any bit of the first
/// word that has one.
fn common(a: &Bitmap, b: &Bitmap, rng: &mut impl Rng) -> Option<PieceIndex> {
    let (a, b) = (a.words(), b.words());
    random_bit(a.len(), |i| a.get(i).zip(b.get(i)).map_or(0, |(a, b)| a & b), rng)
}

/// A random bit of a set that is given word by word.
pub(super) fn random_bit(
    words: usize,
    word: impl Fn(usize) -> u64,
    rng: &mut impl Rng,
) -> Option<PieceIndex> {
    let start = rng.random_range(0..words.max(1));
    let order = (start..words).chain(0..start.min(words));
    let (at, word) = order.map(|i| (i, word(i))).find(|(_, word)| *word != 0)?;
    let mut left = word;
    for _ in 0..rng.random_range(0..word.count_ones()) {
        left &= left - 1;
    }
    Some(PieceIndex(u32::try_from(at).ok()? * u64::BITS + left.trailing_zeros()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn map(pieces: u32, of: &[u32]) -> Bitmap {
        let mut map = Bitmap::new(pieces);
        of.iter().for_each(|i| assert!(map.set(PieceIndex(*i))));
        map
    }

    #[test]
    fn the_rarest_that_the_peer_has() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut picker = Picker::new(&map(200, &[9]));
        let (a, b) = (map(200, &[1, 2, 9, 150]), map(200, &[2, 9, 150]));
        a.iter().chain(b.iter()).for_each(|p| picker.gained(p));
        assert_eq!(picker.wanted(), 199);
        assert_eq!(picker.useful(&b), 2);
        assert_eq!(picker.rarest(&a, &mut rng), Some(PieceIndex(1)));
        assert!(picker.take(PieceIndex(1)) && !picker.take(PieceIndex(1)));
        let ties: BTreeSet<_> = (0..50).filter_map(|_| picker.rarest(&a, &mut rng)).collect();
        assert_eq!(ties, [PieceIndex(2), PieceIndex(150)].into());
        picker.lost(PieceIndex(150));
        assert_eq!(picker.rarest(&a, &mut rng), Some(PieceIndex(150)));
        picker.take(PieceIndex(150));
        picker.take(PieceIndex(2));
        assert_eq!(picker.rarest(&a, &mut rng), None);
        picker.gained(PieceIndex(2));
        assert!(picker.give_back(PieceIndex(2)));
        assert_eq!(picker.any(&a, &mut rng), Some(PieceIndex(2)));
        assert_eq!(picker.rarest(&map(200, &[]), &mut rng), None);
    }

    #[test]
    fn very_common_pieces_stay_in_order() {
        let mut picker = Picker::new(&Bitmap::new(2));
        let all = Bitmap::full(2);
        (0..100).for_each(|_| picker.gained(PieceIndex(0)));
        (0..3).for_each(|_| picker.gained(PieceIndex(1)));
        let mut rng = StdRng::seed_from_u64(2);
        assert_eq!(picker.rarest(&all, &mut rng), Some(PieceIndex(1)));
        (0..98).for_each(|_| picker.lost(PieceIndex(0)));
        assert_eq!(picker.rarest(&all, &mut rng), Some(PieceIndex(0)));
    }
}
