//! Cluster time: the local clock, corrected by the median of what the peers' clocks say.
//!
//! A machine whose clock is an hour wrong works, and says so. With fewer than three peers heard
//! there is no majority against the local clock: it counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p2pinst_types::{Millis, NodeId};
use tracing::{info, warn};

/// Peers whose clocks are remembered; enough for a median that a few liars cannot move.
const SAMPLES: usize = 64;
/// Peers needed to outvote the local clock.
const QUORUM: usize = 3;
/// From here on a difference is worth telling the user.
const WORTH_TELLING: i64 = 10_000;

/// A handle on cluster time; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Peer's clock minus ours, in milliseconds, as last heard.
    offsets: BTreeMap<NodeId, i64>,
    /// What is added to the local clock.
    correction: i64,
    told: bool,
}

/// The local clock.
#[must_use]
pub fn local() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The lower median of the offsets; zero without a quorum.
fn median(offsets: &BTreeMap<NodeId, i64>) -> i64 {
    if offsets.len() < QUORUM {
        return 0;
    }
    let mut sorted: Vec<i64> = offsets.values().copied().collect();
    sorted.sort_unstable();
    sorted.get((sorted.len() - 1) / 2).copied().unwrap_or(0)
}

impl Clock {
    /// Cluster time.
    #[must_use]
    pub fn now(&self) -> Millis {
        let correction = self.0.lock().unwrap_or_else(PoisonError::into_inner).correction;
        Millis(local().0.saturating_add_signed(correction))
    }

    /// Hears a peer's clock.
    pub fn heard(&self, peer: NodeId, theirs: Millis) {
        let offset = i64::try_from(theirs.0).unwrap_or(i64::MAX)
            - i64::try_from(local().0).unwrap_or(i64::MAX);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.offsets.len() >= SAMPLES && !state.offsets.contains_key(&peer) {
            state.offsets.pop_first();
        }
        state.offsets.insert(peer, offset);
        let median = median(&state.offsets);
        // network delay and rounding are no reason to correct
        state.correction = if median.abs() < 500 { 0 } else { median };
        let far = state.correction.abs() >= WORTH_TELLING;
        if far && !state.told {
            let seconds = -state.correction / 1000;
            warn!(
                seconds,
                "this machine's clock is ahead of the cluster's (behind when negative); using the cluster's"
            );
        } else if !far && state.told {
            info!("this machine's clock agrees with the cluster's again");
        }
        state.told = far;
    }

    /// How far the local clock is ahead of cluster time, in milliseconds.
    #[must_use]
    pub fn ahead(&self) -> i64 {
        -self.0.lock().unwrap_or_else(PoisonError::into_inner).correction
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::PublicKey;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId(PublicKey([n; 32]))
    }

    #[test]
    fn the_majority_of_three_peers_outvotes_the_local_clock() {
        let clock = Clock::default();
        let hour = Duration::from_secs(3600);
        for n in 1..=2 {
            clock.heard(node(n), local().after(hour));
        }
        assert_eq!(clock.ahead(), 0, "two peers are no quorum");
        clock.heard(node(3), local().after(hour));
        assert!((clock.ahead() + 3_600_000).abs() < 1000, "{}", clock.ahead());
        assert!(clock.now() > local().after(Duration::from_secs(3590)));
    }

    #[test]
    fn one_wrong_peer_moves_nobody() {
        let clock = Clock::default();
        clock.heard(node(1), local());
        clock.heard(node(2), local());
        clock.heard(node(3), local().after(Duration::from_secs(3600)));
        assert_eq!(clock.ahead(), 0);
    }
}
