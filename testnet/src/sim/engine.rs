//! Replication as the simulated nodes drive it: the protocol's own functions, and whatever store
//! lies below.

use std::collections::{BTreeMap, BTreeSet};

use dht_store::Outcome;
use dht_store::placement::majority;
use dht_store::sync::{Difference, LogState, Part, compare, rest};
use dht_store::wire::{CELL_BYTES, CellBytes, Request, Response};
use p2pinst_types::{Cell, CellId, Hash, Millis, Plane, PublicKey, limits};

use super::queue::{Micros, SECOND};

/// Rounds of one sync.
const ROUNDS: usize = 64;
/// Parts in one request.
const PARTS: usize = 512;
/// Cells in one `Put`.
const TOGETHER: usize = 32;
/// A pause before what was not acknowledged is offered again.
const RETRY: Micros = 2 * SECOND;

/// A control plane that syncs: the real store, or a compact one.
pub(crate) trait ControlPlane {
    /// One hash over all logs.
    fn digest(&self) -> Hash;
    /// The state of all logs.
    fn heads(&self) -> Vec<LogState>;
    /// The cells of these parts, within a budget, and what they cover.
    fn select(&self, parts: &[Part], budget: usize) -> (Vec<Cell>, Vec<Part>);
    /// Judges, merges and stores; `None` when the store fails.
    fn take(&mut self, cells: Vec<Cell>, covered: &[Part], now: Millis) -> Option<Vec<Outcome>>;
}

pub(crate) fn is_here(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Accepted | Outcome::Known)
}

pub(crate) fn to_wire(cells: &[Cell]) -> Vec<CellBytes> {
    cells.iter().map(|c| CellBytes(c.bytes().to_vec())).collect()
}

pub(crate) fn from_wire(cells: Vec<CellBytes>, plane: Plane) -> Vec<Cell> {
    let cells = cells.into_iter().filter_map(|c| Cell::parse(c.0).ok());
    cells.filter(|c| c.id.kind.plane() == plane).collect()
}

/// Answers a request of the control plane; `None` when the store fails.
pub(crate) fn answer_control(
    store: &mut impl ControlPlane,
    request: Request,
    local: Millis,
    now: Millis,
) -> Option<Response> {
    Some(match request {
        Request::Heads { digest, .. } if digest == store.digest() => {
            Response::Same { clock: local }
        }
        Request::Heads { .. } => Response::Heads { logs: store.heads(), clock: local },
        Request::Pull { parts } => {
            let (cells, covered) = store.select(&parts, CELL_BYTES);
            Response::Cells { cells: to_wire(&cells), covered }
        }
        Request::Push { cells, covered } => {
            Response::Outcomes(store.take(from_wire(cells, Plane::Control), &covered, now)?)
        }
        _ => Response::Refused("not a request of the control plane".to_owned()),
    })
}

/// Where a sync stands.
#[derive(Debug)]
enum Phase {
    Heads(Vec<LogState>),
    Pull(Vec<Part>, Vec<Part>),
    Push(Vec<Part>),
}

/// One sync with one peer, driven by its answers.
#[derive(Debug)]
pub(crate) struct Session {
    phase: Phase,
    rounds: usize,
    last: Option<Difference>,
}

/// What a sync wants.
#[derive(Debug)]
pub(crate) enum Next {
    Ask(Request),
    Done,
    /// The peer does not keep to the protocol, or the store failed.
    Failed,
}

impl Session {
    pub(crate) fn start(store: &impl ControlPlane, local: Millis) -> (Self, Request) {
        let mut session = Self { phase: Phase::Heads(Vec::new()), rounds: 0, last: None };
        let first = session.ask_heads(store, local);
        (session, first)
    }

    fn ask_heads(&mut self, store: &impl ControlPlane, local: Millis) -> Request {
        self.rounds += 1;
        self.phase = Phase::Heads(store.heads());
        Request::Heads { digest: store.digest(), clock: local }
    }

    pub(crate) fn on(
        &mut self,
        store: &mut impl ControlPlane,
        response: Response,
        local: Millis,
        now: Millis,
    ) -> Next {
        let phase = std::mem::replace(&mut self.phase, Phase::Push(Vec::new()));
        match (phase, response) {
            (Phase::Heads(_), Response::Same { .. }) => Next::Done,
            (Phase::Heads(ours), Response::Heads { logs, .. }) => {
                let difference = compare(&ours, &logs);
                if self.last.as_ref() == Some(&difference) {
                    return Next::Done; // what remains cannot be taken by one of the two
                }
                self.last = Some(difference.clone());
                self.pull(store, difference.pull, difference.push, local)
            }
            (Phase::Pull(parts, push), Response::Cells { cells, covered }) => {
                let left = rest(&parts, &covered);
                let cells = from_wire(cells, Plane::Control);
                if store.take(cells, &covered, now).is_none() {
                    return Next::Failed;
                }
                let left = if left == parts { Vec::new() } else { left };
                self.pull(store, left, push, local)
            }
            (Phase::Push(left), Response::Outcomes(_)) => self.push(store, left, local),
            _ => Next::Failed,
        }
    }

    fn pull(
        &mut self,
        store: &impl ControlPlane,
        parts: Vec<Part>,
        push: Vec<Part>,
        local: Millis,
    ) -> Next {
        if parts.is_empty() {
            return self.push(store, push, local);
        }
        let asked: Vec<Part> = parts.iter().take(PARTS).cloned().collect();
        self.phase = Phase::Pull(parts, push);
        Next::Ask(Request::Pull { parts: asked })
    }

    fn push(&mut self, store: &impl ControlPlane, parts: Vec<Part>, local: Millis) -> Next {
        if parts.is_empty() {
            if self.rounds >= ROUNDS {
                return Next::Done;
            }
            return Next::Ask(self.ask_heads(store, local));
        }
        let offered: Vec<Part> = parts.iter().take(PARTS).cloned().collect();
        let (cells, covered) = store.select(&offered, CELL_BYTES);
        let left = rest(&parts, &covered);
        self.phase = Phase::Push(if left == parts { Vec::new() } else { left });
        Next::Ask(Request::Push { cells: to_wire(&cells), covered })
    }
}

/// A cell on its way to its replicas.
#[derive(Debug)]
struct Pending {
    cell: Cell,
    acked: BTreeSet<PublicKey>,
    settled: bool,
    offers: u32,
}

/// The own cells that replicas have still to acknowledge. One offer to a replica at a time.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pending: BTreeMap<CellId, Pending>,
    busy: BTreeSet<PublicKey>,
    later: BTreeMap<PublicKey, Micros>,
}

impl Outbox {
    /// Takes up a cell of this node.
    pub(crate) fn add(&mut self, cell: Cell) {
        let newer = self.pending.get(&cell.id).is_none_or(|p| cell.order(&p.cell).is_gt());
        if newer {
            let id = cell.id.clone();
            let pending = Pending { cell, acked: BTreeSet::new(), settled: false, offers: 0 };
            self.pending.insert(id, pending);
        }
    }

    /// The offers to make now.
    pub(crate) fn offers(
        &mut self,
        now: Micros,
        own: &PublicKey,
        replicas: impl Fn(&CellId) -> Vec<PublicKey>,
    ) -> Vec<(PublicKey, Vec<Cell>)> {
        self.later.retain(|_, at| *at > now);
        let mut by_peer: BTreeMap<PublicKey, Vec<CellId>> = BTreeMap::new();
        let mut complete = Vec::new();
        for (id, pending) in &mut self.pending {
            let of = replicas(id);
            if of.contains(own) {
                pending.acked.insert(*own);
            }
            let missing: Vec<_> = of.into_iter().filter(|r| !pending.acked.contains(r)).collect();
            if missing.is_empty() && pending.settled {
                complete.push(id.clone());
            }
            for peer in missing {
                if !self.busy.contains(&peer) && !self.later.contains_key(&peer) {
                    by_peer.entry(peer).or_default().push(id.clone());
                }
            }
        }
        complete.iter().for_each(|id| drop(self.pending.remove(id)));
        let mut out = Vec::new();
        for (peer, mut ids) in by_peer {
            ids.sort_by_key(|id| self.pending.get(id).map_or(0, |p| p.offers));
            ids.truncate(TOGETHER);
            let mut cells = Vec::new();
            for id in ids {
                if let Some(pending) = self.pending.get_mut(&id) {
                    pending.offers += 1;
                    cells.push(pending.cell.clone());
                }
            }
            self.busy.insert(peer);
            out.push((peer, cells));
        }
        out
    }

    /// A replica has answered an offer, or has not (`None`).
    pub(crate) fn on(
        &mut self,
        now: Micros,
        peer: &PublicKey,
        cells: &[Cell],
        answer: Option<Response>,
    ) {
        self.busy.remove(peer);
        let outcomes = match answer {
            Some(Response::Outcomes(o)) if o.len() == cells.len() => o,
            _ => Vec::new(),
        };
        if outcomes.is_empty() || !outcomes.iter().all(is_here) {
            self.later.insert(*peer, now + RETRY);
        }
        for (cell, _) in cells.iter().zip(&outcomes).filter(|(_, o)| is_here(o)) {
            if let Some(pending) = self.pending.get_mut(&cell.id)
                && pending.cell == *cell
            {
                pending.acked.insert(*peer);
            }
        }
    }

    /// What a majority has acknowledged since the last call.
    pub(crate) fn settled(&mut self, machines: usize) -> Vec<Cell> {
        let enough = majority(machines.min(limits::REPLICAS));
        let mut out = Vec::new();
        for pending in self.pending.values_mut() {
            if !pending.settled && pending.acked.len() >= enough {
                pending.settled = true;
                out.push(pending.cell.clone());
            }
        }
        out
    }

    /// How many cells wait.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// How many wait that no majority has.
    pub(crate) fn unsettled(&self) -> usize {
        self.pending.values().filter(|p| !p.settled).count()
    }
}
