//! Serving: whose request comes next, and which requests are refused at once.
//!
//! Urgent blobs come first: none of the others begins while a piece of one waits or is on its way, but for
//! a few, so that slow takers of urgent pieces stop nobody. They have slots of their own, for the
//! others may be slow. While other programs are at work on the machine, others are [throttled](Serve::throttle).
//!
//! Sans-IO and pure; one [`Serve`] for all blobs of a node. A shell feeds it requests, asks for the
//! next job whenever one ended, and reads and sends the bytes itself. Peers take turns, one piece
//! each. A crash loses the queues; downloaders ask again.
//!
//! A blob that this node published is *seeded*: each piece leaves once before any leaves twice. A
//! request for a piece that has left already is refused as given away while others have not left,
//! so that the node's uplink carries only what the swarm does not have yet. A peer is refused a piece
//! in that way only once: if it asks again, it did not find the piece elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_types::{Hash, PieceIndex};

use crate::bitmap::Bitmap;
use crate::wire::Refusal;

/// While something urgent is served, others may use this part of the slots.
const YIELD: usize = 8;

/// What serving may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeLimits {
    /// Requests of one peer that may wait.
    pub queue: usize,
    /// Peers that may have requests waiting.
    pub peers: usize,
    /// Pieces being sent at a time, each to another peer; and as many of urgent blobs beside them.
    pub slots: usize,
}

impl Default for ServeLimits {
    /// 64 requests each of 256 peers, 16 at a time.
    fn default() -> Self {
        Self { queue: 64, peers: 256, slots: 16 }
    }
}

/// A piece to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job<P> {
    /// To whom.
    pub peer: P,
    /// Of which blob.
    pub root: Hash,
    /// Which.
    pub piece: PieceIndex,
}

/// The requests that wait, and those being answered.
#[derive(Debug)]
pub struct Serve<P> {
    limits: ServeLimits,
    queues: BTreeMap<P, Vec<(Hash, PieceIndex)>>,
    sending: BTreeMap<P, (Hash, PieceIndex)>,
    /// Whose turn was last.
    last: Option<P>,
    seeds: BTreeMap<Hash, Seed<P>>,
    urgent: BTreeSet<Hash>,
    /// Requests for blobs that are not urgent that may wait, of all peers.
    patience: Option<usize>,
}

/// How often each piece of a seeded blob has left.
#[derive(Debug)]
struct Seed<P> {
    pieces: Vec<Given>,
    /// Pieces that have not left yet.
    unsent: u32,
    /// Which pieces each peer was told to look for elsewhere.
    told: BTreeMap<P, Bitmap>,
}

/// What became of one piece.
#[derive(Debug, Clone, Copy, Default)]
struct Given {
    /// Requests that wait for it.
    waiting: u16,
    /// Times that it has left.
    sent: u16,
}

impl<P: Copy + Ord> Seed<P> {
    fn new(pieces: u32) -> Self {
        let told = BTreeMap::new();
        Self { pieces: vec![Given::default(); pieces as usize], unsent: pieces, told }
    }

    fn request(&mut self, peer: P, piece: PieceIndex, peers: usize) -> Result<(), Refusal> {
        let pieces = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
        let Some(given) = self.pieces.get_mut(piece.0 as usize) else { return Ok(()) };
        let known = self.told.len() < peers || self.told.contains_key(&peer);
        if (given.waiting > 0 || given.sent > 0) && self.unsent > 0 && known {
            let told = self.told.entry(peer).or_insert_with(|| Bitmap::new(pieces));
            if told.set(piece) {
                return Err(Refusal::GivenAway);
            }
        }
        given.waiting = given.waiting.saturating_add(1);
        Ok(())
    }

    /// A request is answered or taken back.
    fn no_longer_waits(&mut self, piece: PieceIndex) {
        if let Some(given) = self.pieces.get_mut(piece.0 as usize) {
            given.waiting = given.waiting.saturating_sub(1);
        }
    }

    fn sent(&mut self, piece: PieceIndex) {
        if let Some(given) = self.pieces.get_mut(piece.0 as usize) {
            self.unsent -= u32::from(given.sent == 0);
            given.sent = given.sent.saturating_add(1);
        }
    }

    fn not_sent(&mut self, piece: PieceIndex) {
        if let Some(given) = self.pieces.get_mut(piece.0 as usize).filter(|g| g.sent > 0) {
            given.sent -= 1;
            self.unsent += u32::from(given.sent == 0);
        }
    }
}

impl<P: Copy + Ord> Serve<P> {
    /// Nothing waits.
    #[must_use]
    pub fn new(limits: ServeLimits) -> Self {
        Self {
            limits,
            queues: BTreeMap::new(),
            sending: BTreeMap::new(),
            last: None,
            seeds: BTreeMap::new(),
            urgent: BTreeSet::new(),
            patience: None,
        }
    }

    /// Which blobs are urgent from now on, those whose pieces wait already too.
    pub fn set_urgent(&mut self, roots: BTreeSet<Hash>) {
        self.urgent = roots;
    }

    /// How many pieces to send at a time from now on; those that are on their way go on.
    pub fn set_slots(&mut self, slots: usize) {
        self.limits.slots = slots.max(1);
    }

    /// From now on no more than so many requests for blobs that are not urgent may wait, of all peers
    /// together; further ones are refused as [`Refusal::Busy`]. `None`: as many as the limits allow.
    pub fn throttle(&mut self, waiting: Option<usize>) {
        self.patience = waiting;
    }

    fn is_urgent(&self, root: &Hash) -> bool {
        self.urgent.contains(root)
    }

    /// Seeds a blob of so many pieces from now on. Takes 4 bytes per piece, and a bit per piece and
    /// downloader.
    pub fn seed(&mut self, root: Hash, pieces: u32) {
        self.seeds.entry(root).or_insert_with(|| Seed::new(pieces));
    }

    /// Seeds a blob no more: it is served like any other.
    pub fn unseed(&mut self, root: &Hash) {
        self.seeds.remove(root);
    }

    /// A peer asks for a piece that this node has. The same request twice is one.
    ///
    /// # Errors
    /// Why it is refused: too much waits already, or the piece has been given to somebody else.
    pub fn request(&mut self, peer: P, root: Hash, piece: PieceIndex) -> Result<(), Refusal> {
        let waiting = self.queues.get(&peer).map_or(0, Vec::len);
        if self.queues.get(&peer).is_some_and(|q| q.contains(&(root, piece))) {
            return Ok(());
        }
        if waiting >= self.limits.queue || (waiting == 0 && self.queues.len() >= self.limits.peers)
        {
            return Err(Refusal::Busy);
        }
        if let Some(patience) = self.patience.filter(|_| !self.is_urgent(&root)) {
            let others = self.queues.values().flatten().filter(|(r, _)| !self.is_urgent(r));
            if others.count() >= patience {
                return Err(Refusal::Busy);
            }
        }
        if let Some(seed) = self.seeds.get_mut(&root) {
            seed.request(peer, piece, self.limits.peers)?;
        }
        self.queues.entry(peer).or_default().push((root, piece));
        Ok(())
    }

    /// A peer takes a request back; without effect when its answer has begun.
    pub fn cancel(&mut self, peer: P, root: Hash, piece: PieceIndex) {
        let Some(queue) = self.queues.get_mut(&peer) else { return };
        let before = queue.len();
        queue.retain(|q| *q != (root, piece));
        if queue.len() < before
            && let Some(seed) = self.seeds.get_mut(&root)
        {
            seed.no_longer_waits(piece);
        }
        self.tidy(peer);
    }

    /// A peer is gone with all its requests. What was being sent to it counts as not sent.
    pub fn left(&mut self, peer: P) {
        for (root, piece) in self.queues.remove(&peer).unwrap_or_default() {
            if let Some(seed) = self.seeds.get_mut(&root) {
                seed.no_longer_waits(piece);
            }
        }
        if let Some((root, piece)) = self.sending.remove(&peer)
            && let Some(seed) = self.seeds.get_mut(&root)
        {
            seed.not_sent(piece);
        }
        self.seeds.values_mut().for_each(|s| drop(s.told.remove(&peer)));
    }

    fn tidy(&mut self, peer: P) {
        if self.queues.get(&peer).is_some_and(Vec::is_empty) {
            self.queues.remove(&peer);
        }
    }

    /// The next piece to send, if a slot is free and somebody waits whom nothing is being sent: a
    /// piece that has left least often, of the peer whose turn comes first. A shell that cannot
    /// send for long closes the stream and says [`Serve::left`], or the slot stays taken.
    pub fn next_job(&mut self) -> Option<Job<P>> {
        let (urgent, others) = self.free_slots();
        let idle = self.queues.iter().filter(|(p, _)| !self.sending.contains_key(p));
        let best = idle.filter_map(|(peer, queue)| {
            let pieces = queue.iter().enumerate();
            let sent = pieces.map(|(at, (r, p))| (!self.is_urgent(r), self.sent(r, *p), at));
            let (later, sent, at) = sent.min()?;
            let free = if later { others } else { urgent };
            (free > 0).then_some((later, sent, Some(*peer) <= self.last, *peer, at))
        });
        let (.., peer, at) = best.min()?;
        let (root, piece) = self.queues.get_mut(&peer)?.remove(at);
        self.tidy(peer);
        if let Some(seed) = self.seeds.get_mut(&root) {
            seed.no_longer_waits(piece);
            seed.sent(piece);
        }
        self.sending.insert(peer, (root, piece));
        self.last = Some(peer);
        Some(Job { peer, root, piece })
    }

    /// Slots that are free for urgent blobs, and for others.
    fn free_slots(&self) -> (usize, usize) {
        let urgent = self.sending.values().filter(|(r, _)| self.is_urgent(r)).count();
        let others = self.sending.len() - urgent;
        let slots = self.limits.slots;
        let queues = || self.queues.values().flatten();
        let yields =
            urgent > 0 || !self.urgent.is_empty() && queues().any(|(r, _)| self.is_urgent(r));
        let for_others = if yields { (slots / YIELD).max(1) } else { slots };
        (slots.saturating_sub(urgent), for_others.saturating_sub(others))
    }

    /// How often a piece has left; of a blob that is not seeded, it does not matter.
    fn sent(&self, root: &Hash, piece: PieceIndex) -> u16 {
        let seed = self.seeds.get(root);
        seed.and_then(|s| s.pieces.get(piece.0 as usize)).map_or(0, |g| g.sent)
    }

    /// The blobs of which something waits or is being sent.
    #[must_use]
    pub fn in_use(&self) -> BTreeSet<Hash> {
        let waiting = self.queues.values().flatten();
        waiting.chain(self.sending.values()).map(|(root, _)| *root).collect()
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queues.values().map(Vec::len).sum()
    }

    /// Whether an answer to a peer is under way or waits.
    #[must_use]
    pub fn owes(&self, peer: P) -> bool {
        self.sending.contains_key(&peer) || self.queues.contains_key(&peer)
    }

    /// What was being sent to a peer has been sent, or refused after all.
    pub fn done(&mut self, peer: P) {
        self.sending.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: Hash = Hash([1; 32]);

    fn job(serve: &mut Serve<u8>) -> Option<(u8, u32)> {
        serve.next_job().map(|j| (j.peer, j.piece.0))
    }

    fn ask(serve: &mut Serve<u8>, peer: u8, piece: u32) -> Result<(), Refusal> {
        serve.request(peer, ROOT, PieceIndex(piece))
    }

    #[test]
    fn peers_take_turns() {
        let mut serve = Serve::new(ServeLimits::default());
        for (peer, piece) in [(1, 0), (1, 1), (1, 1), (2, 5), (3, 6), (3, 7)] {
            ask(&mut serve, peer, piece).unwrap();
        }
        assert_eq!(serve.waiting(), 5);
        assert!(serve.owes(1) && !serve.owes(4));
        assert_eq!(job(&mut serve), Some((1, 0)));
        assert_eq!(job(&mut serve), Some((2, 5)));
        serve.done(1);
        assert_eq!(job(&mut serve), Some((3, 6)));
        assert_eq!(job(&mut serve), Some((1, 1)));
        assert_eq!(job(&mut serve), None);
        serve.done(3);
        serve.cancel(3, ROOT, PieceIndex(7));
        assert_eq!(job(&mut serve), None);
        assert_eq!(serve.waiting(), 0);
    }

    #[test]
    fn queues_are_bounded() {
        let mut serve = Serve::new(ServeLimits { queue: 2, peers: 2, slots: 1 });
        ask(&mut serve, 1, 0).unwrap();
        ask(&mut serve, 1, 1).unwrap();
        assert_eq!(ask(&mut serve, 1, 2), Err(Refusal::Busy));
        assert_eq!(ask(&mut serve, 1, 1), Ok(()));
        ask(&mut serve, 2, 0).unwrap();
        assert_eq!(ask(&mut serve, 3, 0), Err(Refusal::Busy));
        assert_eq!(job(&mut serve), Some((1, 0)));
        assert_eq!(job(&mut serve), None);
        serve.left(1);
        assert_eq!(job(&mut serve), Some((2, 0)));
        ask(&mut serve, 3, 0).unwrap();
    }

    #[test]
    fn a_seed_gives_each_piece_once_before_any_twice() {
        let mut serve = Serve::new(ServeLimits::default());
        serve.seed(ROOT, 3);
        ask(&mut serve, 1, 0).unwrap();
        assert_eq!(ask(&mut serve, 2, 0), Err(Refusal::GivenAway));
        ask(&mut serve, 2, 1).unwrap();
        // who insists did not find it elsewhere
        ask(&mut serve, 2, 0).unwrap();
        ask(&mut serve, 2, 2).unwrap();
        assert_eq!(job(&mut serve), Some((1, 0)));
        serve.done(1);
        let second: Vec<_> = std::iter::from_fn(|| {
            serve.done(2);
            job(&mut serve)
        })
        .collect();
        assert_eq!(second, [(2, 1), (2, 2), (2, 0)]);
        // all have left: no more refusals
        for piece in 0..3 {
            ask(&mut serve, 3, piece).unwrap();
        }
    }

    #[test]
    fn what_did_not_arrive_was_not_given() {
        let mut serve = Serve::new(ServeLimits::default());
        serve.seed(ROOT, 9);
        for piece in 0..3 {
            ask(&mut serve, 1, piece).unwrap();
        }
        serve.cancel(1, ROOT, PieceIndex(2));
        ask(&mut serve, 2, 2).unwrap();
        assert_eq!(job(&mut serve), Some((1, 0)));
        assert_eq!(ask(&mut serve, 2, 1), Err(Refusal::GivenAway));
        serve.left(1);
        ask(&mut serve, 2, 0).unwrap();
        ask(&mut serve, 2, 1).unwrap();
        // a peer that comes back is told anew
        assert_eq!(ask(&mut serve, 1, 0), Err(Refusal::GivenAway));
    }

    const LATER: Hash = Hash([2; 32]);

    #[test]
    fn urgent_blobs_come_first_and_find_a_slot() {
        let mut serve = Serve::new(ServeLimits { slots: 2, ..ServeLimits::default() });
        for peer in 1..=6 {
            serve.request(peer, LATER, PieceIndex(0)).unwrap();
        }
        assert_eq!((job(&mut serve), job(&mut serve)), (Some((1, 0)), Some((2, 0))));
        assert_eq!(job(&mut serve), None);
        // no order was known yet when these were asked for
        for peer in [7, 8, 9] {
            ask(&mut serve, peer, 1).unwrap();
        }
        serve.set_urgent([ROOT].into());
        assert_eq!((job(&mut serve), job(&mut serve)), (Some((7, 1)), Some((8, 1))));
        assert_eq!(job(&mut serve), None, "no more slots than for the others");
        serve.done(1);
        serve.done(2);
        // slow takers of urgent pieces do not stop the others altogether
        assert_eq!((job(&mut serve), job(&mut serve)), (Some((3, 0)), None));
        serve.done(7);
        assert_eq!((job(&mut serve), job(&mut serve)), (Some((9, 1)), None));
        serve.done(8);
        serve.done(9);
        assert_eq!((job(&mut serve), job(&mut serve)), (Some((4, 0)), None));
        serve.set_slots(4);
        assert_eq!((job(&mut serve), job(&mut serve)), (Some((5, 0)), Some((6, 0))));
    }

    #[test]
    fn one_peer_gets_the_urgent_piece_first() {
        let mut serve = Serve::new(ServeLimits { slots: 1, ..ServeLimits::default() });
        serve.set_urgent([ROOT].into());
        serve.request(1, LATER, PieceIndex(0)).unwrap();
        ask(&mut serve, 1, 5).unwrap();
        assert_eq!(job(&mut serve), Some((1, 5)));
        serve.done(1);
        assert_eq!(job(&mut serve), Some((1, 0)));
    }

    #[test]
    fn a_throttled_source_sends_others_elsewhere_but_not_for_urgent_blobs() {
        let mut serve = Serve::new(ServeLimits::default());
        serve.set_urgent([ROOT].into());
        serve.throttle(Some(2));
        for piece in 0..20 {
            ask(&mut serve, 1, piece).unwrap();
        }
        serve.request(2, LATER, PieceIndex(0)).unwrap();
        serve.request(3, LATER, PieceIndex(0)).unwrap();
        assert_eq!(serve.request(4, LATER, PieceIndex(0)), Err(Refusal::Busy));
        serve.throttle(None);
        serve.request(4, LATER, PieceIndex(0)).unwrap();
    }

    proptest! {
        #[test]
        fn every_accepted_request_is_answered_once(
            seeded in any::<bool>(),
            asks in prop::collection::vec((0u8..5, 0u32..12), 0..150),
        ) {
            let mut serve = Serve::new(ServeLimits { queue: 6, peers: 4, slots: 2 });
            if seeded {
                serve.seed(ROOT, 12);
            }
            let (mut accepted, mut sent) = (0, 0);
            for (n, (peer, piece)) in asks.into_iter().enumerate() {
                let before = serve.waiting();
                if ask(&mut serve, peer, piece).is_ok() {
                    accepted += serve.waiting() - before;
                }
                prop_assert!(serve.waiting() <= 24);
                if n % 3 == 0 && let Some((peer, _)) = job(&mut serve) {
                    sent += 1;
                    serve.done(peer);
                }
            }
            while let Some((peer, _)) = job(&mut serve) {
                sent += 1;
                serve.done(peer);
            }
            prop_assert_eq!(accepted, sent);
        }
    }
}
