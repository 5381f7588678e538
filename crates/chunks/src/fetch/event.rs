//! What a fetch is told, what it says, and what it may use.

use p2pinst_types::PieceIndex;

use super::place::Place;
use crate::bitmap::Bitmap;
use crate::wire::Refusal;

/// What one fetch may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Peers at a time; those that join beyond are not used.
    pub peers: usize,
    /// Bytes asked for and not yet here, from all peers together.
    pub in_flight: u64,
    /// Bytes asked of one peer beyond its first two pieces.
    pub per_peer: u64,
    /// How many times the bytes that a peer's path holds (rate × shortest answer time) to ask of it.
    pub path_factor: f64,
}

impl Default for Limits {
    /// 64 peers, 64 MiB, 16 MiB each, twice the path.
    fn default() -> Self {
        Self { peers: 64, in_flight: 64 << 20, per_peer: 16 << 20, path_factor: 2.0 }
    }
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<P> {
    /// A peer opened the blob, with these pieces. Again for a peer that is there: its new pieces.
    Joined {
        /// The peer.
        peer: P,
        /// Where it is.
        place: Place,
        /// Whether it seeds the blob: it has these pieces, and may be asked for those that it offers.
        seeding: bool,
        /// What it has.
        have: Bitmap,
    },
    /// A peer that seeds the blob offers pieces.
    Offered {
        /// The peer.
        peer: P,
        /// The pieces.
        pieces: Vec<PieceIndex>,
    },
    /// A peer seeds the blob no more: it may be asked for all that it has.
    Free {
        /// The peer.
        peer: P,
    },
    /// How many peers could be used instead of those that are; unless told, none.
    Spare {
        /// So many.
        peers: usize,
    },
    /// A peer has more pieces.
    Has {
        /// The peer.
        peer: P,
        /// The new ones.
        pieces: Vec<PieceIndex>,
    },
    /// A peer is gone, and what was asked of it will not come.
    Left {
        /// The peer.
        peer: P,
    },
    /// A piece came, was verified and stored.
    Verified {
        /// From whom.
        peer: P,
        /// Which.
        piece: PieceIndex,
    },
    /// Bytes came that are not the piece they were said to be.
    Bad {
        /// From whom.
        peer: P,
        /// Which they were said to be.
        piece: PieceIndex,
    },
    /// A peer will not send a piece.
    Refused {
        /// Who.
        peer: P,
        /// Which.
        piece: PieceIndex,
        /// Why.
        reason: Refusal,
    },
    /// Which members of the own site take part, as far as is known: they divide among them whom of
    /// the other sites to ask for what. Each with its tag for this blob, the same at every node.
    Members {
        /// This node's tag.
        own: u64,
        /// The others.
        others: Vec<(P, u64)>,
    },
    /// Time passed. Give one every 100 ms or so.
    Tick,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<P> {
    /// Ask a peer for a piece.
    Request {
        /// Whom.
        peer: P,
        /// For which.
        piece: PieceIndex,
    },
    /// Take a request back, or decline an offer. If the piece comes all the same, say so as usual.
    Cancel {
        /// Asked of whom.
        peer: P,
        /// Which.
        piece: PieceIndex,
    },
    /// Close the stream to a peer and have nothing to do with it for this blob; it is forgotten here.
    Ban {
        /// Whom.
        peer: P,
        /// Why.
        reason: BanReason,
    },
    /// Close the stream to a peer that is much slower than the others, and use another; it is
    /// forgotten here.
    Drop {
        /// Whom.
        peer: P,
    },
    /// All pieces are here.
    Complete,
    /// Nobody here has what is missing: find more peers. Said once each time it becomes so.
    Starved,
}

/// Why a peer is banned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BanReason {
    /// It sent bytes that are not the piece.
    BadPiece,
    /// It spoke of pieces that the blob does not have.
    NoSuchPiece,
}
