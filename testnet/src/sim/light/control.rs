//! The control plane of thousands of nodes: gossip, gaps, syncs, a partition of an hour.
//!
//! Syncs are the node's own ([`dht_store::sync::Session`]). Gossip is gossipsub in outline: whoever
//! publishes tells all its neighbours, whoever hears something new stores it and then tells its
//! mesh. What gossipsub adds for links that lose messages (IHAVE, IWANT) is counted in bytes, not
//! played: links lose nothing here, connections break.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dht_store::sync::{Given, Session};
use dht_store::wire::{Request, Response};
use p2pinst_types::{Millis, NodeId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::library::{Library, OnShelf, Shelf, answer, encoded, node_key};
use super::records::Records;
use super::{Scale, Spread};
use crate::sim::engine::{With, drive};
use crate::sim::links::{message_bytes, stream_bytes};
use crate::sim::queue::{Micros, Queue, SECOND};

/// Connections that a node keeps.
const NEIGHBOURS: usize = 64;
/// Those of them to which it passes gossip on.
const MESH: usize = 8;
/// Syncs under way at once.
const SYNCS: usize = 4;
/// A node syncs with a random neighbour so often.
const INTERVAL: Micros = 60 * SECOND;
/// A node verifies and stores before it passes on.
const STORE: Micros = 5_000;
/// Neighbours that were cut off are dialled again within so long.
const REDIAL: Micros = 15 * SECOND;
/// What gossipsub puts around a cell: source, signature, topic, sequence number.
const ENVELOPE: usize = 170;
/// What a node sends of each message in IHAVEs: three heartbeats, six peers, an id of 32 bytes.
const HINTS: u64 = 3 * 6 * (32 + 6);

#[derive(Debug)]
enum Event {
    Gossip { to: u32, from: u32, cell: u32 },
    PassOn { node: u32, from: u32, cell: u32 },
    Ask { to: u32, from: u32, request: Box<Request> },
    Answer { to: u32, from: u32, response: Box<Response> },
    Tick(u32),
    Publish,
    Reconnect(u32, u32),
}

#[derive(Debug, Default)]
struct Node {
    shelf: Shelf,
    /// Neighbours, and whether the connection is up.
    neighbours: Vec<(u32, bool)>,
    mesh: Vec<u32>,
    syncs: BTreeMap<u32, Session>,
    queue: VecDeque<u32>,
    gossip: u64,
    sync: u64,
}

impl Node {
    fn is_connected(&self, peer: u32) -> bool {
        self.neighbours.iter().any(|(n, up)| *n == peer && *up)
    }
}

/// How far a cell has come.
#[derive(Debug, Clone, Copy)]
struct Progress {
    cell: u32,
    begun: Micros,
    have: u32,
    last: Micros,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Control {
    rng: StdRng,
    queue: Queue<Event>,
    link: Micros,
    library: Library,
    records: Records,
    nodes: Vec<Node>,
    sides: Vec<bool>,
    progress: Vec<Progress>,
    /// Index of the first published cell.
    first: u32,
    pub(crate) messages: u64,
}

/// Bytes that a node sent on average, and the one that sent most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent {
    pub(crate) gossip: f64,
    pub(crate) sync: f64,
    pub(crate) most: f64,
}

impl Control {
    /// A cluster in which every node knows the roster.
    pub(crate) fn new(scale: &Scale) -> Option<Self> {
        let mut rng = StdRng::seed_from_u64(scale.seed);
        let mut library = Library::default();
        let records = Records::new();
        for n in 0..scale.nodes {
            let by = node_key(n % scale.admitters.max(1));
            library.write(by, records.admission(n), records.admission_payload())?;
        }
        let mut shelf = Shelf::default();
        let first = u32::try_from(library.len()).ok()?;
        for cell in 0..first {
            shelf.add(&library, cell);
        }
        shelf.digest(&library);
        let mut nodes: Vec<Node> =
            (0..scale.nodes).map(|_| Node { shelf: shelf.clone(), ..Node::default() }).collect();
        connect(&mut nodes, &mut rng);
        let mut queue = Queue::default();
        for n in 0..scale.nodes {
            let at = rng.random_range(0..INTERVAL);
            queue.at(at, Event::Tick(u32::try_from(n).ok()?));
        }
        let sides = vec![false; scale.nodes];
        let link = scale.link;
        let (progress, messages) = (Vec::new(), 0);
        Some(Self { rng, queue, link, library, records, nodes, sides, progress, first, messages })
    }

    fn latency(&mut self) -> Micros {
        self.link + self.rng.random_range(0..=self.link / 5)
    }

    /// Publishes so many times, `every` so often, and lets all settle. Returns how long the last
    /// node had to wait, for each publication.
    pub(crate) fn publish(&mut self, publications: usize, every: Micros) -> Spread {
        self.progress.clear();
        let begin = self.queue.now();
        for n in 0..publications as u64 {
            self.queue.at(begin + n * every, Event::Publish);
        }
        self.run_until(begin + publications as u64 * every + 2 * INTERVAL);
        self.spread()
    }

    /// How long each publication took to the last node.
    fn spread(&self) -> Spread {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let whole = self.progress.iter().filter(|p| p.have == nodes);
        let mut delays: Vec<f64> = whole.map(|p| seconds(p.last - p.begun)).collect();
        let missing = self.progress.len() - delays.len();
        delays.sort_by(f64::total_cmp);
        Spread { delays, missing }
    }

    /// Leaves the cluster alone.
    pub(crate) fn rest(&mut self, time: Micros) {
        self.run_until(self.queue.now() + time);
    }

    /// Cuts the cluster in two halves, publishes on both sides, and heals. Returns how long it took
    /// until all had all; `None`: not within ten minutes.
    pub(crate) fn partition(&mut self, lasts: Micros, publications: usize) -> Option<f64> {
        let mut halves: Vec<bool> = (0..self.nodes.len()).map(|n| n % 2 == 0).collect();
        rand::seq::SliceRandom::shuffle(halves.as_mut_slice(), &mut self.rng);
        self.sides = halves;
        let mut cut = BTreeSet::new();
        for (n, node) in (0u32..).zip(&mut self.nodes) {
            let side = self.sides.get(n as usize);
            for (peer, up) in &mut node.neighbours {
                if self.sides.get(*peer as usize) != side {
                    *up = false;
                    cut.insert((n.min(*peer), n.max(*peer)));
                }
            }
            node.queue.clear();
            let neighbours = &node.neighbours;
            node.syncs.retain(|p, _| neighbours.iter().any(|(n, up)| n == p && *up));
        }
        let begin = self.queue.now();
        let every = lasts / (publications as u64 + 1);
        for n in 0..publications as u64 {
            self.queue.at(begin + n * every, Event::Publish);
        }
        self.run_until(begin + lasts);
        self.sides = vec![false; self.nodes.len()];
        for (a, b) in cut {
            let later = self.rng.random_range(0..REDIAL);
            self.queue.after(later, Event::Reconnect(a, b));
        }
        let healed = self.queue.now();
        while self.queue.now() < healed + 600 * SECOND {
            self.run_until(self.queue.now() + SECOND / 10);
            let all = u32::try_from(self.library.len()).unwrap_or(u32::MAX);
            if self.nodes.iter().all(|n| n.shelf.count() == all) {
                return Some(seconds(self.queue.now() - healed));
            }
        }
        None
    }

    /// What was sent since the last call.
    pub(crate) fn sent(&mut self) -> Sent {
        let nodes = self.nodes.len().max(1) as f64;
        let mut sent = Sent::default();
        for node in &mut self.nodes {
            let (gossip, sync) = (std::mem::take(&mut node.gossip), std::mem::take(&mut node.sync));
            sent.gossip += gossip as f64 / nodes;
            sent.sync += sync as f64 / nodes;
            sent.most = sent.most.max((gossip + sync) as f64);
        }
        sent
    }

    /// Cells and bytes that every node holds.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.library.len(), self.library.bytes())
    }

    fn run_until(&mut self, until: Micros) {
        while let Some(event) = self.queue.next(until) {
            self.messages += 1;
            self.on(event);
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Gossip { to, from, cell } => self.hear(to, from, cell),
            Event::PassOn { node, from, cell } => {
                let mesh = self.nodes.get(node as usize).map(|n| n.mesh.clone());
                for peer in mesh.unwrap_or_default() {
                    if peer != from {
                        self.tell(node, peer, cell);
                    }
                }
            }
            Event::Ask { to, from, request } => self.asked(to, from, *request),
            Event::Answer { to, from, response } => self.answered(to, from, *response),
            Event::Tick(n) => {
                self.queue.after(INTERVAL, Event::Tick(n));
                let Some(node) = self.nodes.get(n as usize) else { return };
                let up: Vec<u32> =
                    node.neighbours.iter().filter(|(_, up)| *up).map(|(p, _)| *p).collect();
                if let Some(peer) = up.choose(&mut self.rng).copied() {
                    self.wish(n, peer);
                }
            }
            Event::Publish => self.on_publish(),
            Event::Reconnect(a, b) => {
                for (n, peer) in [(a, b), (b, a)] {
                    let node = self.nodes.get_mut(n as usize);
                    let link = node.and_then(|x| x.neighbours.iter_mut().find(|(p, _)| *p == peer));
                    if let Some((_, up)) = link {
                        *up = true;
                    }
                }
                self.wish(a, b);
                self.wish(b, a);
            }
        }
    }

    fn on_publish(&mut self) {
        let n = self.rng.random_range(0..self.nodes.len());
        let at = u32::try_from(n).unwrap_or_default();
        // the administrator of this side
        let by = node_key(usize::MAX - usize::from(self.sides.get(n).copied().unwrap_or(false)));
        let number = self.library.len() as u64;
        for (place, payload) in [self.records.release(number), self.records.deployment(number)] {
            let Some(cell) = self.library.write(by, place, payload) else { continue };
            let begun = self.queue.now();
            self.progress.push(Progress { cell, begun, have: 0, last: begun });
            self.take(at, cell);
            let to: Vec<u32> = self
                .nodes
                .get(n)
                .map(|n| n.neighbours.iter().map(|(p, _)| *p).collect())
                .unwrap_or_default();
            for peer in to {
                self.tell(at, peer, cell);
            }
        }
    }

    fn tell(&mut self, from: u32, to: u32, cell: u32) {
        let bytes = self.library.get(cell).map_or(0, |c| c.bytes().len());
        let Some(node) = self.nodes.get_mut(from as usize) else { return };
        if !node.is_connected(to) {
            return;
        }
        node.gossip += message_bytes(bytes + ENVELOPE);
        let delay = self.latency();
        self.queue.after(delay, Event::Gossip { to, from, cell });
    }

    /// Stores a cell; says whether it is new.
    fn take(&mut self, n: u32, cell: u32) -> bool {
        let Some(node) = self.nodes.get_mut(n as usize) else { return false };
        let news = node.shelf.add(&self.library, cell);
        if news {
            node.gossip += HINTS;
            self.count(cell);
        }
        news
    }

    fn count(&mut self, cell: u32) {
        let now = self.queue.now();
        let at = self.progress.partition_point(|p| p.cell < cell);
        if let Some(progress) = self.progress.get_mut(at).filter(|p| p.cell == cell) {
            progress.have += 1;
            progress.last = now;
        }
    }

    fn hear(&mut self, to: u32, from: u32, cell: u32) {
        if self.take(to, cell) {
            self.queue.after(STORE, Event::PassOn { node: to, from, cell });
            let node = self.nodes.get(to as usize);
            if node.is_some_and(|n| n.shelf.has_gap(&self.library, cell)) {
                self.wish(to, from);
            }
        }
    }

    fn wish(&mut self, n: u32, peer: u32) {
        let Some(node) = self.nodes.get_mut(n as usize) else { return };
        if !node.queue.contains(&peer) {
            node.queue.push_back(peer);
        }
        self.start_syncs(n);
    }

    fn start_syncs(&mut self, n: u32) {
        loop {
            let Some(node) = self.nodes.get_mut(n as usize) else { return };
            if node.syncs.len() >= SYNCS {
                return;
            }
            let free = node.queue.iter().position(|p| !node.syncs.contains_key(p));
            let Some(peer) = free.and_then(|at| node.queue.remove(at)) else { return };
            if node.is_connected(peer) {
                self.go_on(n, peer, Session::default(), Given::Nothing);
            }
        }
    }

    /// Goes on with a sync, up to the next question.
    fn go_on(&mut self, n: u32, peer: u32, mut session: Session, given: Given) {
        let now = Millis(self.queue.now() / 1000);
        let id = NodeId(node_key(peer as usize));
        let Some(node) = self.nodes.get_mut(n as usize) else { return };
        node.shelf.digest(&self.library);
        let mut on = OnShelf { library: &self.library, shelf: &mut node.shelf, new: Vec::new() };
        let with = With { peer: id, local: now, now };
        let next = drive(&mut session, given, &mut on, with);
        let new = on.new;
        if let Ok(Some(request)) = next {
            node.sync += stream_bytes() + message_bytes(encoded(&request));
            node.syncs.insert(peer, session);
            // the stream is opened first: there and back
            let delay = self.latency() + self.latency() + self.latency();
            let request = Box::new(request);
            self.queue.after(delay, Event::Ask { to: peer, from: n, request });
        }
        new.into_iter().for_each(|cell| self.count(cell));
    }

    fn asked(&mut self, to: u32, from: u32, request: Request) {
        let clock = Millis(self.queue.now() / 1000);
        let Some(node) = self.nodes.get_mut(to as usize) else { return };
        if !node.is_connected(from) {
            return;
        }
        let mut on = OnShelf { library: &self.library, shelf: &mut node.shelf, new: Vec::new() };
        let response = answer(&mut on, request, clock);
        let new = on.new;
        node.sync += message_bytes(encoded(&response));
        new.into_iter().for_each(|cell| self.count(cell));
        let delay = self.latency();
        let response = Box::new(response);
        self.queue.after(delay, Event::Answer { to: from, from: to, response });
    }

    fn answered(&mut self, to: u32, from: u32, response: Response) {
        let session = self.nodes.get_mut(to as usize).and_then(|n| n.syncs.remove(&from));
        if let Some(session) = session {
            self.go_on(to, from, session, Given::Answer(response));
        }
        self.start_syncs(to);
    }

    /// Cells published so far.
    pub(crate) fn published(&self) -> usize {
        self.library.len() - self.first as usize
    }
}

pub(crate) fn seconds(micros: Micros) -> f64 {
    micros as f64 / SECOND as f64
}

/// A random graph: everybody dials half of its neighbours and is dialled by the others.
fn connect(nodes: &mut [Node], rng: &mut StdRng) {
    let all = nodes.len();
    let link = |nodes: &mut [Node], a: usize, b: usize, meshed: bool| {
        for (n, peer) in [(a, b), (b, a)] {
            let peer = u32::try_from(peer).unwrap_or_default();
            if let Some(node) = nodes.get_mut(n) {
                node.neighbours.push((peer, true));
                if meshed {
                    node.mesh.push(peer);
                }
            }
        }
    };
    let open =
        |nodes: &[Node], n: usize| nodes.get(n).is_some_and(|n| n.neighbours.len() < NEIGHBOURS);
    for dialled in 0..NEIGHBOURS / 2 {
        for n in 0..all {
            let peer = rng.random_range(0..all);
            let known =
                nodes.get(n).is_some_and(|x| x.neighbours.iter().any(|(p, _)| *p as usize == peer));
            if peer != n && !known && open(nodes, n) && open(nodes, peer) {
                link(nodes, n, peer, dialled < MESH / 2);
            }
        }
    }
}
