//! What a node that is refused as revoked is told: the revocation itself. It need not believe who
//! refuses it; what it is given is checked like any other record.

use p2pinst_types::record::SignedRoot;
use p2pinst_types::{Cell, Kind, PublicKey, codec, limits};
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

    /// What it says of one key: the revocation of that key, and the grants of its author, before
    /// it. `None`: it proves nothing of this key. Nothing about the cells is verified.
    #[must_use]
    pub fn of(&self, key: &PublicKey) -> Option<Vec<Cell>> {
        let parsed = self.cells.iter().filter_map(|b| Cell::parse(b.to_vec()).ok());
        let cells: Vec<Cell> = parsed.collect();
        let is =
            |c: &Cell, kind, of: &PublicKey| c.id.kind == kind && c.id.subject == of.as_bytes();
        let revocation = cells.iter().rfind(|c| is(c, Kind::REVOCATION, key))?.clone();
        let by = revocation.id.author;
        let grants = cells.into_iter().filter(|c| is(c, Kind::GRANT, &by));
        Some(grants.chain([revocation]).collect())
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
        let cells = read.of(&key(9).public()).unwrap();
        assert_eq!((cells.len(), cells.last()), (16, Some(&revocation)), "the group is left out");
        assert_eq!(read.of(&key(8).public()), None, "it is of another key");
        // the grants of others, and revocations of others, are left out
        let (bobs, other) =
            (lab.publisher_grant.clone(), lab.revoke(&alice, key(8).public(), None));
        let proof = Proof::new(lab.roots.signed(), [&bobs, &other].into_iter(), &revocation);
        assert_eq!(proof.of(&key(9).public()), Some(vec![revocation]));
        assert!(Proof::decode(&[]).is_none() && Proof::decode(&[0xff; 9]).is_none());
    }
}
