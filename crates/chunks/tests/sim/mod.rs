//! A deterministic swarm in virtual time: links with rates and latency, `Fetch` and `Serve` at every
//! node, faults on a schedule. One seed, one run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use p2pinst_chunks::fetch::{Input, Limits, Output, Place};
use p2pinst_chunks::serve::{Job, ServeLimits};
use p2pinst_chunks::wire::Refusal;
use p2pinst_chunks::{Bitmap, Fetch, Serve};
use p2pinst_types::{BlobRef, Hash, PieceIndex};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) type Node = usize;

/// What the swarm is made of. Node 0 is the source.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) peers: usize,
    pub(crate) len: u64,
    /// Bytes per second, up and down, of every node.
    pub(crate) rate: f64,
    pub(crate) latency: Duration,
    /// How long a node collects new pieces before it tells its neighbours.
    pub(crate) have_delay: Duration,
    pub(crate) slots: usize,
    pub(crate) limits: Limits,
    /// Whether concurrent flows share a link evenly, or by weights drawn for each pair of nodes.
    pub(crate) fair: bool,
    pub(crate) super_seed: bool,
    /// Nodes that vanish; their neighbours notice `detect` later.
    pub(crate) kills: Vec<(Node, Duration)>,
    pub(crate) detect: Duration,
    /// Nodes that stop sending and receiving and never close a stream.
    pub(crate) freezes: Vec<(Node, Duration)>,
    /// Nodes whose every piece is bad.
    pub(crate) liars: Vec<Node>,
    /// Nodes that start later.
    pub(crate) late: Vec<(Node, Duration)>,
}

impl Plan {
    pub(crate) fn lan(peers: usize, seed: u64) -> Self {
        Self {
            seed,
            peers,
            len: 64 << 20,
            rate: 100e6 / 8.0,
            latency: Duration::from_micros(300),
            have_delay: Duration::from_millis(20),
            slots: ServeLimits::default().slots,
            limits: Limits::default(),
            fair: true,
            super_seed: true,
            kills: vec![],
            detect: Duration::from_millis(500),
            freezes: vec![],
            liars: vec![],
            late: vec![],
        }
    }

    /// The bound for equal links: the source must send everything once.
    pub(crate) fn bound(&self) -> f64 {
        self.len as f64 / self.rate
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// When each node was complete, in seconds.
    pub(crate) done: BTreeMap<Node, f64>,
    /// Pieces that came to nodes that had them.
    pub(crate) duplicates: u64,
    pub(crate) pieces: u64,
    /// Pieces that the source sent, over the pieces of the blob.
    pub(crate) copies_from_source: f64,
    pub(crate) bans: BTreeSet<(Node, Node)>,
    pub(crate) refused: u64,
    pub(crate) starved: u64,
    /// Most requests that waited at one node.
    pub(crate) deepest: usize,
    pub(crate) steps: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Join(Node, Node),
    Request(Node, Node, PieceIndex),
    Cancel(Node, Node, PieceIndex),
    Refused(Node, Node, PieceIndex, Refusal),
    Arrived(Node, Node, PieceIndex),
    FlushHave(Node),
    Has(Node, Node, Vec<PieceIndex>),
    Gone(Node, Node),
    Tick(Node),
    Kill(Node),
    Freeze(Node),
    Start(Node),
}

struct Flow {
    from: Node,
    to: Node,
    piece: PieceIndex,
    left: f64,
    weight: f64,
    rate: f64,
}

struct State {
    fetch: Fetch<Node>,
    serve: Serve<Node>,
    fresh: Vec<PieceIndex>,
    waiting: usize,
    up: bool,
    started: bool,
}

pub(crate) struct Sim {
    plan: Plan,
    blob: BlobRef,
    now: f64,
    rng: StdRng,
    nodes: Vec<State>,
    flows: Vec<Flow>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    order: u64,
    weights: BTreeMap<(Node, Node), f64>,
    report: Report,
}

impl Sim {
    pub(crate) fn new(plan: Plan) -> Self {
        let blob = BlobRef::new(Hash([1; 32]), plan.len).unwrap();
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let late: BTreeSet<_> = plan.late.iter().map(|(n, _)| *n).collect();
        let nodes = (0..=plan.peers)
            .map(|n| {
                let have = match n {
                    0 => Bitmap::full(blob.pieces()),
                    _ => Bitmap::new(blob.pieces()),
                };
                let limits = ServeLimits { slots: plan.slots, ..ServeLimits::default() };
                let mut serve = Serve::new(limits);
                if n == 0 && plan.super_seed {
                    serve.seed(blob.root, blob.pieces());
                }
                State {
                    fetch: Fetch::new(blob, have, plan.limits.clone()),
                    serve,
                    fresh: vec![],
                    waiting: 0,
                    up: true,
                    started: !late.contains(&n),
                }
            })
            .collect();
        let mut weights = BTreeMap::new();
        for a in 0..=plan.peers {
            for b in 0..=plan.peers {
                let weight = if plan.fair { 1.0 } else { rng.random_range(0.2..1.0) };
                weights.insert((a, b), weight);
            }
        }
        let mut sim = Self {
            blob,
            now: 0.0,
            rng,
            nodes,
            flows: vec![],
            events: BinaryHeap::new(),
            order: 0,
            weights,
            report: Report::default(),
            plan,
        };
        for n in 0..=sim.plan.peers {
            match sim.plan.late.iter().find(|(l, _)| *l == n) {
                Some((_, at)) => sim.at(*at, Event::Start(n)),
                None => sim.at(Duration::ZERO, Event::Start(n)),
            }
        }
        for (n, at) in sim.plan.kills.clone() {
            sim.at(at, Event::Kill(n));
        }
        for (n, at) in sim.plan.freezes.clone() {
            sim.at(at, Event::Freeze(n));
        }
        sim
    }

    fn clock(&self) -> Duration {
        Duration::from_secs_f64(self.now)
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.clock() + delay, event);
    }

    fn send(&mut self, event: Event) {
        self.after(self.plan.latency, event);
    }

    /// Nodes that must be complete for the run to end.
    fn expected(&self) -> usize {
        (1..=self.plan.peers)
            .filter(|n| {
                !self.plan.kills.iter().chain(&self.plan.freezes).any(|(k, _)| k == n)
                    && !self.plan.liars.contains(n)
            })
            .count()
    }

    pub(crate) fn run(mut self) -> Report {
        let seed = self.plan.seed;
        loop {
            let done = self.report.done.keys().filter(|n| self.nodes[**n].up).count();
            if done >= self.expected() {
                return self.report;
            }
            assert!(self.now < 600.0, "seed {seed}: not complete after 600 s: {:?}", self.report);
            self.share();
            let flow = self.flows.iter().map(|f| f.left / f.rate).fold(f64::INFINITY, f64::min);
            let event = self.events.peek().map(|Reverse((at, ..))| at.as_secs_f64());
            let event = event.expect("ticks never end");
            if self.now + flow <= event {
                self.advance(flow);
                self.finish_flows();
            } else {
                self.advance((event - self.now).max(0.0));
                let Some(Reverse((_, _, event))) = self.events.pop() else { unreachable!() };
                self.handle(event);
            }
        }
    }

    fn advance(&mut self, by: f64) {
        self.now += by;
        for flow in &mut self.flows {
            flow.left -= flow.rate * by;
        }
    }

    /// Weighted max-min fair rates over all up- and downlinks, by progressive filling.
    fn share(&mut self) {
        let n = self.nodes.len();
        let mut room = vec![self.plan.rate; 2 * n];
        let mut open: Vec<usize> = (0..self.flows.len()).collect();
        while !open.is_empty() {
            let mut weight = vec![0.0; 2 * n];
            for i in &open {
                let f = &self.flows[*i];
                weight[f.from] += f.weight;
                weight[n + f.to] += f.weight;
            }
            let level = (0..2 * n)
                .filter(|l| weight[*l] > 0.0)
                .map(|l| room[l] / weight[l])
                .fold(f64::INFINITY, f64::min);
            let tight = |l: usize| room[l] / weight[l] <= level * (1.0 + 1e-9);
            let (full, rest): (Vec<usize>, Vec<usize>) = open.iter().partition(|i| {
                let f = &self.flows[**i];
                tight(f.from) || tight(n + f.to)
            });
            for i in full {
                let f = &mut self.flows[i];
                f.rate = (f.weight * level).max(1.0);
                room[f.from] = (room[f.from] - f.rate).max(0.0);
                room[n + f.to] = (room[n + f.to] - f.rate).max(0.0);
            }
            open = rest;
        }
    }

    fn finish_flows(&mut self) {
        let (done, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flows).into_iter().partition(|f| f.left <= 1e-3);
        self.flows = rest;
        for f in done {
            self.nodes[f.from].serve.done(f.to);
            self.send(Event::Arrived(f.to, f.from, f.piece));
            self.pump(f.from);
        }
    }

    /// Starts what a node may send.
    fn pump(&mut self, from: Node) {
        while let Some(Job { peer, piece, .. }) = self.nodes[from].serve.next_job() {
            self.nodes[from].waiting = self.nodes[from].serve.waiting();
            let range = self.blob.range(piece).unwrap();
            // a frame's header, and the acknowledgements of TCP, are left out of all figures
            let left = (range.end - range.start) as f64;
            let weight = self.weights[&(from, peer)];
            self.flows.push(Flow { from, to: peer, piece, left, weight, rate: 1.0 });
            if from == 0 {
                self.report.copies_from_source += 1.0 / f64::from(self.blob.pieces());
            }
        }
    }

    fn step(&mut self, n: Node, input: Input<Node>) {
        let mut out = Vec::new();
        let now = self.clock();
        self.report.steps += 1;
        let state = &mut self.nodes[n];
        state.fetch.step(now, &mut self.rng, input, &mut out);
        for output in out {
            match output {
                Output::Request { peer, piece } => self.send(Event::Request(peer, n, piece)),
                Output::Cancel { peer, piece } => self.send(Event::Cancel(peer, n, piece)),
                Output::Ban { peer, .. } => {
                    assert!(self.plan.liars.contains(&peer), "an honest peer is banned");
                    self.report.bans.insert((n, peer));
                    self.send(Event::Gone(peer, n));
                }
                Output::Complete => {
                    self.report.done.insert(n, self.now);
                }
                Output::Starved => self.report.starved += 1,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(n) => {
                self.nodes[n].started = true;
                if n > 0 {
                    self.after(Duration::from_millis(n as u64 % 100), Event::Tick(n));
                }
                for m in 0..self.nodes.len() {
                    if m != n && self.nodes[m].started {
                        self.send(Event::Join(n, m));
                        self.send(Event::Join(m, n));
                    }
                }
            }
            Event::Kill(n) => {
                self.nodes[n].up = false;
                self.flows.retain(|f| f.from != n && f.to != n);
                for m in 0..self.nodes.len() {
                    if m != n {
                        self.after(self.plan.detect, Event::Gone(m, n));
                    }
                }
            }
            Event::Freeze(n) => {
                self.nodes[n].up = false;
                // what was under way stays so for ever
                self.flows.retain(|f| f.from != n && f.to != n);
            }
            Event::Tick(n) => {
                self.after(Duration::from_millis(100), Event::Tick(n));
                if self.nodes[n].up {
                    self.step(n, Input::Tick);
                }
            }
            Event::Join(n, m) if self.nodes[n].up && self.nodes[m].up && n > 0 => {
                let have = match self.plan.liars.contains(&m) {
                    true => Bitmap::full(self.blob.pieces()),
                    false => self.nodes[m].fetch.have().clone(),
                };
                self.step(n, Input::Joined { peer: m, place: Place::Site, have });
            }
            Event::Request(n, from, piece) if self.nodes[n].up => {
                let state = &mut self.nodes[n];
                match state.serve.request(from, self.blob.root, piece) {
                    Ok(()) => state.waiting = state.serve.waiting(),
                    Err(reason) => {
                        self.report.refused += 1;
                        self.send(Event::Refused(from, n, piece, reason));
                    }
                }
                self.report.deepest = self.report.deepest.max(self.nodes[n].waiting);
                self.pump(n);
            }
            Event::Cancel(n, from, piece) if self.nodes[n].up => {
                let state = &mut self.nodes[n];
                state.serve.cancel(from, self.blob.root, piece);
                state.waiting = state.serve.waiting();
            }
            Event::Refused(n, from, piece, reason) if self.nodes[n].up => {
                self.step(n, Input::Refused { peer: from, piece, reason });
            }
            Event::Arrived(n, from, piece) if self.nodes[n].up => self.arrived(n, from, piece),
            Event::FlushHave(n) if self.nodes[n].up => {
                let pieces = std::mem::take(&mut self.nodes[n].fresh);
                for m in 1..self.nodes.len() {
                    if m != n {
                        self.send(Event::Has(m, n, pieces.clone()));
                    }
                }
            }
            Event::Has(n, m, pieces) if self.nodes[n].up => {
                self.step(n, Input::Has { peer: m, pieces });
            }
            Event::Gone(n, m) if self.nodes[n].up => {
                self.nodes[n].serve.left(m);
                self.nodes[n].waiting = self.nodes[n].serve.waiting();
                self.flows.retain(|f| f.from != n || f.to != m);
                if n > 0 {
                    self.step(n, Input::Left { peer: m });
                }
                self.pump(n);
            }
            _ => {}
        }
    }

    fn arrived(&mut self, n: Node, from: Node, piece: PieceIndex) {
        if self.plan.liars.contains(&from) {
            return self.step(n, Input::Bad { peer: from, piece });
        }
        self.report.pieces += 1;
        let new = !self.nodes[n].fetch.have().get(piece);
        self.report.duplicates += u64::from(!new);
        self.step(n, Input::Verified { peer: from, piece });
        if new {
            if self.nodes[n].fresh.is_empty() {
                self.after(self.plan.have_delay, Event::FlushHave(n));
            }
            self.nodes[n].fresh.push(piece);
        }
    }
}
