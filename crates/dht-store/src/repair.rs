//! Repair: replicas that hold the same, and subjects that lie where they belong.
//!
//! Sans-IO, in two machines. [`Comparison`] brings two replicas to the same state of all subjects
//! of which both are replicas: one digest, then digests by bucket, then lists, then cells, both
//! ways. [`Handover`] gives a subject that this node holds without being its replica any more to
//! those that are, and lets it go once each of them has it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2pinst_types::{Cell, Hash, Name, Plane, PublicKey};
use serde::{Deserialize, Serialize};

use crate::placement::{Ring, key};
use crate::shelf::{Held, Subject};
use crate::store::After;
use crate::sync::Violation;
use crate::view::Views;
use crate::wire::{CELL_BYTES, CellBytes, Request, Response};

/// Subjects in one answer to a list: the rest are found in the next round.
pub const LIST: usize = 8192;
/// Pages of one subject.
const PAGES: usize = 128;
/// Cells of one subject that a peer may show.
const CELLS: usize = 65_536;

/// What is held of a subject, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The subject.
    pub subject: Subject,
    /// XOR of the hashes of its cells.
    pub digest: Hash,
}

/// Where machines are: one replica of what a machine writes lies at its own site.
pub trait Sites {
    /// The site whose machine a subject is about.
    fn of_subject(&self, subject: &Subject) -> Option<Name>;
    /// The site of a writer.
    fn of_author(&self, author: &PublicKey) -> Option<Name>;
}

impl Sites for Views {
    fn of_subject(&self, subject: &Subject) -> Option<Name> {
        let machine = p2pinst_types::MachineId::from_slice(&subject.id)?;
        self.machines.get(&machine).map(|m| m.site.clone())
    }

    fn of_author(&self, author: &PublicKey) -> Option<Name> {
        self.machine_of(author).map(|m| m.site.clone())
    }
}

/// What a node holds of the subjects that it shares with a peer, by bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared(BTreeMap<Subject, (u8, Hash)>);

impl Shared {
    /// Those of the held subjects of which both nodes are replicas.
    pub fn of<'a>(
        held: impl Iterator<Item = (&'a Subject, &'a Held)>,
        ring: &Ring,
        sites: &impl Sites,
        (a, b): (PublicKey, PublicKey),
    ) -> Self {
        let both = |subject: &Subject| {
            let replicas = ring.replicas(subject, sites.of_subject(subject).as_ref());
            replicas.contains(&a) && replicas.contains(&b)
        };
        let shared = held.filter(|(subject, _)| both(subject));
        Self(shared.map(|(s, h)| (s.clone(), (ring.bucket(s), h.digest))).collect())
    }

    /// One hash over all of it.
    #[must_use]
    pub fn digest(&self) -> Hash {
        let mut hasher = Hash([0; 32]);
        for (subject, (_, digest)) in &self.0 {
            let kind = subject.kind.0.to_be_bytes();
            let hash = Hash::of_parts("p2pinst/held/1", &[&kind, &subject.id, digest.as_bytes()]);
            hasher.0.iter_mut().zip(hash.0).for_each(|(a, b)| *a ^= b);
        }
        hasher
    }

    fn digests(&self) -> Vec<(u8, u64)> {
        let mut digests: BTreeMap<u8, u64> = BTreeMap::new();
        for (subject, (bucket, digest)) in &self.0 {
            let kind = subject.kind.0.to_be_bytes();
            let hash = Hash::of_parts("p2pinst/held/1", &[&kind, &subject.id, digest.as_bytes()]);
            let (first, _) = hash.0.split_at(8);
            let short = first.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
            *digests.entry(*bucket).or_default() ^= short;
        }
        digests.into_iter().collect()
    }

    /// Answers [`Request::Compare`].
    #[must_use]
    pub fn compare(&self, digest: &Hash) -> Response {
        if self.digest() == *digest {
            Response::Equal
        } else {
            Response::Differ { digests: self.digests() }
        }
    }

    /// Answers [`Request::List`].
    #[must_use]
    pub fn list(&self, buckets: &[u8]) -> Response {
        let buckets: BTreeSet<u8> = buckets.iter().copied().collect();
        let wanted = self.0.iter().filter(|(_, (b, _))| buckets.contains(b)).take(LIST);
        let holding = |(subject, (_, digest)): (&Subject, &(u8, Hash))| Holding {
            subject: subject.clone(),
            digest: *digest,
        };
        Response::Holdings(wanted.map(holding).collect())
    }
}

impl Ring {
    /// The bucket of a subject: the first byte of its place.
    #[must_use]
    pub fn bucket(&self, subject: &Subject) -> u8 {
        let place = key(self.cluster(), subject.kind, &subject.id);
        place.0.first().copied().unwrap_or(0)
    }
}

/// What a round has to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Peers to compare with: those that share a replica set with this node.
    pub compare: Vec<PublicKey>,
    /// Subjects that lie here and belong elsewhere.
    pub hand_over: Vec<(Subject, Hash)>,
}

impl Plan {
    /// Plans a round from what is held.
    pub fn of<'a>(
        held: impl Iterator<Item = (&'a Subject, &'a Held)>,
        ring: &Ring,
        sites: &impl Sites,
        own: PublicKey,
    ) -> Self {
        let mut plan = Self::default();
        let mut peers = BTreeSet::new();
        for (subject, held) in held {
            let replicas = ring.replicas(subject, sites.of_subject(subject).as_ref());
            if replicas.contains(&own) {
                peers.extend(replicas.into_iter().filter(|r| *r != own));
            } else {
                plan.hand_over.push((subject.clone(), held.digest));
            }
        }
        plan.compare = peers.into_iter().collect();
        plan
    }
}

/// What a machine needs to go on.
#[derive(Debug, PartialEq)]
pub enum Want {
    /// An answer of a peer.
    Ask(PublicKey, Request),
    /// The own cells of a subject.
    Read(Subject),
    /// These cells judged and stored.
    Store(Vec<Cell>),
    /// The subject dropped if it is still as it was, but for the node's own cells.
    Drop(Subject, Hash),
    /// Nothing: it is over.
    Nothing,
}

/// What a machine is given.
#[derive(Debug)]
pub enum Given {
    /// To begin with, and to [`Want::Store`].
    Nothing,
    /// To [`Want::Ask`]; `None`: no answer.
    Answer(Option<Response>),
    /// To [`Want::Read`].
    Cells(Vec<Cell>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begin,
    Compare,
    List,
    Get,
    Store,
    Read,
    Put,
}

/// See the module.
#[derive(Debug)]
pub struct Comparison {
    peer: PublicKey,
    mine: Shared,
    phase: Phase,
    /// Subjects that differ, and whether the peer holds anything of each.
    differ: VecDeque<(Subject, bool)>,
    after: After,
    pages: usize,
    /// Hashes of the cells that the peer has of the present subject.
    theirs: BTreeSet<Hash>,
    put: VecDeque<Cell>,
    /// Cells that came, and cells that went.
    moved: (usize, usize),
}

impl Comparison {
    /// A comparison with a peer.
    #[must_use]
    pub fn new(peer: PublicKey, mine: Shared) -> Self {
        Self {
            peer,
            mine,
            phase: Phase::Begin,
            differ: VecDeque::new(),
            after: None,
            pages: 0,
            theirs: BTreeSet::new(),
            put: VecDeque::new(),
            moved: (0, 0),
        }
    }

    /// Cells that came from the peer, and cells that went to it.
    #[must_use]
    pub fn moved(&self) -> (usize, usize) {
        self.moved
    }

    /// Goes on with what was wanted.
    ///
    /// # Errors
    /// When the peer answers something else than was asked for.
    pub fn step(&mut self, given: Given) -> Result<Want, Violation> {
        match (self.phase, given) {
            (_, Given::Answer(None)) => Ok(Want::Nothing),
            (Phase::Begin, Given::Nothing) => {
                self.phase = Phase::Compare;
                Ok(self.ask(Request::Compare { digest: self.mine.digest() }))
            }
            (Phase::Compare, Given::Answer(Some(Response::Equal))) => Ok(Want::Nothing),
            (Phase::Compare, Given::Answer(Some(Response::Differ { digests }))) => {
                let ours = self.mine.digests();
                let of = |all: &[(u8, u64)], n: u8| all.iter().find(|b| b.0 == n).map(|b| b.1);
                let differ = |n: &u8| of(&ours, *n) != of(&digests, *n);
                let buckets: Vec<u8> = (0..=u8::MAX).filter(differ).collect();
                self.mine.0.retain(|_, (bucket, _)| buckets.contains(bucket));
                self.phase = Phase::List;
                Ok(self.ask(Request::List { buckets }))
            }
            (Phase::List, Given::Answer(Some(Response::Holdings(theirs)))) => {
                self.on_list(theirs);
                Ok(self.next_subject())
            }
            (Phase::Get, Given::Answer(Some(Response::Data { cells, more }))) => {
                self.on_page(cells, more)
            }
            (Phase::Store, Given::Nothing) => Ok(match self.after {
                Some(_) => self.get(),
                None => self.read(),
            }),
            (Phase::Read, Given::Cells(cells)) => {
                let theirs = std::mem::take(&mut self.theirs);
                self.put = cells.into_iter().filter(|c| !theirs.contains(&c.hash())).collect();
                self.differ.pop_front();
                Ok(self.put_some())
            }
            (Phase::Put, Given::Answer(Some(Response::Outcomes(_)))) => Ok(self.put_some()),
            _ => Err(Violation),
        }
    }

    fn ask(&self, request: Request) -> Want {
        Want::Ask(self.peer, request)
    }

    fn on_list(&mut self, theirs: Vec<Holding>) {
        for holding in theirs.into_iter().take(LIST) {
            let data = holding.subject.kind.plane() == Plane::Data;
            let same = match self.mine.0.remove(&holding.subject) {
                Some((_, digest)) => digest == holding.digest,
                None => false,
            };
            if data && !same {
                self.differ.push_back((holding.subject, true));
            }
        }
        // what is left of ours the peer does not hold
        let lacking = std::mem::take(&mut self.mine.0).into_keys();
        self.differ.extend(lacking.map(|subject| (subject, false)));
    }

    fn next_subject(&mut self) -> Want {
        (self.after, self.pages) = (None, 0);
        match self.differ.front() {
            None => Want::Nothing,
            Some((_, true)) => self.get(),
            Some((_, false)) => self.read(),
        }
    }

    fn get(&mut self) -> Want {
        let Some((subject, _)) = self.differ.front().cloned() else { return Want::Nothing };
        self.phase = Phase::Get;
        self.pages += 1;
        let after = self.after.clone();
        self.ask(Request::Get { kind: subject.kind, subject: subject.id, after })
    }

    fn on_page(&mut self, cells: Vec<CellBytes>, more: bool) -> Result<Want, Violation> {
        let Some((subject, _)) = self.differ.front() else { return Err(Violation) };
        let cells: Vec<Cell> = cells.into_iter().filter_map(|c| Cell::parse(c.0).ok()).collect();
        if cells.iter().any(|c| c.id.kind != subject.kind || c.id.subject != subject.id) {
            return Err(Violation);
        }
        self.theirs.extend(cells.iter().map(Cell::hash));
        self.moved.0 += cells.len();
        let last = cells.last().map(|c| (c.id.slot.clone(), c.id.author));
        let circles = more && last <= self.after;
        if circles || self.theirs.len() > CELLS {
            return Err(Violation);
        }
        self.after = last.filter(|_| more && self.pages < PAGES);
        self.phase = Phase::Store;
        Ok(Want::Store(cells))
    }

    fn read(&mut self) -> Want {
        let Some((subject, _)) = self.differ.front().cloned() else { return Want::Nothing };
        self.phase = Phase::Read;
        Want::Read(subject)
    }

    fn put_some(&mut self) -> Want {
        let cells = some(&mut self.put);
        if cells.is_empty() {
            return self.next_subject();
        }
        self.moved.1 += cells.len();
        self.phase = Phase::Put;
        self.ask(Request::Put { cells })
    }
}

/// As many cells as one message may hold.
fn some(queue: &mut VecDeque<Cell>) -> Vec<CellBytes> {
    let (mut cells, mut room) = (Vec::new(), CELL_BYTES);
    while let Some(cell) = queue.front() {
        match room.checked_sub(cell.bytes().len()) {
            Some(left) => room = left,
            None => break,
        }
        cells.extend(queue.pop_front().as_ref().map(CellBytes::of));
    }
    cells
}

/// See the module.
#[derive(Debug)]
pub struct Handover {
    subject: Subject,
    digest: Hash,
    cells: Vec<Cell>,
    /// Replicas that were not asked yet.
    left: VecDeque<PublicKey>,
    /// The replica that is asked now, and what it was not offered yet.
    to: Option<PublicKey>,
    put: VecDeque<Cell>,
    /// Whether every replica has taken every cell so far.
    whole: bool,
    /// Whether this node is the replica at the site of a writer: it passes on, and keeps.
    keep: bool,
}

impl Handover {
    /// Hands over what is held of a subject.
    #[must_use]
    pub fn new((subject, digest): (Subject, Hash), ring: &Ring, sites: &impl Sites) -> Self {
        let replicas = ring.replicas(&subject, sites.of_subject(&subject).as_ref());
        Self {
            subject,
            digest,
            cells: Vec::new(),
            left: replicas.into(),
            to: None,
            put: VecDeque::new(),
            whole: true,
            keep: false,
        }
    }

    /// Goes on with what was wanted. `own`: this node. It keeps what it holds for a writer of its
    /// own site.
    ///
    /// # Errors
    /// When the peer answers something else than was asked for.
    pub fn step(
        &mut self,
        given: Given,
        own: PublicKey,
        ring: &Ring,
        sites: &impl Sites,
    ) -> Result<Want, Violation> {
        match given {
            Given::Nothing => return Ok(Want::Read(self.subject.clone())),
            Given::Cells(mut cells) => {
                cells.retain(|c| c.id.author != own);
                let for_site = |c: &Cell| {
                    let site = sites.of_author(&c.id.author);
                    ring.replicas(&self.subject, site.as_ref()).contains(&own)
                };
                if cells.is_empty() || self.left.is_empty() {
                    return Ok(Want::Nothing);
                }
                self.keep = cells.iter().any(for_site);
                self.cells = cells;
            }
            Given::Answer(Some(Response::Outcomes(outcomes))) => {
                self.whole &= outcomes.iter().all(crate::Outcome::is_here);
            }
            Given::Answer(None) => {
                self.whole = false;
                self.put.clear();
            }
            Given::Answer(Some(_)) => return Err(Violation),
        }
        Ok(self.go_on())
    }

    fn go_on(&mut self) -> Want {
        if self.put.is_empty() {
            self.to = self.left.pop_front();
            self.put = self.cells.iter().cloned().collect();
        }
        match self.to {
            Some(peer) => Want::Ask(peer, Request::Put { cells: some(&mut self.put) }),
            None if self.whole && !self.keep => Want::Drop(self.subject.clone(), self.digest),
            None => Want::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::cell::Draft;
    use p2pinst_types::{CellId, ClusterId, Hlc, Kind, Signature, Version};

    use super::*;
    use crate::Outcome;
    use crate::shelf::Shelf;

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
}
