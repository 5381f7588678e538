//! What is passed on: every change a bounded number of times, newest first, on all messages.

use std::collections::{BTreeMap, VecDeque};

use p2pinst_types::NodeId;

use super::{Core, Output};
use crate::liveness::members::print;
use crate::liveness::wire::{Message, Short, State, Tag, Update};

/// How often each rumour is told, per decimal digit of the number of members: with a tenth of the
/// messages lost nobody misses an objection.
const TOLD: usize = 6;
/// Rumours on one message.
const RUMOURS: usize = 40;

/// Whom there is something to tell about.
#[derive(Debug, Default)]
pub(super) struct Rumours {
    /// Newest first, each once.
    queue: VecDeque<NodeId>,
    /// How often each is still told.
    left: BTreeMap<NodeId, usize>,
}

impl Rumours {
    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// One more, to be told so many times.
    fn add(&mut self, node: NodeId, times: usize) {
        if self.left.insert(node, times).is_some() {
            self.queue.retain(|n| *n != node);
        }
        self.queue.push_front(node);
    }

    /// The next to be told; it goes to the end, until it was told often enough.
    fn next(&mut self) -> Option<NodeId> {
        loop {
            let node = self.queue.pop_front()?;
            let Some(left) = self.left.get_mut(&node) else { continue };
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.left.remove(&node);
            } else {
                self.queue.push_back(node);
            }
            return Some(node);
        }
    }

    pub(super) fn forget(&mut self, gone: &[NodeId]) {
        self.left.retain(|n, _| !gone.contains(n));
        self.queue.retain(|n| !gone.contains(n));
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.left.clear();
    }
}

impl Core {
    /// A rumour more.
    pub(super) fn spread(&mut self, node: NodeId) {
        let digits = (self.members.len() + 1).checked_ilog10().unwrap_or(0) as usize + 1;
        self.rumours.add(node, TOLD * digits);
    }

    pub(super) fn own_update(&self) -> Update {
        let who = Short::of(&self.own);
        Update { who, version: self.version, life: self.life, state: State::Alive }
    }

    pub(super) fn update_of(&self, node: &NodeId) -> Option<Update> {
        if *node == self.own {
            return Some(self.own_update());
        }
        self.members.get(node).map(|m| m.update(node))
    }

    fn updates_for(&mut self, to: &NodeId) -> Vec<Update> {
        // what it must hear of itself first
        let accused = self.members.get(to).and_then(|m| {
            let (version, state) = m.accused?;
            Some(Update { version, state, ..m.update(to) })
        });
        let mut updates: Vec<Update> = accused.into_iter().collect();
        for _ in 0..self.rumours.queue.len() {
            if updates.len() >= RUMOURS {
                break;
            }
            let Some(node) = self.rumours.next() else { break };
            updates.extend(self.update_of(&node));
        }
        updates
    }

    pub(super) fn send(&mut self, to: NodeId, tag: Tag, number: u32) {
        let updates = if tag == Tag::Leave { Vec::new() } else { self.updates_for(&to) };
        self.send_updates(to, tag, number, updates);
    }

    pub(super) fn send_updates(&mut self, to: NodeId, tag: Tag, number: u32, updates: Vec<Update>) {
        let (version, life, digest) = (self.version, self.life, self.digest());
        let bytes = Message { tag, number, version, life, digest, updates }.encode();
        self.out.push(Output::Send { to, bytes });
    }

    /// Over all that is known, this node included.
    pub(super) fn digest(&self) -> u64 {
        self.members.digest() ^ print(Short::of(&self.own), self.version, State::Alive)
    }
}
