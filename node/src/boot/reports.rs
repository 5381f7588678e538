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

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reports {
    replicas: Replicas,
    store: StoreHandle,
    said: Arc<Mutex<BTreeMap<AssignmentId, Said>>>,
}

/// What was said last of a machine, and when.
type Said = (BootState, String, Millis);

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
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = |then: Millis| state != BootState::Booting || now.since(then) < SIGN;
            let before = said.get(&assigned.id);
            if before.is_some_and(|(s, d, then)| *s == state && *d == detail && fresh(*then)) {
                return;
            }
            if said.len() >= SAID && before.is_none() {
                said.pop_first();
            }
            said.insert(assigned.id, (state, detail.clone(), now));
        }
        let record =
            BootStatus { assignment: assigned.id, state, since: now, done: (0, 0), detail };
        let subject = assigned.machine.as_bytes().to_vec();
        if let Err(error) =
            self.replicas.write(Kind::BOOT_STATUS, subject, Vec::new(), record).await
        {
            debug!(%error, "cannot say how far a machine is");
        }
    }
}
