//! What the store knows of the control plane.

use p2pinst_types::{Cell, CellId, Hash, Millis, PublicKey, Version, codec};

use super::Store;
use crate::admission::{Verdict, judge};
use crate::coverage::Ranges;
use crate::log::Log;
use crate::sync::{LogState, Part};

impl Store {
    /// The newest version of an author's control-plane log; zero when it has none.
    #[must_use]
    pub fn head(&self, author: &PublicKey) -> Version {
        self.logs.get(author).map(Log::head).unwrap_or_default()
    }

    /// What is covered of one life of an author's log; `None` when nothing is.
    #[must_use]
    pub fn log(&self, author: &PublicKey, incarnation: u64) -> Option<&Ranges> {
        self.logs.get(author)?.raw(incarnation)
    }

    /// The proof that a key has signed two records of one number.
    #[must_use]
    pub fn twins(&self, author: &PublicKey) -> Option<&(Cell, Cell)> {
        self.twins.get(author)
    }

    /// How many cells are set aside.
    #[must_use]
    pub fn held(&self) -> usize {
        self.quarantine.len()
    }

    /// Those of these cells that could enter the store: signed, by an author with the power. For
    /// cells that are only shown, not kept.
    #[must_use]
    pub fn vet(&self, mut cells: Vec<Cell>, now: Millis) -> Vec<Cell> {
        cells.retain(|c| {
            matches!(judge(&self.views, &self.known, c, false, now), Verdict::Admit(_))
        });
        cells
    }

    /// The state of every log.
    #[must_use]
    pub fn heads(&self) -> Vec<LogState> {
        self.logs.iter().filter_map(|(author, log)| log.state(*author)).collect()
    }

    /// One hash over the state of every log: equal control planes have equal digests.
    #[must_use]
    pub fn digest(&self) -> Hash {
        let bytes = codec::encode(&self.heads()).unwrap_or_default();
        Hash::of_parts("p2pinst/heads/1", &[&bytes])
    }

    /// The cells of these parts, at most about `budget` bytes of them, and what they cover.
    #[must_use]
    pub fn select(&self, parts: &[Part], budget: usize) -> (Vec<Cell>, Vec<Part>) {
        let (mut cells, mut covered, mut bytes) = (Vec::new(), Vec::new(), 0);
        for part in parts {
            let Some(log) = self.logs.get(&part.author) else { continue };
            // covered up to the first cell that has no room any more
            let mut end = u64::MAX;
            let places = part.ranges.iter().flat_map(|r| log.places(part.incarnation, r));
            for (seq, cell) in places.filter_map(|(seq, id)| Some((seq, self.control(id)?))) {
                if bytes + cell.bytes().len() > budget && !cells.is_empty() {
                    end = seq - 1;
                    break;
                }
                bytes += cell.bytes().len();
                cells.push(cell.clone());
            }
            let ours = log.covered(part.incarnation).up_to_last(end);
            let ranges = part.ranges.minus(&part.ranges.minus(&ours));
            if !ranges.is_empty() {
                let (author, incarnation) = (part.author, part.incarnation);
                covered.push(Part { author, incarnation, ranges });
            }
            if end != u64::MAX {
                break;
            }
        }
        (cells, covered)
    }

    /// One control-plane cell.
    #[must_use]
    pub fn control(&self, id: &CellId) -> Option<&Cell> {
        self.control.get(id).map(|e| &e.cell)
    }
}
