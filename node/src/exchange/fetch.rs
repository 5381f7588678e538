//! Fetching a blob: the shell around the scheduler of `p2pinst-chunks`.
//!
//! One task per fetch, one per source. First the piece layer, from the first source that has it;
//! then pieces from all. A crash loses at most the pieces of the last second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2pinst_chunks::fetch::{Input, Limits, Output, Place};
use p2pinst_chunks::layer::LayerError;
use p2pinst_chunks::store::{BeginError, PutError, SyncError};
use p2pinst_chunks::wire::ToSource;
use p2pinst_chunks::{Bitmap, Fetch, LayerPages, PieceLayer};
use p2pinst_types::{BlobRef, Hash, NodeId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Exchange;
use super::link::{Event, Link, Task, queue};
use super::sources::{Candidates, SOURCES, Source, choose};

/// Events of all sources that may wait.
const EVENTS: usize = 1024;
/// How often the scheduler is told that time has passed.
const TICK: Duration = Duration::from_millis(100);
/// How often what has come is made durable.
const SYNC: Duration = Duration::from_secs(1);
/// A source of the piece layer of which nothing comes for so long is replaced.
const LAYER_PATIENCE: Duration = Duration::from_millis(1500);
/// First and longest pause before a source that failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long nobody may have anything before the DHT is asked, and between two questions.
const LOOK: Duration = Duration::from_secs(5);
/// A fetch that gets nothing new for so long gives up its place to others.
const STARVED: Duration = Duration::from_secs(20);
/// Sources that the DHT has named.
pub(super) const FOUND: usize = 64;
/// Sources of a blob of a single piece: one gives it, another is there if that one does not.
const SOURCES_OF_SMALL: usize = 2;
/// A source of which nothing comes for so long makes room for others, if any wait.
const SILENT: Duration = Duration::from_secs(5);
/// A node that is not to ask other sites does so all the same when so long nobody at its own site has
/// opened the blob.
const ALONE: Duration = Duration::from_secs(3);

/// Why a blob was not fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// It cannot be begun: the disk is full, say.
    #[error("cannot fetch: {0}")]
    Begin(#[from] BeginError),
    /// A piece cannot be stored.
    #[error("cannot store a piece: {0}")]
    Put(#[from] PutError),
    /// What has come cannot be made durable.
    #[error("cannot store what was fetched: {0}")]
    Sync(#[from] SyncError),
    /// Its layer cannot be.
    #[error("cannot fetch: {0}")]
    Layer(#[from] LayerError),
    /// Nobody who can be reached has what is missing. What has come stays.
    #[error("no node that can be reached has all of it")]
    Starved,
    /// A blocking task was ended: the node is stopping.
    #[error("the node is stopping")]
    Stopping(#[from] tokio::task::JoinError),
}

/// Who may have a blob now, best first.
pub type Sources = Box<dyn Fn() -> Candidates + Send + Sync>;

/// What a fetch did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fetched {
    /// Bytes of pieces that came, duplicates and bad ones too.
    pub received: u64,
    /// Bytes of pieces that were here already when they came.
    pub duplicate: u64,
    /// Sources that gave at least one piece.
    pub sources: usize,
}

/// What has come from a source in use.
struct Feed {
    bytes: Arc<AtomicU64>,
    /// How many there were when last looked, and since when there are no more.
    fed: (u64, Instant),
}

/// When a source may be tried again.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    pause: Duration,
}

/// Before the layer is here, sources only say what they have.
pub(super) enum Stage {
    Layer { pages: LayerPages, from: Option<(NodeId, Instant)> },
    Pieces(Box<Fetch<NodeId>>),
}

pub(super) struct Running<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) blob: BlobRef,
    sources: Sources,
    pub(super) stage: Stage,
    begun: Instant,
    looked: Instant,
    /// When anything came last, from any source.
    pub(super) fed: Instant,
    links: BTreeMap<NodeId, Link>,
    /// Of the same sources.
    feeds: BTreeMap<NodeId, Feed>,
    /// Where the sources are to which there are links.
    places: BTreeMap<NodeId, Place>,
    /// When somebody at the own site was last known to have the blob.
    near: Instant,
    /// This node's tag, and the members of the site with theirs.
    members: (u64, Vec<(NodeId, u64)>),
    have: BTreeMap<NodeId, Bitmap>,
    /// What those that seed the blob have offered.
    offered: BTreeMap<NodeId, Bitmap>,
    retries: BTreeMap<NodeId, Retry>,
    banned: BTreeSet<NodeId>,
    pub(super) found: Vec<NodeId>,
    /// How many of those each busy source has named.
    pub(super) advised: BTreeMap<NodeId, usize>,
    gave: BTreeSet<NodeId>,
    tasks: JoinSet<()>,
    events: mpsc::Sender<(NodeId, Event)>,
    rng: StdRng,
    done: Fetched,
    /// What had been received when it was made durable last.
    synced: u64,
}

impl Exchange {
    /// Fetches a blob, or what is missing of it. Ends when it is complete, or when nothing has come
    /// for a while; end it earlier by dropping the future. What has come stays.
    ///
    /// # Errors
    /// When the disk fails or is full, or nobody has what is missing.
    pub async fn fetch(&self, blob: BlobRef, sources: Sources) -> Result<Fetched, FetchError> {
        if self.blobs.status(&blob.root).is_some_and(|s| s.complete) {
            return Ok(Fetched::default());
        }
        // two orders, or an order and somebody, may want the same: the second finds it here
        let turn = self.turn_to_fetch(blob.root);
        let _turn = turn.lock().await;
        if self.blobs.status(&blob.root).is_some_and(|s| s.complete) {
            return Ok(Fetched::default());
        }
        self.begin_progress(blob.root);
        let before = self.blobs.status(&blob.root).map_or(0, |s| super::progress::held(&s));
        self.meter.begin(blob, before);
        let _ended = EndProgress { exchange: self, root: blob.root };
        let (events, received) = mpsc::channel(EVENTS);
        let mut running = Running {
            exchange: self,
            blob,
            sources,
            stage: Stage::Layer { pages: LayerPages::new(blob)?, from: None },
            begun: Instant::now(),
            looked: Instant::now(),
            fed: Instant::now(),
            links: BTreeMap::new(),
            feeds: BTreeMap::new(),
            places: BTreeMap::new(),
            near: Instant::now(),
            members: (0, Vec::new()),
            have: BTreeMap::new(),
            offered: BTreeMap::new(),
            retries: BTreeMap::new(),
            banned: BTreeSet::new(),
            found: Vec::new(),
            gave: BTreeSet::new(),
            tasks: JoinSet::new(),
            events,
            rng: StdRng::from_rng(&mut rand::rng()),
            done: Fetched::default(),
            advised: BTreeMap::new(),
            synced: 0,
        };
        running.keep_limits();
        running.resume().await?;
        running.run(received).await?;
        running.done.sources = running.gave.len();
        // small ones are many, and the DHT has little room: the members of the group have them too
        if blob.pieces() > 1
            && let Err(error) = self.net.provide(blob.root).await
        {
            debug!(%error, "cannot announce the blob");
        }
        Ok(running.done)
    }
}

/// However a fetch ends, nobody waits for more of it.
struct EndProgress<'a> {
    exchange: &'a Exchange,
    root: Hash,
}

impl Drop for EndProgress<'_> {
    fn drop(&mut self) {
        self.exchange.end_progress(&self.root);
        self.exchange.meter.end(&self.root);
    }
}

impl Running<'_> {
    /// A blob that was begun before goes on where it was; one of a single piece needs no layer.
    async fn resume(&mut self) -> Result<(), FetchError> {
        if let Some(status) = self.exchange.blobs.status(&self.blob.root) {
            self.stage = self.pieces(status.have);
        } else if self.blob.pieces() == 1 {
            let layer = PieceLayer::new(self.blob, self.blob.root.0.to_vec())?;
            self.begin(layer).await?;
        }
        Ok(())
    }

    fn pieces(&self, have: Bitmap) -> Stage {
        let mut fetch = Fetch::new(self.blob, have, Limits::default());
        fetch.set_in_flight(self.ahead());
        Stage::Pieces(Box::new(fetch))
    }

    async fn begin(&mut self, layer: PieceLayer) -> Result<(), FetchError> {
        let blobs = self.exchange.blobs.clone();
        tokio::task::spawn_blocking(move || blobs.begin(&layer)).await??;
        self.exchange.more(&self.blob.root);
        let empty = Bitmap::new(self.blob.pieces());
        let have = self.exchange.blobs.status(&self.blob.root).map_or(empty, |s| s.have);
        self.stage = self.pieces(have);
        Ok(())
    }

    async fn run(
        &mut self,
        mut received: mpsc::Receiver<(NodeId, Event)>,
    ) -> Result<(), FetchError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut synced = Instant::now();
        loop {
            let complete = tokio::select! {
                Some((peer, event)) = received.recv() => self.on_event(peer, event).await?,
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => false,
                _ = tick.tick() => {
                    if self.is_starved() {
                        return Err(FetchError::Starved);
                    }
                    self.keep_limits();
                    self.connect();
                    self.replace_layer_source();
                    if self.have.is_empty() && self.looked.elapsed() >= LOOK {
                        self.look_further();
                    }
                    self.step(Input::Tick)
                }
            };
            let due = synced.elapsed() >= SYNC && matches!(self.stage, Stage::Pieces(_));
            if complete || due {
                // of a complete blob: waits for the task that is just making it so
                let (blobs, root) = (self.exchange.blobs.clone(), self.blob.root);
                let begun = Instant::now();
                tokio::task::spawn_blocking(move || blobs.sync(&root)).await??;
                let new =
                    self.done.received - std::mem::replace(&mut self.synced, self.done.received);
                self.exchange.meter.synced(new, begun.elapsed());
                synced = Instant::now();
            }
            if complete {
                return Ok(());
            }
        }
    }

    /// Whether nothing at all has come for a while.
    fn is_starved(&mut self) -> bool {
        let now = Instant::now();
        self.feeds.retain(|peer, _| self.links.contains_key(peer));
        for feed in self.feeds.values_mut() {
            let bytes = feed.bytes.load(Ordering::Relaxed);
            if bytes != feed.fed.0 {
                feed.fed = (bytes, now);
                self.fed = now;
            }
        }
        self.fed.elapsed() >= STARVED
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

    /// Opens streams to sources that have none, and tells the scheduler who takes part at the site.
    fn connect(&mut self) {
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
        let most = if self.blob.pieces() == 1 { SOURCES_OF_SMALL } else { SOURCES };
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

    fn open(&mut self, source: Source) {
        let peer = source.node;
        let (link, requests) = queue();
        let addrs = self.exchange.net.peers().get(&peer).addrs;
        let task = Task {
            exchange: self.exchange.clone(),
            root: self.blob.root,
            bulk: self.blob.pieces() > 1,
            peer,
            addrs,
            requests,
            events: self.events.clone(),
            bytes: self.count(peer),
        };
        self.tasks.spawn(task.run());
        self.links.insert(peer, link);
        self.places.insert(peer, source.place);
    }

    fn place(&self, peer: &NodeId) -> Place {
        self.places.get(peer).copied().unwrap_or(Place::Site)
    }

    fn joined(&self, peer: NodeId, have: Bitmap) -> Input<NodeId> {
        let seeding = self.offered.contains_key(&peer);
        Input::Joined { peer, place: self.place(&peer), seeding, have }
    }

    /// Whether sources at other sites are to be opened: this node is one of those that ask there, or
    /// nobody at the own site has the blob.
    fn may_ask_outside(&mut self, all: &Candidates) -> bool {
        if self.have.keys().any(|p| self.place(p).is_near()) {
            self.near = Instant::now();
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

    fn site(&self) -> Input<NodeId> {
        let (own, others) = self.members.clone();
        Input::Members { own, others }
    }

    /// Says whether the blob is complete.
    async fn on_event(&mut self, peer: NodeId, event: Event) -> Result<bool, FetchError> {
        let late = !self.links.contains_key(&peer);
        if late && !matches!(event, Event::Stored { .. } | Event::Found) {
            return Ok(false); // of a source that was given up
        }
        match event {
            Event::Found if self.found.len() < FOUND && !self.found.contains(&peer) => {
                self.found.push(peer);
            }
            Event::Found => {}
            Event::Opened { blob, seeding, have } if blob == self.blob => {
                self.retries.remove(&peer);
                if seeding {
                    self.offered.insert(peer, Bitmap::new(blob.pieces()));
                }
                self.have.insert(peer, have.clone());
                self.replace_layer_source();
                return Ok(self.step(self.joined(peer, have)));
            }
            Event::Opened { .. } => {
                self.ban(peer, "it shows another blob under the same name");
                return Ok(self.step(Input::Left { peer }));
            }
            Event::NotFound => {
                self.give_up(peer, "it does not have the blob");
                return Ok(self.step(Input::Left { peer }));
            }
            Event::Closed(reason) => {
                self.give_up(peer, &reason);
                return Ok(self.step(Input::Left { peer }));
            }
            Event::Layer { from, bytes } => return self.on_layer(peer, from, &bytes).await,
            Event::Have(pieces) => {
                if let Some(have) = self.have.get_mut(&peer) {
                    for piece in &pieces {
                        have.set(*piece);
                    }
                }
                return Ok(self.step(Input::Has { peer, pieces }));
            }
            Event::Offered(pieces) => {
                if let Some(offered) = self.offered.get_mut(&peer) {
                    for piece in &pieces {
                        offered.set(*piece);
                    }
                }
                return Ok(self.step(Input::Offered { peer, pieces }));
            }
            Event::Free => {
                self.offered.remove(&peer);
                return Ok(self.step(Input::Free { peer }));
            }
            Event::Stored { piece, put } => {
                let bytes = self.blob.range(piece).map_or(0, |r| r.end - r.start);
                self.done.received += bytes;
                let duplicate = put == p2pinst_chunks::Put::Duplicate;
                self.exchange.meter.stored(&self.blob.root, peer, bytes, !duplicate);
                if duplicate {
                    self.done.duplicate += bytes;
                } else {
                    self.gave.insert(peer);
                    self.exchange.shared.holders.note(self.blob.root, peer);
                    self.exchange.more(&self.blob.root);
                }
                return Ok(self.step(Input::Verified { peer, piece }));
            }
            Event::Bad { piece } => {
                // R10: one bad piece and the peer is out for this blob
                let bytes = self.blob.range(piece).map_or(0, |r| r.end - r.start);
                self.done.received += bytes;
                self.exchange.meter.bad(&self.blob.root, peer, bytes);
                warn!(%peer, piece = piece.0, blob = %self.blob.root.short(), "a peer sent wrong bytes: it is banned from this blob");
                if matches!(self.stage, Stage::Layer { .. }) {
                    self.ban(peer, "it sent a piece that nobody asked for");
                }
                return Ok(self.step(Input::Bad { peer, piece }));
            }
            Event::Refused { piece, reason, others } => {
                self.hear_of(peer, others);
                self.exchange.meter.refused(&self.blob.root, peer, reason);
                return Ok(self.step(Input::Refused { peer, piece, reason }));
            }
            // before the blob is begun nothing was asked for
            Event::Disk(PutError::Unknown { .. }) if matches!(self.stage, Stage::Layer { .. }) => {
                self.ban(peer, "it sent a piece that nobody asked for");
            }
            Event::Disk(error) => return Err(error.into()),
        }
        Ok(false)
    }

    async fn on_layer(
        &mut self,
        peer: NodeId,
        first: p2pinst_types::PieceIndex,
        bytes: &[u8],
    ) -> Result<bool, FetchError> {
        let Stage::Layer { pages, from } = &mut self.stage else { return Ok(false) };
        if from.is_none_or(|(source, _)| source != peer) {
            return Ok(false);
        }
        if pages.push(first, bytes).is_err() {
            self.ban(peer, "it does not keep to the exchange protocol");
            return Ok(false);
        }
        if pages.next_page().is_some() {
            *from = Some((peer, Instant::now()));
            self.ask_for_page(peer);
            return Ok(false);
        }
        let pages = std::mem::replace(pages, LayerPages::new(self.blob)?);
        match pages.finish() {
            Ok(layer) => {
                self.begin(layer).await?;
                let known: Vec<_> = self.have.iter().map(|(p, h)| (*p, h.clone())).collect();
                let mut complete = self.step(self.site());
                for (peer, have) in known {
                    complete |= self.step(self.joined(peer, have));
                    if let Some(offered) = self.offered.get(&peer) {
                        let pieces = offered.iter().collect();
                        complete |= self.step(Input::Offered { peer, pieces });
                    }
                }
                Ok(complete)
            }
            Err(_) => {
                self.ban(peer, "its piece layer does not match the signed root");
                Ok(false)
            }
        }
    }

    /// Asks another source for the layer when there is none or it is silent.
    fn replace_layer_source(&mut self) {
        let Stage::Layer { pages, from } = &mut self.stage else { return };
        if from.is_some_and(|(peer, since)| {
            let since = self.feeds.get(&peer).map_or(since, |f| since.max(f.fed.1));
            self.links.contains_key(&peer) && since.elapsed() < LAYER_PATIENCE
        }) {
            return;
        }
        let last = from.map(|(peer, _)| peer);
        let Ok(fresh) = LayerPages::new(self.blob) else { return };
        let mut able = self.have.keys().filter(|p| self.links.contains_key(*p));
        // one after the other: were it always the first, two that are silent would be asked for ever
        let next = able.clone().find(|p| Some(**p) > last).or_else(|| able.next()).copied();
        if let Some(peer) = next {
            *pages = fresh;
            *from = Some((peer, Instant::now()));
            self.ask_for_page(peer);
        }
    }

    fn ask_for_page(&mut self, peer: NodeId) {
        let Stage::Layer { pages, .. } = &self.stage else { return };
        if let (Some(link), Some(from)) = (self.links.get(&peer), pages.next_page())
            && !link.send(ToSource::GetLayer { from })
        {
            self.give_up(peer, "it does not take requests");
        }
    }

    /// Tells the scheduler, and does what it says. Says whether the blob is complete.
    fn step(&mut self, input: Input<NodeId>) -> bool {
        let mut inputs = vec![input];
        let mut complete = false;
        while let Some(input) = inputs.pop() {
            let Stage::Pieces(fetch) = &mut self.stage else { return false };
            let mut out = Vec::new();
            fetch.step(self.begun.elapsed(), &mut self.rng, input, &mut out);
            for output in out {
                match output {
                    Output::Request { peer, piece } => {
                        let message = ToSource::Request { piece };
                        if !self.links.get(&peer).is_some_and(|l| l.send(message)) {
                            self.give_up(peer, "it does not take requests");
                            inputs.push(Input::Left { peer });
                        }
                    }
                    Output::Cancel { peer, piece } => {
                        if let Some(link) = self.links.get(&peer) {
                            let _best_effort = link.send(ToSource::Cancel { piece });
                        }
                    }
                    Output::Drop { peer } => self.give_up(peer, "it is much slower than others"),
                    Output::Ban { peer, reason } => self.ban(peer, &format!("{reason:?}")),
                    Output::Complete => complete = true,
                    // before anybody has answered, that is nothing to tell the DHT about
                    Output::Starved if self.have.is_empty() => {}
                    Output::Starved => self.look_further(),
                }
            }
        }
        complete
    }

    /// Nobody here has what is missing: ask the DHT.
    fn look_further(&mut self) {
        self.looked = Instant::now();
        info!(blob = %self.blob.root.short(), "no connected peer has the missing pieces: asking the DHT");
        let (net, events, root) = (self.exchange.net.clone(), self.events.clone(), self.blob.root);
        self.tasks.spawn(async move {
            for peer in net.providers(root).await.unwrap_or_default() {
                drop(events.send((peer, Event::Found)).await);
            }
        });
    }

    fn give_up(&mut self, peer: NodeId, reason: &str) {
        debug!(%peer, %reason, blob = %self.blob.root.short(), "a source is given up for now");
        self.links.remove(&peer);
        self.have.remove(&peer);
        self.offered.remove(&peer);
        let retry =
            self.retries.entry(peer).or_insert(Retry { at: Instant::now(), pause: PAUSE.0 });
        retry.at = Instant::now() + retry.pause;
        retry.pause = (retry.pause * 2).min(PAUSE.1);
    }

    fn ban(&mut self, peer: NodeId, reason: &str) {
        warn!(%peer, %reason, blob = %self.blob.root.short(), "a source is banned from this blob");
        self.exchange.meter.banned(&self.blob.root, peer);
        self.links.remove(&peer);
        self.have.remove(&peer);
        self.offered.remove(&peer);
        self.banned.insert(peer);
    }
}
