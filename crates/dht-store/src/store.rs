//! The store: the control plane in memory, everything on disk, one transaction a batch.
//!
//! Blocking; owned by one thread. What [`Store::apply`] has reported as accepted is on disk. After
//! a crash the file holds whole batches only; what was not reported may be gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2pinst_trust::{RootChain, SecretKey};
use p2pinst_types::cell::{CellError, Draft};
use p2pinst_types::record::SignedRoot;
use p2pinst_types::{Cell, CellId, Hash, Hlc, Kind, Millis, Plane, PublicKey, Version, codec};
use serde::Serialize;
use thiserror::Error;

use crate::admission::{Outcome, Verdict, judge};
use crate::coverage::Ranges;
use crate::record::Record;
use crate::sync::{LogState, Part};
use crate::tables::{Batch, Tables, cell_key, log_key, subject_prefix};
use crate::view::{Entry, Views};

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

/// The state of one author's log.
#[derive(Debug, Clone, Default)]
struct Log {
    lives: BTreeMap<u64, Ranges>,
    digest: [u8; 32],
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    tables: Tables,
    roots: RootChain,
    control: BTreeMap<CellId, Entry>,
    logs: BTreeMap<PublicKey, Log>,
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

fn xor(digest: &mut [u8; 32], hash: &Hash) {
    for (a, b) in digest.iter_mut().zip(hash.0) {
        *a ^= b;
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
            let record = Record::of(&cell).ok_or(StoreError::Damaged("a cell's payload"))?;
            self.clock = self.clock.max(cell.hlc);
            let log = self.logs.entry(cell.id.author).or_default();
            xor(&mut log.digest, &cell.hash());
            self.control.insert(cell.id.clone(), Entry { cell, record });
        }
        for (key, value) in self.tables.covered()? {
            let damaged = StoreError::Damaged("coverage");
            let (author, life) = key.split_at_checked(PublicKey::LEN).ok_or(damaged)?;
            let author = PublicKey::from_slice(author).ok_or(StoreError::Damaged("coverage"))?;
            let life = life.try_into().map_err(|_| StoreError::Damaged("coverage"))?;
            let ranges = codec::decode(&value).map_err(|_| StoreError::Damaged("coverage"))?;
            let log = self.logs.entry(author).or_default();
            log.lives.insert(u64::from_be_bytes(life), ranges);
        }
        self.refold();
        Ok(())
    }

    fn refold(&mut self) {
        self.views = Arc::new(Views::fold(&self.roots, self.control.values()));
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
        let mut outcomes: Vec<Option<Outcome>> = vec![None; cells.len()];
        let offered: Vec<(PublicKey, Version)> =
            cells.iter().map(|c| (c.id.author, c.version)).collect();
        let mut waiting: Vec<(Option<usize>, Cell, bool)> =
            cells.into_iter().enumerate().map(|(i, c)| (Some(i), c, false)).collect();
        // what was set aside is judged anew when asked for, and when the control plane changes
        let mut aside = std::mem::take(&mut self.quarantine);
        if waiting.is_empty() {
            waiting.extend(aside.drain(..).map(|c| (None, c, true)));
        }
        let mut batch = Batch::default();
        let mut undo = Undo::default();
        loop {
            // authority first: grants, invites, admissions … have the lowest kinds
            waiting.sort_by_key(|(_, c, _)| (c.id.kind, c.hlc));
            let mut changed = false;
            let mut held = Vec::new();
            for (index, cell, signed) in waiting {
                let mut tell = |outcome: Outcome| {
                    if let Some(slot) = index.and_then(|i| outcomes.get_mut(i)) {
                        *slot = Some(outcome);
                    }
                };
                match judge(&self.views, &cell, signed, now) {
                    Verdict::Reject(why) => tell(Outcome::Rejected(why)),
                    Verdict::Hold(why) => {
                        tell(Outcome::Held(why));
                        held.push((index, cell, true));
                    }
                    Verdict::Admit(record) => {
                        let control = cell.id.kind.plane() == Plane::Control;
                        let news = match self.merge(cell, *record, &mut batch, &mut undo) {
                            Ok(news) => news,
                            Err(e) => {
                                self.roll_back(undo);
                                return Err(e);
                            }
                        };
                        changed |= news && control;
                        tell(if news { Outcome::Accepted } else { Outcome::Known });
                    }
                }
            }
            waiting = held;
            if !changed {
                break;
            }
            self.refold();
            waiting.extend(aside.drain(..).map(|c| (None, c, true)));
            if waiting.is_empty() {
                break;
            }
        }
        waiting.extend(aside.into_iter().map(|c| (None, c, true)));
        let missing: Vec<(PublicKey, Version)> = outcomes
            .iter()
            .zip(&offered)
            .filter(|(o, _)| !matches!(o, Some(Outcome::Accepted | Outcome::Known)))
            .map(|(_, at)| *at)
            .collect();
        self.cover(covered, &missing, &mut batch, &mut undo);
        if !batch.is_empty()
            && let Err(e) = self.tables.commit(&batch)
        {
            self.roll_back(undo);
            return Err(e);
        }
        let surplus = waiting.len().saturating_sub(QUARANTINE);
        self.quarantine = waiting.into_iter().skip(surplus).map(|(_, c, _)| c).collect();
        Ok(outcomes.into_iter().map(|o| o.unwrap_or(Outcome::Known)).collect())
    }

    /// Merges one cell that may enter. Says whether it is new.
    fn merge(
        &mut self,
        cell: Cell,
        record: Record,
        batch: &mut Batch,
        undo: &mut Undo,
    ) -> Result<bool, StoreError> {
        let news = match cell.id.kind.plane() {
            Plane::Control => {
                self.cover_one(&cell, batch, undo);
                let old = self.control.get(&cell.id);
                if old.is_some_and(|old| cell.order(&old.cell).is_le()) {
                    false
                } else {
                    let log = self.logs.entry(cell.id.author).or_default();
                    if let Some(old) = old {
                        xor(&mut log.digest, &old.cell.hash());
                    }
                    xor(&mut log.digest, &cell.hash());
                    let entry = Entry { cell: cell.clone(), record };
                    let old = self.control.insert(cell.id.clone(), entry);
                    undo.cells.push((cell.id.clone(), old));
                    true
                }
            }
            Plane::Data => {
                let key = cell_key(&cell.id);
                let pending = batch.cells.iter().rev().find(|c| c.id == cell.id);
                let old = match pending {
                    Some(cell) => Some(cell.clone()),
                    None => self.data_cell(&key)?,
                };
                old.is_none_or(|old| cell.order(&old).is_gt())
            }
        };
        if news {
            self.clock = self.clock.max(cell.hlc);
            batch.cells.push(cell);
        }
        Ok(news)
    }

    fn data_cell(&self, key: &[u8]) -> Result<Option<Cell>, StoreError> {
        let bytes = self.tables.cells(key)?.into_iter().next();
        bytes.map(Cell::parse).transpose().map_err(|_| StoreError::Damaged("a cell"))
    }

    fn cover_one(&mut self, cell: &Cell, batch: &mut Batch, undo: &mut Undo) {
        let part = Part {
            author: cell.id.author,
            incarnation: cell.version.incarnation,
            ranges: {
                let mut one = Ranges::default();
                one.add(cell.version.seq, cell.version.seq);
                one
            },
        };
        self.cover(&[part], &[], batch, undo);
    }

    /// Adds to the coverage, but for the numbers of cells that were offered and not stored.
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
            // logs of authors that nobody has heard of would let a peer fill our memory
            let known = self.logs.contains_key(&part.author)
                || self.views.grants.contains_key(&part.author)
                || self.views.roots.has_key(&part.author)
                || self.views.was_admitted(&part.author);
            if !known {
                continue;
            }
            let log = self.logs.entry(part.author).or_default();
            let ranges = log.lives.entry(part.incarnation).or_default();
            let mut grown = ranges.clone();
            grown.add_all(&part.ranges.minus(&without));
            if grown == *ranges {
                continue;
            }
            undo.lives.push((part.author, part.incarnation, std::mem::replace(ranges, grown)));
            if let Ok(bytes) = codec::encode(ranges) {
                batch.covered.push((log_key(&part.author, part.incarnation), bytes));
            }
        }
    }

    /// Puts memory back to what is on disk.
    fn roll_back(&mut self, undo: Undo) {
        for (id, old) in undo.cells.into_iter().rev() {
            let log = self.logs.entry(id.author).or_default();
            if let Some(new) = self.control.remove(&id) {
                xor(&mut log.digest, &new.cell.hash());
            }
            if let Some(old) = old {
                xor(&mut log.digest, &old.cell.hash());
                self.control.insert(id, old);
            }
        }
        for (author, life, ranges) in undo.lives.into_iter().rev() {
            self.logs.entry(author).or_default().lives.insert(life, ranges);
        }
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
        let seq = match kind.plane() {
            Plane::Control => self.head(&id.author).filter_life(incarnation),
            Plane::Data => {
                let old = self.data_cell(&cell_key(&id))?;
                old.map_or(0, |old| old.version.filter_life(incarnation))
            }
        };
        let version = Version { incarnation, seq: seq + 1 };
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
        let life = self.logs.get(author).and_then(|l| l.lives.last_key_value());
        life.map_or_else(Version::default, |(incarnation, ranges)| Version {
            incarnation: *incarnation,
            seq: ranges.max(),
        })
    }

    /// What is covered of one life of an author's log; `None` when nothing is.
    #[must_use]
    pub fn log(&self, author: &PublicKey, incarnation: u64) -> Option<&Ranges> {
        self.logs.get(author)?.lives.get(&incarnation)
    }

    /// Those of these cells that could enter the store: signed, by an author with the power. For
    /// cells that are only shown, not kept.
    #[must_use]
    pub fn vet(&self, mut cells: Vec<Cell>, now: Millis) -> Vec<Cell> {
        cells.retain(|c| matches!(judge(&self.views, c, false, now), Verdict::Admit(_)));
        cells
    }

    /// The state of every log.
    #[must_use]
    pub fn heads(&self) -> Vec<LogState> {
        let state = |(author, log): (&PublicKey, &Log)| LogState {
            author: *author,
            lives: log.lives.clone(),
            digest: Hash(log.digest),
        };
        self.logs.iter().map(state).collect()
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
            let Some(ours) =
                self.logs.get(&part.author).and_then(|l| l.lives.get(&part.incarnation))
            else {
                continue;
            };
            let mut log: Vec<&Cell> = self
                .control
                .values()
                .map(|e| &e.cell)
                .filter(|c| {
                    c.id.author == part.author
                        && c.version.incarnation == part.incarnation
                        && part.ranges.contains(c.version.seq)
                })
                .collect();
            log.sort_by_key(|c| c.version.seq);
            // covered up to the first cell that has no room any more
            let mut end = u64::MAX;
            for cell in log {
                if bytes + cell.bytes().len() > budget && !cells.is_empty() {
                    end = cell.version.seq - 1;
                    break;
                }
                bytes += cell.bytes().len();
                cells.push(cell.clone());
            }
            let beyond = part.ranges.minus(&Ranges::up_to(end));
            let asked = part.ranges.minus(&beyond);
            let ranges = asked.minus(&asked.minus(ours));
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
    lives: Vec<(PublicKey, u64, Ranges)>,
}

/// The last number of a life: a new life starts from zero.
trait FilterLife {
    fn filter_life(self, incarnation: u64) -> u64;
}

impl FilterLife for Version {
    fn filter_life(self, incarnation: u64) -> u64 {
        if self.incarnation == incarnation { self.seq } else { 0 }
    }
}
