//! The interfaces of members, as their own systems tell them (`NodeRecord::macs`): a member that starts over the network while this
//! node takes strangers is none.
//!
//! What nodes say of themselves is on the data plane, and the boot tables are made of what every node knows. So a node that takes
//! strangers, and no other, reads the members' records beforehand: each once, and again after a while, so that a DISCOVER is
//! answered from memory still. Until it has tried to read all of them it takes no strangers. A member speaks for nobody else: an
//! adoption or an order says more than its record, so at worst it keeps unknown machines from being discovered.

use std::collections::BTreeMap;
use std::time::Duration;

use dht_store::Views;
use futures::stream::{self, StreamExt as _};
use p2pinst_types::record::NodeRecord;
use p2pinst_types::{Mac, MachineId, limits};
use tokio::time::Instant;

use super::reports::Reports;

/// How long it is believed what a member said: a network card may have been changed.
const STANDS: Duration = Duration::from_secs(600);
/// Until it is tried again to read what could not be read.
const AGAIN: Duration = Duration::from_secs(20);
/// Records that are read at once, and in one go.
const AT_ONCE: usize = 16;
const PASS: usize = 512;

/// What was read of members; `None`: it could not be.
pub(super) type Told = Vec<(MachineId, Option<Vec<Mac>>)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Members {
    known: BTreeMap<MachineId, Known>,
    /// Whether all have been tried once.
    complete: bool,
}

#[derive(Debug)]
struct Known {
    macs: Vec<Mac>,
    /// When it is read again.
    next: Instant,
}

impl Members {
    /// Members whose records are to be read now.
    pub(super) fn due(&mut self, views: &Views, now: Instant) -> Vec<MachineId> {
        self.known.retain(|id, _| views.machines.contains_key(id));
        let is_due = |id: &&MachineId| self.known.get(id).is_none_or(|k| k.next <= now);
        let due: Vec<MachineId> =
            views.machines.keys().filter(is_due).copied().take(PASS).collect();
        self.complete |= views.machines.keys().all(|id| self.known.contains_key(id));
        due
    }

    /// Some were read.
    pub(super) fn came(&mut self, told: Told, now: Instant) {
        for (id, macs) in told {
            let next = now + if macs.is_some() { STANDS } else { AGAIN };
            let known = self.known.entry(id).or_insert(Known { macs: Vec::new(), next });
            known.next = next;
            known.macs = macs.unwrap_or_else(|| std::mem::take(&mut known.macs));
        }
    }

    /// Whether it was tried to read all that there were.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The interfaces of all.
    pub(super) fn macs(&self) -> impl Iterator<Item = Mac> {
        self.known.values().flat_map(|known| known.macs.iter().copied())
    }
}

/// Reads the records of members.
pub(super) async fn read(reports: Reports, members: Vec<MachineId>) -> Told {
    let one = |id: MachineId| {
        let reports = reports.clone();
        async move { (id, reports.record_of(id).await.map(macs)) }
    };
    stream::iter(members).map(one).buffer_unordered(AT_ONCE).collect().await
}

/// What may be an interface's own address.
fn macs(record: NodeRecord) -> Vec<Mac> {
    let own = |mac: &Mac| !mac.is_group() && *mac != Mac([0; 6]);
    record.macs.into_iter().filter(own).take(limits::HARDWARE_NICS).collect()
}
