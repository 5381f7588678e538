//! What the node keeps of blobs, and why: the shell around the planner of `p2pinst-chunks::quota`.
//!
//! A blob is needed while a live order of this machine names it (the agent says which), while somebody
//! has pinned it and it is of no image that was removed from the cluster, while it comes in or goes out, and for a while after it was handed over or fetched
//! for a person. Everything else goes when there is no room, the longest unused first. Until the agent
//! has looked at the orders for the first time, nothing goes.
//!
//! Pins are durable; everything else is in memory, and is known anew after a start.

mod fetches;
mod mends;
mod pins;
mod room;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pinst_chunks::BlobStore;
use p2pinst_chunks::quota::Quota;
use p2pinst_files::FileError;
use p2pinst_types::{Hash, NodeId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::exchange::Exchange;
use crate::net::Net;
use pins::Pins;

pub use fetches::{Busy, Progress};
pub use pins::PinError;
pub use room::{Cleaned, Cleaning, NoRoom};
pub use task::Task;

/// How long a blob stays that was handed over or fetched and that nothing names yet: the order may
/// wait for a passphrase.
const HELD: Duration = Duration::from_secs(600);
/// Commands that may wait for the task.
const QUEUE: usize = 64;

/// The blobs that orders need, and the names of those orders.
pub type Needs = BTreeMap<Hash, BTreeSet<String>>;

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    exchange: Exchange,
    net: Net,
    node: NodeId,
    quota: Quota,
    table: Mutex<Table>,
    /// Held while blobs are chosen and removed, and while one is kept from that. Taken before `table`.
    turn: Mutex<()>,
    wake: Notify,
    asks: mpsc::Sender<fetches::Ask>,
}

#[derive(Debug)]
struct Table {
    pins: Pins,
    /// Files of images that were removed from the cluster: pins on them count no more.
    removed: BTreeSet<Hash>,
    /// `None` until the agent has looked at the orders.
    needs: Option<Needs>,
    /// What this node gives to machines that boot over the network.
    boot: BTreeSet<Hash>,
    claims: BTreeMap<u64, Coming>,
    next_claim: u64,
    held: BTreeMap<Hash, Instant>,
    fetches: BTreeMap<Hash, Arc<fetches::Running>>,
    mends: mends::Mends,
}

/// A blob that comes in.
#[derive(Debug, Clone, Copy)]
struct Coming {
    /// `None`: it is not known before all of it has come.
    root: Option<Hash>,
    bytes: u64,
    /// Whether nobody waits for it.
    mends: bool,
}

/// What is shown in the place of an order's name where a blob is given to machines that boot over the network.
pub const BOOT: &str = "network boot";

/// Why a blob is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasons {
    /// Somebody has pinned it.
    pub pinned: bool,
    /// The names of orders that need it; [`BOOT`] among them when machines get it that boot over the network.
    pub orders: Vec<String>,
    /// It comes in.
    pub fetching: bool,
    /// It goes out.
    pub serving: bool,
    /// It was handed over or fetched a short while ago.
    pub fresh: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room for a blob that comes in, and its protection while it does; given back when dropped.
#[derive(Debug)]
pub struct Claim {
    storage: Storage,
    id: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.storage.table().claims.remove(&self.id);
        self.storage.inner.wake.notify_one(); // what came may have crossed the high water
    }
}

impl Storage {
    /// The storage of a node, and the task behind it. Reads the pins from a file; blocking.
    ///
    /// # Errors
    /// When the file of the pins cannot be read.
    pub fn new(
        exchange: Exchange,
        net: Net,
        node: NodeId,
        quota: Quota,
        pins: PathBuf,
    ) -> Result<(Self, Task), PinError> {
        let (asks, receiver) = mpsc::channel(QUEUE);
        let table = Table {
            pins: Pins::open(pins)?,
            removed: BTreeSet::new(),
            needs: None,
            boot: BTreeSet::new(),
            claims: BTreeMap::new(),
            next_claim: 0,
            held: BTreeMap::new(),
            fetches: BTreeMap::new(),
            mends: mends::Mends::default(),
        };
        let inner = Inner {
            exchange,
            net,
            node,
            quota,
            table: Mutex::new(table),
            turn: Mutex::new(()),
            wake: Notify::new(),
            asks,
        };
        let storage = Self { inner: Arc::new(inner) };
        let task = Task::new(storage.clone(), receiver);
        Ok((storage, task))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.inner.table)
    }

    fn claim(&self, coming: Coming) -> Claim {
        let mut table = self.table();
        let id = table.next_claim;
        table.next_claim = id.wrapping_add(1);
        table.claims.insert(id, coming);
        drop(table);
        Claim { storage: self.clone(), id }
    }

    fn blobs(&self) -> &BlobStore {
        self.inner.exchange.blobs()
    }

    /// The quota as it is configured.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.inner.quota
    }

    /// The agent has looked at the orders.
    pub(crate) fn set_needs(&self, needs: Needs) {
        let mut table = self.table();
        let changed = table.needs.as_ref() != Some(&needs);
        table.needs = Some(needs);
        drop(table);
        if changed {
            self.inner.wake.notify_one();
        }
    }

    /// The files of images that were removed from the cluster.
    pub(crate) fn set_removed(&self, removed: BTreeSet<Hash>) {
        let mut table = self.table();
        let changed = table.removed != removed;
        table.removed = removed;
        drop(table);
        if changed {
            self.inner.wake.notify_one();
        }
    }

    /// What this node gives to machines that boot over the network, from now on.
    pub(crate) fn set_boot_files(&self, roots: BTreeSet<Hash>) {
        let mut table = self.table();
        let fewer = !table.boot.is_subset(&roots);
        table.boot = roots;
        drop(table);
        if fewer {
            self.inner.wake.notify_one();
        }
    }

    /// Why each of these blobs is kept.
    #[must_use]
    pub fn reasons(&self, roots: &[Hash]) -> Vec<Reasons> {
        let serving = self.inner.exchange.serving();
        let table = self.table();
        roots.iter().map(|root| table.reasons(root, &serving)).collect()
    }

    /// Keeps a blob for a while; whether it is here. Blocking.
    #[must_use]
    pub fn hold(&self, root: Hash) -> bool {
        let _turn = lock(&self.inner.turn);
        let mut table = self.table();
        let now = Instant::now();
        table.held.retain(|_, until| *until > now);
        table.held.insert(root, now + HELD);
        self.blobs().status(&root).is_some()
    }

    /// Pins a blob, durably, or unpins it; whether that changed anything. Blocking.
    ///
    /// # Errors
    /// When the blob that is to be pinned is not here, or the pins cannot be written.
    pub fn pin(&self, root: Hash, pin: bool) -> Result<bool, PinError> {
        let _turn = lock(&self.inner.turn);
        if pin && self.blobs().status(&root).is_none() {
            return Err(PinError::Unknown { root });
        }
        let changed = self.table().pins.set(root, pin)?;
        if !pin {
            self.inner.wake.notify_one();
        }
        Ok(changed)
    }

    /// The file of a complete blob.
    #[must_use]
    pub(crate) fn blob_path(&self, root: &Hash) -> Option<PathBuf> {
        self.blobs().path(root)
    }

    /// Announces a blob in the DHT.
    pub async fn announce(&self, root: Hash) {
        if let Err(error) = self.inner.net.provide(root).await {
            tracing::debug!(%error, "cannot announce a blob");
        }
    }

    /// Bytes free on the disk of the blobs.
    ///
    /// # Errors
    /// When the disk does not say.
    pub fn free(&self) -> Result<u64, FileError> {
        self.blobs().free()
    }
}

impl Table {
    /// Whether something comes in that somebody waits for.
    fn others_come(&self) -> bool {
        self.claims.values().any(|c| !c.mends)
    }

    /// Whether somebody has pinned it, and it is of no image that was removed since.
    fn is_pinned(&self, root: &Hash) -> bool {
        self.pins.contains(root) && !self.removed.contains(root)
    }

    /// Whether there is any reason; nobody knows before the agent has looked.
    fn is_needed(&self, root: &Hash, serving: &BTreeSet<Hash>) -> bool {
        self.needs.as_ref().is_none_or(|n| n.contains_key(root))
            || self.is_pinned(root)
            || self.boot.contains(root)
            || serving.contains(root)
            || self.claims.values().any(|c| c.root == Some(*root))
            || self.held.get(root).is_some_and(|until| *until > Instant::now())
    }

    fn reasons(&self, root: &Hash, serving: &BTreeSet<Hash>) -> Reasons {
        let orders = self.needs.as_ref().and_then(|n| n.get(root));
        let boot = self.boot.contains(root).then(|| BOOT.to_owned());
        Reasons {
            pinned: self.is_pinned(root),
            orders: orders.into_iter().flatten().cloned().chain(boot).collect(),
            fetching: self.claims.values().any(|c| c.root == Some(*root)),
            serving: serving.contains(root),
            fresh: self.held.get(root).is_some_and(|until| *until > Instant::now()),
        }
    }
}

/// `20.1 MiB`, for people.
pub(crate) fn human(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (bytes >> (shift - 10)) % 1024 * 10 / 1024;
            format!("{}.{tenths} {unit}", bytes >> shift)
        }
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests;
