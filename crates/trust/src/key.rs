//! Signing keys. A secret key is wiped from memory when dropped, and has no readable form here
//! but [`SecretKey::to_seed`].

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use p2pinst_types::{Cell, ClusterId, PublicKey, Signature};
use thiserror::Error;
use zeroize::Zeroizing;

/// The system gave no random numbers.
#[derive(Debug, Error)]
#[error("cannot make a key: the system gives no random numbers ({0})")]
pub struct NoRandomness(String);

/// What a signature outside of a cell is over: keeps one kind of message from passing as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// A root document.
    Root,
    /// A grant's co-signature.
    Grant,
    /// A node certificate.
    NodeCert,
    /// What a scout shows of itself.
    ScoutHello,
    /// A scout's key, by the key of a console's code.
    ConsoleCode,
}

impl Domain {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Root => b"p2pinst/root/1\0",
            Self::Grant => b"p2pinst/grant/1\0",
            Self::NodeCert => b"p2pinst/node-cert/1\0",
            Self::ScoutHello => b"p2pinst/scout-hello/1\0",
            Self::ConsoleCode => b"p2pinst/console-code/1\0",
        }
    }

    /// The message that is signed. A root document is what the cluster id comes from, so it is
    /// signed under no cluster.
    fn message(self, cluster: Option<&ClusterId>, body: &[u8]) -> Vec<u8> {
        let id: &[u8] = cluster.map_or(&[], |c| c.0.as_bytes());
        [self.prefix(), id, body].concat()
    }
}

/// An ed25519 secret key; zeroized when dropped.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public().short())
    }
}

impl SecretKey {
    /// Makes a key of the system's randomness.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|e| NoRandomness(e.to_string()))?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of a 32-byte seed (RFC 8032, 5.1.5).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, to be stored where only its owner reads.
    #[must_use]
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The scalar by which others' X25519 keys are multiplied, not clamped yet (RFC 8032, 5.1.5).
    pub(crate) fn to_scalar(&self) -> [u8; 32] {
        self.0.to_scalar_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a message as it is: for cells, whose message has its domain in it.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }

    /// Signs a body in a domain of a cluster.
    #[must_use]
    pub fn sign_in(&self, domain: Domain, cluster: Option<&ClusterId>, body: &[u8]) -> Signature {
        self.sign(&domain.message(cluster, body))
    }
}

/// Random bits, for nonces.
///
/// # Errors
/// When the system gives none.
pub fn random_u64() -> Result<u64, NoRandomness> {
    getrandom::u64().map_err(|e| NoRandomness(e.to_string()))
}

fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key.as_bytes()) else { return false };
    key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature.as_bytes())).is_ok()
}

/// Whether `signature` is `key`'s over `body` in this domain and cluster (strict: RFC 8032
/// without malleable or small-order keys).
#[must_use]
pub fn verify_in(
    domain: Domain,
    cluster: Option<&ClusterId>,
    key: &PublicKey,
    body: &[u8],
    signature: &Signature,
) -> bool {
    verify(key, &domain.message(cluster, body), signature)
}

/// Whether a cell was signed by its author for this cluster.
#[must_use]
pub fn verify_cell(cluster: &ClusterId, cell: &Cell) -> bool {
    verify(&cell.id.author, &cell.signed_message(cluster), &cell.signature())
}

#[cfg(test)]
mod tests {
    use p2pinst_types::Hash;

    use super::*;

    #[test]
    fn a_signature_holds_in_one_domain_and_one_cluster_only() {
        let key = SecretKey::generate().unwrap();
        let (a, b) = (ClusterId(Hash([1; 32])), ClusterId(Hash([2; 32])));
        let signature = key.sign_in(Domain::NodeCert, Some(&a), b"x");
        let holds = |domain, cluster, body| {
            verify_in(domain, Some(cluster), &key.public(), body, &signature)
        };
        assert!(holds(Domain::NodeCert, &a, b"x"));
        assert!(!holds(Domain::NodeCert, &b, b"x"));
        assert!(!holds(Domain::Grant, &a, b"x"));
        assert!(!holds(Domain::NodeCert, &a, b"y"));
        assert!(!verify_in(Domain::NodeCert, Some(&a), &PublicKey([0; 32]), b"x", &signature));
    }

    #[test]
    fn no_secret_in_debug() {
        let key = SecretKey::from_seed(&[7; 32]);
        assert!(!format!("{key:?}").contains("07070707"));
    }
}
