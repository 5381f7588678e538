//! Layers of many lengths against plain blake3.

use proptest::prelude::*;

use super::*;

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; len];
    Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

fn build(data: &[u8], step: usize) -> PieceLayer {
    let mut builder = LayerBuilder::new(data.len() as u64).unwrap();
    data.chunks(step.max(1)).for_each(|c| builder.update(c));
    builder.finish().unwrap()
}

fn check(len: usize, step: usize) {
    let data = bytes(len, 1);
    let layer = build(&data, step);
    let blob = *layer.blob();
    assert_eq!(blob.root, Hash::of(&data), "{len}");
    assert_eq!(blob.len(), len as u64);
    assert_eq!(PieceLayer::new(blob, layer.as_bytes().to_vec()).unwrap(), layer);
    for piece in blob.indices() {
        let range = blob.range(piece).unwrap();
        let part = &data[range.start as usize..range.end as usize];
        layer.check_piece(piece, part).unwrap();
        let mut bad = part.to_vec();
        bad.push(0);
        assert!(layer.check_piece(piece, &bad).is_err());
        if let Some(b) = bad.get_mut(part.len() / 2).filter(|_| !part.is_empty()) {
            *b ^= 1;
            assert!(layer.check_piece(piece, &bad[..part.len()]).is_err());
            assert!(layer.check_piece(piece, &bad[1..part.len()]).is_err());
        }
    }
    let past = PieceIndex(blob.pieces());
    assert!(matches!(layer.check_piece(past, b""), Err(PieceError::NoSuchPiece { .. })));
}

#[test]
fn roots_are_those_of_b3sum() {
    let p = 32 * 1024;
    let edges = [0, 1, 1023, 1024, 1025, p - 1, p, p + 1, 2 * p - 1, 2 * p, 2 * p + 1];
    for len in edges.into_iter().chain((3..=9).flat_map(|n| [n * p - 5, n * p, n * p + 1])) {
        check(len, 50_000);
    }
}

#[test]
fn larger_pieces_merge_too() {
    let data = bytes((64 << 20) + 12_345, 3);
    let layer = build(&data, 1 << 20);
    assert_eq!(layer.blob().piece_len(), 128 << 10);
    assert_eq!(layer.blob().root, Hash::of(&data));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_length_any_steps(len in 0usize..900_000, step in 1usize..200_000) {
        check(len, step);
    }

    #[test]
    fn a_flipped_bit_in_the_layer_is_noticed(pieces in 1usize..12, at in any::<prop::sample::Index>()) {
        let layer = build(&bytes(pieces * 32_768, 2), 1 << 20);
        let mut raw = layer.as_bytes().to_vec();
        let at = at.index(raw.len());
        raw[at] ^= 4;
        prop_assert_eq!(
            PieceLayer::new(*layer.blob(), raw),
            Err(LayerError::Mismatch { root: layer.blob().root })
        );
    }
}

#[test]
fn short_and_long_input_is_an_error() {
    for (announced, given, got) in [(10, 9, 9), (10, 11, 11), (0, 1, 1), (70_000, 80_000, 70_001)] {
        let mut builder = LayerBuilder::new(announced).unwrap();
        builder.update(&vec![7; given]);
        assert_eq!(builder.finish(), Err(LengthError { expected: announced, got }));
    }
    assert!(LayerBuilder::new(u64::MAX).is_err());
}

#[test]
fn pages_come_in_order_and_bounded() {
    // 3000 values, invented: two pages
    let values: Vec<u8> = (0..3000 * CV_LEN).map(|i| (i % 251) as u8).collect();
    let root = merge(&values).unwrap();
    let blob = BlobRef::with_piece_log2(root, 3000 << 16, 16).unwrap();
    let layer = PieceLayer::new(blob, values).unwrap();
    let mut pages = LayerPages::new(blob).unwrap();
    assert_eq!(pages.next_page(), Some(PieceIndex(0)));
    let first = layer.page(PieceIndex(0));
    assert_eq!(first.len(), PAGE_PIECES as usize * CV_LEN);
    assert!(pages.push(PieceIndex(1), first).is_err());
    assert!(pages.push(PieceIndex(0), b"").is_err());
    assert!(pages.push(PieceIndex(0), &[0; 33]).is_err());
    assert!(pages.push(PieceIndex(0), &[0; 3001 * CV_LEN]).is_err());
    pages.push(PieceIndex(0), first).unwrap();
    let next = pages.next_page().unwrap();
    assert_eq!(next, PieceIndex(PAGE_PIECES));
    pages.push(next, layer.page(next)).unwrap();
    assert_eq!(pages.next_page(), None);
    assert!(pages.push(PieceIndex(3000), &[0; 32]).is_err());
    assert_eq!(pages.finish().unwrap(), layer);
    assert_eq!(layer.page(PieceIndex(3000)), b"");
    assert_eq!(layer.page(PieceIndex(u32::MAX)), b"");
    assert!(matches!(LayerPages::new(blob).unwrap().finish(), Err(LayerError::Length { .. })));
    let huge = BlobRef::with_piece_log2(Hash([0; 32]), 16 << 40, 16).unwrap();
    assert!(matches!(LayerPages::new(huge), Err(LayerError::TooManyPieces { .. })));
}
