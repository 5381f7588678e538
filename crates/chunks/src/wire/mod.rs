//! The messages of `/p2pinst/exchange/1`: one stream per (downloader, source, blob), opened by the
//! downloader. Pure encoding and decoding over byte slices; a shell moves the bytes.
//!
//! A frame is a tag (1 byte), the length of its body (4 bytes, big-endian), and the body. The shell
//! reads the [`HEADER`] bytes, asks [`Header::parse`], which knows how long a body of that tag may be
//! in that direction, and only then makes room for the body. Numbers are big-endian.
//!
//! | to the source | body |
//! |---|---|
//! | 1 open | root (32) |
//! | 2 get layer | first piece (4) |
//! | 3 request | piece (4) |
//! | 4 cancel | piece (4) |
//! | 5 direct | – |
//! | 6 request parts | piece (4), 1 to 32 ranges of its bytes: begin (4), end (4) |
//! | 7 held | bitmap of the pieces that the downloader of a seeded blob has from elsewhere |
//!
//! | to the downloader | body |
//! |---|---|
//! | 17 opened | root (32), length (8), log2 of the piece size (1), flags (1): 1 seeded, 2 with a recipe; of a recipe its root (32), length (8), log2 of its piece size (1), zeros (8); bitmap |
//! | 18 not found | root (32) |
//! | 19 layer | first piece (4), 1 to 2048 chaining values |
//! | 20 have | 1 to 4096 pieces (4 each) |
//! | 21 piece | piece (4), its bytes |
//! | 22 refused | piece (4), reason (1): 1 busy, 2 missing; when busy up to 8 node ids (32 each) |
//! | 23 ticket | name (16) and secret (32) of a connection; or nothing |
//! | 24 offer | 1 to 4096 pieces (4 each): of a seeded blob, those to ask for |
//! | 25 free | –: it is seeded no more |
//! | 26 parts | piece (4), number of ranges (1), the ranges (8 each), their bytes |

mod parts;
mod to_downloader;
mod to_source;

use p2pinst_types::{BlobRef, Hash, PieceIndex, PublicKey};
use thiserror::Error;

pub use self::parts::{PARTS_PREFIX, Parts, PartsError, parts_prefix};
pub use self::to_downloader::{Refusal, ToDownloader};
pub use self::to_source::ToSource;

use crate::bitmap::{Bitmap, BitmapError};
use crate::layer::{CV_LEN, MAX_PIECES, PAGE_PIECES};
use crate::recipe::PARTS;

/// The name of the protocol; its last part is the version of everything here.
pub const PROTOCOL: &str = "/p2pinst/exchange/1";
/// Bytes of a frame's header.
pub const HEADER: usize = 5;
/// Pieces in one [`ToDownloader::Have`]: 16 KiB.
pub const HAVE_PIECES: usize = 4096;
/// The most pieces of a blob of which a downloader says what it holds, so that a source needs little memory: 256 GiB.
pub const HELD_PIECES: u32 = 1 << 16;
/// Other sources that a busy one names in one [`ToDownloader::Refused`].
pub const OTHERS: usize = 8;
/// Bytes of the longest piece.
pub const PIECE_MAX: usize = 4 << 20;
/// Bytes of a piece's number.
pub const PIECE_NUMBER: usize = 4;
/// Bytes before a piece's own in its frame: header and number.
pub const PIECE_PREFIX: usize = HEADER + PIECE_NUMBER;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the downloader to the source.
    ToSource,
    /// From the source to the downloader.
    ToDownloader,
}

/// The other side does not follow the protocol: close the stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// No message has this tag in this direction.
    #[error("no message has the tag {0}")]
    Tag(u8),
    /// A body is too short or too long for its tag.
    #[error("a message with tag {tag} does not have {len} bytes")]
    Length {
        /// The message's tag.
        tag: u8,
        /// The length of its body, in bytes.
        len: u64,
    },
    /// A blob with an impossible geometry.
    #[error("no blob is cut like that")]
    Geometry,
    /// A bitmap that is not one of that blob's pieces.
    #[error(transparent)]
    Bitmap(#[from] BitmapError),
    /// Flags that mean nothing.
    #[error("no flags have the value {0}")]
    Flag(u8),
    /// Ranges that are none of a piece.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// A refusal for an unknown reason.
    #[error("no refusal has the reason {0}")]
    Reason(u8),
}

/// A header that has been checked: the tag exists and the length is within its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    tag: u8,
    len: usize,
}

impl Header {
    /// Checks a frame's first bytes.
    ///
    /// # Errors
    /// When no message in that direction has that tag or that length.
    pub fn parse(bytes: [u8; HEADER], direction: Direction) -> Result<Self, WireError> {
        let [tag, a, b, c, d] = bytes;
        let len = u32::from_be_bytes([a, b, c, d]);
        let (min, max) = bounds(tag, direction).ok_or(WireError::Tag(tag))?;
        match usize::try_from(len) {
            Ok(len) if (min..=max).contains(&len) => Ok(Self { tag, len }),
            _ => Err(WireError::Length { tag, len: u64::from(len) }),
        }
    }

    /// Bytes of the body that follows.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.len
    }

    /// Bytes of the piece that follows, after its number; `None`: it is another message.
    #[must_use]
    pub fn piece_len(&self) -> Option<usize> {
        (self.tag == tag::PIECE).then(|| self.len.saturating_sub(PIECE_NUMBER))
    }

    /// The most bytes of parts of a piece that follow, after its number, their ranges among them; `None`: it is
    /// another message.
    #[must_use]
    pub fn parts_len(&self) -> Option<usize> {
        (self.tag == tag::PARTS).then(|| self.len.saturating_sub(PIECE_NUMBER))
    }
}

mod tag {
    pub(super) const OPEN: u8 = 1;
    pub(super) const GET_LAYER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const CANCEL: u8 = 4;
    pub(super) const DIRECT: u8 = 5;
    pub(super) const REQUEST_PARTS: u8 = 6;
    pub(super) const HELD: u8 = 7;
    pub(super) const OPENED: u8 = 17;
    pub(super) const NOT_FOUND: u8 = 18;
    pub(super) const LAYER: u8 = 19;
    pub(super) const HAVE: u8 = 20;
    pub(super) const PIECE: u8 = 21;
    pub(super) const REFUSED: u8 = 22;
    pub(super) const TICKET: u8 = 23;
    pub(super) const OFFER: u8 = 24;
    pub(super) const FREE: u8 = 25;
    pub(super) const PARTS: u8 = 26;
}

/// The least and most bytes of a body.
fn bounds(tag: u8, direction: Direction) -> Option<(usize, usize)> {
    use Direction::{ToDownloader, ToSource};
    let exactly = |n| Some((n, n));
    match (direction, tag) {
        (ToSource, tag::OPEN) | (ToDownloader, tag::NOT_FOUND) => exactly(Hash::LEN),
        (ToSource, tag::GET_LAYER | tag::REQUEST | tag::CANCEL) => exactly(4),
        (ToDownloader, tag::OPENED) => {
            Some((BLOB_LEN + 2, BLOB_LEN + 1 + NAMED_LEN + Bitmap::encoded_len(MAX_PIECES)))
        }
        (ToDownloader, tag::LAYER) => Some((4 + CV_LEN, 4 + PAGE_PIECES as usize * CV_LEN)),
        (ToDownloader, tag::HAVE | tag::OFFER) => Some((4, 4 * HAVE_PIECES)),
        (ToDownloader, tag::PIECE) => Some((4, 4 + PIECE_MAX)),
        (ToDownloader, tag::REFUSED) => Some((5, 5 + OTHERS * PublicKey::LEN)),
        (ToSource, tag::DIRECT) | (ToDownloader, tag::FREE) => exactly(0),
        (ToDownloader, tag::TICKET) => Some((0, TICKET_LEN)),
        (ToSource, tag::HELD) => Some((1, Bitmap::encoded_len(HELD_PIECES))),
        (ToSource, tag::REQUEST_PARTS) => Some((4 + RANGE, 4 + PARTS * RANGE)),
        (ToDownloader, tag::PARTS) => Some((5 + RANGE + 1, 5 + PARTS * RANGE + PIECE_MAX)),
        _ => None,
    }
}

/// Bytes of a ticket: the name and the secret of a connection.
pub const TICKET_LEN: usize = 16 + 32;

/// Bytes of a range.
const RANGE: usize = 4 + 4;

/// Root, length, piece size.
const BLOB_LEN: usize = Hash::LEN + 8 + 1;
/// A recipe, and the zeros by it.
const NAMED_LEN: usize = BLOB_LEN + 8;

/// The beginning of a piece's frame: the piece's bytes follow as they are, so that they need not be
/// copied to be framed. `len` is their number, at most [`PIECE_MAX`].
#[must_use]
pub fn piece_prefix(piece: PieceIndex, len: u32) -> [u8; PIECE_PREFIX] {
    let ([a, b, c, d], [e, f, g, h]) = (len.saturating_add(4).to_be_bytes(), piece.0.to_be_bytes());
    [tag::PIECE, a, b, c, d, e, f, g, h]
}

/// Appends a frame whose body `fill` appends.
fn frame(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let len = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&len.to_be_bytes());
    }
}

/// The part of a body that has not been read yet.
struct Body<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl Body<'_> {
    fn length(&self) -> WireError {
        WireError::Length { tag: self.tag, len: self.rest.len() as u64 }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.length())?;
        self.rest = rest;
        Ok(*head)
    }

    fn piece(&mut self) -> Result<PieceIndex, WireError> {
        self.take().map(|n| PieceIndex(u32::from_be_bytes(n)))
    }

    fn blob(&mut self) -> Result<BlobRef, WireError> {
        let (root, len, [log2]) =
            (Hash(self.take()?), u64::from_be_bytes(self.take()?), self.take()?);
        BlobRef::with_piece_log2(root, len, log2).map_err(|_| WireError::Geometry)
    }

    fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.length()) }
    }
}

#[cfg(test)]
mod tests;
