//! Making room: what goes, and what is refused because there is none.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p2pinst_chunks::quota::{Hold, Item, Limits, plan};
use p2pinst_chunks::store::Stored;
use p2pinst_files::FileError;
use p2pinst_types::{Hash, Millis};
use thiserror::Error;
use tracing::{info, warn};

use super::{Claim, Coming, Storage, human, lock};

/// A part that nobody needs is kept for so long: whoever broke off a fetch may take it up again.
const SCRAP: Duration = Duration::from_secs(3600);

/// Why there is no room for a blob.
#[derive(Debug, Error)]
pub enum NoRoom {
    /// It is larger than all that the store may have.
    #[error(
        "it needs {} of space, and the blob store may take {} at most: free space on its disk, or raise \
         `quota` in [store] of config.toml",
        human(*needed), human(*most)
    )]
    TooLarge {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that the store may take.
        most: u64,
    },
    /// What is there is needed.
    #[error(
        "there is no space: it needs {}, and blobs that are needed take {} of the {} that the blob store \
         may have; free space on its disk, raise `quota` in [store] of config.toml, or retire and unpin \
         what is no longer needed",
        human(*needed), human(*taken), human(*most)
    )]
    Full {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes of the blobs that stay, and of those that come already.
        taken: u64,
        /// Bytes that the store may take.
        most: u64,
    },
    /// The disk does not say how much is free.
    #[error(transparent)]
    File(#[from] FileError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping(#[from] tokio::task::JoinError),
}

/// How to clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleaning {
    /// Only say what would go.
    pub dry_run: bool,
    /// Also parts that were used a moment ago.
    pub scrap: bool,
    /// Everything that nobody needs, room or not.
    pub all: bool,
}

/// What was cleaned.
#[derive(Debug, Clone)]
pub struct Cleaned {
    /// What is gone, or would go.
    pub removed: Vec<Item>,
    /// Bytes of all blobs, before and afterwards.
    pub bytes: (u64, u64),
    /// What the store may take.
    pub limits: Limits,
}

/// Milliseconds since 1970 by this machine's clock, as the store notes uses.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Storage {
    /// What may go, and how much is on its way besides.
    fn items(&self, stored: &[Stored]) -> (Vec<Item>, u64) {
        let serving = self.inner.exchange.serving();
        let table = self.table();
        let hold = |s: &Stored| {
            let needed = table.is_needed(&s.status.blob.root, &serving);
            match (needed, s.status.complete) {
                (true, _) => Hold::Needed,
                (false, true) => Hold::Spare,
                (false, false) => Hold::Scrap,
            }
        };
        // a recipe stays and goes with its blob
        let mut recipes: BTreeMap<Hash, u64> = BTreeMap::new();
        for recipe in stored {
            if let Some(root) = recipe.recipe_of {
                recipes.insert(root, recipe.status.blob.len());
            }
        }
        let item = |s: &Stored| {
            let blob = s.status.blob;
            let bytes = blob.len() + recipes.get(&blob.root).copied().unwrap_or(0);
            Item { root: blob.root, bytes, used: s.used, hold: hold(s) }
        };
        let items: Vec<Item> = stored.iter().filter(|s| s.recipe_of.is_none()).map(item).collect();
        let here = |c: &Coming| c.root.is_some_and(|r| items.iter().any(|i| i.root == r));
        let coming = table.claims.values().filter(|c| !here(c)).map(|c| c.bytes);
        let coming = coming.fold(0u64, u64::saturating_add);
        (items, coming)
    }

    /// What the store may take now. Blocking.
    ///
    /// # Errors
    /// When the disk does not say how much is free.
    pub fn limits(&self, stored: &[Stored]) -> Result<Limits, FileError> {
        let own = stored.iter().fold(0u64, |sum, s| sum.saturating_add(s.status.blob.len()));
        Ok(self.inner.quota.limits(own, self.free()?))
    }

    /// Removes what has to go. Blocking.
    ///
    /// # Errors
    /// When the disk does not say how much is free.
    pub fn clean(&self, how: Cleaning) -> Result<Cleaned, FileError> {
        let _turn = lock(&self.inner.turn);
        let stored = self.blobs().stored();
        let limits = self.limits(&stored)?;
        let (items, coming) = self.items(&stored);
        let stale = match how.scrap || how.all {
            true => Millis(u64::MAX),
            false => Millis(now().0.saturating_sub(SCRAP.as_millis().try_into().unwrap_or(0))),
        };
        let aim = if how.all { Limits { high: 0, low: 0 } } else { limits };
        let mut plan = plan(&items, coming, aim, stale);
        if !how.dry_run {
            plan.remove.retain(|item| self.remove(item));
        }
        let gone = plan.remove.iter().fold(0u64, |sum, item| sum.saturating_add(item.bytes));
        let bytes = (plan.before, plan.before.saturating_sub(gone));
        Ok(Cleaned { removed: plan.remove, bytes, limits })
    }

    fn remove(&self, item: &Item) -> bool {
        let what = if item.hold == Hold::Scrap { "a part of a blob" } else { "a blob" };
        info!(blob = %item.root.short(), bytes = item.bytes, "{what} that nobody needs is removed");
        match self.inner.exchange.remove(&item.root) {
            Ok(removed) => removed,
            Err(error) => {
                warn!(%error, blob = %item.root.short(), "cannot remove a blob");
                false
            }
        }
    }

    /// Makes room for a blob that is to come, and keeps it from being removed meanwhile.
    ///
    /// # Errors
    /// When there is no room even without all that nobody needs.
    pub async fn room_for(&self, root: Option<Hash>, bytes: u64) -> Result<Claim, NoRoom> {
        let storage = self.clone();
        tokio::task::spawn_blocking(move || storage.make_room(root, bytes)).await?
    }

    fn make_room(&self, root: Option<Hash>, bytes: u64) -> Result<Claim, NoRoom> {
        let _turn = lock(&self.inner.turn);
        let stored = self.blobs().stored();
        // what is here in part has its room already
        let here = root.is_some_and(|root| stored.iter().any(|s| s.status.blob.root == root));
        if !here {
            let limits = self.limits(&stored)?;
            if bytes > limits.high {
                return Err(NoRoom::TooLarge { needed: bytes, most: limits.high });
            }
            let (items, coming) = self.items(&stored);
            let plan = plan(&items, coming.saturating_add(bytes), limits, Millis(0));
            let gone = plan.remove.iter().filter(|item| self.remove(item));
            let gone = gone.fold(0u64, |sum, item| sum.saturating_add(item.bytes));
            let taken = plan.before.saturating_sub(gone).saturating_add(coming);
            if taken.saturating_add(bytes) > limits.high {
                return Err(NoRoom::Full { needed: bytes, taken, most: limits.high });
            }
        }
        Ok(self.claim(Coming { root, bytes, mends: false }))
    }
}
