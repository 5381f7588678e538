//! Identities: of keys, clusters, machines, releases and deployments.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bytes::{Hash, bytes_newtype};

/// A text that does not name what it should name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a {what}")]
pub struct IdError {
    /// What was expected.
    pub what: &'static str,
    /// The text given, cut at 80 characters.
    pub text: String,
}

bytes_newtype!(
    /// An ed25519 public key (RFC 8032).
    PublicKey,
    32
);
bytes_newtype!(
    /// An ed25519 signature (RFC 8032).
    Signature,
    64
);
bytes_newtype!(
    /// A machine: an entry of the roster. It outlives the key that the machine uses now.
    MachineId,
    16
);
bytes_newtype!(
    /// A deployment: the first half of a hash over its author and payload.
    DeploymentId,
    16
);
bytes_newtype!(
    /// What one machine is to do at its next start over the network.
    AssignmentId,
    16
);
bytes_newtype!(
    /// An order about one machine's power.
    PowerOrderId,
    16
);

/// A cluster: `blake3(root document v1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Hash);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A release: the hash of its signed manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseId(pub Hash);

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An image: the hash of its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Hash);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A host setup: the hash of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetupId(pub Hash);

impl fmt::Display for SetupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an identity multihash of an ed25519 key in protobuf begins with: the text form of a
/// libp2p PeerId is base58 of this and the key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A node: the key of a machine's running `p2pinstd`. Shown as its libp2p PeerId (`12D3Koo…`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub PublicKey);

impl NodeId {
    /// The last eight characters of the PeerId (all of them begin alike): for people.
    #[must_use]
    pub fn short(&self) -> String {
        let text = self.to_string();
        text.chars().skip(text.chars().count().saturating_sub(8)).collect()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = PEER_ID_PREFIX.to_vec();
        bytes.extend_from_slice(self.0.as_bytes());
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId(…{})", self.short())
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError { what: "node id", text: text.chars().take(80).collect() };
        if text.len() > 64 {
            return Err(error());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| error())?;
        let key = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or_else(error)?;
        PublicKey::from_slice(key).map(Self).ok_or_else(error)
    }
}

impl Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = String::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            PublicKey::deserialize(d).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_peer_ids() {
        let id = NodeId(PublicKey([7; 32]));
        let text = id.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(text.parse::<NodeId>().unwrap(), id);
        assert!("12D3KooW".parse::<NodeId>().is_err());
        assert!("x".repeat(1000).parse::<NodeId>().is_err());
    }

    #[test]
    fn hashes_are_hex_for_people_and_bytes_on_the_wire() {
        let hash = Hash::of(b"x");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        let cbor = crate::codec::encode(&hash).unwrap();
        assert_eq!(cbor.len(), 34);
        assert_eq!(crate::codec::decode::<Hash>(&cbor).unwrap(), hash);
        assert!(crate::codec::decode::<Signature>(&cbor).is_err());
    }
}
