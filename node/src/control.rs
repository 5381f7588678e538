//! The control plane's life: gossip in and out, and sync by heads and gaps.
//!
//! A peer is synced with when it connects, when gossip shows a gap, and one at random every sync
//! interval. Lost gossip costs time, never truth.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dht_store::coverage::Ranges;
use dht_store::sync::{Given, Moved, Part, Session, Want};
use dht_store::wire::{CELL_BYTES, CellBytes, Response};
use dht_store::{Outcome, Store};
use p2pinst_types::{Cell, Kind, Millis, NodeId, Plane};
use rand::seq::IndexedRandom;
use thiserror::Error;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock;
use crate::net::{GossipId, Net, NetError, Worth};
use crate::rpc;
use crate::store::{StoreFailure, StoreHandle};

/// Syncs under way at once.
const AT_ONCE: usize = 4;
/// A pause before a sync that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Time for one sync in all.
const WHOLE: Duration = Duration::from_secs(300);
/// How long a writer waits for peers to tell what they know of its log.
const FRESH: Duration = Duration::from_millis(1500);
/// How long it waits for the first of them, which may have much to tell.
const SLOW: Duration = Duration::from_secs(10);
/// How long it waits for a peer to be connected.
const FIRST: Duration = Duration::from_secs(3);
/// Peers that may wait for a sync.
const WAITING: usize = 1024;

/// Why a sync ended early.
#[derive(Debug, Error)]
pub enum SyncError {
    /// The peer could not be asked.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreFailure),
    /// The peer answered something else.
    #[error("{0} does not keep to the store protocol")]
    Protocol(NodeId),
}

/// A handle: asks for syncs, announces cells.
#[derive(Debug, Clone)]
pub struct Control {
    net: Net,
    store: StoreHandle,
    wishes: mpsc::Sender<NodeId>,
    /// The last sync that succeeded: with whom, and when, in cluster time.
    last: Arc<watch::Sender<Option<(NodeId, Millis)>>>,
}

/// Parses what came over the wire; what is no cell is left out.
pub(crate) fn from_wire(cells: Vec<CellBytes>) -> Vec<Cell> {
    cells.into_iter().filter_map(|c| Cell::parse(c.0).ok()).collect()
}

/// Brings both nodes' control planes to the same state.
///
/// # Errors
/// When the peer cannot be reached or the store fails.
pub async fn sync_with(net: &Net, store: &StoreHandle, peer: NodeId) -> Result<Moved, SyncError> {
    let mut session = Session::default();
    let mut given = Given::Nothing;
    loop {
        let want = session.step(given).map_err(|_| SyncError::Protocol(peer))?;
        if let Some(clock) = session.heard() {
            store.clock().heard(peer, clock);
        }
        given = match want {
            Want::State => {
                let state = |s: &mut Store| Given::State {
                    digest: s.digest(),
                    roots: s.views().roots.signed().len() as u64,
                    logs: s.heads(),
                    clock: clock::local(),
                };
                store.run(state).await?
            }
            Want::Ask(request) => Given::Answer(rpc::ask(net, peer, &[], &request).await?),
            Want::Apply { cells, covered } => {
                let outcomes = store.apply(cells, covered).await?;
                log_refused(peer, &outcomes);
                Given::Applied(outcomes)
            }
            Want::Select(parts) => {
                let (cells, covered) = store.run(move |s| s.select(&parts, CELL_BYTES)).await?;
                Given::Selected(cells, covered)
            }
            Want::Extend(roots) => {
                store.run(move |s| s.extend_roots(&roots)).await?.map_err(StoreFailure::from)?;
                Given::Extended
            }
            Want::Nothing => return Ok(session.moved()),
        };
    }
}

/// Data-plane cells have their own way.
fn control_only(mut cells: Vec<Cell>) -> Vec<Cell> {
    cells.retain(|c| c.id.kind.plane() == Plane::Control);
    cells
}

fn log_refused(peer: NodeId, outcomes: &[Outcome]) {
    for outcome in outcomes {
        match outcome {
            Outcome::Rejected(why) => warn!(%peer, %why, "a peer sent a cell that is refused"),
            Outcome::Held(why) => debug!(%peer, %why, "a cell is set aside"),
            _ => {}
        }
    }
}

/// Takes the control-plane cells that a peer pushes.
///
/// # Errors
/// When the store fails.
pub async fn take(
    store: &StoreHandle,
    peer: NodeId,
    cells: Vec<CellBytes>,
    covered: Vec<Part>,
) -> Result<Response, StoreFailure> {
    let outcomes = store.apply(control_only(from_wire(cells)), covered).await?;
    log_refused(peer, &outcomes);
    let taken = outcomes.iter().filter(|o| **o == Outcome::Accepted).count();
    if taken > 0 {
        info!(%peer, taken, "a peer has sent what was missing here");
    }
    Ok(Response::Outcomes(outcomes))
}

/// Whether an author's log has a hole here.
fn has_gap(store: &Store, cell: &Cell) -> bool {
    let whole = |ranges: &Ranges| *ranges == Ranges::up_to(ranges.max());
    !store.log(&cell.id.author, cell.version.incarnation).is_none_or(whole)
}

impl Control {
    /// A handle, and the task behind it.
    pub fn new(
        net: Net,
        store: StoreHandle,
        announcements: mpsc::Receiver<Cell>,
        interval: Duration,
    ) -> (Self, Task) {
        let (wishes, wished) = mpsc::channel(WAITING);
        let last = Arc::new(watch::Sender::new(None));
        let control = Self { net, store, wishes, last };
        let task = Task { control: control.clone(), wished, announcements, interval };
        (control, task)
    }

    /// Asks for a sync with a peer, soon.
    pub fn wish(&self, peer: NodeId) {
        if self.wishes.try_send(peer).is_err() {
            debug!(%peer, "too many syncs wait already");
        }
    }

    /// Waits for the first sync of this life of the node.
    pub async fn first_sync(&self) {
        drop(self.last.subscribe().wait_for(Option::is_some).await);
    }

    /// The last sync that succeeded in this life of the node: with whom, and when, in cluster time.
    #[must_use]
    pub fn last_sync(&self) -> Option<(NodeId, Millis)> {
        *self.last.borrow()
    }

    /// Syncs with up to `n` connected peers now. Says whether what is here is fresh then: one of
    /// them has been synced with, or there is no other machine. A node that has just started gets
    /// some time to be connected at all.
    pub async fn freshen(&self, n: usize) -> bool {
        if self.store.views().machines.len() <= 1 {
            return true;
        }
        let mut changes = self.net.peers().changes();
        let somebody = async {
            while self.net.peers().connected().is_empty() && changes.changed().await.is_ok() {}
        };
        drop(tokio::time::timeout(FIRST, somebody).await);
        let mut syncs = JoinSet::new();
        let connected = self.net.peers().connected();
        for peer in connected.sample(&mut rand::rng(), n).copied() {
            let (net, store) = (self.net.clone(), self.store.clone());
            syncs.spawn(async move { sync_with(&net, &store, peer).await });
        }
        let mut fresh = false;
        let begun = Instant::now();
        loop {
            // longer for the first, which may have much to tell
            let patience = if fresh { FRESH } else { SLOW };
            match tokio::time::timeout_at(begun + patience, syncs.join_next()).await {
                Ok(Some(synced)) => fresh |= matches!(synced, Ok(Ok(_))),
                Ok(None) | Err(_) => return fresh,
            }
        }
    }

    /// Tells all members of cells that are stored here. Returns how many peers are connected.
    pub async fn announce(&self, cells: &[Cell]) -> usize {
        for cell in cells {
            if self.net.gossip(cell.bytes().to_vec()).await.is_err() {
                break;
            }
        }
        self.net.peers().connected().len()
    }

    /// Takes a gossiped cell.
    pub async fn on_gossip(&self, source: NodeId, id: GossipId, data: Vec<u8>) {
        let worth = match Cell::parse(data) {
            Ok(cell) if cell.id.kind.plane() == Plane::Control => self.take(source, cell).await,
            _ => Worth::Reject,
        };
        drop(self.net.report(id, worth).await);
    }

    async fn take(&self, source: NodeId, cell: Cell) -> Worth {
        let Ok(outcomes) = self.store.apply(vec![cell.clone()], Vec::new()).await else {
            return Worth::Ignore;
        };
        match outcomes.first() {
            Some(Outcome::Accepted | Outcome::Known | Outcome::Newer) => {
                let gap = self.store.run(move |s| has_gap(s, &cell)).await.unwrap_or(false);
                if gap {
                    self.wish(source);
                }
                Worth::Accept
            }
            Some(Outcome::Held(why)) => {
                debug!(%source, %why, "a gossiped cell is set aside; asking its source");
                self.wish(source);
                Worth::Ignore
            }
            Some(Outcome::Rejected(why)) => {
                warn!(%source, %why, "a gossiped cell is refused");
                Worth::Reject
            }
            None => Worth::Ignore,
        }
    }
}

/// The task: runs syncs as wished, and one with a random peer every interval.
#[derive(Debug)]
pub struct Task {
    control: Control,
    wished: mpsc::Receiver<NodeId>,
    announcements: mpsc::Receiver<Cell>,
    interval: Duration,
}

impl Task {
    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut running: JoinSet<(NodeId, bool)> = JoinSet::new();
        let mut busy: BTreeSet<NodeId> = BTreeSet::new();
        let mut queue: VecDeque<NodeId> = VecDeque::new();
        let mut again: BTreeSet<NodeId> = BTreeSet::new();
        let mut retry = Instant::now();
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = running.join_next(), if !running.is_empty() => {
                    if let Ok((peer, synced)) = done {
                        busy.remove(&peer);
                        if !synced && again.len() < WAITING {
                            if again.is_empty() {
                                retry = Instant::now() + AGAIN;
                            }
                            again.insert(peer);
                        }
                    }
                }
                () = tokio::time::sleep_until(retry), if !again.is_empty() => {
                    let open = |p: &NodeId| self.control.net.peers().get(p).connected;
                    queue.extend(std::mem::take(&mut again).into_iter().filter(open));
                }
                Some(cell) = self.announcements.recv() => {
                    self.control.announce(&[cell]).await;
                }
                Some(peer) = self.wished.recv() => {
                    if !queue.contains(&peer) && queue.len() < WAITING {
                        queue.push_back(peer);
                    }
                }
                _ = tick.tick() => {
                    // time has passed: what was dated in the future may be present now
                    drop(self.control.store.apply(Vec::new(), Vec::new()).await);
                    let connected = self.control.net.peers().connected();
                    queue.extend(connected.choose(&mut rand::rng()).copied());
                }
            }
            let free = queue.iter().position(|p| !busy.contains(p));
            if running.len() < AT_ONCE
                && let Some(peer) = free.and_then(|at| queue.remove(at))
            {
                busy.insert(peer);
                running.spawn(sync_logged(self.control.clone(), peer));
            }
        }
    }
}

/// One sync, told in the log when it moved something or failed. Says whether it succeeded.
async fn sync_logged(control: Control, peer: NodeId) -> (NodeId, bool) {
    let synced = sync_with(&control.net, &control.store, peer);
    // a peer that goes on and on does not hold the place of others
    let synced = tokio::time::timeout(WHOLE, synced).await;
    let synced = synced.unwrap_or(Err(SyncError::Protocol(peer)));
    if synced.is_ok() {
        let now = control.store.clock().now();
        control.last.send_replace(Some((peer, now)));
    }
    match &synced {
        Ok(moved) if *moved != Moved::default() => {
            info!(%peer, pulled = moved.pulled, pushed = moved.pushed, "synced");
        }
        Ok(_) => {}
        Err(error) => debug!(%peer, %error, "sync failed"),
    }
    (peer, synced.is_ok())
}

/// The lock that keeps two requests of the command line from interleaving.
pub type SubmitLock = Mutex<()>;

/// Kinds that an administrator's command line may submit.
#[must_use]
pub fn is_submittable(kind: Kind) -> bool {
    kind.plane() == Plane::Control && kind != Kind::ADMISSION
}
