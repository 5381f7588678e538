//! A secret for some nodes: the credentials of a controller, which every node stores and only those with the power role read.
//!
//! The secret is encrypted once, with a content key; that is sealed to each node by X25519 (RFC 7748) with a key made for this
//! sealing alone, and ChaCha20-Poly1305 (RFC 8439). The X25519 keys of nodes are those of their ed25519 keys (the birational
//! map of RFC 7748, section 4.1). Cluster, machine and controller are part of what is authenticated: a sealed secret that is moved to
//! another machine, or to another controller, does not open. Who wrote it is for the signature of its cell to say.
//!
//! A node that could open a secret may remember it: after its key is revoked, new sealings leave it out, and the
//! password should be changed at the controller.

use std::collections::{BTreeMap, BTreeSet};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use ed25519_dalek::VerifyingKey;
use p2pinst_types::record::Sealed;
use p2pinst_types::{ClusterId, Hash, MachineId, PublicKey, limits};
use serde_bytes::ByteBuf;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::key::{NoRandomness, SecretKey};

/// Why a secret cannot be sealed or opened.
#[derive(Debug, Error)]
pub enum SealedError {
    /// Nobody could read it.
    #[error("the secret would be sealed to nobody: grant the power role to a node's key first")]
    Nobody,
    /// Too many could.
    #[error("a secret is sealed to at most {max} nodes, not to {0}", max = limits::SEALED_KEYS)]
    TooMany(usize),
    /// It is too long.
    #[error("a secret of {0} bytes is too long to be sealed")]
    Length(usize),
    /// A key that is none, or that everybody knows.
    #[error("the key {0} cannot be sealed to")]
    Key(String),
    /// The system gives no random numbers.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The cipher failed.
    #[error("the secret cannot be encrypted")]
    Cipher,
    /// It was sealed to others.
    #[error("the secret is not sealed to this node: whoever can open it seals it anew")]
    NotOurs,
    /// It was sealed for something else, or changed.
    #[error("the sealed secret is of another machine or controller, or was changed")]
    Changed,
}

/// What a secret belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The machine.
    pub machine: &'a MachineId,
    /// The line of its controller: a secret is not shown to another one.
    pub controller: &'a str,
}

impl Place<'_> {
    fn bytes(&self) -> [u8; 32] {
        let parts: [&[u8]; 3] =
            [self.cluster.0.as_bytes(), self.machine.as_bytes(), self.controller.as_bytes()];
        Hash::of_parts("p2pinst/sealed-place/1", &parts).0
    }
}

/// Secrets are filled up to a multiple of this, so that the length says little of a password.
const BLOCK: usize = 128;
/// The longest secret: its length and the tag are added to it.
const LONGEST: usize = limits::SEALED / BLOCK * BLOCK - BLOCK - 2;

fn pad(secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealedError> {
    let length = u16::try_from(secret.len()).ok().filter(|_| secret.len() <= LONGEST);
    let length = length.ok_or(SealedError::Length(secret.len()))?;
    let whole = (secret.len() + 2).next_multiple_of(BLOCK);
    // in its full size at once: what grows leaves copies behind
    let mut padded = Zeroizing::new(Vec::with_capacity(whole));
    padded.extend_from_slice(&length.to_be_bytes());
    padded.extend_from_slice(secret);
    padded.resize(whole, 0);
    Ok(padded)
}

fn unpad(padded: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (length, rest) = padded.split_first_chunk()?;
    let secret = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    Some(Zeroizing::new(secret.to_vec()))
}

fn point(key: &PublicKey) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(key.as_bytes()).ok().filter(|key| !key.is_weak())
}

/// The key between two that both can compute, for one sealing. `None`: the other key is no key.
fn shared(
    ours: &SecretKey,
    theirs: &PublicKey,
    ephemeral: &PublicKey,
    recipient: &PublicKey,
    place: &[u8; 32],
) -> Option<Zeroizing<[u8; 32]>> {
    let scalar = Zeroizing::new(ours.to_scalar());
    let secret = Zeroizing::new(point(theirs)?.to_montgomery().mul_clamped(*scalar).to_bytes());
    let parts: [&[u8]; 4] =
        [secret.as_slice(), ephemeral.as_bytes(), recipient.as_bytes(), place.as_slice()];
    Some(Zeroizing::new(Hash::of_parts("p2pinst/sealed-key/1", &parts).0))
}

/// Keys are used for one message only, so the nonce can be constant.
fn encrypt(key: &[u8; 32], text: &[u8], place: &[u8; 32]) -> Result<ByteBuf, SealedError> {
    let payload = Payload { msg: text, aad: place };
    let sealed = ChaCha20Poly1305::new(Key::from_slice(key)).encrypt(&Nonce::default(), payload);
    sealed.map(ByteBuf::from).map_err(|_| SealedError::Cipher)
}

fn decrypt(
    key: &[u8; 32],
    sealed: &[u8],
    place: &[u8; 32],
) -> Result<Zeroizing<Vec<u8>>, SealedError> {
    let payload = Payload { msg: sealed, aad: place };
    let opened = ChaCha20Poly1305::new(Key::from_slice(key)).decrypt(&Nonce::default(), payload);
    opened.map(Zeroizing::new).map_err(|_| SealedError::Changed)
}

/// Seals a secret to nodes.
///
/// # Errors
/// When there is no node, or too many, a key is none, the secret is too long, or the system gives no random numbers.
pub fn seal(
    place: &Place<'_>,
    secret: &[u8],
    nodes: &BTreeSet<PublicKey>,
) -> Result<Sealed, SealedError> {
    if nodes.is_empty() {
        return Err(SealedError::Nobody);
    }
    if nodes.len() > limits::SEALED_KEYS {
        return Err(SealedError::TooMany(nodes.len()));
    }
    let (secret, place) = (pad(secret)?, place.bytes());
    let ephemeral = SecretKey::generate()?;
    let content = SecretKey::generate()?.to_seed();
    let public = ephemeral.public();
    let mut keys = BTreeMap::new();
    for node in nodes {
        let key = shared(&ephemeral, node, &public, node, &place)
            .ok_or_else(|| SealedError::Key(node.short().to_string()))?;
        keys.insert(*node, encrypt(&key, content.as_slice(), &place)?);
    }
    Ok(Sealed { ephemeral: public, keys, text: encrypt(&content, &secret, &place)? })
}

/// Opens a secret with a node's key.
///
/// # Errors
/// When it was sealed to others, for something else, or was changed.
pub fn open(
    place: &Place<'_>,
    sealed: &Sealed,
    node: &SecretKey,
) -> Result<Zeroizing<Vec<u8>>, SealedError> {
    let (public, place) = (node.public(), place.bytes());
    let own = sealed.keys.get(&public).ok_or(SealedError::NotOurs)?;
    let key = shared(node, &sealed.ephemeral, &sealed.ephemeral, &public, &place)
        .ok_or(SealedError::Changed)?;
    let content = decrypt(&key, own, &place)?;
    let content: &[u8; 32] = content.as_slice().try_into().map_err(|_| SealedError::Changed)?;
    unpad(&decrypt(content, &sealed.text, &place)?).ok_or(SealedError::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "ipmi://10.0.0.5";

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn keys(of: impl IntoIterator<Item = u8>) -> BTreeSet<PublicKey> {
        of.into_iter().map(|n| key(n).public()).collect()
    }

    fn check(f: impl FnOnce(&Place<'_>)) {
        let (cluster, machine) = (ClusterId(Hash([1; 32])), MachineId([2; 16]));
        f(&Place { cluster: &cluster, machine: &machine, controller: LINE });
    }

    #[test]
    fn only_those_whom_it_is_sealed_to_open_it() {
        check(|place| {
            let sealed = seal(place, b"admin\0secret", &keys(1..=3)).unwrap();
            assert!(sealed.is_bounded());
            for n in 1..=3 {
                assert_eq!(open(place, &sealed, &key(n)).unwrap().as_slice(), b"admin\0secret");
            }
            assert!(matches!(open(place, &sealed, &key(4)), Err(SealedError::NotOurs)));
            // who takes another's place in it gains nothing
            let mut stolen = sealed.clone();
            let theirs = stolen.keys.remove(&key(1).public()).unwrap();
            stolen.keys.insert(key(4).public(), theirs);
            assert!(matches!(open(place, &stolen, &key(4)), Err(SealedError::Changed)));
            // no two sealings have a key in common
            let again = seal(place, b"admin\0secret", &keys(1..=3)).unwrap();
            assert_ne!((sealed.ephemeral, &sealed.text), (again.ephemeral, &again.text));
        });
    }

    #[test]
    fn a_secret_that_is_moved_does_not_open() {
        check(|place| {
            let sealed = seal(place, b"secret", &keys([1])).unwrap();
            let (cluster, machine) = (ClusterId(Hash([9; 32])), MachineId([9; 16]));
            for elsewhere in [
                Place { cluster: &cluster, ..*place },
                Place { machine: &machine, ..*place },
                Place { controller: "ipmi://10.6.6.6", ..*place },
            ] {
                let opened = open(&elsewhere, &sealed, &key(1));
                assert!(matches!(opened, Err(SealedError::Changed)), "{opened:?}");
            }
        });
    }

    #[test]
    fn a_secret_that_is_changed_does_not_open() {
        check(|place| {
            let sealed = seal(place, b"secret", &keys([1])).unwrap();
            let node = key(1).public();
            for at in 0..sealed.text.len() {
                let mut changed = sealed.clone();
                changed.text[at] ^= 1;
                assert!(open(place, &changed, &key(1)).is_err());
            }
            for at in 0..limits::SEALED_KEY {
                let mut changed = sealed.clone();
                changed.keys.get_mut(&node).unwrap()[at] ^= 1;
                assert!(open(place, &changed, &key(1)).is_err());
            }
            for ephemeral in [key(7).public(), PublicKey([0; 32]), PublicKey([1; 32])] {
                let changed = Sealed { ephemeral, ..sealed.clone() };
                assert!(matches!(open(place, &changed, &key(1)), Err(SealedError::Changed)));
            }
        });
    }

    #[test]
    fn bounds_hold() {
        check(|place| {
            assert!(matches!(seal(place, b"x", &keys([])), Err(SealedError::Nobody)));
            assert!(matches!(seal(place, b"x", &keys(1..=65)), Err(SealedError::TooMany(65))));
            let long = vec![0; LONGEST + 1];
            assert!(matches!(seal(place, &long, &keys([1])), Err(SealedError::Length(_))));
            let weak = [PublicKey([0; 32])].into();
            assert!(matches!(seal(place, b"x", &weak), Err(SealedError::Key(_))));
            // with everything as large as it may be, it fits into a cell beside its line
            let sealed = seal(place, &vec![0; LONGEST], &keys(1..=64)).unwrap();
            let record = p2pinst_types::record::Controller {
                line: "x".repeat(limits::CONTROLLER),
                sealed: Some(sealed),
            };
            assert!(record.is_bounded());
            let bytes = p2pinst_types::codec::encode(&record).unwrap();
            assert!(bytes.len() <= limits::CELL_PAYLOAD, "{}", bytes.len());
        });
    }
}
