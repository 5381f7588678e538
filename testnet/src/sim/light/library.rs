//! The control plane of a large cluster, compact: every cell is made once and shared, a node keeps
//! which it has.

use std::collections::BTreeMap;

use dht_store::Outcome;
use dht_store::coverage::Ranges;
use dht_store::sync::{FEW, LogState, Part, bucket_of, buckets};
use dht_store::wire::{CELL_BYTES, Request, Response};
use p2pinst_types::cell::Draft;
use p2pinst_types::record::SignedRoot;
use p2pinst_types::{
    Cell, CellId, ClusterId, Hash, Hlc, Kind, Millis, NodeId, Plane, PublicKey, Signature, Version,
    codec,
};

use crate::sim::engine::{ControlPlane, from_wire, to_wire};

/// The life in which everybody writes.
const LIFE: u64 = 1;

/// The cluster of all large simulations.
pub(crate) fn cluster() -> ClusterId {
    ClusterId(Hash::of(b"a large simulation"))
}

/// The key of a node. Nobody signs with it: signatures are not verified here.
pub(crate) fn node_key(n: usize) -> PublicKey {
    PublicKey(Hash::of_parts("sim/node", &[&n.to_be_bytes()]).0)
}

/// A cell with a signature that nobody looks at.
pub(crate) fn cell(id: CellId, seq: u64, payload: Vec<u8>) -> Option<Cell> {
    let version = Version { incarnation: LIFE, seq };
    let draft = Draft { id, version, hlc: Hlc(seq), payload };
    draft.sign(&cluster(), |_| Signature([7; 64])).ok()
}

/// All cells of the control plane.
#[derive(Debug, Default)]
pub(crate) struct Library {
    cells: Vec<Cell>,
    /// The cells of each author, by number.
    logs: Vec<(PublicKey, Vec<u32>)>,
    authors: BTreeMap<PublicKey, usize>,
    /// The author of each cell.
    by: Vec<u16>,
}

impl Library {
    /// Writes the next cell of an author; returns its index.
    pub(crate) fn write(
        &mut self,
        author: PublicKey,
        (kind, subject): (Kind, Vec<u8>),
        payload: Vec<u8>,
    ) -> Option<u32> {
        let at = *self.authors.entry(author).or_insert_with(|| {
            self.logs.push((author, Vec::new()));
            self.logs.len() - 1
        });
        let (_, log) = self.logs.get_mut(at)?;
        let id = CellId { kind, subject, slot: Vec::new(), author };
        let cell = cell(id, log.len() as u64 + 1, payload)?;
        let index = u32::try_from(self.cells.len()).ok()?;
        log.push(index);
        self.cells.push(cell);
        self.by.push(u16::try_from(at).ok()?);
        Some(index)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Cell> {
        self.cells.get(index as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.cells.iter().map(|c| c.bytes().len()).sum()
    }

    fn find(&self, author: &PublicKey, seq: u64) -> Option<u32> {
        let (_, log) = self.logs.get(*self.authors.get(author)?)?;
        log.get(usize::try_from(seq.checked_sub(1)?).ok()?).copied()
    }
}

/// What one node has of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    has: Vec<u64>,
    logs: Vec<(Ranges, Hash)>,
    digest: Option<Hash>,
}

impl Shelf {
    pub(crate) fn has(&self, index: u32) -> bool {
        let word = self.has.get(index as usize / 64).copied().unwrap_or_default();
        word >> (index % 64) & 1 == 1
    }

    /// Takes a cell; says whether it is new.
    pub(crate) fn add(&mut self, library: &Library, index: u32) -> bool {
        if self.has(index) {
            return false;
        }
        let (Some(cell), Some(by)) = (library.get(index), library.by.get(index as usize)) else {
            return false;
        };
        let (word, by) = (index as usize / 64, usize::from(*by));
        if self.has.len() <= word {
            self.has.resize(word + 1, 0);
        }
        if self.logs.len() <= by {
            self.logs.resize(by + 1, (Ranges::default(), Hash([0; 32])));
        }
        if let (Some(word), Some((ranges, digest))) =
            (self.has.get_mut(word), self.logs.get_mut(by))
        {
            *word |= 1 << (index % 64);
            ranges.add(cell.version.seq, cell.version.seq);
            digest.0.iter_mut().zip(cell.hash().0).for_each(|(a, b)| *a ^= b);
        }
        self.digest = None;
        true
    }

    /// Whether the log of a cell's author has a hole.
    pub(crate) fn has_gap(&self, library: &Library, index: u32) -> bool {
        let by = library.by.get(index as usize).copied().unwrap_or_default();
        self.logs.get(usize::from(by)).is_some_and(|(r, _)| r.count() > 1)
    }

    /// How many cells it has.
    pub(crate) fn count(&self) -> u32 {
        self.has.iter().map(|w| w.count_ones()).sum()
    }

    fn heads(&self, library: &Library) -> Vec<LogState> {
        let state = |((author, _), (ranges, digest)): (&(PublicKey, Vec<u32>), &(Ranges, Hash))| {
            LogState { author: *author, lives: [(LIFE, ranges.clone())].into(), digest: *digest }
        };
        let logs = library.logs.iter().zip(&self.logs);
        let mut heads: Vec<LogState> =
            logs.filter(|(_, (r, _))| !r.is_empty()).map(state).collect();
        heads.sort_by_key(|l| l.author);
        heads
    }

    /// One hash over all of it, as the real store's.
    pub(crate) fn digest(&mut self, library: &Library) -> Hash {
        *self.digest.get_or_insert_with(|| {
            let logs = library.logs.iter().zip(&self.logs);
            let parts: Vec<&[u8]> = logs.map(|(_, (_, d))| d.0.as_slice()).collect();
            Hash::of_parts("sim/heads", &parts)
        })
    }
}

/// A node's shelf as the machines see it.
pub(crate) struct OnShelf<'a> {
    pub(crate) library: &'a Library,
    pub(crate) shelf: &'a mut Shelf,
    /// Cells that were new.
    pub(crate) new: Vec<u32>,
}

impl ControlPlane for OnShelf<'_> {
    fn digest(&self) -> Hash {
        self.shelf.clone_digest(self.library)
    }
    fn heads(&self) -> Vec<LogState> {
        self.shelf.heads(self.library)
    }
    fn roots(&self) -> u64 {
        1
    }
    fn select(&self, parts: &[Part], budget: usize) -> (Vec<Cell>, Vec<Part>) {
        let (mut cells, mut covered, mut bytes) = (Vec::new(), Vec::new(), 0);
        for part in parts {
            let mut ranges = Ranges::default();
            for (low, high) in part.ranges.iter() {
                for seq in low..=high {
                    let Some(index) = self.library.find(&part.author, seq) else { break };
                    let Some(cell) = self.library.get(index).filter(|_| self.shelf.has(index))
                    else {
                        continue;
                    };
                    bytes += cell.bytes().len();
                    if bytes > budget && !cells.is_empty() {
                        covered.push(Part { ranges, ..part.clone() });
                        return (cells, covered);
                    }
                    cells.push(cell.clone());
                    ranges.add(seq, seq);
                }
            }
            if !ranges.is_empty() {
                covered.push(Part { ranges, ..part.clone() });
            }
        }
        (cells, covered)
    }
    fn take(&mut self, cells: Vec<Cell>, _: &[Part], _: Millis) -> Option<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(cells.len());
        for cell in cells {
            let index = self.library.find(&cell.id.author, cell.version.seq)?;
            let news = self.shelf.add(self.library, index);
            if news {
                self.new.push(index);
            }
            outcomes.push(if news { Outcome::Accepted } else { Outcome::Known });
        }
        Some(outcomes)
    }
    fn extend(&mut self, _: &[SignedRoot]) {}
    fn heard(&mut self, _: NodeId, _: Millis) {}
}

impl Shelf {
    fn clone_digest(&self, library: &Library) -> Hash {
        self.digest.unwrap_or_else(|| self.clone().digest(library))
    }
}

/// Answers a request of the control plane, as `dht_store::answer` does.
pub(crate) fn answer(on: &mut OnShelf<'_>, request: Request, clock: Millis) -> Response {
    let roots = 1;
    match request {
        Request::Heads { digest, .. } if digest == on.shelf.digest(on.library) => {
            Response::Same { roots, clock }
        }
        Request::Heads { .. } => {
            let logs = on.heads();
            if logs.len() > FEW {
                Response::Buckets { digests: buckets(&logs), roots, clock }
            } else {
                Response::Heads { logs, roots, clock }
            }
        }
        Request::Logs { buckets } => {
            let mut logs = on.heads();
            logs.retain(|l| buckets.contains(&bucket_of(&l.author)));
            Response::Logs { logs }
        }
        Request::Pull { parts } => {
            let (cells, covered) = on.select(&parts, CELL_BYTES);
            Response::Cells { cells: to_wire(&cells), covered }
        }
        Request::Push { cells, covered } => {
            let outcomes = on.take(from_wire(cells, Plane::Control), &covered, clock);
            Response::Outcomes(outcomes.unwrap_or_default())
        }
        _ => Response::Refused("not answered".to_owned()),
    }
}

/// Bytes of a message before it is framed.
pub(crate) fn encoded<T: serde::Serialize>(message: &T) -> usize {
    codec::encode(message).map_or(0, |b| b.len())
}
