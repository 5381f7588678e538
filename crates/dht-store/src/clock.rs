//! Cluster time: the local clock, corrected by the median of what the peers' clocks say.
//!
//! With fewer than three peers heard there is no majority against the local clock: it counts.

use std::collections::BTreeMap;

use p2pinst_types::{Millis, NodeId};

/// Peers whose clocks are remembered; enough for a median that a few liars cannot move.
const SAMPLES: usize = 64;
/// Peers needed to outvote the local clock.
const QUORUM: usize = 3;
/// Network delay and rounding, up to this many milliseconds, are no reason to correct.
const NOISE: i64 = 500;

/// What the peers' clocks say against ours.
#[derive(Debug, Clone, Default)]
pub struct PeerClocks {
    /// Peer's clock minus ours, in milliseconds, as last heard.
    offsets: BTreeMap<NodeId, i64>,
    /// What counts until enough peers were heard.
    presumed: i64,
    correction: i64,
}

/// The lower median of the offsets; nothing without a quorum.
fn median(offsets: &BTreeMap<NodeId, i64>) -> Option<i64> {
    if offsets.len() < QUORUM {
        return None;
    }
    let mut sorted: Vec<i64> = offsets.values().copied().collect();
    sorted.sort_unstable();
    sorted.get((sorted.len() - 1) / 2).copied()
}

fn signed(at: Millis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

impl PeerClocks {
    /// Presumes that it is this time, at a moment of the local clock, until enough peers were heard: what a machine does whose own
    /// clock knows nothing (its battery is empty).
    pub fn presume(&mut self, time: Millis, local: Millis) {
        self.presumed = signed(time) - signed(local);
        self.correct();
    }

    fn correct(&mut self) {
        let difference = median(&self.offsets).unwrap_or(self.presumed);
        self.correction = if difference.abs() < NOISE { 0 } else { difference };
    }

    /// Hears a peer's clock at a moment of the local one.
    pub fn heard(&mut self, peer: NodeId, theirs: Millis, local: Millis) {
        if self.offsets.len() >= SAMPLES && !self.offsets.contains_key(&peer) {
            self.offsets.pop_first();
        }
        self.offsets.insert(peer, signed(theirs) - signed(local));
        self.correct();
    }

    /// What is added to the local clock, in milliseconds.
    #[must_use]
    pub fn correction(&self) -> i64 {
        self.correction
    }

    /// Cluster time at a moment of the local clock.
    #[must_use]
    pub fn now(&self, local: Millis) -> Millis {
        Millis(local.0.saturating_add_signed(self.correction))
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::PublicKey;

    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);
    const HOUR: u64 = 3_600_000;

    fn node(n: u8) -> NodeId {
        NodeId(PublicKey([n; 32]))
    }

    #[test]
    fn the_majority_of_three_peers_outvotes_the_local_clock() {
        let mut clock = PeerClocks::default();
        for n in 1..=2 {
            clock.heard(node(n), Millis(NOW.0 + HOUR), NOW);
        }
        assert_eq!(clock.now(NOW), NOW, "two peers are no quorum");
        clock.heard(node(3), Millis(NOW.0 + HOUR), NOW);
        assert_eq!(clock.now(NOW), Millis(NOW.0 + HOUR));
    }

    #[test]
    fn a_presumed_time_counts_until_a_quorum_is_heard() {
        let mut clock = PeerClocks::default();
        clock.presume(NOW, Millis(HOUR));
        assert_eq!(clock.now(Millis(HOUR + 5)), Millis(NOW.0 + 5));
        for n in 1..=3 {
            assert_eq!(clock.now(Millis(HOUR)), NOW);
            clock.heard(node(n), Millis(NOW.0 + 7000), Millis(HOUR));
        }
        assert_eq!(clock.now(Millis(HOUR)), Millis(NOW.0 + 7000));
    }

    #[test]
    fn one_wrong_peer_moves_nobody() {
        let mut clock = PeerClocks::default();
        for (n, ahead) in [(1, 0), (2, 20), (3, HOUR)] {
            clock.heard(node(n), Millis(NOW.0 + ahead), NOW);
        }
        assert_eq!(clock.correction(), 0);
    }

    #[test]
    fn no_number_of_peers_takes_more_memory() {
        let mut clock = PeerClocks::default();
        (0..=255).for_each(|n| clock.heard(node(n), Millis(u64::MAX), Millis(0)));
        assert!(clock.offsets.len() <= SAMPLES);
        assert_eq!(clock.now(NOW).0, NOW.0 + u64::try_from(i64::MAX).unwrap());
    }
}
