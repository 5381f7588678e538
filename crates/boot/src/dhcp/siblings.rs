//! The other nodes of a segment that answer machines, and the order in which all of them do.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use p2pinst_types::{Hash, Mac, NodeId};

use super::beacon::Beacon;

/// For how long a node counts after its last beacon: three of them.
pub const FRESH: Duration = Duration::from_secs(15);
/// Siblings that are remembered.
pub const SIBLINGS: usize = 256;

/// Another node of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sibling {
    /// The node.
    pub node: NodeId,
    /// Where its beacons come from.
    pub address: Ipv4Addr,
    /// The TCP port on which it is reached by others of its cluster.
    pub node_port: u16,
    /// The TCP port of its boot service's HTTP server.
    pub http_port: u16,
    /// When it was last heard.
    pub heard: Duration,
}

/// The siblings of all segments, by interface.
#[derive(Debug, Default)]
pub(super) struct Siblings(BTreeMap<(u32, NodeId), Sibling>);

impl Siblings {
    /// A beacon of a member came.
    pub(super) fn heard(&mut self, now: Duration, interface: u32, from: Ipv4Addr, beacon: &Beacon) {
        let key = (interface, beacon.node);
        if self.0.len() >= SIBLINGS && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, s)| s.heard).map(|(key, _)| *key);
            oldest.map(|key| self.0.remove(&key));
        }
        let sibling = Sibling {
            node: beacon.node,
            address: from,
            node_port: beacon.node_port,
            http_port: beacon.http_port,
            heard: now,
        };
        self.0.insert(key, sibling);
    }

    /// Forgets those that are silent, and those that are `gone`.
    pub(super) fn retain(&mut self, now: Duration, member: impl Fn(NodeId) -> bool) {
        self.0.retain(|_, s| now.saturating_sub(s.heard) < FRESH && member(s.node));
    }

    /// The siblings on an interface that were heard lately.
    pub(super) fn on(&self, now: Duration, interface: u32) -> impl Iterator<Item = &Sibling> {
        let fresh = move |s: &&Sibling| now.saturating_sub(s.heard) < FRESH;
        let of_interface = self.0.iter().filter(move |((i, _), _)| *i == interface);
        of_interface.map(|(_, s)| s).filter(fresh)
    }

    /// Whether an address is a sibling's on any segment.
    pub(super) fn has_address(&self, now: Duration, address: Ipv4Addr) -> bool {
        self.0.values().any(|s| s.address == address && now.saturating_sub(s.heard) < FRESH)
    }

    /// How many are before `own` in the order in which the nodes of a segment answer a machine at its n-th attempt. The order is
    /// one that every node finds by itself (rendezvous hashing); with each attempt who was first becomes last.
    pub(super) fn rank(
        &self,
        now: Duration,
        interface: u32,
        own: NodeId,
        asked: (Mac, Hash),
        attempt: u32,
    ) -> u32 {
        let (mac, assignment) = asked;
        let weight = |node: NodeId| {
            let parts: [&[u8]; 3] = [&mac.0, node.0.as_bytes(), assignment.as_bytes()];
            (Hash::of_parts("p2pinst boot rank", &parts), node)
        };
        let mine = weight(own);
        let (mut place, mut count) = (0u32, 1u32);
        for sibling in self.on(now, interface).filter(|s| s.node != own) {
            place += u32::from(weight(sibling.node) < mine);
            count += 1;
        }
        (place + count - attempt % count) % count
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use p2pinst_types::PublicKey;

    use super::super::beacon::Kind;
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId(PublicKey([n; 32]))
    }

    fn beacon(node: NodeId) -> Beacon {
        Beacon { cluster: [0; 8], node, node_port: 1, http_port: 2, kind: Kind::Hello }
    }

    fn segment(own: u8) -> Siblings {
        let mut siblings = Siblings::default();
        for n in (0..4).filter(|n| *n != own) {
            let from = Ipv4Addr::new(10, 0, 0, n);
            siblings.heard(Duration::ZERO, 1, from, &beacon(node(n)));
        }
        siblings
    }

    #[test]
    fn every_node_has_a_rank_of_its_own_and_attempts_rotate_them() {
        let now = Duration::from_secs(1);
        let asked = (Mac([2; 6]), Hash([1; 32]));
        let ranks = |attempt| -> Vec<u32> {
            (0..4).map(|n| segment(n).rank(now, 1, node(n), asked, attempt)).collect()
        };
        let first = ranks(0);
        assert_eq!(first.iter().copied().collect::<BTreeSet<u32>>(), (0..4).collect());
        for (n, rank) in ranks(1).into_iter().enumerate() {
            assert_eq!(rank, (first[n] + 3) % 4);
        }
        assert_eq!(ranks(4), first);
        assert_eq!(ranks(u32::MAX).len(), 4);
        let orders: BTreeSet<Vec<u32>> = (0..20u8)
            .map(|m| {
                let asked = (Mac([2, 0, 0, 0, 0, m]), Hash([1; 32]));
                (0..4).map(|n| segment(n).rank(now, 1, node(n), asked, 0)).collect()
            })
            .collect();
        assert!(orders.len() > 5, "machines are spread over the nodes");
    }

    #[test]
    fn the_silent_and_those_of_other_segments_do_not_count() {
        let siblings = segment(0);
        let asked = (Mac([2; 6]), Hash([1; 32]));
        assert_eq!(siblings.rank(FRESH, 1, node(0), asked, 3), 0);
        assert_eq!(siblings.rank(Duration::ZERO, 2, node(0), asked, 3), 0);
        assert!(siblings.has_address(Duration::ZERO, [10, 0, 0, 1].into()));
        assert!(!siblings.has_address(FRESH, [10, 0, 0, 1].into()));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut siblings = Siblings::default();
        for n in 0..1000u32 {
            let now = Duration::from_millis(n.into());
            siblings.heard(now, n, [10, 0, 0, 1].into(), &beacon(node(1)));
        }
        assert_eq!(siblings.len(), SIBLINGS);
        siblings.retain(Duration::from_secs(1), |_| false);
        assert_eq!(siblings.len(), 0);
    }
}
