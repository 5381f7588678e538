//! Equal sets of cells give equal stores, in whatever order, number and batches they came.

use dht_store::Outcome;
use p2pinst_types::{Cell, Hash};
use proptest::prelude::*;

use crate::world::{apply, cells, seen, store};

/// What a store says that got everything at once, in the order in which it was written.
fn reference() -> (Hash, String) {
    let (lab, cells) = cells();
    let (_dir, mut store) = store(&lab);
    apply(&mut store, &cells);
    (store.digest(), seen(&store))
}

#[test]
fn the_set_is_understood() {
    let (lab, cells) = cells();
    let (_dir, mut store) = store(&lab);
    let outcomes = apply(&mut store, &cells);
    let odd: Vec<_> =
        outcomes.iter().zip(&cells).filter(|(o, _)| **o != Outcome::Accepted).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    let views = store.views();
    let names: Vec<_> = views.machines.values().map(|m| m.name.to_string()).collect();
    let sorted: std::collections::BTreeSet<_> = names.iter().map(String::as_str).collect();
    assert_eq!(
        sorted,
        ["b2", "m0", "n1", "n2", "n3"].into(),
        "b2 was installed, n4 and n5 are surplus, the first n2 is revoked, n7 has left"
    );
    let labels = views.machines.values().flat_map(|m| m.labels.values().map(|v| v.as_str()));
    assert_eq!(labels.collect::<std::collections::BTreeSet<_>>(), ["h100", "yes"].into());
    assert_eq!(views.unknown, 3);
    let groups: Vec<_> = views.groups.keys().map(|g| g.as_str()).collect();
    assert_eq!(groups, ["early", "gpu", "new"]);
    assert_eq!((views.revoked.len(), views.former.len()), (3, 2));
    assert_eq!(views.root_in_force, 2);
    let orders: Vec<_> = views.orders.iter().map(|o| views.order_name(o)).collect();
    assert_eq!(orders.len(), 3, "{orders:?}");
    assert!(views.equivocators.is_empty());
}

/// A cell that comes again, or late, is known and changes nothing.
#[test]
fn r11_replay_changes_nothing() {
    let (lab, cells) = cells();
    let (_dir, mut store) = store(&lab);
    apply(&mut store, &cells);
    let (digest, views) = (store.digest(), seen(&store));
    for cell in &cells {
        let outcome = apply(&mut store, std::slice::from_ref(cell)).remove(0);
        assert!(matches!(outcome, Outcome::Known | Outcome::Newer), "{outcome:?}");
    }
    assert_eq!((store.digest(), seen(&store)), (digest, views));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_order_in_any_batches(
        shuffled in Just(cells().1).prop_shuffle(),
        cuts in prop::collection::vec(1usize..12, 1..40),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let (lab, _) = cells();
        let (_dir, mut store) = store(&lab);
        let mut rest: &[Cell] = &shuffled;
        for n in cuts.iter().cycle() {
            let (batch, tail) = rest.split_at((*n).min(rest.len()));
            let mut batch = batch.to_vec();
            batch.extend(again.iter().map(|i| i.get(&shuffled).clone()));
            apply(&mut store, &batch);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        let (digest, views) = reference();
        prop_assert_eq!(seen(&store), views);
        prop_assert_eq!(store.digest(), digest);
        prop_assert_eq!(store.held(), 0);
    }

    /// A store that was given some, was closed, and was given all after it was opened again. What
    /// it had set aside is gone by then, as after a crash.
    #[test]
    fn some_then_all(chosen in prop::sample::subsequence(cells().1, 0..30)) {
        let (lab, all) = cells();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let mut store = dht_store::Store::open(&path, lab.roots.clone()).unwrap();
        apply(&mut store, &chosen);
        let (digest, views) = (store.digest(), seen(&store));
        drop(store);
        let mut store = dht_store::Store::open(&path, lab.roots.clone()).unwrap();
        prop_assert_eq!((store.digest(), seen(&store)), (digest, views));
        apply(&mut store, &all);
        let (digest, views) = reference();
        prop_assert_eq!(seen(&store), views);
        prop_assert_eq!(store.digest(), digest);
    }

    /// The merge laws at the level of stores: two halves joined either way, or over and over.
    #[test]
    fn halves_join(mask in prop::collection::vec(any::<bool>(), 64)) {
        let (lab, all) = cells();
        let half = |side: bool| -> Vec<Cell> {
            all.iter().zip(mask.iter().cycle()).filter(|(_, m)| **m == side).map(|(c, _)| c.clone()).collect()
        };
        let (left, right) = (half(true), half(false));
        let (digest, views) = reference();
        for order in [[&left, &right, &left], [&right, &left, &right]] {
            let (_dir, mut store) = store(&lab);
            order.iter().for_each(|cells| drop(apply(&mut store, cells)));
            prop_assert_eq!(seen(&store), views.clone());
            prop_assert_eq!(store.digest(), digest);
        }
    }
}
