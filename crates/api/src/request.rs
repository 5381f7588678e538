//! The requests, each with the type of its answer.

use std::path::PathBuf;

use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::{Adoption, PackageId, Release, Role, SignedRoot};
use p2pinst_types::{
    BlobRef, Hash, Hlc, ImageId, Mac, MachineId, Millis, Name, PublicKey, Rates, SetupId, Version,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{boot, inspect, power, store, swarm, view};

/// What kind of failure an error is; decides the exit code of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request makes no sense, or names what does not exist.
    Invalid,
    /// The request is understood and refused.
    Refused,
    /// The cluster, or the part of it that is needed, cannot be reached now.
    Unavailable,
    /// The node failed (a full disk, say).
    Internal,
}

/// An error with a hint of what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A request and the type of its answer.
pub trait Call: Into<Request> {
    /// What the node answers.
    type Reply: Serialize + DeserializeOwned;
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident $fields:tt => $reply:ty;)*) => {
        $(requests!(@struct $(#[$doc])* $name $fields);
        impl Call for $name { type Reply = $reply; }
        impl From<$name> for Request {
            fn from(r: $name) -> Self { Self::$name(r) }
        })*

        /// Any request.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub enum Request {
            $($(#[$doc])* $name($name),)*
        }
    };
    (@struct $(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
    };
}

requests! {
    /// Who this node is.
    Info {} => view::NodeInfo;
    /// The roster by name, with what is known of each machine now: as many as fit into one answer.
    /// An empty answer: there are no more.
    Nodes {
        /// Behind which name to begin.
        after: Option<Name>,
        /// Whether the machines' own records (version, start, addresses) are read for it.
        records: bool,
    } => Vec<view::NodeView>;
    /// The groups with their members: `all`, then the others by name, as many as fit into one
    /// answer. An empty answer: there are no more.
    Groups {
        /// Those after this one; from the first when `None`.
        after: Option<Name>,
    } => Vec<view::GroupView>;
    /// One group, or what is known of one that is gone.
    OneGroup {
        /// Its name.
        name: Name,
    } => view::GroupState;
    /// The keys with power.
    Grants {} => Vec<view::GrantView>;
    /// The newest version that the cluster knows of an author's cells. The node asks its peers
    /// first, so that a restored snapshot of the author's machine is noticed.
    ReadHead {
        /// The author.
        author: PublicKey,
    } => Head;
    /// Stores signed cells on this node durably, and announces them.
    Submit {
        /// The cells, verbatim.
        cells: Vec<CellBytes>,
    } => Submitted;
    /// What an invite needs beside the operator's key.
    PrepareInvite {
        /// The operator's key.
        operator: PublicKey,
    } => InviteMaterial;
    /// What is to be known before a package is published to a group.
    PreparePublish {
        /// The package.
        package: PackageId,
        /// The group.
        group: Name,
        /// The author of the order.
        author: PublicKey,
    } => PublishPlan;
    /// Stores a blob; `len` raw bytes follow the request.
    PutBlob {
        /// How many bytes follow.
        len: u64,
    } => BlobRef;
    /// How many other nodes hold all pieces of a blob now.
    CountHolders {
        /// The blob.
        blob: BlobRef,
    } => Holders;
    /// How far deployments are. Names one by name (`alice-42`) or by a prefix of its id, or all.
    Status {
        /// Which deployment; the latest when `None`.
        deployment: Option<String>,
        /// Which machines to show; `None`: all of them where they are few.
        lines: Option<view::Lines>,
        /// Count signed records, read from all replicas: for what depends on the answer.
        signed: bool,
        /// Show machines whose names come after this one.
        from: Option<Name>,
        /// Read what every machine reports of how the file came to it, also of many machines; of
        /// few that is done in any case.
        report: bool,
    } => view::StatusView;
    /// The invites by key, with what is left of them: as many as fit into one answer. An empty
    /// answer: there are no more.
    Invites {
        /// Behind which key to begin.
        after: Option<PublicKey>,
    } => Vec<view::InviteView>;
    /// The root of trust, and what a new root would take over.
    ReadRoots {} => Roots;
    /// Replaces the root: a longer chain, and the list of what it takes over.
    SubmitRoots {
        /// The whole chain.
        roots: Vec<SignedRoot>,
        /// The cell of the list.
        standing: CellBytes,
    } => Submitted;
    /// Takes this machine out of the cluster: its node says farewell to the others, and ends.
    Leave {
        /// Why, for people.
        reason: String,
        /// Also when nobody can be told.
        alone: bool,
    } => Left;
    /// Waits until a status may have changed; answers with the generation of now.
    Watch {
        /// Which deployment; the latest when `None`.
        deployment: Option<String>,
        /// The generation that is known; `None`: watches, and answers at once.
        after: Option<u64>,
        /// How long to wait, in milliseconds, at most half a minute.
        wait_ms: u64,
    } => u64;
    /// The blobs of this node by root, and what they take: as many as fit into one answer.
    ListStore {
        /// Behind which root to begin.
        after: Option<Hash>,
    } => store::StoreView;
    /// Removes the blobs that have to go, or says which those are.
    CleanStore {
        /// Only say.
        dry_run: bool,
        /// Everything that nobody needs, room or not.
        all: bool,
    } => store::CleanView;
    /// Reads some pieces of a blob back; damaged ones are given up, and fetched again if somebody needs
    /// the blob.
    CheckBlob {
        /// The blob.
        root: Hash,
        /// The piece to begin with.
        from: u32,
    } => store::CheckView;
    /// Pins a blob, so that it is never removed for want of room, or unpins it.
    PinBlob {
        /// The blob: the beginning of its root, a deployment (`alice-42`), or `NAME=VERSION`.
        blob: String,
        /// Whether it is to be pinned.
        pin: bool,
    } => store::PinView;
    /// Pins a blob of this node, and announces that it is here.
    SeedBlob {
        /// The blob.
        root: Hash,
    } => store::PinView;
    /// A release that was published before.
    FindRelease {
        /// `NAME=VERSION`, a deployment (`alice-42`), or the beginning of the release's id.
        what: String,
    } => store::ReleaseView;
    /// Fetches a blob into the store of this node, and says how far that is. To be asked again until it
    /// is complete or failed: who asks no more for half a minute has lost interest.
    FetchBlob {
        /// The blob: its root, a deployment (`alice-42`), or `NAME=VERSION`.
        what: String,
        /// How long to wait for something to tell, in milliseconds, at most half a minute.
        wait_ms: u64,
        /// Files, disks and directories of this machine that hold older versions, by absolute paths, at most 16:
        /// what they have need not come. Counts when the fetch begins.
        delta_from: Vec<PathBuf>,
    } => store::FetchView;
    /// How far the exchange of a blob is: of a deployment's, by its name (`alice-42`) or a prefix of
    /// its id, or of one that a prefix of its root names.
    Swarm {
        /// Which; all that are at work on this node when `None`.
        what: Option<String>,
    } => swarm::SwarmView;
    /// How well this node is.
    Doctor {} => Vec<inspect::Check>;
    /// Cells that are held here.
    DebugCells {
        /// Of this kind only, by name (`status`) or number.
        kind: Option<String>,
        /// Of this subject only: its beginning in hexadecimal, or the name of a machine, a
        /// deployment or a group.
        subject: Option<String>,
        /// Of this author only: a public key, or the name of a key or a machine.
        author: Option<String>,
        /// At most so many.
        limit: usize,
        /// The place where an earlier page ended.
        from: Option<Vec<u8>>,
    } => inspect::CellPage;
    /// The nodes that are known here, and what was exchanged with them.
    DebugPeers {} => Vec<inspect::PeerView>;
    /// The subjects of the data plane that are held here.
    DebugKeys {
        /// At most so many.
        limit: usize,
    } => inspect::KeyPage;
    /// The limits of this node, after a change if there is one.
    Limits {
        /// What to change.
        change: Option<LimitsChange>,
    } => view::LimitsView;
    /// What is to be known before the power of machines is switched, or a controller is named.
    PreparePower {
        /// The machines, also those on which nothing of ours runs.
        hosts: HostExpr,
        /// Who orders.
        author: PublicKey,
    } => power::PowerPlan;
    /// How the power of machines is, and what is being done about it.
    Power {
        /// The machines; at most [`power::MACHINES`].
        machines: Vec<MachineId>,
        /// Ask their controllers now.
        live: bool,
    } => Vec<power::PowerView>;
    /// A machine's install history; this machine's when `None`.
    History {
        /// The machine.
        machine: Option<Name>,
    } => view::HistoryView;
    /// Machines that were adopted, and members, by id: as many as fit into one answer. An empty answer: there are no more.
    Machines {
        /// Behind which id to begin.
        after: Option<MachineId>,
        /// Only those with these names.
        hosts: Option<HostExpr>,
        /// Only those that are in this group, or will be once they are installed.
        group: Option<Name>,
        /// Whether what they are made of is read for it.
        inventory: bool,
        /// Whether it is read what was last said of their power; their controllers are not asked.
        #[serde(default)]
        power: bool,
    } => Vec<boot::MachineView>;
    /// Machines that nobody has adopted, by interface: as many as fit into one answer. An empty answer: there are no more.
    Sightings {
        /// Behind which interface to begin.
        after: Option<Mac>,
    } => Vec<boot::SightingView>;
    /// The published images by id: as many as fit into one answer. An empty answer: there are no more.
    Images {
        /// Behind which id to begin.
        after: Option<ImageId>,
    } => Vec<boot::ImageView>;
    /// A host setup that was ordered before.
    OneSetup {
        /// Which.
        id: SetupId,
    } => boot::SetupView;
    /// The group that asks for a code at the console of a machine, if it were so: one of them, if any does.
    AskingGroup {
        /// Which machine; one that nobody knows yet, too.
        machine: MachineId,
        /// What it is to be.
        known: Adoption,
        /// A group that it is added to.
        group: Option<Name>,
    } => Option<Name>;
    /// What is to be known before machines are ordered to be installed.
    PrepareDeploy {
        /// The author of the order.
        author: PublicKey,
    } => boot::DeployPlan;
    /// Orders of bare metal: the latest, or the one of this name (`alice-42`), if there is such a one, with its machines.
    Deploys {
        /// Which.
        name: Option<String>,
        /// Machines whose names come after this one.
        after: Option<Name>,
    } => Vec<boot::DeployView>;
    /// What happened on this node's segments, behind an event.
    BootLog {
        /// The last event that is known.
        after: Option<u64>,
        /// Only what is about these interfaces; all where there are none.
        macs: Vec<Mac>,
    } => boot::BootLogView;
}

/// A change of a node's limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum LimitsChange {
    /// Limits hold from now on, instead of what the configuration says.
    Set {
        /// Which; what is not named stays.
        rates: Rates,
        /// For how long, in milliseconds; `None`: until they are taken back or the node stops.
        for_ms: Option<u64>,
    },
    /// Limits go into the configuration, and hold from now on.
    Keep {
        /// Which; what is not named stays.
        rates: Rates,
    },
    /// What was set counts no more.
    Reset,
}

/// One signed cell, verbatim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CellBytes(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// The newest version of an author's cells, and the time to write with.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Head {
    /// The newest version known; zero when the author has written nothing.
    pub version: Version,
    /// A clock reading above all that the node has seen.
    pub hlc: Hlc,
    /// Cluster time.
    pub now: Millis,
    /// Whether another node was asked, or there is none. Otherwise more may be known elsewhere.
    pub fresh: bool,
}

/// The outcome of [`Submit`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submitted {
    /// Peers that were told.
    pub peers: usize,
}

/// The answer to [`PrepareInvite`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InviteMaterial {
    /// The chain of roots.
    pub roots: Vec<SignedRoot>,
    /// The cell of the operator's grant.
    pub grant: CellBytes,
    /// Addresses of up to five live nodes, this one included.
    pub bootstrap: Vec<String>,
}

/// The answer to [`PreparePublish`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishPlan {
    /// The group's members.
    pub members: Vec<Name>,
    /// The number that the author's next deployment gets.
    pub number: u64,
    /// A newer version of the package that is already ordered for some member of the group: the
    /// order's name and the release.
    pub newer: Option<(String, Release)>,
    /// This node's own id: the first holder.
    pub node: p2pinst_types::NodeId,
    /// The roles that the author has now.
    pub roles: Vec<Role>,
}

/// The answer to [`CountHolders`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holders {
    /// Other nodes that hold all pieces.
    pub complete: Vec<Name>,
    /// Other nodes that were asked and answered.
    pub asked: usize,
}

/// The answer to [`ReadRoots`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Roots {
    /// The whole chain.
    pub chain: Vec<SignedRoot>,
    /// The version that is in force on this node.
    pub in_force: u64,
    /// The cells of all grants that count, or counted until they were replaced or revoked.
    pub grants: Vec<CellBytes>,
    /// The cells of the revocations by root keys that count.
    #[serde(default)]
    pub revocations: Vec<CellBytes>,
}

/// The answer to [`Leave`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Left {
    /// The name of the machine that has left.
    pub name: Name,
    /// Peers that know of it for certain.
    pub told: usize,
}
