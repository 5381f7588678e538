//! The data plane: this node's own records go to their replicas, and are read back from them.
//!
//! A cell stays in the outbox (on disk: it is unsettled) until a majority of its replicas has
//! acknowledged it; it is offered to the rest for as long as the node runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dht_store::outbox::{Effect, Health, Outbox};
use dht_store::placement::Ring;
use dht_store::repair::Sites;
use dht_store::shelf::Subject;
use dht_store::store::After;
use dht_store::wire::{CellBytes, Request, Response};
use dht_store::{Outcome, StoreError, Views};
use p2pinst_types::{Cell, CellId, Hash, Kind, NodeId, Plane};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::control::from_wire;
use crate::net::Net;
use crate::outdated::Outdated;
use crate::rpc;
use crate::store::{Own, StoreFailure, StoreHandle};

/// Time for a replica to answer a read: who waits for a status waits for the slowest.
const READ: Duration = Duration::from_secs(2);
/// Pages of one subject that a read takes from one replica.
const PAGES: usize = 128;
/// Cells that read repair sends to one replica at a time: the rest is for the next repair.
const MENDED: usize = 32;
/// After this long a node that has started knows who is there, and offers once more what was settled
/// before.
const GATHERED: Duration = Duration::from_secs(60);
/// Cells on their way from the writer to the outbox.
const WRITTEN: usize = 4096;

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Replicas {
    own: Arc<Own>,
    net: Net,
    store: StoreHandle,
    outbox: mpsc::Sender<Cell>,
    ring: watch::Receiver<Arc<Ring>>,
    health: Arc<Mutex<(Health, Option<Instant>)>>,
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
    /// Replicas whose copy was not whole; they were sent what they lacked.
    pub behind: Vec<NodeId>,
}

/// Who may hold what, as this node sees it: roster ∩ live, this node included.
fn ring(views: &Views, net: &Net, own: NodeId) -> Ring {
    let peers = net.peers();
    let live = views.machines.values().filter(|m| m.node == own || peers.is_up(&m.node));
    Ring::new(*views.roots.cluster(), live.map(|m| (m.node.0, m.site.clone())))
}

impl Replicas {
    /// A handle, and the task behind it.
    #[must_use]
    pub fn new(own: Arc<Own>, net: Net, store: StoreHandle) -> (Self, Task) {
        let (outbox, written) = mpsc::channel(WRITTEN);
        let first = ring(&store.views(), &net, own.node);
        let (turn, ring) = watch::channel(Arc::new(first));
        let site = store.views().machine_of(&own.node.0).map(|m| m.site.clone());
        let core = Outbox::new(own.node.0, site);
        let (health, outdated) = (Arc::default(), Outdated::default());
        let replicas = Self { own, net, store, outbox, ring, health, outdated };
        let task = Task {
            replicas: replicas.clone(),
            turn,
            written,
            outbox: core,
            begun: Instant::now(),
            offers: JoinSet::new(),
            settled: Vec::new(),
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

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.own.node
    }

    /// Who may hold what, as this node sees it now.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.borrow())
    }

    /// Is woken when who may hold what changes.
    #[must_use]
    pub fn turns(&self) -> watch::Receiver<Arc<Ring>> {
        self.ring.clone()
    }

    /// How the outbox is, and how long the oldest record waits for a majority.
    #[must_use]
    pub fn health(&self) -> (Health, Option<Duration>) {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        (health.0, health.1.map(|since| since.elapsed()))
    }

    /// The live replicas of a subject, closest first.
    #[must_use]
    pub fn of(&self, subject: &Subject) -> Vec<NodeId> {
        let site = self.store.views().of_subject(subject);
        self.ring().replicas(subject, site.as_ref()).into_iter().map(NodeId).collect()
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
        self.send_off(&cell);
        Ok(cell)
    }

    /// The same for records of one kind, each for a place of its own (subject and slot), that become
    /// durable together; what became of each.
    ///
    /// # Errors
    /// When nothing can be stored here.
    pub async fn write_many<T: Serialize + Send + 'static>(
        &self,
        kind: Kind,
        records: Vec<(Vec<u8>, Vec<u8>, T)>,
    ) -> Result<Vec<Result<Cell, StoreError>>, StoreFailure> {
        let written = self.store.write_many(&self.own, kind, records).await?;
        written.iter().flatten().for_each(|cell| self.send_off(cell));
        Ok(written)
    }

    fn send_off(&self, cell: &Cell) {
        // when too many wait, the disk has them: they go out after the next start
        if self.outbox.try_send(cell.clone()).is_err() {
            warn!("the outbox is full: a record reaches its replicas later");
        }
    }

    /// Reads a subject from all of its live replicas, merges what they hold, and sends to each what
    /// it lacked.
    ///
    /// # Errors
    /// When the own store fails.
    pub async fn read(&self, kind: Kind, subject: Vec<u8>) -> Result<Read, StoreFailure> {
        let subject = Subject { kind, id: subject };
        let replicas = self.of(&subject);
        let mut asked = JoinSet::new();
        for peer in replicas.iter().copied().filter(|p| *p != self.own.node) {
            let (net, subject) = (self.net.clone(), subject.clone());
            asked.spawn(async move {
                let all = tokio::time::timeout(READ, read_from(&net, peer, &subject)).await;
                (peer, all.ok().flatten())
            });
        }
        // this node's own copy counts even where it is no replica: it may be the writer
        let wanted = subject.clone();
        let mine = self.store.run(move |s| s.data(wanted.kind, &wanted.id)).await??;
        let mut answered = usize::from(replicas.contains(&self.own.node));
        let mut copies: Vec<(NodeId, Vec<Cell>)> = Vec::new();
        while let Some(result) = asked.join_next().await {
            if let Ok((peer, Some(cells))) = result {
                answered += 1;
                copies.push((peer, cells));
            }
        }
        let now = self.store.clock().now();
        // vetted before they are merged: a forged cell, or one that is void, must not hide a good one
        let all = mine.iter().cloned().chain(copies.iter().flat_map(|c| c.1.clone())).collect();
        let cells = newest(self.store.run(move |s| s.vet(all, now)).await?);
        if replicas.contains(&self.own.node) {
            copies.push((self.own.node, mine));
        }
        let behind = self.mend(&cells, copies).await?;
        Ok(Read { cells, answered, replicas: replicas.len(), behind })
    }

    /// Read repair: each copy gets what it lacks of the merged cells.
    async fn mend(
        &self,
        cells: &[Cell],
        copies: Vec<(NodeId, Vec<Cell>)>,
    ) -> Result<Vec<NodeId>, StoreFailure> {
        let mut behind = Vec::new();
        let mut sent = JoinSet::new();
        for (peer, copy) in copies {
            let has: BTreeSet<Hash> = copy.iter().map(Cell::hash).collect();
            let lacking: Vec<Cell> =
                cells.iter().filter(|c| !has.contains(&c.hash())).take(MENDED).cloned().collect();
            if lacking.is_empty() {
                continue;
            }
            behind.push(peer);
            if peer == self.own.node {
                self.store.apply(lacking, Vec::new()).await?;
            } else {
                let net = self.net.clone();
                sent.spawn(async move { offer(net, peer, lacking).await });
            }
        }
        // nobody waits for it: what does not arrive is repaired later
        sent.detach_all();
        Ok(behind)
    }
}

/// All that one replica holds of a subject.
pub(crate) async fn read_from(net: &Net, peer: NodeId, subject: &Subject) -> Option<Vec<Cell>> {
    let mut all: Vec<Cell> = Vec::new();
    let mut after: After = None;
    for _ in 0..PAGES {
        let Subject { kind, id } = subject.clone();
        let request = Request::Get { kind, subject: id, after: after.clone() };
        let Ok(Response::Data { cells, more }) = rpc::ask(net, peer, &[], &request).await else {
            return None;
        };
        let of_it = |c: &Cell| c.id.kind == subject.kind && c.id.subject == subject.id;
        all.extend(from_wire(cells).into_iter().filter(of_it));
        let last = all.last().map(|c| (c.id.slot.clone(), c.id.author));
        if !more || last.is_none() {
            break;
        }
        if last <= after {
            return None; // it goes round in circles
        }
        after = last;
    }
    Some(all)
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

/// Takes the data-plane cells that a peer offers.
///
/// # Errors
/// When the store fails.
pub async fn take(store: &StoreHandle, cells: Vec<CellBytes>) -> Result<Response, StoreFailure> {
    let mut cells = from_wire(cells);
    cells.retain(|c| c.id.kind.plane() == Plane::Data);
    Ok(Response::Outcomes(store.apply(cells, Vec::new()).await?))
}

/// The task: turns the ring, and empties the outbox. One offer to a peer at a time, so that a slow
/// one delays nobody.
#[derive(Debug)]
pub struct Task {
    replicas: Replicas,
    turn: watch::Sender<Arc<Ring>>,
    written: mpsc::Receiver<Cell>,
    outbox: Outbox,
    begun: Instant,
    offers: JoinSet<Acks>,
    /// Own cells that were settled in an earlier life, until the ring is known.
    settled: Vec<(Cell, bool)>,
}

/// What one replica said to some cells; `None`: nothing.
type Acks = (NodeId, Option<Vec<(Cell, Outcome)>>);

impl Task {
    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.replicas.net.peers().turns();
        let mut views = self.replicas.store.watch();
        self.load().await;
        loop {
            self.step().await;
            let wake = self.outbox.wake().map(|at| self.begun + at);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(Ok((peer, answer))) = self.offers.join_next(), if !self.offers.is_empty() => {
                    self.outbox.answered(self.begun.elapsed(), peer.0, answer);
                }
                Some(cell) = self.written.recv() => self.outbox.written(cell, self.begun.elapsed()),
                Ok(()) = changes.changed() => self.turn(),
                () = tokio::time::sleep_until(self.begun + GATHERED), if !self.settled.is_empty() => {
                    let settled = std::mem::take(&mut self.settled);
                    self.outbox.load(settled, self.begun.elapsed());
                }
                Ok(()) = views.changed() => {
                    let views = self.replicas.store.views();
                    self.outbox.forget(|c| c.id.kind == Kind::STATUS && views.is_retired(&c.id.subject));
                    self.turn();
                }
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)),
                    if wake.is_some() => {}
            }
        }
    }

    /// Takes up what is on disk.
    async fn load(&mut self) {
        let author = self.replicas.own.node.0;
        match self.replicas.store.run(move |s| s.outbox(&author)).await {
            Ok(Ok(cells)) => {
                let (settled, open) = cells.into_iter().partition(|(_, settled)| *settled);
                self.outbox.load(open, self.begun.elapsed());
                self.settled = settled;
            }
            Ok(Err(error)) => warn!(%error, "cannot read the outbox"),
            Err(_) => {}
        }
    }

    /// Who may hold what may have changed.
    fn turn(&mut self) {
        let Replicas { own, net, store, .. } = &self.replicas;
        let views = store.views();
        let fresh = ring(&views, net, own.node);
        self.outbox.at_site(views.machine_of(&own.node.0).map(|m| m.site.clone()));
        if !fresh.same(&self.turn.borrow()) {
            self.outbox.turned(&fresh);
            self.turn.send_replace(Arc::new(fresh));
        }
    }

    async fn step(&mut self) {
        let roster = self.replicas.store.views().machines.len();
        let ring = self.replicas.ring();
        for effect in self.outbox.step(self.begun.elapsed(), &ring, roster) {
            match effect {
                Effect::Offer { to, cells } => {
                    self.offers.spawn(offer(self.replicas.net.clone(), NodeId(to), cells));
                }
                Effect::Settled(cells) => {
                    if let Ok(Err(error)) = self.replicas.store.run(move |s| s.settle(&cells)).await
                    {
                        warn!(%error, "cannot remember what the replicas have acknowledged");
                    }
                }
                Effect::Behind(cell) => {
                    self.replicas.outdated.tell(&cell);
                }
            }
        }
        let health = self.outbox.health();
        let since = health.since.map(|at| self.begun + at);
        *self.replicas.health.lock().unwrap_or_else(PoisonError::into_inner) = (health, since);
    }
}

async fn offer(net: Net, peer: NodeId, cells: Vec<Cell>) -> Acks {
    let wire = cells.iter().map(CellBytes::of).collect();
    match rpc::ask(&net, peer, &[], &Request::Put { cells: wire }).await {
        Ok(Response::Outcomes(outcomes)) if outcomes.len() == cells.len() => {
            let refused = outcomes.iter().find(|o| !o.is_here());
            if let Some(outcome) = refused {
                debug!(%peer, ?outcome, "a replica does not take a cell");
            }
            (peer, Some(cells.into_iter().zip(outcomes).collect()))
        }
        Ok(_) => (peer, None),
        Err(error) => {
            debug!(%peer, %error, "a replica does not answer");
            (peer, None)
        }
    }
}
