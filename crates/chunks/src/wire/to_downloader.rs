//! What a source says to a downloader.

use p2pinst_types::{BlobRef, Hash, NodeId, PieceIndex, PublicKey};

use super::{
    Body, HAVE_PIECES, Header, OTHERS, Parts, TICKET_LEN, WireError, frame, parts_prefix, tag,
};
use crate::bitmap::Bitmap;
use crate::layer::CV_LEN;
use crate::recipe::Named;

/// Why a source does not send a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Too many requests are waiting: ask later, or somebody else.
    Busy,
    /// It does not have the piece (any more).
    Missing,
}

/// What a source says. Long bodies are borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToDownloader<'a> {
    /// The answer to [`super::ToSource::Direct`]: the name and the secret of a connection, or `None`
    /// when this stream must do. Secret: for an encrypted stream only.
    Ticket(Option<&'a [u8; TICKET_LEN]>),
    /// The blob is here, at least in part.
    Opened {
        /// The blob.
        blob: BlobRef,
        /// Whether it is seeded: only what is offered is to be asked for.
        seeding: bool,
        /// The pieces that are here.
        have: Bitmap,
        /// Its recipe, if that is here. A hint: nothing vouches for it.
        recipe: Option<Named>,
    },
    /// Nothing of that blob is here.
    NotFound {
        /// The blob asked for.
        root: Hash,
    },
    /// A page of the piece layer.
    Layer {
        /// The first piece of the page.
        from: PieceIndex,
        /// 32 bytes per piece, at most [`crate::layer::PAGE_PIECES`].
        bytes: &'a [u8],
    },
    /// These pieces can be asked for as well; at most [`HAVE_PIECES`].
    Have {
        /// The pieces.
        pieces: Vec<PieceIndex>,
    },
    /// Of a seeded blob, pieces to ask for; at most [`HAVE_PIECES`].
    Offer {
        /// The pieces.
        pieces: Vec<PieceIndex>,
    },
    /// The blob is seeded no more: all that is here can be asked for.
    Free,
    /// A piece that was requested, not verified yet.
    Piece {
        /// Which.
        piece: PieceIndex,
        /// Its bytes, at most [`super::PIECE_MAX`].
        bytes: &'a [u8],
    },
    /// Parts of a piece that were requested, not verified yet.
    Parts {
        /// Of which piece.
        piece: PieceIndex,
        /// Which.
        parts: Parts,
        /// Their bytes, one after the other.
        bytes: &'a [u8],
    },
    /// A piece that was requested will not come.
    Refused {
        /// Which.
        piece: PieceIndex,
        /// Why.
        reason: Refusal,
        /// Others that have the blob, or a part of it, as far as the source knows; at most
        /// [`OTHERS`], and none unless it is busy. Nothing vouches for them.
        others: Vec<NodeId>,
    },
}

impl Body<'_> {
    /// All the rest: 1 to [`HAVE_PIECES`] pieces.
    fn pieces(&self) -> Result<Vec<PieceIndex>, WireError> {
        let (numbers, rest) = self.rest.as_chunks::<4>();
        if numbers.is_empty() || numbers.len() > HAVE_PIECES || !rest.is_empty() {
            return Err(self.length());
        }
        Ok(numbers.iter().map(|n| PieceIndex(u32::from_be_bytes(*n))).collect())
    }
}

impl<'a> ToDownloader<'a> {
    /// Appends the message's frame. For pieces, [`super::piece_prefix`] saves a copy.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ticket(ticket) => frame(out, tag::TICKET, |o| {
                o.extend_from_slice(ticket.map_or(&[], |t| t.as_slice()));
            }),
            Self::Opened { blob, seeding, have, recipe } => frame(out, tag::OPENED, |o| {
                geometry(o, blob);
                o.push(u8::from(*seeding) | u8::from(recipe.is_some()) << 1);
                if let Some(Named { blob, zeros }) = recipe {
                    geometry(o, blob);
                    o.extend_from_slice(&zeros.to_be_bytes());
                }
                have.encode(o);
            }),
            Self::NotFound { root } => {
                frame(out, tag::NOT_FOUND, |o| o.extend_from_slice(root.as_bytes()));
            }
            Self::Layer { from, bytes } => numbered(out, tag::LAYER, *from, bytes),
            Self::Have { pieces } => list(out, tag::HAVE, pieces),
            Self::Offer { pieces } => list(out, tag::OFFER, pieces),
            Self::Free => frame(out, tag::FREE, |_| {}),
            Self::Piece { piece, bytes } => numbered(out, tag::PIECE, *piece, bytes),
            Self::Parts { piece, parts, bytes } => {
                out.extend_from_slice(&parts_prefix(*piece, parts));
                out.extend_from_slice(bytes);
            }
            Self::Refused { piece, reason, others } => {
                let reason = match reason {
                    Refusal::Busy => 1,
                    Refusal::Missing => 2,
                };
                frame(out, tag::REFUSED, |o| {
                    o.extend_from_slice(&piece.0.to_be_bytes());
                    o.push(reason);
                    others.iter().take(OTHERS).for_each(|n| o.extend_from_slice(n.0.as_bytes()));
                });
            }
        }
    }

    /// Reads a body whose header was parsed with [`super::Direction::ToDownloader`].
    ///
    /// # Errors
    /// When the body is not one of that tag.
    pub fn decode(header: Header, body: &'a [u8]) -> Result<Self, WireError> {
        let tag = header.tag;
        let mut body = Body { tag, rest: body };
        Ok(match tag {
            tag::TICKET if body.rest.is_empty() => Self::Ticket(None),
            tag::TICKET => Self::Ticket(Some(body.rest.try_into().map_err(|_| body.length())?)),
            tag::OPENED => {
                let blob = body.blob()?;
                let [flags] = body.take()?;
                let recipe = match flags {
                    0..=1 => None,
                    2..=3 => {
                        Some(Named { blob: body.blob()?, zeros: u64::from_be_bytes(body.take()?) })
                    }
                    other => return Err(WireError::Flag(other)),
                };
                let have = Bitmap::decode(blob.pieces(), body.rest)?;
                Self::Opened { blob, seeding: flags & 1 == 1, have, recipe }
            }
            tag::NOT_FOUND => {
                let root = Hash(body.take()?);
                body.end()?;
                Self::NotFound { root }
            }
            tag::LAYER => {
                let from = body.piece()?;
                if body.rest.is_empty() || !body.rest.len().is_multiple_of(CV_LEN) {
                    return Err(body.length());
                }
                Self::Layer { from, bytes: body.rest }
            }
            tag::HAVE => Self::Have { pieces: body.pieces()? },
            tag::OFFER => Self::Offer { pieces: body.pieces()? },
            tag::FREE => {
                body.end()?;
                Self::Free
            }
            tag::PARTS => {
                let piece = body.piece()?;
                let [count] = body.take()?;
                let parts = body.parts(count.into())?;
                if body.rest.len() != parts.bytes() {
                    return Err(body.length());
                }
                Self::Parts { piece, parts, bytes: body.rest }
            }
            tag::PIECE => Self::Piece { piece: body.piece()?, bytes: body.rest },
            tag::REFUSED => {
                let piece = body.piece()?;
                let reason = match body.take::<1>()? {
                    [1] => Refusal::Busy,
                    [2] => Refusal::Missing,
                    [other] => return Err(WireError::Reason(other)),
                };
                let (others, rest) = body.rest.as_chunks::<{ PublicKey::LEN }>();
                let most = if reason == Refusal::Busy { OTHERS } else { 0 };
                if others.len() > most || !rest.is_empty() {
                    return Err(body.length());
                }
                let others = others.iter().map(|key| NodeId(PublicKey(*key))).collect();
                Self::Refused { piece, reason, others }
            }
            other => return Err(WireError::Tag(other)),
        })
    }
}

fn geometry(out: &mut Vec<u8>, blob: &BlobRef) {
    out.extend_from_slice(blob.root.as_bytes());
    out.extend_from_slice(&blob.len().to_be_bytes());
    out.push(u8::try_from(blob.piece_len().trailing_zeros()).unwrap_or(u8::MAX));
}

fn list(out: &mut Vec<u8>, tag: u8, pieces: &[PieceIndex]) {
    frame(out, tag, |o| pieces.iter().for_each(|p| o.extend_from_slice(&p.0.to_be_bytes())));
}

fn numbered(out: &mut Vec<u8>, tag: u8, piece: PieceIndex, bytes: &[u8]) {
    frame(out, tag, |o| {
        o.extend_from_slice(&piece.0.to_be_bytes());
        o.extend_from_slice(bytes);
    });
}
