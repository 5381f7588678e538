use std::collections::BTreeMap;

use p2pinst_types::cell::Draft;
use p2pinst_types::{
    Cell, CellId, ClusterId, Hash, Hlc, Kind, Name, PublicKey, Signature, Version,
};

use super::*;
use crate::Outcome;
use crate::placement::Ring;
use crate::shelf::{Shelf, Subject};
use crate::wire::{CellBytes, Request, Response};

struct Hall;

impl Sites for Hall {
    fn of_subject(&self, _: &Subject) -> Option<Name> {
        None
    }
    fn of_author(&self, _: &PublicKey) -> Option<Name> {
        None
    }
}

/// A replica without a disk.
#[derive(Default)]
struct Node {
    shelf: Shelf,
    cells: BTreeMap<CellId, Cell>,
}

impl Node {
    fn take(&mut self, cell: Cell) -> Outcome {
        let old = self.cells.get(&cell.id).cloned();
        match old.as_ref().map(|old| cell.order(old)) {
            Some(std::cmp::Ordering::Less) => Outcome::Newer,
            Some(std::cmp::Ordering::Equal) => Outcome::Known,
            _ => {
                self.shelf.put(old.as_ref(), &cell);
                self.cells.insert(cell.id.clone(), cell);
                Outcome::Accepted
            }
        }
    }

    fn of(&self, subject: &Subject) -> Vec<Cell> {
        self.cells.values().filter(|c| Subject::of(c) == *subject).cloned().collect()
    }

    fn answer(&mut self, shared: &Shared, request: Request) -> Response {
        match request {
            Request::Compare { digest } => shared.compare(&digest),
            Request::List { buckets } => shared.list(&buckets),
            Request::Get { kind, subject, .. } => {
                let cells = self.of(&Subject { kind, id: subject });
                let cells = cells.iter().map(CellBytes::of).collect();
                Response::Data { cells, more: false }
            }
            Request::Put { cells } => {
                let cells = cells.into_iter().map(|c| Cell::parse(c.0).unwrap());
                Response::Outcomes(cells.map(|c| self.take(c)).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn key_of(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn ring(nodes: impl IntoIterator<Item = u8>) -> Ring {
    let site: Name = "hall".parse().unwrap();
    let nodes = nodes.into_iter().map(|n| (key_of(n), site.clone()));
    Ring::new(ClusterId(Hash([1; 32])), nodes)
}

fn cell(subject: u8, author: u8, seq: u64) -> Cell {
    let id = CellId {
        kind: Kind::STATUS,
        subject: vec![subject],
        slot: vec![author],
        author: key_of(author),
    };
    let version = Version { incarnation: 1, seq };
    let draft = Draft { id, version, hlc: Hlc(4), payload: vec![] };
    draft.sign(&ClusterId(Hash([1; 32])), |_| Signature([5; 64])).unwrap()
}

/// Runs a comparison; returns how many requests it took.
fn compare(a: &mut Node, b: &mut Node, ring: &Ring) -> usize {
    let pair = (key_of(1), key_of(2));
    let mut comparison = Comparison::new(pair.1, Shared::of(a.shelf.iter(), ring, &Hall, pair));
    let mut given = Given::Nothing;
    for requests in 0..1000 {
        let mut want = comparison.step(given).unwrap();
        given = loop {
            want = match want {
                Want::Ask(_, request) => {
                    let theirs = Shared::of(b.shelf.iter(), ring, &Hall, pair);
                    break Given::Answer(Some(b.answer(&theirs, request)));
                }
                Want::Read(subject) => comparison.step(Given::Cells(a.of(&subject))).unwrap(),
                Want::Store(cells) => {
                    cells.into_iter().for_each(|c| drop(a.take(c)));
                    comparison.step(Given::Nothing).unwrap()
                }
                Want::Drop(..) => panic!("a comparison drops nothing"),
                Want::Nothing => return requests,
            };
        };
    }
    panic!("no end");
}

#[test]
fn two_replicas_come_to_the_same() {
    let ring = ring(1..=8);
    let (mut a, mut b) = (Node::default(), Node::default());
    for subject in 0..200u8 {
        for author in 1..4 {
            let (old, new) = (cell(subject, author, 1), cell(subject, author, 2));
            match (subject, author) {
                (0..150, _) => drop((a.take(old.clone()), b.take(old))),
                (150..160, _) => drop(a.take(new)),
                (160..170, _) => drop(b.take(new)),
                (170..180, 1) => drop((a.take(new), b.take(old))),
                (180..190, 2) => drop((a.take(old), b.take(new))),
                _ => {}
            }
        }
    }
    assert!(compare(&mut a, &mut b, &ring) > 2);
    assert_eq!(a.cells, b.cells);
    assert_eq!(a.cells.len(), 150 * 3 + 20 * 3 + 20);
    assert_eq!(compare(&mut a, &mut b, &ring), 1, "one digest when nothing differs");
}

#[test]
fn a_subject_goes_where_it_belongs() {
    let ring = ring(1..=20);
    let subject = Subject { kind: Kind::STATUS, id: vec![7] };
    let replicas = ring.replicas(&subject, None);
    let own = (1..=20).map(key_of).find(|n| !replicas.contains(n)).unwrap();
    let mut here = Node::default();
    (101..104).for_each(|author| drop(here.take(cell(7, author, 1))));
    let plan = Plan::of(here.shelf.iter(), &ring, &Hall, own);
    let digest = here.shelf.get(&subject).unwrap().digest;
    assert_eq!(plan, Plan { compare: vec![], hand_over: vec![(subject.clone(), digest)] });
    for dead in [None, Some(replicas[3])] {
        let mut there: BTreeMap<PublicKey, Node> = BTreeMap::new();
        let mut handover = Handover::new((subject.clone(), digest), &ring, &Hall);
        let mut given = Given::Nothing;
        let end = loop {
            given = match handover.step(given, own, &ring, &Hall).unwrap() {
                Want::Read(subject) => Given::Cells(here.of(&subject)),
                Want::Ask(to, _) if Some(to) == dead => Given::Answer(None),
                Want::Ask(to, request) => {
                    let node = there.entry(to).or_default();
                    Given::Answer(Some(node.answer(&Shared::default(), request)))
                }
                other => break other,
            };
        };
        let want = if dead.is_none() {
            Want::Drop(subject.clone(), digest)
        } else {
            Want::Nothing // who could not be asked may not have it: it stays here too
        };
        assert_eq!(end, want);
        assert_eq!(there.len(), 8 - usize::from(dead.is_some()));
        assert!(there.values().all(|n| n.cells == here.cells));
    }
}
