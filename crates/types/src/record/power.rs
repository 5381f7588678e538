//! Records of power: the controllers of machines, what is ordered of their power, and what came of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::id::{AssignmentId, MachineId, PowerOrderId, PublicKey};
use crate::time::{Hlc, Millis};
use crate::{Hash, limits};

/// A secret that only some nodes can read: encrypted once, with a key that is sealed to each of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The key that was made for this sealing alone.
    pub ephemeral: PublicKey,
    /// The content key, sealed to each node key; at most [`limits::SEALED_KEYS`].
    pub keys: BTreeMap<PublicKey, ByteBuf>,
    /// The secret, encrypted with the content key; at most [`limits::SEALED`] bytes.
    pub text: ByteBuf,
}

impl Sealed {
    /// Whether it keeps the bounds.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.keys.len() <= limits::SEALED_KEYS
            && self.keys.values().all(|key| key.len() <= limits::SEALED_KEY)
            && self.text.len() <= limits::SEALED
    }
}

/// By what a machine's power is switched. Filed under the machine; of several the newest counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// The controller's line, as people write it; at most [`limits::CONTROLLER`] bytes. Empty: the machine has none.
    pub line: String,
    /// The user and the password, for the nodes with the power role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
}

impl Controller {
    /// Whether it keeps the bounds.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.line.len() <= limits::CONTROLLER && self.sealed.as_ref().is_none_or(Sealed::is_bounded)
    }
}

/// The credentials of a controller, sealed anew by a node that could open them: the nodes with the power role are others than
/// they were. Filed under the machine by that node; it counts for the one [`Controller`] cell that it names, the newest counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resealed {
    /// The hash of the controller's cell.
    pub of: Hash,
    /// The same user and password.
    pub sealed: Sealed,
}

/// What is ordered of a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerAction {
    /// It runs.
    On,
    /// It is off, at once.
    Off,
    /// It is off, after its system has shut down.
    Soft,
    /// It is off, and then on.
    Cycle,
    /// It starts anew without losing power.
    Reset,
}

impl PowerAction {
    /// The action's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Soft => "soft",
            Self::Cycle => "cycle",
            Self::Reset => "reset",
        }
    }
}

impl fmt::Display for PowerAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a machine starts from at its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootFrom {
    /// The network, by PXE.
    Pxe,
    /// The network, by UEFI HTTP Boot.
    UefiHttp,
    /// Its disk.
    Disk,
}

/// An order about one machine's power. Filed under the machine: an author's later order takes the place of an earlier one,
/// and of several authors' the newest counts. It is done when a node reports what came of it, or it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerOrder {
    /// The author's own counter: machines of one order share it.
    pub number: u64,
    /// What the power shall be; `None`: only what the machine starts from is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<PowerAction>,
    /// What the machine starts from at its next start; `None`: what it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootFrom>,
    /// Also while a scout is writing its disk.
    pub forced: bool,
    /// The order ends here.
    pub not_after: Millis,
}

impl PowerOrder {
    /// The order's id.
    #[must_use]
    pub fn id(author: &PublicKey, machine: &MachineId, at: Hlc, encoded: &[u8]) -> PowerOrderId {
        let parts: [&[u8]; 4] =
            [author.as_bytes(), machine.as_bytes(), &at.0.to_be_bytes(), encoded];
        let hash = Hash::of_parts("p2pinst/power-order/1", &parts);
        PowerOrderId(hash.0.first_chunk().copied().unwrap_or_default())
    }
}

/// Why a machine's power is switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerCause {
    /// Somebody ordered it.
    Order(PowerOrderId),
    /// It is to start over the network, for its assignment.
    Assignment(AssignmentId),
}

impl PowerCause {
    /// The bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        match self {
            Self::Order(PowerOrderId(id)) | Self::Assignment(AssignmentId(id)) => id,
        }
    }
}

/// What came of switching a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerOutcome {
    /// As ordered, and verified.
    Done,
    /// Not as ordered.
    Failed,
    /// The controller was told, and nobody can say what came of it.
    Unknown,
}

impl fmt::Display for PowerOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        })
    }
}

/// What a node says of a machine's power. Filed under the machine; each node has a record of its own, and of several the
/// newest counts, except for leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerStatus {
    /// Why the node speaks; `None`: it only looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<PowerCause>,
    /// How often the machine was switched for that cause.
    pub attempt: u32,
    /// While the node acts: until when others leave the machine to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Millis>,
    /// How it ended, when it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<PowerOutcome>,
    /// Whether the machine is on, where its controller says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// What is being done, or the reason of a failure; at most [`limits::DESCRIPTION`] bytes.
    pub detail: String,
    /// When it was said.
    pub at: Millis,
}
