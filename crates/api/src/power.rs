//! The power of machines: what a command needs to order it, and what came of it.

use std::collections::BTreeSet;

use p2pinst_types::record::{PowerCause, PowerOutcome};
use p2pinst_types::{MachineId, Millis, Name, PowerOrderId, PublicKey};
use serde::{Deserialize, Serialize};

/// Machines in one request.
pub const MACHINES: usize = 64;

/// What is to be known before the power of machines is switched, or a controller is named.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PowerPlan {
    /// The machines that were asked for.
    pub machines: Vec<PowerTarget>,
    /// Parts of the expression that stand for no machine.
    pub unknown: Vec<String>,
    /// The nodes with the power role: credentials are sealed to them.
    pub nodes: BTreeSet<PublicKey>,
    /// The number that the author's next order gets.
    pub number: u64,
}

/// A machine whose power may be switched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PowerTarget {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub machine: MachineId,
    /// The line of its controller, where it has one.
    pub controller: Option<String>,
}

/// How a machine's power is, and what is being done about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PowerView {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: Option<Name>,
    /// The line of its controller, where it has one.
    pub controller: Option<String>,
    /// Whether it is on, where that is known.
    pub on: Option<bool>,
    /// Why that is not known, of who asked now.
    pub error: Option<String>,
    /// The newest order.
    pub order: Option<PowerOrderId>,
    /// Whether a node is at it.
    pub working: bool,
    /// What this is about; `None`: nothing was ever done.
    pub cause: Option<PowerCause>,
    /// How often it was tried for that.
    pub attempt: u32,
    /// How it ended, if it has.
    pub outcome: Option<PowerOutcome>,
    /// What is being done, or why it failed.
    pub detail: String,
    /// When that was said.
    pub at: Option<Millis>,
    /// By which machine's node.
    pub by: Option<Name>,
}
