//! What two nodes show each other inside the encrypted connection, before any other protocol.
//!
//! The dialler sends its [`Hello`]; the listener answers with one byte, zero and its own hello or
//! a [`Refusal`]; the dialler ends with one byte of the same meaning. Both messages are bounded by
//! [`p2pinst_types::limits::HELLO`].

use std::fmt;

use p2pinst_types::record::{Grant, Invite, NodeCert, SignedCert, SignedRoot};
use p2pinst_types::{Cell, Kind, Millis, PublicKey, codec, limits};
use serde::{Deserialize, Serialize};

use crate::key::verify_cell;
use crate::policy;
use crate::root::{RootChain, RootError};

/// A node's credentials and what the other side needs to know at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The chain of roots that the node knows.
    pub roots: Vec<SignedRoot>,
    /// The cell that grants its inviter the power to invite.
    #[serde(with = "serde_bytes")]
    pub grant: Vec<u8>,
    /// The cell of its invite.
    #[serde(with = "serde_bytes")]
    pub invite: Vec<u8>,
    /// Its certificate.
    pub cert: SignedCert,
    /// The cell of its admission; empty when it joins.
    #[serde(with = "serde_bytes")]
    pub admission: Vec<u8>,
    /// Which life of the node this is.
    pub incarnation: u64,
    /// Its local clock.
    pub clock: Millis,
    /// Where it listens.
    pub addrs: Vec<String>,
    /// Its version of p2pinst.
    pub version: String,
}

/// Why a connection is refused: one byte on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Refusal {
    /// The message could not be read.
    Malformed = 1,
    /// The other side belongs to another cluster.
    WrongCluster = 2,
    /// The chain from the root to the certificate does not hold, or is for another key.
    NotCertified = 3,
    /// The invite has expired and no admission is shown.
    Expired = 4,
    /// The key, its invite or its inviter is revoked.
    Revoked = 5,
    /// Another machine has the name.
    NameTaken = 6,
    /// The invite has been used as often as it may be.
    UsedUp = 7,
    /// The same key is live elsewhere in another incarnation: a cloned disk.
    Cloned = 8,
    /// The admission is not (yet) known to be a member's.
    NotAdmitted = 9,
    /// The node cannot answer now (its store does not, or it is stopping).
    Unavailable = 10,
}

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::WrongCluster,
        Self::NotCertified,
        Self::Expired,
        Self::Revoked,
        Self::NameTaken,
        Self::UsedUp,
        Self::Cloned,
        Self::NotAdmitted,
        Self::Unavailable,
    ];

    /// Reads the byte of the wire.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|r| *r as u8 == byte)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the handshake could not be read",
            Self::WrongCluster => "it belongs to another cluster",
            Self::NotCertified => "its certificate is not one of this cluster",
            Self::Expired => "its invite has expired, and it was never admitted",
            Self::Revoked => "its certificate is revoked",
            Self::NameTaken => "another machine already has its name",
            Self::UsedUp => "its invite has been used as often as it may be",
            Self::Cloned => "its key is in use on another machine (a cloned disk?)",
            Self::NotAdmitted => "it is not a known member",
            Self::Unavailable => "the node cannot admit anyone now",
        })
    }
}

impl std::error::Error for Refusal {}

/// A hello whose chain holds. Whether it is still welcome is for the roster to say.
#[derive(Debug, Clone)]
pub struct Presented {
    /// The chain of roots, ours or a continuation of ours.
    pub roots: RootChain,
    /// The cell of the grant.
    pub grant: Cell,
    /// The cell of the invite.
    pub invite_cell: Cell,
    /// The invite.
    pub invite: Invite,
    /// The certificate as signed.
    pub signed: SignedCert,
    /// The certificate.
    pub cert: NodeCert,
    /// The cell of the admission, where one is shown; its signature holds, its author is unknown.
    pub admission: Option<Cell>,
    /// Which life of the node this is.
    pub incarnation: u64,
    /// Its local clock.
    pub clock: Millis,
    /// Where it says that it listens.
    pub addrs: Vec<String>,
}

fn cell(ours: &RootChain, bytes: &[u8], kind: Kind) -> Result<Cell, Refusal> {
    let cell = Cell::parse(bytes.to_vec()).map_err(|_| Refusal::Malformed)?;
    if cell.id.kind == kind && verify_cell(ours.cluster(), &cell) {
        Ok(cell)
    } else {
        Err(Refusal::NotCertified)
    }
}

impl Hello {
    /// Encodes the hello.
    ///
    /// # Errors
    /// When it is longer than a hello may be.
    pub fn encode(&self) -> Result<Vec<u8>, codec::CodecError> {
        let bytes = codec::encode(self)?;
        if bytes.len() > limits::HELLO {
            let reason = format!("a hello of {} bytes is too long", bytes.len());
            return Err(codec::CodecError::Encode(reason));
        }
        Ok(bytes)
    }

    /// Whether a hello proves that the root keys of our cluster have made two different roots of one
    /// version: which version.
    #[must_use]
    pub fn fork(bytes: &[u8], ours: &RootChain) -> Option<u64> {
        let hello: Self = codec::decode(bytes).ok()?;
        let mut theirs = RootChain::verify(*ours.cluster(), hello.roots).ok()?;
        match theirs.extend(ours.signed()) {
            Err(RootError::Fork(version)) => Some(version),
            _ => None,
        }
    }

    /// Verifies the chain from the root of our cluster to the key of the connection.
    ///
    /// # Errors
    /// The reason, which the other side may be told.
    pub fn verify(bytes: &[u8], ours: &RootChain, peer: &PublicKey) -> Result<Presented, Refusal> {
        let hello: Self = codec::decode(bytes).map_err(|_| Refusal::Malformed)?;
        let bounded = hello.addrs.len() <= limits::ADDRS
            && hello.addrs.iter().all(|a| a.len() <= 256)
            && hello.version.len() <= 64;
        if !bounded {
            return Err(Refusal::Malformed);
        }
        let mut roots = ours.clone();
        roots.extend(&hello.roots).map_err(|e| match e {
            RootError::WrongCluster => Refusal::WrongCluster,
            _ => Refusal::NotCertified,
        })?;
        let uncertified = |_| Refusal::NotCertified;
        let grant_cell = cell(ours, &hello.grant, Kind::GRANT)?;
        let grant: Grant = grant_cell.record().map_err(|_| Refusal::Malformed)?;
        policy::check_grant(&roots, &grant_cell, &grant).map_err(uncertified)?;
        let invite_cell = cell(ours, &hello.invite, Kind::INVITE)?;
        let invite: Invite = invite_cell.record().map_err(|_| Refusal::Malformed)?;
        let may_invite = policy::allows(&grant, policy::roles_for_invite(&invite), invite_cell.hlc);
        if invite_cell.id.author != grant.key || !may_invite {
            return Err(Refusal::NotCertified);
        }
        let cert = policy::check_cert(&roots, &invite, &hello.cert).map_err(uncertified)?;
        if cert.node != *peer {
            return Err(Refusal::NotCertified);
        }
        let admission = match hello.admission.as_slice() {
            [] => None,
            bytes => Some(cell(ours, bytes, Kind::ADMISSION)?),
        };
        Ok(Presented {
            roots,
            grant: grant_cell,
            invite_cell,
            invite,
            signed: hello.cert,
            cert,
            admission,
            incarnation: hello.incarnation,
            clock: hello.clock,
            addrs: hello.addrs,
        })
    }
}
