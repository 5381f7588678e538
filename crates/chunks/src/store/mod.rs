//! A directory of blobs: complete ones to install and serve, partial ones being fetched.
//!
//! Owns the directory (a lock keeps other processes out) and every file in it. Blocking, safe from
//! any number of threads, cheap to clone. Takes in only bytes that verify, and verifies again what
//! it reads, so nothing damaged or half-written is ever served.
//!
//! A crash at any instruction leaves a blob complete or partial. A piece counts after a restart only
//! if its bytes were synced before the record that names it; pieces since the last
//! [`BlobStore::sync`] are lost, and so is a partial blob begun and not yet synced.

mod begin;
mod damage;
mod data;
mod disk;
mod entry;
mod error;
mod ingest;
mod parts;
mod pieces;
mod recipes;
mod recover;
pub(crate) mod sparse;
mod target;
mod usage;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use p2pinst_files::{Context, FileError, Lock, sync_dir};
use p2pinst_types::{BlobRef, Hash};

pub use self::damage::Checked;
use self::data::Data;
pub use self::data::HELD_BACK;
use self::disk::Kind;
use self::entry::{Cache, Entry, Hot, State, lock};
pub use self::error::{
    BeginError, IngestError, LayerReadError, NoSpace, PutError, ReadError, StoreError, SyncError,
};
pub use self::pieces::{Put, SYNC_BYTES};
pub use self::recipes::RecipeStoreError;
use self::recipes::Recipes;
pub use self::usage::Stored;
use crate::bitmap::Bitmap;
use crate::layer::PieceLayer;

/// A directory of blobs. Clones share it.
#[derive(Debug, Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    entries: RwLock<BTreeMap<Hash, Arc<Entry>>>,
    /// Changed only with `shape` held.
    recipes: RwLock<Recipes>,
    /// Held while blobs come into being or go; taken before any entry's locks.
    shape: Mutex<()>,
    cache: Cache,
    /// Blobs that belong onto disks.
    aims: Mutex<BTreeMap<Hash, PathBuf>>,
    _lock: Lock,
}

/// Where a blob stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobStatus {
    /// The blob.
    pub blob: BlobRef,
    /// The pieces that can be read.
    pub have: Bitmap,
    /// Whether it is complete: whole, durable, and at [`BlobStore::path`].
    pub complete: bool,
}

impl BlobStore {
    /// Opens the store in a directory, which is made if it is not there. What a crash left behind is
    /// tidied up; no complete blob is hashed again unless its layer was damaged.
    ///
    /// # Errors
    /// When another process has it, or its files cannot be used.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).context("make the directory", dir)?;
        let held = Lock::try_exclusive(&dir.join("lock"))?
            .ok_or_else(|| StoreError::InUse { path: dir.to_owned() })?;
        let (entries, recipes) = recover::scan(dir)?;
        let inner = Inner {
            dir: dir.to_owned(),
            entries: RwLock::new(entries),
            recipes: RwLock::new(recipes),
            shape: Mutex::new(()),
            cache: Cache::default(),
            aims: Mutex::default(),
            _lock: held,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where a blob stands; `None` when nothing of it is here.
    #[must_use]
    pub fn status(&self, root: &Hash) -> Option<BlobStatus> {
        status(&*self.inner.entry(root)?)
    }

    /// Where every blob stands, by root.
    #[must_use]
    pub fn list(&self) -> Vec<BlobStatus> {
        self.inner.all().iter().filter_map(|e| status(e)).collect()
    }

    /// The verified piece layer of a blob.
    ///
    /// # Errors
    /// When the blob is not here, or its layer cannot be read.
    pub fn layer(&self, root: &Hash) -> Result<Arc<PieceLayer>, LayerReadError> {
        let entry = self.inner.entry(root).ok_or(LayerReadError::Unknown { root: *root })?;
        Ok(self.inner.hot(&entry)?.layer)
    }

    /// The file of a complete blob, for installing; `None` when it is not complete, or lies on a disk of its own. It may be read
    /// or linked, never written. [`BlobStore::check`] tells whether the disk kept it well.
    #[must_use]
    pub fn path(&self, root: &Hash) -> Option<PathBuf> {
        let entry = self.inner.entry(root)?;
        let in_store = entry.is_complete() && entry.target().is_none();
        in_store.then(|| self.inner.file(Kind::Blob, root))
    }

    /// Removes a blob and all that belongs to it, its recipe too; whether it was there. Reads under way end
    /// well; when it returns nothing is written any more.
    ///
    /// # Errors
    /// When a file cannot be removed; the blob is gone from the list all the same, and the rest of
    /// its files goes when the store is next opened.
    pub fn remove(&self, root: &Hash) -> Result<bool, SyncError> {
        let inner = &*self.inner;
        let _shape = lock(&inner.shape);
        // the recipe first: what names it stays until it is gone
        if let Some(recipe) = inner.forget_recipe(root) {
            inner.remove_one(&recipe)?;
        }
        Ok(inner.remove_one(root)?)
    }

    /// Bytes free on the filesystem of the store.
    ///
    /// # Errors
    /// When the filesystem does not say.
    pub fn free(&self) -> Result<u64, FileError> {
        disk::free(&self.inner.dir).context("ask for the free space of", &self.inner.dir)
    }

    /// The directory of the store.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }
}

fn status(entry: &Entry) -> Option<BlobStatus> {
    let (blob, pieces) = (entry.blob, entry.blob.pieces());
    match &*lock(&entry.state) {
        State::Partial(p) => Some(BlobStatus { blob, have: p.have.clone(), complete: false }),
        State::Complete => Some(BlobStatus { blob, have: Bitmap::full(pieces), complete: true }),
        State::Gone => None,
    }
}

impl Inner {
    fn file(&self, kind: Kind, root: &Hash) -> PathBuf {
        kind.path(&self.dir, root)
    }

    /// Where the bytes of a blob lie, for messages.
    fn place(&self, entry: &Entry) -> PathBuf {
        let kind = if entry.is_complete() { Kind::Blob } else { Kind::Part };
        entry.target().map_or_else(|| self.file(kind, &entry.blob.root), |t| t.path.clone())
    }

    fn entry(&self, root: &Hash) -> Option<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(root).cloned()
    }

    fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Called with `shape` held.
    fn remove_one(&self, root: &Hash) -> Result<bool, FileError> {
        lock(&self.aims).remove(root);
        let Some(entry) = self.write_entries(|map| map.remove(root)) else { return Ok(false) };
        let _io = lock(&entry.io);
        *lock(&entry.state) = State::Gone;
        // who writes just now comes to an end, and who comes later sees that it is gone: a disk is another's from here on
        drop(entry.writing.write().unwrap_or_else(PoisonError::into_inner));
        self.unlink_all(root)?;
        Ok(true)
    }

    fn write_entries<T>(&self, change: impl FnOnce(&mut BTreeMap<Hash, Arc<Entry>>) -> T) -> T {
        change(&mut self.entries.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a blob's file and loads its layer, unless they are at hand.
    fn hot(&self, entry: &Arc<Entry>) -> Result<Hot, LayerReadError> {
        let hot = match entry.hot() {
            Some(hot) => hot,
            None => self.load(entry)?,
        };
        self.cache.keep(entry, &hot);
        Ok(hot)
    }

    fn load(&self, entry: &Entry) -> Result<Hot, LayerReadError> {
        let root = entry.blob.root;
        // no rename between looking at the state and opening the file
        let _io = lock(&entry.io);
        let kind = match &*lock(&entry.state) {
            State::Partial(_) => Kind::Part,
            State::Complete => Kind::Blob,
            State::Gone => return Err(LayerReadError::Unknown { root }),
        };
        if let Some(target) = entry.target() {
            let layer = disk::read_layer(&self.dir, entry.blob)??;
            return Ok(Hot { data: Data::Target(target), layer: Arc::new(layer) });
        }
        let path = self.file(kind, &root);
        let file = match fs::OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.vanished(entry, &path);
                return Err(LayerReadError::Unknown { root });
            }
            opened => opened.context("open", &path)?,
        };
        let layer = match disk::read_layer(&self.dir, entry.blob)? {
            Ok(layer) => layer,
            Err(damaged) if kind == Kind::Part => return Err(damaged.into()),
            Err(_) => recover::rebuild_layer(&self.dir, &root)?
                .filter(|l| *l.blob() == entry.blob)
                .ok_or(crate::layer::LayerError::Mismatch { root })?,
        };
        Ok(Hot { data: Data::File(Arc::new(file)), layer: Arc::new(layer) })
    }

    /// Somebody has deleted a blob's file: it is not here any more. The other files go when the store is
    /// next opened, or are written anew.
    fn vanished(&self, entry: &Entry, path: &Path) {
        tracing::warn!(path = %path.display(), "A blob's file was deleted; the blob is gone.");
        *lock(&entry.state) = State::Gone;
        self.write_entries(|map| {
            let root = &entry.blob.root;
            if map.get(root).is_some_and(|e| std::ptr::eq(Arc::as_ptr(e), entry)) {
                map.remove(root);
            }
        });
    }

    /// Removes every file of a blob. The record of pieces goes first and durably, so that it can
    /// never speak for a `.part` file begun later.
    fn unlink_all(&self, root: &Hash) -> Result<(), FileError> {
        if disk::unlink(&self.file(Kind::Have, root))? {
            sync_dir(&self.dir)?;
        }
        for kind in [Kind::Part, Kind::Blob, Kind::Layer, Kind::Recipe] {
            disk::unlink(&self.file(kind, root))?;
        }
        sync_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests;
