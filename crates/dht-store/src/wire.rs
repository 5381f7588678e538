//! The store protocol, `/p2pinst/store/1`: one request and one response per stream, each a frame
//! of CBOR of at most [`p2pinst_types::limits::FRAME`] bytes.

use std::time::Duration;

use p2pinst_trust::{Greeting, Welcome};
use p2pinst_types::record::{Progress, SignedRoot};
use p2pinst_types::{Cell, Hash, Kind, Mac, MachineId, Millis, PublicKey};
use serde::{Deserialize, Serialize};

use crate::admission::Outcome;
use crate::repair::Holding;
use crate::store::After;
use crate::summary::Summary;
use crate::sync::{LogState, Part};

/// The name under which libp2p negotiates the protocol.
pub const PROTOCOL: &str = "/p2pinst/store/1";
/// Cells in one message, in bytes: leaves room in a frame for the rest.
pub const CELL_BYTES: usize = 512 * 1024;

/// How long a subject is watched after it was asked for.
pub const LEASE: Duration = Duration::from_secs(60);

/// Blobs whose swarms one request may ask for.
pub const SWARMS: usize = 16;

/// The subject of a shard of statuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StatusSubject(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// Cells as they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CellBytes(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl CellBytes {
    /// The bytes of a cell.
    #[must_use]
    pub fn of(cell: &Cell) -> Self {
        Self(cell.bytes().to_vec())
    }
}

/// What a node asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Control plane: are we in the same state?
    Heads {
        /// Digest of the asking node's control plane.
        digest: Hash,
        /// How many roots the asking node knows.
        roots: u64,
        /// The asking node's local clock.
        clock: Millis,
    },
    /// Control plane: send the logs of the authors in these buckets.
    Logs {
        /// Which.
        buckets: Vec<u8>,
    },
    /// Control plane: send the chain of roots.
    Roots,
    /// Control plane: send these parts.
    Pull {
        /// Which.
        parts: Vec<Part>,
    },
    /// Control plane: take these.
    Push {
        /// The cells that are there.
        cells: Vec<CellBytes>,
        /// What they cover.
        covered: Vec<Part>,
    },
    /// Data plane: keep these.
    Put {
        /// The cells.
        cells: Vec<CellBytes>,
    },
    /// Data plane: send what you hold of a subject.
    Get {
        /// The kind of the cells.
        kind: Kind,
        /// Their subject.
        #[serde(with = "serde_bytes")]
        subject: Vec<u8>,
        /// Behind which cell to begin.
        after: After,
    },
    /// Data plane: do we hold the same of all subjects of which both of us are replicas?
    Compare {
        /// Digest of what the asking node holds of them.
        digest: Hash,
    },
    /// Data plane: what do you hold of these subjects' buckets?
    List {
        /// Which: by the first byte of their places.
        buckets: Vec<u8>,
    },
    /// Data plane: how are these subjects of statuses summed up where you are? At most
    /// [`crate::summary::SUMMARIES`].
    Summaries {
        /// The subjects.
        subjects: Vec<StatusSubject>,
    },
    /// Data plane: tell me of every new status of these subjects, for [`LEASE`]. At most
    /// [`crate::summary::SUMMARIES`].
    Watch {
        /// The subjects.
        subjects: Vec<StatusSubject>,
    },
    /// Data plane: these statuses, of subjects that you watch, are new here.
    Changed {
        /// The cells.
        cells: Vec<CellBytes>,
    },
    /// Do you hold all pieces of a blob?
    Holds {
        /// The blob's root.
        root: Hash,
    },
    /// How far are you with these blobs? At most [`SWARMS`]; none named: those at work where you
    /// are.
    Swarm {
        /// The blobs' roots.
        roots: Vec<Hash>,
    },
    /// A machine that starts over the network has said this; what is it to be told? For nodes with the boot role, who alone can
    /// say more than that it is to wait.
    Greet {
        /// A signed [`p2pinst_trust::ScoutHello`].
        #[serde(with = "serde_bytes")]
        hello: Vec<u8>,
        /// The interface that it called from, as the kernel of the node knows that it called.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        heard: Option<Mac>,
    },
    /// Of a scout, to a node with the boot role: certify the key of the system that it installs.
    Certify {
        /// The key.
        node: PublicKey,
    },
    /// Of a scout, to a node with the boot role: its machine is installed, and is to start from its disk.
    Installed {
        /// What was done, for people; at most [`p2pinst_types::limits::DESCRIPTION`] bytes.
        what: String,
    },
    /// To a node with the power role: is the machine on, as its controller says now?
    Power {
        /// The machine.
        machine: MachineId,
    },
}

impl Request {
    /// Whether a scout may ask for it: it learns what is ordered, and reports.
    #[must_use]
    pub fn is_for_scouts(&self) -> bool {
        match self {
            Self::Heads { .. }
            | Self::Logs { .. }
            | Self::Roots
            | Self::Pull { .. }
            | Self::Push { .. }
            | Self::Put { .. }
            | Self::Holds { .. }
            | Self::Certify { .. }
            | Self::Installed { .. } => true,
            Self::Get { .. }
            | Self::Compare { .. }
            | Self::List { .. }
            | Self::Summaries { .. }
            | Self::Watch { .. }
            | Self::Changed { .. }
            | Self::Swarm { .. }
            | Self::Greet { .. }
            | Self::Power { .. } => false,
        }
    }
}

/// What the other node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To `Heads`: the digests are equal.
    Same {
        /// How many roots the answering node knows.
        roots: u64,
        /// The answering node's local clock.
        clock: Millis,
    },
    /// To `Heads`: they are not; this is what is here.
    Heads {
        /// The answering node's logs.
        logs: Vec<LogState>,
        /// How many roots it knows.
        roots: u64,
        /// Its local clock.
        clock: Millis,
    },
    /// To `Heads`: they are not, and there are many logs; these are digests of theirs.
    Buckets {
        /// By the first byte of the author.
        digests: Vec<(u8, u64)>,
        /// How many roots the answering node knows.
        roots: u64,
        /// Its local clock.
        clock: Millis,
    },
    /// To `Logs`.
    Logs {
        /// The logs.
        logs: Vec<LogState>,
    },
    /// To `Roots`.
    Roots {
        /// The chain.
        roots: Vec<SignedRoot>,
    },
    /// To `Pull`: the cells of these parts; ask again for the rest.
    Cells {
        /// The cells.
        cells: Vec<CellBytes>,
        /// What they cover.
        covered: Vec<Part>,
    },
    /// To `Push` and `Put`: what became of each cell, in order.
    Outcomes(Vec<Outcome>),
    /// To `Get`.
    Data {
        /// The cells, by slot and author.
        cells: Vec<CellBytes>,
        /// Whether there are more behind them.
        more: bool,
    },
    /// To `Compare`: no difference.
    Equal,
    /// To `Compare`: digests of the answering node's buckets that are not empty.
    Differ {
        /// By the first byte of the subjects' places.
        digests: Vec<(u8, u64)>,
    },
    /// To `List`.
    Holdings(Vec<Holding>),
    /// To `Summaries`: one for each subject, in order; `None`: nothing is held of it.
    Summaries(Vec<Option<Summary>>),
    /// To `Watch`: how many of the subjects, from the first on, are watched now.
    Watching(usize),
    /// To `Changed`: taken note of.
    Noted,
    /// To `Holds`.
    Holds(bool),
    /// To `Swarm`: the blobs of which the answering node has a piece or knows something.
    Swarm(Vec<Progress>),
    /// To `Greet`.
    Greeting(Greeting),
    /// To `Certify`.
    Certified(Box<Welcome>),
    /// To `Power`: whether it is on, where the controller can tell; or why the node cannot say.
    Power(Result<Option<bool>, String>),
    /// The node cannot answer.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use p2pinst_types::{PublicKey, codec};

    use super::*;
    use crate::coverage::Ranges;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn golden_messages() {
        let part = Part { author: PublicKey([1; 32]), incarnation: 2, ranges: Ranges::up_to(3) };
        let ones = "01".repeat(32);
        let part_hex = format!(
            "a366617574686f725820{ones}6b696e6361726e6174696f6e026672616e676573818201{}",
            "03"
        );
        let request = codec::encode(&Request::Pull { parts: vec![part.clone()] }).unwrap();
        assert_eq!(hex(&request), format!("a16450756c6ca165706172747381{part_hex}"));
        let cells = vec![CellBytes(vec![0xc1])];
        let response = codec::encode(&Response::Cells { cells, covered: vec![part] }).unwrap();
        assert_eq!(
            hex(&response),
            format!("a16543656c6c73a26563656c6c738141c167636f766572656481{part_hex}")
        );
        let get = Request::Get { kind: Kind::STATUS, subject: vec![7], after: None };
        assert_eq!(
            hex(&codec::encode(&get).unwrap()),
            "a163476574a3646b696e64198003677375626a6563744107656166746572f6"
        );
        let outcomes = Response::Outcomes(vec![Outcome::Accepted, Outcome::Held("x".into())]);
        assert_eq!(
            hex(&codec::encode(&outcomes).unwrap()),
            "a1684f7574636f6d657382684163636570746564a16448656c646178"
        );
    }
}
