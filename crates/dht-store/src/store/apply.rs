//! Judging and merging: what [`Store::apply`] does, and how it is undone when the disk fails.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use p2pinst_types::{Cell, CellId, Millis, Plane, PublicKey, Version, codec};
use tracing::warn;

use super::{Store, StoreError};
use crate::admission::{Known, Outcome, Verdict, judge};
use crate::coverage::{MAX_RANGES, Ranges};
use crate::record::Record;
use crate::summary;
use crate::sync::Part;
use crate::tables::{Batch, cell_key, log_key};
use crate::view::Entry;
use crate::wire::CellBytes;

/// Cells that are set aside for want of something they depend on; the oldest give way.
const QUARANTINE: usize = 1024;

/// A cell on its way into the store.
#[derive(Debug)]
struct Waiting {
    /// Its place in the queue: what was set aside before, then what is offered now.
    turn: usize,
    cell: Cell,
    signed: bool,
}

/// One call of [`Store::apply`].
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// How many cells were set aside before: those that are offered now come after.
    before: usize,
    outcomes: Vec<Option<Outcome>>,
    /// Whether the control plane has changed.
    changed: bool,
    pub(super) batch: Batch,
    pub(super) undo: Undo,
}

impl Turn {
    fn tell(&mut self, turn: usize, outcome: Outcome) {
        let slot = turn.checked_sub(self.before).and_then(|i| self.outcomes.get_mut(i));
        if let Some(slot) = slot {
            *slot = Some(outcome);
        }
    }
}

impl Store {
    /// Judges cells, merges and stores those that may enter; `covered` says which further numbers
    /// of their authors' logs the sender vouches for. One outcome per cell, in order. Without any
    /// cell, what was set aside before is judged anew (time has passed).
    ///
    /// # Errors
    /// When the transaction fails; then nothing is changed.
    pub fn apply(
        &mut self,
        cells: Vec<Cell>,
        covered: &[Part],
        now: Millis,
    ) -> Result<Vec<Outcome>, StoreError> {
        self.make_sure()?;
        let offered: Vec<(PublicKey, Version)> =
            cells.iter().map(|c| (c.id.author, c.version)).collect();
        let before_all = self.quarantine.clone();
        let mut aside: Vec<Waiting> = std::mem::take(&mut self.quarantine)
            .into_iter()
            .enumerate()
            .map(|(turn, cell)| Waiting { turn, cell, signed: true })
            .collect();
        let before = aside.len();
        let mut turn = Turn { before, outcomes: vec![None; cells.len()], ..Turn::default() };
        let mut waiting: Vec<Waiting> = cells
            .into_iter()
            .enumerate()
            .map(|(i, cell)| Waiting { turn: before + i, cell, signed: false })
            .collect();
        // what was set aside is judged anew when asked for, and when the control plane changes
        if waiting.is_empty() {
            waiting.append(&mut aside);
        }
        let done = self.settle_all(waiting, aside, now, &mut turn).and_then(|held| {
            let Turn { outcomes, batch, undo, .. } = &mut turn;
            let missing: Vec<(PublicKey, Version)> = outcomes
                .iter()
                .zip(&offered)
                .filter(|(o, _)| !o.as_ref().is_some_and(Outcome::is_here))
                .map(|(_, at)| *at)
                .collect();
            self.cover(covered, &missing, batch, undo);
            if !batch.is_empty() {
                self.tables.commit(batch)?;
            }
            Ok(held)
        });
        match done {
            Ok(held) => {
                self.set_aside(held);
                self.news.extend(&turn.batch.cells);
                let told = turn.outcomes.into_iter();
                Ok(told.map(|o| o.unwrap_or(Outcome::Known)).collect())
            }
            Err(e) => {
                self.roll_back(turn.undo);
                self.quarantine = before_all;
                self.doubtful = true;
                Err(e)
            }
        }
    }

    /// Judges and merges until nothing more can enter; returns what cannot (yet).
    fn settle_all(
        &mut self,
        waiting: Vec<Waiting>,
        mut aside: Vec<Waiting>,
        now: Millis,
        turn: &mut Turn,
    ) -> Result<Vec<Waiting>, StoreError> {
        let control = |w: &Waiting| w.cell.id.kind.plane() == Plane::Control;
        let (mut waiting, mut data): (Vec<_>, Vec<_>) = waiting.into_iter().partition(control);
        loop {
            let left = waiting.len();
            waiting = self.pass(waiting, now, turn)?;
            if turn.changed && !aside.is_empty() {
                let (control, other): (Vec<_>, Vec<_>) = aside.drain(..).partition(control);
                waiting.extend(control);
                data.extend(other);
            } else if waiting.len() == left {
                break;
            }
        }
        if turn.changed {
            let revoked = self.views.revoked.clone();
            self.refold();
            self.drop_retired(turn)?;
            let fresh = self.views.revoked.keys().filter(|k| !revoked.contains_key(*k));
            let fresh: BTreeSet<PublicKey> = fresh.copied().collect();
            self.drop_void(&fresh, turn)?;
        }
        // who may write on the data plane is for the roster to say
        waiting.extend(self.pass(data, now, turn)?);
        waiting.append(&mut aside);
        Ok(waiting)
    }

    /// Judges each cell once; returns those that are held.
    fn pass(
        &mut self,
        mut waiting: Vec<Waiting>,
        now: Millis,
        turn: &mut Turn,
    ) -> Result<Vec<Waiting>, StoreError> {
        // authority first: grants, invites, admissions … have the lowest kinds
        waiting.sort_by_key(|w| (w.cell.id.kind, w.cell.hlc));
        let mut held = Vec::new();
        for mut w in waiting {
            if self.control.get(&w.cell.id).is_some_and(|e| e.cell.bytes() == w.cell.bytes()) {
                turn.tell(w.turn, Outcome::Known); // R11: it changes nothing
                continue;
            }
            match judge(&self.views, &self.known, &w.cell, w.signed, now) {
                Verdict::Reject(why) => turn.tell(w.turn, Outcome::Rejected(why)),
                Verdict::Hold(why) => {
                    turn.tell(w.turn, Outcome::Held(why));
                    w.signed = true;
                    held.push(w);
                }
                Verdict::Admit(record) => {
                    let outcome = self.merge(w.cell, *record, turn)?;
                    turn.tell(w.turn, outcome);
                }
            }
        }
        Ok(held)
    }

    /// Keeps what is held for later, each cell once; the oldest give way.
    fn set_aside(&mut self, mut held: Vec<Waiting>) {
        held.sort_by_key(|w| w.turn);
        let mut seen = BTreeSet::new();
        held.retain(|w| seen.insert(w.cell.hash()));
        let surplus = held.len().saturating_sub(QUARANTINE);
        self.quarantine = held.into_iter().skip(surplus).map(|w| w.cell).collect();
    }
    /// Merges one cell that may enter.
    fn merge(
        &mut self,
        cell: Cell,
        record: Record,
        turn: &mut Turn,
    ) -> Result<Outcome, StoreError> {
        let old = match cell.id.kind.plane() {
            Plane::Control => {
                self.cover_one(&cell, turn);
                self.note_twin(&cell, turn);
                self.control.get(&cell.id).map(|e| e.cell.clone())
            }
            Plane::Data => {
                let pending = turn.batch.cells.iter().rev().find(|c| c.id == cell.id);
                match pending {
                    Some(cell) => Some(cell.clone()),
                    None => {
                        let key = cell_key(&cell.id);
                        let old = self.data_cell(&key)?;
                        old.filter(|_| !turn.batch.dropped.contains(&key))
                    }
                }
            }
        };
        match old.as_ref().map(|old| cell.order(old)) {
            Some(Ordering::Less) => return Ok(Outcome::Newer),
            Some(Ordering::Equal) => return Ok(Outcome::Known),
            _ => {}
        }
        if cell.id.kind.plane() == Plane::Control {
            let old = self.enter(Entry { cell: cell.clone(), record });
            turn.undo.cells.push((cell.id.clone(), old));
            turn.changed = true;
        } else {
            if !self.shelf.has_room(old.as_ref(), &cell) {
                return Ok(Outcome::Rejected("its author has used up its share".to_owned()));
            }
            summary::note(&self.tables, &mut turn.batch, old.as_ref(), &cell)?;
            self.shelf.put(old.as_ref(), &cell);
            turn.undo.data.push((cell.clone(), old));
        }
        self.clock = self.clock.max(cell.hlc);
        turn.batch.cells.push(cell);
        Ok(Outcome::Accepted)
    }

    /// R13: two different cells of one version prove that their author's key is used twice, or
    /// misused. The merge goes on (the higher hash stays); the proof is kept, one per author.
    fn note_twin(&mut self, cell: &Cell, turn: &mut Turn) {
        let Version { incarnation, seq } = cell.version;
        let author = cell.id.author;
        if self.twins.contains_key(&author) {
            return;
        }
        let Some(log) = self.logs.get(&author) else { return };
        let twin = log
            .places(incarnation, (seq, seq))
            .filter_map(|(_, id)| self.control.get(id))
            .find(|e| e.cell.bytes() != cell.bytes());
        let Some(twin) = twin.map(|e| e.cell.clone()) else { return };
        warn!(author = %author.short(), incarnation, seq, "one key has signed two records of one number: is it in use on two machines?");
        let wire = |c: &Cell| CellBytes(c.bytes().to_vec());
        if let Ok(bytes) = codec::encode(&(wire(&twin), wire(cell))) {
            turn.batch.twins.push((author.as_bytes().to_vec(), bytes));
        }
        turn.undo.twins.push(author);
        turn.changed = true;
        self.twins.insert(author, (twin, cell.clone()));
    }

    fn cover_one(&mut self, cell: &Cell, turn: &mut Turn) {
        let Version { incarnation, seq } = cell.version;
        let mut one = Ranges::default();
        one.add(seq, seq);
        self.cover_more(cell.id.author, incarnation, &one, &mut turn.batch, &mut turn.undo);
    }

    /// Adds to the coverage what another node claims, as far as it counts, but for the numbers of
    /// cells that were offered and not stored.
    fn cover(
        &mut self,
        parts: &[Part],
        missing: &[(PublicKey, Version)],
        batch: &mut Batch,
        undo: &mut Undo,
    ) {
        for part in parts {
            let mut without = Ranges::default();
            for (author, version) in missing {
                if *author == part.author && version.incarnation == part.incarnation {
                    without.add(version.seq, version.seq);
                }
            }
            let Some(log) = self.logs.get(&part.author) else { continue };
            let more = log.credible(part, &without);
            self.cover_more(part.author, part.incarnation, &more, batch, undo);
        }
    }

    fn cover_more(
        &mut self,
        author: PublicKey,
        incarnation: u64,
        more: &Ranges,
        batch: &mut Batch,
        undo: &mut Undo,
    ) {
        if more.is_empty() {
            return;
        }
        let log = self.logs.entry(author).or_default();
        let old = log.raw(incarnation).cloned();
        let mut grown = old.clone().unwrap_or_default();
        grown.add_all(more);
        if old.as_ref() == Some(&grown) || grown.count() > MAX_RANGES {
            return;
        }
        if let Ok(bytes) = codec::encode(&grown) {
            batch.covered.push((log_key(&author, incarnation), bytes));
        }
        log.set_raw(incarnation, Some(grown));
        undo.lives.push((author, incarnation, old));
    }

    /// Puts memory back to what is on disk.
    fn roll_back(&mut self, undo: Undo) {
        for (id, old) in undo.cells.into_iter().rev() {
            self.leave(&id);
            old.map(|old| self.enter(old));
        }
        for (author, life, ranges) in undo.lives.into_iter().rev() {
            self.logs.entry(author).or_default().set_raw(life, ranges);
        }
        undo.dropped.iter().for_each(|cell| self.shelf.put(None, cell));
        for (new, old) in undo.data.into_iter().rev() {
            self.shelf.undo(&new, old.as_ref());
        }
        for author in undo.twins {
            self.twins.remove(&author);
        }
        self.known = Known::default();
        self.control.values().for_each(|e| self.known.note(e));
        self.refold();
    }
}

/// What to put back when a transaction fails.
#[derive(Debug, Default)]
pub(super) struct Undo {
    cells: Vec<(CellId, Option<Entry>)>,
    /// Cells of the data plane, and what was in their place.
    data: Vec<(Cell, Option<Cell>)>,
    /// Cells of the data plane that were dropped.
    pub(super) dropped: Vec<Cell>,
    lives: Vec<(PublicKey, u64, Option<Ranges>)>,
    twins: Vec<PublicKey>,
}
