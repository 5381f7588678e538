//! Cluster time of this process: the local clock, corrected by what the peers' clocks say
//! ([`dht_store::clock`]).
//!
//! A machine whose clock is an hour wrong works, and says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dht_store::clock::PeerClocks;
use p2pinst_types::{Millis, NodeId};
use tracing::{info, warn};

/// From here on a difference is worth telling the user.
const WORTH_TELLING: i64 = 10_000;

/// A handle on cluster time; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    peers: PeerClocks,
    told: bool,
}

/// The local clock.
#[must_use]
pub fn local() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Clock {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cluster time.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.state().peers.now(local())
    }

    /// Presumes that it is this time until enough peers were heard.
    pub fn presume(&self, time: Millis) {
        self.state().peers.presume(time, local());
    }

    /// Hears a peer's clock.
    pub fn heard(&self, peer: NodeId, theirs: Millis) {
        let mut state = self.state();
        state.peers.heard(peer, theirs, local());
        let correction = state.peers.correction();
        let far = correction.abs() >= WORTH_TELLING;
        if far && !state.told {
            let seconds = -correction / 1000;
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
        -self.state().peers.correction()
    }
}
