//! One author's log of the control plane, as this node has it.
//!
//! What is *held* is proved by signatures. What is *covered* beyond that (numbers of cells that
//! later ones have replaced) is hearsay: it saves asking again, and is never counted beyond the
//! last number that is held. So no peer can invent a head, a life or a number that is still to be
//! written.

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_types::{Cell, CellId, Hash, Kind, PublicKey, Version};

use crate::coverage::Ranges;
use crate::sync::{LogState, Part};

/// Ranges of one life that a node tells others of. Honest logs have a few; what an odd one has
/// beyond is found by its digest.
const TOLD: usize = 64;
/// Ranges of all lives of one author that a node tells others of, the newest lives first: some
/// 20 KiB. Every start of a node is a life, but only those in which it has admitted a machine show.
const TOLD_OF_ALL: usize = 1024;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    held: BTreeSet<(Version, CellId)>,
    covered: BTreeMap<u64, Ranges>,
    digest: [u8; 32],
}

/// Sorts before every place.
fn lowest() -> CellId {
    CellId { kind: Kind(0), subject: vec![], slot: vec![], author: PublicKey([0; 32]) }
}

impl Log {
    fn xor(&mut self, hash: &Hash) {
        for (a, b) in self.digest.iter_mut().zip(hash.0) {
            *a ^= b;
        }
    }

    /// A cell is here now.
    pub(crate) fn enter(&mut self, cell: &Cell) {
        self.held.insert((cell.version, cell.id.clone()));
        self.xor(&cell.hash());
    }

    /// A cell is no longer here: another took its place.
    pub(crate) fn leave(&mut self, cell: &Cell) {
        self.held.remove(&(cell.version, cell.id.clone()));
        self.xor(&cell.hash());
    }

    /// The newest version that is held; zero when none is.
    pub(crate) fn head(&self) -> Version {
        self.held.last().map_or_else(Version::default, |(version, _)| *version)
    }

    /// The greatest number of a life that is held; zero when none is.
    pub(crate) fn last(&self, incarnation: u64) -> u64 {
        let end = (Version { incarnation: incarnation.saturating_add(1), seq: 0 }, lowest());
        let last = self.held.range(..end).next_back();
        last.filter(|(v, _)| v.incarnation == incarnation).map_or(0, |(v, _)| v.seq)
    }

    /// The places of held cells of a life whose numbers are `low..=high`, in order.
    pub(crate) fn places(
        &self,
        incarnation: u64,
        (low, high): (u64, u64),
    ) -> impl Iterator<Item = (u64, &CellId)> {
        self.held
            .range((Version { incarnation, seq: low }, lowest())..)
            .take_while(move |(v, _)| v.incarnation == incarnation && v.seq <= high)
            .map(|(v, id)| (v.seq, id))
    }

    /// What of a life is covered, up to the last number held.
    pub(crate) fn covered(&self, incarnation: u64) -> Ranges {
        let last = self.last(incarnation);
        self.covered.get(&incarnation).map(|r| r.up_to_last(last)).unwrap_or_default()
    }

    /// All that was ever taken for covered in a life.
    pub(crate) fn raw(&self, incarnation: u64) -> Option<&Ranges> {
        self.covered.get(&incarnation)
    }

    /// Replaces what is covered in a life.
    pub(crate) fn set_raw(&mut self, incarnation: u64, ranges: Option<Ranges>) {
        match ranges {
            Some(ranges) => self.covered.insert(incarnation, ranges),
            None => self.covered.remove(&incarnation),
        };
    }

    /// What others are told; `None` when no cell is held.
    pub(crate) fn state(&self, author: PublicKey) -> Option<LogState> {
        let mut room = TOLD_OF_ALL;
        let lives: BTreeMap<u64, Ranges> = self
            .covered
            .keys()
            .rev()
            .filter(|l| self.last(**l) > 0)
            .map_while(|life| {
                let told = self.covered(*life).first(TOLD.min(room));
                room -= told.count();
                (!told.is_empty()).then_some((*life, told))
            })
            .collect();
        (!lives.is_empty()).then_some(LogState { author, lives, digest: Hash(self.digest) })
    }

    /// The part of a claim that may count: hearsay of lives that are known here, up to the last
    /// number held, without what was offered and not taken.
    pub(crate) fn credible(&self, part: &Part, missing: &Ranges) -> Ranges {
        part.ranges.up_to_last(self.last(part.incarnation)).minus(missing)
    }
}
