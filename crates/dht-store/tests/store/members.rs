//! Names, labels, removals and new roots: what the views make of them, whatever comes first.

use std::collections::BTreeMap;

use dht_store::{Outcome, Store};
use p2pinst_trust::Refusal;
use p2pinst_trust::fixture::{Invited, LIFE, Lab, Node, START, key, name};
use p2pinst_types::cell::Draft;
use p2pinst_types::record::{LabelEdit, MachineName, NodeRecord, Role};
use p2pinst_types::{Cell, CellId, Hlc, Kind, MachineId, Millis, Version, codec, limits};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::world::{LATER, apply, seen, store};

/// A cluster with an operator, an invite and some machines n1, n2 …
struct World {
    lab: Lab,
    invite: Invited,
    nodes: Vec<Node>,
    cells: Vec<Cell>,
}

fn world(machines: u16) -> World {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let invite = lab.invite(100, 50);
    let mut cells =
        vec![lab.operator_grant.clone(), lab.publisher_grant.clone(), invite.cell.clone()];
    let nodes: Vec<Node> =
        (1..=machines).map(|n| lab.node(&invite, 100 + n, &format!("n{n}"))).collect();
    cells.extend(nodes.iter().map(|n| lab.admit(&alice, n)));
    World { lab, invite, nodes, cells }
}

impl World {
    fn store(&self) -> (TempDir, Store) {
        let (dir, mut store) = store(&self.lab);
        let outcomes = apply(&mut store, &self.cells);
        assert!(outcomes.iter().all(|o| *o == Outcome::Accepted), "{outcomes:?}");
        (dir, store)
    }

    /// What the machines are called once all of these are known.
    fn names(&self, more: &[Cell]) -> Vec<String> {
        let (_dir, mut store) = self.store();
        apply(&mut store, more);
        let views = store.views();
        let named = |n: &Node| views.machine_of(&n.id()).map(|m| m.name.to_string());
        self.nodes.iter().map(|n| named(n).unwrap_or_default()).collect()
    }
}

/// A cell of any author at any time.
fn cell_at<T: serde::Serialize>(
    lab: &mut Lab,
    by: &p2pinst_trust::SecretKey,
    (kind, subject, slot): (Kind, &[u8], Vec<u8>),
    hlc: Hlc,
    record: &T,
) -> Cell {
    let id = CellId { kind, subject: subject.to_vec(), slot, author: by.public() };
    let (version, payload) = (lab.next(&by.public()), codec::encode(record).unwrap());
    Draft { id, version, hlc, payload }.sign(lab.cluster(), |m| by.sign(m)).unwrap()
}

fn labels_of(store: &Store, node: &Node) -> BTreeMap<String, String> {
    let views = store.views();
    let labels = &views.machine_of(&node.id()).unwrap().labels;
    labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

#[test]
fn the_newest_edit_of_a_label_counts() {
    let mut world = world(1);
    let (_dir, mut store) = world.store();
    let lab = &mut world.lab;
    let (alice, bob, dora) = (lab.operator.clone(), lab.publisher.clone(), key(51));
    let n1 = world.nodes[0].machine();
    let grant = lab.grant(dora.public(), "dora", &[Role::Operator]);
    let first = lab.label(&alice, &n1, "gpu", Some("a100"));
    let second = lab.label(&dora, &n1, "gpu", Some("h100"));
    let gone = lab.label(&alice, &n1, "rack", None);
    let before = lab.label(&dora, &n1, "os", Some(""));
    // of nobody with the power, and of what is no label
    let by_publisher = lab.label(&bob, &n1, "gpu", Some("none"));
    let reserved = lab.label(&alice, &n1, "site", Some("roof"));
    let all = [second, gone, by_publisher, grant, reserved, first, before];
    assert!(matches!(apply(&mut store, &all)[4], Outcome::Rejected(_)));
    let labels = labels_of(&store, &world.nodes[0]);
    assert_eq!(labels, [("gpu", "h100"), ("os", "")].map(|(k, v)| (k.into(), v.into())).into());
    let gone = world.lab.label(&alice, &n1, "gpu", None);
    apply(&mut store, &[gone]);
    assert_eq!(labels_of(&store, &world.nodes[0]).len(), 1);
}

#[test]
fn of_two_edits_of_one_time_the_removal_wins() {
    for values in [[Some("a"), None], [None, Some("a")], [Some("a"), Some("b")]] {
        let mut seen = Vec::new();
        for turned in [false, true] {
            let mut world = world(1);
            let (_dir, mut store) = world.store();
            let lab = &mut world.lab;
            let dora = key(51);
            let grant = lab.grant(dora.public(), "dora", &[Role::Operator]);
            let (by, n1, hlc) =
                ([lab.operator.clone(), dora], world.nodes[0].machine(), lab.tick());
            let mut edits: Vec<Cell> = by
                .iter()
                .zip(values)
                .map(|(by, value)| {
                    let value = value.map(|v| v.to_owned().try_into().unwrap());
                    let edit = LabelEdit { key: name("gpu"), value };
                    let place = (Kind::LABEL, n1.as_bytes().as_slice(), LabelEdit::slot(&edit.key));
                    cell_at(lab, by, place, hlc, &edit)
                })
                .collect();
            if turned {
                edits.reverse();
            }
            apply(&mut store, &[grant]);
            edits.iter().for_each(|e| drop(apply(&mut store, std::slice::from_ref(e))));
            seen.push(labels_of(&store, &world.nodes[0]));
        }
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].is_empty(), values.contains(&None), "{values:?}");
    }
}

#[test]
fn labels_are_bounded_and_the_elder_stay() {
    let mut world = world(1);
    let (_dir, mut store) = world.store();
    let (alice, n1) = (world.lab.operator.clone(), world.nodes[0].machine());
    let label = |lab: &mut Lab, n: usize, value| lab.label(&alice, &n1, &format!("k{n:02}"), value);
    let cells: Vec<Cell> =
        (0..=limits::LABELS).rev().map(|n| label(&mut world.lab, n, Some("x"))).collect();
    apply(&mut store, &cells);
    let labels = labels_of(&store, &world.nodes[0]);
    assert_eq!(labels.len(), limits::LABELS);
    assert!(!labels.contains_key("k00"), "the last to come has no room");
    let gone = label(&mut world.lab, 7, None);
    apply(&mut store, &[gone]);
    let labels = labels_of(&store, &world.nodes[0]);
    assert!(labels.contains_key("k00") && !labels.contains_key("k07"));
}

#[test]
fn a_name_belongs_to_the_first_that_gets_it() {
    let mut world = world(3);
    let alice = world.lab.operator.clone();
    let [n1, n2, n3] = [0, 1, 2].map(|i| world.nodes[i].machine());
    let lab = &mut world.lab;
    let first = lab.rename(&alice, &n1, "x");
    let second = lab.rename(&alice, &n2, "x");
    let swap = lab.rename(&alice, &n3, "n1");
    let all = [swap, second.clone(), first.clone()];
    assert_eq!(world.names(&all), ["x", "n2", "n1"]);
    assert_eq!(world.names(&[second]), ["n1", "x", "n3"], "before the earlier is known");
    // by nobody with the power
    let publisher = world.lab.publisher.clone();
    let node = world.nodes[0].key.clone();
    let theirs = [publisher, node].map(|by| world.lab.rename(&by, &n1, "y"));
    assert_eq!(world.names(&theirs), ["n1", "n2", "n3"]);
    // and to what it is called already
    let same = world.lab.rename(&alice, &n1, "n1");
    assert_eq!(world.names(&[same]), ["n1", "n2", "n3"]);
}

/// A machine joins under a name that was renamed away, and stays when the other is renamed again.
#[test]
fn a_name_that_was_renamed_away_is_free() {
    let mut world = world(2);
    let (_dir, mut store) = world.store();
    let (alice, n1) = (world.lab.operator.clone(), world.nodes[0].machine());
    let lab = &mut world.lab;
    let early = lab.node(&world.invite, 150, "n1");
    let refused = store.views().why_not_cert(&early.cert, Hlc::at(LATER), false);
    assert_eq!(refused, Some(Refusal::NameTaken));
    let away = lab.rename(&alice, &n1, "x");
    apply(&mut store, &[away]);
    assert_eq!(store.views().why_not_cert(&early.cert, Hlc::at(LATER), false), None);
    let heir = lab.admit(&world.nodes[1].key, &early);
    let again = lab.rename(&alice, &n1, "y");
    let back = lab.rename(&alice, &n1, "n1");
    assert!(apply(&mut store, &[heir, again, back]).iter().all(|o| *o == Outcome::Accepted));
    let views = store.views();
    assert_eq!(views.machine_named(&name("n1")).map(|m| m.node.0), Some(early.id()));
    assert_eq!(views.machine_named(&name("y")).map(|m| m.id), Some(n1));
    assert!(views.machine_named(&name("x")).is_none());
    // a machine that is removed leaves its later name, and the first it had is free as before
    let removal = world.lab.revoke(&alice, world.nodes[0].id(), None);
    apply(&mut store, &[removal]);
    assert!(store.views().machine_named(&name("y")).is_none());
    let heir = world.lab.node(&world.invite, 151, "y");
    assert_eq!(store.views().why_not_cert(&heir.cert, Hlc::at(LATER), false), None);
    // a rename of one that is gone does nothing
    let ghost = world.lab.rename(&alice, &n1, "z");
    apply(&mut store, &[ghost]);
    assert!(store.views().machine_named(&name("z")).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Renames and joins by two operators on two sides of a partition: whatever comes first, every
    /// node sees the same names, no two machines have one name, and every machine has one that it
    /// was given.
    #[test]
    fn names_are_a_pure_function_of_the_cells(
        steps in prop::collection::vec((0usize..2, 0usize..4, 0u8..5), 1..12),
        order in any::<u64>(),
    ) {
        let mut world = world(4);
        let operators = [world.lab.operator.clone(), key(51)];
        let lab = &mut world.lab;
        let mut cells = vec![lab.grant(operators[1].public(), "dora", &[Role::Operator])];
        for (by, machine, to) in &steps {
            let id = world.nodes[*machine].machine();
            cells.push(lab.rename(&operators[*by], &id, &format!("n{to}")));
        }
        let expected = world.names(&cells);
        let mut shuffled = cells.clone();
        let n = shuffled.len();
        let mut state = order;
        for i in (1..n).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
        }
        let (_dir, mut other) = world.store();
        shuffled.iter().for_each(|c| drop(apply(&mut other, std::slice::from_ref(c))));
        let views = other.views();
        let names: Vec<String> = world
            .nodes
            .iter()
            .map(|n| views.machine_of(&n.id()).unwrap().name.to_string())
            .collect();
        prop_assert_eq!(&names, &expected);
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        prop_assert_eq!(unique.len(), names.len());
        for (i, given) in names.iter().enumerate() {
            let asked = steps.iter().any(|(_, m, to)| *m == i && *given == format!("n{to}"));
            let first = format!("n{}", i + 1);
            prop_assert!(asked || *given == first);
            prop_assert_eq!(views.machine_named(&name(given)).map(|m| m.id), Some(world.nodes[i].machine()));
        }
    }
}

fn record_at(lab: &mut Lab, node: &Node, at: Hlc) -> Cell {
    let record = NodeRecord {
        addrs: vec![],
        version: "0.1.0".to_owned(),
        started: START,
        architecture: "amd64".to_owned(),
        needs: None,
        macs: vec![],
    };
    let machine: MachineId = node.machine();
    let place = (Kind::NODE_RECORD, machine.as_bytes().as_slice(), Vec::new());
    cell_at(lab, &node.key, place, at, &record)
}

/// What a node wrote of itself before it was removed stands, also where it arrives later.
#[test]
fn r16_what_a_removed_node_writes_later_is_refused() {
    let mut world = world(2);
    let (_dir, mut store) = world.store();
    let alice = world.lab.operator.clone();
    let node = world.nodes[0].clone();
    let lab = &mut world.lab;
    let before = lab.tick();
    let removal = lab.revoke(&alice, node.id(), None);
    let after = lab.tick();
    apply(&mut store, &[removal]);
    let good = record_at(lab, &node, before);
    let bad = record_at(lab, &node, after);
    assert_eq!(apply(&mut store, std::slice::from_ref(&good)), [Outcome::Accepted]);
    let Outcome::Rejected(why) = &apply(&mut store, std::slice::from_ref(&bad))[0] else {
        panic!()
    };
    assert!(why.contains("removed"), "{why}");
    assert_eq!(store.vet(vec![good.clone(), bad], LATER), std::slice::from_ref(&good));
    // never of another machine, also not before
    let mut other = world.nodes[1].clone();
    other.key = node.key.clone();
    let foreign = record_at(&mut world.lab, &other, before);
    assert!(matches!(apply(&mut store, &[foreign])[0], Outcome::Rejected(_)));
    let views = store.views();
    assert_eq!(views.removal(&node.id()).map(|r| r.cell.id.author), Some(alice.public()));
    assert_eq!(views.removal(&world.nodes[1].id()), None);
}

#[test]
fn r16_a_node_revokes_itself_only() {
    let mut world = world(3);
    let (_dir, mut store) = world.store();
    let nodes = world.nodes.clone();
    let lab = &mut world.lab;
    let alice = lab.operator.clone();
    for victim in [nodes[1].id(), alice.public(), lab.root.public(), world.invite.key.public()] {
        let spite = lab.revoke(&nodes[0].key, victim, None);
        assert!(matches!(apply(&mut store, &[spite])[0], Outcome::Held(_)));
    }
    // nor does a stranger, or an invite's key, leave what it is not in
    for stranger in [key(99), world.invite.key.clone()] {
        let spite = lab.revoke(&stranger, stranger.public(), None);
        assert!(matches!(apply(&mut store, &[spite])[0], Outcome::Held(_)));
    }
    assert!(store.views().revoked.is_empty());
    let farewell = lab.revoke(&nodes[0].key, nodes[0].id(), None);
    assert_eq!(apply(&mut store, &[farewell]), [Outcome::Accepted]);
    let views = store.views();
    assert!(views.machine_of(&nodes[0].id()).is_none());
    assert_eq!((views.machines.len(), views.former.len()), (2, 1));
    assert_eq!(views.why_not_cert(&nodes[0].cert, Hlc::at(LATER), false), Some(Refusal::Revoked));
}

/// A node that dates its farewell back does not take those with it whom it admitted, and one that
/// was removed cannot say that it left before.
#[test]
fn r16_a_farewell_takes_nothing_back() {
    let mut world = world(1);
    let (_dir, mut store) = world.store();
    let first = world.nodes[0].clone();
    let lab = &mut world.lab;
    let alice = lab.operator.clone();
    let guest = lab.node(&world.invite, 150, "guest");
    let admission = lab.admit(&first.key, &guest);
    let record = p2pinst_types::record::Revocation {
        key: first.id(),
        last_good: Some(Version { incarnation: LIFE, seq: 0 }),
        reason: String::new(),
    };
    let place = (Kind::REVOCATION, first.id().0, Vec::new());
    let place = (place.0, place.1.as_slice(), place.2);
    let early = cell_at(lab, &first.key, place, Hlc::at(Millis(1)), &record);
    apply(&mut store, &[admission, early]);
    let views = store.views();
    assert!(views.machine_of(&first.id()).is_none());
    assert!(views.machine_of(&guest.id()).is_some(), "what it did stands");
    let removal = lab.revoke(&alice, first.id(), None);
    let at = removal.hlc;
    apply(&mut store, &[removal]);
    assert_eq!(store.views().removal(&first.id()).map(|r| r.at), Some(at));
}

/// Of two revocations of one author the later does not give time back.
#[test]
fn r12_a_second_revocation_does_not_replace_the_first() {
    let mut world = world(1);
    let (_dir, mut store) = world.store();
    let lab = &mut world.lab;
    let (alice, node) = (lab.operator.clone(), world.nodes[0].id());
    let record = |reason: &str| p2pinst_types::record::Revocation {
        key: node,
        last_good: None,
        reason: reason.to_owned(),
    };
    let first = lab.write_in(&alice, (Kind::REVOCATION, node.as_bytes(), None), &record("a"));
    let again = lab.write_in(&alice, (Kind::REVOCATION, node.as_bytes(), None), &record("b"));
    apply(&mut store, &[first, again]);
    assert_eq!(store.views().removal(&node).map(|r| r.reason.as_str()), Some("a"));
}

/// A machine name that is filed under no time would replace the one before it.
#[test]
fn a_name_is_filed_under_its_time() {
    let mut world = world(1);
    let (_dir, mut store) = world.store();
    let (alice, n1) = (world.lab.operator.clone(), world.nodes[0].machine());
    let record = MachineName { name: name("x") };
    let bad = world.lab.write(&alice, Kind::MACHINE_NAME, n1.as_bytes(), &record);
    assert!(matches!(apply(&mut store, &[bad])[0], Outcome::Rejected(_)));
}

/// R12: the root is replaced because its key may be stolen. The thief goes on granting.
#[test]
fn r12_a_former_root_key_gives_no_power() {
    let mut world = world(1);
    let (_dir, mut store) = world.store();
    let lab = &mut world.lab;
    let (alice, bob) = (lab.operator.clone(), lab.publisher.clone());
    let (one, release) = lab.release(&bob, "1.0");
    let order = lab.deploy(&alice, one, "all");
    apply(&mut store, &[release, order]);
    let thief = lab.clone();
    let old = lab.root.clone();
    let grants = [lab.operator_grant.clone(), lab.publisher_grant.clone()];
    let list = lab.rotate(90, &grants.iter().collect::<Vec<_>>());
    let mallory = key(54);
    let power = [Role::Operator, Role::Publisher];
    let mut stolen = thief.clone();
    let mut grab = vec![stolen.grant(mallory.public(), "mallory", &power)];
    // also dated back, to before the rotation, and to the numbers of good grants
    let mut early = thief;
    early.clock = START;
    grab.push(early.grant(mallory.public(), "mallory2", &power));
    let mut fresh = Lab::default();
    grab.push(fresh.grant(mallory.public(), "mallory3", &power));
    let before = store.views().orders.len();
    apply(&mut store, &grab[..1]);
    assert!(store.views().grants.contains_key(&mallory.public()), "as long as nobody knows");
    assert!(store.extend_roots(lab.roots.signed()).unwrap());
    assert_eq!(store.views().root_in_force, 1, "the list is not here yet");
    assert_eq!(apply(&mut store, &[list]), [Outcome::Accepted]);
    apply(&mut store, &grab);
    let views = store.views();
    assert_eq!((views.root_in_force, views.orders.len()), (2, before));
    assert!(!views.grants.contains_key(&mallory.public()));
    assert_eq!(views.machines.len(), 1, "members stay, and operators");
    assert!(views.roles(&alice.public(), Hlc::at(LATER)).contains(&Role::Operator));
    let (two, release) = lab.release(&mallory, "2.0");
    let cells = [release, lab.deploy(&mallory, two, "all"), lab.deploy(&alice, two, "all")];
    apply(&mut store, &cells);
    assert_eq!(store.views().orders.len(), before);
    // the new root gives power; the old one takes none away
    let erin = key(52);
    let cells = [
        lab.grant(erin.public(), "erin", &[Role::Operator]),
        lab.deploy(&erin, one, "all"),
        lab.revoke(&old, bob.public(), None),
    ];
    apply(&mut store, &cells);
    let views = store.views();
    assert_eq!(views.orders.len(), before + 1);
    assert!(views.roles(&bob.public(), Hlc::at(LATER)).contains(&Role::Publisher));
    // nor a membership, also as an operator would
    let cell = lab.revoke(&old, world.nodes[0].id(), None);
    assert!(!store.views().may_revoke(&cell, &world.nodes[0].id()));
    apply(&mut store, &[cell]);
    assert_eq!(store.views().machines.len(), 1);
}

/// R12: what the root has revoked stays revoked through any number of rotations; what the thief of
/// a former key revokes, however dated, does not count.
#[test]
fn r12_a_rotation_keeps_revocations() {
    let mut world = world(2);
    let (_dir, mut store) = world.store();
    let lab = &mut world.lab;
    let (bob, old) = (lab.publisher.clone(), lab.root.clone());
    let (one, two) = (world.nodes[0].id(), world.nodes[1].id());
    let mut early = lab.clone();
    let good = [lab.revoke(&old, bob.public(), None), lab.revoke(&old, one, None)];
    apply(&mut store, &good);
    early.clock = START;
    let bad = [early.revoke(&old, lab.operator.public(), None), early.revoke(&old, two, None)];
    for n in [90, 91] {
        let grants =
            store.views().grants.values().flat_map(|g| g.cells().cloned()).collect::<Vec<_>>();
        let revoked: Vec<Cell> = store.views().root_revocations().cloned().collect();
        assert_eq!(revoked.len(), 2);
        let list = lab.rotate(n, &grants.iter().chain(&revoked).collect::<Vec<_>>());
        store.extend_roots(lab.roots.signed()).unwrap();
        apply(&mut store, &[list]);
        apply(&mut store, &bad);
        let views = store.views();
        assert_eq!(views.root_in_force, u64::from(n) - 88);
        assert_eq!(views.revoked.keys().count(), 2);
        assert!(views.roles(&bob.public(), Hlc::at(LATER)).is_empty());
        assert!(views.machine_of(&one).is_none() && views.machine_of(&two).is_some());
    }
}

/// Whoever forges a list, or holds back the real one, changes nothing.
#[test]
fn r12_a_list_counts_only_when_the_root_names_it() {
    let mut world = world(1);
    let (_dir, mut store) = world.store();
    let lab = &mut world.lab;
    let old = lab.root.clone();
    let mallory = key(54);
    let grab = lab.grant(mallory.public(), "mallory", &[Role::Operator]);
    let grants = [lab.operator_grant.clone(), lab.publisher_grant.clone()];
    let list = lab.rotate(90, &grants.iter().collect::<Vec<_>>());
    let mut forged: p2pinst_types::record::Standing = list.record().unwrap();
    forged.grants.insert(grab.hash());
    let payload = codec::encode(&forged).unwrap();
    let id = p2pinst_types::record::Standing::id(&payload);
    let forged_cell = lab.write(&old, Kind::STANDING, id.0.as_slice(), &forged);
    // under the name of the real one
    let lie = lab.write(&old, Kind::STANDING, &list.id.subject, &forged);
    store.extend_roots(lab.roots.signed()).unwrap();
    let outcomes = apply(&mut store, &[grab, forged_cell, lie]);
    assert!(matches!(outcomes[2], Outcome::Rejected(_)), "{outcomes:?}");
    assert_eq!(store.views().root_in_force, 1);
    // a stranger may not file any
    let by_stranger = lab.write(
        &key(99),
        Kind::STANDING,
        &list.id.subject,
        &list.record::<p2pinst_types::record::Standing>().unwrap(),
    );
    assert!(matches!(apply(&mut store, &[by_stranger])[0], Outcome::Held(_)));
    apply(&mut store, &[list]);
    let views = store.views();
    assert_eq!(views.root_in_force, 2);
    assert!(!views.grants.contains_key(&mallory.public()) && views.grants.len() == 2);
}

/// A node that slept through two rotations: whatever reaches it first, its cluster is its cluster
/// all the time, and in the end it sees what the others see.
#[test]
fn a_sleeper_never_takes_its_own_cluster_for_strangers() {
    let mut world = world(3);
    let (_awake, mut awake) = world.store();
    let (_sleeper, mut sleeper) = world.store();
    let lab = &mut world.lab;
    let grants = [lab.operator_grant.clone(), lab.publisher_grant.clone()];
    let first = lab.rotate(90, &grants.iter().collect::<Vec<_>>());
    let dora = key(51);
    let hers = lab.grant(dora.public(), "dora", &[Role::Operator]);
    let all: Vec<&Cell> = grants.iter().chain([&hers]).collect();
    let second = lab.rotate(91, &all);
    let group = lab.group(&dora, "new", "n1");
    awake.extend_roots(lab.roots.signed()).unwrap();
    apply(&mut awake, &[first.clone(), hers.clone(), second.clone(), group.clone()]);
    assert_eq!(awake.views().root_in_force, 3);
    let roots = lab.roots.clone();
    let check = |store: &Store| {
        assert_eq!(store.views().machines.len(), 3);
        assert_eq!(
            store.views().grants.len()
                - usize::from(store.views().grants.contains_key(&dora.public())),
            2
        );
    };
    sleeper.extend_roots(roots.signed()).unwrap();
    check(&sleeper);
    for cell in [&group, &second, &hers, &first] {
        apply(&mut sleeper, std::slice::from_ref(cell));
        check(&sleeper);
    }
    assert_eq!(seen(&sleeper), seen(&awake));
    assert_eq!(sleeper.digest(), awake.digest());
}
