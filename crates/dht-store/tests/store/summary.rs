//! The summary that the store keeps is that of the cells that it holds, whatever came in which
//! order, and also after it is opened anew.

use dht_store::{Outcome, Store, Summary};
use p2pinst_trust::fixture::{Lab, Node};
use p2pinst_types::cell::Draft;
use p2pinst_types::record::{Retirement, State, Status};
use p2pinst_types::shard::{shard_of, status_subject};
use p2pinst_types::{Cell, CellId, DeploymentId, Hlc, Kind, MachineId, Millis, Version, codec};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::world::{LATER, apply, store};

const MACHINES: usize = 6;
const SHARDS: u16 = 4;

struct World {
    lab: Lab,
    nodes: Vec<(Node, MachineId)>,
    order: DeploymentId,
    store: Store,
    dir: TempDir,
}

fn world() -> World {
    let mut lab = Lab::default();
    let (alice, bob) = (lab.operator.clone(), lab.publisher.clone());
    let (dir, mut store) = store(&lab);
    let invite = lab.invite(100, 10);
    let nodes: Vec<Node> =
        (1..=MACHINES).map(|n| lab.node(&invite, 100 + n as u16, &format!("n{n}"))).collect();
    let mut cells =
        vec![lab.operator_grant.clone(), lab.publisher_grant.clone(), invite.cell.clone()];
    cells.extend(nodes.iter().map(|n| lab.admit(&alice, n)));
    let (release, cell) = lab.release(&bob, "1.0");
    cells.push(cell);
    let order = lab.deploy_in(&alice, release, "all", SHARDS);
    let id = DeploymentId::from_slice(&order.id.subject).unwrap();
    cells.push(order);
    let outcomes = apply(&mut store, &cells);
    assert!(outcomes.iter().all(|o| *o == Outcome::Accepted), "{outcomes:?}");
    let views = store.views();
    let nodes = nodes.into_iter().map(|n| (views.machine_of(&n.id()).unwrap().id, n));
    let nodes = nodes.map(|(id, n)| (n, id)).collect();
    World { lab, nodes, order: id, store, dir }
}

impl World {
    fn status(&self, machine: usize, seq: u64, state: State, at: u64, shard: Option<u16>) -> Cell {
        let (node, id) = &self.nodes[machine];
        let shard = shard.unwrap_or_else(|| shard_of(&self.order, id, SHARDS));
        let subject = status_subject(&self.order, shard);
        let slot = id.as_bytes().to_vec();
        let id = CellId { kind: Kind::STATUS, subject, slot, author: node.id() };
        let status =
            Status { state, attempt: 1, detail: format!("{seq}"), reached: vec![], transfer: None };
        let draft = Draft {
            id,
            version: Version { incarnation: 1, seq },
            hlc: Hlc::at(Millis(LATER.0 - 1_000_000 + at)),
            payload: codec::encode(&status).unwrap(),
        };
        draft.sign(self.lab.cluster(), |m| node.key.sign(m)).unwrap()
    }

    fn check(&self, store: &Store) {
        let mut machines = 0;
        for shard in 0..SHARDS {
            let subject = status_subject(&self.order, shard);
            let cells = store.data(Kind::STATUS, &subject).unwrap();
            let kept = store.summary(&subject).unwrap().unwrap_or_default();
            assert_eq!(kept, Summary::of(&cells), "shard {shard}");
            assert_eq!(kept.cells(), cells.len());
            machines += kept.cells();
            let ids: Vec<MachineId> =
                cells.iter().map(|c| MachineId::from_slice(&c.id.slot).unwrap()).collect();
            assert_eq!(kept.machines, Summary::sum_of(&ids));
        }
        assert!(machines <= MACHINES);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_summary_is_that_of_the_cells(
        writes in prop::collection::vec((0..MACHINES, 1u64..6, 0usize..8, 0u64..40), 1..60),
        batch in 1usize..8,
    ) {
        let mut world = world();
        let cells: Vec<Cell> = writes
            .iter()
            .map(|(m, seq, state, at)| world.status(*m, *seq, State::ALL[*state], *at, None))
            .collect();
        for part in cells.chunks(batch) {
            let outcomes = apply(&mut world.store, part);
            assert!(outcomes.iter().all(|o| o.is_here()));
            world.check(&world.store);
        }
        // any order gives the same
        let before: Vec<_> = (0..SHARDS)
            .map(|s| world.store.summary(&status_subject(&world.order, s)).unwrap())
            .collect();
        let World { lab, store, dir, order, nodes } = world;
        drop(store);
        let path = dir.path().join("store.redb");
        let store = Store::open(&path, lab.roots.clone()).unwrap();
        let after: Vec<_> = (0..SHARDS)
            .map(|s| store.summary(&status_subject(&order, s)).unwrap())
            .collect();
        prop_assert_eq!(before, after);
        let world = World { lab, store, dir, order, nodes };
        world.check(&world.store);
    }
}

#[test]
fn a_status_lies_in_its_machines_shard() {
    let mut world = world();
    let own = shard_of(&world.order, &world.nodes[0].1, SHARDS);
    for shard in 0..SHARDS + 2 {
        let cell = world.status(0, 1, State::Installed, 0, Some(shard));
        let outcome = apply(&mut world.store, &[cell]).remove(0);
        if shard == own {
            assert_eq!(outcome, Outcome::Accepted);
        } else {
            assert!(matches!(outcome, Outcome::Rejected(_)), "{shard}: {outcome:?}");
        }
    }
    // the subject of before, without a shard, is none
    let mut old = world.status(0, 2, State::Installed, 0, None);
    old = {
        let (node, _) = &world.nodes[0];
        let id = CellId { subject: world.order.as_bytes().to_vec(), ..old.id.clone() };
        let payload = old.payload().to_vec();
        let draft = Draft { id, version: old.version, hlc: old.hlc, payload };
        draft.sign(world.lab.cluster(), |m| node.key.sign(m)).unwrap()
    };
    assert!(matches!(apply(&mut world.store, &[old])[0], Outcome::Rejected(_)));
    let installed: usize = (0..SHARDS)
        .filter_map(|s| world.store.summary(&status_subject(&world.order, s)).unwrap())
        .map(|s| s.count(State::Installed))
        .sum();
    assert_eq!(installed, 1);
}

#[test]
fn an_order_with_impossible_shards_is_refused() {
    let mut world = world();
    let (alice, bob) = (world.lab.operator.clone(), world.lab.publisher.clone());
    let (release, cell) = world.lab.release(&bob, "2.0");
    apply(&mut world.store, &[cell]);
    for (shards, good) in [(0, false), (3, false), (2048, false), (1024, true), (1, true)] {
        let order = world.lab.deploy_in(&alice, release, "all", shards);
        let outcome = apply(&mut world.store, &[order]).remove(0);
        assert_eq!(outcome == Outcome::Accepted, good, "{shards}: {outcome:?}");
    }
}

#[test]
fn pages_show_every_cell_once() {
    use dht_store::store::Wanted;
    let mut world = world();
    let cells: Vec<Cell> =
        (0..MACHINES).map(|m| world.status(m, 1, State::Fetching, m as u64, None)).collect();
    apply(&mut world.store, &cells);
    let mut wanted = Wanted { limit: 4, bytes: 1 << 20, ..Wanted::default() };
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let page = world.store.look(&wanted).unwrap();
        assert!(page.cells.len() <= 4);
        for cell in &page.cells {
            assert!(seen.insert(cell.hash()), "twice");
        }
        match page.next {
            Some(next) => wanted.from = next,
            None => break,
        }
    }
    // two grants, an invite, the admissions, a release, an order, the statuses
    assert_eq!(seen.len(), 5 + 2 * MACHINES);
    let of = |wanted: Wanted| world.store.look(&wanted).unwrap().cells.len();
    let all = Wanted { limit: 100, bytes: 1 << 20, ..Wanted::default() };
    assert_eq!(of(Wanted { kind: Some(Kind::STATUS), ..all.clone() }), MACHINES);
    let author = Some(world.nodes[0].0.id());
    assert_eq!(of(Wanted { author, ..all.clone() }), 1);
    let subjects = vec![world.order.as_bytes().to_vec()];
    assert_eq!(of(Wanted { subjects, ..all }), 1 + MACHINES);
}

#[test]
fn what_is_dropped_is_counted_no_more() {
    let mut world = world();
    let cells: Vec<Cell> =
        (0..MACHINES).map(|m| world.status(m, 1, State::Fetching, m as u64, None)).collect();
    apply(&mut world.store, &cells);
    // handed over to other replicas, but for what this node wrote itself
    let keep = world.nodes[0].0.id();
    let held: Vec<_> = world.store.shelf().map(|(s, h)| (s.clone(), h.digest)).collect();
    assert!(held.len() > 1);
    for (subject, digest) in held {
        assert!(world.store.drop_subject(&subject, &digest, &keep).unwrap());
    }
    world.check(&world.store);
    let left: usize = (0..SHARDS)
        .filter_map(|s| world.store.summary(&status_subject(&world.order, s)).unwrap())
        .map(|s| s.cells())
        .sum();
    assert_eq!(left, 1);
    // and after a retirement nothing at all
    apply(&mut world.store, &cells);
    let alice = world.lab.operator.clone();
    let over = Retirement { deployment: world.order, reason: "old".to_owned() };
    let cell = world.lab.write(&alice, Kind::RETIREMENT, world.order.as_bytes(), &over);
    assert_eq!(apply(&mut world.store, &[cell]), [Outcome::Accepted]);
    for shard in 0..SHARDS {
        let subject = status_subject(&world.order, shard);
        assert_eq!(world.store.summary(&subject).unwrap(), None, "shard {shard}");
    }
    let refused = apply(&mut world.store, &cells);
    assert!(refused.iter().all(|o| matches!(o, Outcome::Rejected(_))), "{refused:?}");
}
