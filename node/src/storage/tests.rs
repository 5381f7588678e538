//! Sizes for people, and what pins are worth; the rest is tested over real nodes, and its parts where they are.

use super::*;

#[test]
fn sizes_are_short() {
    for (bytes, want) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (40 << 20, "40.0 MiB"),
        (u64::MAX, "16777215.9 TiB"),
    ] {
        assert_eq!(human(bytes), want);
    }
}

#[test]
fn files_of_an_image_that_was_removed_are_kept_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Hash([1; 32]), Hash([2; 32]));
    let mut pins = Pins::open(dir.path().join("pins")).unwrap();
    for root in [a, b] {
        pins.set(root, true).unwrap();
    }
    let mut table = Table {
        pins,
        removed: BTreeSet::new(),
        boot: BTreeSet::new(),
        needs: Some(Needs::new()),
        claims: BTreeMap::new(),
        next_claim: 0,
        held: BTreeMap::new(),
        fetches: BTreeMap::new(),
        mends: mends::Mends::default(),
    };
    let nobody = BTreeSet::new();
    assert!(table.is_needed(&a, &nobody) && table.reasons(&a, &nobody).pinned);
    table.removed = [a].into();
    assert!(!table.is_needed(&a, &nobody) && !table.reasons(&a, &nobody).pinned);
    assert!(table.is_needed(&b, &nobody));
    // other reasons go on to count
    assert!(table.is_needed(&a, &[a].into()), "it goes out");
    table.needs = Some([(a, ["alice-1".to_owned()].into())].into());
    assert!(table.is_needed(&a, &nobody), "an order names it");
}
