//! Fetching one blob from many peers: which piece to ask of whom, and when to ask somebody else.
//!
//! Sans-IO: [`Fetch::step`] takes the time, randomness and one event, and says what to send. It owns
//! no bytes and no files; the shell verifies and stores pieces and tells the outcome. A crash loses
//! nothing that matters: a new fetch begins with the pieces that the store has.
//!
//! Rules: the first pieces at random, then the rarest at this site first; of a peer that seeds, what
//! it offers; of other sites, what nobody here has and this node holds the lease of (`lease`); in
//! flight per peer about what its path holds; a piece that is late is asked of a second peer, and so
//! are the last pieces of all that come from this site; never more than two copies in flight, and
//! the loser is cancelled; one bad piece and a peer is out; who stays far behind the others is
//! replaced.
//!
//! Bounds: peers and bytes in flight by [`Limits`]; per peer two bitmaps; per step O(peers) and, for
//! each new request, O(pieces / 64) (of other sites: times those peers).

mod ask;
mod event;
mod flight;
mod lease;
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
use self::lease::Leases;
use self::peer::Peer;
use self::picker::Picker;
pub use self::place::{Place, SiteTag};
use crate::bitmap::Bitmap;
use crate::wire::Refusal;

/// Peers remembered as banned; beyond that the lowest is forgotten.
const MAX_BANNED: usize = 1024;
/// A peer is judged by its speed after so long,
const JUDGE: Duration = Duration::from_secs(10);
/// and replaced when it has brought less than this part of what half of the others have.
const TOO_SLOW: u64 = 10;

/// The fetch of one blob.
#[derive(Debug)]
pub struct Fetch<P> {
    blob: BlobRef,
    limits: Limits,
    have: Bitmap,
    picker: Picker,
    leases: Leases,
    peers: BTreeMap<P, Peer>,
    banned: BTreeSet<P>,
    flights: Flights<P>,
    /// Peers that seed the blob.
    seeding: usize,
    /// Peers at other sites.
    far: usize,
    /// Peers that could be used instead of others.
    spare: usize,
    /// When something last came or was asked for.
    active: Duration,
    /// Whether the last word was that it is complete, or that it starves.
    complete: bool,
    starved: bool,
}

/// Of whom something can be asked now that could not before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News<P> {
    Nobody,
    Of(P),
    All,
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
            leases: Leases::new(blob.pieces()),
            have,
            peers: BTreeMap::new(),
            banned: BTreeSet::new(),
            flights: Flights::default(),
            seeding: 0,
            far: 0,
            spare: 0,
            active: Duration::ZERO,
            complete: false,
            starved: false,
        }
    }

    /// The pieces that are here.
    #[must_use]
    pub fn have(&self) -> &Bitmap {
        &self.have
    }

    /// From now on at most so many bytes are to be in flight; one piece always may be, unless it is 0: then
    /// nothing is asked for. What is asked for already stays so.
    pub fn set_in_flight(&mut self, bytes: u64) {
        self.limits.in_flight = bytes;
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
        let news = match input {
            Input::Joined { peer, place, seeding, have } => {
                self.on_joined(now, peer, (place, seeding, have), out)
            }
            Input::Has { peer, pieces } => self.on_has(now, peer, &pieces, out),
            Input::Offered { peer, pieces } => self.on_offered(peer, &pieces, out),
            Input::Free { peer } => self.on_free(peer),
            Input::Left { peer } => self.drop_peer(peer),
            Input::Verified { peer, piece } => self.on_verified(now, peer, piece, out),
            Input::Bad { peer, piece: _ } => self.ban(peer, BanReason::BadPiece, out),
            Input::Refused { peer, piece, reason } => {
                self.on_refused(now, rng, peer, piece, reason)
            }
            Input::Members { own, others } => {
                self.leases.members(now, own, others.into_iter().map(|(_, tag)| tag));
                News::All
            }
            Input::Spare { peers } => {
                self.spare = peers;
                News::Nobody
            }
            Input::Tick => self.on_tick(now, out),
        };
        if self.have.is_full() {
            if !std::mem::replace(&mut self.complete, true) {
                out.push(Output::Complete);
            }
            return;
        }
        match news {
            News::Nobody => {}
            News::Of(peer) => self.request_all_of(now, rng, peer, out),
            News::All => self.request(now, rng, out),
        }
        self.request_again(now, out);
        if news != News::Nobody {
            self.notice_starvation(out);
        }
    }

    fn on_joined(
        &mut self,
        now: Duration,
        peer: P,
        (place, seeding, have): (Place, bool, Bitmap),
        out: &mut Vec<Output<P>>,
    ) -> News<P> {
        if self.banned.contains(&peer) {
            return News::Nobody;
        }
        if have.pieces() != self.have.pieces() {
            return self.ban(peer, BanReason::NoSuchPiece, out);
        }
        if self.peers.contains_key(&peer) {
            return self.on_has(now, peer, &have.iter().collect::<Vec<_>>(), out);
        }
        if self.peers.len() >= self.limits.peers {
            return News::Nobody;
        }
        self.seeding += usize::from(seeding);
        if place.is_near() {
            have.iter().for_each(|p| self.picker.gained(p));
        } else {
            self.far += 1;
        }
        let mut state = Peer::new(now, place, have, seeding);
        state.useful = self.picker.useful(state.askable());
        self.peers.insert(peer, state);
        News::Of(peer)
    }

    fn on_has(
        &mut self,
        now: Duration,
        peer: P,
        pieces: &[PieceIndex],
        out: &mut Vec<Output<P>>,
    ) -> News<P> {
        if pieces.iter().any(|p| p.0 >= self.have.pieces()) {
            return self.ban(peer, BanReason::NoSuchPiece, out);
        }
        let Some(state) = self.peers.get_mut(&peer) else { return News::Nobody };
        let near = state.place.is_near();
        for piece in pieces {
            if !state.have.set(*piece) {
                continue;
            }
            if near {
                if self.far > 0 && self.picker.availability(*piece) == 0 {
                    self.leases.came(now, *piece);
                }
                self.picker.gained(*piece);
            }
            state.useful += u32::from(state.offered.is_none() && self.picker.wants(*piece));
        }
        News::Of(peer)
    }

    fn on_offered(&mut self, peer: P, pieces: &[PieceIndex], out: &mut Vec<Output<P>>) -> News<P> {
        if pieces.iter().any(|p| p.0 >= self.have.pieces()) {
            return self.ban(peer, BanReason::NoSuchPiece, out);
        }
        let Some(state) = self.peers.get_mut(&peer) else { return News::Nobody };
        let Some(offered) = &mut state.offered else { return News::Nobody };
        for piece in pieces {
            if self.picker.wants(*piece) {
                state.useful += u32::from(offered.set(*piece));
                // it may have said before that it lacks it
                if state.have.set(*piece) && state.place.is_near() {
                    self.picker.gained(*piece);
                }
            } else if !self.flights.is_asked(*piece, peer) {
                // it is here, or on its way: somebody else may have it
                out.push(Output::Cancel { peer, piece: *piece });
            }
        }
        News::Of(peer)
    }

    fn on_free(&mut self, peer: P) -> News<P> {
        let Some(state) = self.peers.get_mut(&peer) else { return News::Nobody };
        if state.offered.take().is_none() {
            return News::Nobody;
        }
        self.seeding -= 1;
        state.useful = self.picker.useful(&state.have);
        News::All
    }

    fn on_verified(
        &mut self,
        now: Duration,
        peer: P,
        piece: PieceIndex,
        out: &mut Vec<Output<P>>,
    ) -> News<P> {
        let range = self.blob.range(piece).unwrap_or_default();
        self.active = now;
        for ask in self.flights.land(piece) {
            let Some(state) = self.peers.get_mut(&ask.peer) else { continue };
            state.asked = state.asked.saturating_sub(1);
            if ask.peer == peer {
                state.delivered(now, ask.since, range.end - range.start);
                self.flights.note(state.place.is_near(), now.saturating_sub(ask.since));
                if !state.place.is_near() {
                    self.leases.came(now, piece);
                }
            } else {
                out.push(Output::Cancel { peer: ask.peer, piece });
            }
        }
        self.take(piece);
        self.have.set(piece);
        if self.seeding > 0 {
            self.decline(peer, piece, out);
        }
        News::All
    }

    /// A piece came that was offered elsewhere too.
    fn decline(&mut self, from: P, piece: PieceIndex, out: &mut Vec<Output<P>>) {
        for (peer, state) in &mut self.peers {
            let offered = state.offered.as_mut().is_some_and(|o| o.clear(piece));
            if offered && *peer != from && !out.contains(&Output::Cancel { peer: *peer, piece }) {
                out.push(Output::Cancel { peer: *peer, piece });
            }
        }
    }

    fn on_refused(
        &mut self,
        now: Duration,
        rng: &mut impl Rng,
        peer: P,
        piece: PieceIndex,
        reason: Refusal,
    ) -> News<P> {
        let asked = self.flights.drop_ask(piece, peer);
        let Some(state) = self.peers.get_mut(&peer) else { return News::Nobody };
        if asked {
            state.asked = state.asked.saturating_sub(1);
        }
        match reason {
            Refusal::Busy => state.busy(now, rng),
            Refusal::Missing => {
                let wanted = self.picker.wants(piece);
                let askable = state.askable().get(piece);
                if let Some(offered) = &mut state.offered {
                    offered.clear(piece);
                }
                if state.have.clear(piece) && state.place.is_near() {
                    self.picker.lost(piece);
                }
                state.useful -= u32::from(askable && wanted);
            }
        }
        self.give_back_if_alone(piece);
        News::All
    }

    fn on_tick(&mut self, now: Duration, out: &mut Vec<Output<P>>) -> News<P> {
        for state in self.peers.values_mut() {
            state.snubbed |= state.silence(now) > self.flights.late_after(state);
        }
        if self.far > 0 {
            self.look_at_leases(now);
        }
        self.replace_the_slow(now, out);
        News::All
    }

    fn look_at_leases(&mut self, now: Duration) {
        let Some(nowhere) = self.picker.nowhere_near() else { return };
        let mut could = Bitmap::new(self.have.pieces());
        let far = self.peers.values().filter(|s| !s.place.is_near() && s.offered.is_none());
        for state in far {
            for piece in state.have.iter().filter(|p| nowhere.get(*p)) {
                could.set(piece);
            }
        }
        self.leases.look(now, &could, self.flights.usual_far());
    }

    /// A peer that has had time and work enough, and stays far behind the others, makes room for
    /// another. One at a time.
    fn replace_the_slow(&mut self, now: Duration, out: &mut Vec<Output<P>>) {
        if self.spare == 0 || self.peers.len() < 4 {
            return;
        }
        let judged = |s: &Peer| now.saturating_sub(s.judged) >= JUDGE;
        let mut brought: Vec<u64> =
            self.peers.values().filter(|s| judged(s)).map(|s| s.brought).collect();
        if brought.len() * 2 < self.peers.len() {
            return;
        }
        brought.sort_unstable();
        let half = brought.get(brought.len() / 2).copied().unwrap_or_default();
        let slow =
            |s: &Peer| judged(s) && (s.asked > 0 || s.is_busy()) && s.brought < half / TOO_SLOW;
        let worst = self.peers.iter().filter(|(_, s)| slow(s)).min_by_key(|(_, s)| s.brought);
        let worst = worst.map(|(p, _)| *p);
        for state in self.peers.values_mut().filter(|s| judged(s)) {
            state.judged = now;
            state.brought = 0;
        }
        if let Some(peer) = worst {
            self.spare -= 1;
            self.drop_peer(peer);
            out.push(Output::Drop { peer });
        }
    }

    fn ban(&mut self, peer: P, reason: BanReason, out: &mut Vec<Output<P>>) -> News<P> {
        self.drop_peer(peer);
        if self.banned.len() >= MAX_BANNED {
            self.banned.pop_first();
        }
        self.banned.insert(peer);
        out.push(Output::Ban { peer, reason });
        News::All
    }

    fn drop_peer(&mut self, peer: P) -> News<P> {
        let Some(state) = self.peers.remove(&peer) else { return News::Nobody };
        self.seeding -= usize::from(state.offered.is_some());
        if state.place.is_near() {
            state.have.iter().for_each(|p| self.picker.lost(p));
        } else {
            self.far -= 1;
        }
        for piece in self.flights.drop_peer(peer) {
            self.give_back_if_alone(piece);
        }
        News::All
    }

    /// A piece that nobody is asked for any more is wanted again, unless it is here.
    fn give_back_if_alone(&mut self, piece: PieceIndex) {
        if !self.flights.contains(piece) && !self.have.get(piece) && self.picker.give_back(piece) {
            self.peers.values_mut().for_each(|s| s.useful += u32::from(s.askable().get(piece)));
        }
    }

    /// A piece is no longer wanted.
    fn take(&mut self, piece: PieceIndex) {
        if self.picker.take(piece) {
            self.peers.values_mut().for_each(|s| s.useful -= u32::from(s.askable().get(piece)));
        }
    }
}

#[cfg(test)]
mod tests;
