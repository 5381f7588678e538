//! What the node shows: the stable fields of every `--json` output.

use std::collections::BTreeMap;

use p2pinst_types::record::{HistoryEntry, Mode, PackageId, Role, State};
use p2pinst_types::{
    ClusterId, DeploymentId, Hash, Labels, MachineId, Millis, Name, NodeId, PublicKey, ReleaseId,
};
use serde::{Deserialize, Serialize};

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
    /// Why the cluster refuses this node, when it does.
    #[serde(default)]
    pub refused: Option<RefusedView>,
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
    /// Its members now.
    pub members: Vec<Name>,
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
    /// Machines that should have it: members of the group now.
    pub ordered: usize,
    /// Machines by state; `unknown` when no status of a machine could be read.
    pub counts: BTreeMap<String, usize>,
    /// Every machine that should have it.
    pub machines: Vec<MachineStatus>,
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
