//! Who may have a bulk connection for what it takes from here: each is a file descriptor.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use p2pinst_types::NodeId;

use super::lock;

/// Bulk connections of all takers; beyond that, streams must do.
const ALL: usize = 512;
/// Of one taker,
const EACH: usize = 16;
/// and this part of those that are left.
const SHARE: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rooms(Arc<Mutex<BTreeMap<NodeId, usize>>>);

/// Room for one connection, until dropped.
#[derive(Debug)]
pub(super) struct Room(Arc<Mutex<BTreeMap<NodeId, usize>>>, NodeId);

impl Rooms {
    /// Room for one more connection of a taker, if there is.
    pub(super) fn take(&self, peer: NodeId) -> Option<Room> {
        let mut taken = lock(&self.0);
        let left = ALL.saturating_sub(taken.values().sum());
        let own = taken.get(&peer).copied().unwrap_or(0);
        if left == 0 || own >= (left / SHARE).clamp(1, EACH) {
            return None;
        }
        taken.insert(peer, own + 1);
        Some(Room(Arc::clone(&self.0), peer))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = lock(&self.0);
        let Some(own) = taken.get_mut(&self.1) else { return };
        *own = own.saturating_sub(1);
        if *own == 0 {
            taken.remove(&self.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::PublicKey;

    use super::*;

    fn node(n: usize) -> NodeId {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        NodeId(PublicKey(key))
    }

    #[test]
    fn nobody_takes_the_room_of_all_others() {
        let rooms = Rooms::default();
        let mut all = Vec::new();
        let mut take = |n: usize| {
            let room = rooms.take(node(n));
            let had = room.is_some();
            all.extend(room);
            had
        };
        assert_eq!((0..100).filter(|_| take(0)).count(), EACH);
        for greedy in 1..16 {
            assert!((0..100).filter(|_| take(greedy)).count() > 1);
        }
        assert!((100..200).all(&mut take), "one each for all the others");
        assert!((200..2000).filter(|n| take(*n)).count() < 2000 - 200);
        assert_eq!(all.len(), ALL);
        all.clear();
        assert!(lock(&rooms.0).is_empty());
    }
}
