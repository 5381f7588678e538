//! Which streams are of one member: members take turns, not streams.

use std::collections::{BTreeMap, BTreeSet};

/// See the module. A stream of which no member is known is one of its own.
#[derive(Debug)]
pub(super) struct Members<P> {
    /// And when each stream was last given a piece.
    of: BTreeMap<P, (u64, u64)>,
    all: BTreeMap<u64, Member<P>>,
    given: u64,
}

#[derive(Debug)]
struct Member<P> {
    /// When it was last given a piece.
    turn: u64,
    streams: BTreeSet<P>,
}

/// When a stream is to be given a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(bool, u64, u64);

impl Turn {
    /// Of whom nothing is known.
    const LAST: Self = Self(true, u64::MAX, u64::MAX);
}

impl<P> Default for Members<P> {
    fn default() -> Self {
        Self { of: BTreeMap::new(), all: BTreeMap::new(), given: 0 }
    }
}

impl<P: Copy + Ord> Members<P> {
    pub(super) fn join(&mut self, stream: P, member: u64) {
        self.left(stream);
        self.of.insert(stream, (member, 0));
        // a new stream gives no new turn
        let new = || Member { turn: self.given, streams: BTreeSet::new() };
        self.all.entry(member).or_insert_with(new).streams.insert(stream);
    }

    pub(super) fn left(&mut self, stream: P) {
        let Some((member, _)) = self.of.remove(&stream) else { return };
        let Some(of) = self.all.get_mut(&member) else { return };
        of.streams.remove(&stream);
        if of.streams.is_empty() {
            self.all.remove(&member);
        }
    }

    /// The streams of the member whose stream this is.
    pub(super) fn alike(&self, stream: P) -> impl Iterator<Item = P> {
        let member = self.of.get(&stream).and_then(|(member, _)| self.all.get(member));
        member.into_iter().flat_map(|m| m.streams.iter().copied())
    }

    /// A piece is sent on a stream.
    pub(super) fn given(&mut self, stream: P) {
        self.given += 1;
        if let Some((member, last)) = self.of.get_mut(&stream) {
            *last = self.given;
            if let Some(member) = self.all.get_mut(member) {
                member.turn = self.given;
            }
        }
    }

    /// The lowest comes first: to whose member nothing is being sent, then whose turn was longest ago,
    /// the member's and the stream's.
    pub(super) fn turn(&self, stream: P, mut sending: impl Iterator<Item = P>) -> Turn {
        let Some((member, last)) = self.of.get(&stream) else { return Turn::LAST };
        let busy = sending.any(|s| self.of.get(&s).is_some_and(|(m, _)| m == member));
        Turn(busy, self.all.get(member).map_or(0, |m| m.turn), *last)
    }
}
