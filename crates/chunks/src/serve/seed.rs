//! A seeded blob: which pieces have left, and what is offered to whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use p2pinst_types::PieceIndex;

use super::Offer;
use crate::bitmap::Bitmap;
use crate::fetch::Place;

/// Pieces that may be offered to one peer and not be on their way yet, at first; fewer when there are
/// many peers. Doubled, up to [`MOST`], when the link idles although the peer has asked for all.
const FIRST: usize = 4;
/// All peers together are offered about so many pieces at first.
const FIRST_ALL: usize = 32;
/// Most pieces offered to one peer.
const MOST: usize = 256;
/// What is offered to a peer to which nothing else is on its way, and not asked for in this time, is
/// offered to somebody else too.
const STALE: Duration = Duration::from_secs(2);

/// A downloader of the blob.
#[derive(Debug)]
struct Taker {
    place: Place,
    /// Offered, and not asked for yet; since when.
    offered: BTreeMap<PieceIndex, Duration>,
    /// Asked for, and not sent yet.
    asked: BTreeSet<PieceIndex>,
    /// Pieces offered so far.
    given: u64,
    window: usize,
    /// Pieces sent since its window was doubled.
    sent: usize,
    /// Whether it has been told that it may ask for anything.
    free: bool,
}

/// The own site, or all others together: each piece leaves to either once before any leaves twice.
#[derive(Debug)]
struct Side {
    /// Pieces that have left, or that somebody has already.
    left: Bitmap,
    /// Pieces to be offered.
    queue: VecDeque<PieceIndex>,
    /// Whether anybody there took any.
    wanted: bool,
}

impl Side {
    fn new(pieces: u32) -> Self {
        let queue = (0..pieces).map(PieceIndex).collect();
        Self { left: Bitmap::new(pieces), queue, wanted: false }
    }

    /// Whether all pieces have left to it, if anybody there took any.
    fn is_done(&self) -> bool {
        !self.wanted || self.left.is_full()
    }

    /// A piece that was offered is to be offered again.
    fn again(&mut self, piece: PieceIndex) {
        if !self.left.get(piece) && !self.queue.contains(&piece) {
            self.queue.push_front(piece);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Seed<P> {
    near: Side,
    far: Side,
    takers: BTreeMap<P, Taker>,
    /// Pieces offered to each other site.
    sites: BTreeMap<Place, u64>,
    looked: Duration,
    /// Whether it is seeded no more.
    ended: bool,
    /// Which seed of this node it is.
    pub(super) number: u64,
}

impl<P: Copy + Ord> Seed<P> {
    pub(super) fn new(pieces: u32, number: u64) -> Self {
        Self {
            near: Side::new(pieces),
            far: Side::new(pieces),
            takers: BTreeMap::new(),
            sites: BTreeMap::new(),
            looked: Duration::ZERO,
            ended: false,
            number,
        }
    }

    /// All pieces are to leave once more. Who was not told yet that it may ask for any is offered some
    /// of them.
    pub(super) fn begin_anew(&mut self, pieces: u32, number: u64) {
        let takers = std::mem::take(&mut self.takers);
        *self = Self::new(pieces, number);
        for (peer, mut taker) in takers {
            taker.offered.clear();
            taker.asked.clear();
            if !taker.free {
                self.side(taker.place).wanted = true;
            }
            self.takers.insert(peer, taker);
        }
    }

    fn side(&mut self, place: Place) -> &mut Side {
        if place.is_near() { &mut self.near } else { &mut self.far }
    }

    /// All pieces count as gone.
    pub(super) fn end(&mut self) {
        self.ended = true;
        for side in [&mut self.near, &mut self.far] {
            side.left = Bitmap::full(side.left.pieces());
            side.queue.clear();
        }
    }

    /// Whether it has ended, and nobody takes any.
    pub(super) fn is_over(&self) -> bool {
        self.takers.is_empty() && self.has_ended()
    }

    /// Whether all pieces have left to each side that took any, or the blob is seeded no more. A side
    /// whose takers are gone for a while is waited for.
    pub(super) fn has_ended(&self) -> bool {
        let wanted = self.near.wanted || self.far.wanted;
        self.ended || wanted && self.near.is_done() && self.far.is_done()
    }

    pub(super) fn has_takers(&self) -> bool {
        !self.takers.is_empty()
    }

    /// Whether the blob is seeded to this peer.
    pub(super) fn open(&mut self, peer: P, place: Place, most: usize) -> bool {
        if self.side(place).left.is_full() || self.takers.len() >= most {
            return false;
        }
        let window = (FIRST_ALL / (self.takers.len() + 1)).clamp(1, FIRST);
        let taker = Taker {
            place,
            offered: BTreeMap::new(),
            asked: BTreeSet::new(),
            given: 0,
            window,
            sent: 0,
            free: false,
        };
        self.takers.insert(peer, taker);
        self.side(place).wanted = true;
        true
    }

    /// Whether a request is for what was offered to that peer; `None` when that does not matter.
    pub(super) fn is_theirs(&self, peer: P, piece: PieceIndex) -> Option<bool> {
        let taker = self.takers.get(&peer).filter(|t| !t.free)?;
        Some(taker.asked.contains(&piece))
    }

    /// Whether there are enough others to take what has not left yet.
    pub(super) fn is_closed_to(&self, peer: P) -> bool {
        let others = self.takers.values().any(|t| !t.free);
        !self.takers.contains_key(&peer) && !self.near.left.is_full() && others
    }

    pub(super) fn requested(&mut self, peer: P, piece: PieceIndex) {
        let Some(taker) = self.takers.get_mut(&peer) else { return };
        if taker.offered.remove(&piece).is_some() {
            taker.asked.insert(piece);
        }
    }

    /// The peer has the piece already: then the swarm has it.
    pub(super) fn declined(&mut self, peer: P, piece: PieceIndex) {
        let Some(taker) = self.takers.get_mut(&peer) else { return };
        let theirs = taker.offered.remove(&piece).is_some() | taker.asked.remove(&piece);
        let place = taker.place;
        if theirs {
            self.side(place).left.set(piece);
        }
    }

    /// The peer has this piece from elsewhere, offered or not: then the swarm has it.
    pub(super) fn holds(&mut self, peer: P, piece: PieceIndex) {
        let Some(taker) = self.takers.get_mut(&peer) else { return };
        taker.offered.remove(&piece);
        let place = taker.place;
        self.side(place).left.set(piece);
    }

    pub(super) fn sending(&mut self, peer: P, piece: PieceIndex) {
        let Some(place) = self.takers.get(&peer).map(|t| t.place) else { return };
        self.side(place).left.set(piece);
    }

    /// A piece was sent; `idle`: and nothing else waits.
    pub(super) fn sent(&mut self, peer: P, piece: PieceIndex, idle: bool) {
        if let Some(taker) = self.takers.get_mut(&peer) {
            taker.asked.remove(&piece);
            taker.sent += 1;
        }
        let alone = self.takers.len() == 1;
        for taker in self.takers.values_mut().filter(|t| idle && !t.free) {
            // a single one may be far away, and has been asked to wait for nobody: once in each window, for
            // what is offered to it is lost to those who come a little later
            if taker.offered.is_empty() || alone && taker.sent >= taker.window {
                taker.window = (taker.window * 2).min(MOST);
                taker.sent = 0;
            }
        }
    }

    pub(super) fn left(&mut self, peer: P) {
        let Some(taker) = self.takers.remove(&peer) else { return };
        let side = if taker.place.is_near() { &mut self.near } else { &mut self.far };
        // what was on its way may not have arrived
        for piece in taker.asked {
            side.left.clear(piece);
            side.again(piece);
        }
        taker.offered.into_keys().for_each(|p| side.again(p));
    }

    pub(super) fn next_offer(
        &mut self,
        now: Duration,
        waiting: impl Fn(&P) -> usize,
    ) -> Option<(P, Offer)> {
        if self.takers.is_empty() {
            return None;
        }
        if now >= self.looked + STALE / 4 {
            self.looked = now;
            self.offer_stale_again(now);
        }
        if let Some(peer) = self.next_to_free() {
            return Some((peer, Offer::All));
        }
        let far = self.next_taker(false, &waiting).and_then(|p| self.offer(now, p, &waiting));
        far.or_else(|| self.next_taker(true, &waiting).and_then(|p| self.offer(now, p, &waiting)))
    }

    /// Somebody who has not heard yet that all pieces have left to its side.
    fn next_to_free(&mut self) -> Option<P> {
        let (near, far) = (self.near.left.is_full(), self.far.left.is_full());
        if !near && !far {
            return None;
        }
        let done = |t: &Taker| if t.place.is_near() { near } else { far };
        let (peer, taker) = self.takers.iter_mut().find(|(_, t)| !t.free && done(t))?;
        taker.free = true;
        taker.offered.clear();
        Some(*peer)
    }

    fn offer_stale_again(&mut self, now: Duration) {
        for taker in self.takers.values_mut().filter(|t| !t.free) {
            let side = if taker.place.is_near() { &mut self.near } else { &mut self.far };
            for (piece, since) in &mut taker.offered {
                if !taker.asked.is_empty() {
                    *since = now;
                } else if now.saturating_sub(*since) >= STALE {
                    *since = now;
                    side.again(*piece);
                }
            }
        }
    }

    /// Who is to be offered something: of the site that was offered least, who has least to do.
    fn next_taker(&self, near: bool, waiting: &impl Fn(&P) -> usize) -> Option<P> {
        if if near { self.near.queue.is_empty() } else { self.far.queue.is_empty() } {
            return None;
        }
        let room = self.takers.iter().filter_map(|(peer, t)| {
            let busy = t.offered.len() + waiting(peer);
            let room = t.place.is_near() == near && !t.free && busy < t.window;
            // in batches: half of the window
            let batch = busy == 0 || busy * 2 <= t.window;
            let site = if near { 0 } else { self.sites.get(&t.place).copied().unwrap_or(0) };
            (room && batch).then_some((site, busy, t.given, *peer))
        });
        room.min().map(|(.., peer)| peer)
    }

    /// Offers as much to a peer as there is room for, but no more than its share.
    fn offer(
        &mut self,
        now: Duration,
        peer: P,
        waiting: &impl Fn(&P) -> usize,
    ) -> Option<(P, Offer)> {
        let busy = waiting(&peer);
        let taker = self.takers.get_mut(&peer)?;
        let side = if taker.place.is_near() { &mut self.near } else { &mut self.far };
        let room = taker.window.saturating_sub(taker.offered.len() + busy);
        let mut pieces = Vec::new();
        let mut again = Vec::new();
        while pieces.len() < room.max(1)
            && let Some(piece) = side.queue.pop_front()
        {
            if side.left.get(piece) {
                continue;
            }
            if taker.offered.contains_key(&piece) || taker.asked.contains(&piece) {
                again.push(piece); // of a stale offer to the same peer: for somebody else
                continue;
            }
            taker.offered.insert(piece, now);
            taker.given += 1;
            *self.sites.entry(taker.place).or_default() += 1;
            pieces.push(piece);
        }
        again.into_iter().for_each(|p| side.queue.push_back(p));
        (!pieces.is_empty()).then_some((peer, Offer::Pieces(pieces)))
    }
}
