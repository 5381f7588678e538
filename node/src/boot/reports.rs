//! What this node says of machines that it boots or switches: how far each is, in its boot status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dht_store::view::Assigned;
use p2pinst_types::record::{BootState, BootStatus, NodeRecord, Role};
use p2pinst_types::{AssignmentId, Cell, Hlc, Kind, MachineId, Millis};
use tracing::debug;

use crate::replicate::Replicas;
use crate::store::StoreHandle;

/// Orders of which it is remembered what was said.
const SAID: usize = 4096;
/// A machine that asks for something to boot again so much later is a new sign of it: no record for each time that it asks.
const SIGN: Duration = Duration::from_secs(15);
/// Signs that follow each other within this time are one stretch of time in a state.
const STRETCH: Duration = Duration::from_secs(120);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reports {
    replicas: Replicas,
    store: StoreHandle,
    said: Arc<Mutex<BTreeMap<AssignmentId, Said>>>,
}

/// What was said last of a machine.
#[derive(Debug)]
struct Said {
    state: BootState,
    detail: String,
    at: Millis,
    /// Since when the machine is in that state.
    since: Millis,
}

/// Says something at a time. Since when it is so; nothing where it need not be said again.
fn news(
    said: &mut BTreeMap<AssignmentId, Said>,
    of: AssignmentId,
    (state, detail): (BootState, &str),
    now: Millis,
) -> Option<Millis> {
    let before = said.get(&of).filter(|before| before.state == state);
    if let Some(before) = before.filter(|before| before.detail == detail)
        && (state != BootState::Booting || now.since(before.at) < SIGN)
    {
        return None;
    }
    let goes_on = before.filter(|before| now.since(before.at) < STRETCH);
    let since = goes_on.map_or(now, |before| before.since);
    if said.len() >= SAID && !said.contains_key(&of) {
        said.pop_first();
    }
    said.insert(of, Said { state, detail: detail.to_owned(), at: now, since });
    Some(since)
}

impl Reports {
    /// Of this node.
    #[must_use]
    pub fn new(replicas: Replicas, store: StoreHandle) -> Self {
        Self { replicas, store, said: Arc::default() }
    }

    /// What is said of how far a machine is, by all; nothing when it cannot be read.
    pub(super) async fn said(&self, machine: MachineId) -> Vec<Cell> {
        let subject = machine.as_bytes().to_vec();
        match self.replicas.read(Kind::BOOT_STATUS, subject).await {
            Ok(read) => read.cells,
            Err(error) => {
                debug!(%machine, %error, "cannot read how far a machine is");
                Vec::new()
            }
        }
    }

    /// What a member's own system says of itself; `None`: that cannot be read now.
    pub(super) async fn record_of(&self, machine: MachineId) -> Option<NodeRecord> {
        let subject = machine.as_bytes().to_vec();
        let read = self.replicas.read(Kind::NODE_RECORD, subject).await.ok()?;
        read.cells.iter().max_by_key(|cell| cell.hlc)?.record().ok()
    }

    /// A machine has come so far, as this node saw. Says nothing twice but that it asks for something to
    /// boot, and nothing without the boot or the power role.
    pub async fn say(&self, assigned: &Assigned, state: BootState, detail: String) {
        let (views, now) = (self.store.views(), self.store.clock().now());
        let roles = views.roles(&self.replicas.node().0, Hlc::at(now));
        if !roles.iter().any(|r| matches!(r, Role::Boot | Role::Power)) {
            return;
        }
        let since = {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            news(&mut said, assigned.id, (state, &detail), now)
        };
        let Some(since) = since else { return };
        let record = BootStatus { assignment: assigned.id, state, since, done: (0, 0), detail };
        let subject = assigned.machine.as_bytes().to_vec();
        if let Err(error) =
            self.replicas.write(Kind::BOOT_STATUS, subject, Vec::new(), record).await
        {
            debug!(%error, "cannot say how far a machine is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_repeated_and_the_state_lasts_since_the_first() {
        let (mut said, of) = (BTreeMap::new(), AssignmentId([1; 16]));
        let at = |secs: u64| Millis(secs * 1000);
        let mut say = |state, detail, secs| news(&mut said, of, (state, detail), at(secs));
        let booting = BootState::Booting;
        assert_eq!(say(booting, "asks", 100), Some(at(100)));
        assert_eq!(say(booting, "asks", 105), None, "a moment ago");
        assert_eq!(say(booting, "asks", 116), Some(at(100)), "still there");
        assert_eq!(say(booting, "waits for a code", 120), Some(at(100)));
        assert_eq!(say(booting, "asks", 1000), Some(at(1000)), "started once more");
        assert_eq!(say(BootState::Failed, "no", 1001), Some(at(1001)));
        assert_eq!(say(BootState::Failed, "no", 2000), None, "nothing new");
        assert_eq!(said.len(), 1);
    }
}
