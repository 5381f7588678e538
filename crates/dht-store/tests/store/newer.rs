//! Records of a newer version: who depends on them waits, nobody else, and nobody can make others
//! wait who has not the power.

use dht_store::Outcome;
use p2pinst_trust::SecretKey;
use p2pinst_trust::fixture::{Lab, Node, name};
use p2pinst_types::cell::Draft;
use p2pinst_types::{Cell, CellId, DeploymentId, Hash, Kind, ReleaseId, Version};
use serde::Serialize;

use crate::world::{apply, seen, store};

#[derive(Serialize)]
struct Tomorrow<'a> {
    beside: u8,
    needs: &'a str,
}

fn newer(lab: &mut Lab, by: &SecretKey, kind: Kind, subject: &[u8], needs: &str) -> Cell {
    let cell = lab.write(by, kind, subject, &Tomorrow { beside: 1, needs });
    lab.in_format(by, &cell, 2)
}

/// A cluster with two members and everybody's first cells.
fn lab() -> (Lab, [Node; 2], Vec<Cell>) {
    let mut lab = Lab::default();
    let invite = lab.invite(100, 2);
    let nodes = [lab.node(&invite, 101, "n1"), lab.node(&invite, 102, "n2")];
    let alice = lab.operator.clone();
    let mut cells = vec![lab.operator_grant.clone(), lab.publisher_grant.clone(), invite.cell];
    cells.extend(nodes.iter().map(|n| lab.admit(&alice, n)));
    (lab, nodes, cells)
}

#[test]
fn an_order_of_an_unreadable_release_waits() {
    let (mut lab, nodes, mut cells) = lab();
    let (alice, bob) = (lab.operator.clone(), lab.publisher.clone());
    cells.push(lab.group(&alice, "some", "n2"));
    let release = ReleaseId(Hash([7; 32]));
    let signed = newer(&mut lab, &bob, Kind::RELEASE, release.0.as_bytes(), "0.9");
    let order = lab.deploy(&alice, release, "some");
    let id = DeploymentId::from_slice(&order.id.subject).unwrap();
    cells.extend([signed, order]);
    let (_d, mut store) = store(&lab);
    apply(&mut store, &cells);
    let views = store.views();
    let machine = |n: &Node| views.machine_of(&n.id()).unwrap();
    assert!(views.orders.is_empty() && views.deployment(&id).is_some());
    let waiting: Vec<_> = views.waiting_of(machine(&nodes[1])).collect();
    assert_eq!(waiting, [(id, "0.9")]);
    assert_eq!(views.needs_of(machine(&nodes[1])).as_deref(), Some("0.9"));
    assert_eq!(views.needs_of(machine(&nodes[0])), None, "it is not in the group");
    // its members may tell of it, and nobody else
    let slot = machine(&nodes[1]).id;
    let place = CellId {
        kind: Kind::STATUS,
        subject: p2pinst_types::shard::status_subject(&id, 0),
        slot: slot.as_bytes().to_vec(),
        author: nodes[1].id(),
    };
    let version = Version { incarnation: 1, seq: 1 };
    let draft = Draft { id: place, version, hlc: lab.tick(), payload: vec![0xf6] };
    let told = draft.sign(lab.cluster(), |m| nodes[1].key.sign(m)).unwrap();
    assert_eq!(apply(&mut store, &[told]), [Outcome::Accepted]);
}

#[test]
fn only_who_has_the_power_makes_others_wait() {
    let (mut lab, nodes, mut cells) = lab();
    let (alice, bob) = (lab.operator.clone(), lab.publisher.clone());
    let (release, cell) = lab.release(&bob, "1.0");
    cells.extend([lab.group(&alice, "some", "n2"), cell, lab.deploy(&alice, release, "some")]);
    let (_d, mut store) = store(&lab);
    apply(&mut store, &cells);
    let waits = |store: &dht_store::Store| {
        let views = store.views();
        let machine = views.machine_of(&nodes[1].id()).unwrap();
        views.needs_of(machine)
    };
    // a member, and a publisher who is no operator
    for by in [&nodes[0].key, &bob] {
        let cell = newer(&mut lab, by, Kind::GROUP, b"some", "9");
        assert_eq!(apply(&mut store, &[cell]), [Outcome::Accepted]);
        assert_eq!(waits(&store), None);
    }
    let early = newer(&mut lab, &alice, Kind::GROUP, b"other", "9");
    let cell = newer(&mut lab, &alice, Kind::GROUP_EDIT, b"some", "0.10");
    apply(&mut store, &[early, cell]);
    assert_eq!(waits(&store).as_deref(), Some("0.10"));
    assert_eq!(store.views().group_needs(&name("some")), Some("0.10"));
    // a later definition that can be read
    let cell = lab.group(&alice, "some", "n2");
    apply(&mut store, &[cell]);
    assert_eq!(waits(&store), None);
}

#[test]
fn a_record_that_does_not_say_what_it_needs_needs_something() {
    let (mut lab, _, mut cells) = lab();
    let alice = lab.operator.clone();
    cells.push(lab.group(&alice, "some", "n2"));
    let cell = lab.write(&alice, Kind::GROUP, b"some", &"no map at all");
    cells.push(lab.in_format(&alice, &cell, 9));
    let (_d, mut store) = store(&lab);
    apply(&mut store, &cells);
    assert_eq!(store.views().group_needs(&name("some")), Some("?"));
    let long = "9".repeat(100);
    let odd = newer(&mut lab, &alice, Kind::GROUP, b"some", &long);
    apply(&mut store, &[odd]);
    assert_eq!(store.views().group_needs(&name("some")), Some("?"));
}

#[test]
fn a_node_has_a_share_of_unknown_records() {
    let (mut lab, nodes, cells) = lab();
    let (_d, mut store) = store(&lab);
    apply(&mut store, &cells);
    let alice = lab.operator.clone();
    let unknown = |lab: &mut Lab, by: &SecretKey, n: u16| {
        lab.write(by, Kind(0x0700), &n.to_be_bytes(), &Tomorrow { beside: 0, needs: "9" })
    };
    let many: Vec<Cell> = (0..256).map(|n| unknown(&mut lab, &nodes[0].key, n)).collect();
    assert!(apply(&mut store, &many).iter().all(|o| *o == Outcome::Accepted));
    let beyond = unknown(&mut lab, &nodes[0].key, 256);
    assert!(
        matches!(&apply(&mut store, &[beyond])[0], Outcome::Rejected(why) if why.contains("share"))
    );
    // a newer version of one that is there, and others' cells, have room
    let again = unknown(&mut lab, &nodes[0].key, 3);
    let other = unknown(&mut lab, &nodes[1].key, 0);
    assert_eq!(apply(&mut store, &[again, other]), [Outcome::Accepted, Outcome::Accepted]);
    let theirs: Vec<Cell> = (0..300).map(|n| unknown(&mut lab, &alice, n)).collect();
    assert!(apply(&mut store, &theirs).iter().all(|o| *o == Outcome::Accepted));
    assert!(store.views().unknown == 557 && seen(&store).contains("557 unknown"));
}
