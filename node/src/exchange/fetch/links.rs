//! The sources of a fetch: finding them, opening streams to them, giving them up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2pinst_chunks::Bitmap;
use p2pinst_chunks::fetch::{Input, Place};
use p2pinst_types::NodeId;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::super::link::{Event, Link, Origin, Task, queue};
use super::super::sources::{Candidates, SOURCES, Source, choose};
use super::Running;

/// First and longest pause before a source that failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long one that has takers enough is left alone.
const FULL: Duration = Duration::from_secs(5);
/// A fetch that gets nothing new for so long gives up its place to others,
const STARVED: Duration = Duration::from_secs(20);
/// and after so long also when sources say that they are busy, or owe what was asked of them: with low
/// limits a piece may wait long.
const PATIENCE: Duration = Duration::from_secs(180);
/// Who may have the blob is looked at that often at least.
const CHOOSE: Duration = Duration::from_secs(1);
/// Sources of a blob of a single piece: one gives it, another is there if that one does not.
const SOURCES_OF_SMALL: usize = 2;
/// A source of which nothing comes for so long makes room for others, if any wait.
const SILENT: Duration = Duration::from_secs(5);
/// A node that is not to ask other sites does so all the same when so long nobody at its own site has
/// opened the blob, or had it and no room.
const ALONE: Duration = Duration::from_secs(3);

/// What has come from a source in use.
pub(super) struct Feed {
    bytes: Arc<AtomicU64>,
    /// How many there were when last looked, and since when there are no more.
    pub(super) fed: (u64, Instant),
}

/// When a source may be tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    at: Instant,
    pause: Duration,
}

impl Running<'_> {
    /// Whether nothing new has come for a while, and no source that lives is to give any.
    pub(super) fn is_starved(&mut self) -> bool {
        let now = Instant::now();
        self.feeds.retain(|peer, _| self.links.contains_key(peer));
        for feed in self.feeds.values_mut() {
            let bytes = feed.bytes.load(Ordering::Relaxed);
            if bytes != feed.fed.0 {
                feed.fed = (bytes, now);
            }
        }
        let useful = self.useful.0.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.useful.1, useful) != useful {
            self.fed = now;
        }
        let quiet = self.fed.elapsed();
        quiet >= PATIENCE || quiet >= STARVED && !self.is_waiting()
    }

    /// Whether there is somebody to wait for: one who said that it is busy, or has the blob and was asked.
    fn is_waiting(&self) -> bool {
        let owes = |peer: &NodeId| self.links.get(peer).is_some_and(Link::owes);
        self.busy.is_some_and(|at| at.elapsed() < STARVED) || self.have.keys().any(owes)
    }

    /// The counter of a source that is taken into use.
    fn count(&mut self, peer: NodeId) -> Arc<AtomicU64> {
        let bytes = self.exchange.meter.tap(&self.blob.root, peer);
        let fed = (bytes.load(Ordering::Relaxed), Instant::now());
        self.feeds.insert(peer, Feed { bytes: Arc::clone(&bytes), fed });
        bytes
    }

    /// Others wait to be used: gives up the source that has been silent longest, and too long.
    fn make_room(&mut self) {
        let open = self.feeds.iter().filter(|(peer, _)| self.links.contains_key(*peer));
        let longest = open.min_by_key(|(_, feed)| feed.fed.1);
        let silent = longest.filter(|(_, f)| f.fed.1.elapsed() >= SILENT).map(|(p, _)| *p);
        if let Some(peer) = silent {
            self.give_up(peer, "it is silent, and others wait");
            self.step(Input::Left { peer });
        }
    }

    /// Whether to look at who may have the blob: that costs a look at the whole group.
    pub(super) fn is_choice_due(&mut self) -> bool {
        let now = Instant::now();
        let Some(last) = self.chosen.0 else { return true };
        if now.saturating_duration_since(last) >= CHOOSE || self.links.is_empty() {
            return true;
        }
        let changed = self.chosen.1 || self.peers.has_changed().unwrap_or(false);
        let due = |r: &Retry| last < r.at && r.at <= now;
        self.links.len() < self.most() && (changed || self.retries.values().any(due))
    }

    /// There may be somebody new to use.
    pub(in crate::exchange) fn news(&mut self) {
        self.chosen.1 = true;
    }

    /// Sources in use at once.
    fn most(&self) -> usize {
        if self.blob.pieces() == 1 { SOURCES_OF_SMALL } else { SOURCES }
    }

    /// Opens streams to sources that have none, and tells the scheduler who takes part at the site.
    pub(super) fn connect(&mut self) {
        self.chosen = (Some(Instant::now()), false);
        self.peers.mark_unchanged();
        let all = (self.sources)();
        self.tell_members(&all);
        let outside = self.may_ask_outside(&all);
        let known: BTreeSet<NodeId> = all.peers.iter().map(|s| s.node).collect();
        let found = self.found.iter().filter(|n| !known.contains(*n));
        let found = found.map(|n| Source { node: *n, place: self.exchange.places.of(n) });
        let now = Instant::now();
        let candidates = all.peers.iter().copied().chain(found).filter(|s| {
            let due = self.retries.get(&s.node).is_none_or(|r| r.at <= now);
            due && !self.links.contains_key(&s.node) && !self.banned.contains(&s.node)
        });
        let candidates: Vec<Source> = candidates.collect();
        let most = self.most();
        if !candidates.is_empty() && self.links.len() >= most {
            self.make_room();
        }
        let open: Vec<Place> = self.links.keys().map(|p| self.place(p)).collect();
        let mut chosen = choose(&open, &candidates, outside);
        chosen.truncate(most.saturating_sub(open.len()));
        let spare = candidates.iter().filter(|s| outside || s.place.is_near()).count();
        self.step(Input::Spare { peers: spare.saturating_sub(chosen.len()) });
        for source in candidates.into_iter().filter(|s| chosen.contains(&s.node)) {
            self.open(source);
        }
    }

    pub(super) fn open(&mut self, source: Source) {
        let peer = source.node;
        self.opened += 1;
        let (link, requests) = queue(self.opened);
        let addrs = self.exchange.net.peers().get(&peer).addrs;
        let task = Task {
            exchange: self.exchange.clone(),
            root: self.blob.root,
            bulk: self.blob.pieces() > 1,
            from: Origin { peer, link: self.opened },
            addrs,
            requests,
            events: self.events.clone(),
            bytes: self.count(peer),
            useful: Arc::clone(&self.useful.0),
        };
        self.tasks.spawn(task.run());
        self.links.insert(peer, link);
        self.places.insert(peer, source.place);
    }

    fn place(&self, peer: &NodeId) -> Place {
        self.places.get(peer).copied().unwrap_or(Place::Site)
    }

    pub(super) fn joined(&self, peer: NodeId, have: Bitmap) -> Input<NodeId> {
        let seeding = self.offered.contains_key(&peer);
        Input::Joined { peer, place: self.place(&peer), seeding, have }
    }

    /// Whether sources at other sites are to be opened: this node is one of those that ask there, or
    /// nobody at the own site has the blob.
    fn may_ask_outside(&mut self, all: &Candidates) -> bool {
        if self.have.keys().any(|p| self.place(p).is_near()) {
            self.near = self.near.max(Instant::now());
        }
        all.is_gateway(&self.blob.root) || self.near.elapsed() >= ALONE
    }

    fn tell_members(&mut self, all: &Candidates) {
        let members = all.members(&self.blob.root);
        if members != self.members {
            self.members = members;
            self.step(self.site());
        }
    }

    pub(super) fn site(&self) -> Input<NodeId> {
        let (own, others) = self.members.clone();
        Input::Members { own, others }
    }

    /// Nobody here has what is missing: ask the DHT.
    pub(super) fn look_further(&mut self) {
        self.looked = Instant::now();
        info!(blob = %self.blob.root.short(), "no connected peer has the missing pieces: asking the DHT");
        let (net, events, root) = (self.exchange.net.clone(), self.events.clone(), self.blob.root);
        self.tasks.spawn(async move {
            for peer in net.providers(root).await.unwrap_or_default() {
                drop(events.send((Origin { peer, link: 0 }, Event::Found)).await);
            }
        });
    }

    pub(super) fn give_up(&mut self, peer: NodeId, reason: &str) {
        debug!(%peer, %reason, blob = %self.blob.root.short(), "a source is given up for now");
        self.forget(peer);
        let retry =
            self.retries.entry(peer).or_insert(Retry { at: Instant::now(), pause: PAUSE.0 });
        retry.at = Instant::now() + retry.pause;
        retry.pause = (retry.pause * 2).min(PAUSE.1);
    }

    /// A source has takers enough: that may take a while.
    pub(super) fn put_off(&mut self, peer: NodeId) {
        self.give_up(peer, "it has takers enough");
        if let Some(retry) = self.retries.get_mut(&peer) {
            retry.at = retry.at.max(Instant::now() + FULL);
            // it has the blob: it is asked again before other sites are
            if self.places.get(&peer).is_some_and(|p| p.is_near()) {
                self.near = self.near.max(retry.at);
            }
        }
    }

    /// One that was named has nothing: others have its place.
    pub(super) fn lose(&mut self, peer: &NodeId) {
        self.found.retain(|found| found != peer);
        self.hearsay.remove(peer);
    }

    fn forget(&mut self, peer: NodeId) {
        self.links.remove(&peer);
        self.have.remove(&peer);
        self.offered.remove(&peer);
        self.chosen.1 = true;
    }

    pub(super) fn ban(&mut self, peer: NodeId, reason: &str) {
        warn!(%peer, %reason, blob = %self.blob.root.short(), "a source is banned from this blob");
        self.exchange.meter.banned(&self.blob.root, peer);
        self.forget(peer);
        self.lose(&peer);
        self.banned.insert(peer);
    }
}
