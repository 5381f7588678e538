//! The protocol, without sockets: time, randomness and messages are passed in, messages and changes
//! come out.
//!
//! Every period one connected peer, of those to be kept, is asked whether it is there; when it does not answer, others
//! are asked to ask it; when they get no answer either, it is *suspect*, and down unless it objects
//! in time. What changes is passed on as rumours on all messages, a bounded number of times each;
//! what got lost is found by comparing digests.
//!
//! Nobody is down on hearsay alone: a rumour only starts the time in which the member can object,
//! and whoever hears the member itself does not believe it. A member objects by a higher version;
//! only absurdly high ones are ignored, so that a liar cannot take the last one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use p2pinst_types::{Millis, NodeId};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::members::{Member, Members, print};
use super::wire::{Message, PAGE, Short, State, Tag, Update};

/// Others that are asked to ask; members that are told rumours at once.
const FANOUT: usize = 3;
/// How often each rumour is told, per decimal digit of the number of members: with a tenth of the
/// messages lost nobody misses an objection.
const TOLD: usize = 6;
/// Rumours on one message.
const RUMOURS: usize = 40;
/// Questions on behalf of others that wait for an answer.
const RELAYS: usize = 64;
/// A version further ahead than a day is nobody's: versions begin with the time of the start.
const ABSURD: Duration = Duration::from_secs(24 * 3600);
/// Periods between two exchanges of the whole table, unless somebody has just come back.
const TABLE_PAUSE: u32 = 10;
/// Periods without any connection until nothing is known of anybody.
const ALONE: u32 = 5;

/// The time: since some start, for what is to be done; and the cluster's, for what is told.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Never goes back.
    pub steady: Duration,
    /// Cluster time.
    pub wall: Millis,
}

/// What happens to a node.
#[derive(Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// A peer's message.
    Message {
        /// The peer: the other end of an authenticated connection.
        from: NodeId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A connection was made.
    Connected {
        /// With whom.
        node: NodeId,
        /// Which life of the node it has shown.
        life: u64,
    },
    /// The last connection with a peer was closed.
    Disconnected(NodeId),
    /// A peer could not be dialled.
    Unreachable(NodeId),
    /// The machines of the roster.
    Roster(BTreeSet<NodeId>),
    /// Whom this node keeps connected: their connections are not closed without a reason.
    Watch(BTreeSet<NodeId>),
    /// This node stops.
    Leave,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this; it may get lost.
    Send {
        /// To whom.
        to: NodeId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// What is known of a member has changed: see [`Core::get`].
    Changed(NodeId),
    /// A member is down, but a connection with it is open: it is of no use.
    Dead(NodeId),
}

/// What is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its state.
    pub state: State,
    /// Since when, in cluster time.
    pub since: Option<Millis>,
    /// Who said so; `None`: this node saw it itself.
    pub by: Option<NodeId>,
    /// Which life of the node it is; 0: not heard of.
    pub life: u64,
}

#[derive(Debug)]
struct Probe {
    target: NodeId,
    number: u32,
    started: Duration,
    asked: bool,
    vouched: bool,
}

#[derive(Debug)]
struct Relay {
    number: u32,
    about: NodeId,
    origin: NodeId,
    origin_number: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    own: NodeId,
    version: u64,
    life: u64,
    period: Duration,
    rng: StdRng,
    members: Members,
    watched: BTreeSet<NodeId>,
    /// Rumours in their order, newest first, each once, and how often each is still told.
    queue: VecDeque<NodeId>,
    rumours: BTreeMap<NodeId, usize>,
    round: Vec<NodeId>,
    probe: Option<Probe>,
    relays: VecDeque<Relay>,
    number: u32,
    next_probe: Duration,
    next_gossip: Duration,
    next_table: Duration,
    alone_since: Option<Duration>,
    /// This node has taken its leave and says nothing more.
    left: bool,
    last: Duration,
    out: Vec<Output>,
}

impl Core {
    /// A node that knows nobody. `life`: as in its hello; `period`: between two probes.
    #[must_use]
    pub fn new(own: NodeId, life: u64, period: Duration, now: Now, rng: StdRng) -> Self {
        Self {
            own,
            version: now.wall.0,
            life,
            period,
            rng,
            members: Members::default(),
            watched: BTreeSet::new(),
            queue: VecDeque::new(),
            rumours: BTreeMap::new(),
            round: Vec::new(),
            probe: None,
            relays: VecDeque::new(),
            number: 0,
            next_probe: now.steady + period,
            next_gossip: now.steady,
            next_table: now.steady,
            alone_since: Some(now.steady),
            left: false,
            last: now.steady,
            out: Vec::new(),
        }
    }

    /// What is known of a member.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<Known> {
        let m = self.members.get(node)?;
        Some(Known { state: m.state, since: m.since, by: m.by, life: m.life })
    }

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn wake(&self) -> Duration {
        let gossip = (!self.rumours.is_empty()).then_some(self.next_gossip);
        let ask = self.probe.as_ref().filter(|p| !p.asked).map(|p| p.started + self.period / 2);
        let deadlines = self.members.suspects().map(|(_, m)| m.deadline);
        deadlines.chain(gossip).chain(ask).fold(self.next_probe, Duration::min)
    }

    /// Takes one step.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Output> {
        if self.left {
            return Vec::new();
        }
        let slept = now.steady.saturating_sub(self.last);
        self.last = now.steady;
        if slept > self.period * 3 {
            // this node slept, not the others
            self.members.postpone(slept);
            self.probe = None;
            self.next_probe = now.steady + self.period;
        }
        match input {
            Input::Tick => {}
            Input::Message { from, bytes } => self.on_message(now, from, &bytes),
            Input::Connected { node, life } => self.on_connected(now, node, life),
            Input::Disconnected(node) => {
                self.members.change(&node, |m| (m.connected, m.spoke) = (false, false));
                self.doubt(now, node);
            }
            Input::Unreachable(node) => self.doubt(now, node),
            Input::Roster(roster) => {
                let gone = self.members.set(self.own, &roster);
                self.rumours.retain(|n, _| !gone.contains(n));
                self.queue.retain(|n| !gone.contains(n));
            }
            Input::Watch(watched) => self.watched = watched,
            Input::Leave => {
                let peers: Vec<NodeId> = self.members.connected().iter().copied().collect();
                peers.into_iter().for_each(|to| self.send(to, Tag::Leave, 0));
                self.left = true;
                return std::mem::take(&mut self.out);
            }
        }
        self.on_time(now);
        std::mem::take(&mut self.out)
    }

    /// How long a suspect has to object: larger clusters need longer to tell it.
    fn patience(&self) -> Duration {
        self.period * if self.members.len() > 64 { 3 } else { 2 }
    }

    fn on_time(&mut self, now: Now) {
        self.end_suspicions(now);
        self.note_loneliness(now);
        let half = self.period / 2;
        if let Some(probe) = &mut self.probe
            && !probe.asked
            && now.steady >= probe.started + half
        {
            probe.asked = true;
            let (target, number, started) = (probe.target, probe.number, probe.started);
            if self.is_silent(&target, started) {
                for to in self.some_connected(&[target]) {
                    self.send(to, Tag::Ask(Short::of(&target)), number);
                }
            }
        }
        if now.steady >= self.next_probe {
            self.next_probe = now.steady + self.period;
            if let Some(probe) = self.probe.take()
                && !probe.vouched
                && self.is_silent(&probe.target, probe.started)
            {
                self.suspect(now, probe.target);
            }
            self.start_probe(now);
        }
        if !self.rumours.is_empty() && now.steady >= self.next_gossip {
            self.next_gossip = now.steady + self.period / 5;
            let peers = self.companions();
            let some: Vec<NodeId> = peers.sample(&mut self.rng, FANOUT).copied().collect();
            for to in some {
                self.send(to, Tag::Gossip, 0);
            }
        }
    }

    /// Whether nothing was heard since a time of one who could have spoken.
    fn is_silent(&self, node: &NodeId, since: Duration) -> bool {
        let silent = |m: &Member| m.connected && !m.is_mute() && m.heard.is_none_or(|h| h < since);
        self.members.get(node).is_some_and(silent)
    }

    fn start_probe(&mut self, now: Now) {
        let up = |n: &NodeId| self.members.get(n).is_some_and(|m| m.connected);
        while self.round.last().is_some_and(|n| !up(n)) {
            self.round.pop();
        }
        if self.round.is_empty() {
            self.round = self.companions();
            self.round.shuffle(&mut self.rng);
        }
        if let Some(target) = self.round.pop() {
            let number = self.next_number();
            let started = now.steady;
            self.probe = Some(Probe { target, number, started, asked: false, vouched: false });
            self.send(target, Tag::Ping, number);
        }
    }

    fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// Whom this node talks with at rest: others' connections are to be closed when nobody needs
    /// them, and would not be.
    fn companions(&self) -> Vec<NodeId> {
        let connected = self.members.connected();
        let watched: Vec<NodeId> = connected.intersection(&self.watched).copied().collect();
        if watched.is_empty() { connected.iter().copied().collect() } else { watched }
    }

    fn some_connected(&mut self, but: &[NodeId]) -> Vec<NodeId> {
        let peers: Vec<NodeId> =
            self.members.connected().iter().filter(|n| !but.contains(n)).copied().collect();
        peers.sample(&mut self.rng, FANOUT).copied().collect()
    }

    fn end_suspicions(&mut self, now: Now) {
        let over = |m: &Member| now.steady >= m.deadline;
        let due: Vec<NodeId> =
            self.members.suspects().filter(|(_, m)| over(m)).map(|(n, _)| *n).collect();
        let alone = self.members.connected().is_empty();
        for node in due {
            // who reaches nobody does not know who is down
            let state = if alone { State::Unknown } else { State::Down };
            let by = self.members.get(&node).and_then(|m| m.by);
            self.turn(now, node, state, by);
            if !alone {
                self.spread(node);
            }
            if self.members.get(&node).is_some_and(|m| m.connected) {
                self.out.push(Output::Dead(node));
            }
        }
    }

    fn note_loneliness(&mut self, now: Now) {
        if !self.members.connected().is_empty() {
            self.alone_since = None;
            return;
        }
        let since = *self.alone_since.get_or_insert(now.steady);
        if now.steady < since + self.period * ALONE {
            return;
        }
        let up: Vec<NodeId> =
            self.members.iter().filter(|(_, m)| m.state.is_up()).map(|(n, _)| *n).collect();
        up.into_iter().for_each(|node| self.turn(now, node, State::Unknown, None));
        self.queue.clear();
        self.rumours.clear();
    }

    fn on_connected(&mut self, now: Now, node: NodeId, life: u64) {
        let Some(member) = self.members.get(&node) else { return };
        let (was, version) = (member.state, member.version);
        self.members.change(&node, |m| {
            (m.connected, m.spoke, m.shown) = (true, false, life);
            (m.heard, m.left) = (Some(now.steady), None);
            if matches!(was, State::Suspect | State::Down) {
                m.accused = Some((version, was));
            }
        });
        self.turn(now, node, State::Alive, None);
        if !was.is_up() {
            self.next_table = self.next_table.min(now.steady + self.period / 5);
        }
        let number = self.next_number();
        self.send(node, Tag::Ping, number);
    }

    /// A connection that should be open is not.
    fn doubt(&mut self, now: Now, node: NodeId) {
        let open = self.members.get(&node).is_none_or(|m| m.connected);
        if !open && self.watched.contains(&node) {
            self.suspect(now, node);
        }
    }

    fn suspect(&mut self, now: Now, node: NodeId) {
        if self.members.get(&node).is_none_or(|m| m.state != State::Alive) {
            return;
        }
        let deadline = now.steady + self.patience();
        self.members.change(&node, |m| (m.deadline, m.said_down) = (deadline, false));
        self.turn(now, node, State::Suspect, None);
        self.spread(node);
    }

    fn turn(&mut self, now: Now, node: NodeId, state: State, by: Option<NodeId>) {
        let Some(member) = self.members.get(&node) else { return };
        if member.state == state {
            return;
        }
        self.members.change(&node, |m| (m.state, m.since, m.by) = (state, Some(now.wall), by));
        self.out.push(Output::Changed(node));
    }

    /// A rumour more.
    fn spread(&mut self, node: NodeId) {
        let digits = (self.members.len() + 1).checked_ilog10().unwrap_or(0) as usize + 1;
        if self.rumours.insert(node, TOLD * digits).is_some() {
            self.queue.retain(|n| *n != node);
        }
        self.queue.push_front(node);
    }

    fn own_update(&self) -> Update {
        let who = Short::of(&self.own);
        Update { who, version: self.version, life: self.life, state: State::Alive }
    }

    fn update_of(&self, node: &NodeId) -> Option<Update> {
        if *node == self.own {
            return Some(self.own_update());
        }
        self.members.get(node).map(|m| m.update(node))
    }

    fn rumours(&mut self, to: &NodeId) -> Vec<Update> {
        // what it must hear of itself first
        let accused = self.members.get(to).and_then(|m| {
            let (version, state) = m.accused?;
            Some(Update { version, state, ..m.update(to) })
        });
        let mut updates: Vec<Update> = accused.into_iter().collect();
        for _ in 0..self.queue.len() {
            if updates.len() >= RUMOURS {
                break;
            }
            let Some(node) = self.queue.pop_front() else { break };
            let Some(left) = self.rumours.get_mut(&node) else { continue };
            *left -= 1;
            if *left == 0 {
                self.rumours.remove(&node);
            } else {
                self.queue.push_back(node);
            }
            updates.extend(self.update_of(&node));
        }
        updates
    }

    fn send(&mut self, to: NodeId, tag: Tag, number: u32) {
        let updates = if tag == Tag::Leave { Vec::new() } else { self.rumours(&to) };
        self.send_updates(to, tag, number, updates);
    }

    fn send_updates(&mut self, to: NodeId, tag: Tag, number: u32, updates: Vec<Update>) {
        let (version, life, digest) = (self.version, self.life, self.digest());
        let bytes = Message { tag, number, version, life, digest, updates }.encode();
        self.out.push(Output::Send { to, bytes });
    }

    /// Over all that is known, this node included.
    fn digest(&self) -> u64 {
        self.members.digest() ^ print(Short::of(&self.own), self.version, State::Alive)
    }

    fn on_message(&mut self, now: Now, from: NodeId, bytes: &[u8]) {
        let Some(message) = Message::decode(bytes) else { return };
        if self.members.get(&from).is_none() {
            return;
        }
        if message.tag == Tag::Leave {
            let absurd = is_absurd(now, message.version);
            self.members.change(&from, |m| {
                m.version = if absurd { m.version } else { m.version.max(message.version) };
                m.left = Some(m.version);
            });
            self.turn(now, from, State::Down, None);
            return self.spread(from);
        }
        self.on_word(now, from, &message);
        let table = matches!(message.tag, Tag::Table | Tag::Better);
        for update in &message.updates {
            self.on_update(now, from, *update, table);
        }
        match message.tag {
            Tag::Ping => {
                self.send(from, Tag::Ack, message.number);
                self.compare(now, from, message.digest);
            }
            Tag::Ack => {
                self.on_ack(from, message.number);
                self.compare(now, from, message.digest);
            }
            Tag::Ask(short) => self.on_ask(from, short, message.number),
            Tag::Vouch(short) => {
                let target = self.members.named(short);
                if let Some(probe) = &mut self.probe
                    && probe.number == message.number
                    && Some(probe.target) == target
                {
                    probe.vouched = true;
                }
            }
            Tag::Table => self.on_table(from, &message.updates),
            Tag::Gossip | Tag::Better | Tag::Leave => {}
        }
    }

    /// A member's own word: it is up, whatever others say.
    fn on_word(&mut self, now: Now, from: NodeId, message: &Message) {
        let Some(member) = self.members.get(&from) else { return };
        let (was, known) = (member.state, member.version);
        let newer = message.version > known && !is_absurd(now, message.version);
        self.members.change(&from, |m| {
            (m.heard, m.spoke, m.life) = (Some(now.steady), m.connected, message.life);
            if newer {
                m.version = message.version;
                m.accused = m.accused.filter(|(v, _)| *v >= message.version);
            } else if message.version < known || was == State::Suspect || was == State::Down {
                // it does not know what is said of it
                m.accused = Some((known, was));
            }
        });
        if self.members.get(&from).is_some_and(|m| m.left >= Some(message.version)) {
            return;
        }
        self.members.change(&from, |m| m.left = None);
        self.turn(now, from, State::Alive, None);
        if newer {
            self.spread(from);
        }
    }

    fn on_update(&mut self, now: Now, from: NodeId, update: Update, table: bool) {
        if is_absurd(now, update.version) || update.state == State::Unknown {
            return;
        }
        if update.who == Short::of(&self.own) {
            let accused = update.state != State::Alive && update.version >= self.version;
            if accused || update.version > self.version {
                self.version = update.version + 1;
                self.spread(self.own);
            }
            return;
        }
        let Some(node) = self.members.named(update.who) else { return };
        let Some(member) = self.members.get(&node) else { return };
        let (was, known) = (member.state, member.version);
        if update.version < known {
            return;
        }
        if update.state == State::Alive {
            if update.version > known || was == State::Unknown {
                self.members.change(&node, |m| {
                    (m.version, m.life) = (update.version, update.life);
                    m.accused = m.accused.filter(|(v, _)| *v >= update.version);
                });
                self.turn(now, node, State::Alive, Some(from));
                if !(table && was == State::Unknown) {
                    self.spread(node);
                }
            }
            return;
        }
        self.on_accusation(now, from, node, update);
    }

    /// Somebody says that a member is suspect or down.
    fn on_accusation(&mut self, now: Now, from: NodeId, node: NodeId, update: Update) {
        let Some(member) = self.members.get(&node) else { return };
        let down = update.state == State::Down;
        if member.state == State::Unknown && down {
            self.members.change(&node, |m| (m.version, m.life) = (update.version, update.life));
            return self.turn(now, node, State::Down, Some(from));
        }
        let recent = |m: &Member| m.heard.is_some_and(|h| h + self.period * 2 > now.steady);
        let heard = recent(member) || member.is_mute();
        if member.connected {
            // it is told, so that it can object
            if member.accused.is_none_or(|(v, _)| v < update.version) {
                let accused = Some((update.version, update.state));
                self.members.change(&node, |m| m.accused = accused);
                let number = self.next_number();
                self.send(node, Tag::Ping, number);
            }
            if heard {
                // this node knows better; it may have been its last word
                if !self.round.contains(&node) {
                    self.round.insert(0, node);
                }
                return;
            }
        }
        let Some(member) = self.members.get(&node) else { return };
        let news = update.version > member.version;
        let (state, said_down) = (member.state, member.said_down);
        // who is not connected in a small cluster is hardly there
        let quick = if self.members.len() > 64 { self.patience() } else { self.period * 3 / 2 };
        let quick = now.steady + quick;
        let deadline = match state {
            State::Down if !news => return,
            State::Suspect if !news && (said_down || !down) => return,
            State::Suspect if !news => member.deadline.min(quick),
            _ if down => quick,
            _ => now.steady + self.patience(),
        };
        self.members.change(&node, |m| {
            (m.version, m.life) = (update.version, update.life);
            (m.deadline, m.said_down) = (deadline, down);
        });
        if state == State::Down {
            // down it stays; others may know only the older word
            return self.spread(node);
        }
        self.turn(now, node, State::Suspect, Some(from));
        self.spread(node);
    }

    fn on_ack(&mut self, from: NodeId, number: u32) {
        let found = self.relays.iter().position(|r| r.number == number && r.about == from);
        if let Some(relay) = found.and_then(|at| self.relays.remove(at)) {
            self.send(relay.origin, Tag::Vouch(Short::of(&from)), relay.origin_number);
        }
    }

    fn on_ask(&mut self, from: NodeId, short: Short, origin_number: u32) {
        let Some(about) = self.members.named(short).filter(|n| *n != self.own && *n != from) else {
            return;
        };
        let number = self.next_number();
        if self.relays.len() >= RELAYS {
            self.relays.pop_front();
        }
        self.relays.push_back(Relay { number, about, origin: from, origin_number });
        self.send(about, Tag::Ping, number);
    }

    /// Two that know different things, and no rumour is on its way: they tell each other all.
    fn compare(&mut self, now: Now, with: NodeId, theirs: u64) {
        if theirs == self.digest() || !self.rumours.is_empty() || now.steady < self.next_table {
            return;
        }
        self.next_table = now.steady + self.period * TABLE_PAUSE;
        let mut table: Vec<Update> = self.members.iter().map(|(n, m)| m.update(n)).collect();
        table.push(self.own_update());
        let mut pages: Vec<&[Update]> = table.chunks(PAGE).collect();
        // of many some get lost: not always the same
        pages.shuffle(&mut self.rng);
        for page in pages {
            self.send_updates(with, Tag::Table, 0, page.to_vec());
        }
    }

    fn on_table(&mut self, from: NodeId, theirs: &[Update]) {
        let better = theirs.iter().filter_map(|their| {
            let ours = self.update_of(&self.members.named(their.who)?)?;
            let newer = ours.version > their.version;
            let worse = ours.version == their.version && rank(ours.state) > rank(their.state);
            (newer || worse).then_some(ours)
        });
        let better: Vec<Update> = better.collect();
        if !better.is_empty() {
            self.send_updates(from, Tag::Better, 0, better);
        }
    }
}

/// Of two claims with one version the worse counts: its subject can object.
fn rank(state: State) -> u8 {
    match state {
        State::Unknown => 0,
        State::Alive => 1,
        State::Suspect => 2,
        State::Down => 3,
    }
}

fn is_absurd(now: Now, version: u64) -> bool {
    version > now.wall.after(ABSURD).0
}
