//! Two replicas come to the same state of what both are to hold.

use std::collections::{BTreeSet, VecDeque};

use p2pinst_types::{Cell, Hash, Plane, PublicKey};

use super::{Given, Holding, LIST, Shared, Want, some};
use crate::shelf::Subject;
use crate::store::After;
use crate::sync::Violation;
use crate::wire::{CellBytes, Request, Response};

/// Pages of one subject.
const PAGES: usize = 128;
/// Cells of one subject that a peer may show.
const CELLS: usize = 65_536;

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

/// A comparison with one peer; see the module above.
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
