//! What a node that is refused as revoked is told: the revocation itself. It need not believe who
//! refuses it; what it is given is checked like any other record.

use p2pinst_types::record::SignedRoot;
use p2pinst_types::{Cell, Kind, codec, limits};
use serde::{Deserialize, Serialize};

/// Grants that a proof carries beside the revocation.
const GRANTS: usize = 16;

/// The proof that a key is revoked: the roots, the revocation, and the grants of its author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The chain of roots.
    pub roots: Vec<SignedRoot>,
    cells: Vec<serde_bytes::ByteBuf>,
}

impl Proof {
    /// A proof of these cells: the newest grants of the author, and its revocation.
    pub fn new<'a>(
        roots: &[SignedRoot],
        grants: impl DoubleEndedIterator<Item = &'a Cell>,
        revocation: &'a Cell,
    ) -> Self {
        let cells = grants.rev().take(GRANTS).chain([revocation]);
        let cells = cells.map(|c| serde_bytes::ByteBuf::from(c.bytes().to_vec())).collect();
        Self { roots: roots.to_vec(), cells }
    }

    /// Encodes the proof; nothing when it is longer than what is read.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self).ok().filter(|b| b.len() <= limits::HELLO).unwrap_or_default()
    }

    /// Reads a proof; `None`: it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fits = |p: &Self| p.roots.len() <= limits::ROOTS && p.cells.len() <= GRANTS + 1;
        codec::decode(bytes).ok().filter(fits)
    }

    /// Its cells, as far as they are of the kinds that a proof has. Nothing about them is verified.
    #[must_use]
    pub fn cells(&self) -> Vec<Cell> {
        let cells = self.cells.iter().filter_map(|b| Cell::parse(b.to_vec()).ok());
        cells.filter(|c| [Kind::GRANT, Kind::REVOCATION].contains(&c.id.kind)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Lab, key};

    #[test]
    fn a_proof_survives_the_trip_and_carries_nothing_else() {
        let mut lab = Lab::default();
        let alice = lab.operator.clone();
        let revocation = lab.revoke(&alice, key(9).public(), None);
        let group = lab.group(&alice, "gpu", "n1");
        let grants: Vec<Cell> = vec![lab.operator_grant.clone(); 40];
        let proof = Proof::new(lab.roots.signed(), grants.iter().chain([&group]), &revocation);
        let read = Proof::decode(&proof.encode()).unwrap();
        assert_eq!(read, proof);
        let cells = read.cells();
        assert_eq!((cells.len(), cells.last()), (16, Some(&revocation)), "the group is left out");
        assert!(Proof::decode(&[]).is_none() && Proof::decode(&[0xff; 9]).is_none());
    }
}
