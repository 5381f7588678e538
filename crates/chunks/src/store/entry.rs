//! One blob in memory: its state, and a bounded cache of what its use needs open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use p2pinst_types::{BlobRef, PieceIndex};

use super::data::{Data, Target};
use super::usage::Usage;

use crate::bitmap::Bitmap;
use crate::layer::PieceLayer;

/// Takes a lock; a panic in another thread leaves nothing half-changed under any lock of ours.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One blob. A blob that is removed and begun again is another entry, so that whoever still holds
/// the old one can do no harm.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) blob: BlobRef,
    /// Held while the blob's files are synced, renamed or removed; never while `state` is held.
    pub(super) io: Mutex<()>,
    pub(super) state: Mutex<State>,
    /// Held by many who write verified bytes, or by one who writes others.
    pub(super) writing: RwLock<()>,
    /// When it was used, and how the disk has kept it.
    pub(super) usage: Usage,
    /// Where it is written to, when that is no file of the store.
    target: Option<Arc<Target>>,
    /// What the last use opened, until the cache takes it back.
    hot: Mutex<Option<Hot>>,
}

/// Where a blob stands.
#[derive(Debug)]
pub(super) enum State {
    /// Some pieces are in the `.part` file.
    Partial(Partial),
    /// The `.blob` file is whole.
    Complete,
    /// Removed.
    Gone,
}

/// The pieces of a partial blob.
#[derive(Debug)]
pub(super) struct Partial {
    /// Verified and written; served.
    pub(super) have: Bitmap,
    /// Those that the `.have` file names: synced before it was written.
    pub(super) durable: Bitmap,
    /// Bytes written and not yet synced.
    pub(super) unsynced: u64,
    /// Whether the `.layer` file has been synced.
    pub(super) layer_synced: bool,
}

impl Partial {
    pub(super) fn new(durable: Bitmap, layer_synced: bool) -> Self {
        Self { have: durable.clone(), durable, unsynced: 0, layer_synced }
    }
}

/// What reading or writing pieces needs. The file stays the right one through every rename.
#[derive(Debug, Clone)]
pub(super) struct Hot {
    pub(super) data: Data,
    pub(super) layer: Arc<PieceLayer>,
}

impl Entry {
    pub(super) fn new(blob: BlobRef, state: State) -> Arc<Self> {
        Self::on(blob, state, None)
    }

    /// One that is written onto a disk.
    pub(super) fn on(blob: BlobRef, state: State, target: Option<Arc<Target>>) -> Arc<Self> {
        let (io, state, hot) = (Mutex::new(()), Mutex::new(state), Mutex::new(None));
        let writing = RwLock::new(());
        Arc::new(Self { blob, io, state, writing, usage: Usage::now(), target, hot })
    }

    pub(super) fn target(&self) -> Option<Arc<Target>> {
        self.target.clone()
    }

    /// Whether the piece can be read; `None` when the blob is gone.
    pub(super) fn has(&self, piece: PieceIndex) -> Option<bool> {
        match &*lock(&self.state) {
            State::Partial(p) => Some(p.have.get(piece)),
            State::Complete => Some(piece.0 < self.blob.pieces()),
            State::Gone => None,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(*lock(&self.state), State::Complete)
    }

    pub(super) fn hot(&self) -> Option<Hot> {
        lock(&self.hot).clone()
    }
}

/// Bounds what all entries together keep open: files by number, layers by bytes. The one used the
/// longest ago is closed first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    inner: Mutex<Slots>,
}

/// Open files: few beside the usual limit of 1024 descriptors.
pub(super) const MAX_FILES: usize = 128;
/// Bytes of layers kept in memory; the last used stays even if it alone is larger.
const MAX_LAYER_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
struct Slots {
    clock: u64,
    layer_bytes: usize,
    by_use: BTreeMap<u64, Slot>,
    /// When each entry was last used, by address: the key into `by_use`.
    last: BTreeMap<usize, u64>,
}

#[derive(Debug)]
struct Slot {
    entry: Weak<Entry>,
    address: usize,
    layer_bytes: usize,
}

impl Cache {
    /// Notes a use of what the entry has open, keeps it open, and closes what is too much.
    pub(super) fn keep(&self, entry: &Arc<Entry>, hot: &Hot) {
        *lock(&entry.hot) = Some(hot.clone());
        let evicted = lock(&self.inner).touch(entry, hot.layer.as_bytes().len());
        // outside the lock: closing may block
        evicted.iter().filter_map(Weak::upgrade).for_each(|e| drop(lock(&e.hot).take()));
    }

    #[cfg(test)]
    pub(super) fn open_files(&self) -> usize {
        lock(&self.inner).by_use.len()
    }
}

impl Slots {
    fn touch(&mut self, entry: &Arc<Entry>, layer_bytes: usize) -> Vec<Weak<Entry>> {
        let address = Arc::as_ptr(entry).addr();
        self.clock += 1;
        if let Some(old) = self.last.insert(address, self.clock)
            && let Some(slot) = self.by_use.remove(&old)
        {
            self.layer_bytes -= slot.layer_bytes;
        }
        // the weak reference keeps the address from being used again
        let slot = Slot { entry: Arc::downgrade(entry), address, layer_bytes };
        self.by_use.insert(self.clock, slot);
        self.layer_bytes += layer_bytes;
        let mut evicted = Vec::new();
        while self.by_use.len() > MAX_FILES
            || (self.layer_bytes > MAX_LAYER_BYTES && self.by_use.len() > 1)
        {
            let Some((_, slot)) = self.by_use.pop_first() else { break };
            self.layer_bytes -= slot.layer_bytes;
            self.last.remove(&slot.address);
            evicted.push(slot.entry);
        }
        evicted
    }
}
