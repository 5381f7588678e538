//! Records of installing: groups, releases, deployments, and what became of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hostexpr::HostExpr;
use crate::id::{DeploymentId, MachineId, NodeId, PublicKey, ReleaseId};
use crate::name::Name;
use crate::piece::BlobRef;
use crate::rate::Rate;
use crate::record::transfer::Transfer;
use crate::selector::Selector;
use crate::time::{Hlc, Millis};
use crate::{Hash, limits, shard, version};

/// A named set of machines: those that the hosts name or the selector selects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What the group is, for people.
    pub description: String,
    /// Machines by name or address.
    pub hosts: Option<HostExpr>,
    /// Machines by label.
    pub select: Option<Selector>,
    /// Whether the group is taken away.
    #[serde(default)]
    pub removed: bool,
    /// The time of the newest definition that the writer knew: one of another author dated between
    /// this and the writer's own was written concurrently. Zero when there was none.
    #[serde(default)]
    pub after: Hlc,
    /// Edits dated at or before this count no more. A definition carries on the floor of the one
    /// before; one that founds a removed group anew, or is to say all by itself, raises it to the
    /// newest edit and removal that its writer knew.
    #[serde(default)]
    pub floor: Hlc,
}

impl Group {
    /// The first definition of a group.
    #[must_use]
    pub fn new(description: String, hosts: Option<HostExpr>, select: Option<Selector>) -> Self {
        let (after, floor) = (Hlc::default(), Hlc::default());
        Self { description, hosts, select, removed: false, after, floor }
    }

    /// Whether two definitions say the same of the group.
    #[must_use]
    pub fn says(&self, other: &Self) -> bool {
        self.removed == other.removed
            && self.description == other.description
            && self.hosts == other.hosts
            && self.select == other.select
    }
}

/// A term of hosts that is in a group, or out of it, whatever the group's definition says. Filed
/// under the group's name and, as slot, [`GroupEdit::slot`]; of several the newest counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEdit {
    /// The machines.
    pub hosts: HostExpr,
    /// Whether they are in the group.
    pub present: bool,
}

impl GroupEdit {
    /// The slot of the edits on one term.
    #[must_use]
    pub fn slot(hosts: &HostExpr) -> Vec<u8> {
        let hash = Hash::of_parts("p2pinst/group-edit/1", &[hosts.to_string().as_bytes()]);
        hash.0.into_iter().take(16).collect()
    }
}

/// What a group asks of machines that are installed into it. Filed under the group's name, which may be the built-in one's; of
/// several the newest counts. It outlives the group: one that is made anew under the name asks the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPolicy {
    /// A scout gets its certificate only from whom knows the code of its order, typed at the machine's console.
    pub console_code: bool,
}

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// Debian's.
    Dpkg,
}

impl Manager {
    /// The order of this manager's versions.
    #[must_use]
    pub fn compare(self, a: &str, b: &str) -> std::cmp::Ordering {
        match self {
            Self::Dpkg => version::compare_debian(a, b),
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dpkg => "dpkg",
        })
    }
}

/// A package as its manager names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PackageId {
    /// Whose package it is.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// Its version, in the manager's own notation.
    pub version: String,
    /// Its architecture, in the manager's own notation.
    pub architecture: String,
}

impl fmt::Display for PackageId {
    /// `hello 2.10-3 amd64`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.version, self.architecture)
    }
}

/// A published package: what is good, says a publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// What the file must be when opened.
    pub package: PackageId,
    /// The file's name when published.
    pub file: String,
    /// The file's content.
    pub blob: BlobRef,
}

impl Release {
    /// The release's id, from its encoded manifest.
    #[must_use]
    pub fn id(manifest: &[u8]) -> ReleaseId {
        ReleaseId(Hash::of_parts("p2pinst/release/1", &[manifest]))
    }
}

/// How a deployment proceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// When the node is idle.
    LoadAware,
    /// At once, whatever the load.
    Urgent,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LoadAware => "load-aware",
            Self::Urgent => "urgent",
        })
    }
}

/// An order: this release to this group. Who gets what, says an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The author's own counter: with the author's name it names the deployment (`alice-42`).
    pub number: u64,
    /// What.
    pub release: ReleaseId,
    /// To whom.
    pub group: Name,
    /// How.
    pub mode: Mode,
    /// Whether it may replace a newer version.
    pub allow_downgrade: bool,
    /// The first holders of the blob.
    pub holders: Vec<NodeId>,
    /// Into how many shards the machines' statuses are divided: a power of two, one for each 64
    /// machines that the group had.
    #[serde(default = "one_shard")]
    pub shards: u16,
    /// Whether the file is only brought to the machines and kept there: nothing is installed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preheat: bool,
    /// How fast a machine may send the release's bytes for it, and how fast receive them; `None`:
    /// as fast as it can. With several orders of one release the fastest counts.
    #[serde(default)]
    pub limit: Option<Rate>,
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn one_shard() -> u16 {
    1
}

impl Deployment {
    /// Whether the number of shards is one that can be: a power of two, not too many.
    #[must_use]
    pub fn has_possible_shards(&self) -> bool {
        self.shards.is_power_of_two() && self.shards <= limits::SHARDS
    }

    /// The subject under which a machine's status in the deployment `id` is filed.
    #[must_use]
    pub fn status_subject(&self, id: &DeploymentId, machine: &MachineId) -> Vec<u8> {
        shard::status_subject(id, shard::shard_of(id, machine, self.shards))
    }

    /// The subjects of all shards of the statuses of the deployment `id`.
    pub fn status_subjects(&self, id: DeploymentId) -> impl Iterator<Item = Vec<u8>> + use<> {
        (0..self.shards).map(move |shard| shard::status_subject(&id, shard))
    }

    /// The state in which a machine is done with the order when all went well.
    #[must_use]
    pub fn goal(&self) -> State {
        if self.preheat { State::Verified } else { State::Installed }
    }

    /// The deployment's id, from its author and its encoded order.
    #[must_use]
    pub fn id(author: &PublicKey, order: &[u8]) -> DeploymentId {
        let hash = Hash::of_parts("p2pinst/deployment/1", &[author.as_bytes(), order]);
        let mut id = [0; DeploymentId::LEN];
        for (to, from) in id.iter_mut().zip(hash.0) {
            *to = from;
        }
        DeploymentId(id)
    }
}

/// How far a machine is with a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Known, not begun.
    Pending,
    /// Held back until the node is idle, or for another reason that `detail` tells.
    Waiting,
    /// Pieces are coming in.
    Fetching,
    /// The whole file is here and is what it should be.
    Verified,
    /// The package manager is at work.
    Installing,
    /// Done.
    Installed,
    /// Nothing to do: already there, or a newer order took its place.
    Skipped,
    /// Did not work; `detail` tells why.
    Failed,
}

impl State {
    /// Every state, in the order of progress.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Waiting,
        Self::Fetching,
        Self::Verified,
        Self::Installing,
        Self::Installed,
        Self::Skipped,
        Self::Failed,
    ];

    /// Whether nothing more will happen by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Installed | Self::Skipped | Self::Failed)
    }

    /// The state's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Fetching => "fetching",
            Self::Verified => "verified",
            Self::Installing => "installing",
            Self::Installed => "installed",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A deployment that is over. Its statuses are dropped and refused for ever; nothing more is
/// installed because of it, and nothing is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Why, for people.
    pub reason: String,
}

/// A machine's status in one deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How far it is.
    pub state: State,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// The reason of waiting or failing; what was done otherwise.
    pub detail: String,
    /// When each state was first reached in this attempt.
    pub reached: Vec<(State, Millis)>,
    /// How the file came to the machine, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
}

/// What an entry of the history did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Was not there before.
    Install,
    /// An older version was there before.
    Upgrade,
    /// A newer version was there before.
    Downgrade,
    /// The same version was there before.
    Reinstall,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Install => "install",
            Self::Upgrade => "upgrade",
            Self::Downgrade => "downgrade",
            Self::Reinstall => "reinstall",
        })
    }
}

/// One thing that was done to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When it ended.
    pub at: Millis,
    /// By which order.
    pub deployment: DeploymentId,
    /// Which release.
    pub release: ReleaseId,
    /// The package.
    pub package: PackageId,
    /// What was done.
    pub action: Action,
    /// The version that was there before.
    pub old_version: Option<String>,
    /// The state that it ended in.
    pub outcome: State,
    /// The package manager's exit code, when it ran.
    pub exit_code: Option<i32>,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// The end of the package manager's output, or the reason of the failure.
    pub log: String,
}

/// A segment of a machine's history: append-only, chained to the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistorySegment {
    /// Hash of the full segment before; `None` for the first.
    pub previous: Option<Hash>,
    /// In the order in which they happened.
    pub entries: Vec<HistoryEntry>,
}
