//! Who is connected: written by the network, read everywhere. In memory only; a restart forgets.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2pinst_types::{Millis, NodeId};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::traffic::Traffic;

/// What is known of one peer.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Whether a connection is open now.
    pub up: bool,
    /// Since when it is so, in cluster time; `None`: never seen.
    pub since: Option<Millis>,
    /// Where it said that it listens.
    pub addrs: Vec<String>,
    /// Which life of the node it is.
    pub incarnation: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Peers {
    table: Mutex<BTreeMap<NodeId, Peer>>,
    changes: watch::Sender<u64>,
    clock: Clock,
    traffic: Traffic,
}

impl Peers {
    /// An empty table.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            table: Mutex::default(),
            changes: watch::Sender::new(0),
            clock,
            traffic: Traffic::default(),
        }
    }

    /// What was exchanged with each.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts changes: subscribe to be woken by them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Remembers what a peer has shown of itself. Only members get this far, so the table is
    /// bounded by the roster.
    pub fn shown(&self, node: NodeId, addrs: Vec<String>, incarnation: u64) {
        let mut table = self.table();
        let peer = table.entry(node).or_default();
        peer.addrs = addrs;
        peer.incarnation = incarnation;
    }

    /// A connection was made. Returns the peer's addresses.
    pub fn up(&self, node: NodeId) -> Vec<String> {
        self.turn(node, true)
    }

    /// The last connection was closed.
    pub fn down(&self, node: NodeId) {
        self.turn(node, false);
    }

    fn turn(&self, node: NodeId, up: bool) -> Vec<String> {
        let now = self.clock.now();
        let mut table = self.table();
        let peer = table.entry(node).or_default();
        let changed = peer.up != up || peer.since.is_none();
        if changed {
            peer.up = up;
            peer.since = Some(now);
        }
        let addrs = peer.addrs.clone();
        drop(table);
        if changed {
            self.changes.send_modify(|n| *n += 1);
        }
        addrs
    }

    /// What is known of a peer.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Peer {
        self.table().get(node).cloned().unwrap_or_default()
    }

    /// Whether a peer is connected.
    #[must_use]
    pub fn is_up(&self, node: &NodeId) -> bool {
        self.table().get(node).is_some_and(|p| p.up)
    }

    /// The peers that are connected.
    #[must_use]
    pub fn connected(&self) -> Vec<NodeId> {
        self.table().iter().filter(|(_, p)| p.up).map(|(n, _)| *n).collect()
    }
}
