//! What a node shows of bare metal: machines, images, orders, and what happened on its segments.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use p2pinst_types::record::{Adoption, Assignment, Disarmament, Image, Inventory, Setup};
use p2pinst_types::{
    AssignmentId, ImageId, Mac, MachineId, Millis, Name, NodeId, PublicKey, SetupId,
};
use serde::{Deserialize, Serialize};

/// A machine that was adopted, or is a member, or both.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineView {
    /// Its id.
    pub id: MachineId,
    /// What is known of it: its name, site and labels as they are now. Of a member that was never adopted the interfaces are not known here.
    pub known: Adoption,
    /// Whether an operator has adopted it: its interfaces are known.
    pub adopted: bool,
    /// The groups that it is in.
    #[serde(default)]
    pub groups: BTreeSet<Name>,
    /// The group, if one of them asks for a code at the machine's console before its scout is let in.
    #[serde(default)]
    pub asks_for_code: Option<Name>,
    /// The node of its own system, when it is a member.
    pub member: Option<NodeId>,
    /// Whether that is up, as this node sees it.
    pub up: bool,
    /// Its last order, in force or over.
    pub order: Option<OrderView>,
    /// What it is made of; where it was asked for and somebody has told.
    #[serde(default)]
    pub inventory: Option<InventoryView>,
    /// Whether it was on when somebody spoke of its power last; where that was asked for, and somebody has.
    #[serde(default)]
    pub power: Option<bool>,
}

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InventoryView {
    /// When that was told.
    pub at: Millis,
    /// What.
    pub inventory: Inventory,
}

/// One machine in one order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OrderView {
    /// The assignment.
    pub id: AssignmentId,
    /// What the order is called: the author's name and number.
    pub name: String,
    /// Who ordered.
    pub author: PublicKey,
    /// When.
    pub at: Millis,
    /// What was ordered.
    pub assignment: Assignment,
    /// What the setup is called, of an installation.
    pub setup: Option<Name>,
    /// Whether it is in force.
    pub armed: bool,
    /// How it ended, when it did.
    pub ended: Option<Disarmament>,
    /// How far it is: a `BootState`, or `cancelled`, `superseded`, `expired`.
    pub state: String,
    /// Since when.
    pub since: Millis,
    /// What is done of the state's work, and how much that is.
    pub done: (u64, u64),
    /// Why it waits or failed, or what is being done.
    pub detail: String,
    /// Whether it has been in that state for longer than it should be.
    pub late: bool,
}

impl OrderView {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_healthy() || self.has_failed()
    }

    /// Whether its system runs.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.state == "healthy"
    }

    /// Whether it ended in another way.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        ["failed", "cancelled", "superseded", "expired"].contains(&self.state.as_str())
    }
}

/// All machines of one order of bare metal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeployView {
    /// What it is called: the author's name and number.
    pub name: String,
    /// Who ordered; `None`: a key without a name.
    pub author: Option<Name>,
    /// When.
    pub at: Millis,
    /// The setup, or `inspect`.
    pub what: String,
    /// The images, by the names that the setup has for them.
    pub images: Vec<Name>,
    /// Machines in it.
    pub machines: usize,
    /// The machines by name: as many as fit into one answer; none where no order was named.
    pub lines: Vec<DeployLine>,
    /// More machines have names after this one: ask from there.
    #[serde(default)]
    pub next: Option<Name>,
}

/// A machine of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeployLine {
    /// Its name.
    pub name: Name,
    /// The machine.
    pub machine: MachineId,
    /// Its order.
    pub order: OrderView,
}

/// A machine that nobody has adopted, and that was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SightingView {
    /// The interface that asked for something to boot.
    pub mac: Mac,
    /// When it was seen last.
    pub at: Millis,
    /// The site of the node that saw it last; `None`: that is not known any more.
    #[serde(default)]
    pub site: Option<Name>,
    /// What it is made of, once its scout has told.
    pub inventory: Option<Inventory>,
}

/// A published image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageView {
    /// Its id.
    pub id: ImageId,
    /// What it is.
    pub image: Image,
    /// Who published it; `None`: a key without a name.
    pub author: Option<Name>,
    /// Whether a newer image of this name takes its place.
    pub replaced: bool,
    /// Bytes of all its files.
    pub size: u64,
    /// Whether this node has all of them.
    pub here: bool,
}

/// A host setup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetupView {
    /// Its id.
    pub id: SetupId,
    /// What it says; `None`: it is not known here.
    pub setup: Option<Setup>,
}

/// What is to be known before an order of bare metal is signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeployPlan {
    /// The number that the author's next order gets.
    pub number: u64,
    /// Nodes that may certify scouts: some of them.
    pub boot: Vec<Name>,
    /// Nodes that may switch machines' power: some of them.
    pub power: Vec<Name>,
}

/// What happened on a node's segments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BootLogView {
    /// The events, oldest first: as many as fit into one answer.
    pub events: Vec<BootEvent>,
    /// The interfaces on which machines are answered, with their addresses; empty while the service does not listen.
    pub interfaces: Vec<String>,
    /// The port of its HTTP server; 0: it does not listen.
    pub http_port: u16,
    /// Where its HTTP server is reached; empty: it does not listen.
    #[serde(default)]
    pub http: Vec<SocketAddrV4>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEvent {
    /// Its number since the node was started.
    pub number: u64,
    /// When.
    pub at: Millis,
    /// To which interface, where it is about one.
    pub mac: Option<Mac>,
    /// What.
    pub what: String,
}
