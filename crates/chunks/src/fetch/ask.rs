//! What to ask for, and of whom.

use std::fmt::Debug;
use std::time::Duration;

use p2pinst_types::PieceIndex;
use rand::{Rng, RngExt};

use super::peer::Peer;
use super::picker::random_bit;
use super::{Fetch, Output, Place};
use crate::bitmap::Bitmap;

/// Pieces to take at random before the rarest: a node soon has something to give that not everybody
/// is after.
const RANDOM_FIRST: u32 = 4;
/// Pieces asked of all peers at this site together, beyond what their paths hold.
const NEAR_PIECES: f64 = 8.0;
/// One more for each so many pieces that this node has fewer than its peers at this site, one fewer for
/// each that it has more: so that all are done at about the same time.
const LAG: f64 = 4.0;
/// At most so many fewer, and more.
const UNEVEN: (f64, f64) = (-4.0, 16.0);
/// Added to what a peer usually takes for a piece: differences below it do not matter.
const AT_LEAST: Duration = Duration::from_millis(1);
/// When nothing was offered or came for so long, a peer that seeds is asked for what it has not
/// offered.
const INSIST: Duration = Duration::from_millis(500);

impl<P: Copy + Ord + Debug> Fetch<P> {
    /// Asks peers that have room for pieces that nobody is asked for: one each in turn, first those
    /// that would answer soonest.
    pub(super) fn request(&mut self, now: Duration, rng: &mut impl Rng, out: &mut Vec<Output<P>>) {
        let can = |s: &Peer| s.useful > 0 && s.has_room(now, self.blob.piece_len(), &self.limits);
        let mut peers: Vec<(Duration, P)> = Vec::new();
        for (peer, state) in self.peers.iter().filter(|(_, s)| can(s)) {
            // how long it would take, give or take a half: so that not all ask the same
            let wait = (state.usual().unwrap_or_default() + AT_LEAST) * (1 + state.asked);
            let chance = rng.random_range(0.5..1.5);
            peers.push((wait.mul_f64(chance), *peer));
        }
        peers.sort_unstable();
        let mut room = self.near_room();
        while !peers.is_empty() {
            peers.retain(|(_, peer)| self.request_within(now, rng, *peer, &mut room, out));
        }
        self.insist(now, rng, out);
    }

    /// Asks one peer for as much as it has room for.
    pub(super) fn request_all_of(
        &mut self,
        now: Duration,
        rng: &mut impl Rng,
        peer: P,
        out: &mut Vec<Output<P>>,
    ) {
        let mut room = self.near_room();
        while self.request_within(now, rng, peer, &mut room, out) {}
    }

    /// Whether what is asked of a peer is limited by what is asked of all.
    fn is_shared(state: &Peer) -> bool {
        state.place.is_near() && state.offered.is_none()
    }

    /// How many more pieces may be asked of the peers at this site. What lies in the queues of all
    /// of them is a choice made too early, and delays everybody.
    fn near_room(&self) -> f64 {
        let piece = self.blob.piece_len() as f64;
        let shared = self.peers.values().filter(|s| Self::is_shared(s));
        let room = shared.map(|s| s.path() * self.limits.path_factor / piece - f64::from(s.asked));
        NEAR_PIECES + (self.behind() / LAG).clamp(UNEVEN.0, UNEVEN.1) + room.sum::<f64>()
    }

    /// How many pieces fewer are here than at the peers at this site that are not done, on average.
    fn behind(&self) -> f64 {
        let others = self.peers.values().filter(|s| Self::is_shared(s) && !s.have.is_full());
        let (count, held) =
            others.fold((0.0, 0.0), |(n, held), s| (n + 1.0, held + f64::from(s.have.count())));
        if count > 0.0 { held / count - f64::from(self.have.count()) } else { 0.0 }
    }

    fn request_within(
        &mut self,
        now: Duration,
        rng: &mut impl Rng,
        peer: P,
        room: &mut f64,
        out: &mut Vec<Output<P>>,
    ) -> bool {
        let shared = self.peers.get(&peer).is_some_and(Self::is_shared);
        if shared && *room < 1.0 || !self.request_of(now, rng, peer, out) {
            return false;
        }
        *room -= f64::from(u8::from(shared));
        true
    }

    /// Whether as much is in flight as may be; one piece always may.
    pub(super) fn is_full(&self) -> bool {
        let asks = self.flights.asks();
        self.limits.in_flight == 0
            || asks > 0 && (asks + 1).saturating_mul(self.blob.piece_len()) > self.limits.in_flight
    }

    /// Asks a peer for one more piece, if it has room; whether it did.
    fn request_of(
        &mut self,
        now: Duration,
        rng: &mut impl Rng,
        peer: P,
        out: &mut Vec<Output<P>>,
    ) -> bool {
        if self.is_full() {
            return false;
        }
        let Some(state) = self.peers.get(&peer) else { return false };
        if state.useful == 0 || !state.has_room(now, self.blob.piece_len(), &self.limits) {
            return false;
        }
        let early = self.have.count() + self.flights.pieces() < RANDOM_FIRST;
        let piece = match state.place {
            Place::Far(_) => self.pick_far(state, rng),
            _ if early => self.picker.any(state.askable(), rng),
            _ => self.picker.rarest(state.askable(), rng),
        };
        let Some(piece) = piece else { return false };
        self.take(piece);
        self.ask(now, peer, piece, out);
        true
    }

    /// A piece to ask of another site: one that nobody at this site has and that this node holds the
    /// lease of, or that was offered to it; of these, one that no other site has. A site that has a
    /// seed gives what that offers, and nothing else as long as it seeds.
    fn pick_far(&self, state: &Peer, rng: &mut impl Rng) -> Option<PieceIndex> {
        let nowhere = self.picker.nowhere_near()?.words();
        let words = nowhere.len();
        let word = |map: &Bitmap, i: usize| map.words().get(i).copied().unwrap_or(0);
        let base = |i: usize| nowhere.get(i).copied().unwrap_or(0);
        if let Some(offered) = &state.offered {
            return random_bit(words, |i| base(i) & word(offered, i), rng);
        }
        let seeded = |s: &Peer| s.place == state.place && s.offered.is_some();
        if self.seeding > 0 && self.peers.values().any(seeded) {
            return None;
        }
        let could = |i: usize| base(i) & word(&state.have, i) & word(self.leases.mine(), i);
        let elsewhere = |s: &&Peer| !s.place.is_near() && s.place != state.place;
        let others: Vec<&Peer> = self.peers.values().filter(elsewhere).collect();
        let only_there =
            |i: usize| others.iter().fold(could(i), |left, s| left & !word(&s.have, i));
        random_bit(words, only_there, rng).or_else(|| random_bit(words, could, rng))
    }

    fn ask(&mut self, now: Duration, peer: P, piece: PieceIndex, out: &mut Vec<Output<P>>) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.ask(now);
        }
        self.flights.ask(now, peer, piece);
        self.active = now;
        self.starved = false;
        out.push(Output::Request { peer, piece });
    }

    /// When nothing is under way and nothing was offered for a while, asks a peer that seeds for a
    /// piece that it did not offer.
    fn insist(&mut self, now: Duration, rng: &mut impl Rng, out: &mut Vec<Output<P>>) {
        if self.seeding == 0 || self.flights.asks() > 0 || now < self.active + INSIST {
            return;
        }
        let room = |s: &Peer| s.has_room(now, self.blob.piece_len(), &self.limits);
        let mut seeds = self.peers.iter().filter(|(_, s)| s.offered.is_some() && room(s));
        let found = seeds.find_map(|(peer, s)| {
            let near = s.place.is_near();
            let (have, mine) = (s.have.words(), self.leases.mine().words());
            let nowhere = self.picker.nowhere_near().map_or(&[][..], Bitmap::words);
            let far = |i: usize| nowhere.get(i).zip(mine.get(i)).map_or(0, |(n, m)| n & m);
            let all = |i: usize| self.picker.wanted_words().get(i).copied().unwrap_or(0);
            let word =
                |i: usize| have.get(i).copied().unwrap_or(0) & if near { all(i) } else { far(i) };
            random_bit(have.len(), word, rng).map(|piece| (*peer, piece))
        });
        if let Some((peer, piece)) = found {
            self.take(piece);
            self.ask(now, peer, piece, out);
        }
    }

    /// Asks a second peer for pieces that are late; at the end, when nothing else is wanted, for
    /// pieces of peers at this site that take longer than usual.
    pub(super) fn request_again(&mut self, now: Duration, out: &mut Vec<Output<P>>) {
        let endgame = self.picker.wanted() == 0;
        let peers = &self.peers;
        for (piece, first) in self.flights.due(now, endgame, |peer| peers.get(&peer)) {
            // only what is nowhere near is asked of a second peer at another site
            let outside = self.picker.availability(piece) == 0;
            let room = |s: &Peer| {
                s.askable().get(piece)
                    && !s.snubbed
                    && (outside || s.place.is_near())
                    && s.has_room(now, self.blob.piece_len(), &self.limits)
            };
            let others = self.peers.iter().filter(|(p, s)| **p != first && room(s));
            let other = others.min_by_key(|(_, s)| s.asked).map(|(p, _)| *p);
            if let Some(peer) = other.filter(|_| !self.is_full()) {
                self.ask(now, peer, piece, out);
            }
        }
    }

    pub(super) fn notice_starvation(&mut self, out: &mut Vec<Output<P>>) {
        if self.starved || self.flights.asks() > 0 {
            return;
        }
        let gives =
            |s: &Peer| s.useful > 0 || s.offered.is_some() && self.picker.useful(&s.have) > 0;
        if !self.peers.values().any(gives) {
            self.starved = true;
            out.push(Output::Starved);
        }
    }
}
