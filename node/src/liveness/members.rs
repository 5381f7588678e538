//! What a node knows of each member, and how rumours change it. No message is made here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2pinst_types::{Millis, NodeId};

use super::wire::{Short, State, Update};

/// What is known of one member.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    pub(super) state: State,
    /// Of its latest word that was heard, from itself or through others.
    pub(super) version: u64,
    pub(super) life: u64,
    /// Since when it is in this state, and who said so first; `None`: this node saw it itself.
    pub(super) since: Option<Millis>,
    pub(super) by: Option<NodeId>,
    /// A suspect's time to object ends.
    pub(super) deadline: Duration,
    /// When others are asked next what they know better of this suspect.
    pub(super) inquiry: Duration,
    /// Others say of this suspect that it is down.
    pub(super) said_down: bool,
    /// A connection is open; it has spoken on it; which life it has shown there.
    pub(super) connected: bool,
    pub(super) spoke: bool,
    pub(super) shown: u64,
    /// When its last message came.
    pub(super) heard: Option<Duration>,
    /// The version with which it took its leave: what it said before does not bring it back.
    pub(super) left: Option<u64>,
    /// What others say of it, that it must hear of to object to: the version.
    pub(super) accused: Option<(u64, State)>,
}

impl Member {
    /// Whether nobody has ever heard it speak in this life: a machine that is just joining does not.
    pub(super) fn is_mute(&self) -> bool {
        !self.spoke && self.life != self.shown
    }

    /// What is told to others.
    pub(super) fn update(&self, node: &NodeId) -> Update {
        let state =
            if self.said_down && self.state == State::Suspect { State::Down } else { self.state };
        Update { who: Short::of(node), version: self.version, life: self.life, state }
    }
}

/// All other members of the roster.
#[derive(Debug, Default)]
pub(super) struct Members {
    table: BTreeMap<NodeId, Member>,
    names: BTreeMap<Short, NodeId>,
    /// When something is to be done about each suspect.
    suspects: BTreeMap<NodeId, Duration>,
    connected: BTreeSet<NodeId>,
    digest: u64,
}

/// A number for what is known of one member: the sum over all is equal where two know the same.
/// Against accidents, not against liars: these can only cause work, which is bounded.
pub(super) fn print(short: Short, version: u64, state: State) -> u64 {
    let flag = match state {
        State::Unknown => return 0,
        _ if version == 0 => return 0,
        State::Alive | State::Suspect => 0,
        State::Down => 0x5555_5555,
    };
    mix(short.number() ^ version.rotate_left(29) ^ flag)
}

/// Spreads the bits of a number (splitmix64).
pub(super) fn mix(mut x: u64) -> u64 {
    for factor in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
        x = (x ^ (x >> 30)).wrapping_mul(factor);
    }
    x ^ (x >> 31)
}

impl Members {
    pub(super) fn get(&self, node: &NodeId) -> Option<&Member> {
        self.table.get(node)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.table.iter()
    }

    pub(super) fn named(&self, short: Short) -> Option<NodeId> {
        self.names.get(&short).copied()
    }

    pub(super) fn suspects(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.suspects.keys().filter_map(|n| self.table.get_key_value(n))
    }

    /// When something is to be done about a suspect next.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.suspects.values().min().copied()
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Those with whom a connection is open.
    pub(super) fn connected(&self) -> &BTreeSet<NodeId> {
        &self.connected
    }

    /// Follows the roster. Returns who is no longer in it.
    pub(super) fn set(&mut self, own: NodeId, roster: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let gone: Vec<NodeId> =
            self.table.keys().filter(|n| !roster.contains(n)).copied().collect();
        for node in &gone {
            self.change(node, |m| m.state = State::Unknown);
            self.table.remove(node);
            self.suspects.remove(node);
            self.connected.remove(node);
        }
        for node in roster.iter().filter(|n| **n != own) {
            self.table.entry(*node).or_default();
        }
        self.names.clear();
        let mut twice = BTreeSet::new();
        for node in self.table.keys().chain([&own]) {
            if self.names.insert(Short::of(node), *node).is_some() {
                twice.insert(Short::of(node));
            }
        }
        self.names.retain(|short, _| !twice.contains(short));
        gone
    }

    /// Changes what is known of a member; keeps the digest and the sets in step.
    pub(super) fn change(&mut self, node: &NodeId, change: impl FnOnce(&mut Member)) {
        let Some(member) = self.table.get_mut(node) else { return };
        let short = Short::of(node);
        self.digest ^= print(short, member.version, member.state);
        change(member);
        self.digest ^= print(short, member.version, member.state);
        if member.connected {
            self.connected.insert(*node);
        } else {
            self.connected.remove(node);
        }
        if member.state == State::Suspect {
            self.suspects.insert(*node, member.deadline.min(member.inquiry));
        } else {
            self.suspects.remove(node);
        }
    }

    /// Gives all suspects more time: this node slept.
    pub(super) fn postpone(&mut self, by: Duration) {
        for (node, due) in &mut self.suspects {
            *due += by;
            if let Some(member) = self.table.get_mut(node) {
                member.deadline += by;
                member.inquiry += by;
            }
        }
    }
}
