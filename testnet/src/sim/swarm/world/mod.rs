//! The simulated swarm itself.

mod connect;
mod faults;
mod pieces;

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_chunks::fetch::place::{Place, SiteTag};
use p2pinst_chunks::fetch::{Input, Limits, Output};
use p2pinst_chunks::news::News;
use p2pinst_chunks::serve::ServeLimits;
use p2pinst_chunks::wire::Refusal;
use p2pinst_chunks::{Bitmap, Fetch, Serve};
use p2pinst_types::{BlobRef, Hash, PieceIndex};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::links::{Fluid, Up};
use super::{Bad, Fault, MBIT, Plan, Report};
use crate::sim::queue::{Micros, Queue};

/// How often a scheduler is told that time has passed.
const TICK: Micros = 100_000;
/// After what time a death is known to all.
const DETECT: Micros = 2_000_000;
/// Sources at other sites, of a gateway.
const FAR: usize = 4;
/// Bytes before the body of a message.
const HEADER: u64 = 5;

/// A message, or something that a node is to do.
#[derive(Debug)]
enum Event {
    Start(u32),
    Tick(u32),
    /// A downloader opens the blob.
    Open {
        at: u32,
        from: u32,
    },
    Opened {
        at: u32,
        from: u32,
        seeding: bool,
        have: Bitmap,
    },
    NotFound {
        at: u32,
        from: u32,
    },
    Request {
        at: u32,
        from: u32,
        piece: PieceIndex,
    },
    Cancel {
        at: u32,
        from: u32,
        piece: PieceIndex,
    },
    Close {
        at: u32,
        from: u32,
    },
    Refused {
        at: u32,
        from: u32,
        piece: PieceIndex,
    },
    Offered {
        at: u32,
        from: u32,
        pieces: Vec<PieceIndex>,
    },
    Free {
        at: u32,
        from: u32,
    },
    Has {
        at: u32,
        from: u32,
        pieces: Rc<[PieceIndex]>,
    },
    Piece {
        at: u32,
        from: u32,
        piece: PieceIndex,
    },
    /// A stream of pieces can take another.
    Sent {
        from: u32,
        to: u32,
    },
    Uplink {
        at: u32,
        turn: u32,
    },
    News(u32),
    /// A downloader's source, or a source's downloader, is gone.
    Gone {
        at: u32,
        from: u32,
    },
    Fault(Fault),
}

struct Node {
    site: u8,
    tag: u64,
    bad: Option<Bad>,
    alive: bool,
    started: bool,
    done: Option<Micros>,
    fetch: Fetch<u32>,
    serve: Serve<u32>,
    up: Up<(u32, PieceIndex)>,
    down: Fluid,
    sources: Vec<u32>,
    downloaders: Vec<u32>,
    /// Sources that are not to be tried again.
    gone: Vec<u32>,
    news: News,
    fresh: Vec<PieceIndex>,
    steps: u64,
}

impl Node {
    fn claims_all(&self) -> bool {
        matches!(self.bad, Some(Bad::Silent | Bad::Garbage | Bad::Busy))
    }
}

pub(super) struct World {
    plan: Plan,
    blob: BlobRef,
    queue: Queue<Event>,
    rng: StdRng,
    nodes: Vec<Node>,
    /// Out of and into each site.
    wan: Vec<(Fluid, Fluid)>,
    cut: Vec<bool>,
    left: Bitmap,
    waiting: usize,
    control: u64,
    crossed: Vec<u64>,
    published: u64,
    report: Report,
    out: Vec<Output<u32>>,
}

#[allow(clippy::indexing_slicing, reason = "nodes and sites have numbers below the number of them")]
impl World {
    pub(super) fn new(plan: Plan) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let len = u64::from(plan.pieces) * plan.piece_len;
        let log2 = u8::try_from(plan.piece_len.trailing_zeros()).unwrap_or(u8::MAX);
        let root = Hash([1; 32]);
        let blob = BlobRef::with_piece_log2(root, len, log2).context("no such size of pieces")?;
        let node = |n: u32, rng: &mut StdRng| {
            let bad = plan.bad.iter().find(|(b, _)| *b == n).map(|(_, b)| *b);
            let slow = if bad == Some(Bad::Slow) { 0.01 } else { 1.0 };
            let have =
                if n == 0 { Bitmap::full(blob.pieces()) } else { Bitmap::new(blob.pieces()) };
            let limits = ServeLimits { slots: plan.slots, ..ServeLimits::default() };
            let mut serve = Serve::new(limits);
            if n == 0 {
                serve.seed(root, blob.pieces());
            }
            Node {
                site: plan.site(n),
                tag: rng.random(),
                bad,
                alive: true,
                started: n == 0,
                done: None,
                fetch: Fetch::new(blob, have, Limits::default()),
                serve,
                up: Up::new(plan.rate.0 * MBIT * slow, plan.share),
                down: Fluid::new(plan.rate.1 * MBIT * slow),
                sources: Vec::new(),
                downloaders: Vec::new(),
                gone: Vec::new(),
                news: News::default(),
                fresh: Vec::new(),
                steps: 0,
            }
        };
        let nodes: Vec<Node> = (0..=plan.nodes).map(|n| node(n, &mut rng)).collect();
        let mut queue = Queue::default();
        for n in 1..=plan.nodes {
            let late = plan.late.iter().find(|(l, _)| *l == n).map_or(0.0, |(_, at)| at * 1000.0);
            queue.at(millis(late + rng.random::<f64>() * plan.start), Event::Start(n));
        }
        for (at, fault) in &plan.faults {
            queue.at(millis(at * 1000.0), Event::Fault(*fault));
        }
        let sites = usize::from(plan.sites.max(1));
        let wan = (0..sites).map(|_| (Fluid::new(plan.wan * MBIT), Fluid::new(plan.wan * MBIT)));
        let waiting = nodes.iter().skip(1).filter(|n| n.bad.is_none()).count();
        Ok(Self {
            report: Report { bound: plan.bound(), ..Report::default() },
            blob,
            queue,
            rng,
            nodes,
            wan: wan.collect(),
            cut: vec![false; sites],
            left: Bitmap::new(blob.pieces()),
            waiting,
            control: 0,
            crossed: vec![0; sites],
            published: 0,
            out: Vec::new(),
            plan,
        })
    }

    pub(super) fn run(mut self) -> Result<Report> {
        let until = millis(self.plan.patience * 1000.0);
        while self.waiting > 0 {
            let Some(event) = self.queue.next(until) else { break };
            self.handle(event);
        }
        let (seed, waiting) = (self.plan.seed, self.waiting);
        let stuck: Vec<_> = self
            .nodes
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(_, n)| n.alive && n.done.is_none() && n.bad.is_none())
            .map(|(i, n)| (i, n.fetch.have().count()))
            .take(9)
            .collect();
        ensure!(
            waiting == 0,
            "seed {seed}: {waiting} nodes are not done after {} s: {stuck:?}",
            self.plan.patience
        );
        let mut report = self.report;
        ensure!(report.banned == 0, "seed {seed}: somebody is banned who did nothing wrong");
        let pieces = f64::from(self.blob.pieces());
        report.done = self.nodes.iter().filter_map(|n| n.done).map(|d| d as f64 / 1e6).collect();
        report.done.sort_by(f64::total_cmp);
        report.publisher = self.published as f64 / pieces;
        report.wan = self.crossed.iter().map(|c| *c as f64 / pieces).collect();
        let bytes = report.pieces as f64 * self.blob.piece_len() as f64;
        report.control = self.control as f64 / bytes;
        report.steps = self.nodes.iter().map(|n| n.steps).sum();
        let most = self.nodes.iter().map(|n| n.steps).max().unwrap_or_default();
        report.most_steps = most as f64 / pieces;
        Ok(report)
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.queue.now())
    }

    fn is_cut(&self, a: u32, b: u32) -> bool {
        let (a, b) =
            (usize::from(self.nodes[a as usize].site), usize::from(self.nodes[b as usize].site));
        a != b && (self.cut[a] || self.cut[b])
    }

    fn delay(&self, a: u32, b: u32) -> f64 {
        let near = self.nodes[a as usize].site == self.nodes[b as usize].site;
        (if near { self.plan.delay.0 } else { self.plan.delay.1 }) * 1000.0
    }

    /// Sends a message of so many bytes.
    fn send(&mut self, from: u32, to: u32, bytes: u64, event: Event) {
        self.control += bytes + HEADER;
        if self.is_cut(from, to) || !self.nodes[from as usize].alive {
            return;
        }
        let queue =
            if self.nodes[from as usize].up.is_busy() { self.plan.queue * 1000.0 } else { 0.0 };
        self.queue.after((self.delay(from, to) + queue) as Micros, event);
    }

    fn place(&self, of: u32, seen_from: u32) -> Place {
        let (of, here) = (self.nodes[of as usize].site, self.nodes[seen_from as usize].site);
        if of == here { Place::Site } else { Place::Far(SiteTag(u64::from(of))) }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(n) => {
                self.nodes[n as usize].started = true;
                self.tell_members(n);
                let phase = self.rng.random_range(0..TICK);
                self.queue.after(phase, Event::Tick(n));
            }
            Event::Tick(n) => {
                let node = &self.nodes[n as usize];
                if node.alive && node.done.is_none() {
                    self.connect(n);
                    self.step(n, Input::Tick);
                    self.queue.after(TICK, Event::Tick(n));
                }
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Uplink { at, turn } => self.uplink(at, turn),
            Event::News(n) => self.on_news(n),
            Event::Sent { from, to } => {
                self.nodes[from as usize].serve.done(to);
                self.pump(from);
            }
            Event::Open { at, from } => self.on_open(at, from),
            Event::Request { at, from, piece } => self.on_request(at, from, piece),
            Event::Cancel { at, from, piece } => {
                if self.nodes[at as usize].alive {
                    self.nodes[at as usize].serve.cancel(from, self.blob.root, piece);
                    self.pump(at);
                }
            }
            Event::Close { at, from } => {
                self.nodes[at as usize].downloaders.retain(|d| *d != from);
                self.nodes[at as usize].serve.left(from);
                self.pump(at);
            }
            Event::Gone { at, from } => self.on_gone(at, from),
            Event::Opened { at, from, seeding, have } => {
                let place = self.place(from, at);
                self.step_from(at, from, Input::Joined { peer: from, place, seeding, have });
            }
            Event::NotFound { at, from } => {
                self.nodes[at as usize].sources.retain(|s| *s != from);
                self.connect(at);
            }
            Event::Refused { at, from, piece } => {
                let reason = Refusal::Busy;
                self.step_from(at, from, Input::Refused { peer: from, piece, reason });
            }
            Event::Offered { at, from, pieces } => {
                self.step_from(at, from, Input::Offered { peer: from, pieces });
            }
            Event::Free { at, from } => self.step_from(at, from, Input::Free { peer: from }),
            Event::Has { at, from, pieces } => {
                self.step_from(at, from, Input::Has { peer: from, pieces: pieces.to_vec() });
            }
            Event::Piece { at, from, piece } => self.on_piece(at, from, piece),
        }
    }

    /// Something that a source says, if it still is one.
    fn step_from(&mut self, at: u32, from: u32, input: Input<u32>) {
        if self.nodes[at as usize].sources.contains(&from) {
            self.step(at, input);
        }
    }

    fn step(&mut self, n: u32, input: Input<u32>) {
        let now = self.now();
        let node = &mut self.nodes[n as usize];
        if !node.alive || node.done.is_some() || node.claims_all() {
            return;
        }
        node.steps += 1;
        let mut out = std::mem::take(&mut self.out);
        node.fetch.step(now, &mut self.rng, input, &mut out);
        for output in out.drain(..) {
            match output {
                Output::Request { peer, piece } => {
                    self.send(n, peer, 4, Event::Request { at: peer, from: n, piece });
                }
                Output::Cancel { peer, piece } => {
                    self.send(n, peer, 4, Event::Cancel { at: peer, from: n, piece });
                }
                Output::Ban { peer, .. } => {
                    self.report.banned +=
                        u64::from(self.nodes[peer as usize].bad != Some(Bad::Garbage));
                    self.close(n, peer);
                }
                Output::Drop { peer } => {
                    self.report.dropped += 1;
                    self.close(n, peer);
                }
                Output::Complete => {
                    self.nodes[n as usize].done = Some(self.queue.now());
                    self.waiting -= usize::from(self.nodes[n as usize].bad.is_none());
                    for source in std::mem::take(&mut self.nodes[n as usize].sources) {
                        self.send(n, source, 0, Event::Close { at: source, from: n });
                    }
                }
                Output::Starved => self.report.starved += 1,
            }
        }
        self.out = out;
    }

    fn close(&mut self, n: u32, peer: u32) {
        self.nodes[n as usize].gone.push(peer);
        self.nodes[n as usize].sources.retain(|s| *s != peer);
        self.send(n, peer, 0, Event::Close { at: peer, from: n });
    }

    fn on_request(&mut self, at: u32, from: u32, piece: PieceIndex) {
        let node = &mut self.nodes[at as usize];
        if !node.alive || node.bad == Some(Bad::Silent) {
            return;
        }
        let busy =
            node.bad == Some(Bad::Busy) || node.serve.request(from, self.blob.root, piece).is_err();
        if busy {
            self.report.refused += 1;
            self.send(at, from, 5, Event::Refused { at: from, from: at, piece });
        }
        self.pump(at);
    }
}

fn millis(n: f64) -> Micros {
    (n * 1000.0) as Micros
}
