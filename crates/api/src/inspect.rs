//! What a node shows of its inside: its health, its cells, its peers.

use p2pinst_types::{Kind, Millis, Name, NodeId};
use serde::{Deserialize, Serialize};

use crate::request::CellBytes;

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should look.
    Warn,
    /// Does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: a word that stays the same.
    pub name: String,
    /// How well it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: &str, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level: Level::Ok, message: message.into(), hint: None }
    }

    /// Somebody should look.
    pub fn warn(name: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Warn, hint: Some(hint.into()), ..Self::ok(name, message) }
    }

    /// It does not work.
    pub fn fail(name: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Fail, hint: Some(hint.into()), ..Self::ok(name, message) }
    }
}

/// Some of the cells that are held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CellPage {
    /// The cells, verbatim.
    pub cells: Vec<CellBytes>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<Vec<u8>>,
}

/// A node, as another knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerView {
    /// Its id.
    pub id: NodeId,
    /// Its machine's name; `None`: it is not in the roster.
    pub name: Option<Name>,
    /// Whether it is up.
    pub up: bool,
    /// Since when; `None`: never seen.
    pub since: Option<Millis>,
    /// Which life of the node it is; 0: not known.
    pub incarnation: u64,
    /// Where it said that it listens.
    pub addrs: Vec<String>,
    /// Requests of the store protocol that this node has sent it since its own start.
    pub asked: u64,
    /// Requests of the store protocol that it has sent.
    pub answered: u64,
}

/// A subject of the data plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyView {
    /// The kind of its cells.
    pub kind: Kind,
    /// The subject.
    #[serde(with = "serde_bytes")]
    pub subject: Vec<u8>,
    /// Its place among the nodes: what is near to this holds it.
    pub place: p2pinst_types::Hash,
    /// The nodes that should hold it now, closest first.
    pub replicas: Vec<NodeId>,
    /// Whether this node is one of them.
    pub here: bool,
    /// How many cells of it are held here.
    pub cells: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Some of the subjects that are held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyPage {
    /// The subjects.
    pub keys: Vec<KeyView>,
    /// How many more there are.
    pub more: usize,
}
