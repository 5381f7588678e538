//! The store: the control plane in memory, everything on disk, one transaction a batch.
//!
//! Blocking; owned by one thread. What [`Store::apply`] has reported as accepted is on disk. After
//! a crash the file holds whole batches only; what was not reported may be gone.
//!
//! Coverage that another node claims is hearsay: it counts only for lives of which a cell is held,
//! and only below the last number held (see [`crate::log`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2pinst_trust::key::verify_cell;
use p2pinst_trust::{RootChain, SecretKey};
use p2pinst_types::cell::{CellError, Draft};
use p2pinst_types::record::SignedRoot;
use p2pinst_types::{Cell, CellId, Hash, Hlc, Kind, Millis, Plane, PublicKey, Version, codec};
use serde::Serialize;
use thiserror::Error;
use tracing::warn;

use crate::admission::{Known, Outcome, Verdict, judge};
use crate::coverage::{MAX_RANGES, Ranges};
use crate::log::Log;
use crate::record::Record;
use crate::sync::{LogState, Part};
use crate::tables::{Batch, Tables, cell_key, log_key, subject_prefix};
use crate::view::{Entry, Views};
use crate::wire::CellBytes;

/// Cells that are set aside for want of something they depend on; the oldest give way.
const QUARANTINE: usize = 1024;

/// What the store could not do.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("cannot open the store {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A transaction failed; nothing of it is stored.
    #[error("the store cannot read or write its file: {0}")]
    Database(#[source] Box<redb::Error>),
    /// The file holds something that this version cannot have written.
    #[error("the store file is damaged: {0}")]
    Damaged(&'static str),
    /// The file is that of another cluster.
    #[error("the store file belongs to another cluster")]
    WrongCluster,
    /// A record is too large for a cell, or cannot be encoded.
    #[error("cannot write a {kind}: {reason}")]
    Record {
        /// Its kind.
        kind: Kind,
        /// Why.
        reason: String,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    tables: Tables,
    roots: RootChain,
    control: BTreeMap<CellId, Entry>,
    logs: BTreeMap<PublicKey, Log>,
    known: Known,
    /// Authors that signed two cells of one version, and the two.
    twins: BTreeMap<PublicKey, (Cell, Cell)>,
    /// Oldest first.
    quarantine: Vec<Cell>,
    views: Arc<Views>,
    /// The greatest clock reading seen: what is written next is dated later.
    clock: Hlc,
}

/// A record for this node to write.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// The kind.
    pub kind: Kind,
    /// The subject.
    pub subject: &'a [u8],
    /// The slot.
    pub slot: &'a [u8],
    /// The writer's life.
    pub incarnation: u64,
}

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
struct Turn {
    /// How many cells were set aside before: those that are offered now come after.
    before: usize,
    outcomes: Vec<Option<Outcome>>,
    /// Whether the control plane has changed.
    changed: bool,
    batch: Batch,
    undo: Undo,
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
    /// Opens the store of a cluster, or makes it. Everything that is read back is verified anew.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or belongs to another cluster.
    pub fn open(path: &Path, roots: RootChain) -> Result<Self, StoreError> {
        let tables = Tables::open(path)?;
        let views = Arc::new(Views::fold(&roots, std::iter::empty()));
        let mut store = Self {
            tables,
            roots,
            control: BTreeMap::new(),
            logs: BTreeMap::new(),
            known: Known::default(),
            twins: BTreeMap::new(),
            quarantine: Vec::new(),
            views,
            clock: Hlc::default(),
        };
        store.load()?;
        Ok(store)
    }

    fn load(&mut self) -> Result<(), StoreError> {
        match self.tables.meta("cluster")? {
            Some(id) if id != self.roots.cluster().0.as_bytes() => {
                return Err(StoreError::WrongCluster);
            }
            Some(_) => {}
            None => {
                let id = self.roots.cluster().0.as_bytes().to_vec();
                self.tables.commit(&Batch { meta: vec![("cluster", id)], ..Batch::default() })?;
            }
        }
        if let Some(bytes) = self.tables.meta("roots")? {
            let signed: Vec<SignedRoot> =
                codec::decode(&bytes).map_err(|_| StoreError::Damaged("roots"))?;
            self.roots.extend(&signed).map_err(|_| StoreError::Damaged("roots"))?;
        }
        for bytes in self.tables.control_cells()? {
            let cell = Cell::parse(bytes).map_err(|_| StoreError::Damaged("a cell"))?;
            if !verify_cell(self.roots.cluster(), &cell) {
                return Err(StoreError::Damaged("a cell's signature"));
            }
            // an older version may have kept it opaque: what this one cannot read stays so
            let record = Record::of(&cell).unwrap_or(Record::Opaque);
            self.clock = self.clock.max(cell.hlc);
            self.enter(Entry { cell, record });
        }
        for (key, value) in self.tables.covered()? {
            let damaged = StoreError::Damaged("coverage");
            let (author, life) = key.split_at_checked(PublicKey::LEN).ok_or(damaged)?;
            let author = PublicKey::from_slice(author).ok_or(StoreError::Damaged("coverage"))?;
            let life = life.try_into().map_err(|_| StoreError::Damaged("coverage"))?;
            let ranges = codec::decode(&value).map_err(|_| StoreError::Damaged("coverage"))?;
            let log = self.logs.entry(author).or_default();
            log.set_raw(u64::from_be_bytes(life), Some(ranges));
        }
        for (author, value) in self.tables.twins()? {
            let damaged = || StoreError::Damaged("a proof");
            let author = PublicKey::from_slice(&author).ok_or_else(damaged)?;
            let (a, b): (CellBytes, CellBytes) = codec::decode(&value).map_err(|_| damaged())?;
            let parse = |c: CellBytes| Cell::parse(c.0).map_err(|_| damaged());
            self.twins.insert(author, (parse(a)?, parse(b)?));
        }
        self.refold();
        Ok(())
    }

    fn refold(&mut self) {
        let mut views = Views::fold(&self.roots, self.control.values());
        views.equivocators = self.twins.keys().copied().collect();
        self.views = Arc::new(views);
    }

    /// Puts a control-plane cell in its place; returns what was there.
    fn enter(&mut self, entry: Entry) -> Option<Entry> {
        let old = self.leave(&entry.cell.id);
        self.known.note(&entry.record);
        self.logs.entry(entry.cell.id.author).or_default().enter(&entry.cell);
        self.control.insert(entry.cell.id.clone(), entry);
        old
    }

    fn leave(&mut self, id: &CellId) -> Option<Entry> {
        let entry = self.control.remove(id)?;
        self.logs.entry(id.author).or_default().leave(&entry.cell);
        Some(entry)
    }

    /// What the control plane says now.
    #[must_use]
    pub fn views(&self) -> Arc<Views> {
        Arc::clone(&self.views)
    }

    /// A clock reading for something written now: above all that this store has seen.
    #[must_use]
    pub fn next_hlc(&self, now: Millis) -> Hlc {
        self.clock.next(now)
    }

    /// Takes over newer roots. Says whether there were any.
    ///
    /// # Errors
    /// When they cannot be stored. Roots that do not continue ours are ignored: the handshake has
    /// refused them before.
    pub fn extend_roots(&mut self, signed: &[SignedRoot]) -> Result<bool, StoreError> {
        let mut roots = self.roots.clone();
        if !roots.extend(signed).unwrap_or(false) {
            return Ok(false);
        }
        let bytes =
            codec::encode(&roots.signed().to_vec()).map_err(|_| StoreError::Damaged("roots"))?;
        self.tables.commit(&Batch { meta: vec![("roots", bytes)], ..Batch::default() })?;
        self.roots = roots;
        self.refold();
        Ok(true)
    }

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
        let offered: Vec<(PublicKey, Version)> =
            cells.iter().map(|c| (c.id.author, c.version)).collect();
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
                .filter(|(o, _)| !matches!(o, Some(Outcome::Accepted | Outcome::Known)))
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
                let told = turn.outcomes.into_iter();
                Ok(told.map(|o| o.unwrap_or(Outcome::Known)).collect())
            }
            Err(e) => {
                self.roll_back(turn.undo);
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
            self.refold();
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
                    let news = self.merge(w.cell, *record, turn)?;
                    turn.tell(w.turn, if news { Outcome::Accepted } else { Outcome::Known });
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

    /// Merges one cell that may enter. Says whether it is new.
    fn merge(&mut self, cell: Cell, record: Record, turn: &mut Turn) -> Result<bool, StoreError> {
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
                    None => self.data_cell(&cell_key(&cell.id))?,
                }
            }
        };
        if old.is_some_and(|old| cell.order(&old).is_le()) {
            return Ok(false);
        }
        if cell.id.kind.plane() == Plane::Control {
            let old = self.enter(Entry { cell: cell.clone(), record });
            turn.undo.cells.push((cell.id.clone(), old));
            turn.changed = true;
        }
        self.clock = self.clock.max(cell.hlc);
        turn.batch.cells.push(cell);
        Ok(true)
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

    fn data_cell(&self, key: &[u8]) -> Result<Option<Cell>, StoreError> {
        let bytes = self.tables.cells(key)?.into_iter().next();
        bytes.map(Cell::parse).transpose().map_err(|_| StoreError::Damaged("a cell"))
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
        for author in undo.twins {
            self.twins.remove(&author);
        }
        self.known = Known::default();
        self.control.values().for_each(|e| self.known.note(&e.record));
        self.refold();
    }

    /// Signs, stores and returns a record of this node.
    ///
    /// # Errors
    /// When the record is too large, or cannot be stored.
    pub fn write<T: Serialize>(
        &mut self,
        key: &SecretKey,
        write: Write<'_>,
        record: &T,
        now: Millis,
    ) -> Result<Cell, StoreError> {
        let Write { kind, subject, slot, incarnation } = write;
        let failed = |reason: String| StoreError::Record { kind, reason };
        let payload = codec::encode(record).map_err(|e| failed(e.to_string()))?;
        let id =
            CellId { kind, subject: subject.to_vec(), slot: slot.to_vec(), author: key.public() };
        let last = match kind.plane() {
            Plane::Control => self.head(&id.author),
            Plane::Data => {
                let old = self.data_cell(&cell_key(&id))?;
                old.map(|old| old.version).unwrap_or_default()
            }
        };
        let version = following(last, incarnation)
            .ok_or_else(|| failed("the key writes in a newer life already".to_owned()))?;
        let draft = Draft { id, version, hlc: self.next_hlc(now), payload };
        let cell = draft
            .sign(self.roots.cluster(), |m| key.sign(m))
            .map_err(|e: CellError| failed(e.to_string()))?;
        match self.apply(vec![cell.clone()], &[], now)?.pop() {
            Some(Outcome::Accepted) => Ok(cell),
            Some(Outcome::Held(why) | Outcome::Rejected(why)) => Err(failed(why)),
            Some(Outcome::Known) | None => Err(failed("a newer one is stored".to_owned())),
        }
    }

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

    /// The data-plane cells of a subject that are held here.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn data(&self, kind: Kind, subject: &[u8]) -> Result<Vec<Cell>, StoreError> {
        self.tables
            .cells(&subject_prefix(kind, subject))?
            .into_iter()
            .map(|bytes| Cell::parse(bytes).map_err(|_| StoreError::Damaged("a cell")))
            .collect()
    }

    /// The data-plane cells of a kind that an author wrote.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn written_by(&self, kind: Kind, author: &PublicKey) -> Result<Vec<Cell>, StoreError> {
        let all = self.tables.cells(&kind.0.to_be_bytes())?.into_iter();
        let mut cells = all
            .map(|bytes| Cell::parse(bytes).map_err(|_| StoreError::Damaged("a cell")))
            .collect::<Result<Vec<Cell>, _>>()?;
        cells.retain(|c| c.id.author == *author);
        Ok(cells)
    }

    /// The data-plane cells that an author wrote and that no majority of replicas has
    /// acknowledged yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn unsettled(&self, author: &PublicKey) -> Result<Vec<Cell>, StoreError> {
        let mut out = Vec::new();
        for kind in [Kind::NODE_RECORD, Kind::HISTORY, Kind::STATUS] {
            for cell in self.written_by(kind, author)? {
                if self.tables.settled(&cell_key(&cell.id))? != Some(cell.hash()) {
                    out.push(cell);
                }
            }
        }
        Ok(out)
    }

    /// Remembers that a majority of the replicas has acknowledged these cells.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub fn settle(&self, cells: &[Cell]) -> Result<(), StoreError> {
        let settled = cells.iter().map(|c| (cell_key(&c.id), c.hash())).collect();
        self.tables.commit(&Batch { settled, ..Batch::default() })
    }
}

/// What to put back when a transaction fails.
#[derive(Debug, Default)]
struct Undo {
    cells: Vec<(CellId, Option<Entry>)>,
    lives: Vec<(PublicKey, u64, Option<Ranges>)>,
    twins: Vec<PublicKey>,
}

/// The version to write after `last` in a life: a new life begins from one. `None`: there is a
/// newer life.
fn following(last: Version, incarnation: u64) -> Option<Version> {
    if last.incarnation > incarnation {
        return None;
    }
    let seq = if last.incarnation == incarnation { last.seq } else { 0 };
    Some(Version { incarnation, seq: seq.checked_add(1)? })
}
