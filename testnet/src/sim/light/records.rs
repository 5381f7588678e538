//! Records as large as real ones: encoded from the fixture's, with another subject each.

use p2pinst_trust::fixture::{Lab, name};
use p2pinst_types::record::{
    Action, Deployment, HistoryEntry, HistorySegment, Mode, State, Status,
};
use p2pinst_types::{DeploymentId, Hash, Kind, Millis, ReleaseId, codec};

use crate::sim::full::release;

/// Where a cell goes, and what is in it.
pub(crate) type Place = (Kind, Vec<u8>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Records {
    admission: Vec<u8>,
}

impl Records {
    pub(crate) fn new() -> Self {
        let mut lab = Lab::default();
        let invited = lab.invite(70, 1);
        let machine = lab.node(&invited, 100, "node0123");
        let operator = lab.operator.clone();
        Self { admission: lab.admit(&operator, &machine).payload().to_vec() }
    }

    pub(crate) fn admission(&self, n: usize) -> Place {
        (Kind::ADMISSION, super::library::node_key(n).0.to_vec())
    }

    pub(crate) fn admission_payload(&self) -> Vec<u8> {
        self.admission.clone()
    }

    pub(crate) fn release(&self, n: u64) -> (Place, Vec<u8>) {
        let payload = release("linux-image-amd64", &format!("6.12.{n}-1"))
            .and_then(|r| codec::encode(&r).ok())
            .unwrap_or_default();
        ((Kind::RELEASE, Hash::of(&payload).0.to_vec()), payload)
    }

    pub(crate) fn deployment(&self, n: u64) -> (Place, Vec<u8>) {
        let order = Deployment {
            number: n,
            release: ReleaseId(Hash::of(&n.to_be_bytes())),
            group: name("compute"),
            mode: Mode::Urgent,
            allow_downgrade: false,
            holders: Vec::new(),
            shards: 256,
            preheat: false,
            limit: None,
        };
        ((Kind::DEPLOYMENT, deployment_id(n).0.to_vec()), codec::encode(&order).unwrap_or_default())
    }
}

/// The id of a number.
pub(crate) fn deployment_id(n: u64) -> DeploymentId {
    let hash = Hash::of(&n.to_be_bytes());
    DeploymentId::from_slice(hash.0.split_at(16).0).unwrap_or(DeploymentId([0; 16]))
}

/// A status after so many states.
pub(crate) fn status(states: &[State]) -> Vec<u8> {
    let reached = states.iter().map(|s| (*s, Millis(1_800_000_000_000))).collect();
    let state = states.last().copied().unwrap_or(State::Pending);
    let status = Status { state, attempt: 1, detail: String::new(), reached, transfer: None };
    codec::encode(&status).unwrap_or_default()
}

/// A segment of a history with so many entries.
pub(crate) fn segment(entries: usize) -> Vec<u8> {
    let Some(release) = release("linux-image-amd64", "6.12.1-1") else { return Vec::new() };
    let entry = |n: usize| HistoryEntry {
        at: Millis(1_800_000_000_000),
        deployment: deployment_id(n as u64),
        release: ReleaseId(Hash::of(&n.to_be_bytes())),
        package: release.package.clone(),
        action: Action::Upgrade,
        old_version: Some("6.12.0-1".to_owned()),
        outcome: State::Installed,
        exit_code: Some(0),
        millis: 1234,
        log: "Setting up linux-image-amd64 (6.12.1-1) ...\n".to_owned(),
    };
    let segment = HistorySegment { previous: None, entries: (0..entries).map(entry).collect() };
    codec::encode(&segment).unwrap_or_default()
}
