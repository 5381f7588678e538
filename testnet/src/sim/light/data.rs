//! The data plane of thousands of nodes: the node's own outbox and ring, over what each replica
//! holds in short.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dht_store::Outcome;
use dht_store::outbox::{Effect, Outbox};
use dht_store::placement::Ring;
use dht_store::shelf::Subject;
use dht_store::wire::{Request, Response};
use p2pinst_trust::fixture::name;
use p2pinst_types::{Cell, CellId, Hash, Kind, Name, PublicKey};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::library::{cell, cluster, encoded, node_key};
use crate::sim::engine::to_wire;
use crate::sim::links::{message_bytes, stream_bytes};
use crate::sim::queue::{Micros, Queue};

/// An answer that has not come by then never comes.
const PATIENCE: Micros = 10_000_000;

#[derive(Debug)]
enum Event {
    Put { to: u32, from: u32, cells: Vec<Cell> },
    Acks { to: u32, from: u32, answer: Option<Vec<(Cell, Outcome)>> },
    Wake(u32),
    Write(u32, Cell),
}

#[derive(Debug)]
struct Node {
    outbox: Outbox,
    /// The place of each cell that it holds, in short, and its number.
    holds: BTreeMap<u64, u64>,
    subjects: BTreeSet<u64>,
    sent: u64,
    /// For when it is woken.
    wake: Option<Micros>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Data {
    rng: StdRng,
    queue: Queue<Event>,
    link: Micros,
    /// The chance that a message is lost.
    loss: f64,
    pub(crate) ring: Arc<Ring>,
    index: BTreeMap<PublicKey, u32>,
    nodes: Vec<Node>,
    /// The newest number of each place, and who writes it.
    pub(crate) written: BTreeMap<CellId, (usize, u64)>,
    /// Versions that were written, and those that a majority has acknowledged.
    versions: (usize, usize),
    pub(crate) messages: u64,
}

fn short(parts: &[&[u8]]) -> u64 {
    let hash = Hash::of_parts("sim/place", parts);
    hash.0.iter().take(8).fold(0, |all, b| all << 8 | u64::from(*b))
}

fn place(id: &CellId) -> u64 {
    short(&[&id.kind.0.to_be_bytes(), &id.subject, &id.slot, id.author.as_bytes()])
}

/// The site of a node: half of them are at one.
fn site(n: usize) -> Name {
    name(if n.is_multiple_of(2) { "lab" } else { "pisa" })
}

fn all_nodes(nodes: usize) -> Ring {
    Ring::new(cluster(), (0..nodes).map(|n| (node_key(n), site(n))))
}

impl Data {
    /// Nodes of which each knows all others to be up.
    pub(crate) fn new(nodes: usize, link: Micros, loss: f64, seed: u64) -> Self {
        let keys = (0..nodes).map(node_key);
        Self {
            rng: StdRng::seed_from_u64(seed),
            queue: Queue::default(),
            link,
            loss,
            ring: Arc::new(all_nodes(nodes)),
            index: keys.zip(0..).collect(),
            nodes: (0..nodes)
                .map(|n| Node {
                    outbox: Outbox::new(node_key(n), Some(site(n))),
                    holds: BTreeMap::new(),
                    subjects: BTreeSet::new(),
                    sent: 0,
                    wake: None,
                })
                .collect(),
            written: BTreeMap::new(),
            versions: (0, 0),
            messages: 0,
        }
    }

    /// Plans that a node writes the next version of a record, so long from now.
    pub(crate) fn write_after(
        &mut self,
        delay: Micros,
        n: usize,
        (kind, subject, slot): (Kind, Vec<u8>, Vec<u8>),
        payload: Vec<u8>,
    ) {
        let id = CellId { kind, subject, slot, author: node_key(n) };
        let (_, seq) = self.written.entry(id.clone()).or_insert((n, 0));
        *seq += 1;
        self.versions.0 += 1;
        if let (Some(cell), Ok(n)) = (cell(id, *seq, payload), u32::try_from(n)) {
            self.queue.after(delay, Event::Write(n, cell));
        }
    }

    /// Runs until nothing more happens, or until a majority has everything (each version: they must
    /// not follow each other faster than they are settled).
    pub(crate) fn run(&mut self, only_settled: bool) {
        while let Some(event) = self.queue.next(u64::MAX) {
            self.messages += 1;
            self.on(event);
            if only_settled && self.versions.0 == self.versions.1 {
                return;
            }
        }
    }

    fn latency(&mut self) -> Micros {
        self.link + self.rng.random_range(0..=self.link / 5)
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Write(n, cell) => {
                let now = Duration::from_micros(self.queue.now());
                let Some(node) = self.nodes.get_mut(n as usize) else { return };
                node.hold(&cell);
                node.outbox.written(cell, now);
                self.step(n);
            }
            Event::Wake(n) => self.step(n),
            Event::Put { to, from, cells } => {
                let Some(node) = self.nodes.get_mut(to as usize) else { return };
                let outcomes: Vec<Outcome> = cells.iter().map(|c| node.hold(c)).collect();
                let bytes = encoded(&Response::Outcomes(outcomes.clone()));
                node.sent += message_bytes(bytes);
                let answer = Some(cells.into_iter().zip(outcomes).collect());
                self.answer(from, to, answer);
            }
            Event::Acks { to, from, answer } => {
                let now = Duration::from_micros(self.queue.now());
                if let Some(node) = self.nodes.get_mut(to as usize) {
                    node.outbox.answered(now, node_key(from as usize), answer);
                }
                self.step(to);
            }
        }
    }

    fn lost(&mut self) -> bool {
        self.loss > 0.0 && self.rng.random_bool(self.loss)
    }

    fn answer(&mut self, to: u32, from: u32, answer: Option<Vec<(Cell, Outcome)>>) {
        let delay = self.latency();
        let lost = self.lost();
        let (delay, answer) = if lost { (PATIENCE, None) } else { (delay, answer) };
        self.queue.after(delay, Event::Acks { to, from, answer });
    }

    fn step(&mut self, n: u32) {
        let now = Duration::from_micros(self.queue.now());
        let roster = self.nodes.len();
        let Some(node) = self.nodes.get_mut(n as usize) else { return };
        let effects = node.outbox.step(now, &self.ring, roster);
        let wake = node.outbox.wake().map(|at| u64::try_from(at.as_micros()).unwrap_or(u64::MAX));
        if let Some(at) = wake.filter(|_| wake != node.wake) {
            self.queue.at(at, Event::Wake(n));
        }
        node.wake = wake;
        for effect in effects {
            if let Effect::Settled(cells) = &effect {
                self.versions.1 += cells.len();
            }
            let Effect::Offer { to, cells } = effect else { continue };
            let Some(to) = self.index.get(&to).copied() else { continue };
            let request = Request::Put { cells: to_wire(&cells) };
            if let Some(node) = self.nodes.get_mut(n as usize) {
                node.sent += stream_bytes() + message_bytes(encoded(&request));
            }
            if self.lost() {
                let answer = None;
                self.queue.after(PATIENCE, Event::Acks { to: n, from: to, answer });
            } else {
                let delay = self.latency() + self.latency() + self.latency();
                self.queue.after(delay, Event::Put { to, from: n, cells });
            }
        }
    }

    /// Bytes that a node has sent, on average.
    pub(crate) fn sent(&self) -> f64 {
        self.nodes.iter().map(|n| n.sent).sum::<u64>() as f64 / self.nodes.len().max(1) as f64
    }

    /// Of these cells, how many are gone when these nodes are; and of those that are gone, how many
    /// had fewer than a majority of their replicas among the dead.
    pub(crate) fn lost_without(&self, dead: &BTreeSet<usize>) -> Lost {
        let mut lost = Lost { cells: self.written.len(), ..Lost::default() };
        let living: Vec<&Node> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(n, _)| !dead.contains(n))
            .map(|(_, x)| x)
            .collect();
        for (id, (writer, seq)) in &self.written {
            let subject = Subject { kind: id.kind, id: id.subject.clone() };
            let replicas = self.ring.replicas(&subject, Some(&site(*writer)));
            let of_dead =
                |r: &PublicKey| self.index.get(r).is_some_and(|i| dead.contains(&(*i as usize)));
            let died = replicas.iter().filter(|r| of_dead(r)).count();
            let place = place(id);
            if !living.iter().any(|n| n.holds.get(&place) >= Some(seq)) {
                lost.lost += 1;
                lost.too_early +=
                    usize::from(died < dht_store::placement::majority(replicas.len()));
            }
        }
        lost
    }

    /// The replicas of a subject of no site.
    pub(crate) fn replicas(&self, kind: Kind, subject: Vec<u8>) -> Vec<usize> {
        let replicas = self.ring.replicas(&Subject { kind, id: subject }, None);
        replicas.iter().filter_map(|r| self.index.get(r).map(|i| *i as usize)).collect()
    }

    /// Keys (subjects) and cells that a node holds: average and most.
    pub(crate) fn held(&self) -> [f64; 4] {
        let average = |f: &dyn Fn(&Node) -> usize| {
            self.nodes.iter().map(f).sum::<usize>() as f64 / self.nodes.len().max(1) as f64
        };
        let most = |f: &dyn Fn(&Node) -> usize| self.nodes.iter().map(f).max().unwrap_or(0) as f64;
        let (subjects, cells) = (|n: &Node| n.subjects.len(), |n: &Node| n.holds.len());
        [average(&subjects), most(&subjects), average(&cells), most(&cells)]
    }
}

/// What was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Cells that there were.
    pub cells: usize,
    /// Cells that nobody holds any more.
    pub lost: usize,
    /// Those of them of whose replicas fewer than a majority died: there must be none.
    pub too_early: usize,
}

impl Node {
    fn hold(&mut self, cell: &Cell) -> Outcome {
        let seq = cell.version.seq;
        let held = self.holds.entry(place(&cell.id)).or_default();
        if *held > seq {
            return Outcome::Newer;
        }
        if *held == seq {
            return Outcome::Known;
        }
        *held = seq;
        self.subjects.insert(short(&[&cell.id.kind.0.to_be_bytes(), &cell.id.subject]));
        Outcome::Accepted
    }
}
