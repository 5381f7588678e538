//! Records of trust: who may do what, and who is a member.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Hash;
use crate::cell::Version;
use crate::id::{IdError, MachineId, PublicKey, Signature};
use crate::name::{LabelValue, Labels, Name};
use crate::record::boot::BootUse;
use crate::time::Millis;

/// Version N of the root of trust: an m-of-n set of keys. The hash of version 1 is the cluster id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDoc {
    /// From 1, rising by one.
    pub version: u64,
    /// The cluster's name, for people.
    pub cluster: Name,
    /// The keys; at most [`crate::limits::ROOT_KEYS`].
    pub keys: BTreeSet<PublicKey>,
    /// How many of the keys must sign.
    pub threshold: u8,
    /// Random bytes, so that no two clusters share an id.
    pub nonce: u64,
    /// From version 2 on: the list of the grants of former roots that go on to count
    /// ([`Standing::id`]). The root is in force where that list is known. `None`: no grant goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Hash>,
}

/// What goes on to count when the root is replaced: the keys of former roots, which may be stolen,
/// give no power any more, and take none away. Named by its hash in [`RootDoc::standing`]. It names
/// at most [`crate::limits::STANDING`] cells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Hashes of the grants' cells.
    pub grants: BTreeSet<Hash>,
    /// Hashes of the cells of root keys' revocations.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revocations: BTreeSet<Hash>,
}

impl Standing {
    /// How many cells it names.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.grants.len() + self.revocations.len()
    }

    /// The list's id, from its encoding.
    #[must_use]
    pub fn id(list: &[u8]) -> Hash {
        Hash::of_parts("p2pinst/standing/1", &[list])
    }
}

/// A root document with signatures of keys of its own and, from version 2 on, of the version before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRoot {
    /// The encoded [`RootDoc`], verbatim.
    #[serde(with = "serde_bytes")]
    pub doc: Vec<u8>,
    /// Signatures over the document.
    pub signatures: Vec<(PublicKey, Signature)>,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Says who gets what: groups, deployments, invites, revocations of nodes.
    Operator,
    /// Says what is good: releases.
    Publisher,
    /// Invites only.
    Enroller,
    /// Answers network boots.
    Boot,
    /// Switches power.
    Power,
}

impl Role {
    /// Every role, in the order of the command line's help.
    pub const ALL: [Self; 5] =
        [Self::Operator, Self::Publisher, Self::Enroller, Self::Boot, Self::Power];

    /// The role's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Publisher => "publisher",
            Self::Enroller => "enroller",
            Self::Boot => "boot",
            Self::Power => "power",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::ALL.into_iter().find(|r| r.as_str() == text).ok_or_else(|| IdError {
            what: "role (operator, publisher, enroller, boot, power)",
            text: text.chars().take(80).collect(),
        })
    }
}

/// A power given by the root to a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The key that gets the power.
    pub key: PublicKey,
    /// The key's name, unique in the cluster: deployments are called after it (`alice-42`).
    pub name: Name,
    /// What the key may do.
    pub roles: BTreeSet<Role>,
    /// The power ends here; `None`: only by revocation.
    pub not_after: Option<Millis>,
    /// Signatures of further root keys over this grant with no co-signature, when the root's
    /// threshold is above one.
    pub cosigned: Vec<(PublicKey, Signature)>,
}

/// A permission to join, held by whoever has the invite's private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// The public half of the key that is in the token.
    pub key: PublicKey,
    /// The site that joining machines get.
    pub site: Name,
    /// The labels that joining machines get.
    pub labels: Labels,
    /// How many machines may join.
    pub uses: u32,
    /// No machine may join after this.
    pub not_after: Millis,
    /// The machine whose place the one that joins takes: it gets its name and its past.
    #[serde(default)]
    pub replaces: Option<MachineId>,
    /// What the machine is, when a node with the boot role invites it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootUse>,
}

/// A machine's certificate, signed by the invite that it joined with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCert {
    /// The node's own key.
    pub node: PublicKey,
    /// The name that the machine asks for.
    pub name: Name,
    /// The site, as in the invite.
    pub site: Name,
    /// The labels, as in the invite.
    pub labels: Labels,
    /// The multiaddresses that the machine listened on when it joined; at most
    /// [`crate::limits::ADDRS`]. Host expressions by address match these.
    pub addrs: Vec<String>,
    /// The invite that signs.
    pub invite: PublicKey,
    /// The machine whose place it takes, as in the invite: then that machine's name is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<MachineId>,
}

/// A certificate with its signature; the bytes are kept verbatim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCert {
    /// The encoded [`NodeCert`].
    #[serde(with = "serde_bytes")]
    pub cert: Vec<u8>,
    /// The invite's signature over it.
    pub signature: Signature,
}

/// A machine of the roster. Signed by the first member that saw the certificate valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The machine, under which all of its records are filed.
    pub machine: MachineId,
    /// The certificate that was valid.
    pub cert: SignedCert,
}

/// A label of a machine, given after it joined. Filed under the machine and, as slot,
/// [`LabelEdit::slot`]; of several the newest counts, and before all of them the invite's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelEdit {
    /// Which label.
    pub key: Name,
    /// Its value; `None`: the machine has no such label.
    pub value: Option<LabelValue>,
}

impl LabelEdit {
    /// Whether a key is no label: every machine has a name and a site, which selectors know.
    #[must_use]
    pub fn is_reserved(key: &Name) -> bool {
        ["name", "site"].contains(&key.as_str())
    }

    /// The slot of the edits of one label.
    #[must_use]
    pub fn slot(key: &Name) -> Vec<u8> {
        let hash = Hash::of_parts("p2pinst/label/1", &[key.as_str().as_bytes()]);
        hash.0.into_iter().take(16).collect()
    }
}

/// A machine's name, when it is no longer the one that it joined with. Filed under the machine and,
/// as slot, the cell's own time: what others were called meanwhile depends on every one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineName {
    /// The name.
    pub name: Name,
}

/// A key is no longer trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The key.
    pub key: PublicKey,
    /// The last cell of the key that still counts; `None`: those written before this one (by
    /// their clock) count.
    pub last_good: Option<Version>,
    /// Why, for people.
    pub reason: String,
}
