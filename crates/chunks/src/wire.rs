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
//!
//! | to the downloader | body |
//! |---|---|
//! | 17 opened | root (32), length (8), log2 of the piece size (1), bitmap |
//! | 18 not found | root (32) |
//! | 19 layer | first piece (4), 1 to 2048 chaining values |
//! | 20 have | 1 to 4096 pieces (4 each) |
//! | 21 piece | piece (4), its bytes |
//! | 22 refused | piece (4), reason (1): 1 busy, 2 missing, 3 given away |

use p2pinst_types::{BlobRef, Hash, PieceIndex};
use thiserror::Error;

use crate::bitmap::{Bitmap, BitmapError};
use crate::layer::{CV_LEN, MAX_PIECES, PAGE_PIECES};

/// The name of the protocol; its last part is the version of everything here.
pub const PROTOCOL: &str = "/p2pinst/exchange/1";
/// Bytes of a frame's header.
pub const HEADER: usize = 5;
/// Pieces in one [`ToDownloader::Have`]: 16 KiB.
pub const HAVE_PIECES: usize = 4096;
/// Bytes of the longest piece.
pub const PIECE_MAX: usize = 4 << 20;
/// Bytes before a piece's own in its frame: header and number.
pub const PIECE_PREFIX: usize = HEADER + 4;

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
}

mod tag {
    pub(super) const OPEN: u8 = 1;
    pub(super) const GET_LAYER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const CANCEL: u8 = 4;
    pub(super) const OPENED: u8 = 17;
    pub(super) const NOT_FOUND: u8 = 18;
    pub(super) const LAYER: u8 = 19;
    pub(super) const HAVE: u8 = 20;
    pub(super) const PIECE: u8 = 21;
    pub(super) const REFUSED: u8 = 22;
}

/// The least and most bytes of a body.
fn bounds(tag: u8, direction: Direction) -> Option<(usize, usize)> {
    use Direction::{ToDownloader, ToSource};
    let exactly = |n| Some((n, n));
    match (direction, tag) {
        (ToSource, tag::OPEN) | (ToDownloader, tag::NOT_FOUND) => exactly(Hash::LEN),
        (ToSource, tag::GET_LAYER | tag::REQUEST | tag::CANCEL) => exactly(4),
        (ToDownloader, tag::OPENED) => {
            Some((BLOB_LEN + 1, BLOB_LEN + Bitmap::encoded_len(MAX_PIECES)))
        }
        (ToDownloader, tag::LAYER) => Some((4 + CV_LEN, 4 + PAGE_PIECES as usize * CV_LEN)),
        (ToDownloader, tag::HAVE) => Some((4, 4 * HAVE_PIECES)),
        (ToDownloader, tag::PIECE) => Some((4, 4 + PIECE_MAX)),
        (ToDownloader, tag::REFUSED) => exactly(5),
        _ => None,
    }
}

/// Root, length, piece size.
const BLOB_LEN: usize = Hash::LEN + 8 + 1;

/// What a downloader says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToSource {
    /// First on every stream: which blob it is about.
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
    /// Takes a request back. The piece may be under way already and then still comes.
    Cancel {
        /// The piece.
        piece: PieceIndex,
    },
}

/// Why a source does not send a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Too many requests are waiting: ask later, or somebody else.
    Busy,
    /// It does not have the piece (any more).
    Missing,
    /// It has just given the piece to somebody else and gives the others first: ask there, and here
    /// again if it does not come.
    GivenAway,
}

/// What a source says. Long bodies are borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToDownloader<'a> {
    /// The blob is here, at least in part.
    Opened {
        /// The blob.
        blob: BlobRef,
        /// The pieces that can be asked for.
        have: Bitmap,
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
        /// 32 bytes per piece, at most [`PAGE_PIECES`].
        bytes: &'a [u8],
    },
    /// These pieces can be asked for as well; at most [`HAVE_PIECES`].
    Have {
        /// The pieces.
        pieces: Vec<PieceIndex>,
    },
    /// A piece that was requested, not verified yet.
    Piece {
        /// Which.
        piece: PieceIndex,
        /// Its bytes, at most [`PIECE_MAX`].
        bytes: &'a [u8],
    },
    /// A piece that was requested will not come.
    Refused {
        /// Which.
        piece: PieceIndex,
        /// Why.
        reason: Refusal,
    },
}

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

impl ToSource {
    /// Appends the message's frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, tag, piece: PieceIndex| {
            frame(out, tag, |o| o.extend_from_slice(&piece.0.to_be_bytes()));
        };
        match self {
            Self::Open { root } => frame(out, tag::OPEN, |o| o.extend_from_slice(root.as_bytes())),
            Self::GetLayer { from } => number(out, tag::GET_LAYER, *from),
            Self::Request { piece } => number(out, tag::REQUEST, *piece),
            Self::Cancel { piece } => number(out, tag::CANCEL, *piece),
        }
    }

    /// Reads a body whose header was parsed with [`Direction::ToSource`].
    ///
    /// # Errors
    /// When the body is not one of that tag.
    pub fn decode(header: Header, body: &[u8]) -> Result<Self, WireError> {
        let mut body = Body { tag: header.tag, rest: body };
        let message = match header.tag {
            tag::OPEN => Self::Open { root: Hash(body.take()?) },
            tag::GET_LAYER => Self::GetLayer { from: body.piece()? },
            tag::REQUEST => Self::Request { piece: body.piece()? },
            tag::CANCEL => Self::Cancel { piece: body.piece()? },
            other => return Err(WireError::Tag(other)),
        };
        body.end().map(|()| message)
    }
}

impl<'a> ToDownloader<'a> {
    /// Appends the message's frame. For pieces, [`piece_prefix`] saves a copy.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Opened { blob, have } => frame(out, tag::OPENED, |o| {
                o.extend_from_slice(blob.root.as_bytes());
                o.extend_from_slice(&blob.len().to_be_bytes());
                o.push(u8::try_from(blob.piece_len().trailing_zeros()).unwrap_or(u8::MAX));
                have.encode(o);
            }),
            Self::NotFound { root } => {
                frame(out, tag::NOT_FOUND, |o| o.extend_from_slice(root.as_bytes()));
            }
            Self::Layer { from, bytes } => numbered(out, tag::LAYER, *from, bytes),
            Self::Have { pieces } => frame(out, tag::HAVE, |o| {
                pieces.iter().for_each(|p| o.extend_from_slice(&p.0.to_be_bytes()));
            }),
            Self::Piece { piece, bytes } => numbered(out, tag::PIECE, *piece, bytes),
            Self::Refused { piece, reason } => {
                let reason = match reason {
                    Refusal::Busy => 1,
                    Refusal::Missing => 2,
                    Refusal::GivenAway => 3,
                };
                numbered(out, tag::REFUSED, *piece, &[reason]);
            }
        }
    }

    /// Reads a body whose header was parsed with [`Direction::ToDownloader`].
    ///
    /// # Errors
    /// When the body is not one of that tag.
    pub fn decode(header: Header, body: &'a [u8]) -> Result<Self, WireError> {
        let tag = header.tag;
        let mut body = Body { tag, rest: body };
        Ok(match tag {
            tag::OPENED => {
                let blob = body.blob()?;
                let have = Bitmap::decode(blob.pieces(), body.rest)?;
                Self::Opened { blob, have }
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
            tag::HAVE => {
                let (numbers, rest) = body.rest.as_chunks::<4>();
                if numbers.is_empty() || numbers.len() > HAVE_PIECES || !rest.is_empty() {
                    return Err(body.length());
                }
                let pieces = numbers.iter().map(|n| PieceIndex(u32::from_be_bytes(*n))).collect();
                Self::Have { pieces }
            }
            tag::PIECE => Self::Piece { piece: body.piece()?, bytes: body.rest },
            tag::REFUSED => {
                let piece = body.piece()?;
                let reason = match body.take::<1>()? {
                    [1] => Refusal::Busy,
                    [2] => Refusal::Missing,
                    [3] => Refusal::GivenAway,
                    [other] => return Err(WireError::Reason(other)),
                };
                body.end()?;
                Self::Refused { piece, reason }
            }
            other => return Err(WireError::Tag(other)),
        })
    }
}

fn numbered(out: &mut Vec<u8>, tag: u8, piece: PieceIndex, bytes: &[u8]) {
    frame(out, tag, |o| {
        o.extend_from_slice(&piece.0.to_be_bytes());
        o.extend_from_slice(bytes);
    });
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a frame as a shell does.
    fn read(bytes: &[u8], direction: Direction) -> Result<(Header, &[u8]), WireError> {
        let header = Header::parse(*bytes.first_chunk().unwrap(), direction)?;
        assert_eq!(bytes.len(), HEADER + header.body_len());
        Ok((header, &bytes[HEADER..]))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn blob() -> BlobRef {
        BlobRef::new(Hash([0xab; 32]), 700_000).unwrap()
    }

    #[test]
    fn golden_bytes_to_the_source() {
        let root = Hash([0xab; 32]);
        let (from, piece) = (PieceIndex(2048), PieceIndex(7));
        let all = [
            (ToSource::Open { root }, format!("0100000020{}", "ab".repeat(32))),
            (ToSource::GetLayer { from }, "020000000400000800".into()),
            (ToSource::Request { piece }, "030000000400000007".into()),
            (ToSource::Cancel { piece }, "040000000400000007".into()),
        ];
        for (message, golden) in all {
            let mut out = Vec::new();
            message.encode(&mut out);
            assert_eq!(hex(&out), golden);
            let (header, body) = read(&out, Direction::ToSource).unwrap();
            assert_eq!(ToSource::decode(header, body).unwrap(), message);
            assert!(read(&out, Direction::ToDownloader).is_err());
        }
    }

    #[test]
    fn golden_bytes_to_the_downloader() {
        let mut have = Bitmap::new(blob().pieces());
        [0, 9, 10].into_iter().for_each(|i| assert!(have.set(PieceIndex(i))));
        let (root, piece) = (Hash([0xab; 32]), PieceIndex(7));
        let ab = "ab".repeat(32);
        let all = [
            (
                ToDownloader::Opened { blob: blob(), have },
                format!("110000002b{ab}00000000000aae60100106"),
            ),
            (ToDownloader::NotFound { root }, format!("1200000020{ab}")),
            (
                ToDownloader::Layer { from: PieceIndex(2048), bytes: &root.0 },
                format!("130000002400000800{ab}"),
            ),
            (
                ToDownloader::Have { pieces: vec![piece, PieceIndex(258)] },
                "14000000080000000700000102".into(),
            ),
            (ToDownloader::Piece { piece, bytes: b"xyz" }, "15000000070000000778797a".into()),
            (ToDownloader::Refused { piece, reason: Refusal::Busy }, "16000000050000000701".into()),
            (
                ToDownloader::Refused { piece, reason: Refusal::Missing },
                "16000000050000000702".into(),
            ),
            (
                ToDownloader::Refused { piece, reason: Refusal::GivenAway },
                "16000000050000000703".into(),
            ),
        ];
        for (message, golden) in all {
            let mut out = Vec::new();
            message.encode(&mut out);
            assert_eq!(hex(&out), golden);
            let (header, body) = read(&out, Direction::ToDownloader).unwrap();
            assert_eq!(ToDownloader::decode(header, body).unwrap(), message);
            assert!(read(&out, Direction::ToSource).is_err());
        }
        let mut whole = piece_prefix(piece, 3).to_vec();
        whole.extend_from_slice(b"xyz");
        assert_eq!(hex(&whole), "15000000070000000778797a");
    }

    #[test]
    fn long_bodies_are_refused_by_their_header() {
        let parse = |tag: u8, len: u32, direction| {
            let [a, b, c, d] = len.to_be_bytes();
            Header::parse([tag, a, b, c, d], direction)
        };
        for tag in 0..=255 {
            for direction in [Direction::ToSource, Direction::ToDownloader] {
                assert!(parse(tag, u32::MAX, direction).is_err());
                assert!(parse(tag, (4 << 20) + 5, direction).is_err());
            }
            assert!(parse(tag, 33, Direction::ToSource).is_err());
        }
        assert!(parse(21, (4 << 20) + 4, Direction::ToDownloader).is_ok());
        assert!(parse(19, 65_540, Direction::ToDownloader).is_ok());
        assert!(parse(19, 65_541, Direction::ToDownloader).is_err());
    }

    #[test]
    fn impossible_blobs_are_refused() {
        // 2^28 pieces: a bitmap that short is not theirs, and none is made
        let mut out = Vec::new();
        ToDownloader::Opened { blob: blob(), have: Bitmap::new(11) }.encode(&mut out);
        out[HEADER + 34] = 15;
        let (header, body) = read(&out, Direction::ToDownloader).unwrap();
        assert!(matches!(ToDownloader::decode(header, body), Err(WireError::Bitmap(_))));
        out[HEADER + 40] = 63;
        let (header, body) = read(&out, Direction::ToDownloader).unwrap();
        assert_eq!(ToDownloader::decode(header, body), Err(WireError::Geometry));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them(
            tag in prop_oneof![1u8..5, 17u8..23, any::<u8>()],
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..100),
                prop::collection::vec(0u8..4, 4..6),
                prop::collection::vec(any::<u8>(), 36..37),
            ],
        ) {
            let mut frame = vec![tag];
            frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
            frame.extend_from_slice(&body);
            let mut out = Vec::new();
            if let Ok((header, body)) = read(&frame, Direction::ToSource)
                && let Ok(message) = ToSource::decode(header, body)
            {
                message.encode(&mut out);
                prop_assert_eq!(&out, &frame);
            }
            out.clear();
            if let Ok((header, body)) = read(&frame, Direction::ToDownloader)
                && let Ok(message) = ToDownloader::decode(header, body)
            {
                message.encode(&mut out);
                prop_assert_eq!(&out, &frame);
            }
        }

        #[test]
        fn opened_reads_back(len in 0u64..(16 << 40), log2 in 16u8..=22, bit in any::<u32>()) {
            let blob = BlobRef::with_piece_log2(Hash::of(&len.to_be_bytes()), len, log2).unwrap();
            prop_assume!(blob.pieces() <= MAX_PIECES);
            let mut have = Bitmap::new(blob.pieces());
            have.set(PieceIndex(bit % blob.pieces()));
            let mut out = Vec::new();
            ToDownloader::Opened { blob, have: have.clone() }.encode(&mut out);
            let (header, body) = read(&out, Direction::ToDownloader).unwrap();
            prop_assert_eq!(
                ToDownloader::decode(header, body).unwrap(),
                ToDownloader::Opened { blob, have }
            );
        }
    }
}
