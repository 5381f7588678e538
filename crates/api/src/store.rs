//! What a node shows of its blobs.

use p2pinst_types::record::Release;
use p2pinst_types::{Hash, Millis, Name, NodeId, ReleaseId};
use serde::{Deserialize, Serialize};

/// Some of the blobs of a node, and what all of them take.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreView {
    /// The blobs, by root: as many as fit into one answer.
    pub blobs: Vec<StoredView>,
    /// More follow after this one; `None`: there are no more.
    pub next: Option<Hash>,
    /// How many blobs there are in all.
    pub count: usize,
    /// Bytes that all of them take, with their recipes; a part takes the room of the whole.
    pub bytes: u64,
    /// Bytes free on their disk.
    pub free: u64,
    /// Above this, in bytes, blobs that nobody needs are removed.
    pub high: u64,
    /// Down to this.
    pub low: u64,
    /// The quota as it is configured.
    pub quota: String,
}

/// How whole a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredState {
    /// All of it is here.
    Complete,
    /// Some of it.
    Part,
    /// The disk has damaged pieces of it, which have not been fetched again yet.
    Damaged,
}

/// One blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredView {
    /// Its root.
    pub root: Hash,
    /// Its length in bytes.
    pub size: u64,
    /// How whole it is.
    pub state: StoredState,
    /// Bytes of it that are here.
    pub have: u64,
    /// Whether somebody has pinned it.
    pub pinned: bool,
    /// The names of live orders that need it.
    pub orders: Vec<String>,
    /// Whether it comes in now.
    pub fetching: bool,
    /// Whether it goes out now.
    pub serving: bool,
    /// Whether it was handed over or fetched a short while ago, and is kept for that.
    pub fresh: bool,
    /// When it was used last, by the machine's clock.
    pub used: Millis,
    /// The packages that it is.
    pub releases: Vec<String>,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CleanView {
    /// The blobs, in the order in which they go: the first of them.
    pub removed: Vec<RemovedView>,
    /// How many in all.
    pub count: usize,
    /// Bytes of all blobs before.
    pub before: u64,
    /// Bytes of all blobs afterwards.
    pub after: u64,
    /// Above this, in bytes, blobs that nobody needs are removed.
    pub high: u64,
    /// Down to this.
    pub low: u64,
}

/// One blob that was removed, or would be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemovedView {
    /// Its root.
    pub root: Hash,
    /// Its length in bytes.
    pub size: u64,
    /// Whether all of it was here.
    pub complete: bool,
    /// When it was used last, by the machine's clock.
    pub used: Millis,
}

/// What a look at some pieces of a blob has found.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CheckView {
    /// The blob.
    pub root: Hash,
    /// Bytes that were read.
    pub bytes: u64,
    /// Pieces that were damaged, and have been given up.
    pub damaged: u64,
    /// The piece to go on with; `None`: that was the rest.
    pub next: Option<u32>,
    /// Whether somebody needs it, so that damaged pieces are fetched again.
    pub needed: bool,
}

/// A blob that was pinned or unpinned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinView {
    /// Its root.
    pub root: Hash,
    /// Whether it is pinned now.
    pub pinned: bool,
    /// Whether it was not so before.
    pub changed: bool,
}

/// How far a fetch is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchView {
    /// The blob's root.
    pub root: Hash,
    /// Its length in bytes; `None`: not known yet.
    pub size: Option<u64>,
    /// Bytes that are here.
    pub have: u64,
    /// Whether all of it is here.
    pub complete: bool,
    /// Why it was given up.
    pub failed: Option<String>,
    /// Nodes that gave pieces; known at the end.
    pub sources: usize,
    /// Bytes that came; known at the end.
    pub received: u64,
    /// Bytes that older versions gave that are on this machine; known at the end.
    pub local: u64,
    /// Bytes that need not come because they are zeros; known at the end.
    pub zero: u64,
}

/// A release that was published before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseView {
    /// Its id.
    pub id: ReleaseId,
    /// What it is.
    pub release: Release,
    /// Nodes that are known to hold its blob: this one, or the first holders of earlier orders.
    pub holders: Vec<NodeId>,
    /// The groups to which it has been ordered.
    pub groups: Vec<Name>,
}
