//! A machine that lost its disk gets its place again: the same machine, another key, its past.

use dht_store::{Outcome, Store};
use p2pinst_trust::Refusal;
use p2pinst_trust::fixture::{Lab, Node};
use p2pinst_types::record::{HistorySegment, NodeRecord};
use p2pinst_types::{Cell, Kind, MachineId};
use proptest::prelude::*;

use crate::world::{LATER, apply, seen, store};

struct World {
    lab: Lab,
    old: Node,
    heir: Node,
    machine: MachineId,
    /// What everybody knows before the machine is replaced.
    before: Vec<Cell>,
    /// Revocation, invite, admission.
    replaced: Vec<Cell>,
    written: Cell,
    forged: Cell,
    goes_on: Cell,
}

fn segment(lab: &mut Lab, by: &Node, machine: MachineId, number: u64) -> Cell {
    let (kind, slot) = (Kind::HISTORY, number.to_be_bytes());
    let segment = HistorySegment { previous: None, entries: vec![] };
    let payload = p2pinst_types::codec::encode(&segment).unwrap();
    let id = p2pinst_types::CellId {
        kind,
        subject: machine.as_bytes().to_vec(),
        slot: slot.to_vec(),
        author: by.id(),
    };
    let version = p2pinst_types::Version { incarnation: 1, seq: 1 };
    let hlc = lab.tick();
    let draft = p2pinst_types::cell::Draft { id, version, hlc, payload };
    draft.sign(lab.cluster(), |m| by.key.sign(m)).unwrap()
}

fn world() -> World {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let invite = lab.invite(100, 3);
    let first = lab.node(&invite, 101, "n1");
    let old = lab.node(&invite, 102, "n2");
    let machine = old.machine();
    let mut before = vec![lab.operator_grant.clone(), invite.cell.clone()];
    before.push(lab.admit(&alice, &first));
    before.push(lab.admit(&first.key, &old));
    // what a member admits before it is replaced stands
    let third = lab.node(&invite, 103, "n3");
    before.push(lab.admit(&old.key, &third));
    let written = segment(&mut lab, &old, machine, 0);
    let revoked = lab.revoke(&alice, old.id(), None);
    let again = lab.invite_replacing(110, machine);
    let forged = segment(&mut lab, &old, machine, 1);
    // it asks for a name of its own, and gets that of the machine
    let heir = lab.node(&again, 111, "other");
    let admitted = lab.admit(&first.key, &heir);
    let goes_on = segment(&mut lab, &heir, machine, 1);
    let replaced = vec![revoked, again.cell, admitted];
    World { lab, old, heir, machine, before, replaced, written, forged, goes_on }
}

fn check(store: &Store, world: &World) {
    let views = store.views();
    let machine = views.machine_named(&"n2".parse().unwrap()).unwrap();
    assert_eq!((machine.id, machine.node.0), (world.machine, world.heir.id()));
    assert!(views.machine_of(&world.old.id()).is_none());
    assert_eq!(views.void.get(&world.old.id()), Some(&Refusal::Revoked));
    assert_eq!(views.machines.len(), 3, "n3 was admitted by the old key");
    assert!(views.machine_named(&"other".parse().unwrap()).is_none());
}

#[test]
fn the_place_of_a_machine_is_taken_by_another_key() {
    let world = world();
    let (_d, mut store) = store(&world.lab);
    apply(&mut store, &world.before);
    assert_eq!(apply(&mut store, std::slice::from_ref(&world.written)), [Outcome::Accepted]);
    apply(&mut store, &world.replaced);
    check(&store, &world);
    // R14, R16: what the old key wrote before counts, what it writes afterwards does not
    let (_d, mut other) = crate::world::store(&world.lab);
    apply(&mut other, &[world.before.clone(), world.replaced.clone()].concat());
    let cells = [world.written.clone(), world.forged.clone(), world.goes_on.clone()];
    let outcomes = apply(&mut other, &cells);
    assert_eq!(outcomes[0], Outcome::Accepted);
    assert!(
        matches!(&outcomes[1], Outcome::Rejected(why) if why.contains("removed")),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[2], Outcome::Accepted);
    let vetted = store.vet(cells.to_vec(), LATER);
    assert_eq!(vetted, [world.written.clone(), world.goes_on.clone()]);
    assert_eq!(other.data(Kind::HISTORY, world.machine.as_bytes()).unwrap().len(), 2);
}

#[test]
fn nobody_takes_the_place_of_a_machine_that_is_there() {
    let World { mut lab, machine, before, heir, .. } = world();
    let (_d, mut store) = store(&lab);
    apply(&mut store, &before);
    // an invite for the place, and no revocation
    let again = lab.invite_replacing(110, machine);
    let alice = lab.operator.clone();
    let admitted = lab.admit(&alice, &heir);
    apply(&mut store, &[again.cell.clone(), admitted]);
    assert_eq!(store.views().void.get(&heir.id()), Some(&Refusal::NameTaken));
    // one for a machine that never was
    let nowhere = lab.invite_replacing(120, MachineId([9; 16]));
    let stranger = lab.node(&nowhere, 121, "n9");
    let admitted = lab.admit(&alice, &stranger);
    apply(&mut store, &[nowhere.cell, admitted]);
    assert_eq!(store.views().void.get(&stranger.id()), Some(&Refusal::NotCertified));
    // a certificate that claims a place which its invite does not give
    let plain = lab.invite(130, 1);
    let mut thief = lab.node(&plain, 131, "n8");
    thief.cert.replaces = Some(machine);
    thief.signed = p2pinst_trust::policy::sign_cert(&lab.roots, &plain.key, &thief.cert).unwrap();
    let admitted = lab.admit(&alice, &thief);
    apply(&mut store, &[plain.cell, admitted]);
    assert_eq!(store.views().void.get(&thief.id()), Some(&Refusal::NotCertified));
    assert_eq!(store.views().machines.len(), 3);
}

#[test]
fn the_place_is_taken_once_and_can_be_lost_again() {
    let mut world = world();
    let (_d, mut store) = store(&world.lab);
    apply(&mut store, &[world.before.clone(), world.replaced.clone()].concat());
    let alice = world.lab.operator.clone();
    // lost a second time
    let again = world.lab.invite_replacing(140, world.machine);
    let second = world.lab.node(&again, 141, "n2");
    let early = world.lab.admit(&alice, &second);
    apply(&mut store, &[again.cell.clone(), early]);
    assert_eq!(store.views().void.get(&second.id()), Some(&Refusal::NameTaken));
    let revoked = world.lab.revoke(&alice, world.heir.id(), None);
    apply(&mut store, &[revoked]);
    assert_eq!(store.views().machines.len(), 2);
    let views = store.views();
    let at = world.lab.tick();
    assert_eq!(views.why_not_cert(&second.cert, at, false), None, "now the place is free");
    let admitted = world.lab.admit(&alice, &second);
    apply(&mut store, &[admitted]);
    let views = store.views();
    assert_eq!(views.machine_of(&second.id()).map(|m| m.id), Some(world.machine));
    assert_eq!(views.machines.len(), 3);
    let record = NodeRecord {
        addrs: vec![],
        version: "1".to_owned(),
        started: LATER,
        architecture: "all".to_owned(),
        needs: None,
        macs: vec![],
    };
    let cell = world.lab.write(&second.key, Kind::NODE_RECORD, world.machine.as_bytes(), &record);
    assert_eq!(apply(&mut store, &[cell]), [Outcome::Accepted]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn in_whatever_order_the_cells_come(
        order in Just((0usize..8).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let world = world();
        let all = [world.before.clone(), world.replaced.clone()].concat();
        prop_assert_eq!(all.len(), order.len());
        let ((_d1, mut a), (_d2, mut b)) = (store(&world.lab), store(&world.lab));
        apply(&mut a, &all);
        for at in order {
            apply(&mut b, &[all[at].clone()]);
        }
        check(&b, &world);
        prop_assert_eq!(seen(&a), seen(&b));
        prop_assert_eq!(a.digest(), b.digest());
    }
}
