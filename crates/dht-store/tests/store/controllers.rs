//! Controllers of machines: who may say by what power is switched, who reads the credentials, what is ordered.

use std::time::Duration;

use dht_store::{Outcome, Store};
use p2pinst_trust::fixture::{Lab, Node};
use p2pinst_trust::sealed::{self, Place};
use p2pinst_trust::{SecretKey, policy};
use p2pinst_types::record::{
    BootFrom, Controller, PowerAction, PowerOrder, PowerStatus, Resealed, Role, Sealed,
};
use p2pinst_types::{Cell, Hash, Hlc, Kind, MachineId, PublicKey};
use tempfile::TempDir;

use crate::world::{apply, store};

const LINE: &str = "ipmi://10.0.0.5";

fn place<'a>(lab: &'a Lab, machine: &'a MachineId) -> Place<'a> {
    Place { cluster: lab.roots.cluster(), machine, controller: LINE }
}

fn controller(lab: &Lab, machine: &MachineId, nodes: &[PublicKey]) -> Controller {
    let nodes = nodes.iter().copied().collect();
    let sealed = sealed::seal(&place(lab, machine), b"secret", &nodes).unwrap();
    Controller { line: LINE.to_owned(), sealed: Some(sealed) }
}

fn resealed(lab: &Lab, machine: &MachineId, of: Hash, nodes: &[PublicKey]) -> Resealed {
    Resealed { of, sealed: controller(lab, machine, nodes).sealed.unwrap() }
}

fn order(lab: &Lab, number: u64) -> PowerOrder {
    PowerOrder {
        number,
        action: Some(PowerAction::Cycle),
        boot: Some(BootFrom::Pxe),
        forced: false,
        not_after: lab.clock.after(Duration::from_secs(600)),
    }
}

/// Of bytes that are the same every time.
fn fixed(nodes: &[PublicKey]) -> Sealed {
    let keys = nodes.iter().map(|node| (*node, vec![3; 48].into())).collect();
    Sealed { ephemeral: PublicKey([2; 32]), keys, text: vec![4; 144].into() }
}

/// Controllers and orders that replace each other, sealed anew by some, and by some who may not.
pub(crate) fn cells(lab: &mut Lab, member: &Node, other: &Node) -> Vec<Cell> {
    let (alice, bob, node) = (lab.operator.clone(), lab.publisher.clone(), member.key.clone());
    let machine = other.machine();
    let bytes = machine.as_bytes().to_vec();
    let mut cells = vec![lab.grant(node.public(), "booter", &[Role::Boot, Role::Power])];
    let both = [node.public(), other.key.public()];
    for nodes in [&both[..1], &both[..]] {
        let record = Controller { line: LINE.to_owned(), sealed: Some(fixed(nodes)) };
        let cell = lab.write(&alice, Kind::CONTROLLER, &bytes, &record);
        for by in [&node, &bob] {
            let record = Resealed { of: cell.hash(), sealed: fixed(nodes) };
            cells.push(lab.write(by, Kind::RESEALED, &bytes, &record));
        }
        cells.push(cell);
    }
    let none = Controller { line: String::new(), sealed: None };
    cells.push(lab.write(&bob, Kind::CONTROLLER, &bytes, &none));
    let gone = member.machine();
    let some = Controller { line: LINE.to_owned(), sealed: Some(fixed(&both)) };
    for record in [some, none] {
        cells.push(lab.write(&alice, Kind::CONTROLLER, gone.as_bytes(), &record));
    }
    for number in 1..3 {
        let record = order(lab, number);
        cells.push(lab.write(&alice, Kind::POWER_ORDER, &bytes, &record));
        cells.push(lab.write(&bob, Kind::POWER_ORDER, &bytes, &record));
    }
    cells
}

/// A cluster of two members with the power role and one without.
struct World {
    lab: Lab,
    nodes: Vec<Node>,
    machine: MachineId,
    store: Store,
    _dir: TempDir,
}

fn world() -> World {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let joined = lab.invite(100, 5);
    let nodes: Vec<_> = (1..=3).map(|n| lab.node(&joined, 100 + n, &format!("n{n}"))).collect();
    let mut cells =
        vec![lab.operator_grant.clone(), lab.publisher_grant.clone(), joined.cell.clone()];
    for node in &nodes {
        cells.push(lab.admit(&alice, node));
    }
    for (node, named) in nodes.iter().zip(["n1", "n2"]) {
        cells.push(lab.grant(node.id(), named, &[Role::Power]));
    }
    let (dir, mut store) = store(&lab);
    let outcomes = apply(&mut store, &cells);
    assert!(outcomes.iter().all(Outcome::is_here), "{outcomes:?}");
    let machine = nodes[2].machine();
    World { lab, nodes, machine, store, _dir: dir }
}

impl World {
    fn writes(&mut self, by: &SecretKey, kind: Kind, record: &impl serde::Serialize) -> Outcome {
        let cell = self.lab.write(by, kind, self.machine.as_bytes(), record);
        apply(&mut self.store, &[cell]).remove(0)
    }

    fn keys(&self) -> Vec<PublicKey> {
        self.nodes.iter().map(Node::id).collect()
    }

    fn now(&self) -> Hlc {
        Hlc::at(self.lab.clock.after(Duration::from_secs(1)))
    }

    /// The names of those who open the credentials as they count now.
    fn openers(&self) -> Vec<usize> {
        let views = self.store.views();
        let sealed = views.controller_of(&self.machine).unwrap().sealed().unwrap();
        let place = place(&self.lab, &self.machine);
        let opens = |n: &usize| sealed::open(&place, sealed, &self.nodes[*n].key).is_ok();
        (0..3).filter(opens).collect()
    }
}

#[test]
fn a_controller_is_an_operators_word() {
    let mut world = world();
    let (alice, keys) = (world.lab.operator.clone(), world.keys());
    let node = world.nodes[0].key.clone();
    let record = controller(&world.lab, &world.machine, &keys[..2]);
    // taken, as of all who have a grant, but it counts for nothing
    world.writes(&node, Kind::CONTROLLER, &record);
    world.writes(&node, Kind::POWER_ORDER, &order(&world.lab, 1));
    let views = world.store.views();
    assert!(views.controllers.is_empty() && views.power_orders.is_empty());
    assert_eq!(world.writes(&alice, Kind::CONTROLLER, &record), Outcome::Accepted);
    assert_eq!(world.openers(), [0, 1]);
    let long = Controller { line: "x".repeat(513), sealed: None };
    assert!(matches!(world.writes(&alice, Kind::CONTROLLER, &long), Outcome::Rejected(_)));
    let none = Controller { line: String::new(), sealed: None };
    world.writes(&alice, Kind::CONTROLLER, &none);
    assert!(world.store.views().controllers.is_empty());
}

#[test]
fn who_gets_the_power_role_reads_what_is_sealed_anew() {
    let mut world = world();
    let (alice, keys) = (world.lab.operator.clone(), world.keys());
    let [first, third] = [world.nodes[0].key.clone(), world.nodes[2].key.clone()];
    let record = controller(&world.lab, &world.machine, &keys[..2]);
    world.writes(&alice, Kind::CONTROLLER, &record);
    let power: Vec<_> = world.store.views().power_nodes(world.now()).into_iter().collect();
    let mut both = keys[..2].to_vec();
    both.sort();
    assert_eq!(power, both);
    let views = world.store.views();
    let known = views.controller_of(&world.machine).unwrap();
    assert!(!known.is_sealed_to_others(&views.power_nodes(world.now())));

    let grant = world.lab.grant(third.public(), "n3", &[Role::Power]);
    apply(&mut world.store, &[grant]);
    let views = world.store.views();
    let known = views.controller_of(&world.machine).unwrap();
    assert!(known.is_sealed_to_others(&views.power_nodes(world.now())));
    // it counts for this very controller only
    let other = resealed(&world.lab, &world.machine, Hash([1; 32]), &keys);
    world.writes(&first, Kind::RESEALED, &other);
    assert_eq!(world.openers(), [0, 1]);
    let right = resealed(&world.lab, &world.machine, known.cell, &keys);
    world.writes(&first, Kind::RESEALED, &right);
    assert_eq!(world.openers(), [0, 1, 2]);

    // who is removed is no node with the power role any more, and is sealed out
    let revoked = world.lab.revoke(&world.lab.root.clone(), keys[1], None);
    apply(&mut world.store, &[revoked]);
    let views = world.store.views();
    let now = views.power_nodes(world.now());
    assert!(!now.contains(&keys[1]) && known.is_sealed_to_others(&now));
    let without: Vec<_> = now.into_iter().collect();
    let right = resealed(&world.lab, &world.machine, known.cell, &without);
    world.writes(&third, Kind::RESEALED, &right);
    assert_eq!(world.openers(), [0, 2]);
    // what the removed node seals counts for nothing
    let back = resealed(&world.lab, &world.machine, known.cell, &keys);
    world.writes(&world.nodes[1].key.clone(), Kind::RESEALED, &back);
    assert_eq!(world.openers(), [0, 2]);
}

#[test]
fn the_newest_order_counts() {
    let mut world = world();
    let alice = world.lab.operator.clone();
    for number in 1..3 {
        let record = order(&world.lab, number);
        assert_eq!(world.writes(&alice, Kind::POWER_ORDER, &record), Outcome::Accepted);
    }
    let views = world.store.views();
    let ordered = &views.power_orders[&world.machine];
    assert_eq!(ordered.order.number, 2);
    assert!(ordered.is_open(world.lab.clock));
    assert!(!ordered.is_open(world.lab.clock.after(Duration::from_secs(700))));
}

#[test]
fn power_is_reported_by_who_switches_it_and_by_the_machine() {
    let mut world = world();
    let at = world.lab.clock;
    let status = PowerStatus {
        cause: None,
        attempt: 0,
        lease: None,
        outcome: None,
        on: Some(true),
        detail: String::new(),
        at,
    };
    for n in [0, 2] {
        let by = world.nodes[n].key.clone();
        assert_eq!(world.writes(&by, Kind::POWER_STATUS, &status), Outcome::Accepted);
    }
    let by = world.nodes[2].key.clone();
    world.machine = world.nodes[0].machine();
    assert!(matches!(world.writes(&by, Kind::POWER_STATUS, &status), Outcome::Rejected(_)));
    assert_eq!(policy::roles_for(Kind::RESEALED), [Role::Power]);
}
