//! The pieces asked for and not yet here.

use std::collections::BTreeMap;
use std::time::Duration;

use p2pinst_types::PieceIndex;

use super::peer::{Peer, smooth};

/// No piece is late before this: below it, asking twice costs more than waiting.
const LATE_MIN: Duration = Duration::from_secs(2);
/// A piece is late after so many times the usual.
const LATE_TIMES: u32 = 3;
/// When a piece is late as long as nothing is known of what is usual.
const LATE_UNKNOWN: Duration = Duration::from_secs(10);
/// The same of a piece of another site: it costs more to ask for it twice, and on a slow WAN the first ones take
/// very long.
const LATE_MIN_FAR: Duration = Duration::from_secs(5);
const LATE_TIMES_FAR: u32 = 6;
const LATE_UNKNOWN_FAR: Duration = Duration::from_secs(30);
/// Copies of a piece in flight, at most.
const COPIES: usize = 2;

/// A piece asked of a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<P> {
    pub(super) peer: P,
    pub(super) since: Duration,
}

/// All requests under way.
#[derive(Debug)]
pub(super) struct Flights<P> {
    by_piece: BTreeMap<PieceIndex, Vec<Ask<P>>>,
    asks: u64,
    /// Usual time from a request to its piece, over all peers at this site, and over all others.
    usual: Option<Duration>,
    usual_far: Option<Duration>,
    /// When the late ones were last looked for.
    looked: Duration,
}

impl<P> Default for Flights<P> {
    fn default() -> Self {
        Self {
            by_piece: BTreeMap::new(),
            asks: 0,
            usual: None,
            usual_far: None,
            looked: Duration::ZERO,
        }
    }
}

/// The late ones are looked for at most this often: it is a walk over all of them.
const LOOK: Duration = Duration::from_millis(50);

impl<P: Copy + Eq> Flights<P> {
    /// Requests under way, both copies counted.
    pub(super) fn asks(&self) -> u64 {
        self.asks
    }

    /// Pieces under way.
    pub(super) fn pieces(&self) -> u32 {
        u32::try_from(self.by_piece.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn contains(&self, piece: PieceIndex) -> bool {
        self.by_piece.contains_key(&piece)
    }

    pub(super) fn ask(&mut self, now: Duration, peer: P, piece: PieceIndex) {
        self.by_piece.entry(piece).or_default().push(Ask { peer, since: now });
        self.asks += 1;
    }

    /// Whether the peer was asked for the piece.
    pub(super) fn is_asked(&self, piece: PieceIndex, peer: P) -> bool {
        self.by_piece.get(&piece).is_some_and(|asks| asks.iter().any(|a| a.peer == peer))
    }

    /// The piece is here: all that were asked for it.
    pub(super) fn land(&mut self, piece: PieceIndex) -> Vec<Ask<P>> {
        let asks = self.by_piece.remove(&piece).unwrap_or_default();
        self.asks -= asks.len() as u64;
        asks
    }

    /// The peer will not send the piece; whether it was asked for it.
    pub(super) fn drop_ask(&mut self, piece: PieceIndex, peer: P) -> bool {
        let Some(asks) = self.by_piece.get_mut(&piece) else { return false };
        let before = asks.len();
        asks.retain(|a| a.peer != peer);
        let dropped = before - asks.len();
        if asks.is_empty() {
            self.by_piece.remove(&piece);
        }
        self.asks -= dropped as u64;
        dropped > 0
    }

    /// The peer will send nothing; which pieces it was asked for.
    pub(super) fn drop_peer(&mut self, peer: P) -> Vec<PieceIndex> {
        let asked = |asks: &Vec<Ask<P>>| asks.iter().any(|a| a.peer == peer);
        let pieces: Vec<_> =
            self.by_piece.iter().filter(|(_, a)| asked(a)).map(|(p, _)| *p).collect();
        for piece in &pieces {
            self.drop_ask(*piece, peer);
        }
        pieces
    }

    /// Learns how long a piece took.
    pub(super) fn note(&mut self, near: bool, took: Duration) {
        let usual = if near { &mut self.usual } else { &mut self.usual_far };
        *usual = Some(smooth(*usual, took));
    }

    /// Usual time from a request to its piece, over all peers at other sites; `None` before the first.
    pub(super) fn usual_far(&self) -> Option<Duration> {
        self.usual_far
    }

    /// After what time a piece asked of a peer is late.
    pub(super) fn late_after(&self, peer: &Peer) -> Duration {
        let (usual, times, least, unknown) = if peer.place.is_near() {
            (peer.usual().max(self.usual), LATE_TIMES, LATE_MIN, LATE_UNKNOWN)
        } else {
            let usual = peer.usual().or(self.usual_far);
            (usual, LATE_TIMES_FAR, LATE_MIN_FAR, LATE_UNKNOWN_FAR)
        };
        usual.map_or(unknown, |usual| (usual * times).max(least))
    }

    /// The pieces to ask of a second peer, with the first one, the longest waiting first: those that
    /// are late, and in the endgame those of peers at this site that take longer than usual.
    pub(super) fn due<'a>(
        &mut self,
        now: Duration,
        endgame: bool,
        state: impl Fn(P) -> Option<&'a Peer>,
    ) -> Vec<(PieceIndex, P)> {
        if now < self.looked + LOOK {
            return Vec::new();
        }
        self.looked = now;
        let after = |peer| match (self.usual, state(peer)) {
            (Some(usual), Some(peer)) if endgame && peer.place.is_near() => usual,
            (_, peer) => peer.map_or(Duration::ZERO, |peer| self.late_after(peer)),
        };
        let mut due: Vec<_> = self
            .by_piece
            .iter()
            .filter(|(_, asks)| asks.len() < COPIES)
            .filter_map(|(piece, asks)| asks.first().map(|a| (a.since, *piece, a.peer)))
            .filter(|(since, _, peer)| now.saturating_sub(*since) > after(*peer))
            .collect();
        due.sort_by_key(|(since, piece, _)| (*since, *piece));
        due.into_iter().map(|(_, piece, peer)| (piece, peer)).collect()
    }

    /// The pieces under way and whom they are asked of.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (PieceIndex, Vec<P>)> + '_ {
        self.by_piece.iter().map(|(p, asks)| (*p, asks.iter().map(|a| a.peer).collect()))
    }
}
