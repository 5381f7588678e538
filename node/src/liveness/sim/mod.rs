//! Many cores in virtual time, with a network that loses, delays and parts: seeded, no sockets.

mod courses;
mod liar;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use p2pinst_types::{Hash, Millis, Name, NodeId, PublicKey};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::core::{Core, Input, Now, Output};
use super::rings::Rings;
use super::wire::{Message, Short, State, Tag, Update};

const PERIOD: Duration = Duration::from_secs(1);
/// What the frame, the stream, the encryption and TCP/IP add to a message.
const OVERHEAD: usize = 2 + 12 + 18 + 52;

#[derive(Debug)]
enum Event {
    Tick,
    Mesh,
    Message(usize, Vec<u8>),
}

struct Host {
    core: Core,
    rings: Rings,
    peers: BTreeSet<usize>,
    life: u64,
    running: bool,
    side: usize,
    sent: usize,
    /// When the next tick is due, and whether the mesh has something to do.
    tick: Duration,
    stale: bool,
}

struct Sim {
    hosts: Vec<Host>,
    ids: Vec<NodeId>,
    index: BTreeMap<NodeId, usize>,
    members: Vec<(NodeId, Name)>,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    what: BTreeMap<u64, (usize, Event)>,
    next: u64,
    now: Duration,
    loss: f64,
    rng: StdRng,
}

const START: u64 = 1_700_000_000_000;

impl Sim {
    /// All start within a second and find each other.
    fn new(count: usize, limit: usize, seed: u64) -> Self {
        println!("{count} members, seed {seed}");
        let id = |n: usize| {
            NodeId(PublicKey::from_slice(Hash::of(&n.to_be_bytes()).as_bytes()).unwrap())
        };
        let ids: Vec<NodeId> = (0..count).map(id).collect();
        let site = |n: usize| -> Name { format!("site{}", n % 3).parse().unwrap() };
        let members: Vec<_> = ids.iter().enumerate().map(|(n, id)| (*id, site(n))).collect();
        let mut sim = Self {
            hosts: Vec::new(),
            index: ids.iter().enumerate().map(|(n, id)| (*id, n)).collect(),
            ids,
            members,
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            next: 0,
            now: Duration::ZERO,
            loss: 0.0,
            rng: StdRng::seed_from_u64(seed),
        };
        for n in 0..count {
            let host = Host {
                core: sim.core(n, 1),
                rings: Rings::new(sim.ids[n], &sim.members, limit),
                peers: BTreeSet::new(),
                life: 1,
                running: false,
                side: 0,
                sent: 0,
                tick: Duration::MAX,
                stale: true,
            };
            sim.hosts.push(host);
            sim.start(n, 1);
        }
        sim
    }

    /// Gives all what they would have learned of each other by and by.
    fn introduce(&mut self) {
        let update =
            |id| Update { who: Short::of(id), version: START, life: 1, state: State::Alive };
        let updates: Vec<Update> = self.ids.iter().map(update).collect();
        for n in 0..self.ids.len() {
            let from = self.ids[(n + 1) % self.ids.len()];
            for page in updates.chunks(super::wire::PAGE) {
                let (tag, updates) = (Tag::Better, page.to_vec());
                let page = Message { tag, number: 0, version: START, life: 1, digest: 0, updates };
                self.step(n, Input::Message { from, bytes: page.encode() });
            }
        }
    }

    fn now(&self) -> Now {
        Now { steady: self.now, wall: Millis(START).after(self.now) }
    }

    fn core(&mut self, n: usize, life: u64) -> Core {
        let rng = StdRng::seed_from_u64(self.rng.random());
        Core::new(self.ids[n], life, PERIOD, self.now(), rng)
    }

    fn start(&mut self, n: usize, life: u64) {
        self.hosts[n].core = self.core(n, life);
        (self.hosts[n].running, self.hosts[n].life) = (true, life);
        self.step(n, Input::Roster(self.ids.iter().copied().collect()));
        let soon = Duration::from_millis(self.rng.random_range(0..1000));
        self.hosts[n].stale = true;
        self.at(self.now + soon, n, Event::Mesh);
    }

    fn at(&mut self, time: Duration, n: usize, event: Event) {
        self.next += 1;
        self.what.insert(self.next, (n, event));
        self.events.push(Reverse((time, self.next)));
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        self.hosts[b].running && self.hosts[a].running && self.hosts[a].side == self.hosts[b].side
    }

    fn step(&mut self, n: usize, input: Input) {
        let now = self.now();
        self.hosts[n].stale |= matches!(input, Input::Connected { .. } | Input::Disconnected(_));
        for output in self.hosts[n].core.step(now, input) {
            match output {
                Output::Send { to, bytes } => self.send(n, self.index[&to], bytes),
                Output::Dead(node) => self.close(n, self.index[&node]),
                Output::Changed(_) => self.hosts[n].stale = true,
            }
        }
        let wake = self.hosts[n].core.wake().max(self.now + Duration::from_millis(1));
        if wake < self.hosts[n].tick || self.hosts[n].tick <= self.now {
            self.hosts[n].tick = wake;
            self.at(wake, n, Event::Tick);
        }
    }

    fn send(&mut self, n: usize, to: usize, bytes: Vec<u8>) {
        assert!(bytes.len() <= super::wire::MESSAGE + 8);
        self.hosts[n].sent += bytes.len() + OVERHEAD;
        if self.rng.random_bool(self.loss) || !self.reach(n, to) {
            return;
        }
        let delay = Duration::from_millis(self.rng.random_range(1..20));
        self.at(self.now + delay, to, Event::Message(n, bytes));
    }

    fn close(&mut self, a: usize, b: usize) {
        for (one, other) in [(a, b), (b, a)] {
            if self.hosts[one].peers.remove(&other) && self.hosts[one].running {
                self.step(one, Input::Disconnected(self.ids[other]));
            }
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        if self.hosts[a].peers.insert(b) {
            self.hosts[b].peers.insert(a);
            for (one, other) in [(a, b), (b, a)] {
                let (node, life) = (self.ids[other], self.hosts[other].life);
                self.step(one, Input::Connected { node, life });
            }
        }
    }

    /// What the mesh does: connects the wanted, and looks after one that is down.
    fn mesh(&mut self, n: usize) {
        self.at(self.now + PERIOD / 2, n, Event::Mesh);
        let mut dials = Vec::new();
        if std::mem::take(&mut self.hosts[n].stale) {
            let core = &self.hosts[n].core;
            let down = |node: &NodeId| core.get(node).is_some_and(|k| k.state == State::Down);
            let turns = self.hosts[n].rings.turns(down);
            let members: BTreeSet<NodeId> = turns.iter().copied().collect();
            dials.extend(members.iter().map(|w| self.index[w]));
            self.step(n, Input::Watch { members, turns });
        }
        if self.rng.random_bool(0.1) {
            let some =
                (0..50).map(|_| self.rng.random_range(0..self.ids.len())).collect::<Vec<_>>();
            dials.extend(some.into_iter().find(|m| *m != n && !self.sees(n, *m).is_up()));
        }
        for m in dials {
            if self.hosts[n].peers.contains(&m) {
                continue;
            }
            if self.reach(n, m) {
                self.connect(n, m);
            } else {
                self.hosts[n].stale |= self.hosts[n].rings.is_small();
                if !self.hosts[m].running {
                    self.step(n, Input::Unreachable(self.ids[m]));
                }
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(Reverse((time, id))) = self.events.peek().copied()
            && time <= end
        {
            self.events.pop();
            self.now = time;
            let Some((n, event)) = self.what.remove(&id) else { continue };
            if !self.hosts[n].running {
                continue;
            }
            match event {
                Event::Tick if self.hosts[n].tick > time => {} // there was an earlier one
                Event::Tick => self.step(n, Input::Tick),
                Event::Mesh => self.mesh(n),
                // a connection of before is gone
                Event::Message(from, bytes) => {
                    if self.hosts[n].peers.contains(&from) {
                        let from = self.ids[from];
                        self.step(n, Input::Message { from, bytes });
                    } else if self.reach(n, from) {
                        self.connect(n, from);
                    }
                }
            }
        }
        self.now = end;
    }

    /// SIGKILL: the connections close at once. Otherwise the cable is cut: they do not.
    fn kill(&mut self, n: usize, closes: bool) {
        self.hosts[n].running = false;
        if closes {
            let peers: Vec<usize> = self.hosts[n].peers.iter().copied().collect();
            peers.into_iter().for_each(|p| self.close(n, p));
        }
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.hosts.len()).filter(|n| self.hosts[*n].running)
    }

    fn sees(&self, n: usize, m: usize) -> State {
        self.hosts[n].core.get(&self.ids[m]).unwrap().state
    }

    /// (observer, member) pairs that are not as they should be.
    fn wrong(&self) -> usize {
        let right = |n: usize, m: usize| self.sees(n, m).is_up() == self.hosts[m].running;
        let all = 0..self.hosts.len();
        self.running().map(|n| all.clone().filter(|m| *m != n && !right(n, *m)).count()).sum()
    }

    /// The time until all see what is; checked twice a second.
    fn settle(&mut self, limit: u64) -> Duration {
        let start = self.now;
        while self.wrong() > 0 {
            assert!(self.now - start < Duration::from_secs(limit), "{} wrong", self.wrong());
            self.run(PERIOD / 2);
        }
        self.now - start
    }

    /// Bytes per second and node over a span.
    fn rate(&mut self, seconds: u64) -> usize {
        self.hosts.iter_mut().for_each(|h| h.sent = 0);
        self.run(PERIOD * u32::try_from(seconds).unwrap());
        self.hosts.iter().map(|h| h.sent).sum::<usize>() / self.hosts.len() / seconds as usize
    }

    fn falsely_down(&self) -> usize {
        let down = |n: usize, m: usize| n != m && self.sees(n, m) == State::Down;
        self.running().map(|n| self.running().filter(|m| down(n, *m)).count()).sum()
    }
}

/// A course of events of its own each time, which is printed; `P2PINST_SEED=N` plays one again.
fn seed() -> u64 {
    match std::env::var("P2PINST_SEED") {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => StdRng::from_rng(&mut rand::rng()).random(),
    }
}
