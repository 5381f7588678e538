//! Power that fails at any step of a transaction, on a disk in memory.

use dht_store::disk::MemoryDisk;
use dht_store::{Store, StoreError};
use p2pinst_trust::fixture::Lab;
use p2pinst_types::{Cell, Kind};

use crate::world::LATER;

/// Three cells, one of which replaces that of the batch before.
fn batch(lab: &mut Lab, n: u64) -> Vec<Cell> {
    let alice = lab.operator.clone();
    let place = |of: &str| format!("{of}{n}");
    [place("a"), place("b"), "replaced".to_owned()]
        .iter()
        .map(|subject| lab.write(&alice, Kind(0x0300), subject.as_bytes(), &n))
        .collect()
}

/// Of what was not synced any part may survive: here each possible length of the transaction is
/// cut at, with all, none and some of the rest on the disk.
#[test]
fn anytime_power_fails_at_each_step_of_a_write() {
    let mut cut_short = 0;
    for step in 0..40u64 {
        for pattern in [0u64, u64::MAX, 0x5555_5555_5555_5555, 0x1248_f3c7_0b5e_92ad] {
            let mut lab = Lab::default();
            let disk = MemoryDisk::default();
            let mut store = Store::open_on(&disk, lab.roots.clone()).unwrap();
            store.apply(vec![lab.operator_grant.clone()], &[], LATER).unwrap();
            let first = batch(&mut lab, 0);
            store.apply(first.clone(), &[], LATER).unwrap();
            disk.fail_after(Some(step));
            let second = batch(&mut lab, 1);
            let accepted = store.apply(second.clone(), &[], LATER).is_ok();
            let mut bits = pattern;
            disk.cut_power(|| {
                bits = bits.rotate_left(1);
                bits & 1 == 1
            });
            drop(store);
            let store = Store::open_on(&disk, lab.roots.clone()).unwrap();
            let held = |cells: &[Cell]| {
                let held = |c: &&Cell| store.control(&c.id) == Some(*c);
                cells.iter().filter(held).count()
            };
            let (old, new) = (held(&first), held(&second));
            let whole = (old, new) == (3, 0) || (old, new) == (2, 3);
            assert!(whole, "step {step}: {old} cells of the first batch, {new} of the second");
            assert!(!accepted || new == 3, "step {step}: what was accepted is gone");
            cut_short += usize::from(!accepted);
        }
    }
    assert!((20..150).contains(&cut_short), "{cut_short}: the steps miss the transaction");
}

/// A disk that fails while it syncs may have kept the transaction: then it counts, as if it had been
/// told. Its numbers are not given away twice, and what is in memory is what is on the disk.
#[test]
fn anytime_memory_is_what_the_disk_has_kept() {
    let mut kept = 0;
    for step in 0..40u64 {
        let mut lab = Lab::default();
        let disk = MemoryDisk::default();
        let mut store = Store::open_on(&disk, lab.roots.clone()).unwrap();
        store.apply(vec![lab.operator_grant.clone()], &[], LATER).unwrap();
        store.apply(batch(&mut lab, 0), &[], LATER).unwrap();
        disk.fail_after(Some(step));
        let failed = store.apply(batch(&mut lab, 1), &[], LATER).is_err();
        disk.fail_after(None);
        let asked = store.apply(Vec::new(), &[], LATER);
        kept += usize::from(failed && matches!(asked, Err(StoreError::ReadAnew)));
        store.apply(Vec::new(), &[], LATER).unwrap();
        let digest = store.digest();
        disk.kill();
        drop(store);
        let store = Store::open_on(&disk, lab.roots.clone()).unwrap();
        assert_eq!(store.digest(), digest, "step {step}");
    }
    assert!(kept > 0, "no step left a transaction that had failed and was kept");
}
