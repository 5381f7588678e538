//! The protocol, without sockets: time, randomness and messages are passed in, messages and changes
//! come out.
//!
//! Every period one connected peer, of those to be kept, is asked whether it is there (`probe`); when it does not answer,
//! others are asked to ask it; when they get no answer either, it is *suspect*, and down unless it objects
//! in time (`suspicion`). What changes is passed on as rumours on all messages, a bounded number of times each
//! (`rumours`); what got lost is found by comparing digests (`messages`).
//!
//! Nobody is down on hearsay alone: a rumour only starts the time in which the member can object,
//! and whoever hears the member itself does not believe it. Before that time is over, companions are asked what
//! they know better. A member objects by a higher version; only absurdly high ones are ignored, so that a liar
//! cannot take the last one.

mod messages;
mod probe;
mod rumours;
mod suspicion;

use std::collections::BTreeSet;
use std::time::Duration;

use p2pinst_types::{Millis, NodeId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use self::probe::Probing;
use self::rumours::Rumours;
use super::members::Members;
use super::wire::{State, Tag};

/// Others that are asked to ask; members that are told rumours at once.
const FANOUT: usize = 3;
/// A version further ahead than a day is nobody's: versions begin with the time of the start.
const ABSURD: Duration = Duration::from_secs(24 * 3600);
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
    Watch {
        /// All of them.
        members: BTreeSet<NodeId>,
        /// The order in which they are asked: see [`Rings::turns`](super::rings::Rings::turns).
        turns: Vec<NodeId>,
    },
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
    rumours: Rumours,
    probing: Probing,
    /// Of the last question.
    number: u32,
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
            rumours: Rumours::default(),
            probing: Probing::new(now.steady + period),
            number: 0,
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
        let due = self.members.next_due().into_iter().chain(gossip);
        due.fold(self.probing.wake(self.period), Duration::min)
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
            self.probing.pause(now.steady + self.period);
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
                self.rumours.forget(&gone);
                self.probing.forget(&gone);
            }
            Input::Watch { members, turns } => {
                self.watched = members;
                self.probing.take_turns(turns);
            }
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

    fn on_time(&mut self, now: Now) {
        if self.members.next_due().is_some_and(|due| now.steady >= due) {
            self.end_suspicions(now);
            self.inquire(now);
        }
        self.note_loneliness(now);
        self.probe(now);
        if !self.rumours.is_empty() && now.steady >= self.next_gossip {
            self.next_gossip = now.steady + self.period / 5;
            let peers = self.companions();
            let some: Vec<NodeId> = peers.sample(&mut self.rng, FANOUT).copied().collect();
            for to in some {
                self.send(to, Tag::Gossip, 0);
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

    fn turn(&mut self, now: Now, node: NodeId, state: State, by: Option<NodeId>) {
        let Some(member) = self.members.get(&node) else { return };
        if member.state == state {
            return;
        }
        self.members.change(&node, |m| (m.state, m.since, m.by) = (state, Some(now.wall), by));
        self.out.push(Output::Changed(node));
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

    fn some_connected(&mut self, but: Option<NodeId>) -> Vec<NodeId> {
        let others = self.members.connected().iter().filter(|n| Some(**n) != but);
        let peers: Vec<NodeId> = others.copied().collect();
        peers.sample(&mut self.rng, FANOUT).copied().collect()
    }
}

fn is_absurd(now: Now, version: u64) -> bool {
    version > now.wall.after(ABSURD).0
}
