//! Who takes what from this node: one stream for each member and blob, and so many for each blob.

use std::collections::BTreeMap;

use p2pinst_chunks::Serve;
use p2pinst_chunks::fetch::Place;
use p2pinst_chunks::serve::ServeLimits;
use p2pinst_types::{Hash, NodeId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{StreamId, Turn};

/// Takers of one blob at this site: beyond that, those who have them give to the others.
pub(super) const NEAR: usize = 192;
/// And at each other site, which has 16 that ask outside,
pub(super) const FAR: usize = 16;
/// and at all of them.
const ALL_FAR: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Uploads {
    pub(super) serve: Serve<StreamId>,
    streams: BTreeMap<StreamId, Taker>,
    of: BTreeMap<Hash, BTreeMap<NodeId, StreamId>>,
}

#[derive(Debug)]
struct Taker {
    peer: NodeId,
    root: Hash,
    place: Place,
    turns: mpsc::Sender<Turn>,
    replaced: CancellationToken,
}

/// A stream that was let in.
#[derive(Debug)]
pub(super) struct Admitted {
    /// Whether the blob is seeded to it.
    pub(super) seeding: bool,
    /// The member has opened another stream for the same blob.
    pub(super) replaced: CancellationToken,
}

impl Default for Uploads {
    fn default() -> Self {
        let serve = Serve::new(ServeLimits::default());
        Self { serve, streams: BTreeMap::new(), of: BTreeMap::new() }
    }
}

impl Uploads {
    /// Lets a stream in, in place of another of the same member for the same blob; `None`: there are
    /// takers enough.
    pub(super) fn admit(
        &mut self,
        id: StreamId,
        (peer, place): (NodeId, Place),
        root: Hash,
        turns: mpsc::Sender<Turn>,
    ) -> Option<Admitted> {
        let of = self.of.get(&root);
        let old = of.and_then(|of| of.get(&peer)).copied();
        if old.is_none() {
            let places = || {
                let of = of.into_iter().flat_map(BTreeMap::values);
                of.filter_map(|s| self.streams.get(s).map(|t| t.place))
            };
            let near = places().filter(|p| p.is_near()).count();
            let is_full = if place.is_near() {
                near >= NEAR
            } else {
                let there = places().filter(|p| *p == place).count();
                there >= FAR || places().count() - near >= ALL_FAR
            };
            if is_full {
                return None;
            }
        }
        let seeding = match old {
            Some(old) => {
                let seeding = self.serve.open_instead(old, id, root, place);
                self.left(old);
                seeding
            }
            None => self.serve.open(id, root, place),
        };
        let replaced = CancellationToken::new();
        self.of.entry(root).or_default().insert(peer, id);
        let taker = Taker { peer, root, place, turns, replaced: replaced.clone() };
        self.streams.insert(id, taker);
        self.serve.belongs(id, member(&peer));
        Some(Admitted { seeding, replaced })
    }

    /// A stream is over, or is to end.
    pub(super) fn left(&mut self, id: StreamId) {
        self.serve.left(id);
        let Some(taker) = self.streams.remove(&id) else { return };
        taker.replaced.cancel();
        if let Some(of) = self.of.get_mut(&taker.root) {
            of.remove(&taker.peer);
            if of.is_empty() {
                self.of.remove(&taker.root);
            }
        }
    }

    /// A stream that does not take what it is to send is given up.
    pub(super) fn tell(&mut self, stream: StreamId, turn: Turn) {
        if self.streams.get(&stream).is_none_or(|s| s.turns.try_send(turn).is_err()) {
            self.left(stream);
        }
    }
}

/// A number for a member. Two that share one would share turns, no more.
fn member(node: &NodeId) -> u64 {
    node.0.as_bytes().iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use p2pinst_chunks::fetch::SiteTag;
    use p2pinst_chunks::rates::Slots;
    use p2pinst_chunks::serve::Offer;
    use p2pinst_types::{PieceIndex, PublicKey};

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId(PublicKey([n; 32]))
    }

    const ROOT: Hash = Hash([1; 32]);

    /// Opens a stream; its turns, and whether it was let in.
    fn open(
        uploads: &mut Uploads,
        id: StreamId,
        peer: NodeId,
        place: Place,
        root: Hash,
    ) -> (mpsc::Receiver<Turn>, Option<Admitted>) {
        let (tx, turns) = mpsc::channel(9);
        (turns, uploads.admit(id, (peer, place), root, tx))
    }

    #[test]
    fn a_member_has_one_stream_for_a_blob_the_last_one() {
        let mut uploads = Uploads::default();
        let mut all = Vec::new();
        for id in 0..32 {
            all.push(open(&mut uploads, id, node(1), Place::Site, ROOT));
            uploads.serve.request(id, ROOT, PieceIndex(0)).unwrap();
        }
        assert_eq!((uploads.streams.len(), uploads.serve.waiting()), (1, 1));
        let ended = |a: &Option<Admitted>| a.as_ref().is_some_and(|a| a.replaced.is_cancelled());
        assert_eq!(all.iter().filter(|(_, a)| ended(a)).count(), 31);
        let (turns, last) = all.last().unwrap();
        assert!(!ended(last) && !turns.is_closed());
        // the old one ends later than the new one begins
        uploads.left(0);
        assert_eq!(uploads.of[&ROOT][&node(1)], 31);
        uploads.left(31);
        assert!(uploads.of.is_empty() && uploads.streams.is_empty());
    }

    #[test]
    fn a_stream_that_does_not_take_what_it_is_to_send_ends() {
        let mut uploads = Uploads::default();
        let (_turns, admitted) = open(&mut uploads, 1, node(1), Place::Site, ROOT);
        (0..9).for_each(|_| uploads.tell(1, Turn::Offer(Offer::All)));
        let replaced = admitted.unwrap().replaced;
        assert!(!replaced.is_cancelled());
        uploads.tell(1, Turn::Piece(PieceIndex(0)));
        assert!(replaced.is_cancelled() && uploads.streams.is_empty() && uploads.of.is_empty());
    }

    #[test]
    fn takers_of_a_blob_are_bounded_and_other_sites_have_places_of_their_own() {
        let mut uploads = Uploads::default();
        let far = Place::Far(SiteTag(1));
        let mut key = [0; 32];
        let mut next = 0;
        let mut open = |uploads: &mut Uploads, place, root| {
            next += 1;
            key[..8].copy_from_slice(&u64::to_be_bytes(next));
            let (turns, admitted) = open(uploads, next, NodeId(PublicKey(key)), place, root);
            std::mem::forget(turns);
            admitted.is_some()
        };
        let near = (0..500).filter(|_| open(&mut uploads, Place::Site, ROOT)).count();
        assert_eq!(near, NEAR);
        assert_eq!((0..500).filter(|_| open(&mut uploads, far, ROOT)).count(), FAR);
        // no site is shut out by others
        let other = Place::Far(SiteTag(2));
        assert_eq!((0..500).filter(|_| open(&mut uploads, other, ROOT)).count(), FAR);
        let sites = (3..100).map(|site| Place::Far(SiteTag(site)));
        let all = sites.flat_map(|site| [site; FAR + 1]);
        let all = all.filter(|site| open(&mut uploads, *site, ROOT)).count();
        assert_eq!(all + 2 * FAR, ALL_FAR);
        assert!(open(&mut uploads, Place::Site, Hash([2; 32])), "another blob");
        uploads.left(1);
        assert!(open(&mut uploads, Place::Rack, ROOT));
        assert!(!open(&mut uploads, Place::Site, ROOT));
    }

    #[test]
    fn members_take_turns_however_many_blobs_they_take() {
        let mut uploads = Uploads::default();
        let mut all = Vec::new();
        let mut ask = |uploads: &mut Uploads, id: u64, peer| {
            let root = Hash([id as u8; 32]);
            all.push(open(uploads, id, peer, Place::Site, root));
            for piece in 0..20 {
                uploads.serve.request(id, root, PieceIndex(piece)).unwrap();
            }
        };
        uploads.serve.set_slots(Slots { near: 1, far: 1 });
        (1..=10).for_each(|id| ask(&mut uploads, id, node(1)));
        ask(&mut uploads, 11, node(2));
        ask(&mut uploads, 12, node(3));
        let mut served = [0; 13];
        for _ in 0..30 {
            let job = uploads.serve.next_job().unwrap();
            served[job.peer as usize] += 1;
            uploads.serve.done(job.peer);
        }
        assert_eq!((served[11], served[12]), (10, 10), "{served:?}");
        assert!(served[1..=10].iter().all(|n| *n == 1), "its blobs take turns too: {served:?}");
        // with slots for all: those of one member come after who has nothing yet
        uploads.serve.set_slots(Slots { near: 3, far: 3 });
        let jobs: Vec<_> = std::iter::from_fn(|| uploads.serve.next_job()).collect();
        assert_eq!(jobs.len(), 3);
        assert_eq!(jobs.iter().filter(|j| j.peer <= 10).count(), 1);
    }
}
