//! Which streams are of one member: members take turns, not streams.

use std::collections::BTreeMap;

/// See the module. A stream of which no member is known is one of its own.
#[derive(Debug)]
pub(super) struct Members<P> {
    /// And when each stream was last given a piece.
    of: BTreeMap<P, (u64, u64)>,
    /// When each was last given a piece.
    turns: BTreeMap<u64, u64>,
    given: u64,
}

/// When a stream is to be given a piece.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(bool, u64, u64);

impl<P> Default for Members<P> {
    fn default() -> Self {
        Self { of: BTreeMap::new(), turns: BTreeMap::new(), given: 0 }
    }
}

impl<P: Copy + Ord> Members<P> {
    pub(super) fn join(&mut self, stream: P, member: u64) {
        self.of.insert(stream, (member, 0));
        // a new stream gives no new turn
        self.turns.entry(member).or_insert(self.given);
    }

    pub(super) fn left(&mut self, stream: P) {
        if let Some((member, _)) = self.of.remove(&stream)
            && !self.of.values().any(|(m, _)| *m == member)
        {
            self.turns.remove(&member);
        }
    }

    /// A piece is sent on a stream.
    pub(super) fn given(&mut self, stream: P) {
        self.given += 1;
        if let Some((member, last)) = self.of.get_mut(&stream) {
            *last = self.given;
            self.turns.insert(*member, self.given);
        }
    }

    /// The lowest comes first: to whose member nothing is being sent, then whose turn was longest ago,
    /// the member's and the stream's.
    pub(super) fn turn(&self, stream: P, mut sending: impl Iterator<Item = P>) -> Turn {
        let Some((member, last)) = self.of.get(&stream) else { return Turn::default() };
        let busy = sending.any(|s| self.of.get(&s).is_some_and(|(m, _)| m == member));
        Turn(busy, self.turns.get(member).copied().unwrap_or(0), *last)
    }
}
