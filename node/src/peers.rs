//! Who is up, and who is connected: written by the network and by the failure detector, read
//! everywhere. In memory only; a restart forgets.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2pinst_types::{Millis, NodeId};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::liveness::State;
use crate::traffic::Traffic;

/// Addresses that are kept of one peer.
const ADDRS: usize = 2 * p2pinst_types::limits::ADDRS;

/// What is known of one peer.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Whether it counts as up: connected with this node, or said to be up.
    pub up: bool,
    /// Since when it is so, in cluster time; `None`: never seen.
    pub since: Option<Millis>,
    /// What the failure detector knows.
    pub state: State,
    /// Who told so; `None`: this node saw it itself.
    pub by: Option<NodeId>,
    /// Whether a connection is open now.
    pub connected: bool,
    /// Where it said that it listens.
    pub addrs: Vec<String>,
    /// Which life of the node it is.
    pub incarnation: u64,
    /// Where else it may be: from the roster and its record. Tried after [`Peer::addrs`].
    noted: Vec<String>,
    /// Counts its connections, to tell one from the next.
    connections: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Peers {
    table: Mutex<BTreeMap<NodeId, Peer>>,
    changes: watch::Sender<u64>,
    turns: watch::Sender<u64>,
    isolated: watch::Sender<Option<Millis>>,
    clock: Clock,
    traffic: Traffic,
}

impl Peers {
    /// An empty table.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let (changes, turns) = (watch::Sender::new(0), watch::Sender::new(0));
        let (table, traffic) = (Mutex::default(), Traffic::default());
        Self { table, changes, turns, isolated: watch::Sender::new(None), clock, traffic }
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

    /// Counts only changes of who is up: connections come and go without them.
    #[must_use]
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.turns.subscribe()
    }

    /// Since when this node, which is not the only one, reaches nobody; `None`: it does.
    #[must_use]
    pub fn isolated_since(&self) -> Option<Millis> {
        *self.isolated.borrow()
    }

    pub(crate) fn set_isolated(&self, since: Option<Millis>) {
        self.isolated.send_replace(since);
    }

    /// Remembers what a peer has shown of itself. Only members get this far, so the table is
    /// bounded by the roster.
    pub fn shown(&self, node: NodeId, addrs: Vec<String>, incarnation: u64) {
        let mut table = self.table();
        let peer = table.entry(node).or_default();
        peer.addrs = addrs;
        peer.addrs.truncate(ADDRS);
        peer.incarnation = incarnation;
    }

    /// Remembers where a member may be, by its admission or its node record. They do not replace
    /// what it has shown itself.
    pub fn note(&self, node: NodeId, addrs: &[String]) {
        let mut table = self.table();
        let noted = &mut table.entry(node).or_default().noted;
        noted.retain(|a| !addrs.contains(a));
        noted.splice(0..0, addrs.iter().cloned());
        noted.truncate(ADDRS);
    }

    /// Forgets who is no longer a member.
    pub(crate) fn keep_only(&self, is_member: impl Fn(&NodeId) -> bool) {
        self.table().retain(|node, peer| peer.connected || is_member(node));
    }

    /// A connection was made. Returns the peer's addresses.
    pub fn up(&self, node: NodeId) -> Vec<String> {
        self.change(node, |peer| {
            peer.connections += u64::from(!peer.connected);
            peer.connected = true;
        });
        self.get(&node).addrs
    }

    /// The last connection was closed.
    pub fn down(&self, node: NodeId) {
        self.change(node, |peer| peer.connected = false);
    }

    /// What the failure detector found. `life`: 0 when it is not known.
    pub(crate) fn found(&self, node: NodeId, state: State, by: Option<NodeId>, life: u64) {
        self.change(node, |peer| {
            (peer.state, peer.by) = (state, by);
            // who is connected has shown it in the handshake
            if life != 0 && !peer.connected {
                peer.incarnation = life;
            }
        });
    }

    fn change(&self, node: NodeId, change: impl FnOnce(&mut Peer)) {
        let now = self.clock.now();
        let mut table = self.table();
        let peer = table.entry(node).or_default();
        let before = (peer.connected, peer.state);
        change(peer);
        let changed = before != (peer.connected, peer.state);
        let up = peer.connected || peer.state.is_up();
        let turned = up != peer.up;
        if changed && (turned || peer.since.is_none()) {
            (peer.up, peer.since) = (up, Some(now));
        }
        drop(table);
        if changed {
            self.changes.send_modify(|n| *n += 1);
        }
        if turned {
            self.turns.send_modify(|n| *n += 1);
        }
    }

    /// What is known of a peer.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Peer {
        self.table().get(node).cloned().unwrap_or_default()
    }

    /// Where a peer may be reached, likeliest first: what it has shown, its record, its admission.
    #[must_use]
    pub fn addrs_of(&self, node: &NodeId) -> Vec<String> {
        let table = self.table();
        let Some(peer) = table.get(node) else { return Vec::new() };
        let noted = peer.noted.iter().filter(|a| !peer.addrs.contains(a));
        peer.addrs.iter().chain(noted).cloned().collect()
    }

    /// Whether a peer counts as up: connected, or up as far as the cluster knows.
    #[must_use]
    pub fn is_up(&self, node: &NodeId) -> bool {
        self.table().get(node).is_some_and(|p| p.up)
    }

    /// The peers that are connected.
    #[must_use]
    pub fn connected(&self) -> Vec<NodeId> {
        self.table().iter().filter(|(_, p)| p.connected).map(|(n, _)| *n).collect()
    }

    /// The peers that are connected, each with a number that its next connection will not have.
    pub(crate) fn connections(&self) -> Vec<(NodeId, u64)> {
        let table = self.table();
        table.iter().filter(|(_, p)| p.connected).map(|(n, p)| (*n, p.connections)).collect()
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::PublicKey;

    use super::*;

    #[test]
    fn up_is_who_is_connected_or_said_to_be_up() {
        let (peers, node) = (Peers::new(Clock::default()), NodeId(PublicKey([1; 32])));
        assert_eq!(peers.get(&node).since, None);
        peers.up(node);
        let since = peers.get(&node).since;
        assert!(peers.is_up(&node) && since.is_some());
        peers.found(node, State::Alive, None, 6);
        assert_eq!(peers.get(&node).incarnation, 0, "the handshake knows better");
        peers.down(node);
        peers.found(node, State::Alive, None, 7);
        assert!(peers.is_up(&node), "it was not heard to be down");
        assert_eq!((peers.get(&node).since, peers.get(&node).incarnation), (since, 7));
        peers.found(node, State::Suspect, None, 0);
        assert!(peers.is_up(&node));
        peers.found(node, State::Down, None, 0);
        assert!(!peers.is_up(&node) && peers.connected().is_empty());
        peers.keep_only(|_| false);
        assert!(peers.addrs_of(&node).is_empty());
    }

    #[test]
    fn connections_of_one_that_is_up_wake_only_who_waits_for_connections() {
        let (peers, node) = (Peers::new(Clock::default()), NodeId(PublicKey([1; 32])));
        let (changes, turns) = (peers.changes(), peers.turns());
        let counts = || (*changes.borrow(), *turns.borrow());
        peers.found(node, State::Alive, None, 1);
        assert_eq!(counts(), (1, 1));
        peers.up(node);
        peers.found(node, State::Suspect, None, 1);
        peers.down(node);
        assert_eq!(counts(), (4, 1));
        peers.found(node, State::Down, None, 1);
        assert_eq!(counts(), (5, 2));
    }

    #[test]
    fn what_a_peer_has_shown_is_tried_before_what_is_noted() {
        let (peers, node) = (Peers::new(Clock::default()), NodeId(PublicKey([1; 32])));
        let addrs = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        peers.note(node, &addrs(&["roster"]));
        peers.note(node, &addrs(&["record"]));
        peers.shown(node, addrs(&["hello", "roster"]), 1);
        peers.note(node, &addrs(&["record"]));
        assert_eq!(peers.addrs_of(&node), addrs(&["hello", "roster", "record"]));
    }
}
