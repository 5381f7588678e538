//! The world: nodes, what lies between them, and virtual time. Everything that happens is an event
//! of one queue, and every choice comes from one generator.

use std::collections::BTreeMap;
use std::time::Duration;

use dht_store::wire::{Request, Response};
use p2pinst_types::{Cell, CellId, Millis, NodeId, PublicKey, codec};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::Options;
use super::actors::Act;
use super::cast::{BEGIN, Cast};
use super::faults::Fault;
use super::liar;
use super::node::{Effect, Node, Purpose};
use crate::sim::links::{Links, message_bytes, stream_bytes};
use crate::sim::queue::{Micros, Queue, SECOND};
use crate::sim::trace::Trace;

/// How long who asks waits for an answer.
const PATIENCE: Micros = 10 * SECOND;
/// Peers that a gossiped cell is passed on to.
const MESH: usize = 8;
/// Beats between two looks at who can be connected, and at who is gone.
const DIAL: u64 = 5;
/// Looks that a silent peer is given.
const MISSED: u32 = 4;
/// Beats between two syncs with a random peer.
const SYNC: u64 = 60;

/// What goes between nodes.
#[derive(Debug, Clone)]
pub(crate) enum Packet {
    Request(u64, Vec<u8>),
    Response(u64, Vec<u8>),
    Gossip(Vec<u8>),
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Packet {
        from: usize,
        to: usize,
        life: u32,
        packet: Packet,
    },
    /// Nobody has answered.
    Timeout(u64),
    /// A node's second has passed: its node, its life, how many.
    Beat(usize, u32, u64),
    /// A connection is closed, as the first node sees it.
    Gone(usize, usize),
    Start(usize),
    Fault(Fault),
    Act(Act),
}

#[derive(Debug)]
struct Call {
    from: usize,
    life: u32,
    to: usize,
    purpose: Purpose,
}

/// Bytes that a node has sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) gossip: u64,
    pub(crate) control: u64,
    pub(crate) data: u64,
}

/// What was promised, and must be kept.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Control-plane cells that a node has taken from its administrator, and where.
    pub(crate) acknowledged: Vec<(usize, Cell)>,
    /// The newest version of what each node wrote of itself.
    pub(crate) written: BTreeMap<CellId, (usize, Cell)>,
    /// What a majority has acknowledged.
    pub(crate) settled: BTreeMap<CellId, Cell>,
    /// Own cells of which a node was told that somebody has a newer version: nobody forgets here.
    pub(crate) behind: Vec<(usize, Cell)>,
    /// Every cell that an honest author has signed, by place: for the merge laws.
    pub(crate) versions: BTreeMap<CellId, Vec<Cell>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) rng: StdRng,
    pub(crate) queue: Queue<Event>,
    pub(crate) links: Links,
    pub(crate) cast: Cast,
    pub(crate) nodes: Vec<Node>,
    pub(crate) ids: BTreeMap<PublicKey, usize>,
    pub(crate) ledger: Ledger,
    pub(crate) trace: Trace,
    pub(crate) traffic: Vec<Traffic>,
    calls: BTreeMap<u64, Call>,
    called: u64,
    missed: BTreeMap<(usize, usize), u32>,
}

impl World {
    pub(crate) fn new(options: Options, trace: Trace) -> Self {
        let mut rng = StdRng::seed_from_u64(options.seed);
        let cast = Cast::new(options.nodes, options.late);
        let hour = 3_600_000;
        let nodes: Vec<Node> = cast
            .machines
            .iter()
            .map(|(m, _)| {
                let skew = if options.skew { rng.random_range(-hour..=hour) } else { 0 };
                Node::new(
                    *cast.lab.cluster(),
                    m.key.clone(),
                    p2pinst_trust::policy::machine_id(&m.signed),
                    skew,
                )
            })
            .collect();
        let ids = nodes.iter().enumerate().map(|(i, n)| (n.id(), i)).collect();
        let mut links = Links::new(cast.machines.iter().map(|(_, site)| *site).collect());
        links.accidents = options.accidents;
        let traffic = vec![Traffic::default(); nodes.len()];
        let mut world = Self {
            options,
            rng,
            queue: Queue::default(),
            links,
            cast,
            nodes,
            ids,
            ledger: Ledger::default(),
            trace,
            traffic,
            calls: BTreeMap::new(),
            called: 0,
            missed: BTreeMap::new(),
        };
        for i in 0..world.options.nodes {
            world.found(i);
        }
        world
    }

    /// Starts a node with what every node has at the beginning.
    fn found(&mut self, i: usize) {
        let genesis = self.cast.genesis.clone();
        let started = self.start(i);
        let world = self.millis();
        if let Some(store) =
            self.nodes.get_mut(i).and_then(|n| n.store.as_mut()).filter(|_| started)
        {
            store.apply(genesis, &[], world).ok();
        }
    }

    /// The world's clock: that of a machine whose clock is right.
    pub(crate) fn millis(&self) -> Millis {
        BEGIN.after(Duration::from_micros(self.queue.now()))
    }

    pub(crate) fn node(&self, i: usize) -> Option<&Node> {
        self.nodes.get(i)
    }

    /// The nodes that are up and honest.
    pub(crate) fn honest(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|i| self.nodes.get(*i).is_some_and(Node::is_honest)).collect()
    }

    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.line(self.queue.now(), what);
    }

    /// Starts a node on its disk, as it is.
    pub(crate) fn start(&mut self, i: usize) -> bool {
        let roots = self.cast.lab.roots.clone();
        let Some(node) = self.nodes.get_mut(i).filter(|n| !n.is_up() && !n.lost) else {
            return false;
        };
        let started = node.start(&roots);
        let life = node.life;
        self.note(format_args!("n{i} starts: {started}"));
        if started {
            // not all at one moment
            let first = self.rng.random_range(0..SECOND);
            self.queue.after(first, Event::Beat(i, life, self.rng.random_range(0..SYNC)));
        }
        started
    }

    /// The process of a node is gone. `silent`: its machine too, so that nobody is told.
    pub(crate) fn stop(&mut self, i: usize, silent: bool) {
        let Some(node) = self.nodes.get_mut(i).filter(|n| n.is_up()) else { return };
        let peers = std::mem::take(&mut node.peers);
        node.stop();
        self.calls.retain(|_, c| c.from != i);
        self.note(format_args!("n{i} stops"));
        for peer in peers {
            if !silent && self.links.reach(i, peer) {
                let delay = self.links.latency(&mut self.rng, i, peer);
                self.queue.after(delay, Event::Gone(peer, i));
            }
        }
    }

    /// Runs until a moment.
    pub(crate) fn run_until(&mut self, until: Micros) {
        while let Some(event) = self.queue.next(until) {
            self.on(event);
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Packet { from, to, life, packet } => self.on_packet(from, to, life, packet),
            Event::Timeout(call) => self.on_answer(call, None),
            Event::Beat(i, life, count) => self.on_beat(i, life, count),
            Event::Gone(i, peer) => {
                if let Some(node) = self.nodes.get_mut(i) {
                    node.gone(peer);
                }
            }
            Event::Start(i) => drop(self.start(i)),
            Event::Fault(fault) => self.on_fault(fault),
            Event::Act(act) => self.on_act(act),
        }
    }

    fn on_beat(&mut self, i: usize, life: u32, count: u64) {
        let world = self.millis();
        let Some(node) = self.nodes.get_mut(i).filter(|n| n.life == life && n.is_up()) else {
            return;
        };
        self.queue.after(SECOND, Event::Beat(i, life, count + 1));
        if count.is_multiple_of(2) {
            node.retry();
        }
        if count.is_multiple_of(SYNC) {
            let peer = node.peers.iter().copied().choose(&mut self.rng);
            node.tick(peer, world);
        }
        if count.is_multiple_of(DIAL) {
            self.look_around(i);
        }
        self.pump(i);
    }

    /// Connects to members that are reached, gives up those that are not any more.
    fn look_around(&mut self, i: usize) {
        for peer in (0..self.nodes.len()).filter(|p| *p != i) {
            let (Some(node), Some(other)) = (self.nodes.get(i), self.nodes.get(peer)) else {
                continue;
            };
            let reach = other.is_up() && self.links.reach(i, peer);
            match (node.peers.contains(&peer), reach && other.peers.contains(&i)) {
                (true, true) => drop(self.missed.remove(&(i, peer))),
                (true, false) => {
                    let missed = self.missed.entry((i, peer)).or_default();
                    *missed += 1;
                    if *missed >= MISSED {
                        self.missed.remove(&(i, peer));
                        self.queue.after(0, Event::Gone(i, peer));
                    }
                }
                (false, _) if reach && (self.knows(i, peer) || self.knows(peer, i)) => {
                    self.connect(i, peer);
                }
                (false, _) => {}
            }
        }
    }

    /// Whether a node has another in its roster.
    fn knows(&self, i: usize, peer: usize) -> bool {
        let (Some(node), Some(other)) = (self.nodes.get(i), self.nodes.get(peer)) else {
            return false;
        };
        node.views().is_some_and(|v| v.machine_of(&other.id()).is_some())
    }

    fn connect(&mut self, a: usize, b: usize) {
        let world = self.millis();
        for (i, peer) in [(a, b), (b, a)] {
            let shown = self.nodes.get(peer).map(|p| (NodeId(p.id()), p.local(world)));
            if let (Some((id, clock)), Some(node)) = (shown, self.nodes.get_mut(i)) {
                node.connected(peer, id, clock, world);
            }
        }
        self.note(format_args!("n{a} n{b} connected"));
        self.pump(b);
    }

    /// Lets a node do what it can do now; one whose disk failed dies.
    pub(crate) fn pump(&mut self, i: usize) {
        let (at, world) = (self.queue.now(), self.millis());
        let jitter = self.rng.random_range(80..=120);
        let Some(node) = self.nodes.get_mut(i) else { return };
        let effects = node.work(&self.ids, (at, jitter), world);
        self.carry_out(i, effects);
        self.bury(i);
    }

    pub(crate) fn carry_out(&mut self, i: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Call(to, purpose, request) => self.call(i, to, purpose, &request),
                Effect::Gossip(cell, from) => self.gossip(i, &cell, from),
                Effect::Behind(cell) => {
                    self.note(format_args!("n{i} is behind itself: {}", cell.hash().short()));
                    self.ledger.behind.push((i, cell));
                }
                Effect::Settled(cells) => {
                    for cell in cells {
                        self.note(format_args!("n{i} settled {}", cell.hash().short()));
                        self.ledger.settled.insert(cell.id.clone(), cell);
                    }
                }
            }
        }
    }

    fn call(&mut self, from: usize, to: usize, purpose: Purpose, request: &Request) {
        let Some(node) = self.nodes.get_mut(from) else { return };
        self.called += 1;
        let (call, life) = (self.called, node.life);
        node.calls += 1;
        let connected = node.peers.contains(&to);
        let body = codec::encode(request).unwrap_or_default();
        let data = is_data(request);
        self.count(from, data, stream_bytes() + message_bytes(body.len()));
        self.calls.insert(call, Call { from, life, to, purpose });
        if connected {
            self.send(from, to, Packet::Request(call, body));
            self.queue.after(PATIENCE, Event::Timeout(call));
        } else {
            self.queue.after(SECOND, Event::Timeout(call));
        }
    }

    fn count(&mut self, node: usize, data: bool, bytes: u64) {
        if let Some(traffic) = self.traffic.get_mut(node) {
            *if data { &mut traffic.data } else { &mut traffic.control } += bytes;
        }
    }

    /// A cell goes to the mesh; to all who are connected when it is new.
    fn gossip(&mut self, i: usize, cell: &Cell, source: Option<usize>) {
        let Some(node) = self.nodes.get(i) else { return };
        let mut to: Vec<usize> =
            node.peers.iter().copied().filter(|p| Some(*p) != source).collect();
        if source.is_some() {
            // the same neighbours each time, others for each node
            to.sort_by_key(|p| (p ^ i).wrapping_mul(0x9e37_79b9) % 1009);
            to.truncate(MESH);
        }
        for peer in to {
            if let Some(traffic) = self.traffic.get_mut(i) {
                traffic.gossip += message_bytes(cell.bytes().len() + 150);
            }
            self.send(i, peer, Packet::Gossip(cell.bytes().to_vec()));
        }
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let Some(life) = self.nodes.get(to).map(|n| n.life) else { return };
        for delay in self.links.deliveries(&mut self.rng, from, to).into_iter().flatten() {
            self.queue.after(delay, Event::Packet { from, to, life, packet: packet.clone() });
        }
    }

    fn on_packet(&mut self, from: usize, to: usize, life: u32, packet: Packet) {
        let world = self.millis();
        let Some(id) = self.nodes.get(from).map(|n| NodeId(n.id())) else { return };
        let known = self
            .nodes
            .get(to)
            .is_some_and(|n| n.life == life && n.is_up() && n.peers.contains(&from));
        if !known || !self.links.reach(from, to) {
            return;
        }
        match packet {
            Packet::Request(call, body) => {
                let Ok(request) = codec::decode::<Request>(&body) else { return };
                let data = is_data(&request);
                self.note(format_args!("n{to} <- n{from} {} {}", kind_of(&request), body.len()));
                let answer = self.nodes.get_mut(to).and_then(|n| n.answer(id, request, world));
                let answer = match answer {
                    Some(a) if self.node(to).is_some_and(|n| n.liar) => {
                        liar::answer(&mut self.rng, &self.cast, a)
                    }
                    other => other.map(|a| codec::encode(&a).unwrap_or_default()),
                };
                if let Some(body) = answer {
                    self.count(to, data, message_bytes(body.len()));
                    self.send(to, from, Packet::Response(call, body));
                }
                self.pump(to);
            }
            Packet::Response(call, body) => {
                let response = codec::decode::<Response>(&body).ok();
                self.note(format_args!("n{to} <- n{from} answer {}", body.len()));
                if self.calls.get(&call).is_some_and(|c| c.from == to && c.to == from) {
                    self.on_answer(call, response);
                }
            }
            Packet::Gossip(bytes) => {
                self.note(format_args!("n{to} <- n{from} gossip {}", bytes.len()));
                let effects = self.nodes.get_mut(to).map(|n| n.gossiped(from, bytes, world));
                self.carry_out(to, effects.unwrap_or_default());
                self.pump(to);
            }
        }
    }

    fn on_answer(&mut self, call: u64, response: Option<Response>) {
        let Some(Call { from, life, to, purpose }) = self.calls.remove(&call) else { return };
        let (at, world) = (self.queue.now(), self.millis());
        let Some(id) = self.nodes.get(to).map(|n| NodeId(n.id())) else { return };
        let Some(node) = self.nodes.get_mut(from).filter(|n| n.life == life) else { return };
        let effects = node.answered((to, id), purpose, response, &self.ids, (at, world));
        self.carry_out(from, effects);
        self.pump(from);
    }
}

fn is_data(request: &Request) -> bool {
    use Request::{Compare, Get, List, Put};
    matches!(request, Put { .. } | Get { .. } | Compare { .. } | List { .. })
}

fn kind_of(request: &Request) -> &'static str {
    match request {
        Request::Heads { .. } => "heads",
        Request::Logs { .. } => "logs",
        Request::Roots => "roots",
        Request::Pull { .. } => "pull",
        Request::Push { .. } => "push",
        Request::Put { .. } => "put",
        Request::Get { .. } => "get",
        Request::Compare { .. } => "compare",
        Request::List { .. } => "list",
        _ => "another",
    }
}
