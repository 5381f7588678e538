//! What the exchange moves, counted: by blob, by peer, by distance; and how fast, as far as this
//! node can know or see.
//!
//! The hot paths call it once for each piece ([`Meter::stored`], [`Meter::sent`]: one uncontended
//! lock) and count bytes as they come on an atomic of their own ([`Meter::tap`]). Rates are made of
//! that by one task ([`super::Exchange::sample`]), four times a second while something moves. In
//! memory only: a restart forgets.
//!
//! Bounds: 64 blobs, the newest kept; of each 256 peers, whose sums count all.

mod blob;
mod load;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2pinst_chunks::wire::Refusal;
use p2pinst_types::record::{Distance, Speeds, Transfer};
use p2pinst_types::{BlobRef, Hash, NodeId};
use tokio::sync::Notify;

use self::blob::{Blob, Peer, QUIET};
pub use self::blob::{Counts, Picture, Seen};
use self::load::Load;
use super::nic::Carried;
use super::places::Places;

/// Blobs that are counted.
const BLOBS: usize = 64;

/// A handle; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    table: Mutex<Table>,
    places: Places,
    work: Notify,
    quiet: Notify,
}

#[derive(Debug, Default)]
struct Table {
    blobs: BTreeMap<Hash, Blob>,
    load: Load,
}

impl Table {
    fn blob(&mut self, root: &Hash, now: Instant) -> &mut Blob {
        if self.blobs.len() >= BLOBS && !self.blobs.contains_key(root) {
            let idle = self.blobs.iter().filter(|(_, b)| !b.fetching);
            let oldest = idle.min_by_key(|(_, b)| b.touched).map(|(root, _)| *root);
            if let Some(oldest) = oldest {
                self.blobs.remove(&oldest);
            }
        }
        let blob = self.blobs.entry(*root).or_insert_with(|| Blob::new(now));
        blob.touched = now;
        blob
    }
}

impl Meter {
    /// Nothing has moved yet.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self(Arc::new(Inner { places, ..Inner::default() }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn distance(&self, peer: &NodeId) -> Distance {
        self.0.places.distance(peer)
    }

    /// What is configured, or told by the interface, in bytes of payload per second.
    pub fn knows(&self, up: Option<u64>, down: Option<u64>) {
        self.table().load.known = (up, down);
    }

    /// A fetch begins, of a blob of which so many bytes are here.
    pub fn begin(&self, blob: BlobRef, before: u64) {
        let now = Instant::now();
        let mut table = self.table();
        let entry = table.blob(&blob.root, now);
        if entry.blob.is_none() && entry.counts == Counts::default() {
            entry.begun = now;
            entry.before = before;
        }
        entry.blob = Some(blob);
        entry.fetching = true;
        drop(table);
        self.0.work.notify_one();
    }

    /// A fetch has ended, well or not.
    pub fn end(&self, root: &Hash) {
        let now = Instant::now();
        let mut table = self.table();
        let entry = table.blob(root, now);
        entry.fetching = false;
        entry.ended = Some(now);
    }

    /// Where bytes that come from a peer are counted, whole pieces or not.
    #[must_use]
    pub fn tap(&self, root: &Hash, peer: NodeId) -> Arc<AtomicU64> {
        let distance = self.distance(&peer);
        let mut table = self.table();
        let entry = table.blob(root, Instant::now());
        let others = Arc::clone(&entry.others);
        entry.peer(peer, distance).map_or(others, |peer| Arc::clone(&peer.tap))
    }

    /// A piece of so many bytes came; `new`: it was not here yet.
    pub fn stored(&self, root: &Hash, peer: NodeId, bytes: u64, new: bool) {
        self.came(
            root,
            peer,
            bytes,
            |c| {
                if new { c.verified += bytes } else { c.duplicate += bytes }
            },
        );
    }

    /// A piece came, and is wrong.
    pub fn bad(&self, root: &Hash, peer: NodeId, bytes: u64) {
        self.came(root, peer, bytes, |c| c.bad += bytes);
    }

    fn came(&self, root: &Hash, peer: NodeId, bytes: u64, what: impl Fn(&mut Counts)) {
        let (now, distance) = (Instant::now(), self.distance(&peer));
        let mut table = self.table();
        let entry = table.blob(root, now);
        entry.received.add(distance, bytes);
        entry.count(peer, distance, |c| {
            c.received += bytes;
            what(c);
        });
        if let Some(peer) = entry.peers.get_mut(&peer) {
            peer.last_in = Some(now);
        }
    }

    /// A piece of so many bytes was sent.
    pub fn sent(&self, root: &Hash, peer: NodeId, bytes: u64) {
        let (now, distance) = (Instant::now(), self.distance(&peer));
        let mut table = self.table();
        table.load.sent += bytes;
        let entry = table.blob(root, now);
        entry.sent.add(distance, bytes);
        entry.last_out = Some(now);
        entry.count(peer, distance, |c| {
            c.sent += bytes;
            c.sent_pieces += 1;
        });
        if let Some(peer) = entry.peers.get_mut(&peer) {
            peer.last_out = Some(now);
        }
        drop(table);
        self.0.work.notify_one();
    }

    /// A peer will not send a piece.
    pub fn refused(&self, root: &Hash, peer: NodeId, reason: Refusal) {
        let at = match reason {
            Refusal::Busy => 0,
            Refusal::Missing => 1,
        };
        let distance = self.distance(&peer);
        self.table().blob(root, Instant::now()).count(peer, distance, |c| {
            c.refused.iter_mut().skip(at).take(1).for_each(|n| *n = n.saturating_add(1));
        });
    }

    /// A peer is banned from a blob.
    pub fn banned(&self, root: &Hash, peer: NodeId) {
        let distance = self.distance(&peer);
        let mut table = self.table();
        let entry = table.blob(root, Instant::now());
        entry.banned = entry.banned.saturating_add(1);
        if let Some(peer) = entry.peer(peer, distance) {
            peer.counts.banned = true;
        }
    }

    /// So many bytes were made durable, which took so long.
    pub fn synced(&self, bytes: u64, took: Duration) {
        let mut table = self.table();
        table.load.disk.0 += bytes;
        table.load.disk.1 += took;
    }

    /// Waits until something moves.
    pub(super) async fn work(&self) {
        self.0.work.notified().await;
    }

    /// Waits until there is something for [`Meter::settled`] to tell.
    pub async fn quiet(&self) {
        self.0.quiet.notified().await;
    }

    /// Some peer that something is exchanged with.
    pub(super) fn any_peer(&self) -> Option<NodeId> {
        let table = self.table();
        let newest = table.blobs.values().filter(|b| !b.peers.is_empty());
        newest.max_by_key(|b| b.touched)?.peers.keys().next().copied()
    }

    /// Looks at all counters. Says whether anything is at work.
    pub(super) fn sample(&self, now: Instant, carried: Option<Carried>) -> bool {
        let mut table = self.table();
        let Table { blobs, load } = &mut *table;
        let at_work = blobs.values().any(|b| b.is_at_work(now));
        let passed = load.look(now);
        for blob in blobs.values_mut() {
            let (new, wan) = blob.drain();
            load.arrived += new;
            load.wan += wan;
            // what happened while nobody looked has no rate
            if passed <= QUIET {
                blob.sample(passed);
            }
        }
        load.looked(now, carried);
        let quiet = blobs.values().any(|b| b.is_settled(now));
        drop(table);
        if quiet {
            self.0.quiet.notify_one();
        }
        at_work
    }

    /// What this node can move.
    #[must_use]
    pub fn speeds(&self) -> Speeds {
        self.table().load.speeds()
    }

    /// The blobs at work, the newest first, at most so many.
    #[must_use]
    pub fn at_work(&self, most: usize) -> Vec<Hash> {
        let now = Instant::now();
        let table = self.table();
        let mut busy: Vec<_> = table.blobs.iter().filter(|(_, b)| b.is_at_work(now)).collect();
        busy.sort_by_key(|(_, b)| std::cmp::Reverse(b.begun));
        busy.into_iter().map(|(root, _)| *root).take(most).collect()
    }

    /// What is to be seen of a blob; `None`: nothing was exchanged of it.
    #[must_use]
    pub fn picture(&self, root: &Hash) -> Option<Picture> {
        self.table().blobs.get(root).map(|b| b.picture(Instant::now()))
    }

    /// The peers in the exchange of a blob.
    #[must_use]
    pub fn peers(&self, root: &Hash) -> Vec<(NodeId, Seen)> {
        let table = self.table();
        let Some(blob) = table.blobs.get(root) else { return Vec::new() };
        let at_work = blob.is_at_work(Instant::now());
        let seen = |p: &Peer| Seen {
            distance: p.distance,
            counts: p.counts,
            rate_in: if at_work { p.rate_in.get() } else { 0 },
            rate_out: if at_work { p.rate_out.get() } else { 0 },
        };
        blob.peers.iter().map(|(node, peer)| (*node, seen(peer))).collect()
    }

    /// The report on a blob: what came and what was sent; the caller knows the rest.
    #[must_use]
    pub fn transfer(&self, blob: BlobRef, holders: &[NodeId]) -> Transfer {
        let table = self.table();
        let speeds = table.load.speeds();
        let Some(entry) = table.blobs.get(&blob.root) else {
            return Transfer { len: blob.len(), speeds, ..Transfer::default() };
        };
        let first: Vec<&Peer> = holders.iter().filter_map(|h| entry.peers.get(h)).collect();
        let last = first.iter().filter_map(|p| p.last_in).max();
        let sources = entry.peers.values().filter(|p| p.counts.verified > 0).count();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Transfer {
            len: blob.len(),
            before: entry.before,
            received: entry.received,
            from_holders: first.iter().map(|p| p.counts.received).sum(),
            holders_ms: last.map_or(0, |at| millis(at.saturating_duration_since(entry.begun))),
            duplicate: entry.counts.duplicate,
            bad: entry.counts.bad,
            sent: entry.sent,
            sources: u32::try_from(sources).unwrap_or(u32::MAX),
            speeds,
            ..Transfer::default()
        }
    }

    /// Blobs of which more was sent than was reported, and nothing for a while now.
    #[must_use]
    pub fn settled(&self) -> Vec<Hash> {
        let now = Instant::now();
        let mut table = self.table();
        let mut settled = Vec::new();
        for (root, blob) in &mut table.blobs {
            if blob.is_settled(now) {
                blob.reported = blob.sent.total();
                settled.push(*root);
            }
        }
        settled
    }
}

#[cfg(test)]
mod tests;
