//! The store: the control plane in memory, everything on disk, one transaction a batch.
//!
//! Blocking; owned by one thread. What [`Store::apply`] has reported as accepted is on disk. After
//! a crash the file holds whole batches only; what was not reported may be gone.
//!
//! Coverage that another node claims is hearsay: it counts only for lives of which a cell is held,
//! and only below the last number held (see [`crate::log`]).

mod apply;
mod data;
mod look;
mod news;
mod read;

pub use data::After;
pub use look::{Page, Wanted};
use news::News;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2pinst_trust::key::verify_cell;
use p2pinst_trust::{RootChain, SecretKey};
use p2pinst_types::cell::{CellError, Draft};
use p2pinst_types::record::SignedRoot;
use p2pinst_types::{Cell, CellId, Hlc, Kind, Millis, Plane, PublicKey, Version, codec};
use serde::Serialize;
use thiserror::Error;

use crate::admission::{Known, Outcome};
use crate::disk::MemoryDisk;
use crate::log::Log;
use crate::record::Record;
use crate::shelf::Shelf;
use crate::tables::{Batch, Tables, cell_key};
use crate::view::{Entry, Views};
use crate::wire::CellBytes;

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
    /// A transaction that was told to have failed is on disk all the same; it counts now.
    #[error("the disk had kept what it had failed to confirm; it is read back: try again")]
    ReadAnew,
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
        /// Whether it may be taken later: something that it depends on is not here yet.
        passing: bool,
    },
}

impl StoreError {
    /// Whether the file is damaged: to be set aside, and rebuilt from others.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let odd = |e: &redb::Error| match e {
            redb::Error::Corrupted(_) | redb::Error::RepairAborted => true,
            redb::Error::Io(e) => matches!(
                e.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ),
            _ => false,
        };
        match self {
            Self::Damaged(_) => true,
            Self::Open { source, .. } => odd(source),
            Self::Database(source) => odd(source),
            Self::ReadAnew | Self::WrongCluster | Self::Record { .. } => false,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    tables: Arc<Tables>,
    /// A transaction has failed, and perhaps not: what is on disk may be newer than memory.
    doubtful: bool,
    roots: RootChain,
    control: BTreeMap<CellId, Entry>,
    logs: BTreeMap<PublicKey, Log>,
    /// What of the data plane is held here.
    shelf: Shelf,
    known: Known,
    /// Authors that signed two cells of one version, and the two.
    twins: BTreeMap<PublicKey, (Cell, Cell)>,
    /// Oldest first.
    quarantine: Vec<Cell>,
    views: Arc<Views>,
    /// Statuses that were stored since they were last asked for.
    news: News,
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

impl Store {
    /// Opens the store of a cluster, or makes it. Everything that is read back is verified anew.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or belongs to another cluster.
    pub fn open(path: &Path, roots: RootChain) -> Result<Self, StoreError> {
        Self::open_at(Arc::new(Tables::open(path)?), roots)
    }

    /// The same on a disk in memory: for the simulator, and for tests.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(disk: &MemoryDisk, roots: RootChain) -> Result<Self, StoreError> {
        Self::open_at(Arc::new(Tables::open_on(disk)?), roots)
    }

    /// Reads the disk anew when a transaction has failed: a disk that fails while it syncs may have
    /// kept the transaction all the same. A number that was taken then must not be given to
    /// another cell.
    pub(super) fn make_sure(&mut self) -> Result<(), StoreError> {
        if !self.doubtful {
            return Ok(());
        }
        let fresh = Self::open_at(Arc::clone(&self.tables), self.roots.clone())?;
        let (digest, size) = (self.digest(), self.shelf.size());
        let quarantine = std::mem::take(&mut self.quarantine);
        let clock = self.clock.max(fresh.clock);
        *self = Self { quarantine, clock, ..fresh };
        if (digest, size) == (self.digest(), self.shelf.size()) {
            return Ok(());
        }
        // what is offered now was numbered before this was known
        Err(StoreError::ReadAnew)
    }

    fn open_at(tables: Arc<Tables>, roots: RootChain) -> Result<Self, StoreError> {
        let views = Arc::new(Views::fold(&roots, std::iter::empty()));
        let mut store = Self {
            tables,
            doubtful: false,
            roots,
            control: BTreeMap::new(),
            logs: BTreeMap::new(),
            shelf: Shelf::default(),
            known: Known::default(),
            twins: BTreeMap::new(),
            quarantine: Vec::new(),
            views,
            news: News::default(),
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
        for cell in self.tables.cells(&[])? {
            if cell.id.kind.plane() == Plane::Data {
                self.clock = self.clock.max(cell.hlc);
                self.shelf.put(None, &cell);
                continue;
            }
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
        self.known.note(&entry);
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
        let kind = write.kind;
        let nothing = || StoreError::Record { kind, reason: "lost".to_owned(), passing: false };
        let written = self.write_many(key, &[(write, record)], now)?.pop();
        written.unwrap_or_else(|| Err(nothing()))
    }

    /// Signs and stores records of this node for different places, in one transaction; what became of
    /// each.
    ///
    /// # Errors
    /// When nothing can be stored.
    pub fn write_many<T: Serialize>(
        &mut self,
        key: &SecretKey,
        records: &[(Write<'_>, &T)],
        now: Millis,
    ) -> Result<Vec<Result<Cell, StoreError>>, StoreError> {
        self.make_sure()?;
        let signed: Vec<Result<Cell, StoreError>> =
            records.iter().map(|(write, record)| self.sign(key, write, *record, now)).collect();
        let cells = signed.iter().filter_map(|s| s.as_ref().ok()).cloned().collect();
        let mut outcomes = self.apply(cells, &[], now)?.into_iter();
        let written = |signed: Result<Cell, StoreError>| {
            let cell = signed?;
            let kind = cell.id.kind;
            let failed = |reason| StoreError::Record { kind, reason, passing: false };
            match outcomes.next() {
                Some(Outcome::Accepted) => Ok(cell),
                Some(Outcome::Held(reason)) => {
                    Err(StoreError::Record { kind, reason, passing: true })
                }
                Some(Outcome::Rejected(why)) => Err(failed(why)),
                Some(Outcome::Known | Outcome::Newer) | None => {
                    Err(failed("a newer one is stored".to_owned()))
                }
            }
        };
        Ok(signed.into_iter().map(written).collect())
    }

    /// A record of this node as the cell that follows what is in its place.
    fn sign<T: Serialize>(
        &self,
        key: &SecretKey,
        write: &Write<'_>,
        record: &T,
        now: Millis,
    ) -> Result<Cell, StoreError> {
        let Write { kind, subject, slot, incarnation } = *write;
        let failed = |reason: String| StoreError::Record { kind, reason, passing: false };
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
        draft
            .sign(self.roots.cluster(), |m| key.sign(m))
            .map_err(|e: CellError| failed(e.to_string()))
    }
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
