//! What a downloader says to a source.

use p2pinst_types::{Hash, PieceIndex};

use super::{Body, Header, Parts, WireError, frame, tag};

/// What a downloader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToSource {
    /// Before all others, if at all: asks for a ticket, to go on over a connection of its own. This
    /// stream then stays open as long as that connection.
    Direct,
    /// First, but for [`ToSource::Direct`]: which blob it is about.
    Open {
        /// The blob.
        root: Hash,
    },
    /// Asks for a page of the piece layer.
    GetLayer {
        /// The first piece of the page.
        from: PieceIndex,
    },
    /// Asks for a piece.
    Request {
        /// The piece.
        piece: PieceIndex,
    },
    /// Asks for parts of a piece. A [`ToSource::Request`] for it that comes before the answer takes its place.
    RequestParts {
        /// The piece.
        piece: PieceIndex,
        /// Which bytes of it.
        parts: Parts,
    },
    /// Of a seeded blob, the pieces that are with the downloader from elsewhere: they are with the swarm, and need
    /// not be offered. For blobs of at most [`super::HELD_PIECES`].
    Held {
        /// The pieces, as [`crate::Bitmap::encode`] writes them.
        bits: Box<[u8]>,
    },
    /// Takes a request back. The piece may be under way already and then still comes.
    Cancel {
        /// The piece.
        piece: PieceIndex,
    },
}

impl ToSource {
    /// Appends the message's frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, tag, piece: PieceIndex| {
            frame(out, tag, |o| o.extend_from_slice(&piece.0.to_be_bytes()));
        };
        match self {
            Self::Direct => frame(out, tag::DIRECT, |_| {}),
            Self::Open { root } => frame(out, tag::OPEN, |o| o.extend_from_slice(root.as_bytes())),
            Self::GetLayer { from } => number(out, tag::GET_LAYER, *from),
            Self::Request { piece } => number(out, tag::REQUEST, *piece),
            Self::Cancel { piece } => number(out, tag::CANCEL, *piece),
            Self::Held { bits } => frame(out, tag::HELD, |o| o.extend_from_slice(bits)),
            Self::RequestParts { piece, parts } => frame(out, tag::REQUEST_PARTS, |o| {
                o.extend_from_slice(&piece.0.to_be_bytes());
                parts.encode(o);
            }),
        }
    }

    /// Reads a body whose header was parsed with [`super::Direction::ToSource`].
    ///
    /// # Errors
    /// When the body is not one of that tag.
    pub fn decode(header: Header, body: &[u8]) -> Result<Self, WireError> {
        let mut body = Body { tag: header.tag, rest: body };
        let message = match header.tag {
            tag::DIRECT => Self::Direct,
            tag::OPEN => Self::Open { root: Hash(body.take()?) },
            tag::GET_LAYER => Self::GetLayer { from: body.piece()? },
            tag::REQUEST => Self::Request { piece: body.piece()? },
            tag::CANCEL => Self::Cancel { piece: body.piece()? },
            tag::HELD => return Ok(Self::Held { bits: body.rest.into() }),
            tag::REQUEST_PARTS => {
                let piece = body.piece()?;
                return Ok(Self::RequestParts { piece, parts: body.rest_parts()? });
            }
            other => return Err(WireError::Tag(other)),
        };
        body.end().map(|()| message)
    }
}
