//! Who else has a blob: the peers to whom pieces went and from whom they came. A busy source names some
//! of them. In memory only, and no more than a hint.

use std::collections::VecDeque;
use std::sync::Mutex;

use p2pinst_types::{Hash, NodeId};
use rand::RngExt;

use super::lock;

/// Blobs that are remembered: those that moved last.
const BLOBS: usize = 64;
/// Peers of each that are remembered: the last ones.
const PEERS: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Holders(Mutex<VecDeque<(Hash, VecDeque<NodeId>)>>);

impl Holders {
    /// A peer has a piece of a blob.
    pub(super) fn note(&self, root: Hash, peer: NodeId) {
        let mut blobs = lock(&self.0);
        let at = blobs.iter().position(|(r, _)| *r == root);
        // the blob that moves most is found first
        let (_, mut peers) = at.and_then(|at| blobs.remove(at)).unwrap_or((root, VecDeque::new()));
        if !peers.contains(&peer) {
            peers.truncate(PEERS - 1);
            peers.push_front(peer);
        }
        blobs.push_front((root, peers));
        blobs.truncate(BLOBS);
    }

    /// Some who have at least a part of a blob, at most `most`, others each time.
    pub(super) fn some(&self, root: &Hash, except: &NodeId, most: usize) -> Vec<NodeId> {
        let blobs = lock(&self.0);
        let Some((_, peers)) = blobs.iter().find(|(r, _)| r == root) else { return Vec::new() };
        let begin = rand::rng().random_range(0..peers.len().max(1));
        let all = peers.iter().skip(begin).chain(peers.iter().take(begin));
        all.filter(|p| *p != except).take(most).copied().collect()
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
    fn a_few_are_named_and_never_the_one_that_asks() {
        let holders = Holders::default();
        let root = Hash([1; 32]);
        assert!(holders.some(&root, &node(1), 8).is_empty());
        for n in (1..=6).chain(1..=6) {
            holders.note(root, node(n));
        }
        let mut all = holders.some(&root, &node(3), 8);
        all.sort();
        assert_eq!(all, [1, 2, 4, 5, 6].map(node));
        assert_eq!(holders.some(&root, &node(3), 2).len(), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let holders = Holders::default();
        for n in 0..=255 {
            holders.note(Hash([0; 32]), node(n));
            holders.note(Hash([n; 32]), node(1));
        }
        assert_eq!(lock(&holders.0).len(), BLOBS);
        assert!(lock(&holders.0).iter().all(|(_, p)| p.len() <= PEERS));
        assert_eq!(holders.some(&Hash([0; 32]), &node(0), 99).len(), PEERS);
        assert!(holders.some(&Hash([0; 32]), &node(0), 99).contains(&node(255)));
    }
}
