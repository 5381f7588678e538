//! When blobs were used last, for choosing which go first when there is no room.
//!
//! The time is kept by the modification time of the `.layer` file, which is written once and read
//! seldom: exact to [`NOTED`] over a restart, without a record that would have to be synced.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p2pinst_types::{Hash, Millis};

use super::disk::Kind;
use super::entry::Entry;
use super::{BlobStatus, BlobStore, Inner, status};

/// How often a use is noted on the disk: a blob that is served all the time costs one change of an
/// inode a minute.
const NOTED: Duration = Duration::from_secs(60);

/// A blob, and what is known of its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where it stands.
    pub status: BlobStatus,
    /// When it was read or written last, by this machine's clock.
    pub used: Millis,
    /// Whether the disk damaged pieces of it that have not come again since.
    pub damaged: bool,
    /// The blob whose recipe this is: it stays and goes with that one.
    pub recipe_of: Option<Hash>,
}

/// The use of one blob.
#[derive(Debug)]
pub(super) struct Usage {
    used: AtomicU64,
    noted: AtomicU64,
    damaged: AtomicBool,
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Usage {
    /// Used now; the file that is about to be written, or was just, says so.
    pub(super) fn now() -> Self {
        let now = millis(SystemTime::now());
        let (used, noted) = (AtomicU64::new(now), AtomicU64::new(now));
        Self { used, noted, damaged: AtomicBool::new(false) }
    }

    /// Takes over what a file says.
    pub(super) fn recall(&self, layer: &Path) {
        if let Ok(time) = layer.metadata().and_then(|m| m.modified()) {
            self.used.store(millis(time), Ordering::Relaxed);
            self.noted.store(millis(time), Ordering::Relaxed);
        }
    }

    /// When it was used last, in milliseconds since 1970.
    pub(super) fn last(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn set_damaged(&self, damaged: bool) {
        self.damaged.store(damaged, Ordering::Relaxed);
    }
}

impl Inner {
    /// The blob is in use. What cannot be noted on the disk counts until the next start.
    pub(super) fn note_use(&self, entry: &Entry) {
        let time = SystemTime::now();
        let now = millis(time);
        entry.usage.used.store(now, Ordering::Relaxed);
        let noted = entry.usage.noted.load(Ordering::Relaxed);
        if u128::from(now.saturating_sub(noted)) < NOTED.as_millis() {
            return;
        }
        entry.usage.noted.store(now, Ordering::Relaxed);
        let path = self.file(Kind::Layer, &entry.blob.root);
        let file = File::options().write(true).open(&path);
        if let Err(error) = file.and_then(|f| f.set_modified(time)) {
            tracing::debug!(%error, path = %path.display(), "The use of a blob is not noted.");
        }
    }
}

impl BlobStore {
    /// The blob is in use now: it is the last to go when there is no room.
    pub fn touch(&self, root: &Hash) {
        if let Some(entry) = self.inner.entry(root) {
            self.inner.note_use(&entry);
        }
    }

    /// Every blob with its use, by root.
    #[must_use]
    pub fn stored(&self) -> Vec<Stored> {
        let stored = |entry: &Entry| {
            let recipe_of = self.recipe_of(&entry.blob.root);
            Some(Stored {
                status: status(entry)?,
                used: Millis(entry.usage.used.load(Ordering::Relaxed)),
                damaged: entry.usage.damaged.load(Ordering::Relaxed),
                recipe_of,
            })
        };
        self.inner.all().iter().filter_map(|e| stored(e)).collect()
    }
}
