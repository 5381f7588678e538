//! The root of trust: a chain of threshold documents, each signed by its predecessor and by
//! itself (TUF specification, 5.3).

use std::collections::BTreeSet;

use p2pinst_types::record::{RootDoc, SignedRoot};
use p2pinst_types::{ClusterId, Hash, PublicKey, codec, limits};
use thiserror::Error;

use crate::key::{Domain, SecretKey, verify_in};

/// Why a chain of roots is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RootError {
    /// Another cluster's root, or none.
    #[error("root v1 is that of another cluster")]
    WrongCluster,
    /// Not a root document.
    #[error("root v{0} cannot be read")]
    Malformed(usize),
    /// A version is missing or stands twice.
    #[error("root v{expected} is missing")]
    Version {
        /// The version that should stand there.
        expected: u64,
    },
    /// Fewer good signatures than the threshold.
    #[error("root v{version} lacks signatures of the {whose} keys")]
    Signatures {
        /// Which document.
        version: u64,
        /// Whose signatures: "old" or "new".
        whose: &'static str,
    },
    /// Two different documents of one version.
    #[error("root v{0} differs from the one known here: the root keys were misused")]
    Fork(u64),
    /// Every node shows the whole chain in every handshake.
    #[error(
        "with the new root the chain would have {bytes} bytes, and nodes can show {most}: fewer keys that must sign make it shorter"
    )]
    Long {
        /// Its length.
        bytes: usize,
        /// What is possible.
        most: usize,
    },
}

/// Length of a chain beyond which no root is added: it is a part of what a node shows of itself.
const CHAIN: usize = limits::HELLO / 2;

/// A verified chain, version 1 to the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootChain {
    cluster: ClusterId,
    signed: Vec<SignedRoot>,
    docs: Vec<RootDoc>,
}

impl RootChain {
    /// Verifies a chain that begins with the root of `cluster`.
    ///
    /// # Errors
    /// When any document is not signed as it must be.
    pub fn verify(cluster: ClusterId, signed: Vec<SignedRoot>) -> Result<Self, RootError> {
        let first = signed.first().ok_or(RootError::WrongCluster)?;
        if Self::cluster_id(&first.doc) != cluster || signed.len() > limits::ROOTS {
            return Err(RootError::WrongCluster);
        }
        let mut chain = Self { cluster, signed: Vec::new(), docs: Vec::new() };
        for root in signed {
            chain.push(root)?;
        }
        Ok(chain)
    }

    /// The id of the cluster whose root v1 is this document.
    #[must_use]
    pub fn cluster_id(doc: &[u8]) -> ClusterId {
        ClusterId(Hash::of(doc))
    }

    /// Makes the first root, signed by the keys given.
    ///
    /// # Errors
    /// When the document cannot be encoded or the keys do not reach its threshold.
    pub fn found(doc: &RootDoc, keys: &[&SecretKey]) -> Result<Self, RootError> {
        let bytes = codec::encode(doc).map_err(|_| RootError::Malformed(1))?;
        let signatures =
            keys.iter().map(|k| (k.public(), k.sign_in(Domain::Root, None, &bytes))).collect();
        let cluster = Self::cluster_id(&bytes);
        Self::verify(cluster, vec![SignedRoot { doc: bytes, signatures }])
    }

    /// The chain with one more root, signed by the keys given: enough of the current root's and
    /// enough of the new one's.
    ///
    /// # Errors
    /// When the document does not continue the chain, cannot be encoded, or the keys are too few.
    pub fn rotate(&self, doc: &RootDoc, keys: &[&SecretKey]) -> Result<Self, RootError> {
        let bytes = codec::encode(doc).map_err(|_| RootError::Malformed(self.docs.len() + 1))?;
        let signers = self.enough(doc, keys);
        let signatures =
            signers.iter().map(|k| (k.public(), k.sign_in(Domain::Root, None, &bytes))).collect();
        if self.signed.len() >= limits::ROOTS {
            return Err(RootError::Malformed(self.docs.len() + 1));
        }
        let mut longer = self.clone();
        longer.push(SignedRoot { doc: bytes, signatures })?;
        let bytes = codec::encode(&longer.signed).map_or(usize::MAX, |b| b.len());
        if bytes > CHAIN {
            return Err(RootError::Long { bytes, most: CHAIN });
        }
        Ok(longer)
    }

    /// As many of the keys as must sign, of the current root and of the next: every signature is
    /// carried by every handshake from then on.
    fn enough<'a>(&self, next: &RootDoc, keys: &[&'a SecretKey]) -> Vec<&'a SecretKey> {
        let is_old = |k: &SecretKey| self.current().is_some_and(|d| d.keys.contains(&k.public()));
        let is_new = |k: &SecretKey| next.keys.contains(&k.public());
        let mut old = self.current().map_or(0, |d| d.threshold);
        let mut new = next.threshold;
        let mut sorted = keys.to_vec();
        sorted.sort_by_key(|k| !(is_old(k) && is_new(k)));
        let mut seen = BTreeSet::new();
        sorted.retain(|k| {
            let needed = (is_old(k) && old > 0) || (is_new(k) && new > 0);
            if !needed || !seen.insert(k.public()) {
                return false;
            }
            old = old.saturating_sub(is_old(k).into());
            new = new.saturating_sub(is_new(k).into());
            true
        });
        sorted
    }

    fn push(&mut self, root: SignedRoot) -> Result<(), RootError> {
        let expected = self.docs.len() as u64 + 1;
        let malformed = || RootError::Malformed(self.docs.len() + 1);
        let doc: RootDoc = codec::decode(&root.doc).map_err(|_| malformed())?;
        if doc.version != expected {
            return Err(RootError::Version { expected });
        }
        let sane = doc.threshold > 0
            && usize::from(doc.threshold) <= doc.keys.len()
            && doc.keys.len() <= limits::ROOT_KEYS
            && root.signatures.len() <= 2 * limits::ROOT_KEYS;
        if !sane {
            return Err(malformed());
        }
        if let Some(old) = self.docs.last()
            && !signed_by(old, &root)
        {
            return Err(RootError::Signatures { version: expected, whose: "old" });
        }
        if !signed_by(&doc, &root) {
            return Err(RootError::Signatures { version: expected, whose: "new" });
        }
        self.docs.push(doc);
        self.signed.push(root);
        Ok(())
    }

    /// Takes over what another chain has beyond this one. Says whether anything was new.
    ///
    /// # Errors
    /// When the other chain is not a continuation of this one (or this one of it).
    pub fn extend(&mut self, other: &[SignedRoot]) -> Result<bool, RootError> {
        if other.len() > limits::ROOTS {
            return Err(RootError::Malformed(other.len()));
        }
        for (version, (ours, theirs)) in self.signed.iter().zip(other).enumerate() {
            if ours.doc != theirs.doc {
                let fork = RootError::Fork(version as u64 + 1);
                return Err(if version == 0 { RootError::WrongCluster } else { fork });
            }
        }
        let known = self.signed.len();
        for root in other.iter().skip(known) {
            self.push(root.clone())?;
        }
        Ok(self.signed.len() > known)
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// The chain as it travels.
    #[must_use]
    pub fn signed(&self) -> &[SignedRoot] {
        &self.signed
    }

    /// All versions, oldest first; never empty.
    #[must_use]
    pub fn docs(&self) -> &[RootDoc] {
        &self.docs
    }

    /// The newest version.
    #[must_use]
    pub fn current(&self) -> Option<&RootDoc> {
        self.docs.last()
    }

    /// Whether some version of the root has this key.
    #[must_use]
    pub fn has_key(&self, key: &PublicKey) -> bool {
        self.docs.iter().any(|d| d.keys.contains(key))
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster_name(&self) -> String {
        self.docs.last().map(|d| d.cluster.to_string()).unwrap_or_default()
    }
}

/// Whether enough different keys of `doc` have signed `root`.
fn signed_by(doc: &RootDoc, root: &SignedRoot) -> bool {
    let good: BTreeSet<&PublicKey> = root
        .signatures
        .iter()
        .filter(|(key, _)| doc.keys.contains(key))
        .filter(|(key, signature)| verify_in(Domain::Root, None, key, &root.doc, signature))
        .map(|(key, _)| key)
        .collect();
    good.len() >= usize::from(doc.threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn doc(version: u64, keys: &[u8], threshold: u8) -> RootDoc {
        let keys = keys.iter().map(|n| key(*n).public()).collect();
        RootDoc {
            version,
            cluster: "lab".parse().unwrap(),
            keys,
            threshold,
            nonce: 7,
            standing: None,
        }
    }

    fn sign(doc: &RootDoc, keys: &[u8]) -> SignedRoot {
        let bytes = codec::encode(doc).unwrap();
        let signature = |n: &u8| (key(*n).public(), key(*n).sign_in(Domain::Root, None, &bytes));
        SignedRoot { signatures: keys.iter().map(signature).collect(), doc: bytes }
    }

    #[test]
    fn rotation_needs_both_sets() {
        let chain = RootChain::found(&doc(1, &[1, 2, 3], 2), &[&key(1), &key(2)]).unwrap();
        let next = doc(2, &[4], 1);
        for (signers, good) in [(&[4u8, 1, 2][..], true), (&[4, 1], false), (&[1, 2], false)] {
            let mut longer = chain.signed().to_vec();
            longer.push(sign(&next, signers));
            assert_eq!(chain.clone().extend(&longer).is_ok(), good, "{signers:?}");
        }
        // one key that signs twice counts once
        let mut longer = chain.signed().to_vec();
        longer.push(sign(&next, &[4, 1, 1]));
        assert!(chain.clone().extend(&longer).is_err());
        // a skipped version
        let mut longer = chain.signed().to_vec();
        longer.push(sign(&doc(3, &[4], 1), &[4, 1, 2]));
        assert_eq!(chain.clone().extend(&longer), Err(RootError::Version { expected: 2 }));
    }

    /// Two of three, then two of two others, then one: each step needs enough keys of both.
    #[test]
    fn thresholds_may_change() {
        let chain = RootChain::found(&doc(1, &[1, 2, 3], 2), &[&key(1), &key(2)]).unwrap();
        let second = doc(2, &[4, 5], 2);
        let too_few = Err(RootError::Signatures { version: 2, whose: "old" });
        assert_eq!(chain.rotate(&second, &[&key(3), &key(4), &key(5)]), too_few);
        let too_few = Err(RootError::Signatures { version: 2, whose: "new" });
        assert_eq!(chain.rotate(&second, &[&key(2), &key(3), &key(4)]), too_few);
        let longer = chain.rotate(&second, &[&key(3), &key(1), &key(4), &key(5)]).unwrap();
        assert_eq!(longer.current(), Some(&second));
        let third = longer.rotate(&doc(3, &[6], 1), &[&key(4), &key(5), &key(6)]).unwrap();
        // who slept through both takes both over at once
        let mut sleeper = chain.clone();
        assert_eq!(sleeper.extend(third.signed()), Ok(true));
        assert_eq!(sleeper, third);
        assert_eq!(
            chain.rotate(&doc(1, &[4], 1), &[&key(1)]),
            Err(RootError::Version { expected: 2 })
        );
    }

    #[test]
    fn a_chain_stays_short_enough_to_be_shown() {
        let many: Vec<u8> = (1..=16).collect();
        let secrets: Vec<SecretKey> = many.iter().map(|n| key(*n)).collect();
        let all: Vec<&SecretKey> = secrets.iter().collect();
        // no more signatures than needed
        let mut chain = RootChain::found(&doc(1, &many, 2), &all).unwrap();
        chain = chain.rotate(&doc(2, &many, 2), &all).unwrap();
        assert_eq!(chain.signed()[1].signatures.len(), 2);
        let refused = (3..=128).find_map(|v| match chain.rotate(&doc(v, &many, 16), &all) {
            Ok(longer) => {
                chain = longer;
                None
            }
            Err(error) => Some(error),
        });
        assert!(matches!(refused, Some(RootError::Long { .. })), "{refused:?}");
        assert!(codec::encode(&chain.signed().to_vec()).unwrap().len() <= CHAIN);
    }

    #[test]
    fn another_clusters_root_is_refused() {
        let ours = RootChain::found(&doc(1, &[1], 1), &[&key(1)]).unwrap();
        let theirs = RootChain::found(&doc(1, &[2], 1), &[&key(2)]).unwrap();
        assert_eq!(ours.clone().extend(theirs.signed()), Err(RootError::WrongCluster));
        assert!(RootChain::verify(*ours.cluster(), theirs.signed().to_vec()).is_err());
        assert!(RootChain::verify(*ours.cluster(), vec![]).is_err());
        assert!(RootChain::found(&doc(1, &[1, 2], 2), &[&key(1)]).is_err());
    }
}
