//! How far the machines of one shard are, counted: what a status of many machines is made of.
//!
//! The store keeps one for each subject of statuses that it holds, and changes it in the
//! transaction in which it changes the cells. Summaries are for display. What gates an action
//! reads the signed cells.

use std::collections::BTreeMap;

use p2pinst_types::record::{State, Status};
use p2pinst_types::{Cell, Hash, Hlc, Kind, MachineId, codec};
use serde::{Deserialize, Serialize};

use crate::shelf::Subject;
use crate::store::StoreError;
use crate::tables::{Batch, Tables, subject_prefix};

/// Subjects whose summaries one request may ask for.
pub const SUMMARIES: usize = 256;

/// The statuses of one subject, counted. About 120 bytes on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Cells in each state, in the order of [`State::ALL`].
    pub counts: [u32; 8],
    /// Cells whose state this version cannot read.
    pub unread: u32,
    /// The sum of the machines' ids, as numbers of 128 bits: says whether the cells are those of
    /// exactly these machines.
    #[serde(with = "serde_bytes")]
    pub machines: [u8; MachineId::LEN],
    /// The time of the oldest cell; zero when there is none.
    pub oldest: Hlc,
    /// The time of the newest cell.
    pub newest: Hlc,
    /// XOR of the cells' hashes: replicas that hold the same say the same.
    pub digest: Hash,
}

impl Default for Summary {
    /// That of no cells.
    fn default() -> Self {
        Self {
            counts: [0; 8],
            unread: 0,
            machines: [0; MachineId::LEN],
            oldest: Hlc::default(),
            newest: Hlc::default(),
            digest: Hash([0; 32]),
        }
    }
}

/// What a change leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Replaced {
    /// Nothing.
    Exact,
    /// The replaced cell was the oldest or the newest: which is it now must be looked up.
    Recount,
}

fn state(cell: &Cell) -> Option<State> {
    cell.record::<Status>().ok().map(|s| s.state)
}

fn number(machine: &[u8]) -> u128 {
    machine.try_into().map(u128::from_be_bytes).unwrap_or(0)
}

impl Summary {
    /// The summary of these cells.
    #[must_use]
    pub fn of<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> Self {
        let mut summary = Self::default();
        for cell in cells {
            summary.enter(cell);
        }
        summary
    }

    /// The sum of machine ids that a summary of exactly these machines has.
    #[must_use]
    pub fn sum_of<'a>(machines: impl IntoIterator<Item = &'a MachineId>) -> [u8; MachineId::LEN] {
        let numbers = machines.into_iter().map(|m| number(m.as_bytes()));
        numbers.fold(0u128, u128::wrapping_add).to_be_bytes()
    }

    /// How many cells are counted.
    #[must_use]
    pub fn cells(&self) -> usize {
        let read: u64 = self.counts.iter().copied().map(u64::from).sum();
        usize::try_from(read + u64::from(self.unread)).unwrap_or(usize::MAX)
    }

    /// How many cells are in a state.
    #[must_use]
    pub fn count(&self, state: State) -> usize {
        State::ALL
            .iter()
            .zip(self.counts)
            .find(|(s, _)| **s == state)
            .map_or(0, |(_, n)| n as usize)
    }

    /// Counts a cell in the place of the one that it replaces.
    pub fn replace(&mut self, old: Option<&Cell>, new: &Cell) -> Replaced {
        let Some(old) = old else {
            self.enter(new);
            return Replaced::Exact;
        };
        let open = self.leave(old);
        self.enter(new);
        // what is newer than all is the newest, whatever it replaces
        let settled = open == Replaced::Exact
            || (old.hlc > self.oldest && new.hlc == self.newest && new.hlc >= old.hlc);
        if settled { Replaced::Exact } else { Replaced::Recount }
    }

    /// Counts a cell no more: it is dropped, and nothing takes its place.
    pub fn leave(&mut self, cell: &Cell) -> Replaced {
        let count = self.slot(state(cell));
        *count = count.saturating_sub(1);
        self.sum(cell, u128::wrapping_sub);
        let edge = cell.hlc <= self.oldest || cell.hlc >= self.newest;
        if edge { Replaced::Recount } else { Replaced::Exact }
    }

    fn enter(&mut self, cell: &Cell) {
        let first = self.cells() == 0;
        let count = self.slot(state(cell));
        *count = count.saturating_add(1);
        self.sum(cell, u128::wrapping_add);
        self.oldest = if first { cell.hlc } else { self.oldest.min(cell.hlc) };
        self.newest = if first { cell.hlc } else { self.newest.max(cell.hlc) };
    }

    fn slot(&mut self, state: Option<State>) -> &mut u32 {
        let at = State::ALL.iter().position(|s| Some(*s) == state);
        match at.and_then(|at| self.counts.get_mut(at)) {
            Some(count) => count,
            None => &mut self.unread,
        }
    }

    fn sum(&mut self, cell: &Cell, by: fn(u128, u128) -> u128) {
        let sum = by(u128::from_be_bytes(self.machines), number(&cell.id.slot));
        self.machines = sum.to_be_bytes();
        for (to, from) in self.digest.0.iter_mut().zip(cell.hash().0) {
            *to ^= from;
        }
    }
}

/// Keeps the summary of a status's subject, in the batch that will hold the status: `new` replaces
/// `old`, and is not in the batch yet. Other kinds have none.
pub(crate) fn note(
    tables: &Tables,
    batch: &mut Batch,
    old: Option<&Cell>,
    new: &Cell,
) -> Result<(), StoreError> {
    if new.id.kind != Kind::STATUS {
        return Ok(());
    }
    let subject = &new.id.subject;
    let mut summary = match batch.summaries.get(subject) {
        Some(pending) => pending.clone().unwrap_or_default(),
        None => read(tables, subject)?.unwrap_or_default(),
    };
    if summary.replace(old, new) == Replaced::Recount {
        let mut cells = BTreeMap::new();
        let held = tables.cells(&subject_prefix(Kind::STATUS, subject))?;
        let same = |c: &&Cell| c.id.kind == Kind::STATUS && c.id.subject == *subject;
        for cell in held.iter().chain(batch.cells.iter().filter(same)).chain([new]) {
            cells.insert((&cell.id.slot, &cell.id.author), cell);
        }
        summary = Summary::of(cells.into_values());
    }
    batch.summaries.insert(subject.clone(), Some(summary));
    Ok(())
}

/// What becomes of a subject's summary when only these cells are left.
pub(crate) fn left(subject: &Subject, kept: &[Cell]) -> BTreeMap<Vec<u8>, Option<Summary>> {
    if subject.kind != Kind::STATUS {
        return BTreeMap::new();
    }
    let summary = (!kept.is_empty()).then(|| Summary::of(kept));
    [(subject.id.clone(), summary)].into()
}

/// The summary of a subject as it is on disk; `None`: nothing is held of it.
pub(crate) fn read(tables: &Tables, subject: &[u8]) -> Result<Option<Summary>, StoreError> {
    let row = tables.summary(subject)?;
    let damaged = |_| StoreError::Damaged("a summary");
    row.map(|bytes| codec::decode(&bytes).map_err(damaged)).transpose()
}
