//! Makes a plan of what is wanted and what is there. Pure: reads no disk, no clock, and draws no lots.
//!
//! A [`Plan`] has two parts. Its [`Goal`] is what shall be: which disks by their serial numbers, exact places, identifiers
//! derived from the machine, the assignment and the labels. [`Plan::hash`] is of the goal alone: an order names it,
//! and it is the same before, in the midst of and after the work. Its steps are what is still to be done for that.

mod choose;
mod describe;
mod goal;
mod layout;
mod make;
mod refusal;
mod standing;
mod step;
mod steps;
#[cfg(test)]
pub(in crate::setup) mod tests;

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_types::record::Inventory;
use p2pinst_types::{Hash, MachineId, Name};
use serde::{Deserialize, Serialize};

pub use goal::{
    Content, DiskGoal, Goal, GroupGoal, Identity, MountGoal, PartitionGoal, Place, RootGoal,
    VolumeGoal,
};
pub use make::plan;
pub use refusal::{Refusal, Refusals};
pub(in crate::setup) use standing::COMPLETE;
pub use step::Step;

use super::document::Setup;
use super::found::Found;

/// The number of an assignment: each time a machine is to be installed anew, it is higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Whose disks are set up, and by which assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: Name,
    /// The assignment.
    pub epoch: Epoch,
}

/// What an image is an image of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// A whole disk, with its partition table.
    Disk,
    /// A partition, or a volume: one filesystem.
    Partition,
    /// A tree of files, as a tar archive.
    Tar,
}

/// What must be known of an image for a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// What it is an image of.
    pub kind: ImageKind,
    /// How many bytes it has when it is written, or, of an archive, when it is extracted.
    pub size: u64,
}

/// Everything that a plan is made of.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What shall be.
    pub setup: &'a Setup,
    /// Whose disks.
    pub subject: &'a Subject,
    /// What the machine is made of.
    pub inventory: &'a Inventory,
    /// What is on its disks.
    pub found: &'a Found,
    /// The images that there are.
    pub images: &'a BTreeMap<Name, ImageFacts>,
    /// The templates that there are.
    pub templates: &'a BTreeSet<Name>,
}

/// What shall be on a machine's disks, and what is to be done for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What shall be.
    pub goal: Goal,
    /// What is to be done, in this order; empty when everything is as it shall be.
    pub steps: Vec<Step>,
    /// What is done already, for each disk: what its stamp goes on from.
    pub done: Vec<BTreeSet<String>>,
}

impl Plan {
    /// What names this plan's goal. Names of devices have no part in it where a disk has anything better: they may
    /// change with every start.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut goal = self.goal.clone();
        for disk in &mut goal.disks {
            if !disk.identity.is_weak() {
                disk.identity.name.clear();
            }
        }
        // nothing in it is a shape that CBOR cannot hold
        let bytes = p2pinst_types::codec::encode(&goal).unwrap_or_default();
        Hash::of_parts("p2pinst-setup-plan-1", &[&bytes])
    }

    /// Whether a step loses what is on a disk or writes in its place.
    #[must_use]
    pub fn is_destructive(&self) -> bool {
        self.steps.iter().any(Step::is_destructive)
    }
}
