//! Whether a member is there: each period one is asked, first by this node and then through others.
//!
//! Everybody asks by the same order and the clock of the cluster ([`Rings::turns`]): so each member is asked by
//! one other in every period, and none waits until chance comes to it.
//!
//! [`Rings::turns`]: crate::liveness::rings::Rings::turns

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use p2pinst_types::NodeId;
use rand::seq::IndexedRandom;

use super::{Core, Now};
use crate::liveness::members::Member;
use crate::liveness::wire::{Short, Tag};

/// Questions on behalf of others that wait for an answer.
const RELAYS: usize = 64;

/// Who is asked, who comes next, and what others wait for.
#[derive(Debug)]
pub(super) struct Probing {
    turns: Vec<NodeId>,
    /// Counts periods of the cluster's time.
    turn: u64,
    /// Whom this node has heard a moment ago, and others miss: these come out of turn. At most
    /// every other time, and then it is anybody's turn: so a liar delays the others only so much.
    missed: BTreeSet<NodeId>,
    out_of_turn: bool,
    current: Option<Probe>,
    next: Duration,
    relays: VecDeque<Relay>,
}

#[derive(Debug, Clone, Copy)]
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

impl Probing {
    /// Begins at a time.
    pub(super) fn new(next: Duration) -> Self {
        Self {
            turns: Vec::new(),
            turn: 0,
            missed: BTreeSet::new(),
            out_of_turn: false,
            current: None,
            next,
            relays: VecDeque::new(),
        }
    }

    /// When there is something to do.
    pub(super) fn wake(&self, period: Duration) -> Duration {
        let asks = self.current.filter(|p| !p.asked).map(|p| p.started + period / 2);
        asks.map_or(self.next, |at| at.min(self.next))
    }

    /// Goes on at a time: whether who is asked now answered is not known.
    pub(super) fn pause(&mut self, next: Duration) {
        (self.current, self.next) = (None, next);
    }

    pub(super) fn take_turns(&mut self, turns: Vec<NodeId>) {
        self.turns = turns;
    }

    /// Others miss one that this node has heard.
    pub(super) fn miss(&mut self, node: NodeId) {
        self.missed.insert(node);
    }

    pub(super) fn forget(&mut self, gone: &[NodeId]) {
        self.missed.retain(|node| !gone.contains(node));
    }
}

impl Core {
    pub(super) fn probe(&mut self, now: Now) {
        let half = self.period / 2;
        if let Some(probe) = &mut self.probing.current
            && !probe.asked
            && now.steady >= probe.started + half
        {
            probe.asked = true;
            let probe = *probe;
            if self.is_silent(&probe) {
                for to in self.some_connected(Some(probe.target)) {
                    self.send(to, Tag::Ask(Short::of(&probe.target)), probe.number);
                }
            }
        }
        if now.steady < self.probing.next {
            return;
        }
        self.probing.next = now.steady + self.period;
        if let Some(probe) = self.probing.current.take()
            && !probe.vouched
            && self.is_silent(&probe)
        {
            self.suspect(now, probe.target);
        }
        let Some(target) = self.next_target(now) else { return };
        let (number, started) = (self.next_number(), now.steady);
        let probe = Probe { target, number, started, asked: false, vouched: false };
        self.probing.current = Some(probe);
        self.send(target, Tag::Ping, number);
    }

    /// Whether nothing was heard since then of one who could have spoken.
    fn is_silent(&self, probe: &Probe) -> bool {
        let early = |m: &Member| m.heard.is_none_or(|h| h < probe.started);
        let silent = |m: &Member| m.connected && !m.is_mute() && early(m);
        self.members.get(&probe.target).is_some_and(silent)
    }

    fn next_target(&mut self, now: Now) -> Option<NodeId> {
        let delayed = self.probing.out_of_turn;
        self.probing.out_of_turn = !delayed && !self.probing.missed.is_empty();
        if self.probing.out_of_turn {
            let connected = self.members.connected();
            self.probing.missed.retain(|n| connected.contains(n));
            // the longest silent first: those of whom it is a lie have spoken
            let heard = |n: &&NodeId| self.members.get(n).and_then(|m| m.heard);
            if let Some(node) = self.probing.missed.iter().min_by_key(heard).copied() {
                self.probing.missed.remove(&node);
                return Some(node);
            }
        }
        let period = u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX).max(1);
        let turn = now.wall.0 / period;
        // also with a clock that stands still it is everybody's turn
        self.probing.turn = if turn > self.probing.turn { turn } else { self.probing.turn + 1 };
        let companions = self.companions();
        let count = self.probing.turns.len().max(1) as u64;
        let at = usize::try_from(self.probing.turn % count).unwrap_or(0);
        // of who was passed over nobody knows the turns: a liar cannot choose whom it delays
        let turns = &self.probing.turns;
        let target = turns.get(at).filter(|n| !delayed && companions.contains(n)).copied();
        let target = target.or_else(|| companions.choose(&mut self.rng).copied())?;
        self.probing.missed.remove(&target);
        Some(target)
    }

    pub(super) fn on_ack(&mut self, from: NodeId, number: u32) {
        let relays = &mut self.probing.relays;
        let found = relays.iter().position(|r| r.number == number && r.about == from);
        if let Some(relay) = found.and_then(|at| relays.remove(at)) {
            self.send(relay.origin, Tag::Vouch(Short::of(&from)), relay.origin_number);
        }
    }

    pub(super) fn on_vouch(&mut self, short: Short, number: u32) {
        let target = self.members.named(short);
        if let Some(probe) = &mut self.probing.current
            && probe.number == number
            && Some(probe.target) == target
        {
            probe.vouched = true;
        }
    }

    pub(super) fn on_ask(&mut self, from: NodeId, short: Short, origin_number: u32) {
        let Some(about) = self.members.named(short).filter(|n| *n != self.own && *n != from) else {
            return;
        };
        let number = self.next_number();
        if self.probing.relays.len() >= RELAYS {
            self.probing.relays.pop_front();
        }
        self.probing.relays.push_back(Relay { number, about, origin: from, origin_number });
        self.send(about, Tag::Ping, number);
    }
}
