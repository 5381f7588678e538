//! The counters of one blob and its peers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use p2pinst_types::record::{ByDistance, Distance};
use p2pinst_types::{BlobRef, NodeId};

use super::load::Smooth;

/// Peers of one blob that are told apart.
pub(super) const PEERS: usize = 256;
/// A blob of which nothing has moved for so long is not at work.
pub(super) const QUIET: Duration = Duration::from_secs(3);

/// One peer in the exchange of one blob.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) distance: Distance,
    /// Bytes as they come, also those of pieces that are not whole yet.
    pub(super) tap: Arc<AtomicU64>,
    pub(super) tapped: u64,
    pub(super) counts: Counts,
    pub(super) rate_in: Smooth,
    pub(super) rate_out: Smooth,
    pub(super) last_in: Option<Instant>,
    pub(super) last_out: Option<Instant>,
}

/// What was exchanged with one peer of one blob, in this life of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of pieces that came.
    pub received: u64,
    /// Of these, new ones.
    pub verified: u64,
    /// Of these, those that were here already.
    pub duplicate: u64,
    /// Of these, wrong ones.
    pub bad: u64,
    /// Bytes of pieces that were sent.
    pub sent: u64,
    /// Pieces that were sent.
    pub sent_pieces: u64,
    /// Requests that it refused: busy, missing.
    pub refused: [u32; 2],
    /// Whether it is banned from this blob.
    pub banned: bool,
}

/// What is to be seen of one peer of one blob.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// How far away it is.
    pub distance: Distance,
    /// What was exchanged with it.
    pub counts: Counts,
    /// Bytes per second that come from it now.
    pub rate_in: u64,
    /// Bytes per second that go to it now.
    pub rate_out: u64,
}

/// What is to be seen of one blob; times as they have passed since.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// Which blob, when it was fetched.
    pub blob: Option<BlobRef>,
    /// Whether it is being fetched.
    pub fetching: bool,
    /// Since the beginning of the fetch, or of its serving.
    pub begun: Duration,
    /// Since the end of the last fetch.
    pub ended: Option<Duration>,
    /// Bytes of pieces that came.
    pub received: ByDistance,
    /// All peers together.
    pub counts: Counts,
    /// How many are banned.
    pub banned: u32,
    /// Bytes of pieces that were sent.
    pub sent: ByDistance,
    /// Bytes per second that come now.
    pub rate_in: u64,
    /// Bytes per second that go out now.
    pub rate_out: u64,
    /// Peers from which something came lately.
    pub sources: u32,
    /// Peers to which something went lately.
    pub takers: u32,
}

#[derive(Debug)]
pub(super) struct Blob {
    pub(super) blob: Option<BlobRef>,
    pub(super) begun: Instant,
    pub(super) ended: Option<Instant>,
    pub(super) fetching: bool,
    pub(super) touched: Instant,
    pub(super) before: u64,
    pub(super) received: ByDistance,
    pub(super) sent: ByDistance,
    pub(super) counts: Counts,
    pub(super) banned: u32,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// Bytes that have come, as they come.
    pub(super) arrived: u64,
    /// Those of peers that are not told apart.
    pub(super) others: Arc<AtomicU64>,
    pub(super) others_tapped: u64,
    pub(super) rate_in: Smooth,
    pub(super) rate_out: Smooth,
    pub(super) last_out: Option<Instant>,
    /// How much had been sent when that was reported last.
    pub(super) reported: u64,
}

impl Blob {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            blob: None,
            begun: now,
            ended: None,
            fetching: false,
            touched: now,
            before: 0,
            received: ByDistance::default(),
            sent: ByDistance::default(),
            counts: Counts::default(),
            banned: 0,
            peers: BTreeMap::new(),
            arrived: 0,
            others: Arc::default(),
            others_tapped: 0,
            rate_in: Smooth::default(),
            rate_out: Smooth::default(),
            last_out: None,
            reported: 0,
        }
    }

    pub(super) fn is_at_work(&self, now: Instant) -> bool {
        self.fetching || now.saturating_duration_since(self.touched) < QUIET
    }

    /// Whether something was sent that nobody was told of, and nothing more for a while.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        let quiet = |at: Instant| now.saturating_duration_since(at) >= QUIET;
        self.sent.total() > self.reported && self.last_out.is_some_and(quiet)
    }

    pub(super) fn peer(&mut self, peer: NodeId, distance: Distance) -> Option<&mut Peer> {
        if self.peers.len() >= PEERS && !self.peers.contains_key(&peer) {
            return None;
        }
        Some(self.peers.entry(peer).or_insert_with(|| Peer {
            distance,
            tap: Arc::default(),
            tapped: 0,
            counts: Counts::default(),
            rate_in: Smooth::default(),
            rate_out: Smooth::default(),
            last_in: None,
            last_out: None,
        }))
    }

    /// Counts for the blob and for one of its peers.
    pub(super) fn count(&mut self, peer: NodeId, distance: Distance, count: impl Fn(&mut Counts)) {
        count(&mut self.counts);
        if let Some(peer) = self.peer(peer, distance) {
            count(&mut peer.counts);
        }
    }

    /// Takes in what has come on the taps: in all, and from other sites.
    pub(super) fn drain(&mut self) -> (u64, u64) {
        let take = |tap: &AtomicU64, tapped: &mut u64| {
            let count = tap.load(Ordering::Relaxed);
            count.saturating_sub(std::mem::replace(tapped, count))
        };
        let mut new = take(&self.others, &mut self.others_tapped);
        let mut wan = 0;
        for peer in self.peers.values_mut() {
            let more = take(&peer.tap, &mut peer.tapped);
            new += more;
            wan += if peer.distance == Distance::Wan { more } else { 0 };
        }
        self.arrived += new;
        (new, wan)
    }

    pub(super) fn sample(&mut self, passed: Duration) {
        self.rate_in.see(passed, self.arrived);
        self.rate_out.see(passed, self.sent.total());
        for peer in self.peers.values_mut() {
            peer.rate_in.see(passed, peer.tapped);
            peer.rate_out.see(passed, peer.counts.sent);
        }
    }

    pub(super) fn picture(&self, now: Instant) -> Picture {
        let at_work = self.is_at_work(now);
        let since = |at: Instant| now.saturating_duration_since(at);
        let lately = |at: Option<Instant>| at.is_some_and(|at| since(at) < QUIET);
        let count = |of: fn(&Peer) -> Option<Instant>| {
            u32::try_from(self.peers.values().filter(|p| lately(of(p))).count()).unwrap_or(u32::MAX)
        };
        Picture {
            blob: self.blob,
            fetching: self.fetching,
            begun: since(self.begun),
            ended: self.ended.map(since),
            received: self.received,
            counts: self.counts,
            banned: self.banned,
            sent: self.sent,
            // nobody looks any more once all is quiet
            rate_in: if at_work { self.rate_in.get() } else { 0 },
            rate_out: if at_work { self.rate_out.get() } else { 0 },
            sources: count(|p| p.last_in),
            takers: count(|p| p.last_out),
        }
    }
}
