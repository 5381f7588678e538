//! The exchange: pieces of blobs between members, over raw streams. The policies are in
//! `p2pinst-chunks`; here are the sockets and the tasks.

mod fetch;
mod line;
mod link;
mod serve;
mod sources;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pinst_chunks::serve::{Offer, ServeLimits};
use p2pinst_chunks::{BlobStore, Serve};
use p2pinst_types::{Hash, PieceIndex};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use fetch::{FetchError, Fetched, Sources};
pub use sources::{Candidates, Places, Source};

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
    places: Places,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Blobs that are here in part: woken whenever there is more of one.
    progress: Mutex<BTreeMap<Hash, watch::Sender<u64>>>,
    uploads: Mutex<Uploads>,
    begun: Instant,
    indirect: line::Indirect,
    next_stream: AtomicU64,
}

#[derive(Debug)]
struct Uploads {
    serve: Serve<StreamId>,
    streams: BTreeMap<StreamId, mpsc::Sender<Turn>>,
}

impl Uploads {
    /// A stream that does not take what it is to send is given up.
    fn tell(&mut self, stream: StreamId, turn: Turn) {
        if !self.streams.get(&stream).is_some_and(|s| s.try_send(turn).is_ok()) {
            self.serve.left(stream);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exchange {
    /// The exchange of a node.
    #[must_use]
    pub fn new(net: Net, blobs: BlobStore) -> Self {
        let serve = Serve::new(ServeLimits::default());
        let uploads = Uploads { serve, streams: BTreeMap::new() };
        let shared = Shared {
            progress: Mutex::default(),
            uploads: Mutex::new(uploads),
            begun: Instant::now(),
            indirect: line::Indirect::default(),
            next_stream: AtomicU64::new(0),
        };
        Self { net, blobs, places: Places::default(), shared: Arc::new(shared) }
    }

    /// The same, which knows where other nodes are.
    #[must_use]
    pub fn with_places(self, places: Places) -> Self {
        Self { places, ..self }
    }

    /// The blobs on this node's disk.
    #[must_use]
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
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

    fn stream_id(&self) -> StreamId {
        self.shared.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Woken when there is more of a blob that is here in part; `None` of any other.
    fn progress(&self, root: &Hash) -> Option<watch::Receiver<u64>> {
        if self.blobs.status(root).is_some_and(|s| !s.complete) {
            self.begin_progress(*root); // it was begun in an earlier life of the node
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

    /// The fetch has ended: streams that watch it are told, for the last time when all is here. A
    /// blob that is here in part is watched on: it will be taken up again.
    fn end_progress(&self, root: &Hash) {
        self.more(root);
        if self.blobs.status(root).is_none_or(|s| s.complete) {
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
