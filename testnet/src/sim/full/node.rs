//! One simulated node: the real store on a disk in memory, and the shell that `node` has around it
//! (connections, syncs, gossip, outbox, clock), without sockets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use dht_store::clock::PeerClocks;
use dht_store::coverage::Ranges;
use dht_store::disk::MemoryDisk;
use dht_store::placement::{closest, key};
use dht_store::store::Write;
use dht_store::sync::{LogState, Part};
use dht_store::wire::{CELL_BYTES, Request, Response};
use dht_store::{Outcome, Store, StoreError, Views};
use p2pinst_trust::{RootChain, SecretKey};
use p2pinst_types::{Cell, CellId, Hash, Kind, MachineId, Millis, NodeId, Plane, PublicKey};
use serde::Serialize;

use crate::sim::engine::{
    ControlPlane, Next, Outbox, Session, answer_control, from_wire, is_here, to_wire,
};
use crate::sim::queue::Micros;

/// Syncs under way at once.
const SYNCS: usize = 4;
/// Peers that may wait for a sync.
const WAITING: usize = 1024;
/// Gossiped messages that are remembered, so that none is taken twice.
const SEEN: usize = 4096;
/// The life in which simulated nodes write.
const LIFE: u64 = 7;

/// What a call is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Sync,
    Offer(Vec<Cell>),
}

/// What a node wants done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Ask a peer; a sync, or an offer of cells.
    Call(usize, Purpose, Request),
    /// Pass a cell on by gossip; not to the one that it came from.
    Gossip(Cell, Option<usize>),
    /// Cells that a majority of their replicas has acknowledged.
    Settled(Vec<Cell>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) key: SecretKey,
    pub(crate) machine: MachineId,
    pub(crate) disk: MemoryDisk,
    /// `None`: the node is down.
    pub(crate) store: Option<Store>,
    pub(crate) clocks: PeerClocks,
    /// How far the machine's own clock is off, in milliseconds.
    pub(crate) skew: i64,
    /// Counts starts and stops: messages to and from an earlier life are void.
    pub(crate) life: u32,
    /// Connected peers.
    pub(crate) peers: BTreeSet<usize>,
    /// Its disk, or all of it, is gone for ever.
    pub(crate) lost: bool,
    /// It answers what it likes.
    pub(crate) liar: bool,
    /// The store could not write.
    pub(crate) failed: bool,
    /// When it cannot write, that is because its power has failed.
    pub(crate) dying: bool,
    /// Calls without an answer.
    pub(crate) calls: usize,
    syncs: BTreeMap<usize, Session>,
    queue: VecDeque<usize>,
    again: BTreeSet<usize>,
    pub(crate) outbox: Outbox,
    seen: BTreeSet<Hash>,
    seen_order: VecDeque<Hash>,
}

/// The store as the engines see it; remembers when it failed.
struct Through<'a> {
    store: &'a mut Store,
    failed: &'a mut bool,
}

impl ControlPlane for Through<'_> {
    fn digest(&self) -> Hash {
        self.store.digest()
    }
    fn heads(&self) -> Vec<LogState> {
        self.store.heads()
    }
    fn select(&self, parts: &[Part], budget: usize) -> (Vec<Cell>, Vec<Part>) {
        self.store.select(parts, budget)
    }
    fn take(&mut self, cells: Vec<Cell>, covered: &[Part], now: Millis) -> Option<Vec<Outcome>> {
        let done = self.store.apply(cells, covered, now);
        *self.failed |= done.is_err();
        done.ok()
    }
}

impl Node {
    pub(crate) fn new(key: SecretKey, machine: MachineId, skew: i64) -> Self {
        Self {
            key,
            machine,
            skew,
            disk: MemoryDisk::default(),
            store: None,
            clocks: PeerClocks::default(),
            life: 0,
            peers: BTreeSet::new(),
            lost: false,
            liar: false,
            failed: false,
            dying: false,
            calls: 0,
            syncs: BTreeMap::new(),
            queue: VecDeque::new(),
            again: BTreeSet::new(),
            outbox: Outbox::default(),
            seen: BTreeSet::new(),
            seen_order: VecDeque::new(),
        }
    }

    pub(crate) fn id(&self) -> PublicKey {
        self.key.public()
    }

    /// Starts on its disk. Says whether the store opened.
    pub(crate) fn start(&mut self, roots: &RootChain) -> bool {
        self.life += 1;
        let Ok(store) = Store::open_on(&self.disk, roots.clone()) else { return false };
        let unsettled = store.unsettled(&self.id()).unwrap_or_default();
        unsettled.into_iter().for_each(|c| self.outbox.add(c));
        self.store = Some(store);
        true
    }

    /// What only the process had is gone.
    pub(crate) fn stop(&mut self) {
        self.life += 1;
        self.store = None;
        self.failed = false;
        self.dying = false;
        self.calls = 0;
        self.clocks = PeerClocks::default();
        self.peers.clear();
        self.syncs.clear();
        self.queue.clear();
        self.again.clear();
        self.outbox = Outbox::default();
        self.seen.clear();
        self.seen_order.clear();
    }

    pub(crate) fn is_up(&self) -> bool {
        self.store.is_some()
    }

    /// Whether it is up and keeps to the protocol.
    pub(crate) fn is_honest(&self) -> bool {
        self.is_up() && !self.liar
    }

    /// The machine's own clock.
    pub(crate) fn local(&self, world: Millis) -> Millis {
        Millis(world.0.saturating_add_signed(self.skew))
    }

    /// Cluster time, as this node knows it.
    pub(crate) fn now(&self, world: Millis) -> Millis {
        self.clocks.now(self.local(world))
    }

    pub(crate) fn views(&self) -> Option<Arc<Views>> {
        self.store.as_ref().map(Store::views)
    }

    /// A connection was made; the peer has shown its clock.
    pub(crate) fn connected(&mut self, peer: usize, id: NodeId, clock: Millis, world: Millis) {
        self.peers.insert(peer);
        self.clocks.heard(id, clock, self.local(world));
        self.wish(peer);
    }

    /// A connection is closed.
    pub(crate) fn gone(&mut self, peer: usize) {
        self.peers.remove(&peer);
        self.again.remove(&peer);
    }

    fn wish(&mut self, peer: usize) {
        if !self.queue.contains(&peer) && self.queue.len() < WAITING {
            self.queue.push_back(peer);
        }
    }

    /// The timer of the control plane: what was set aside, and one sync.
    pub(crate) fn tick(&mut self, peer: Option<usize>, world: Millis) {
        let now = self.now(world);
        if let Some(store) = &mut self.store {
            self.failed |= store.apply(Vec::new(), &[], now).is_err();
        }
        peer.into_iter().for_each(|p| self.wish(p));
    }

    /// Syncs that failed are tried again.
    pub(crate) fn retry(&mut self) {
        let again = std::mem::take(&mut self.again);
        again.into_iter().filter(|p| self.peers.contains(p)).for_each(|p| self.queue.push_back(p));
    }

    /// Starts what can be started: syncs that were wished for, offers of the outbox.
    pub(crate) fn work(
        &mut self,
        ids: &BTreeMap<PublicKey, usize>,
        at: Micros,
        world: Millis,
    ) -> Vec<Effect> {
        let mut out = Vec::new();
        let local = self.local(world);
        let own = self.id();
        let Some(store) = &mut self.store else { return out };
        while self.syncs.len() < SYNCS {
            let free = self.queue.iter().position(|p| !self.syncs.contains_key(p));
            let Some(peer) = free.and_then(|at| self.queue.remove(at)) else { break };
            if !self.peers.contains(&peer) {
                continue;
            }
            let through = Through { store: &mut *store, failed: &mut self.failed };
            let (session, request) = Session::start(&through, local);
            self.syncs.insert(peer, session);
            out.push(Effect::Call(peer, Purpose::Sync, request));
        }
        let views = store.views();
        let live: Vec<PublicKey> = views
            .machines
            .values()
            .map(|m| m.node.0)
            .filter(|n| *n == own || ids.get(n).is_some_and(|i| self.peers.contains(i)))
            .collect();
        let cluster = views.roots.cluster();
        let replicas =
            |id: &CellId| closest(&key(cluster, id.kind, &id.subject), live.iter().copied());
        for (peer, cells) in self.outbox.offers(at, &own, replicas) {
            let Some(peer) = ids.get(&peer) else { continue };
            let wire = to_wire(&cells);
            out.push(Effect::Call(*peer, Purpose::Offer(cells), Request::Put { cells: wire }));
        }
        let settled = self.outbox.settled(views.machines.len());
        if !settled.is_empty() {
            match store.settle(&settled) {
                Ok(()) => out.push(Effect::Settled(settled)),
                Err(_) => self.failed = true,
            }
        }
        out
    }

    /// A peer asks.
    pub(crate) fn answer(
        &mut self,
        peer: NodeId,
        request: Request,
        world: Millis,
    ) -> Option<Response> {
        let (local, now) = (self.local(world), self.now(world));
        if let Request::Heads { clock, .. } = &request {
            self.clocks.heard(peer, *clock, local);
        }
        let store = self.store.as_mut()?;
        match request {
            Request::Put { cells } => {
                let done = store.apply(from_wire(cells, Plane::Data), &[], now);
                self.failed |= done.is_err();
                done.ok().map(Response::Outcomes)
            }
            Request::Get { kind, subject } => {
                let cells = store.page(kind, &subject, &None, CELL_BYTES).ok()?.0;
                Some(Response::Data { cells: to_wire(&cells) })
            }
            other => {
                let mut through = Through { store, failed: &mut self.failed };
                answer_control(&mut through, other, local, now)
            }
        }
    }

    /// A peer has answered, or has not.
    pub(crate) fn answered(
        &mut self,
        (peer, id): (usize, NodeId),
        purpose: Purpose,
        response: Option<Response>,
        at: Micros,
        world: Millis,
    ) -> Vec<Effect> {
        self.calls = self.calls.saturating_sub(1);
        let (local, now) = (self.local(world), self.now(world));
        match purpose {
            Purpose::Offer(cells) => self.outbox.on(at, &id.0, &cells, response),
            Purpose::Sync => {
                if let Some(Response::Same { clock } | Response::Heads { clock, .. }) = &response {
                    self.clocks.heard(id, *clock, local);
                }
                let Some(mut session) = self.syncs.remove(&peer) else { return Vec::new() };
                let Some(store) = &mut self.store else { return Vec::new() };
                let mut through = Through { store, failed: &mut self.failed };
                match response.map(|r| session.on(&mut through, r, local, now)) {
                    Some(Next::Ask(request)) => {
                        self.syncs.insert(peer, session);
                        return vec![Effect::Call(peer, Purpose::Sync, request)];
                    }
                    Some(Next::Done) => {}
                    Some(Next::Failed) | None => {
                        self.again.insert(peer);
                    }
                }
            }
        }
        Vec::new()
    }

    /// A gossiped cell.
    pub(crate) fn gossiped(&mut self, from: usize, bytes: Vec<u8>, world: Millis) -> Vec<Effect> {
        let Ok(cell) = Cell::parse(bytes) else { return Vec::new() };
        if cell.id.kind.plane() != Plane::Control || !self.first_seen(cell.hash()) {
            return Vec::new();
        }
        let now = self.now(world);
        let Some(store) = &mut self.store else { return Vec::new() };
        let Ok(outcomes) = store.apply(vec![cell.clone()], &[], now) else {
            self.failed = true;
            return Vec::new();
        };
        let whole = |ranges: &Ranges| *ranges == Ranges::up_to(ranges.max());
        match outcomes.first() {
            Some(outcome) if is_here(outcome) => {
                let log = store.log(&cell.id.author, cell.version.incarnation);
                if !log.is_none_or(whole) {
                    self.wish(from);
                }
                return vec![Effect::Gossip(cell, Some(from))];
            }
            Some(Outcome::Held(_)) => self.wish(from),
            _ => {}
        }
        Vec::new()
    }

    fn first_seen(&mut self, hash: Hash) -> bool {
        if !self.seen.insert(hash) {
            return false;
        }
        self.seen_order.push_back(hash);
        if self.seen_order.len() > SEEN
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }

    /// A cell that was signed on this machine. Says whether it is stored, and passes it on.
    pub(crate) fn submit(&mut self, cell: Cell, world: Millis) -> (bool, Vec<Effect>) {
        let now = self.now(world);
        self.first_seen(cell.hash());
        let Some(store) = &mut self.store else { return (false, Vec::new()) };
        match store.apply(vec![cell.clone()], &[], now) {
            Ok(outcomes) if outcomes.iter().all(is_here) => {
                (true, vec![Effect::Gossip(cell, None)])
            }
            Ok(_) => (false, Vec::new()),
            Err(_) => {
                self.failed = true;
                (false, Vec::new())
            }
        }
    }

    /// Writes a record of this node; one of the data plane goes to the outbox.
    pub(crate) fn write<T: Serialize>(
        &mut self,
        (kind, subject, slot): (Kind, &[u8], &[u8]),
        record: &T,
        world: Millis,
    ) -> Option<Cell> {
        let now = self.now(world);
        let store = self.store.as_mut()?;
        let write = Write { kind, subject, slot, incarnation: LIFE };
        match store.write(&self.key, write, record, now) {
            Ok(cell) => {
                if kind.plane() == Plane::Data {
                    self.outbox.add(cell.clone());
                }
                Some(cell)
            }
            Err(StoreError::Record { .. }) => None,
            Err(_) => {
                self.failed = true;
                None
            }
        }
    }

    /// How long its queues are, and may be.
    pub(crate) fn queues(&self) -> [(&'static str, usize, usize); 5] {
        let held = self.store.as_ref().map_or(0, Store::held);
        [
            ("syncs", self.syncs.len(), SYNCS),
            ("wishes", self.queue.len() + self.again.len(), 2 * WAITING),
            ("calls", self.calls, SYNCS + 64),
            ("gossip remembered", self.seen.len(), SEEN),
            ("cells set aside", held, 1024),
        ]
    }
}
