//! The store on disk: one redb file. Values are bytes that other modules make; table names end in
//! the number of their format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use p2pinst_types::{Cell, CellId, Hash, Kind, PublicKey, codec};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::disk::MemoryDisk;
use crate::store::StoreError;
use crate::summary::Summary;

/// Cells of both planes by [`cell_key`]: verbatim, and [`SUM`] bytes of their hash. Signatures would
/// show damage too, at fifty times the price.
const CELLS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("cells-2");
/// Covered numbers of control-plane logs: author and incarnation → CBOR of the ranges.
const COVERED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("covered-1");
/// Cells of this node that a majority of their replicas has acknowledged: cell key → hash.
const SETTLED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("settled-1");
/// Proofs that a key has signed two cells of one version: author → CBOR of the two.
const TWINS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("twins-1");
/// Summaries of statuses: subject → CBOR.
const SUMMARIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("summaries-1");
/// Single values by name.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta-1");

/// Bytes of a cell's hash that are stored with it.
const SUM: usize = 8;
/// redb's page cache. The whole control plane is in memory anyway.
const CACHE_BYTES: usize = 4 << 20;

/// The key of a cell: kind, subject and slot with their lengths, author. Cells of one subject are
/// neighbours.
pub(crate) fn cell_key(id: &CellId) -> Vec<u8> {
    let mut key = subject_prefix(id.kind, &id.subject);
    key.push(u8::try_from(id.slot.len()).unwrap_or(u8::MAX));
    key.extend_from_slice(&id.slot);
    key.extend_from_slice(id.author.as_bytes());
    key
}

/// What the keys of all cells of a subject begin with.
pub(crate) fn subject_prefix(kind: Kind, subject: &[u8]) -> Vec<u8> {
    let mut key = kind.0.to_be_bytes().to_vec();
    key.push(u8::try_from(subject.len()).unwrap_or(u8::MAX));
    key.extend_from_slice(subject);
    key
}

/// The key of a log's coverage.
pub(crate) fn log_key(author: &PublicKey, incarnation: u64) -> Vec<u8> {
    [author.as_bytes().as_slice(), &incarnation.to_be_bytes()].concat()
}

/// A cell's row.
fn summed(cell: &Cell) -> Vec<u8> {
    let hash = cell.hash();
    cell.bytes().iter().chain(hash.0.iter().take(SUM)).copied().collect()
}

/// The inverse of [`summed`]; `None` when the row is not what was written.
fn unsummed(mut row: Vec<u8>) -> Option<Cell> {
    let sum = row.split_off(row.len().checked_sub(SUM)?);
    let cell = Cell::parse(row).ok()?;
    cell.hash().0.starts_with(&sum).then_some(cell)
}

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// Changes that become durable together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Cells that go, by key; before the others come.
    pub(crate) dropped: Vec<Vec<u8>>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) covered: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) settled: Vec<(Vec<u8>, Hash)>,
    pub(crate) twins: Vec<Row>,
    pub(crate) meta: Vec<(&'static str, Vec<u8>)>,
    /// Summaries by subject; `None`: nothing is held of it any more.
    pub(crate) summaries: BTreeMap<Vec<u8>, Option<Summary>>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
            && self.dropped.is_empty()
            && self.covered.is_empty()
            && self.settled.is_empty()
            && self.twins.is_empty()
            && self.meta.is_empty()
            && self.summaries.is_empty()
    }
}

/// The file, opened anew after an I/O error: redb does nothing more after one, also when the disk
/// has room again.
#[derive(Debug)]
pub(crate) struct Tables {
    place: Place,
    db: Mutex<Option<Database>>,
}

/// Where the tables are.
#[derive(Debug)]
enum Place {
    File(PathBuf),
    Memory(MemoryDisk),
}

fn open(place: &Place) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let db = match place {
        Place::File(path) => builder.create(path)?,
        Place::Memory(disk) => builder.create_with_backend(disk.backend())?,
    };
    // a full disk does not keep a store from being read
    if db.begin_read()?.open_table(META).is_err() {
        let tx = db.begin_write()?;
        drop((tx.open_table(CELLS)?, tx.open_table(COVERED)?));
        drop((tx.open_table(SETTLED)?, tx.open_table(TWINS)?, tx.open_table(META)?));
        drop(tx.open_table(SUMMARIES)?);
        tx.commit()?;
    }
    Ok(db)
}

impl Tables {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_at(Place::File(path.to_owned()), path)
    }

    /// Opens the tables on a disk in memory.
    pub(crate) fn open_on(disk: &MemoryDisk) -> Result<Self, StoreError> {
        Self::open_at(Place::Memory(disk.clone()), Path::new("memory"))
    }

    fn open_at(place: Place, path: &Path) -> Result<Self, StoreError> {
        let db = open(&place)
            .map_err(|e| StoreError::Open { path: path.to_owned(), source: Box::new(e) })?;
        Ok(Self { place, db: Mutex::new(Some(db)) })
    }

    /// Works with the open file; one that has failed is opened anew at the next call.
    fn with<T>(
        &self,
        job: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut held = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |e| StoreError::Database(Box::new(e));
        let db = match held.take() {
            Some(db) => db,
            None => open(&self.place).map_err(failed)?,
        };
        let done = job(&db);
        if !matches!(done, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            *held = Some(db);
        }
        done.map_err(failed)
    }

    /// Commits a batch: one fsync for all of it.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.with(|db| {
            let tx = db.begin_write()?;
            {
                let mut cells = tx.open_table(CELLS)?;
                let mut settled = tx.open_table(SETTLED)?;
                for key in &batch.dropped {
                    cells.remove(key.as_slice())?;
                    settled.remove(key.as_slice())?;
                }
                for cell in &batch.cells {
                    cells.insert(cell_key(&cell.id).as_slice(), summed(cell).as_slice())?;
                }
                let mut covered = tx.open_table(COVERED)?;
                for (key, ranges) in &batch.covered {
                    covered.insert(key.as_slice(), ranges.as_slice())?;
                }
                for (key, hash) in &batch.settled {
                    settled.insert(key.as_slice(), hash.as_bytes().as_slice())?;
                }
                let mut twins = tx.open_table(TWINS)?;
                for (author, proof) in &batch.twins {
                    twins.insert(author.as_slice(), proof.as_slice())?;
                }
                let mut meta = tx.open_table(META)?;
                for (name, value) in &batch.meta {
                    meta.insert(*name, value.as_slice())?;
                }
            }
            {
                let mut summaries = tx.open_table(SUMMARIES)?;
                for (subject, summary) in &batch.summaries {
                    // it has no shape that could not be encoded; without a row it is counted anew
                    match summary.as_ref().and_then(|s| codec::encode(s).ok()) {
                        Some(bytes) => {
                            drop(summaries.insert(subject.as_slice(), bytes.as_slice())?)
                        }
                        None => drop(summaries.remove(subject.as_slice())?),
                    }
                }
            }
            tx.commit()?;
            Ok(())
        })
    }

    /// The encoded summary of a subject.
    pub(crate) fn summary(&self, subject: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(SUMMARIES)?;
            Ok(table.get(subject)?.map(|v| v.value().to_vec()))
        })
    }

    /// Cells whose key is at least `from`, in the order of their keys, until `see` says false.
    pub(crate) fn walk(
        &self,
        from: &[u8],
        mut see: impl FnMut(&[u8], Cell) -> bool,
    ) -> Result<(), StoreError> {
        let whole = self.with(|db| {
            let table = db.begin_read()?.open_table(CELLS)?;
            for row in table.range(from..)? {
                let (key, value) = row?;
                let Some(cell) = unsummed(value.value().to_vec()) else { return Ok(false) };
                if !see(key.value(), cell) {
                    break;
                }
            }
            Ok(true)
        })?;
        if whole { Ok(()) } else { Err(StoreError::Damaged("a cell")) }
    }

    /// All cells whose key begins with `prefix`, in the order of their keys.
    pub(crate) fn cells(&self, prefix: &[u8]) -> Result<Vec<Cell>, StoreError> {
        let rows: Vec<Vec<u8>> = self.with(|db| {
            let table = db.begin_read()?.open_table(CELLS)?;
            let mut out = Vec::new();
            for row in table.range(prefix..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                out.push(value.value().to_vec());
            }
            Ok(out)
        })?;
        rows.into_iter().map(|row| unsummed(row).ok_or(StoreError::Damaged("a cell"))).collect()
    }

    /// All coverage rows.
    pub(crate) fn covered(&self) -> Result<Vec<Row>, StoreError> {
        self.rows(COVERED)
    }

    /// All proofs of double signing.
    pub(crate) fn twins(&self) -> Result<Vec<Row>, StoreError> {
        self.rows(TWINS)
    }

    fn rows(&self, table: TableDefinition<'_, &[u8], &[u8]>) -> Result<Vec<Row>, StoreError> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(table)?;
            table
                .iter()?
                .map(|row| row.map(|(k, v)| (k.value().to_vec(), v.value().to_vec())))
                .collect::<Result<_, _>>()
                .map_err(Into::into)
        })
    }

    /// The hash under which a cell of this node was settled.
    pub(crate) fn settled(&self, key: &[u8]) -> Result<Option<Hash>, StoreError> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(SETTLED)?;
            Ok(table.get(key)?.and_then(|v| Hash::from_slice(v.value())))
        })
    }

    /// A single value.
    pub(crate) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(META)?;
            Ok(table.get(name)?.map(|v| v.value().to_vec()))
        })
    }
}
