//! What a node holds of the data plane, in short: per subject a digest, per author a share.
//!
//! In memory; made anew from the cells when the store is opened.

use std::collections::BTreeMap;

use p2pinst_types::{Cell, Hash, Kind, PublicKey};
use serde::{Deserialize, Serialize};

/// Bytes that one author's cells may take on one node: some thirty thousand entries of a history.
pub const SHARE: u64 = 32 << 20;

/// What cells of the data plane are about: they lie together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// The kind of the cells.
    pub kind: Kind,
    /// Their subject.
    #[serde(with = "serde_bytes")]
    pub id: Vec<u8>,
}

impl Subject {
    /// The subject of a cell.
    #[must_use]
    pub fn of(cell: &Cell) -> Self {
        Self { kind: cell.id.kind, id: cell.id.subject.clone() }
    }
}

/// What is held of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// XOR of the hashes of the cells: equal sets have equal digests.
    pub digest: Hash,
    /// How many cells.
    pub cells: usize,
    /// Their bytes.
    pub bytes: u64,
}

const NOTHING: Held = Held { digest: Hash([0; 32]), cells: 0, bytes: 0 };

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    subjects: BTreeMap<Subject, Held>,
    shares: BTreeMap<PublicKey, u64>,
}

fn len(cell: &Cell) -> u64 {
    cell.bytes().len() as u64
}

fn xor(digest: &mut Hash, hash: &Hash) {
    for (a, b) in digest.0.iter_mut().zip(hash.0) {
        *a ^= b;
    }
}

impl Shelf {
    /// Whether the author of `new` has room for it, once `old` is gone.
    pub(crate) fn has_room(&self, old: Option<&Cell>, new: &Cell) -> bool {
        let share = self.shares.get(&new.id.author).copied().unwrap_or(0);
        share.saturating_sub(old.map_or(0, len)) + len(new) <= SHARE
    }

    /// A cell takes the place of another, or a free one.
    pub(crate) fn put(&mut self, old: Option<&Cell>, new: &Cell) {
        if let Some(old) = old {
            self.take(old);
        }
        let held = self.subjects.entry(Subject::of(new)).or_insert(NOTHING);
        xor(&mut held.digest, &new.hash());
        held.cells += 1;
        held.bytes += len(new);
        *self.shares.entry(new.id.author).or_default() += len(new);
    }

    /// A cell is gone.
    pub(crate) fn take(&mut self, cell: &Cell) {
        let subject = Subject::of(cell);
        if let Some(held) = self.subjects.get_mut(&subject) {
            xor(&mut held.digest, &cell.hash());
            held.cells = held.cells.saturating_sub(1);
            held.bytes = held.bytes.saturating_sub(len(cell));
            if held.cells == 0 {
                self.subjects.remove(&subject);
            }
        }
        if let Some(share) = self.shares.get_mut(&cell.id.author) {
            *share = share.saturating_sub(len(cell));
            if *share == 0 {
                self.shares.remove(&cell.id.author);
            }
        }
    }

    /// Takes back [`Shelf::put`].
    pub(crate) fn undo(&mut self, new: &Cell, old: Option<&Cell>) {
        self.take(new);
        if let Some(old) = old {
            self.put(None, old);
        }
    }

    pub(crate) fn get(&self, subject: &Subject) -> Option<&Held> {
        self.subjects.get(subject)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Subject, &Held)> {
        self.subjects.iter()
    }

    /// Cells and bytes in all.
    pub(crate) fn size(&self) -> (usize, u64) {
        self.subjects.values().fold((0, 0), |(n, b), h| (n + h.cells, b + h.bytes))
    }
}
