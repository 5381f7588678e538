//! What the node shows: the stable fields of every `--json` output.

use std::collections::BTreeMap;

use p2pinst_types::record::{HistoryEntry, Mode, PackageId, Role, State, Transfer};
use p2pinst_types::{
    ClusterId, DeploymentId, Hash, Hlc, Labels, MachineId, Millis, Name, NodeId, PublicKey, Rate,
    Rates, ReleaseId,
};
use serde::{Deserialize, Serialize};

use crate::swarm::TransferView;

/// Who this node is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// The machine's name.
    pub name: Name,
    /// The node's id.
    pub id: NodeId,
    /// The machine's id.
    pub machine: MachineId,
    /// Version of p2pinst.
    pub version: String,
    /// Nodes that this node is connected with.
    pub peers: usize,
    /// Machines in the roster.
    pub machines: usize,
    /// Cells that need a newer version of p2pinst; they are kept and passed on.
    pub unknown_cells: usize,
    /// The version of p2pinst that this node needs in order to do all that is wanted of it.
    #[serde(default)]
    pub needs: Option<String>,
    /// How far the local clock is from cluster time, in milliseconds; positive: it is ahead.
    pub clock_ahead_ms: i64,
    /// Where packages are installed.
    pub root: String,
    /// Since when this node, which is not the only one, reaches no other; `None`: it does.
    #[serde(default)]
    pub isolated_since: Option<Millis>,
    /// How this machine ceased to be a member; `None` while it is one.
    #[serde(default)]
    pub removed: Option<RemovalView>,
    /// Why the cluster refuses this node, when it does.
    #[serde(default)]
    pub refused: Option<RefusedView>,
}

/// How a machine ceased to be a member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemovalView {
    /// When.
    pub at: Millis,
    /// By whom; `None`: by itself, or by a key without a name.
    pub by: Option<Name>,
    /// Why, as it was told.
    pub reason: String,
}

/// An invite.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InviteView {
    /// Its public key: what it is revoked by.
    pub invite: PublicKey,
    /// The site that machines get.
    pub site: Name,
    /// The labels that machines get.
    pub labels: Labels,
    /// How many machines may join.
    pub uses: u32,
    /// How many have joined.
    pub used: u32,
    /// No machine may join after this.
    pub not_after: Millis,
    /// Who invites.
    pub by: Option<Name>,
    /// Whether it is revoked.
    pub revoked: bool,
    /// Whether a machine may still join with it.
    pub open: bool,
}

/// A node that the others do not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedView {
    /// Who refused it last.
    pub by: NodeId,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Millis,
    /// What to do.
    pub advice: String,
}

/// Two machines that use one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClonedView {
    /// Where the one listens that goes on.
    pub first: Vec<String>,
    /// Where the one listens that is refused.
    pub second: Vec<String>,
    /// Since when it is seen.
    pub since: Millis,
}

/// A machine of the roster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: Name,
    /// Its node's id.
    pub id: NodeId,
    /// Its machine id.
    pub machine: MachineId,
    /// Its site.
    pub site: Name,
    /// Its labels.
    pub labels: Labels,
    /// Where it is reached.
    pub addrs: Vec<String>,
    /// Whether it is up, as this node sees it.
    pub up: bool,
    /// Since when it is up or down, as this node sees it; `None`: it was never seen.
    pub since: Option<Millis>,
    /// What the failure detector says: `up`, `suspect` (somebody gets no answer; counts as up until
    /// it had its time to object), `down`, `unknown` (never heard of, or this node is isolated).
    #[serde(default)]
    pub state: String,
    /// The machine that told so; `None`: this node saw it itself.
    #[serde(default)]
    pub seen_by: Option<Name>,
    /// Which life of the node it is, if known.
    #[serde(default)]
    pub incarnation: Option<u64>,
    /// Its version of p2pinst, if known.
    pub version: Option<String>,
    /// When its daemon started, if known.
    pub started: Option<Millis>,
    /// When it was admitted.
    pub admitted: Millis,
    /// The version of p2pinst that it needs in order to do all that is wanted of it, as it says.
    #[serde(default)]
    pub needs: Option<String>,
    /// Two machines that use its key now, as this node has seen.
    #[serde(default)]
    pub cloned: Option<ClonedView>,
}

/// A group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupView {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub description: String,
    /// Its host expression.
    pub hosts: Option<String>,
    /// Its selector.
    pub select: Option<String>,
    /// Who defined it last; `None` for the built-in group `all`.
    pub author: Option<Name>,
    /// When; `None` for the built-in group `all`.
    pub at: Option<Millis>,
    /// What was added to it and taken out of it since, the newest first: the first that matches a
    /// machine decides.
    pub edits: Vec<GroupEditView>,
    /// Definitions of others that were written at the same time and do not count.
    pub concurrent: Vec<GroupDefinition>,
    /// Its members now.
    pub members: Vec<Name>,
    /// Whether a machine is installed into it only when the code of its order is typed at the machine's console.
    #[serde(default)]
    pub console_code: bool,
}

/// Machines that were added to a group, or taken out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEditView {
    /// The machines, as one term of a host expression.
    pub hosts: String,
    /// Whether they are in the group.
    pub present: bool,
    /// Who wrote it.
    pub author: Option<Name>,
    /// When.
    pub at: Millis,
}

/// One definition of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDefinition {
    /// Who wrote it.
    pub author: Option<Name>,
    /// When.
    pub at: Millis,
    /// Whether it takes the group away.
    pub removed: bool,
    /// What the group is.
    pub description: String,
    /// Its host expression.
    pub hosts: Option<String>,
    /// Its selector.
    pub select: Option<String>,
}

/// What is to be known of a name before a group is defined or edited.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupState {
    /// The group; `None` when there is none of that name.
    pub group: Option<GroupView>,
    /// The definition that took it away, when one has.
    pub removed: Option<GroupDefinition>,
    /// Definitions that were written at the same time as the one that took it away.
    pub concurrent: Vec<GroupDefinition>,
    /// The `after` of the next definition.
    pub after: Hlc,
    /// The `floor` of a definition that leaves the edits as they are.
    pub floor: Hlc,
    /// The `floor` of a definition that says all by itself.
    pub clean: Hlc,
}

/// A key with power.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantView {
    /// The key's name.
    pub name: Name,
    /// The key.
    pub key: PublicKey,
    /// What it may do.
    pub roles: Vec<Role>,
    /// When the power ends.
    pub not_after: Option<Millis>,
    /// Whether it is revoked.
    pub revoked: bool,
}

/// How far deployments are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusView {
    /// In the order of time.
    pub deployments: Vec<DeploymentView>,
    /// What a newer version of p2pinst has written and this one cannot read, the latest first.
    #[serde(default)]
    pub needs: Vec<NeedsView>,
}

/// A record that needs a newer version of p2pinst.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NeedsView {
    /// What cannot be read: `deployment`, `group`, `group edit`, or the `release` of a deployment.
    pub what: String,
    /// The deployment's id, or the group's name.
    pub subject: String,
    /// The deployment's name, where that can be read.
    pub name: Option<String>,
    /// The version of p2pinst that understands it; `?` when it does not say.
    pub needs: String,
    /// Who wrote it.
    pub author: Option<Name>,
    /// When.
    pub at: Millis,
    /// The machines that wait because of it, where those are known.
    pub machines: Vec<MachineStatus>,
}

/// One deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeploymentView {
    /// Its id.
    pub id: DeploymentId,
    /// Its name for people: the author's name and number.
    pub name: String,
    /// Who ordered it.
    pub author: Name,
    /// When it was ordered.
    pub at: Millis,
    /// The release.
    pub release: ReleaseId,
    /// The package.
    pub package: PackageId,
    /// Bytes of the package.
    pub size: u64,
    /// To whom.
    pub group: Name,
    /// How.
    pub mode: Mode,
    /// Whether the file is only brought to the machines: `verified` is where they are done.
    #[serde(default)]
    pub preheat: bool,
    /// Bytes per second that each machine may send for it, and receive for it; `None`: no limit.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Machines that should have it: members of the group now.
    pub ordered: usize,
    /// Machines by state; `unknown` when no status of a machine could be read.
    pub counts: BTreeMap<String, usize>,
    /// Whether the counts come from signed records of all replicas that answer; else from what one
    /// replica of each shard says.
    #[serde(default)]
    pub signed: bool,
    /// When the oldest of the latest reports of the machines was written; `None`: there is none.
    #[serde(default)]
    pub oldest: Option<Millis>,
    /// When the newest was written.
    #[serde(default)]
    pub newest: Option<Millis>,
    /// Parts into which the statuses are divided and that have machines of the group.
    #[serde(default)]
    pub shards: usize,
    /// Those of them of which no replica has answered: their machines are unknown.
    #[serde(default)]
    pub silent: usize,
    /// How the file came to the machines that reported it; `None`: none has, or they are many and
    /// were not asked for it.
    #[serde(default)]
    pub transfer: Option<TransferView>,
    /// The machines that were asked for, by name; when nothing was asked for, every machine that
    /// should have it, if they are at most [`FEW`].
    pub machines: Vec<MachineStatus>,
    /// More machines that were asked for have names after this one: ask from there.
    #[serde(default)]
    pub next: Option<Name>,
}

impl DeploymentView {
    /// The state in which a machine is done when all went well.
    #[must_use]
    pub fn goal(&self) -> State {
        if self.preheat { State::Verified } else { State::Installed }
    }

    /// Whether nothing more will happen on a machine by itself.
    #[must_use]
    pub fn is_final(&self, machine: &MachineStatus) -> bool {
        machine.is_final() || machine.state == self.goal().as_str()
    }
}

/// Machines of a deployment that are shown without being asked for.
pub const FEW: usize = 64;

/// Which machines of a deployment to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// Where it failed.
    pub failed: bool,
    /// Where it has been heard of and is not done.
    pub pending: bool,
    /// Of which there is no status.
    pub missing: bool,
    /// Where it is done.
    pub done: bool,
}

impl Lines {
    /// Every machine.
    pub const ALL: Self = Self { failed: true, pending: true, missing: true, done: true };
    /// Those where it is not done.
    pub const OPEN: Self = Self { done: false, ..Self::ALL };

    /// Whether machines in a state are shown; `None`: without any status. `goal`: where machines are
    /// done when all went well.
    #[must_use]
    pub fn shows(&self, state: Option<State>, goal: State) -> bool {
        match state {
            None => self.missing,
            Some(State::Failed) => self.failed,
            Some(state) if state == goal => self.done,
            Some(state) if state.is_final() => self.done,
            Some(_) => self.pending,
        }
    }
}

/// One machine in one deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineStatus {
    /// The machine's name.
    pub name: Name,
    /// Its state: one of [`State`], or `unknown`.
    pub state: String,
    /// Why it waits, why it failed, or what was done.
    pub detail: String,
    /// Which try this is; 0 when the state is unknown.
    pub attempt: u32,
    /// When each state was first reached in this attempt, by the machine's clock in cluster time.
    pub reached: Vec<(State, Millis)>,
    /// How the file came to it; `None`: it has not, or the machine had it before.
    #[serde(default)]
    pub transfer: Option<Transfer>,
    /// Whether the machine is up, as this node sees it.
    pub up: bool,
    /// How long it has been so, in milliseconds.
    pub since_ms: u64,
}

impl MachineStatus {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub fn is_final(&self) -> bool {
        State::ALL.iter().any(|s| s.is_final() && s.as_str() == self.state)
    }
}

/// A machine's install history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryView {
    /// The machine.
    pub machine: Name,
    /// When the newest part was written; `None` when there is none.
    pub as_of: Option<Millis>,
    /// Nodes that answered, of those that should hold it.
    pub answered: usize,
    /// Nodes that should hold it.
    pub replicas: usize,
    /// Nodes whose copy differed from the whole; they were sent what they lacked.
    pub behind: Vec<Name>,
    /// Hash over all entries, the same wherever the history is the same.
    pub checksum: Hash,
    /// Oldest first.
    pub entries: Vec<HistoryEntry>,
}

/// How fast the bytes of blobs may leave and come on one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitsView {
    /// What is in force; what is not said or `none` is not limited.
    pub now: Rates,
    /// What the configuration says for all hours.
    pub always: Rates,
    /// What it says for certain hours.
    pub windows: Vec<WindowView>,
    /// What was set by hand, the one that counts first.
    pub set: Vec<SettingView>,
    /// Whether other programs are at work on the machine: then what is not urgent leaves at `busy_up`.
    pub busy: bool,
    /// How fast it then leaves; `None`: no limit.
    pub busy_up: Option<Rate>,
    /// Pieces that are sent at a time to machines of the same site.
    pub upload_slots: usize,
    /// Deployments with a limit, as far as they fit, the latest first.
    pub deployments: Vec<LimitedView>,
}

/// Limits of certain hours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WindowView {
    /// The days on which it begins (`mon`, `tue`).
    pub days: Vec<String>,
    /// When it begins, local time (`08:00`).
    pub from: String,
    /// When it ends.
    pub to: String,
    /// The limits.
    pub rates: Rates,
    /// Whether it holds now.
    pub holds: bool,
}

/// Limits that were set by hand.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SettingView {
    /// The limits.
    pub rates: Rates,
    /// For how much longer, in milliseconds; `None`: until they are taken back or the node stops.
    pub left_ms: Option<u64>,
}

/// A deployment with a limit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitedView {
    /// Its name for people.
    pub name: String,
    /// How fast a machine may send for it, and receive for it.
    pub limit: Rate,
}
