//! What somebody who is not entitled to can try; named by the rules of the security notes.

use std::time::Duration;

use dht_store::store::Write;
use dht_store::{Outcome, Store};
use p2pinst_trust::Refusal;
use p2pinst_trust::fixture::{LIFE, Lab, START, key};
use p2pinst_types::record::{Group, NodeRecord, Role, State, Status};
use p2pinst_types::{Cell, CellError, Hlc, Kind, Version, codec, limits};

use crate::world::{LATER, apply, seen, store};

fn is_held(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Held(_))
}

fn is_rejected(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Rejected(_))
}

/// A cluster with both administrators known, and one member.
fn lab() -> (Lab, p2pinst_trust::fixture::Node, tempfile::TempDir, Store) {
    let mut lab = Lab::default();
    let (dir, mut store) = store(&lab);
    let invite = lab.invite(100, 5);
    let node = lab.node(&invite, 101, "n1");
    let alice = lab.operator.clone();
    let admission = lab.admit(&alice, &node);
    let grants = [lab.operator_grant.clone(), lab.publisher_grant.clone()];
    apply(&mut store, &grants);
    assert_eq!(
        apply(&mut store, &[invite.cell, admission]),
        [Outcome::Accepted, Outcome::Accepted]
    );
    (lab, node, dir, store)
}

#[test]
fn r1_two_signatures_make_an_order() {
    let (mut lab, node, _dir, mut store) = lab();
    let (alice, bob) = (lab.operator.clone(), lab.publisher.clone());
    // the release is by an operator, a member, a stranger
    for by in [&alice, &node.key, &key(99)] {
        let (id, release) = lab.release(by, "1.0");
        let order = lab.deploy(&alice, id, "all");
        apply(&mut store, &[release, order]);
        assert!(store.views().orders.is_empty() && store.views().releases.is_empty());
    }
    // the order is by a publisher, a member, a stranger
    let (id, release) = lab.release(&bob, "2.0");
    apply(&mut store, &[release]);
    for by in [&bob, &node.key, &key(99)] {
        let order = lab.deploy(by, id, "all");
        apply(&mut store, &[order]);
        assert!(store.views().orders.is_empty());
    }
    let order = lab.deploy(&alice, id, "all");
    assert_eq!(apply(&mut store, &[order]), [Outcome::Accepted]);
    assert_eq!(store.views().orders.len(), 1);
}

/// An operator whose power has ended, or who dates its order back.
#[test]
fn r1_a_power_counts_for_its_time() {
    let (mut lab, _, _dir, mut store) = lab();
    let (erin, bob) = (key(52), lab.publisher.clone());
    let (id, release) = lab.release(&bob, "1.0");
    let end = lab.clock.after(Duration::from_secs(2));
    let grant = lab.grant_until(erin.public(), "erin", &[Role::Operator], Some(end));
    let early = lab.deploy(&erin, id, "all");
    lab.tick();
    let late = lab.deploy(&erin, id, "all");
    apply(&mut store, &[release, grant, early, late]);
    assert_eq!(store.views().orders.len(), 1);
}

#[test]
fn r11_an_old_version_changes_nothing() {
    let (mut lab, _, _dir, mut store) = lab();
    let alice = lab.operator.clone();
    let old = lab.group(&alice, "gpu", "n[1-9]");
    let new = lab.group(&alice, "gpu", "n1");
    apply(&mut store, &[new]);
    let views = seen(&store);
    assert_eq!(apply(&mut store, &[old]), [Outcome::Newer]);
    assert_eq!(seen(&store), views);
}

#[test]
fn r11_a_cell_of_another_cluster_is_refused() {
    let (_, _, _dir, mut store) = lab();
    let mut other = Lab::new(1);
    let theirs = other.operator.clone();
    let group = other.group(&theirs, "gpu", "n1");
    let outcomes = apply(&mut store, &[other.operator_grant.clone(), group]);
    assert!(outcomes.iter().all(is_rejected), "{outcomes:?}");
    // also by the same key: a person who is operator of two clusters
    let mut twin = Lab::new(1);
    twin.operator = Lab::default().operator;
    let operator = twin.operator.clone();
    let moved = twin.group(&operator, "gpu", "n1");
    assert!(is_rejected(&apply(&mut store, &[moved])[0]));
}

#[test]
fn r12_what_a_revoked_key_wrote_before_stands() {
    let (mut lab, _, _dir, mut store) = lab();
    let (root, alice, bob) = (lab.root.clone(), lab.operator.clone(), lab.publisher.clone());
    let (one, release) = lab.release(&bob, "1.0");
    let before = lab.deploy(&alice, one, "all");
    let stolen = lab.revoke(&root, bob.public(), None);
    let (two, late) = lab.release(&bob, "2.0");
    let after = lab.deploy(&alice, two, "all");
    apply(&mut store, &[release, before, late, after]);
    assert_eq!(store.views().orders.len(), 2);
    apply(&mut store, &[stolen]);
    let views = store.views();
    assert_eq!(views.orders.iter().map(|o| o.deployment.release).collect::<Vec<_>>(), [one]);
    assert!(views.roles(&bob.public(), Hlc::at(LATER)).is_empty());
}

/// A thief dates its cells back to before the revocation: it names the last good number.
#[test]
fn r12_a_revocation_names_the_last_good_cell() {
    let (mut lab, _, _dir, mut store) = lab();
    let (root, alice, bob) = (lab.root.clone(), lab.operator.clone(), lab.publisher.clone());
    let (one, good) = lab.release(&bob, "1.0");
    let (two, bad) = lab.release(&bob, "2.0");
    let orders = [lab.deploy(&alice, one, "all"), lab.deploy(&alice, two, "all")];
    let revocation = lab.revoke(&root, bob.public(), Some(good.version));
    apply(&mut store, &[good, bad, revocation]);
    apply(&mut store, &orders);
    let views = store.views();
    assert_eq!(views.orders.iter().map(|o| o.deployment.release).collect::<Vec<_>>(), [one]);
}

/// An operator that is revoked from some cell on has revoked nobody with a later one.
#[test]
fn r12_a_revoked_operators_revocations_are_void() {
    let (mut lab, node, _dir, mut store) = lab();
    let (root, alice) = (lab.root.clone(), lab.operator.clone());
    let good = lab.next(&alice.public());
    let spite = lab.revoke(&alice, node.id(), None);
    apply(&mut store, &[spite]);
    assert!(store.views().machine_of(&node.id()).is_none());
    let revocation = lab.revoke(&root, alice.public(), Some(good));
    apply(&mut store, &[revocation]);
    assert!(store.views().machine_of(&node.id()).is_some());
}

#[test]
fn r16_only_the_root_revokes_a_grant() {
    let (mut lab, node, _dir, mut store) = lab();
    let (root, alice, bob) = (lab.root.clone(), lab.operator.clone(), lab.publisher.clone());
    for by in [&alice, &bob, &node.key, &key(99)] {
        let cells = [lab.revoke(by, bob.public(), None), lab.revoke(by, root.public(), None)];
        apply(&mut store, &cells);
        assert!(store.views().revoked.is_empty());
    }
    let cell = lab.revoke(&root, bob.public(), None);
    apply(&mut store, &[cell]);
    assert!(store.views().revoked.contains_key(&bob.public()));
}

#[test]
fn r16_an_operator_revokes_nodes_and_invites() {
    let (mut lab, node, _dir, mut store) = lab();
    let (alice, bob) = (lab.operator.clone(), lab.publisher.clone());
    let invite = lab.invite(110, 2);
    let first = lab.node(&invite, 111, "n2");
    let cells = [invite.cell.clone(), lab.admit(&node.key, &first)];
    apply(&mut store, &cells);
    // a publisher and a member do not
    for by in [&bob, &node.key] {
        let cell = lab.revoke(by, first.id(), None);
        apply(&mut store, &[cell]);
        assert!(store.views().machine_of(&first.id()).is_some());
    }
    let cell = lab.revoke(&alice, invite.key.public(), None);
    apply(&mut store, &[cell]);
    let late = lab.node(&invite, 112, "n3");
    let cell = lab.admit(&node.key, &late);
    apply(&mut store, &[cell]);
    let views = store.views();
    assert!(views.machine_of(&first.id()).is_some(), "it was admitted before");
    assert_eq!(views.void.get(&late.id()), Some(&Refusal::Revoked));
    let cell = lab.revoke(&alice, first.id(), None);
    apply(&mut store, &[cell]);
    let views = store.views();
    assert!(views.machine_of(&first.id()).is_none());
    assert_eq!(views.why_not_cert(&first.cert, Hlc::at(LATER), false), Some(Refusal::Revoked));
}

/// The name of a revoked machine is free, also after everything was folded anew.
#[test]
fn a_revoked_machine_leaves_its_name() {
    let (mut lab, node, _dir, mut store) = lab();
    let alice = lab.operator.clone();
    let invite = lab.invite(110, 2);
    let early = lab.node(&invite, 111, "n1");
    let cells = [invite.cell.clone(), lab.admit(&alice, &early)];
    apply(&mut store, &cells);
    assert_eq!(store.views().void.get(&early.id()), Some(&Refusal::NameTaken));
    let heir = lab.node(&invite, 112, "n1");
    let cells = [lab.revoke(&alice, node.id(), None), lab.admit(&alice, &heir)];
    apply(&mut store, &cells);
    let views = store.views();
    assert_eq!(views.machine_named(&heir.cert.name).map(|m| m.node.0), Some(heir.id()));
    assert_eq!(views.why_not_cert(&early.cert, Hlc::at(LATER), false), Some(Refusal::NameTaken));
}

fn status() -> Status {
    Status {
        state: State::Installed,
        attempt: 1,
        detail: String::new(),
        reached: vec![],
        transfer: None,
    }
}

#[test]
fn r14_a_node_writes_only_of_itself() {
    let (mut lab, node, _dir, mut store) = lab();
    let (alice, bob) = (lab.operator.clone(), lab.publisher.clone());
    let views = store.views();
    let machine = views.machine_of(&node.id()).unwrap().id;
    let record = NodeRecord {
        addrs: vec![],
        version: "0.1.0".to_owned(),
        started: START,
        architecture: "amd64".to_owned(),
        needs: None,
        macs: vec![],
    };
    for (subject, good) in [(machine.as_bytes(), true), (&[9; 16], false)] {
        let cell = lab.write(&node.key, Kind::NODE_RECORD, subject, &record);
        assert_eq!(apply(&mut store, &[cell]) == [Outcome::Accepted], good);
    }
    // no power of an administrator writes of a machine
    for by in [&alice, &lab.root.clone(), &key(99)] {
        let cell = lab.write(by, Kind::NODE_RECORD, machine.as_bytes(), &record);
        assert!(is_held(&apply(&mut store, &[cell])[0]));
    }
    // a status: of a known order, under its own name
    let (id, release) = lab.release(&bob, "1.0");
    let order = lab.deploy(&alice, id, "all");
    let subject = [order.id.subject.as_slice(), &[0, 0]].concat();
    let write = |store: &mut Store, subject: &[u8], slot: &[u8]| {
        let write = Write { kind: Kind::STATUS, subject, slot, incarnation: LIFE };
        store.write(&node.key, write, &status(), LATER).is_ok()
    };
    assert!(!write(&mut store, &subject, machine.as_bytes()), "the order is not known yet");
    apply(&mut store, &[release, order]);
    assert!(write(&mut store, &subject, machine.as_bytes()));
    assert!(!write(&mut store, &subject, &[9; 16]));
    // and on the control plane it can admit, no more
    let cells = [
        lab.group(&node.key, "gpu", "n1"),
        lab.invite_by(&node.key, 120, 1).cell,
        lab.revoke(&node.key, alice.public(), None),
        lab.grant(node.id(), "n1", &[]),
    ];
    let outcomes = apply(&mut store, &cells[..3]);
    assert!(outcomes.iter().all(is_held), "{outcomes:?}");
}

#[test]
fn a_forged_cell_is_refused() {
    let (mut lab, _, _dir, mut store) = lab();
    let alice = lab.operator.clone();
    let good = lab.group(&alice, "gpu", "n1");
    for at in [2, 40, 50, 58, 64, 70, good.bytes().len() - 1] {
        let mut bytes = good.bytes().to_vec();
        bytes[at] ^= 1;
        let Ok(bad) = Cell::parse(bytes) else { continue };
        let outcome = &apply(&mut store, &[bad])[0];
        assert!(is_rejected(outcome), "byte {at}: {outcome:?}");
    }
    // signed by somebody else in the operator's name
    let mallory = key(99);
    let mut bytes = good.bytes().to_vec();
    let signature = mallory.sign(&good.signed_message(lab.cluster()));
    let end = bytes.len() - 64;
    bytes[end..].copy_from_slice(signature.as_bytes());
    assert!(is_rejected(&apply(&mut store, &[Cell::parse(bytes).unwrap()])[0]));
    assert!(store.views().groups.is_empty());
    let zero = lab.sign(
        &alice,
        (Kind(0x0300), b"x"),
        (Version { incarnation: 0, seq: 1 }, Hlc::at(START)),
        vec![],
    );
    assert!(is_rejected(&apply(&mut store, &[zero])[0]));
}

#[test]
fn truncated_and_oversize_cells_do_not_parse() {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let bytes = lab.group(&alice, "gpu", "n1").bytes().to_vec();
    for len in 0..bytes.len() {
        assert!(Cell::parse(bytes[..len].to_vec()).is_err(), "{len}");
    }
    let mut long = bytes.clone();
    long.push(0);
    assert!(Cell::parse(long).is_err());
    let mut claims = bytes;
    claims[62..64].copy_from_slice(&9000u16.to_be_bytes());
    claims.resize(20_000, 0);
    assert!(matches!(Cell::parse(claims), Err(CellError::TooLong { .. })));
    let payload = vec![0; limits::CELL_PAYLOAD + 1];
    let (_dir, mut store) = store(&lab);
    let write = Write { kind: Kind(0x8100), subject: b"", slot: b"", incarnation: 1 };
    assert!(store.write(&alice, write, &payload, LATER).is_err());
}

/// Payloads that are no record of their kind, with good signatures.
#[test]
fn a_payload_that_lies_about_its_subject_is_refused() {
    let (mut lab, _, _dir, mut store) = lab();
    let alice = lab.operator.clone();
    let group = Group::new(String::new(), None, None);
    let cells = [
        lab.write(&alice, Kind::GROUP, b"all", &group),
        lab.write(&alice, Kind::GROUP, b"no name!", &group),
        lab.write(&alice, Kind::GROUP, b"gpu", &7u8),
        lab.write(&alice, Kind::RELEASE, b"gpu", &group),
        lab.write(&alice, Kind::DEPLOYMENT, &[7; 16], &group),
    ];
    let outcomes = apply(&mut store, &cells);
    assert!(outcomes.iter().all(is_rejected), "{outcomes:?}");
    let deep = codec::encode(&0u8).map(|_| vec![0x81; 8000]).unwrap();
    let at = (lab.next(&alice.public()), lab.tick());
    let deep = lab.sign(&alice, (Kind::GROUP, b"gpu"), at, deep);
    assert!(is_rejected(&apply(&mut store, &[deep])[0]));
}

#[test]
fn a_cell_from_the_future_waits() {
    let (mut lab, _, _dir, mut store) = lab();
    let alice = lab.operator.clone();
    lab.clock = LATER.after(limits::FUTURE);
    let cell = lab.group(&alice, "gpu", "n1");
    for _ in 0..5 {
        assert!(is_held(&apply(&mut store, std::slice::from_ref(&cell))[0]));
    }
    assert_eq!(store.held(), 1, "offered five times, kept once");
    assert!(store.views().groups.is_empty());
    let soon = LATER.after(Duration::from_secs(2));
    assert!(store.apply(vec![], &[], soon).unwrap().is_empty());
    assert_eq!((store.held(), store.views().groups.len()), (0, 1));
}

/// Who floods the store with cells of keys that nobody knows fills a bounded space, from which the
/// oldest give way.
#[test]
fn the_quarantine_is_bounded() {
    let (mut lab, _, _dir, mut store) = lab();
    let flood: Vec<Cell> = (0..1500u16)
        .map(|n| {
            let stranger = key(3000 + n % 7);
            lab.write(&stranger, Kind::GROUP, format!("g{n}").as_bytes(), &0u8)
        })
        .collect();
    drop(apply(&mut store, &flood));
    // these payloads are no groups: refused at once, not kept
    assert_eq!(store.held(), 0);
    let flood: Vec<Cell> =
        (0..1500u16).map(|n| lab.group(&key(3000 + n % 7), &format!("g{n}"), "n1")).collect();
    for batch in flood.chunks(100) {
        assert!(apply(&mut store, batch).iter().all(is_held));
        assert!(store.held() <= 1024);
    }
    // a cell that comes now is kept, and enters when what it depends on is here
    let erin = key(52);
    let late = lab.group(&erin, "late", "n1");
    assert!(is_held(&apply(&mut store, &[late])[0]));
    let grant = lab.grant(erin.public(), "erin", &[Role::Operator]);
    let before = lab.clock;
    apply(&mut store, &[grant]);
    assert_eq!(store.held(), 1023);
    assert!(before > START && store.control(&flood[0].id).is_none());
}

/// R13: two cells of one number, whether of one place or of two.
#[test]
fn r13_equivocation_is_proved_and_merged_alike() {
    for same_place in [true, false] {
        let mut digests = Vec::new();
        for turned in [false, true] {
            let (mut lab, _, dir, mut store) = lab();
            let alice = lab.operator.clone();
            let at = (lab.next(&alice.public()), lab.tick());
            let places: [&[u8]; 2] = if same_place { [b"x", b"x"] } else { [b"x", b"y"] };
            let mut twins: Vec<Cell> = [1u8, 2]
                .iter()
                .zip(places)
                .map(|(n, place)| lab.sign(&alice, (Kind(0x0300), place), at, vec![*n]))
                .collect();
            if turned {
                twins.reverse();
            }
            for cell in &twins {
                apply(&mut store, std::slice::from_ref(cell));
            }
            assert_eq!(store.views().equivocators, [alice.public()].into());
            let (a, b) = store.twins(&alice.public()).unwrap();
            assert_eq!([a, b], [&twins[0], &twins[1]]);
            digests.push(store.digest());
            drop(store);
            let store = Store::open(&dir.path().join("store.redb"), lab.roots.clone()).unwrap();
            assert_eq!(store.views().equivocators, [alice.public()].into());
            assert!(store.views().roles(&alice.public(), Hlc::at(LATER)).contains(&Role::Operator));
        }
        assert_eq!(digests[0], digests[1]);
    }
}

/// R14: not even of a kind that this version does not know may a node write of another machine.
#[test]
fn r14_cells_of_a_later_version_are_of_their_author_too() {
    let (mut lab, node, _dir, mut store) = lab();
    let foreign = lab.write(&node.key, Kind(0x8777), b"somebody else", &"?");
    assert!(matches!(apply(&mut store, &[foreign])[0], Outcome::Rejected(_)));
}

/// A grant that replaces another acts forward only.
#[test]
fn what_was_done_under_an_earlier_grant_stands() {
    let (mut lab, node, _dir, mut store) = lab();
    let alice = lab.operator.clone();
    let group = lab.group(&alice, "gpu", "n1");
    apply(&mut store, std::slice::from_ref(&group));
    let before = store.views();
    let less = lab.regrant(alice.public(), "alice", &[Role::Publisher]);
    assert_eq!(apply(&mut store, std::slice::from_ref(&less)), [Outcome::Accepted]);
    let after = store.views();
    assert!(after.machine_of(&node.key.public()).is_some(), "admissions outlive the grant");
    assert_eq!(after.groups.len(), before.groups.len());
    assert_eq!(after.roles(&alice.public(), Hlc::at(LATER)), [Role::Publisher]);
    let late = lab.group(&alice, "late", "n1");
    apply(&mut store, std::slice::from_ref(&late));
    assert!(!store.views().groups.contains_key(&"late".parse().unwrap()), "no power any more");
}

/// What a later version writes is kept byte for byte, counted, and passed on.
#[test]
fn cells_of_a_later_version_are_kept_and_passed_on() {
    let (mut lab, node, _dir, mut first) = lab();
    let (_dir2, mut second) = store(&lab);
    let alice = lab.operator.clone();
    let kind = lab.write(&alice, Kind(0x0777), b"tomorrow", &"?");
    let format = lab.group(&alice, "gpu", "n1");
    let format = lab.in_format(&alice, &format, 9);
    let member = lab.write(&node.key, Kind(0x0778), b"tomorrow", &"?");
    let machine = first.views().machine_of(&node.key.public()).unwrap().id;
    let subject = machine.as_bytes().as_slice();
    let data = lab.write(&node.key, Kind(0x8777), subject, &"?");
    let all = [kind, format, member, data];
    assert!(apply(&mut first, &all).iter().all(|o| *o == Outcome::Accepted));
    assert_eq!(first.views().unknown, 3);
    let difference = dht_store::sync::compare(&second.heads(), &first.heads());
    let (cells, covered) = first.select(&difference.pull, 1 << 20);
    second.apply(cells, &covered, LATER).unwrap();
    assert_eq!(second.digest(), first.digest());
    assert_eq!(second.views().unknown, 3);
    for cell in &all[..3] {
        assert_eq!(second.control(&cell.id).unwrap().bytes(), cell.bytes());
    }
    let data = first.data(Kind(0x8777), subject).unwrap();
    assert_eq!(data, [all[3].clone()]);
    assert!(apply(&mut second, &data).contains(&Outcome::Accepted));
    assert_eq!(second.data(Kind(0x8777), subject).unwrap(), data);
}
