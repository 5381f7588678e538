//! One simulated node: the real store on a disk in memory, and the shell that `node` has around it
//! (connections, syncs, gossip, outbox, clock), without sockets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dht_store::answer::{Asked, answer};
use dht_store::clock::PeerClocks;
use dht_store::coverage::Ranges;
use dht_store::disk::MemoryDisk;
use dht_store::outbox::{self, Outbox};
use dht_store::placement::Ring;
use dht_store::store::Write;
use dht_store::sync::{Given, LogState, Part, Session};
use dht_store::wire::{Request, Response};
use dht_store::{Outcome, Store, StoreError, Views};
use p2pinst_trust::{RootChain, SecretKey};
use p2pinst_types::record::SignedRoot;
use p2pinst_types::{Cell, ClusterId, Hash, Kind, MachineId, Millis, NodeId, Plane, PublicKey};
use serde::Serialize;

use super::fixer::Fixer;
use crate::sim::engine::{ControlPlane, With, drive, from_wire, outcomes, to_wire};
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
    Repair,
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
    /// Somebody has a newer version of an own cell than this node.
    Behind(Cell),
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
    /// Who may hold what, as this node sees it: roster ∩ connected, itself included.
    pub(crate) ring: Arc<Ring>,
    /// What the ring was made of: the views, and how often the connections have changed.
    ring_of: (Option<Arc<Views>>, u64),
    turns: u64,
    fixer: Fixer,
    seen: BTreeSet<Hash>,
    seen_order: VecDeque<Hash>,
}

/// The store as the machines see it; remembers when it failed.
struct Through<'a> {
    store: &'a mut Store,
    clocks: &'a mut PeerClocks,
    local: Millis,
    failed: &'a mut bool,
}

impl ControlPlane for Through<'_> {
    fn digest(&self) -> Hash {
        self.store.digest()
    }
    fn heads(&self) -> Vec<LogState> {
        self.store.heads()
    }
    fn roots(&self) -> u64 {
        self.store.views().roots.signed().len() as u64
    }
    fn select(&self, parts: &[Part], budget: usize) -> (Vec<Cell>, Vec<Part>) {
        self.store.select(parts, budget)
    }
    fn take(&mut self, cells: Vec<Cell>, covered: &[Part], now: Millis) -> Option<Vec<Outcome>> {
        let done = self.store.apply(cells, covered, now);
        *self.failed |= done.is_err();
        done.ok()
    }
    fn extend(&mut self, roots: &[SignedRoot]) {
        *self.failed |= self.store.extend_roots(roots).is_err();
    }
    fn heard(&mut self, peer: NodeId, clock: Millis) {
        self.clocks.heard(peer, clock, self.local);
    }
}

fn time(at: Micros) -> Duration {
    Duration::from_micros(at)
}

impl Node {
    pub(crate) fn new(cluster: ClusterId, key: SecretKey, machine: MachineId, skew: i64) -> Self {
        let outbox = Outbox::new(key.public(), None);
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
            outbox,
            ring: Arc::new(Ring::new(cluster, [])),
            ring_of: (None, 0),
            turns: 1,
            fixer: Fixer::default(),
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
        self.store = Some(store);
        self.load();
        true
    }

    /// Takes up what its disk has.
    fn load(&mut self) {
        let Some(store) = &self.store else { return };
        let (id, views) = (self.key.public(), store.views());
        let site = views.machine_of(&id).map(|m| m.site.clone());
        self.outbox = Outbox::new(id, site);
        let alone = views.machine_of(&id).map(|m| (id, m.site.clone()));
        self.ring = Arc::new(Ring::new(*views.roots.cluster(), alone));
        self.ring_of = (Some(views), self.turns);
        let own = store.outbox(&id).unwrap_or_default();
        self.outbox.load(own, Duration::ZERO);
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
        self.fixer = Fixer::default();
        self.turns += 1;
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
        self.turns += 1;
        self.clocks.heard(id, clock, self.local(world));
        self.wish(peer);
    }

    /// A connection is closed.
    pub(crate) fn gone(&mut self, peer: usize) {
        self.peers.remove(&peer);
        self.again.remove(&peer);
        self.turns += 1;
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

    /// Who may hold what may have changed.
    fn turn(&mut self, ids: &BTreeMap<PublicKey, usize>, at: Micros, jitter: u64) {
        let Some(views) = self.views() else { return };
        let same = self.ring_of.0.as_ref().is_some_and(|of| Arc::ptr_eq(of, &views));
        if same && self.ring_of.1 == self.turns {
            return;
        }
        let own = self.id();
        let up = |n: &PublicKey| *n == own || ids.get(n).is_some_and(|i| self.peers.contains(i));
        let live = views.machines.values().filter(|m| up(&m.node.0));
        let ring = live.map(|m| (m.node.0, m.site.clone()));
        let ring = Ring::new(*views.roots.cluster(), ring);
        if self.ring_of.0.as_ref().is_none_or(|of| of.machine_of(&own).is_none()) {
            self.load(); // it has just learned of itself
        }
        self.outbox.forget(|c| c.id.kind == Kind::STATUS && views.is_retired(&c.id.subject));
        if !ring.same(&self.ring) {
            self.outbox.turned(&ring);
            self.ring = Arc::new(ring);
            self.fixer.turned(at, jitter);
        }
        self.ring_of = (Some(views), self.turns);
    }

    /// Starts what can be started: syncs that were wished for, offers of the outbox, repair.
    /// `jitter`: from 80 to 120.
    pub(crate) fn work(
        &mut self,
        ids: &BTreeMap<PublicKey, usize>,
        (at, jitter): (Micros, u64),
        world: Millis,
    ) -> Vec<Effect> {
        let mut out = Vec::new();
        self.turn(ids, at, jitter);
        let (local, now, own) = (self.local(world), self.now(world), self.id());
        let Some(store) = &mut self.store else { return out };
        while self.syncs.len() < SYNCS {
            let free = self.queue.iter().position(|p| !self.syncs.contains_key(p));
            let Some(peer) = free.and_then(|at| self.queue.remove(at)) else { break };
            let id = ids.iter().find(|(_, i)| **i == peer).map(|(id, _)| NodeId(*id));
            let Some(id) = id.filter(|_| self.peers.contains(&peer)) else { continue };
            let mut session = Session::default();
            let (clocks, failed) = (&mut self.clocks, &mut self.failed);
            let mut through = Through { store: &mut *store, clocks, local, failed };
            let with = With { peer: id, local, now };
            if let Ok(Some(request)) = drive(&mut session, Given::Nothing, &mut through, with) {
                self.syncs.insert(peer, session);
                out.push(Effect::Call(peer, Purpose::Sync, request));
            }
        }
        let roster = store.views().machines.len();
        for effect in self.outbox.step(time(at), &self.ring, roster) {
            match effect {
                outbox::Effect::Offer { to, cells } => {
                    let Some(to) = ids.get(&to) else { continue };
                    let request = Request::Put { cells: to_wire(&cells) };
                    out.push(Effect::Call(*to, Purpose::Offer(cells), request));
                }
                outbox::Effect::Settled(cells) => match store.settle(&cells) {
                    Ok(()) => out.push(Effect::Settled(cells)),
                    Err(_) => self.failed = true,
                },
                outbox::Effect::Behind(cell) => out.push(Effect::Behind(cell)),
            }
        }
        if let Some((to, request)) = self.fixer.work(store, (own, &self.ring), (at, jitter), now)
            && let Some(to) = ids.get(&to)
        {
            out.push(Effect::Call(*to, Purpose::Repair, request));
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
        let own = self.id();
        let store = self.store.as_mut()?;
        let applied = match request {
            Request::Push { cells, covered } => {
                store.apply(from_wire(cells, Plane::Control), &covered, now)
            }
            Request::Put { cells } => store.apply(from_wire(cells, Plane::Data), &[], now),
            other => {
                let asked = Asked { own, peer: peer.0, ring: &self.ring, clock: local };
                let refused = || Response::Refused("not answered".to_owned());
                return answer(store, other, asked).ok().map(|a| a.unwrap_or_else(refused));
            }
        };
        self.failed |= applied.is_err();
        applied.ok().map(Response::Outcomes)
    }

    /// A peer has answered, or has not.
    pub(crate) fn answered(
        &mut self,
        (peer, id): (usize, NodeId),
        purpose: Purpose,
        response: Option<Response>,
        ids: &BTreeMap<PublicKey, usize>,
        (at, world): (Micros, Millis),
    ) -> Vec<Effect> {
        self.calls = self.calls.saturating_sub(1);
        let (local, now) = (self.local(world), self.now(world));
        match purpose {
            Purpose::Offer(cells) => {
                self.outbox.answered(time(at), id.0, outcomes(cells, response));
            }
            Purpose::Repair => {
                let own = self.id();
                let Some(store) = &mut self.store else { return Vec::new() };
                let next = self.fixer.answered(store, own, response, now);
                let call = |(to, request)| {
                    let to = ids.get(&to)?;
                    Some(Effect::Call(*to, Purpose::Repair, request))
                };
                return next.and_then(call).into_iter().collect();
            }
            Purpose::Sync => {
                let Some(mut session) = self.syncs.remove(&peer) else { return Vec::new() };
                let Some(store) = &mut self.store else { return Vec::new() };
                let (clocks, failed) = (&mut self.clocks, &mut self.failed);
                let mut through = Through { store, clocks, local, failed };
                let with = With { peer: id, local, now };
                let given = response.map(Given::Answer);
                match given.map(|g| drive(&mut session, g, &mut through, with)) {
                    Some(Ok(Some(request))) => {
                        self.syncs.insert(peer, session);
                        return vec![Effect::Call(peer, Purpose::Sync, request)];
                    }
                    Some(Ok(None)) => {}
                    Some(Err(_)) | None => {
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
            Some(outcome) if outcome.is_here() => {
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
            Ok(outcomes) if outcomes.iter().all(Outcome::is_here) => {
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
        (at, world): (Micros, Millis),
    ) -> Option<Cell> {
        let now = self.now(world);
        let store = self.store.as_mut()?;
        let write = Write { kind, subject, slot, incarnation: LIFE };
        match store.write(&self.key, write, record, now) {
            Ok(cell) => {
                if kind.plane() == Plane::Data {
                    self.outbox.written(cell.clone(), time(at));
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
    pub(crate) fn queues(&self) -> [(&'static str, usize, usize); 6] {
        let held = self.store.as_ref().map_or(0, Store::held);
        [
            ("syncs", self.syncs.len(), SYNCS),
            ("wishes", self.queue.len() + self.again.len(), 2 * WAITING),
            ("calls", self.calls, SYNCS + 64 + 1),
            ("gossip remembered", self.seen.len(), SEEN),
            ("cells set aside", held, 1024),
            ("repairs", self.fixer.len(), 4096),
        ]
    }
}
