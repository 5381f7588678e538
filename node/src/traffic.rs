//! How many requests of the store protocol went where: for people who look for who talks too much.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2pinst_types::NodeId;

/// Peers that are counted; those beyond share nothing and are left out.
const PEERS: usize = 65_536;

/// What was exchanged with one peer since this node's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that this node has sent.
    pub asked: u64,
    /// Requests that it has received.
    pub answered: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<BTreeMap<NodeId, Count>>);

impl Traffic {
    fn table(&self) -> MutexGuard<'_, BTreeMap<NodeId, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, peer: NodeId, more: impl FnOnce(&mut Count)) {
        let mut table = self.table();
        if table.len() < PEERS || table.contains_key(&peer) {
            more(table.entry(peer).or_default());
        }
    }

    /// A request is sent.
    pub fn asked(&self, peer: NodeId) {
        self.count(peer, |c| c.asked += 1);
    }

    /// A request was received.
    pub fn answered(&self, peer: NodeId) {
        self.count(peer, |c| c.answered += 1);
    }

    /// What was exchanged with a peer.
    #[must_use]
    pub fn of(&self, peer: &NodeId) -> Count {
        self.table().get(peer).copied().unwrap_or_default()
    }
}
