//! Repair: replicas that hold the same, and subjects that lie where they belong.
//!
//! Sans-IO, in two machines. [`Comparison`] brings two replicas to the same state of all subjects
//! of which both are replicas: one digest, then digests by bucket, then lists, then cells, both
//! ways. [`Handover`] gives a subject that this node holds without being its replica any more to
//! those that are, and lets it go once each of them has it.

mod comparison;
mod handover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2pinst_types::{Cell, Hash, Name, PublicKey};
use serde::{Deserialize, Serialize};

pub use self::comparison::Comparison;
pub use self::handover::Handover;
use crate::placement::{Ring, key};
use crate::shelf::{Held, Subject};
use crate::view::Views;
use crate::wire::{CELL_BYTES, CellBytes, Request, Response};

/// Subjects in one answer to a list: the rest are found in the next round.
pub const LIST: usize = 8192;

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
        self.known_as(&machine).map(|(_, site, _)| site.clone())
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
