//! Whom a node keeps connected: everybody in a small cluster; in a larger one its neighbours on
//! several rings.
//!
//! Each ring is an order of its own of all members (a hash), and a node's neighbours are the next
//! that are not down in both directions: so the relation is the same seen from both ends, every ring alone
//! connects all, and several of them make a graph in which everything is near. A third of the rings go through all
//! members, the others through those of one's own site: most bytes stay in the site.

use std::collections::BTreeSet;

use p2pinst_types::{Name, NodeId};

use super::members::mix;
use super::wire::Short;

/// Of the connections that a node may keep, it plans this share (in eighths); the rest is for
/// those who come to it, and for what is needed now and then.
const PLANNED: usize = 3;
/// How far a node looks on a ring for one that is not down, in each direction.
const REACH: usize = 64;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Rings {
    /// Every other member, in the order of their names from this node on: a small cluster. Otherwise empty.
    all: Vec<NodeId>,
    /// On each ring those who follow this node, nearest first, and those whom it follows.
    rings: Vec<[Vec<NodeId>; 2]>,
}

impl Rings {
    /// The rings around a node. `limit`: connections that it may keep.
    #[must_use]
    pub fn new(own: NodeId, members: &[(NodeId, Name)], limit: usize) -> Self {
        if members.len() <= limit.saturating_add(1) {
            let all: BTreeSet<NodeId> = members.iter().map(|(node, _)| *node).collect();
            let (before, after) = (all.range(..own), all.range(own..));
            let all = after.chain(before).filter(|node| **node != own).copied().collect();
            return Self { all, rings: Vec::new() };
        }
        let site = members.iter().find(|(node, _)| *node == own).map(|(_, site)| site.clone());
        let count = (limit * PLANNED / 16).max(2);
        let global = count.div_ceil(3);
        let ring = |number: usize| {
            let near = number >= global;
            let mut order: Vec<(u64, NodeId)> = members
                .iter()
                .filter(|(_, s)| !near || Some(s) == site.as_ref())
                .map(|(node, _)| (place(number, node), *node))
                .collect();
            order.sort_unstable();
            let at = order.iter().position(|(_, node)| *node == own).unwrap_or(0);
            order.rotate_left(at);
            let others = || order.iter().map(|(_, node)| *node).filter(|node| *node != own);
            [others().take(REACH).collect(), others().rev().take(REACH).collect()]
        };
        Self { all: Vec::new(), rings: (0..count).map(ring).collect() }
    }

    /// Whether all are kept connected.
    #[must_use]
    pub fn is_small(&self) -> bool {
        self.rings.is_empty()
    }

    /// The members to keep connected, passing over those that are down.
    pub fn wanted(&self, is_down: impl Fn(&NodeId) -> bool) -> BTreeSet<NodeId> {
        self.turns(is_down).into_iter().collect()
    }

    /// The same in an order: when all nodes ask the one at the same place of theirs, each is asked
    /// by one. In a large cluster a member can be there more than once.
    pub fn turns(&self, is_down: impl Fn(&NodeId) -> bool) -> Vec<NodeId> {
        let sides = self.rings.iter().flatten();
        let near = sides.filter_map(|side| side.iter().find(|n| !is_down(n)));
        self.all.iter().chain(near).copied().collect()
    }
}

/// Where a member stands on a ring: the number of its name, mixed with that of the ring.
fn place(ring: usize, node: &NodeId) -> u64 {
    let mixed = mix(ring as u64 + 1);
    mix(Short::of(node).number() ^ mixed)
}

#[cfg(test)]
mod tests {
    use p2pinst_types::{Hash, PublicKey};

    use super::*;

    fn members(count: u32, sites: u32) -> Vec<(NodeId, Name)> {
        let member = |n: u32| {
            let mut key = [0; 32];
            key[..32].copy_from_slice(Hash::of(&n.to_be_bytes()).as_bytes());
            (NodeId(PublicKey(key)), format!("site{}", n % sites).parse().unwrap())
        };
        (0..count).map(member).collect()
    }

    #[test]
    fn a_small_cluster_is_connected_wholly() {
        let members = members(65, 2);
        let rings = Rings::new(members[0].0, &members, 64);
        assert!(rings.is_small());
        assert_eq!(rings.wanted(|_| true).len(), 64, "also who is down is tried");
    }

    #[test]
    fn at_each_turn_everybody_is_asked_by_one() {
        for (count, limit) in [(20, 64), (300, 64)] {
            let members = members(count, 3);
            let turns = |n: &NodeId| Rings::new(*n, &members, limit).turns(|_| false);
            let turns: Vec<Vec<NodeId>> = members.iter().map(|(n, _)| turns(n)).collect();
            let len = turns[0].len();
            assert!(turns.iter().all(|t| t.len() == len));
            for turn in 0..len {
                let asked: BTreeSet<NodeId> = turns.iter().map(|t| t[turn]).collect();
                assert_eq!(asked.len(), members.len(), "turn {turn} of {count} members");
            }
        }
    }

    #[test]
    fn in_a_large_one_the_relation_is_mutual_and_connects_all_also_without_the_dead() {
        let members = members(300, 3);
        let dead: BTreeSet<NodeId> = members.iter().skip(5).step_by(4).map(|m| m.0).collect();
        let wanted: std::collections::BTreeMap<NodeId, BTreeSet<NodeId>> = members
            .iter()
            .filter(|(n, _)| !dead.contains(n))
            .map(|(n, _)| (*n, Rings::new(*n, &members, 64).wanted(|n| dead.contains(n))))
            .collect();
        for (node, others) in &wanted {
            assert!(others.len() <= 24 && others.len() >= 18, "{}", others.len());
            assert!(others.iter().all(|o| wanted[o].contains(node)));
            let site = |n: &NodeId| members.iter().find(|m| m.0 == *n).unwrap().1.clone();
            let near = others.iter().filter(|o| site(o) == site(node)).count();
            assert!(near * 2 >= others.len(), "{near} of {} are near", others.len());
        }
        let mut seen = BTreeSet::new();
        let mut next: Vec<NodeId> = wanted.keys().take(1).copied().collect();
        while let Some(node) = next.pop() {
            if seen.insert(node) {
                next.extend(&wanted[&node]);
            }
        }
        assert_eq!(seen.len(), wanted.len());
    }

    #[test]
    fn a_limit_of_four_gives_four() {
        let members = members(12, 1);
        for (node, _) in &members {
            let wanted = Rings::new(*node, &members, 4).wanted(|_| false);
            assert!((2..=4).contains(&wanted.len()), "{}", wanted.len());
        }
    }
}
