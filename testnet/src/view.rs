//! What the commands print with `--json`, as far as the testnet reads it. Fields that it does not
//! know are no error: newer versions may print more.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// `p2pinst status --json`
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Every deployment.
    pub deployments: Vec<Deployment>,
}

impl Status {
    /// The deployment of that id or name.
    ///
    /// # Errors
    /// When there is none.
    pub fn deployment(&self, id: &str) -> Result<&Deployment> {
        let found = self.deployments.iter().find(|d| d.id == id || d.name == id);
        found.with_context(|| {
            let names: Vec<_> = self.deployments.iter().map(|d| d.name.as_str()).collect();
            format!("the status has no deployment {id}, only [{}]", names.join(", "))
        })
    }
}

/// One deployment in the status.
#[derive(Debug, Clone, Deserialize)]
pub struct Deployment {
    /// Its short hash.
    pub id: String,
    /// Its name for people, such as `n1-1`.
    pub name: String,
    /// What is deployed.
    pub package: Package,
    /// To whom.
    pub group: String,
    /// `urgent` or `load-aware`.
    pub mode: String,
    /// How many machines are to have it.
    pub ordered: usize,
    /// How many machines are in each state.
    #[serde(default)]
    pub counts: BTreeMap<String, usize>,
    /// Each machine.
    #[serde(default)]
    pub machines: Vec<Machine>,
}

impl Deployment {
    /// How many machines are in that state.
    #[must_use]
    pub fn count(&self, state: &str) -> usize {
        self.machines.iter().filter(|m| m.state == state).count()
    }

    /// The machine of that name.
    ///
    /// # Errors
    /// When it is not in this deployment.
    pub fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines
            .iter()
            .find(|m| m.name == name)
            .with_context(|| format!("{name} is not in the status of {}", self.name))
    }

    /// When the last of all ordered machines reached a state, in milliseconds since 1970.
    #[must_use]
    pub fn last_reached(&self, state: &str) -> Option<u64> {
        let times: Option<Vec<u64>> = self.machines.iter().map(|m| m.reached_at(state)).collect();
        times.filter(|t| t.len() == self.ordered)?.into_iter().max()
    }

    /// Each machine and its state, as one line.
    #[must_use]
    pub fn line(&self) -> String {
        let each = self.machines.iter().map(|m| match m.detail.as_str() {
            "" => format!("{} {}", m.name, m.state),
            detail => format!("{} {} ({detail})", m.name, m.state),
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

/// A package in the status.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
}

/// A machine in the status.
#[derive(Debug, Clone, Deserialize)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: String,
    /// Why, or what was done.
    #[serde(default)]
    pub detail: String,
    /// Which try this is.
    #[serde(default)]
    pub attempt: u32,
    /// When each state was first reached, in milliseconds since 1970.
    #[serde(default)]
    pub reached: Vec<(String, u64)>,
}

impl Machine {
    /// When a state was reached.
    #[must_use]
    pub fn reached_at(&self, state: &str) -> Option<u64> {
        self.reached.iter().find(|(s, _)| s == state).map(|(_, at)| *at)
    }
}

/// `p2pinst node ls --json`
#[derive(Debug, Clone, Deserialize)]
pub struct Nodes {
    /// Every machine of the roster.
    pub nodes: Vec<NodeLine>,
}

impl Nodes {
    /// How many are up.
    #[must_use]
    pub fn up(&self) -> usize {
        self.nodes.iter().filter(|n| n.up).count()
    }

    /// The machine of that name.
    ///
    /// # Errors
    /// When the roster has none.
    pub fn named(&self, name: &str) -> Result<&NodeLine> {
        let found = self.nodes.iter().find(|n| n.name == name);
        found.with_context(|| format!("{name} is not in the roster"))
    }
}

/// A machine in `node ls`.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeLine {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub id: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where it is reached.
    #[serde(default)]
    pub addrs: Vec<String>,
    /// Whether it is up.
    pub up: bool,
    /// What the failure detector says.
    #[serde(default)]
    pub state: String,
    /// Who told so; nobody: the node that was asked saw it.
    #[serde(default)]
    pub seen_by: Option<String>,
}

/// `p2pinst group ls --json`
#[derive(Debug, Clone, Deserialize)]
pub struct Groups {
    /// Every group, the built-in one first.
    pub groups: Vec<Group>,
}

/// `p2pinst group show --json`
#[derive(Debug, Clone, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Names of its members.
    pub members: Vec<String>,
    /// Definitions that were written at the same time as the one that counts.
    #[serde(default)]
    pub concurrent: Vec<GroupDefinition>,
}

/// A definition of a group that does not count.
#[derive(Debug, Clone, Deserialize)]
pub struct GroupDefinition {
    /// What the group is, by it.
    pub description: String,
}

/// `p2pinst publish --json`
#[derive(Debug, Clone, Deserialize)]
pub struct Published {
    /// The deployment's id.
    pub deployment: String,
    /// Its name for people.
    pub name: String,
    /// The other nodes that hold all pieces.
    #[serde(default)]
    pub holders: Vec<String>,
}

/// `p2pinst key ls --json`
#[derive(Debug, Clone, Deserialize)]
pub struct Keys {
    /// Every key on this machine.
    pub keys: Vec<KeyLine>,
}

/// A key in `key ls`.
#[derive(Debug, Clone, Deserialize)]
pub struct KeyLine {
    /// The public key.
    pub key: String,
    /// What it may do, if the node knows.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
}
