//! Fetching a blob: the shell around the scheduler of `p2pinst-chunks`.
//!
//! One task per fetch, one per source. First the piece layer, from the first source that has it;
//! then pieces from all. A crash loses at most the pieces of the last second.

mod delta;
mod events;
mod layer;
mod links;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use p2pinst_chunks::fetch::{Input, Place};
use p2pinst_chunks::layer::LayerError;
use p2pinst_chunks::news::News;
use p2pinst_chunks::store::{BeginError, PutError, SyncError};
use p2pinst_chunks::{Bitmap, Fetch, LayerPages};
use p2pinst_types::{BlobRef, Hash, NodeId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use self::delta::Delta;
use self::links::{Feed, Retry};
use super::Exchange;
use super::link::{Event, Link, Origin};
use super::sources::Candidates;

/// Events of all sources that may wait.
const EVENTS: usize = 1024;
/// How often the scheduler is told that time has passed.
const TICK: Duration = Duration::from_millis(100);
/// How often what has come is made durable.
const SYNC: Duration = Duration::from_secs(1);
/// How long nobody may have anything before the DHT is asked, and between two questions.
const LOOK: Duration = Duration::from_secs(5);
/// Sources that the DHT has named, or others,
pub(super) const FOUND: usize = 64;
/// and of these, those that others have: they may name whom they like.
pub(super) const HEARSAY: usize = FOUND / 2;

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

/// The same, shared with the fetch of the recipe.
type SharedSources = Arc<dyn Fn() -> Candidates + Send + Sync>;

/// How a blob is to be fetched.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Whether to look what of it is here already.
    pub delta: bool,
    /// Files, disks and directories that hold older versions of it, beside the blobs that are here.
    pub delta_from: Vec<PathBuf>,
    /// The disk, partition or file that is to become the blob, instead of one in the store. What of the blob, or of an older
    /// version, is on it need not come.
    pub onto: Option<PathBuf>,
}

impl Default for Wish {
    /// With what the blobs that are here have.
    fn default() -> Self {
        Self { delta: true, delta_from: Vec::new(), onto: None }
    }
}

/// What a fetch did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fetched {
    /// Bytes of pieces that came, duplicates and bad ones too.
    pub received: u64,
    /// Bytes of pieces that were here already when they came.
    pub duplicate: u64,
    /// Sources that gave at least one piece.
    pub sources: usize,
    /// Bytes that older versions gave that are here.
    pub local: u64,
    /// Bytes that need not come because they are zeros.
    pub zero: u64,
}

/// Before the layer is here, sources only say what they have.
pub(super) enum Stage {
    Layer {
        pages: LayerPages,
        from: Option<(NodeId, Instant)>,
    },
    /// The layer is here, and it is to be seen what older versions give.
    Seeds,
    Pieces(Box<Fetch<NodeId>>),
}

pub(super) struct Running<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) blob: BlobRef,
    sources: SharedSources,
    delta: Delta,
    pub(super) stage: Stage,
    begun: Instant,
    looked: Instant,
    /// When anything came last that was asked for and not here yet, from any source.
    pub(super) fed: Instant,
    /// Counts such bytes as they come, on all links, and how many there were when last looked.
    useful: (Arc<AtomicU64>, u64),
    /// When a source last said that it is busy.
    busy: Option<Instant>,
    links: BTreeMap<NodeId, Link>,
    /// Links that there were so far.
    opened: u64,
    /// When those who may have the blob were last looked at, and whether any may have been added or become free.
    chosen: (Option<Instant>, bool),
    /// Who is connected and who is up.
    peers: watch::Receiver<u64>,
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
    pub(super) banned: BTreeSet<NodeId>,
    pub(super) found: Vec<NodeId>,
    /// Those of them that other sources have named.
    pub(super) hearsay: BTreeSet<NodeId>,
    /// How many of those each busy source has named.
    pub(super) advised: BTreeMap<NodeId, usize>,
    gave: BTreeSet<NodeId>,
    tasks: JoinSet<()>,
    events: mpsc::Sender<(Origin, Event)>,
    rng: StdRng,
    done: Fetched,
    news: News,
    /// What had been received when it was made durable last.
    synced: u64,
}

impl Exchange {
    /// Fetches a blob, or what is missing of it. Ends when it is complete, or when nothing has come
    /// for a while; end it earlier by dropping the future. What has come stays.
    ///
    /// # Errors
    /// When the disk fails or is full, it belongs elsewhere, or nobody has what is missing.
    pub async fn fetch(&self, blob: BlobRef, sources: Sources) -> Result<Fetched, FetchError> {
        self.fetch_as(blob, sources, Wish::default()).await
    }

    /// The same in a certain manner.
    ///
    /// # Errors
    /// As [`Exchange::fetch`].
    pub async fn fetch_as(
        &self,
        blob: BlobRef,
        sources: Sources,
        wish: Wish,
    ) -> Result<Fetched, FetchError> {
        let onto = wish.onto.clone();
        if self.is_here(&blob.root, onto.as_deref()) {
            return Ok(Fetched::default());
        }
        // two orders, or an order and somebody, may want the same: the second finds it here
        let turn = self.turn_to_fetch(blob.root);
        let held = turn.lock().await;
        if self.is_here(&blob.root, onto.as_deref()) {
            return Ok(Fetched::default());
        }
        if self.blobs.status(&blob.root).is_some_and(|s| s.blob != blob) {
            // begun by a version that cut it otherwise: none of its pieces fits
            let blobs = self.blobs.clone();
            tokio::task::spawn_blocking(move || blobs.remove(&blob.root)).await??;
        }
        if let Some(path) = onto {
            self.blobs.aim(blob.root, path)?;
        }
        self.begin_progress(blob.root);
        let before = self.blobs.status(&blob.root).map_or(0, |s| super::progress::held(&s));
        self.meter.begin(blob, before);
        let ended = EndProgress { exchange: self, root: blob.root };
        // members find a recipe where they find its blob
        let announced = wish.delta && blob.pieces() > 1;
        let (events, received) = mpsc::channel(EVENTS);
        let mut running = Running::new(self, blob, sources, wish, events)?;
        running.keep_limits();
        running.resume().await?;
        running.run(received).await?;
        drop((ended, held));
        running.done.sources = running.gave.len();
        // small ones are many, and the DHT has little room: the members of the group have them too
        if announced && let Err(error) = self.net.provide(blob.root).await {
            debug!(%error, "cannot announce the blob");
        }
        Ok(running.done)
    }

    /// Whether a blob is here, whole, and on the disk that is to become it.
    fn is_here(&self, root: &Hash, onto: Option<&Path>) -> bool {
        self.blobs.status(root).is_some_and(|s| s.complete)
            && onto.is_none_or(|path| self.blobs.target(root).as_deref() == Some(path))
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

impl<'a> Running<'a> {
    fn new(
        exchange: &'a Exchange,
        blob: BlobRef,
        sources: Sources,
        wish: Wish,
        events: mpsc::Sender<(Origin, Event)>,
    ) -> Result<Self, LayerError> {
        Ok(Self {
            exchange,
            blob,
            sources: Arc::from(sources),
            delta: Delta::new(&exchange.blobs, &blob, wish),
            stage: Stage::Layer { pages: LayerPages::new(blob)?, from: None },
            begun: Instant::now(),
            looked: Instant::now(),
            fed: Instant::now(),
            useful: (Arc::default(), 0),
            busy: None,
            links: BTreeMap::new(),
            opened: 0,
            chosen: (None, true),
            peers: exchange.peers().changes(),
            feeds: BTreeMap::new(),
            places: BTreeMap::new(),
            near: Instant::now(),
            members: (0, Vec::new()),
            have: BTreeMap::new(),
            offered: BTreeMap::new(),
            retries: BTreeMap::new(),
            banned: BTreeSet::new(),
            found: Vec::new(),
            hearsay: BTreeSet::new(),
            gave: BTreeSet::new(),
            tasks: JoinSet::new(),
            events,
            rng: StdRng::from_rng(&mut rand::rng()),
            done: Fetched::default(),
            news: News::default(),
            advised: BTreeMap::new(),
            synced: 0,
        })
    }

    async fn run(
        &mut self,
        mut received: mpsc::Receiver<(Origin, Event)>,
    ) -> Result<(), FetchError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // beside the loop, one at a time: a slow disk holds up neither requests nor what comes
        let mut sync: JoinSet<Synced> = JoinSet::new();
        let (mut synced, mut complete) = (Instant::now(), false);
        loop {
            let news = self.news.due().map(|due| self.begun + due);
            complete |= tokio::select! {
                Some((from, event)) = received.recv() => self.on_event(from, event).await?,
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => false,
                Some(ended) = sync.join_next(), if !sync.is_empty() => {
                    let Synced { result, took, bytes, last } = ended?;
                    result?;
                    self.exchange.meter.synced(bytes, took);
                    if last {
                        return Ok(());
                    }
                    synced = Instant::now();
                    false
                }
                Some(cooked) = self.delta.ended(), if self.delta.is_at_work() => {
                    self.on_cooked(cooked)?
                }
                () = sleep_until(news.unwrap_or(self.begun)), if news.is_some() => {
                    self.tell_due();
                    false
                }
                _ = tick.tick() => self.on_tick(complete)?,
            };
            let due = synced.elapsed() >= SYNC && !matches!(self.stage, Stage::Layer { .. });
            if (complete || due) && sync.is_empty() {
                let bytes =
                    self.done.received - std::mem::replace(&mut self.synced, self.done.received);
                let (blobs, root) = (self.exchange.blobs.clone(), self.blob.root);
                sync.spawn_blocking(move || {
                    let begun = Instant::now();
                    // of a complete blob: waits for the task that is just making it so
                    let result = blobs.sync(&root);
                    Synced { result, took: begun.elapsed(), bytes, last: complete }
                });
            }
        }
    }

    /// Says whether the blob is complete.
    fn on_tick(&mut self, complete: bool) -> Result<bool, FetchError> {
        if complete {
            return Ok(true);
        }
        if self.is_starved() {
            return Err(FetchError::Starved);
        }
        self.keep_limits();
        if self.is_choice_due() {
            self.connect();
        }
        self.replace_layer_source();
        if self.have.is_empty() && self.looked.elapsed() >= LOOK {
            self.look_further();
        }
        Ok(self.consider() | self.step(Input::Tick))
    }
}

/// What became of making durable what had come.
struct Synced {
    result: Result<(), SyncError>,
    took: Duration,
    /// That had come since the last time.
    bytes: u64,
    /// Whether all was there when it began.
    last: bool,
}
