//! The machines of `dht-store` on whatever store lies below: the real one, or a compact one.

use dht_store::Outcome;
use dht_store::sync::{Given, LogState, Part, Session, Violation, Want};
use dht_store::wire::{CELL_BYTES, CellBytes, Request, Response};
use p2pinst_types::record::SignedRoot;
use p2pinst_types::{Cell, Hash, Millis, NodeId, Plane};

/// A control plane that syncs.
pub(crate) trait ControlPlane {
    /// One hash over all logs.
    fn digest(&self) -> Hash;
    /// The state of all logs.
    fn heads(&self) -> Vec<LogState>;
    /// How many roots are known.
    fn roots(&self) -> u64;
    /// The cells of these parts, within a budget, and what they cover.
    fn select(&self, parts: &[Part], budget: usize) -> (Vec<Cell>, Vec<Part>);
    /// Judges, merges and stores; `None` when the store fails.
    fn take(&mut self, cells: Vec<Cell>, covered: &[Part], now: Millis) -> Option<Vec<Outcome>>;
    /// Takes over newer roots.
    fn extend(&mut self, roots: &[SignedRoot]);
    /// Hears a peer's clock.
    fn heard(&mut self, peer: NodeId, clock: Millis);
}

pub(crate) fn to_wire(cells: &[Cell]) -> Vec<CellBytes> {
    cells.iter().map(CellBytes::of).collect()
}

pub(crate) fn from_wire(cells: Vec<CellBytes>, plane: Plane) -> Vec<Cell> {
    let cells = cells.into_iter().filter_map(|c| Cell::parse(c.0).ok());
    cells.filter(|c| c.id.kind.plane() == plane).collect()
}

/// Whom a sync is with, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct With {
    pub(crate) peer: NodeId,
    /// The local clock.
    pub(crate) local: Millis,
    /// Cluster time.
    pub(crate) now: Millis,
}

/// Goes on with a sync until the peer must be asked; `None`: it is over.
///
/// # Errors
/// When the peer does not keep to the protocol, or the store failed.
pub(crate) fn drive(
    session: &mut Session,
    mut given: Given,
    store: &mut impl ControlPlane,
    with: With,
) -> Result<Option<Request>, Violation> {
    loop {
        let want = session.step(given)?;
        if let Some(clock) = session.heard() {
            store.heard(with.peer, clock);
        }
        given = match want {
            Want::State => Given::State {
                digest: store.digest(),
                roots: store.roots(),
                logs: store.heads(),
                clock: with.local,
            },
            Want::Ask(request) => return Ok(Some(request)),
            Want::Apply { cells, covered } => {
                Given::Applied(store.take(cells, &covered, with.now).ok_or(Violation)?)
            }
            Want::Select(parts) => {
                let (cells, covered) = store.select(&parts, CELL_BYTES);
                Given::Selected(cells, covered)
            }
            Want::Extend(roots) => {
                store.extend(&roots);
                Given::Extended
            }
            Want::Nothing => return Ok(None),
        };
    }
}

/// What the replica of an offer said to each cell; `None`: nothing.
pub(crate) fn outcomes(cells: Vec<Cell>, answer: Option<Response>) -> Option<Vec<(Cell, Outcome)>> {
    match answer {
        Some(Response::Outcomes(o)) if o.len() == cells.len() => {
            Some(cells.into_iter().zip(o).collect())
        }
        _ => None,
    }
}
