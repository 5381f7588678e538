//! The data plane: this node's own records go to their replicas, and are read back from them.
//!
//! A cell stays in the outbox (on disk: it is unsettled) until a majority of its replicas has
//! acknowledged it; it is offered to the rest for as long as the node runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dht_store::Outcome;
use dht_store::placement::{closest, key, majority};
use dht_store::wire::{CellBytes, Request, Response};
use p2pinst_types::{Cell, CellId, Kind, NodeId, Plane, PublicKey, limits};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::control::from_wire;
use crate::keeper::is_here;
use crate::net::Net;
use crate::outdated::Outdated;
use crate::rpc;
use crate::store::{Own, StoreFailure, StoreHandle};

/// A pause before what was not acknowledged is offered again.
const RETRY: Duration = Duration::from_secs(2);
/// Time for a replica to answer a read: who waits for a status waits for the slowest.
const READ: Duration = Duration::from_secs(2);
/// Cells in one `Put`.
const TOGETHER: usize = 32;
/// Cells on their way from the writer to the outbox.
const WRITTEN: usize = 4096;

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Replicas {
    own: Arc<Own>,
    net: Net,
    store: StoreHandle,
    outbox: mpsc::Sender<Cell>,
    outdated: Outdated,
}

/// What a read found.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// The newest version of each cell, vetted.
    pub cells: Vec<Cell>,
    /// Replicas that answered, this node included.
    pub answered: usize,
    /// Replicas that should hold the subject.
    pub replicas: usize,
}

impl Replicas {
    /// A handle, and the task behind it.
    #[must_use]
    pub fn new(own: Arc<Own>, net: Net, store: StoreHandle) -> (Self, Task) {
        let (outbox, written) = mpsc::channel(WRITTEN);
        let replicas = Self { own, net, store, outbox, outdated: Outdated::default() };
        let task = Task {
            replicas: replicas.clone(),
            written,
            pending: BTreeMap::new(),
            offers: JoinSet::new(),
            busy: BTreeSet::new(),
            later: BTreeMap::new(),
        };
        (replicas, task)
    }

    /// The network.
    pub(crate) fn net(&self) -> &Net {
        &self.net
    }

    /// Records of this node of which replicas have newer versions.
    pub(crate) fn outdated(&self) -> &Outdated {
        &self.outdated
    }

    /// The live replicas of a subject, closest first: roster ∩ live, this node included.
    fn of(&self, kind: Kind, subject: &[u8]) -> Vec<NodeId> {
        let views = self.store.views();
        let peers = self.net.peers();
        let live = views
            .machines
            .values()
            .map(|m| m.node)
            .filter(|n| *n == self.own.node || peers.is_up(n))
            .map(|n| n.0);
        let key = key(views.roots.cluster(), kind, subject);
        closest(&key, live).into_iter().map(NodeId).collect()
    }

    /// Signs and stores a record of this node, and sends it on its way to its replicas.
    ///
    /// # Errors
    /// When it cannot be stored here.
    pub async fn write<T: Serialize + Send + 'static>(
        &self,
        kind: Kind,
        subject: Vec<u8>,
        slot: Vec<u8>,
        record: T,
    ) -> Result<Cell, StoreFailure> {
        let cell = self.store.write(&self.own, kind, subject, slot, record).await?;
        // when too many wait, the disk has them: they go out after the next start
        if self.outbox.try_send(cell.clone()).is_err() {
            warn!("the outbox is full: a record reaches its replicas later");
        }
        Ok(cell)
    }

    /// Reads a subject from all of its live replicas and merges what they hold.
    ///
    /// # Errors
    /// When the own store fails.
    pub async fn read(&self, kind: Kind, subject: Vec<u8>) -> Result<Read, StoreFailure> {
        let replicas = self.of(kind, &subject);
        let mut asked = JoinSet::new();
        for peer in replicas.iter().copied().filter(|p| *p != self.own.node) {
            let (net, subject) = (self.net.clone(), subject.clone());
            asked.spawn(async move {
                let request = Request::Get { kind, subject };
                tokio::time::timeout(READ, rpc::ask(&net, peer, &[], &request)).await
            });
        }
        // this node's own copy counts even where it is no replica: it may be the writer
        let wanted = subject.clone();
        let mut cells = self.store.run(move |s| s.data(kind, &wanted)).await??;
        let mut answered = usize::from(replicas.contains(&self.own.node));
        while let Some(result) = asked.join_next().await {
            if let Ok(Ok(Ok(Response::Data { cells: theirs }))) = result {
                answered += 1;
                let fits = |c: &Cell| c.id.kind == kind && c.id.subject == subject;
                cells.extend(from_wire(theirs).into_iter().filter(fits));
            }
        }
        let now = self.store.clock().now();
        let cells = self.store.run(move |s| s.vet(newest(cells), now)).await?;
        Ok(Read { cells, answered, replicas: replicas.len() })
    }
}

/// The maximum of each place: the merge, outside of the store.
fn newest(cells: Vec<Cell>) -> Vec<Cell> {
    let mut best: BTreeMap<CellId, Cell> = BTreeMap::new();
    for cell in cells {
        let merged = match best.remove(&cell.id) {
            Some(old) => old.merge(cell),
            None => cell,
        };
        best.insert(merged.id.clone(), merged);
    }
    best.into_values().collect()
}

/// Answers the data-plane requests of the store protocol.
///
/// # Errors
/// When the store fails.
pub async fn answer(store: &StoreHandle, request: Request) -> Result<Response, StoreFailure> {
    match request {
        Request::Put { cells } => {
            let mut cells = from_wire(cells);
            cells.retain(|c| c.id.kind.plane() == Plane::Data);
            Ok(Response::Outcomes(store.apply(cells, Vec::new()).await?))
        }
        Request::Get { kind, subject } => {
            if kind.plane() != Plane::Data || subject.len() > limits::CELL_SUBJECT {
                return Ok(Response::Refused("not a subject of the data plane".to_owned()));
            }
            let cells = store.run(move |s| s.data(kind, &subject)).await??;
            let mut room = dht_store::wire::CELL_BYTES;
            let mut out = Vec::new();
            // where not all has room, the newest: a history's last segments
            for cell in cells.into_iter().rev() {
                match room.checked_sub(cell.bytes().len()) {
                    Some(left) => room = left,
                    None => break,
                }
                out.push(CellBytes(cell.bytes().to_vec()));
            }
            Ok(Response::Data { cells: out })
        }
        _ => Ok(Response::Refused("not a request of the data plane".to_owned())),
    }
}

/// A cell on its way.
#[derive(Debug)]
struct Pending {
    cell: Cell,
    acked: BTreeSet<NodeId>,
    settled: bool,
    /// How often it was offered: those offered least come first.
    offers: u32,
}

/// The task: empties the outbox. One offer to a peer at a time, so that a slow one delays nobody.
#[derive(Debug)]
pub struct Task {
    replicas: Replicas,
    written: mpsc::Receiver<Cell>,
    pending: BTreeMap<CellId, Pending>,
    offers: JoinSet<Acks>,
    busy: BTreeSet<NodeId>,
    /// Peers that did not take all, and when they are asked again.
    later: BTreeMap<NodeId, Instant>,
}

/// What one replica said to some cells.
type Acks = (NodeId, Vec<(Cell, bool)>);

impl Task {
    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.replicas.net.peers().changes();
        let mut views = self.replicas.store.watch();
        self.load().await;
        loop {
            self.offer_all();
            self.settle().await;
            let wake = self.later.values().min().copied();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(Ok(acks)) = self.offers.join_next(), if !self.offers.is_empty() => {
                    self.on_acks(acks);
                }
                Some(cell) = self.written.recv() => self.take(cell),
                Ok(()) = changes.changed() => {}
                Ok(()) = views.changed() => {}
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)),
                    if wake.is_some() => {}
            }
        }
    }

    /// Takes up what is unsettled on disk.
    async fn load(&mut self) {
        let author: PublicKey = self.replicas.own.node.0;
        match self.replicas.store.run(move |s| s.unsettled(&author)).await {
            Ok(Ok(cells)) => cells.into_iter().for_each(|c| self.take(c)),
            Ok(Err(error)) => warn!(%error, "cannot read the outbox"),
            Err(_) => {}
        }
    }

    fn take(&mut self, cell: Cell) {
        let newer = self.pending.get(&cell.id).is_none_or(|p| cell.order(&p.cell).is_gt());
        if newer {
            let id = cell.id.clone();
            let pending = Pending { cell, acked: BTreeSet::new(), settled: false, offers: 0 };
            self.pending.insert(id, pending);
        }
    }

    /// Offers what is pending to the replicas that have not acknowledged it.
    fn offer_all(&mut self) {
        let now = Instant::now();
        self.later.retain(|_, at| *at > now);
        let own = self.replicas.own.node;
        let mut by_peer: BTreeMap<NodeId, Vec<CellId>> = BTreeMap::new();
        let mut complete = Vec::new();
        for (id, pending) in &mut self.pending {
            let replicas = self.replicas.of(id.kind, &id.subject);
            if replicas.contains(&own) {
                pending.acked.insert(own);
            }
            let missing: Vec<NodeId> =
                replicas.into_iter().filter(|r| !pending.acked.contains(r)).collect();
            if missing.is_empty() && pending.settled {
                complete.push(id.clone());
            }
            for peer in missing {
                if !self.busy.contains(&peer) && !self.later.contains_key(&peer) {
                    by_peer.entry(peer).or_default().push(id.clone());
                }
            }
        }
        for id in complete {
            self.pending.remove(&id);
        }
        for (peer, mut ids) in by_peer {
            ids.sort_by_key(|id| self.pending.get(id).map_or(0, |p| p.offers));
            ids.truncate(TOGETHER);
            let mut cells = Vec::new();
            for id in ids {
                if let Some(pending) = self.pending.get_mut(&id) {
                    pending.offers += 1;
                    cells.push(pending.cell.clone());
                }
            }
            self.busy.insert(peer);
            let (net, outdated) = (self.replicas.net.clone(), self.replicas.outdated.clone());
            self.offers.spawn(offer(net, outdated, peer, cells));
        }
    }

    fn on_acks(&mut self, (peer, acks): Acks) {
        self.busy.remove(&peer);
        if acks.is_empty() || acks.iter().any(|(_, acked)| !acked) {
            self.later.insert(peer, Instant::now() + RETRY);
        }
        for (cell, _) in acks.into_iter().filter(|(_, acked)| *acked) {
            // not of a newer version that was written meanwhile
            if let Some(pending) = self.pending.get_mut(&cell.id)
                && pending.cell == cell
            {
                pending.acked.insert(peer);
            }
        }
    }

    /// Remembers on disk what a majority has acknowledged.
    async fn settle(&mut self) {
        let machines = self.replicas.store.views().machines.len();
        let enough = majority(machines.min(limits::REPLICAS));
        let mut cells = Vec::new();
        for pending in self.pending.values_mut() {
            if !pending.settled && pending.acked.len() >= enough {
                pending.settled = true;
                cells.push(pending.cell.clone());
            }
        }
        if cells.is_empty() {
            return;
        }
        if let Ok(Err(error)) = self.replicas.store.run(move |s| s.settle(&cells)).await {
            warn!(%error, "cannot remember what the replicas have acknowledged");
        }
    }
}

async fn offer(net: Net, outdated: Outdated, peer: NodeId, cells: Vec<Cell>) -> Acks {
    let wire = cells.iter().map(|c| CellBytes(c.bytes().to_vec())).collect();
    match rpc::ask(&net, peer, &[], &Request::Put { cells: wire }).await {
        Ok(Response::Outcomes(outcomes)) if outcomes.len() == cells.len() => {
            let acks = cells.into_iter().zip(&outcomes).map(|(cell, outcome)| {
                if !is_here(outcome) {
                    debug!(%peer, ?outcome, "a replica does not take a cell yet");
                }
                if *outcome == Outcome::Newer {
                    outdated.tell(&cell);
                }
                (cell, is_here(outcome))
            });
            (peer, acks.collect())
        }
        Ok(_) => (peer, Vec::new()),
        Err(error) => {
            debug!(%peer, %error, "a replica does not answer");
            (peer, Vec::new())
        }
    }
}
