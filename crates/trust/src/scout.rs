//! How a scout becomes one: what it shows of itself, before it is anybody, and what it is given.
//!
//! A scout has the roots of its cluster and a key that it has just made. It sends a signed [`ScoutHello`] by plain HTTP to whatever
//! answers it; what comes back counts when it is a [`Welcome`] whose chain leads from those roots to that key. Nothing in either is secret.

use p2pinst_types::record::{Grant, Guise, Inventory, Invite, NodeCert, SignedCert, SignedRoot};
use p2pinst_types::{
    AssignmentId, Cell, ClusterId, Hlc, Kind, Mac, PublicKey, Signature, codec, limits,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::key::{Domain, SecretKey, verify_cell, verify_in};
use crate::policy;
use crate::root::RootChain;

/// What a scout shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoutHello {
    /// The cluster that it was made for.
    pub cluster: ClusterId,
    /// The key that it has made.
    pub key: PublicKey,
    /// Its interfaces; the one that it has started over is among them.
    pub macs: Vec<Mac>,
    /// What its machine is made of.
    pub inventory: Inventory,
    /// What shows that the order's code was typed at its console ([`crate::console`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Signature>,
    /// Where it will listen.
    pub addrs: Vec<String>,
}

/// The same with a signature by its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SignedHello {
    #[serde(with = "serde_bytes")]
    hello: Vec<u8>,
    signature: Signature,
}

/// What a scout is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Greeting {
    /// It is to ask again.
    Wait {
        /// Why, for people; at most [`limits::DESCRIPTION`] bytes.
        reason: String,
        /// After how many seconds.
        secs: u16,
        /// Where a code from the console would help: the salt of its key.
        code: Option<[u8; 16]>,
    },
    /// The machine has a system of its own, and there is nothing to be done: it is to start that.
    Leave {
        /// Why, for people; at most [`limits::DESCRIPTION`] bytes.
        reason: String,
    },
    /// It is one.
    Welcome(Box<Welcome>),
}

/// The chain that a scout shows from then on, and whom it shows it to first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The chain of roots.
    pub roots: Vec<SignedRoot>,
    /// The cell that grants the boot role.
    #[serde(with = "serde_bytes")]
    pub grant: Vec<u8>,
    /// The cell of the invite.
    #[serde(with = "serde_bytes")]
    pub invite: Vec<u8>,
    /// The certificate.
    pub cert: SignedCert,
    /// Addresses of members; at most [`limits::ADDRS`].
    pub bootstrap: Vec<String>,
}

/// A welcome whose chain holds.
#[derive(Debug, Clone)]
pub struct Welcomed {
    /// The chain of roots, ours or a continuation of ours.
    pub roots: RootChain,
    /// The invite.
    pub invite: Invite,
    /// The certificate.
    pub cert: NodeCert,
    /// What the machine is to do.
    pub assignment: AssignmentId,
    /// When the invite was written, by the cluster's clock.
    pub written: Hlc,
}

/// What a scout is made with: whose it is. Public: everybody on a segment can read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoutCluster {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its chain of roots.
    pub roots: Vec<SignedRoot>,
    /// Addresses of members, where nothing on the segment answers; at most [`limits::ADDRS`].
    pub peers: Vec<String>,
}

/// What was said is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScoutError {
    /// It cannot be read, or is too large.
    #[error("the message cannot be read")]
    Malformed,
    /// The signature is not its key's.
    #[error("the message is not signed by its key")]
    Signature,
    /// It is for another cluster.
    #[error("the message is for another cluster")]
    WrongCluster,
    /// The chain does not lead from the root to the key.
    #[error("the chain does not lead from the cluster's root to this key")]
    NotCertified,
}

impl ScoutCluster {
    /// Where it is in a scout.
    pub const PATH: &'static str = "etc/p2pinst/cluster.cbor";
    /// The longest that is read: a chain of as many roots as there may be, and some addresses.
    pub const MAX: usize = limits::FRAME;

    /// As a file.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, codec::CodecError> {
        codec::encode(self)
    }

    /// Reads and verifies the file: the roots lead from the cluster's first one.
    ///
    /// # Errors
    /// When it is none, or the chain does not hold.
    pub fn decode(bytes: &[u8]) -> Result<(Self, RootChain), ScoutError> {
        if bytes.len() > Self::MAX {
            return Err(ScoutError::Malformed);
        }
        let this: Self = codec::decode(bytes).map_err(|_| ScoutError::Malformed)?;
        if this.roots.len() > limits::ROOTS || this.peers.len() > limits::ADDRS {
            return Err(ScoutError::Malformed);
        }
        let roots = RootChain::verify(this.cluster, this.roots.clone());
        let roots = roots.map_err(|_| ScoutError::WrongCluster)?;
        Ok((this, roots))
    }
}

impl ScoutHello {
    /// Signs it with its key, and encodes it.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn sign(&self, key: &SecretKey) -> Result<Vec<u8>, codec::CodecError> {
        let hello = codec::encode(self)?;
        let signature = key.sign_in(Domain::ScoutHello, Some(&self.cluster), &hello);
        codec::encode(&SignedHello { hello, signature })
    }

    /// Reads and verifies one for a cluster.
    ///
    /// # Errors
    /// When it is not one of that cluster, signed by its key and within its bounds.
    pub fn verify(bytes: &[u8], cluster: &ClusterId) -> Result<Self, ScoutError> {
        if bytes.len() > limits::SCOUT_HELLO {
            return Err(ScoutError::Malformed);
        }
        let signed: SignedHello = codec::decode(bytes).map_err(|_| ScoutError::Malformed)?;
        let hello: Self = codec::decode(&signed.hello).map_err(|_| ScoutError::Malformed)?;
        if hello.cluster != *cluster {
            return Err(ScoutError::WrongCluster);
        }
        let (body, signature) = (&signed.hello, &signed.signature);
        if !verify_in(Domain::ScoutHello, Some(cluster), &hello.key, body, signature) {
            return Err(ScoutError::Signature);
        }
        let bounded = hello.macs.len() <= limits::HARDWARE_NICS
            && hello.inventory.is_bounded()
            && hello.addrs.len() <= limits::ADDRS
            && hello.addrs.iter().all(|a| a.len() <= 256);
        if bounded { Ok(hello) } else { Err(ScoutError::Malformed) }
    }
}

impl Welcome {
    /// Verifies the chain from the roots that are known to a key, for a machine in a guise.
    ///
    /// # Errors
    /// When the chain does not hold.
    pub fn verify(
        &self,
        ours: &RootChain,
        key: &PublicKey,
        guise: Guise,
    ) -> Result<Welcomed, ScoutError> {
        let mut roots = ours.clone();
        roots.extend(&self.roots).map_err(|_| ScoutError::WrongCluster)?;
        let cell = |bytes: &[u8], kind: Kind| {
            let cell = Cell::parse(bytes.to_vec()).map_err(|_| ScoutError::Malformed)?;
            let good = cell.id.kind == kind && verify_cell(roots.cluster(), &cell);
            good.then_some(cell).ok_or(ScoutError::NotCertified)
        };
        let grant_cell = cell(&self.grant, Kind::GRANT)?;
        let grant: Grant = grant_cell.record().map_err(|_| ScoutError::Malformed)?;
        let uncertified = |_| ScoutError::NotCertified;
        policy::check_grant(&roots, &grant_cell, &grant).map_err(uncertified)?;
        let invite_cell = cell(&self.invite, Kind::INVITE)?;
        let invite: Invite = invite_cell.record().map_err(|_| ScoutError::Malformed)?;
        let may = policy::allows(&grant, policy::roles_for_invite(&invite), invite_cell.hlc);
        let cert = policy::check_cert(&roots, &invite, &self.cert).map_err(uncertified)?;
        let boot = invite.boot.filter(|b| b.guise == guise);
        let (Some(boot), true) = (boot, invite_cell.id.author == grant.key && may) else {
            return Err(ScoutError::NotCertified);
        };
        if cert.node != *key || self.bootstrap.len() > limits::ADDRS {
            return Err(ScoutError::NotCertified);
        }
        let (assignment, written) = (boot.assignment, invite_cell.hlc);
        Ok(Welcomed { roots, invite, cert, assignment, written })
    }
}
