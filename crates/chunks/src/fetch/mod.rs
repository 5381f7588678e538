//! Fetching one blob from many peers: which piece to ask of whom, and when to ask somebody else.
//!
//! Sans-IO: [`Fetch::step`] takes the time, randomness and one event, and says what to send. It owns
//! no bytes and no files; the shell verifies and stores pieces and tells the outcome. A crash loses
//! nothing that matters: a new fetch begins with the pieces that the store has.
//!
//! Rules: the first pieces at random, then the rarest first; in flight per peer about what its path
//! holds; a piece that is late is asked of a second peer, and so are the last pieces of all; never
//! more than two copies in flight, and the loser is cancelled; one bad piece and a peer is out.
//!
//! Bounds: peers and bytes in flight by [`Limits`]; per peer one bitmap; per step O(peers) and, for
//! each new request, O(pieces / 64).

mod event;
mod flight;
mod peer;
mod picker;
pub mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use p2pinst_types::{BlobRef, PieceIndex};
use rand::Rng;

pub use self::event::{BanReason, Input, Limits, Output};
use self::flight::Flights;
use self::peer::Peer;
use self::picker::Picker;
pub use self::place::{Place, SiteTag};
use crate::bitmap::Bitmap;
use crate::wire::Refusal;

/// Pieces to take at random before the rarest: a node soon has something to give that not everybody
/// is after.
const RANDOM_FIRST: u32 = 4;
/// Peers remembered as banned; beyond that the lowest is forgotten.
const MAX_BANNED: usize = 1024;
/// When nothing else is left to ask of a peer, what it gave to others is asked for again after this,
const RETRY_GIVEN_AWAY: Duration = Duration::from_millis(500);
/// or after so many times what the peer usually takes for a piece, whichever is later: by then the
/// others should have it and have said so.
const RETRY_TIMES: u32 = 2;

/// The fetch of one blob.
#[derive(Debug)]
pub struct Fetch<P> {
    blob: BlobRef,
    limits: Limits,
    have: Bitmap,
    picker: Picker,
    peers: BTreeMap<P, Peer>,
    banned: BTreeSet<P>,
    flights: Flights<P>,
    /// Whether the last word was that it is complete, or that it starves.
    complete: bool,
    starved: bool,
}

impl<P: Copy + Ord + Debug> Fetch<P> {
    /// Begins to fetch what is not in `have` (a bitmap of another number of pieces counts as empty).
    /// The first step says whether it is complete already.
    #[must_use]
    pub fn new(blob: BlobRef, have: Bitmap, limits: Limits) -> Self {
        let fits = have.pieces() == blob.pieces();
        let have = if fits { have } else { Bitmap::new(blob.pieces()) };
        Self {
            blob,
            limits,
            picker: Picker::new(&have),
            have,
            peers: BTreeMap::new(),
            banned: BTreeSet::new(),
            flights: Flights::default(),
            complete: false,
            starved: false,
        }
    }

    /// The pieces that are here.
    #[must_use]
    pub fn have(&self) -> &Bitmap {
        &self.have
    }

    /// The peers in use.
    pub fn peers(&self) -> impl Iterator<Item = P> + '_ {
        self.peers.keys().copied()
    }

    /// Takes in one event and appends what to do now.
    pub fn step(
        &mut self,
        now: Duration,
        rng: &mut impl Rng,
        input: Input<P>,
        out: &mut Vec<Output<P>>,
    ) {
        match input {
            Input::Joined { peer, place, have } => self.on_joined(peer, place, have, out),
            Input::Has { peer, pieces } => self.on_has(peer, &pieces, out),
            Input::Left { peer } => self.drop_peer(peer),
            Input::Verified { peer, piece } => self.on_verified(now, peer, piece, out),
            Input::Bad { peer, piece: _ } => self.ban(peer, BanReason::BadPiece, out),
            Input::Refused { peer, piece, reason } => {
                self.on_refused(now, rng, peer, piece, reason);
            }
            Input::Members { .. } => {}
            Input::Tick => self.on_tick(now),
        }
        if self.have.is_full() {
            if !std::mem::replace(&mut self.complete, true) {
                out.push(Output::Complete);
            }
            return;
        }
        self.request(now, rng, out);
        self.request_again(now, out);
        self.notice_starvation(out);
    }

    fn on_joined(&mut self, peer: P, place: Place, have: Bitmap, out: &mut Vec<Output<P>>) {
        if self.banned.contains(&peer) {
            return;
        }
        if have.pieces() != self.have.pieces() {
            return self.ban(peer, BanReason::NoSuchPiece, out);
        }
        if self.peers.contains_key(&peer) {
            return self.on_has(peer, &have.iter().collect::<Vec<_>>(), out);
        }
        if self.peers.len() >= self.limits.peers {
            return;
        }
        have.iter().for_each(|p| self.picker.gained(p));
        let useful = self.picker.useful(&have);
        self.peers.insert(peer, Peer::new(place, have, useful));
    }

    fn on_has(&mut self, peer: P, pieces: &[PieceIndex], out: &mut Vec<Output<P>>) {
        if pieces.iter().any(|p| p.0 >= self.have.pieces()) {
            return self.ban(peer, BanReason::NoSuchPiece, out);
        }
        let Some(state) = self.peers.get_mut(&peer) else { return };
        for piece in pieces {
            if state.have.set(*piece) {
                self.picker.gained(*piece);
                state.useful += u32::from(self.picker.wants(*piece));
            }
        }
    }

    fn on_verified(&mut self, now: Duration, peer: P, piece: PieceIndex, out: &mut Vec<Output<P>>) {
        let range = self.blob.range(piece).unwrap_or_default();
        for ask in self.flights.land(piece) {
            let Some(state) = self.peers.get_mut(&ask.peer) else { continue };
            state.asked = state.asked.saturating_sub(1);
            if ask.peer == peer {
                state.delivered(now, ask.since, range.end - range.start);
                self.flights.note(now.saturating_sub(ask.since));
            } else {
                out.push(Output::Cancel { peer: ask.peer, piece });
            }
        }
        self.take(piece);
        self.have.set(piece);
    }

    fn on_refused(
        &mut self,
        now: Duration,
        rng: &mut impl Rng,
        peer: P,
        piece: PieceIndex,
        reason: Refusal,
    ) {
        let asked = self.flights.drop_ask(piece, peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if asked {
            state.asked = state.asked.saturating_sub(1);
        }
        if reason == Refusal::Busy {
            state.busy(now, rng);
        } else if state.have.clear(piece) {
            self.picker.lost(piece);
            state.useful -= u32::from(self.picker.wants(piece));
            if reason == Refusal::GivenAway {
                state.given_away.insert(piece);
                let usual = state.usual().unwrap_or_default() * RETRY_TIMES;
                state.retry_given_away = now + usual.max(RETRY_GIVEN_AWAY);
            }
        }
        self.give_back_if_alone(piece);
    }

    fn on_tick(&mut self, now: Duration) {
        for state in self.peers.values_mut() {
            state.snubbed |= state.silence(now) > self.flights.late_after(state.usual());
            if state.useful == 0 && now >= state.retry_given_away {
                for piece in std::mem::take(&mut state.given_away) {
                    if state.have.set(piece) {
                        self.picker.gained(piece);
                        state.useful += u32::from(self.picker.wants(piece));
                    }
                }
            }
        }
    }

    fn ban(&mut self, peer: P, reason: BanReason, out: &mut Vec<Output<P>>) {
        self.drop_peer(peer);
        if self.banned.len() >= MAX_BANNED {
            self.banned.pop_first();
        }
        self.banned.insert(peer);
        out.push(Output::Ban { peer, reason });
    }

    fn drop_peer(&mut self, peer: P) {
        let Some(state) = self.peers.remove(&peer) else { return };
        state.have.iter().for_each(|p| self.picker.lost(p));
        for piece in self.flights.drop_peer(peer) {
            self.give_back_if_alone(piece);
        }
    }

    /// A piece that nobody is asked for any more is wanted again, unless it is here.
    fn give_back_if_alone(&mut self, piece: PieceIndex) {
        if !self.flights.contains(piece) && !self.have.get(piece) && self.picker.give_back(piece) {
            self.peers.values_mut().for_each(|s| s.useful += u32::from(s.have.get(piece)));
        }
    }

    /// A piece is no longer wanted.
    fn take(&mut self, piece: PieceIndex) {
        if self.picker.take(piece) {
            self.peers.values_mut().for_each(|s| s.useful -= u32::from(s.have.get(piece)));
        }
    }

    /// Asks peers that have room for pieces that nobody is asked for; one each in turn, so that no
    /// peer gets all of them.
    fn request(&mut self, now: Duration, rng: &mut impl Rng, out: &mut Vec<Output<P>>) {
        loop {
            let mut asked = false;
            let peers: Vec<P> =
                self.peers.iter().filter(|(_, s)| self.may_ask(now, s)).map(|(p, _)| *p).collect();
            for peer in peers {
                asked |= !self.is_full() && self.request_of(now, rng, peer, out);
            }
            if !asked {
                return;
            }
        }
    }

    /// Whether as much is in flight as may be; one piece always may.
    fn is_full(&self) -> bool {
        let asks = self.flights.asks();
        asks > 0 && (asks + 1).saturating_mul(self.blob.piece_len()) > self.limits.in_flight
    }

    fn may_ask(&self, now: Duration, state: &Peer) -> bool {
        state.useful > 0 && state.has_room(now, self.blob.piece_len(), &self.limits)
    }

    fn request_of(
        &mut self,
        now: Duration,
        rng: &mut impl Rng,
        peer: P,
        out: &mut Vec<Output<P>>,
    ) -> bool {
        let Some(state) = self.peers.get(&peer).filter(|s| s.useful > 0) else { return false };
        let early = self.have.count() + self.flights.pieces() < RANDOM_FIRST;
        let piece = if early {
            self.picker.any(&state.have, rng)
        } else {
            self.picker.rarest(&state.have, rng)
        };
        let Some(piece) = piece else { return false };
        self.take(piece);
        self.ask(now, peer, piece, out);
        true
    }

    fn ask(&mut self, now: Duration, peer: P, piece: PieceIndex, out: &mut Vec<Output<P>>) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.ask(now);
        }
        self.flights.ask(now, peer, piece);
        self.starved = false;
        out.push(Output::Request { peer, piece });
    }

    /// Asks a second peer for pieces that are late; at the end, when nothing else is wanted, for
    /// pieces that take longer than usual.
    fn request_again(&mut self, now: Duration, out: &mut Vec<Output<P>>) {
        let endgame = self.picker.wanted() == 0;
        for (piece, first) in self.flights.due(now, endgame, |p| self.peers.get(&p)?.usual()) {
            let room = |s: &Peer| {
                s.have.get(piece)
                    && !s.snubbed
                    && s.has_room(now, self.blob.piece_len(), &self.limits)
            };
            let others = self.peers.iter().filter(|(p, s)| **p != first && room(s));
            let other = others.min_by_key(|(_, s)| s.asked).map(|(p, _)| *p);
            if let Some(peer) = other.filter(|_| !self.is_full()) {
                self.ask(now, peer, piece, out);
            }
        }
    }

    fn notice_starvation(&mut self, out: &mut Vec<Output<P>>) {
        let starved = self.flights.asks() == 0
            && self.peers.values().all(|s| s.useful == 0 && s.given_away.is_empty());
        if starved && !std::mem::replace(&mut self.starved, true) {
            out.push(Output::Starved);
        }
    }
}

#[cfg(test)]
mod tests;
