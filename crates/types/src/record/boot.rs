//! Records of bare metal: machines that run nothing yet, images, host setups, and what is to be put where.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{AssignmentId, ImageId, MachineId, PublicKey, SetupId};
use crate::mac::Mac;
use crate::name::{Labels, Name};
use crate::piece::BlobRef;
use crate::record::hardware::Inventory;
use crate::time::{Hlc, Millis};
use crate::{Hash, limits};

/// A machine is known by its network interfaces before anything of ours runs on it. Filed under the machine; of several the
/// newest counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// What it is called, also once its own system runs.
    pub name: Name,
    /// Its interfaces; at most [`limits::HARDWARE_NICS`].
    pub macs: Vec<Mac>,
    /// Its site.
    pub site: Name,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is taken away.
    #[serde(default, skip_serializing_if = "is_false")]
    pub removed: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl Adoption {
    /// The machine that has an interface and never ran anything of ours.
    #[must_use]
    pub fn machine(mac: Mac) -> MachineId {
        let hash = Hash::of_parts("p2pinst/adopted/1", &[&mac.0]);
        MachineId(first_half(&hash))
    }
}

fn first_half(hash: &Hash) -> [u8; 16] {
    hash.0.first_chunk().copied().unwrap_or_default()
}

/// The files of an installer: its kernel, its initrd.
pub const INSTALLER: (&str, &str) = ("vmlinuz", "initrd");

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// A whole disk, with its partition table.
    Disk,
    /// The content of one partition.
    Partition,
    /// A root filesystem, as a tar archive.
    Rootfs,
    /// What bare machines boot: a scout.
    Scout,
    /// A graph of templates.
    Templates,
    /// A repository of packages: the index of its files, each of which is a blob of its own.
    Repository,
    /// A distribution's own installer: its kernel and its initrd ([`INSTALLER`]).
    Installer,
}

impl ImageKind {
    /// The kind's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Partition => "partition",
            Self::Rootfs => "rootfs",
            Self::Scout => "scout",
            Self::Templates => "templates",
            Self::Repository => "repository",
            Self::Installer => "installer",
        }
    }
}

impl fmt::Display for ImageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A published image: what is good, says a publisher. Filed under its [`Image::id`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What it is called; later images of one name are newer versions of it.
    pub name: Name,
    /// What it is.
    pub kind: ImageKind,
    /// The architecture that it is for, as `uname -m` says; empty: any.
    pub arch: String,
    /// Its files by name; at most [`limits::IMAGE_FILES`]. All but scouts have one.
    pub files: BTreeMap<String, BlobRef>,
    /// What is in it, for people; at most [`limits::DESCRIPTION`] bytes.
    pub about: String,
    /// When it was published.
    pub at: Millis,
}

impl Image {
    /// The image's id, from its encoding.
    #[must_use]
    pub fn id(encoded: &[u8]) -> ImageId {
        ImageId(Hash::of_parts("p2pinst/image/1", &[encoded]))
    }

    /// Whether it keeps the bounds.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let file = |name: &String| name.parse::<Name>().is_ok();
        (1..=limits::IMAGE_FILES).contains(&self.files.len())
            && self.files.keys().all(file)
            && self.arch.len() <= limits::HARDWARE_TEXT
            && self.about.len() <= limits::DESCRIPTION
    }
}

/// An image is published no more: nobody needs to keep it. Filed under the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRemoval {
    /// The image.
    pub image: ImageId,
    /// Why, for people; at most [`limits::DESCRIPTION`] bytes.
    pub reason: String,
}

/// A host setup, as its operator wrote it. Filed under its [`Setup::id`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// What it is called.
    pub name: Name,
    /// The document, in TOML; at most [`limits::SETUP`] bytes.
    pub text: String,
}

impl Setup {
    /// The setup's id, from its encoding.
    #[must_use]
    pub fn id(encoded: &[u8]) -> SetupId {
        SetupId(Hash::of_parts("p2pinst/setup/1", &[encoded]))
    }
}

/// What a machine does when it starts over the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Its scout installs it.
    Install {
        /// The setup.
        setup: SetupId,
        /// The images that the setup names.
        images: BTreeMap<Name, ImageId>,
        /// The plan that was shown to the operator, when the machine's disks were known then: a scout that comes to another
        /// touches nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Hash>,
    },
    /// Its scout looks at it, and waits.
    Inspect,
}

/// A code that is typed at a machine's console, as an order has it: the public half of a key that is made of it. What is typed is
/// known to nobody but who types it, and guessing costs 64 MiB of memory for each try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleCode {
    /// Makes the key another one in each order.
    pub salt: [u8; 16],
    /// The key.
    pub key: PublicKey,
}

/// An order for one machine: what it does at its next start over the network. Filed under the machine and, as slot, the cell's
/// own time: what was done under an earlier one goes on to count. The newest is in force, until it is done, taken back or over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The author's own counter: with the author's name it names the deployment (`alice-42`), which all machines of one order
    /// share.
    pub number: u64,
    /// What is to be done.
    pub task: Task,
    /// The name of the installed machine.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// Its labels.
    pub labels: Labels,
    /// Its interfaces, by which its scout is known; at most [`limits::HARDWARE_NICS`].
    pub macs: Vec<Mac>,
    /// Whether its power is switched for it.
    pub power: bool,
    /// Which wave of the order it is in, from 0.
    pub wave: u16,
    /// How many percent of the machines of all waves before must be installed before it begins.
    pub gate: u8,
    /// A scout gets its certificate only from whom knows this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ConsoleCode>,
    /// The order ends here.
    pub not_after: Millis,
}

impl Assignment {
    /// The assignment's id.
    #[must_use]
    pub fn id(author: &PublicKey, machine: &MachineId, at: Hlc, encoded: &[u8]) -> AssignmentId {
        let parts: [&[u8]; 4] =
            [author.as_bytes(), machine.as_bytes(), &at.0.to_be_bytes(), encoded];
        AssignmentId(first_half(&Hash::of_parts("p2pinst/assignment/1", &parts)))
    }
}

/// Why a machine is no longer under an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// Its disk is complete.
    Installed,
    /// An operator took the order back.
    Cancelled,
}

/// An assignment is over: the machine starts from its disk again. Filed under the machine and, as slot, the assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disarmament {
    /// The assignment.
    pub assignment: AssignmentId,
    /// Why.
    pub ended: Ended,
    /// The same for people; at most [`limits::DESCRIPTION`] bytes.
    pub reason: String,
}

/// What the one machine that joins with an invite of the boot role is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guise {
    /// A scout: it fetches and reports, and is in no roster.
    Scout,
    /// The system that a scout has installed.
    System,
}

/// What an invite of the boot role is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootUse {
    /// The assignment that gives the power.
    pub assignment: AssignmentId,
    /// As what the machine joins.
    pub guise: Guise,
}

/// How far a machine is with its assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootState {
    /// Ordered; nothing was seen of it yet.
    Armed,
    /// Its power is being switched.
    Powering,
    /// It has asked for something to boot.
    Booting,
    /// Its scout runs, and plans.
    Scouting,
    /// Its disks are written.
    Writing,
    /// Its disks are complete; its system is made its own.
    Finishing,
    /// It starts from its disk.
    Rebooting,
    /// Its own system has checked in.
    Healthy,
    /// It did not work; `detail` tells why.
    Failed,
}

impl BootState {
    /// The state's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Armed => "armed",
            Self::Powering => "powering",
            Self::Booting => "booting",
            Self::Scouting => "scouting",
            Self::Writing => "writing",
            Self::Finishing => "finishing",
            Self::Rebooting => "rebooting",
            Self::Healthy => "healthy",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for BootState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How far a machine is, as its scout says, or whoever boots it or switches its power. Filed under the machine; of several the
/// newest counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootStatus {
    /// With which assignment.
    pub assignment: AssignmentId,
    /// How far.
    pub state: BootState,
    /// When that state was reached.
    pub since: Millis,
    /// What is done of the state's work, and how much that is: bytes while writing.
    pub done: (u64, u64),
    /// The reason of a failure, or what is being done; at most [`limits::DESCRIPTION`] bytes.
    pub detail: String,
}

/// A machine that nobody knows has asked for something to boot, or shown what it is made of. Filed by whoever saw it, under a
/// number of its own below [`limits::SIGHTINGS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The interface that asked.
    pub mac: Mac,
    /// When it was seen last.
    pub at: Millis,
    /// What it is made of, once its scout has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
}
