//! The exchange: pieces of blobs between members, over raw streams. The policies are in
//! `p2pinst-chunks`; here are the sockets and the tasks.

mod buffers;
mod fetch;
mod holders;
mod limits;
mod line;
mod link;
mod locate;
pub mod meter;
mod nic;
mod places;
mod progress;
mod removal;
mod rooms;
mod serve;
mod sources;
mod takers;
#[cfg(test)]
pub(crate) mod tests;
mod urgency;
mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pinst_chunks::BlobStore;
use p2pinst_chunks::serve::Offer;
use p2pinst_types::{Hash, NodeId, PieceIndex};
use tokio::sync::watch;
use tokio::time::Instant;

pub use fetch::{FetchError, Fetched, Sources, Wish};
pub use limits::{InForce, Limits, Ordered, Setting, TooMany};
pub use locate::{LocateError, Located};
pub use meter::Meter;
pub use places::Places;
pub use sources::{Candidates, Source};
pub use urgency::ordered;

use self::takers::Uploads;
use crate::net::Net;

/// One inbound stream.
type StreamId = u64;

/// What a stream is to send now.
#[derive(Debug)]
enum Turn {
    Piece(PieceIndex),
    Offer(Offer),
}

/// A handle on the exchange; cheap to clone.
#[derive(Debug, Clone)]
pub struct Exchange {
    net: Net,
    blobs: BlobStore,
    meter: Meter,
    places: Places,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Blobs that are here in part or are served: woken whenever there is more of one, or it is
    /// removed.
    progress: Mutex<BTreeMap<Hash, watch::Sender<u64>>>,
    uploads: Mutex<Uploads>,
    /// Bulk connections that takers may have.
    bulks: rooms::Rooms,
    buffers: buffers::Buffers,
    begun: Instant,
    indirect: line::Indirect,
    /// Blobs that are being fetched.
    fetching: Mutex<BTreeMap<Hash, Arc<tokio::sync::Mutex<()>>>>,
    holders: holders::Holders,
    limits: Limits,
    next_stream: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exchange {
    /// The exchange of a node without limits, all of whose peers are at its site.
    #[must_use]
    pub fn new(net: Net, blobs: BlobStore) -> Self {
        Self::with(net, blobs, Limits::default(), Places::default())
    }

    /// The exchange of a node.
    #[must_use]
    pub fn with(net: Net, blobs: BlobStore, limits: Limits, places: Places) -> Self {
        let shared = Shared {
            progress: Mutex::default(),
            uploads: Mutex::default(),
            bulks: rooms::Rooms::default(),
            buffers: buffers::Buffers::default(),
            begun: Instant::now(),
            indirect: line::Indirect::default(),
            fetching: Mutex::default(),
            holders: holders::Holders::default(),
            limits,
            next_stream: AtomicU64::new(0),
        };
        let meter = Meter::new(places.clone());
        Self { net, blobs, meter, places, shared: Arc::new(shared) }
    }

    /// The blobs on this node's disk.
    #[must_use]
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// How fast it may go.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Where these nodes are, as candidates for the sources of a blob.
    #[must_use]
    pub fn candidates(&self, own: NodeId, nodes: Vec<NodeId>) -> Candidates {
        let source = |node| Source { node, place: self.places.of(&node) };
        Candidates { own, peers: nodes.into_iter().map(source).collect() }
    }

    /// What it moves.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Who is connected.
    #[must_use]
    pub fn peers(&self) -> &crate::peers::Peers {
        self.net.peers()
    }

    /// This node publishes a blob: each piece leaves once before any leaves twice.
    pub fn seed(&self, root: Hash) {
        if let Some(status) = self.blobs.status(&root) {
            lock(&self.shared.uploads).serve.seed(root, status.blob.pieces());
        }
    }

    /// Held by whoever fetches a blob.
    fn turn_to_fetch(&self, root: Hash) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = lock(&self.shared.fetching);
        fetching.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(fetching.entry(root).or_default())
    }

    /// Whether somebody fetches a blob here.
    fn is_fetching(&self, root: &Hash) -> bool {
        lock(&self.shared.fetching).get(root).is_some_and(|turn| turn.try_lock().is_err())
    }

    fn stream_id(&self) -> StreamId {
        self.shared.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Woken when there is more of a blob, and when it is removed; `None`: nothing of it is here, and
    /// nobody fetches it.
    fn progress(&self, root: &Hash) -> Option<watch::Receiver<u64>> {
        if self.blobs.status(root).is_some() {
            self.begin_progress(*root);
        }
        lock(&self.shared.progress).get(root).map(watch::Sender::subscribe)
    }

    fn begin_progress(&self, root: Hash) {
        lock(&self.shared.progress).entry(root).or_insert_with(|| watch::Sender::new(0));
    }

    fn more(&self, root: &Hash) {
        if let Some(sender) = lock(&self.shared.progress).get(root) {
            sender.send_modify(|n| *n += 1);
        }
    }

    /// The fetch has ended: streams that watch it are told. A blob that is here is watched on: it may
    /// be taken up again, or removed.
    fn end_progress(&self, root: &Hash) {
        self.more(root);
        if self.blobs.status(root).is_none() {
            lock(&self.shared.progress).remove(root);
        }
    }

    /// Makes the offers that are due, and hands the free upload slots to the streams whose turn it is.
    fn dispatch(&self) {
        let mut uploads = lock(&self.shared.uploads);
        let now = self.shared.begun.elapsed();
        while let Some((stream, offer)) = uploads.serve.next_offer(now) {
            uploads.tell(stream, Turn::Offer(offer));
        }
        while let Some(job) = uploads.serve.next_job() {
            uploads.tell(job.peer, Turn::Piece(job.piece));
        }
    }
}
