//! The data plane: what the shelf says is what is there, pages are whole, what is retired is gone
//! for ever.

use dht_store::shelf::Subject;
use dht_store::{Outcome, Store};
use p2pinst_trust::SecretKey;
use p2pinst_trust::fixture::{LIFE, Lab, Node};
use p2pinst_types::cell::Draft;
use p2pinst_types::record::Retirement;
use p2pinst_types::{Cell, CellId, Hash, Hlc, Kind, MachineId, Version};
use proptest::prelude::*;

use crate::world::{LATER, apply, store};

/// A lab with some members in a store.
fn members(n: u16) -> (Lab, Vec<(SecretKey, MachineId)>, tempfile::TempDir, Store) {
    let mut lab = Lab::default();
    let (dir, mut store) = store(&lab);
    let invite = lab.invite(100, n.into());
    let alice = lab.operator.clone();
    let nodes: Vec<Node> = (0..n).map(|i| lab.node(&invite, 101 + i, &format!("n{i}"))).collect();
    let mut cells = vec![lab.operator_grant.clone(), lab.publisher_grant.clone(), invite.cell];
    cells.extend(nodes.iter().map(|node| lab.admit(&alice, node)));
    apply(&mut store, &cells);
    let id = |key: &SecretKey| store.views().machine_of(&key.public()).unwrap().id;
    let nodes = nodes.into_iter().map(|n| (id(&n.key), n.key)).map(|(m, k)| (k, m)).collect();
    (lab, nodes, dir, store)
}

fn cell(lab: &Lab, by: &SecretKey, place: (Kind, &[u8], &[u8]), seq: u64, len: usize) -> Cell {
    let (kind, subject, slot) = place;
    let id = CellId { kind, subject: subject.to_vec(), slot: slot.to_vec(), author: by.public() };
    let version = Version { incarnation: LIFE, seq };
    let draft = Draft { id, version, hlc: Hlc::at(LATER), payload: vec![0xf6; len] };
    draft.sign(lab.cluster(), |m| by.sign(m)).unwrap()
}

/// What the shelf says, counted anew from the cells.
fn assert_shelf(store: &Store) {
    for (subject, held) in store.shelf() {
        let cells = store.data(subject.kind, &subject.id).unwrap();
        let mut digest = Hash([0; 32]);
        for cell in &cells {
            digest.0.iter_mut().zip(cell.hash().0).for_each(|(a, b)| *a ^= b);
        }
        assert_eq!((held.cells, held.digest), (cells.len(), digest));
        assert_eq!(held.bytes, cells.iter().map(|c| c.bytes().len() as u64).sum::<u64>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_shelf_is_what_is_there(
        writes in proptest::collection::vec((0usize..3, 0u64..3, 1u64..5, 1usize..200), 1..20),
    ) {
        let (lab, nodes, dir, mut store) = members(3);
        for (who, segment, seq, len) in writes {
            let (key, machine) = &nodes[who];
            let place = (Kind::HISTORY, machine.as_bytes().as_slice(), &segment.to_be_bytes()[..]);
            let outcomes = apply(&mut store, &[cell(&lab, key, place, seq, len)]);
            prop_assert!(outcomes[0].is_here());
            assert_shelf(&store);
        }
        let before: Vec<_> = store.shelf().map(|(s, h)| (s.clone(), h.clone())).collect();
        drop(store);
        let store = Store::open(&dir.path().join("store.redb"), lab.roots.clone()).unwrap();
        let after: Vec<_> = store.shelf().map(|(s, h)| (s.clone(), h.clone())).collect();
        prop_assert_eq!(before, after);
    }
}

#[test]
fn pages_hold_every_cell_once() {
    let (lab, nodes, _dir, mut store) = members(1);
    let (key, machine) = &nodes[0];
    let cells: Vec<Cell> = (0..40u64)
        .map(|n| {
            let place = (Kind::HISTORY, machine.as_bytes().as_slice(), &n.to_be_bytes()[..]);
            cell(&lab, key, place, 1, 1000)
        })
        .collect();
    apply(&mut store, &cells);
    let (mut read, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let (page, more) = store.page(Kind::HISTORY, machine.as_bytes(), &after, 5000).unwrap();
        after = page.last().map(|c| (c.id.slot.clone(), c.id.author));
        read.extend(page);
        pages += 1;
        if !more {
            break;
        }
    }
    assert_eq!(read, cells);
    assert!(pages > 5, "{pages}");
}

#[test]
fn an_older_version_is_told_from_the_same() {
    let (lab, nodes, _dir, mut store) = members(1);
    let (key, machine) = &nodes[0];
    let place = (Kind::NODE_RECORD, machine.as_bytes().as_slice(), &[][..]);
    let (old, new) = (cell(&lab, key, place, 1, 3), cell(&lab, key, place, 2, 3));
    let outcomes: Vec<Outcome> = [&new, &new, &old]
        .into_iter()
        .map(|c| apply(&mut store, std::slice::from_ref(c)).remove(0))
        .collect();
    assert_eq!(outcomes, [Outcome::Accepted, Outcome::Known, Outcome::Newer]);
}

#[test]
fn what_is_retired_is_gone_and_stays_away() {
    let (mut lab, nodes, dir, mut store) = members(2);
    let (bob, alice) = (lab.publisher.clone(), lab.operator.clone());
    let (release, by_bob) = lab.release(&bob, "1.0");
    let order = lab.deploy(&alice, release, "all");
    apply(&mut store, &[by_bob, order.clone()]);
    let status = |(key, machine): &(SecretKey, MachineId), seq| {
        let mut subject = order.id.subject.clone();
        subject.extend([0, 0]); // the only shard
        cell(&lab, key, (Kind::STATUS, &subject, machine.as_bytes()), seq, 9)
    };
    let (first, second) = (status(&nodes[0], 1), status(&nodes[1], 1));
    let late = status(&nodes[0], 2);
    let first_in = apply(&mut store, std::slice::from_ref(&first));
    assert_eq!(first_in, [Outcome::Accepted]);
    let subject = Subject::of(&first);
    assert!(store.held_of(&subject).is_some());
    let deployment = store.views().orders[0].id;
    let retire = Retirement { deployment, reason: "done".to_owned() };
    let retire = lab.write(&alice, Kind::RETIREMENT, deployment.as_bytes(), &retire);
    apply(&mut store, &[retire]);
    assert!(store.views().orders.is_empty());
    assert_eq!(store.held_of(&subject), None);
    for cell in [first, second, late] {
        let outcome = apply(&mut store, &[cell]).remove(0);
        assert_eq!(outcome, Outcome::Rejected("its deployment is retired".to_owned()));
    }
    drop(store);
    let store = Store::open(&dir.path().join("store.redb"), lab.roots.clone()).unwrap();
    assert_eq!(store.held_of(&subject), None);
    assert!(store.views().orders.is_empty());
}

#[test]
fn a_subject_is_dropped_only_as_it_was_seen() {
    let (lab, nodes, _dir, mut store) = members(2);
    let (key, machine) = &nodes[0];
    let place = (Kind::NODE_RECORD, machine.as_bytes().as_slice(), &[][..]);
    let (old, new) = (cell(&lab, key, place, 1, 3), cell(&lab, key, place, 2, 3));
    apply(&mut store, std::slice::from_ref(&old));
    let subject = Subject::of(&old);
    let seen = store.held_of(&subject).unwrap().digest;
    apply(&mut store, std::slice::from_ref(&new));
    let other = nodes[1].0.public();
    assert!(!store.drop_subject(&subject, &seen, &other).unwrap(), "it has changed since");
    let seen = store.held_of(&subject).unwrap().digest;
    assert!(store.drop_subject(&subject, &seen, &key.public()).unwrap());
    assert_eq!(store.data(subject.kind, &subject.id).unwrap(), [new], "the writer keeps its own");
    assert!(store.drop_subject(&subject, &seen, &other).unwrap());
    assert_eq!(store.held_of(&subject), None);
    assert_shelf(&store);
}

#[test]
fn r16_what_was_taken_before_the_revocation_was_heard_goes_again() {
    let (mut lab, nodes, dir, mut store) = members(2);
    let alice = lab.operator.clone();
    let (key, machine) = &nodes[0];
    let place = (Kind::HISTORY, machine.as_bytes().as_slice(), &0u64.to_be_bytes()[..]);
    // dated after the revocation, and here before it
    let late = cell(&lab, key, place, 1, 3);
    assert_eq!(apply(&mut store, std::slice::from_ref(&late)), [Outcome::Accepted]);
    let revocation = lab.revoke(&alice, key.public(), None);
    apply(&mut store, &[revocation]);
    assert_eq!(store.data(Kind::HISTORY, machine.as_bytes()).unwrap(), []);
    assert_eq!(store.held_of(&Subject::of(&late)), None);
    assert_shelf(&store);
    assert!(!apply(&mut store, std::slice::from_ref(&late))[0].is_here());
    drop(store);
    let store = Store::open(&dir.path().join("store.redb"), lab.roots.clone()).unwrap();
    assert_eq!(store.held_of(&Subject::of(&late)), None);
}
