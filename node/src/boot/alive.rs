//! Which scouts are at work although they are not connected to this node: in a large cluster a scout keeps to others. What they
//! report of their machines is on the data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use dht_store::Views;
use futures::future::join_all;
use p2pinst_trust::ScoutHello;
use p2pinst_types::{Cell, MachineId, Millis, NodeId};
use tracing::debug;

/// A scout that has reported within this time is at work: it does so every few seconds while it writes.
const RECENT: Duration = Duration::from_secs(60);
/// How long it may take to find that out; the machine that asks is answered then in any case.
const READ: Duration = Duration::from_secs(2);

/// The scouts of the machines that the introduction may be of, other than the one that introduces itself.
pub(super) fn others(
    views: &Views,
    hello: &ScoutHello,
    now: Millis,
) -> BTreeMap<NodeId, MachineId> {
    let machines: BTreeSet<MachineId> =
        hello.macs.iter().filter_map(|mac| views.machine_with(mac)).collect();
    let scouts = views
        .scouts()
        .filter(|s| machines.contains(&s.machine) && s.node.0 != hello.key && now <= s.not_after);
    scouts.map(|s| (s.node, s.machine)).collect()
}

/// Those of them that have reported a moment ago. `read` gives what was said of how far a machine is; what cannot be read in
/// time holds nobody off.
pub(super) async fn reporting<R, F>(
    scouts: &BTreeMap<NodeId, MachineId>,
    now: Millis,
    read: R,
) -> BTreeSet<NodeId>
where
    R: Fn(MachineId) -> F,
    F: Future<Output = Vec<Cell>>,
{
    let look = |(node, machine): (&NodeId, &MachineId)| {
        let (node, said) = (*node, tokio::time::timeout(READ, read(*machine)));
        async move {
            match said.await {
                Ok(cells) => has_reported(&cells, &node, now).then_some(node),
                Err(_) => {
                    debug!(%node, "it is not known in time whether this scout is at work");
                    None
                }
            }
        }
    };
    join_all(scouts.iter().map(look)).await.into_iter().flatten().collect()
}

fn has_reported(cells: &[Cell], scout: &NodeId, now: Millis) -> bool {
    let own = cells.iter().filter(|cell| cell.id.author == scout.0);
    // a clock that is ahead makes nobody immortal
    let recent = |at: Millis| now.since(at) < RECENT && at.since(now) < RECENT;
    own.map(|cell| cell.hlc.millis()).any(recent)
}

#[cfg(test)]
mod tests {
    use p2pinst_trust::fixture::{Lab, key};
    use p2pinst_types::AssignmentId;
    use p2pinst_types::Kind;
    use p2pinst_types::record::{BootState, BootStatus};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_reported_a_moment_ago_is_at_work() {
        let mut lab = Lab::default();
        let (scout, booter) = (key(7), key(8));
        let machine = MachineId([1; 16]);
        let status = BootStatus {
            assignment: AssignmentId([2; 16]),
            state: BootState::Writing,
            since: Millis(0),
            done: (0, 0),
            detail: String::new(),
        };
        let own = lab.write(&scout, Kind::BOOT_STATUS, machine.as_bytes(), &status);
        let others = lab.write(&booter, Kind::BOOT_STATUS, machine.as_bytes(), &status);
        let said = own.hlc.millis();
        let scouts = &BTreeMap::from([(NodeId(scout.public()), machine)]);
        let at_work = |cells: Vec<Cell>, now| async move {
            let read = |of: MachineId| {
                assert_eq!(of, machine);
                let cells = cells.clone();
                async move { cells }
            };
            !reporting(scouts, now, read).await.is_empty()
        };
        let after = |secs| said.after(Duration::from_secs(secs));
        assert!(at_work(vec![others.clone(), own.clone()], said).await);
        assert!(at_work(vec![own.clone()], after(59)).await);
        assert!(!at_work(vec![own.clone()], after(60)).await);
        assert!(!at_work(vec![others], said).await, "what others say is not its own word");
        assert!(!at_work(vec![], said).await);
        let before = Millis(said.0 - 60_000);
        assert!(!at_work(vec![own], before).await, "it comes from the future");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_hangs_holds_nobody_off() {
        let scouts = BTreeMap::from([
            (NodeId(key(7).public()), MachineId([1; 16])),
            (NodeId(key(8).public()), MachineId([1; 16])),
        ]);
        let begun = tokio::time::Instant::now();
        let found = reporting(&scouts, Millis(5), |_| std::future::pending()).await;
        assert_eq!((found.len(), begun.elapsed()), (0, READ));
    }
}
