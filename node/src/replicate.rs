//! The data plane: this node's own records go to their replicas, and are read back from them.
//!
//! A cell stays in the outbox (on disk: it is unsettled) until a majority of its replicas has
//! acknowledged it; it is offered to the rest for as long as the node runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dht_store::placement::{closest, key, majority};
use dht_store::wire::{CellBytes, Request, Response};
use p2pinst_types::{Cell, CellId, Kind, NodeId, Plane, PublicKey, limits};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::control::from_wire;
use crate::keeper::is_here;
use crate::net::Net;
use crate::rpc;
use crate::store::{Own, StoreFailure, StoreHandle};

/// A pause before what was not acknowledged is offered again.
const RETRY: Duration = Duration::from_secs(2);
/// Time for a replica to answer a read: who waits for a status waits for the slowest.
const READ: Duration = Duration::from_secs(2);
/// Cells in one `Put`.
const TOGETHER: usize = 32;

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Replicas {
    own: Arc<Own>,
    net: Net,
    store: StoreHandle,
    outbox: Arc<Notify>,
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
        let replicas = Self { own, net, store, outbox: Arc::new(Notify::new()) };
        (replicas.clone(), Task { replicas, pending: BTreeMap::new() })
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
        self.outbox.notify_one();
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
            for cell in cells {
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
}

/// The task: empties the outbox.
#[derive(Debug)]
pub struct Task {
    replicas: Replicas,
    pending: BTreeMap<CellId, Pending>,
}

/// What one replica said to some cells.
type Acks = (NodeId, Vec<(CellId, bool)>);

impl Task {
    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.replicas.net.peers().changes();
        let mut views = self.replicas.store.watch();
        let outbox = Arc::clone(&self.replicas.outbox);
        self.load().await;
        loop {
            let unfinished = self.round().await;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = outbox.notified() => self.load().await,
                Ok(()) = changes.changed() => {}
                Ok(()) = views.changed() => {}
                () = tokio::time::sleep(RETRY), if unfinished => {}
            }
        }
    }

    /// Takes up what is unsettled on disk.
    async fn load(&mut self) {
        let author: PublicKey = self.replicas.own.node.0;
        let loaded = self.replicas.store.run(move |s| s.unsettled(&author)).await;
        match loaded {
            Ok(Ok(cells)) => {
                for cell in cells {
                    let newer =
                        self.pending.get(&cell.id).is_none_or(|p| cell.order(&p.cell).is_gt());
                    if newer {
                        let pending = Pending { cell, acked: BTreeSet::new(), settled: false };
                        self.pending.insert(pending.cell.id.clone(), pending);
                    }
                }
            }
            Ok(Err(error)) => warn!(%error, "cannot read the outbox"),
            Err(_) => {}
        }
    }

    /// Offers what is pending to the replicas that have not acknowledged it. Says whether
    /// something is left to do.
    async fn round(&mut self) -> bool {
        let mut by_peer: BTreeMap<NodeId, Vec<Cell>> = BTreeMap::new();
        let own = self.replicas.own.node;
        let mut complete = Vec::new();
        for (id, pending) in &mut self.pending {
            let replicas = self.replicas.of(id.kind, &id.subject);
            if replicas.contains(&own) {
                pending.acked.insert(own);
            }
            let missing: Vec<NodeId> =
                replicas.iter().filter(|r| !pending.acked.contains(r)).copied().collect();
            if missing.is_empty() && pending.settled {
                complete.push(id.clone());
            }
            for peer in missing {
                let cells = by_peer.entry(peer).or_default();
                if cells.len() < TOGETHER {
                    cells.push(pending.cell.clone());
                }
            }
        }
        for id in complete {
            self.pending.remove(&id);
        }
        let mut offers = JoinSet::new();
        for (peer, cells) in by_peer {
            offers.spawn(offer(self.replicas.net.clone(), peer, cells));
        }
        while let Some(Ok((peer, acks))) = offers.join_next().await {
            for (id, acked) in acks {
                if let Some(pending) = self.pending.get_mut(&id)
                    && acked
                {
                    pending.acked.insert(peer);
                }
            }
        }
        self.settle().await;
        !self.pending.is_empty()
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

async fn offer(net: Net, peer: NodeId, cells: Vec<Cell>) -> Acks {
    let wire = cells.iter().map(|c| CellBytes(c.bytes().to_vec())).collect();
    match rpc::ask(&net, peer, &[], &Request::Put { cells: wire }).await {
        Ok(Response::Outcomes(outcomes)) if outcomes.len() == cells.len() => {
            let acks = cells.into_iter().zip(&outcomes).map(|(cell, outcome)| {
                if !is_here(outcome) {
                    debug!(%peer, ?outcome, "a replica does not take a cell yet");
                }
                (cell.id, is_here(outcome))
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
