//! Which nodes hold a cell of the data plane: the R closest by the XOR metric of Kademlia
//! (Maymounkov and Mazières, 2002) over the roster, one hop, since every node knows the roster.

use p2pinst_types::{ClusterId, Hash, Kind, PublicKey, limits};

/// The point of the key space where cells of one subject lie.
#[must_use]
pub fn key(cluster: &ClusterId, kind: Kind, subject: &[u8]) -> Hash {
    let kind = kind.0.to_be_bytes();
    Hash::of_parts("p2pinst/place/1", &[cluster.0.as_bytes(), &kind, subject])
}

fn distance(key: &Hash, node: &PublicKey) -> [u8; 32] {
    let mut out = Hash::of(node.as_bytes()).0;
    for (a, b) in out.iter_mut().zip(key.0) {
        *a ^= b;
    }
    out
}

/// The replicas of a key among these nodes, closest first: min(8, N) of them.
#[must_use]
pub fn closest(key: &Hash, nodes: impl IntoIterator<Item = PublicKey>) -> Vec<PublicKey> {
    let mut nodes: Vec<([u8; 32], PublicKey)> =
        nodes.into_iter().map(|n| (distance(key, &n), n)).collect();
    nodes.sort_unstable();
    nodes.truncate(limits::REPLICAS);
    nodes.into_iter().map(|(_, n)| n).collect()
}

/// How many replicas of `n` must have acknowledged before a writer lets go of a cell.
#[must_use]
pub fn majority(n: usize) -> usize {
    n / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_is_the_same_everywhere_and_moves_little() {
        let nodes: Vec<PublicKey> = (0..100u8).map(|i| PublicKey([i; 32])).collect();
        let cluster = ClusterId(Hash([1; 32]));
        let mut moved = 0;
        for i in 0..100u8 {
            let key = key(&cluster, Kind::STATUS, &[i]);
            let all = closest(&key, nodes.iter().copied());
            assert_eq!(all, closest(&key, nodes.iter().rev().copied()));
            assert_eq!(all.len(), 8);
            let fewer = closest(&key, nodes.iter().skip(1).copied());
            moved += fewer.iter().filter(|n| !all.contains(n)).count();
        }
        // one node of a hundred is in 8 % of the sets; each loses one
        assert!(moved < 30, "{moved}");
        assert_eq!(majority(8), 5);
        assert_eq!(majority(1), 1);
    }
}
