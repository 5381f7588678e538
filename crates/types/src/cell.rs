//! The cell: the unit of replicated state. One signed, versioned value with one writer for ever.
//!
//! ```text
//! offset  size  field (integers big-endian)
//!      0     1  magic 0xC1: the layout of this header, frozen
//!      1     1  format: how the payload is encoded (1 = CBOR of the kind's record)
//!      2     2  kind
//!      4    32  author, an ed25519 public key
//!     36     8  incarnation
//!     44     8  seq
//!     52     8  hlc
//!     60     1  length of the subject, at most 64
//!     61     1  length of the slot, at most 32
//!     62     2  length of the payload, at most 8192
//!     64        subject, slot, payload
//!   last    64  ed25519 signature over the domain, the cluster id and all bytes before it
//! ```
//!
//! The bytes are stored and forwarded as they came. Because the header never changes, a cell of
//! an unknown kind or format can still be verified, merged and passed on.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bytes::Hash;
use crate::codec::{self, CodecError};
use crate::id::{ClusterId, PublicKey, Signature};
use crate::limits;
use crate::time::Hlc;

const MAGIC: u8 = 0xC1;
/// The payload encoding that this version writes: CBOR of the kind's record.
pub const FORMAT_CBOR: u8 = 1;
const HEADER: usize = 64;
const DOMAIN: &[u8] = b"p2pinst/cell/1\0";

/// Which nodes hold a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plane {
    /// Every node.
    Control,
    /// The R nodes closest to its key.
    Data,
}

/// What a cell is about. Numbers from `0x8000` are on the data plane, also those that this
/// version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kind(pub u16);

impl Kind {
    /// A power given to a key by the root.
    pub const GRANT: Self = Self(1);
    /// A permission to join, given by an operator.
    pub const INVITE: Self = Self(2);
    /// A machine of the roster.
    pub const ADMISSION: Self = Self(3);
    /// A key that is no longer trusted.
    pub const REVOCATION: Self = Self(4);
    /// A named set of machines.
    pub const GROUP: Self = Self(5);
    /// A signed manifest.
    pub const RELEASE: Self = Self(6);
    /// An order: a release to a group.
    pub const DEPLOYMENT: Self = Self(7);
    /// Machines added to a group, or taken out of it, one by one.
    pub const GROUP_EDIT: Self = Self(8);
    /// A label of a machine.
    pub const LABEL: Self = Self(9);
    /// The name of a machine that was given another.
    pub const MACHINE_NAME: Self = Self(10);
    /// A deployment that is over: its records are dropped, and refused for ever.
    pub const RETIREMENT: Self = Self(11);
    /// The grants of former roots that go on under a new one.
    pub const STANDING: Self = Self(12);
    /// A machine that is known before anything of ours runs on it.
    pub const ADOPTION: Self = Self(13);
    /// A published image.
    pub const IMAGE: Self = Self(14);
    /// A host setup.
    pub const SETUP: Self = Self(15);
    /// What a machine does at its next start over the network.
    pub const ASSIGNMENT: Self = Self(16);
    /// An assignment that is over.
    pub const DISARMAMENT: Self = Self(17);
    /// An unknown machine that was seen.
    pub const SIGHTING: Self = Self(18);
    /// By what a machine's power is switched.
    pub const CONTROLLER: Self = Self(19);
    /// An order about a machine's power.
    pub const POWER_ORDER: Self = Self(20);
    /// The credentials of a controller, sealed anew.
    pub const RESEALED: Self = Self(21);
    /// An image that is published no more.
    pub const IMAGE_REMOVAL: Self = Self(22);
    /// What a group asks of machines that are installed into it.
    pub const GROUP_POLICY: Self = Self(23);
    /// What a node says of itself: addresses, version.
    pub const NODE_RECORD: Self = Self(0x8001);
    /// A segment of a machine's install history.
    pub const HISTORY: Self = Self(0x8002);
    /// How far a machine is with a deployment.
    pub const STATUS: Self = Self(0x8003);
    /// How far a machine is with its assignment.
    pub const BOOT_STATUS: Self = Self(0x8004);
    /// What a machine is made of.
    pub const INVENTORY: Self = Self(0x8005);
    /// What came of switching a machine's power.
    pub const POWER_STATUS: Self = Self(0x8006);

    /// The kinds of the data plane.
    pub const DATA: [Self; 6] = [
        Self::NODE_RECORD,
        Self::HISTORY,
        Self::STATUS,
        Self::BOOT_STATUS,
        Self::INVENTORY,
        Self::POWER_STATUS,
    ];

    /// Which nodes hold cells of this kind.
    #[must_use]
    pub fn plane(self) -> Plane {
        if self.0 < 0x8000 { Plane::Control } else { Plane::Data }
    }

    /// Whether this version understands the kind.
    #[must_use]
    pub fn is_known(self) -> bool {
        matches!(self.0, 1..=23 | 0x8001..=0x8006)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::GRANT => "grant",
            Self::INVITE => "invite",
            Self::ADMISSION => "admission",
            Self::REVOCATION => "revocation",
            Self::GROUP => "group",
            Self::RELEASE => "release",
            Self::DEPLOYMENT => "deployment",
            Self::GROUP_EDIT => "group edit",
            Self::LABEL => "label",
            Self::MACHINE_NAME => "machine name",
            Self::RETIREMENT => "retirement",
            Self::STANDING => "list of standing grants",
            Self::ADOPTION => "adoption",
            Self::IMAGE => "image",
            Self::SETUP => "host setup",
            Self::ASSIGNMENT => "assignment",
            Self::DISARMAMENT => "disarmament",
            Self::SIGHTING => "sighting",
            Self::CONTROLLER => "controller",
            Self::POWER_ORDER => "power order",
            Self::RESEALED => "resealed credentials",
            Self::IMAGE_REMOVAL => "image removal",
            Self::GROUP_POLICY => "group policy",
            Self::POWER_STATUS => "power status",
            Self::BOOT_STATUS => "boot status",
            Self::INVENTORY => "inventory",
            Self::NODE_RECORD => "node record",
            Self::HISTORY => "history",
            Self::STATUS => "status",
            Self(other) => return write!(f, "kind {other:#06x}"),
        })
    }
}

/// The place of a cell: what it is about, and who alone may write it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CellId {
    /// What it is about.
    pub kind: Kind,
    /// Which thing of that kind; at most [`limits::CELL_SUBJECT`] bytes.
    #[serde(with = "serde_bytes")]
    pub subject: Vec<u8>,
    /// Which aspect of that thing; at most [`limits::CELL_SLOT`] bytes.
    #[serde(with = "serde_bytes")]
    pub slot: Vec<u8>,
    /// The one key that writes it.
    pub author: PublicKey,
}

/// The version of a cell: `(incarnation, seq)`. On the control plane `seq` counts all cells of
/// the author, on the data plane the versions of the cell.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version {
    /// Which life of the writer: a writer that lost its memory begins a new one.
    pub incarnation: u64,
    /// From 1, rising by one.
    pub seq: u64,
}

/// Bytes that are not a cell.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CellError {
    /// Shorter than the header says, or longer.
    #[error("a cell of {len} bytes does not have the length its header says")]
    Length {
        /// How many bytes there were.
        len: usize,
    },
    /// Not a cell at all.
    #[error("the first byte is {0:#04x}, not that of a cell")]
    Magic(u8),
    /// A field is longer than it may be.
    #[error("the {field} has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },
}

/// A parsed cell with the bytes it came in; cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Cell(Arc<Parsed>);

/// What a [`Cell`] is made of.
#[derive(PartialEq, Eq)]
pub struct Parsed {
    bytes: Vec<u8>,
    hash: Hash,
    /// Its place.
    pub id: CellId,
    /// Its version.
    pub version: Version,
    /// When it was written.
    pub hlc: Hlc,
    /// How the payload is encoded.
    pub format: u8,
}

impl Deref for Cell {
    type Target = Parsed;
    fn deref(&self) -> &Parsed {
        &self.0
    }
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parsed").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell")
            .field("kind", &self.id.kind)
            .field("author", &self.id.author)
            .field("version", &self.version)
            .field("hlc", &self.hlc)
            .field("payload", &self.payload().len())
            .finish_non_exhaustive()
    }
}

fn bounded(field: &'static str, len: usize, max: usize) -> Result<(), CellError> {
    if len > max { Err(CellError::TooLong { field, len, max }) } else { Ok(()) }
}

/// A reader of big-endian fields.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_be_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

impl Cell {
    /// Parses a cell. Does not verify its signature.
    ///
    /// # Errors
    /// When the bytes are not exactly one cell within the bounds.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, CellError> {
        let len = bytes.len();
        Self::read(&mut Fields(&bytes), len)
            .map(|(id, version, hlc, format)| Self::of(bytes, id, version, hlc, format))
    }

    fn of(bytes: Vec<u8>, id: CellId, version: Version, hlc: Hlc, format: u8) -> Self {
        let hash = Hash::of(&bytes);
        Self(Arc::new(Parsed { bytes, hash, id, version, hlc, format }))
    }

    fn read(fields: &mut Fields<'_>, len: usize) -> Result<(CellId, Version, Hlc, u8), CellError> {
        let short = || CellError::Length { len };
        match fields.u8() {
            Some(MAGIC) => {}
            Some(other) => return Err(CellError::Magic(other)),
            None => return Err(short()),
        }
        let format = fields.u8().ok_or_else(short)?;
        let kind = Kind(fields.u16().ok_or_else(short)?);
        let author = PublicKey(fields.array().ok_or_else(short)?);
        let incarnation = fields.u64().ok_or_else(short)?;
        let seq = fields.u64().ok_or_else(short)?;
        let hlc = Hlc(fields.u64().ok_or_else(short)?);
        let subject_len = usize::from(fields.u8().ok_or_else(short)?);
        let slot_len = usize::from(fields.u8().ok_or_else(short)?);
        let payload_len = usize::from(fields.u16().ok_or_else(short)?);
        bounded("subject", subject_len, limits::CELL_SUBJECT)?;
        bounded("slot", slot_len, limits::CELL_SLOT)?;
        bounded("payload", payload_len, limits::CELL_PAYLOAD)?;
        let subject = fields.take(subject_len).ok_or_else(short)?.to_vec();
        let slot = fields.take(slot_len).ok_or_else(short)?.to_vec();
        fields.take(payload_len).ok_or_else(short)?;
        fields.take(Signature::LEN).ok_or_else(short)?;
        if !fields.0.is_empty() {
            return Err(short());
        }
        Ok((CellId { kind, subject, slot, author }, Version { incarnation, seq }, hlc, format))
    }

    /// The bytes as they came, signature included.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The payload, in the encoding that `format` names.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let start = HEADER + self.id.subject.len() + self.id.slot.len();
        self.bytes.get(start..self.bytes.len() - Signature::LEN).unwrap_or_default()
    }

    /// Decodes the payload as the record of its kind.
    ///
    /// # Errors
    /// When the format is unknown or the payload is not such a record.
    pub fn record<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        if self.format != FORMAT_CBOR {
            return Err(CodecError::Decode {
                len: self.payload().len(),
                reason: format!("payload format {} needs a newer version of p2pinst", self.format),
            });
        }
        codec::decode(self.payload())
    }

    /// The signature at the end.
    #[must_use]
    pub fn signature(&self) -> Signature {
        let at = self.bytes.len() - Signature::LEN;
        self.bytes.get(at..).and_then(Signature::from_slice).unwrap_or(Signature([0; 64]))
    }

    /// What the signature is over.
    #[must_use]
    pub fn signed_message(&self, cluster: &ClusterId) -> Vec<u8> {
        let at = self.bytes.len() - Signature::LEN;
        signed_message(cluster, self.bytes.get(..at).unwrap_or_default())
    }

    /// blake3 of the bytes.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// The order of versions of one cell: by version, then by hash. A total order, so that the
    /// maximum is a join-semilattice.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        self.version.cmp(&other.version).then_with(|| self.hash().cmp(&other.hash()))
    }

    /// The join: the greater of two versions of one cell.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if other.order(&self).is_gt() { other } else { self }
    }
}

fn signed_message(cluster: &ClusterId, body: &[u8]) -> Vec<u8> {
    [DOMAIN, cluster.0.as_bytes(), body].concat()
}

/// A cell about to be signed.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its place.
    pub id: CellId,
    /// Its version.
    pub version: Version,
    /// When it is written.
    pub hlc: Hlc,
    /// The payload, as CBOR.
    pub payload: Vec<u8>,
}

impl Draft {
    /// Signs the draft with `sign`, which is given the message of `cluster`.
    ///
    /// # Errors
    /// When a field is longer than it may be.
    pub fn sign(
        self,
        cluster: &ClusterId,
        sign: impl FnOnce(&[u8]) -> Signature,
    ) -> Result<Cell, CellError> {
        let Self { id, version, hlc, payload } = self;
        bounded("subject", id.subject.len(), limits::CELL_SUBJECT)?;
        bounded("slot", id.slot.len(), limits::CELL_SLOT)?;
        bounded("payload", payload.len(), limits::CELL_PAYLOAD)?;
        let small = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        let mut bytes = Vec::with_capacity(HEADER + 128 + payload.len());
        bytes.extend_from_slice(&[MAGIC, FORMAT_CBOR]);
        bytes.extend_from_slice(&id.kind.0.to_be_bytes());
        bytes.extend_from_slice(id.author.as_bytes());
        bytes.extend_from_slice(&version.incarnation.to_be_bytes());
        bytes.extend_from_slice(&version.seq.to_be_bytes());
        bytes.extend_from_slice(&hlc.0.to_be_bytes());
        bytes.extend_from_slice(&[small(id.subject.len()), small(id.slot.len())]);
        bytes.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(&id.subject);
        bytes.extend_from_slice(&id.slot);
        bytes.extend_from_slice(&payload);
        let signature = sign(&signed_message(cluster, &bytes));
        bytes.extend_from_slice(signature.as_bytes());
        Ok(Cell::of(bytes, id, version, hlc, FORMAT_CBOR))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cell(seq: u64, payload: &[u8]) -> Cell {
        let id = CellId {
            kind: Kind::GROUP,
            subject: b"gpu".to_vec(),
            slot: vec![],
            author: PublicKey([1; 32]),
        };
        let version = Version { incarnation: 2, seq };
        Draft { id, version, hlc: Hlc(4), payload: payload.to_vec() }
            .sign(&ClusterId(Hash([9; 32])), |_| Signature([5; 64]))
            .unwrap()
    }

    #[test]
    fn golden_cell() {
        let golden = concat!(
            "c1010005",
            "0101010101010101010101010101010101010101010101010101010101010101",
            "0000000000000002",
            "0000000000000003",
            "0000000000000004",
            "03000002",
            "677075",
            "f607",
        );
        let cell = cell(3, &[0xf6, 7]);
        let text = data_encoding::HEXLOWER.encode(cell.bytes());
        assert_eq!(text, format!("{golden}{}", "05".repeat(64)));
        assert_eq!(Cell::parse(cell.bytes().to_vec()).unwrap(), cell);
        assert_eq!(cell.payload(), [0xf6, 7]);
        let signed = cell.signed_message(&ClusterId(Hash([9; 32])));
        assert!(signed.starts_with(b"p2pinst/cell/1\0\x09\x09"));
        assert_eq!(signed.len(), 15 + 32 + 64 + 3 + 2);
    }

    #[test]
    fn an_unknown_kind_and_format_still_parses() {
        let mut bytes = cell(3, b"??").bytes().to_vec();
        bytes[1] = 9;
        bytes[2] = 0x7f;
        let parsed = Cell::parse(bytes).unwrap();
        assert!(!parsed.id.kind.is_known() && parsed.id.kind.plane() == Plane::Control);
        assert!(parsed.record::<u8>().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(Cell::parse(bytes.clone()));
            let mut mangled = cell(1, &bytes).bytes().to_vec();
            prop_assert!(Cell::parse(mangled.clone()).is_ok());
            mangled.truncate(mangled.len().saturating_sub(1));
            prop_assert!(Cell::parse(mangled).is_err());
        }

        #[test]
        fn merge_laws(versions in proptest::collection::vec((0u64..3, any::<[u8; 2]>()), 3)) {
            let c: Vec<Cell> = versions.iter().map(|(s, p)| cell(*s, p)).collect();
            let [x, y, z] = [c[0].clone(), c[1].clone(), c[2].clone()];
            prop_assert_eq!(x.clone().merge(y.clone()), y.clone().merge(x.clone()));
            prop_assert_eq!(x.clone().merge(x.clone()), x.clone());
            prop_assert_eq!(x.clone().merge(y.clone()).merge(z.clone()), x.merge(y.merge(z)));
        }
    }
}
