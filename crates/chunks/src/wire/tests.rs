//! Golden bytes of every message, bounds, and arbitrary bytes.

use p2pinst_types::NodeId;
use proptest::prelude::*;

use super::*;
use crate::recipe::Named;

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
    BlobRef::with_piece_log2(Hash([0xab; 32]), 700_000, 16).unwrap()
}

/// Two bytes and ten of a piece.
fn parts() -> Parts {
    Parts::new(vec![1..3, 256..266]).unwrap()
}

fn named() -> Named {
    Named { blob: BlobRef::with_piece_log2(Hash([0xcd; 32]), 300, 16).unwrap(), zeros: 0x0001_0203 }
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
        (ToSource::Direct, "0500000000".into()),
        (ToSource::Held { bits: [1, 6].into() }, "07000000020106".into()),
        (
            ToSource::RequestParts { piece, parts: parts() },
            "0600000014000000070000000100000003000001000000010a".into(),
        ),
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
    let others = [0xab, 0xcd].map(|b| NodeId(PublicKey([b; 32])));
    let refused = |reason, others: &[NodeId]| ToDownloader::Refused {
        piece,
        reason,
        others: others.to_vec(),
    };
    let all = [
        (
            ToDownloader::Opened { blob: blob(), seeding: true, have: have.clone(), recipe: None },
            format!("110000002c{ab}00000000000aae6010010106"),
        ),
        (
            ToDownloader::Opened { blob: blob(), seeding: false, have, recipe: Some(named()) },
            format!(
                "110000005d{ab}00000000000aae601002{}000000000000012c1000000000000102030106",
                "cd".repeat(32)
            ),
        ),
        (ToDownloader::NotFound { root }, format!("1200000020{ab}")),
        (ToDownloader::Ticket(None), "1700000000".into()),
        (ToDownloader::Ticket(Some(&[0xab; 48])), format!("1700000030{}", "ab".repeat(48))),
        (
            ToDownloader::Layer { from: PieceIndex(2048), bytes: &root.0 },
            format!("130000002400000800{ab}"),
        ),
        (
            ToDownloader::Have { pieces: vec![piece, PieceIndex(258)] },
            "14000000080000000700000102".into(),
        ),
        (ToDownloader::Piece { piece, bytes: b"xyz" }, "15000000070000000778797a".into()),
        (refused(Refusal::Busy, &[]), "16000000050000000701".into()),
        (refused(Refusal::Busy, &others), format!("16000000450000000701{ab}{}", "cd".repeat(32))),
        (refused(Refusal::Missing, &[]), "16000000050000000702".into()),
        (
            ToDownloader::Offer { pieces: vec![piece, PieceIndex(258)] },
            "18000000080000000700000102".into(),
        ),
        (ToDownloader::Free, "1900000000".into()),
        (
            ToDownloader::Parts { piece, parts: parts(), bytes: b"xyhello you!" },
            "1a00000021000000070200000001000000030000010000 00010a787968656c6c6f20796f7521"
                .replace(' ', ""),
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
            assert!(tag == 26 || parse(tag, (4 << 20) + 5, direction).is_err());
            assert!(parse(tag, (4 << 20) + 5 + 32 * 8 + 1, direction).is_err());
        }
        assert!([6, 7].contains(&tag) || parse(tag, 33, Direction::ToSource).is_err());
        assert!(tag == 7 || parse(tag, 4 + 32 * 8 + 1, Direction::ToSource).is_err());
        assert!(parse(tag, 8193, Direction::ToSource).is_err());
    }
    assert!(parse(21, (4 << 20) + 4, Direction::ToDownloader).is_ok());
    assert!(parse(19, 65_540, Direction::ToDownloader).is_ok());
    assert!(parse(19, 65_541, Direction::ToDownloader).is_err());
}

#[test]
fn a_refusal_names_a_few_others_and_only_when_busy() {
    let others = vec![NodeId(PublicKey([1; 32])); 20];
    let (piece, reason) = (PieceIndex(7), Refusal::Busy);
    let mut out = Vec::new();
    ToDownloader::Refused { piece, reason, others: others.clone() }.encode(&mut out);
    let (header, body) = read(&out, Direction::ToDownloader).unwrap();
    let said = ToDownloader::decode(header, body).unwrap();
    assert_eq!(said, ToDownloader::Refused { piece, reason, others: others[..8].to_vec() });
    // the same of a piece that is missing
    out[HEADER + 4] = 2;
    let (header, body) = read(&out, Direction::ToDownloader).unwrap();
    assert!(ToDownloader::decode(header, body).is_err());
    let header = [22, 0, 0, 1, 6];
    assert!(Header::parse(header, Direction::ToDownloader).is_err(), "nine of them");
}

#[test]
fn impossible_blobs_are_refused() {
    // 2^28 pieces: a bitmap that short is not theirs, and none is made
    let mut out = Vec::new();
    let have = Bitmap::new(11);
    ToDownloader::Opened { blob: blob(), seeding: false, have, recipe: None }.encode(&mut out);
    let mut odd = out.clone();
    odd[HEADER + 41] = 4;
    let (header, body) = read(&odd, Direction::ToDownloader).unwrap();
    assert_eq!(ToDownloader::decode(header, body), Err(WireError::Flag(4)));
    out[HEADER + 34] = 15;
    let (header, body) = read(&out, Direction::ToDownloader).unwrap();
    assert!(matches!(ToDownloader::decode(header, body), Err(WireError::Bitmap(_))));
    out[HEADER + 40] = 63;
    let (header, body) = read(&out, Direction::ToDownloader).unwrap();
    assert_eq!(ToDownloader::decode(header, body), Err(WireError::Geometry));
}

#[test]
fn parts_are_in_order_and_apart() {
    let one = |range: std::ops::Range<u32>| Parts::new(vec![range]);
    assert!(one(0..1).is_ok() && one(0..4 << 20).is_ok());
    assert!(one(0..0).is_err() && one(0..(4 << 20) + 1).is_err());
    assert!(Parts::new(vec![]).is_err());
    assert!(Parts::new(vec![0..5, 5..9]).is_ok());
    assert!(Parts::new(vec![0..5, 4..9]).is_err());
    assert!(Parts::new(vec![6..9, 0..5]).is_err());
    let many = |n: u32| Parts::new((0..n).map(|i| 2 * i..2 * i + 1).collect());
    assert!(many(32).is_ok() && many(33).is_err());
    let piece: Vec<u8> = (0..=255).collect();
    let parts = Parts::new(vec![1..3, 250..256]).unwrap();
    let cut = parts.of(&piece).unwrap().concat();
    assert_eq!(cut, [1, 2, 250, 251, 252, 253, 254, 255]);
    assert_eq!(parts.placed(&cut).unwrap(), [(1, &cut[..2]), (250, &cut[2..])]);
    assert_eq!(parts.placed(&cut[1..]), None);
    assert_eq!(parts.of(&piece[..255]), None);
    let mut out = parts_prefix(PieceIndex(7), &parts);
    out.extend_from_slice(&cut[1..]);
    out[4] -= 1;
    let (header, body) = read(&out, Direction::ToDownloader).unwrap();
    assert!(ToDownloader::decode(header, body).is_err(), "a byte is missing");
}

proptest! {
    #[test]
    fn any_bytes_decode_to_what_encodes_to_them(
        tag in prop_oneof![1u8..8, 17u8..27, any::<u8>()],
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            prop::collection::vec(0u8..4, 4..6),
            prop::collection::vec(any::<u8>(), 36..37),
            prop::collection::vec(any::<u8>(), 69..70).prop_map(|mut b| {
                b[4] = 1;
                b
            }),
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
        let (seeding, recipe) = (bit % 2 == 0, (bit % 3 == 0).then(named));
        ToDownloader::Opened { blob, seeding, have: have.clone(), recipe }.encode(&mut out);
        let (header, body) = read(&out, Direction::ToDownloader).unwrap();
        prop_assert_eq!(
            ToDownloader::decode(header, body).unwrap(),
            ToDownloader::Opened { blob, seeding, have, recipe }
        );
    }
}
