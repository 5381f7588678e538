//! Which nodes hold a cell of the data plane: the R closest by the XOR metric of Kademlia
//! (Maymounkov and Mazières, 2002) over the roster, one hop, since every node knows the roster.

use std::collections::BTreeMap;

use p2pinst_types::{ClusterId, Hash, Kind, Name, PublicKey, limits};

use crate::shelf::Subject;

/// The point of the key space where cells of one subject lie.
#[must_use]
pub fn key(cluster: &ClusterId, kind: Kind, subject: &[u8]) -> Hash {
    let kind = kind.0.to_be_bytes();
    Hash::of_parts("p2pinst/place/1", &[cluster.0.as_bytes(), &kind, subject])
}

/// How many replicas of `n` must have acknowledged before a writer lets go of a cell.
#[must_use]
pub fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// A node's place in the key space.
type Point = (Hash, PublicKey);

/// The nodes that may hold cells (roster ∩ live, this node included), in the order of their places.
#[derive(Debug, Clone)]
pub struct Ring {
    cluster: ClusterId,
    all: Vec<Point>,
    sites: BTreeMap<Name, Vec<Point>>,
}

impl Ring {
    /// The ring of nodes and their sites.
    pub fn new(cluster: ClusterId, nodes: impl IntoIterator<Item = (PublicKey, Name)>) -> Self {
        let mut ring = Self { cluster, all: Vec::new(), sites: BTreeMap::new() };
        for (node, site) in nodes {
            let point = (Hash::of(node.as_bytes()), node);
            ring.all.push(point);
            ring.sites.entry(site).or_default().push(point);
        }
        ring.all.sort_unstable();
        ring.all.dedup();
        ring.sites.values_mut().for_each(|points| {
            points.sort_unstable();
            points.dedup();
        });
        ring
    }

    /// Whose ring it is.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether these are the same nodes in the same places.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.all == other.all && self.sites == other.sites
    }

    /// The replicas of a subject, closest first: min(8, N) of them. When none of them is in `site`,
    /// the last gives way to the closest that is: what is written at a site can be read there
    /// when the rest of the world is cut off.
    #[must_use]
    pub fn replicas(&self, subject: &Subject, site: Option<&Name>) -> Vec<PublicKey> {
        let key = key(&self.cluster, subject.kind, &subject.id);
        let mut found = closest(&self.all, &key, limits::REPLICAS);
        if let Some(local) = site.and_then(|s| self.sites.get(s))
            && !found.iter().any(|p| local.binary_search(p).is_ok())
        {
            found.truncate(limits::REPLICAS - 1);
            found.extend(closest(local, &key, 1));
        }
        found.into_iter().map(|(_, node)| node).collect()
    }
}

/// The `n` points closest to `key`, closest first. `points` are sorted: those that share a prefix
/// are neighbours, as in a binary trie.
fn closest(points: &[Point], key: &Hash, n: usize) -> Vec<Point> {
    let mut out = Vec::with_capacity(n);
    // ranges that are still to be looked at, farthest first; each shares its first bits with
    // another, and is wholly closer than those before it
    let mut ranges = vec![(points, 0usize)];
    while let Some((range, bit)) = ranges.pop() {
        if out.len() == n {
            break;
        }
        match range {
            [] => {}
            [point] => out.push(*point),
            _ => {
                let first = range.partition_point(|p| !bit_of(&p.0, bit));
                let (zeros, ones) = range.split_at(first);
                let (near, far) = if bit_of(key, bit) { (ones, zeros) } else { (zeros, ones) };
                ranges.push((far, bit + 1));
                ranges.push((near, bit + 1));
            }
        }
    }
    out
}

fn bit_of(hash: &Hash, bit: usize) -> bool {
    hash.0.get(bit / 8).is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(i: u16) -> PublicKey {
        let mut key = [7; 32];
        key[..2].copy_from_slice(&i.to_be_bytes());
        PublicKey(key)
    }

    fn site(i: u16) -> Name {
        format!("site{}", i % 3).parse().unwrap()
    }

    fn ring(nodes: impl IntoIterator<Item = u16>) -> Ring {
        Ring::new(ClusterId(Hash([1; 32])), nodes.into_iter().map(|i| (node(i), site(i))))
    }

    fn subject(i: u16) -> Subject {
        Subject { kind: Kind::STATUS, id: i.to_be_bytes().to_vec() }
    }

    fn distance(key: &Hash, node: &PublicKey) -> [u8; 32] {
        let mut out = Hash::of(node.as_bytes()).0;
        out.iter_mut().zip(key.0).for_each(|(a, b)| *a ^= b);
        out
    }

    proptest! {
        #[test]
        fn the_closest_by_xor_come_first(
            nodes in proptest::collection::btree_set(0u16..500, 0..60),
            n in 0u16..100,
        ) {
            let ring = ring(nodes.iter().copied());
            let key = key(&ring.cluster, Kind::STATUS, &n.to_be_bytes());
            let mut sorted: Vec<PublicKey> = nodes.iter().map(|i| node(*i)).collect();
            sorted.sort_by_key(|p| distance(&key, p));
            sorted.truncate(8);
            prop_assert_eq!(ring.replicas(&subject(n), None), sorted);
        }

        #[test]
        fn one_is_in_the_writers_site(
            nodes in proptest::collection::btree_set(0u16..500, 0..60),
            n in 0u16..100,
        ) {
            let ring = ring(nodes.iter().copied());
            let local: Vec<PublicKey> =
                nodes.iter().filter(|i| **i % 3 == 0).map(|i| node(*i)).collect();
            let replicas = ring.replicas(&subject(n), Some(&site(0)));
            prop_assert_eq!(replicas.len(), nodes.len().min(8));
            prop_assert!(local.is_empty() || replicas.iter().any(|r| local.contains(r)));
            let free = ring.replicas(&subject(n), None);
            let moved = replicas.iter().filter(|r| !free.contains(r)).count();
            prop_assert!(moved <= 1);
        }
    }

    #[test]
    fn little_moves_when_a_node_leaves() {
        let (all, fewer) = (ring(0..100), ring(1..100));
        let moved: usize = (0..100)
            .map(|n| {
                let before = all.replicas(&subject(n), None);
                let after = fewer.replicas(&subject(n), None);
                after.iter().filter(|r| !before.contains(r)).count()
            })
            .sum();
        // one node of a hundred is in 8 % of the sets; each loses one
        assert!(moved < 30, "{moved}");
        assert!(!all.same(&fewer) && all.same(&all.clone()));
        assert_eq!((majority(8), majority(1)), (5, 1));
    }
}
