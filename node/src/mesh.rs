//! Keeps the wanted members connected: dials those that are not, with growing pauses, and now and
//! then one of whom nothing is heard.
//!
//! Of two nodes the one with the lower id dials at once and the other only after a while, so that
//! they do not end up with two connections. A member that is not where it was known to be is
//! looked for in its node record, which the data plane has.

use std::collections::BTreeMap;
use std::time::Duration;

use p2pinst_types::record::NodeRecord;
use p2pinst_types::{Kind, MachineId, NodeId};
use rand::seq::IteratorRandom;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::liveness::{Liveness, Wanted};
use crate::net::{Net, NetError};
use crate::replicate::Replicas;
use crate::store::StoreHandle;

/// Dials under way at once.
const AT_ONCE: usize = 16;
/// Of these, to members that did not answer before: they do not keep others waiting.
const AGAIN_AT_ONCE: usize = 8;
/// How long the node with the higher id waits for the other's dial.
const YIELD: Duration = Duration::from_millis(500);
/// First and longest pause after a failed dial.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// In a large cluster, a pause before another of those of whom nothing is heard is tried.
const LOOK_ROUND: Duration = Duration::from_secs(5);
/// A pause before a member's record is read again.
const LOOK_UP: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Attempt {
    next: Instant,
    pause: Duration,
    failed: u32,
    looked_up: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Mesh {
    own: NodeId,
    net: Net,
    store: StoreHandle,
    replicas: Replicas,
    liveness: Liveness,
    attempts: BTreeMap<NodeId, Attempt>,
    /// A member of whom nothing is heard, and when the next one's turn is.
    round: (Option<NodeId>, Instant),
    again: usize,
}

/// How a dial ended: to whom, whether it had failed before, whether it succeeded.
type Dialled = (NodeId, bool, Result<(), NetError>);

impl Mesh {
    /// The mesh around a node.
    #[must_use]
    pub fn new(
        own: NodeId,
        net: Net,
        store: StoreHandle,
        replicas: Replicas,
        liveness: Liveness,
    ) -> Self {
        let round = (None, Instant::now());
        Self { own, net, store, replicas, liveness, attempts: BTreeMap::new(), round, again: 0 }
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut views = self.store.watch();
        let mut changes = self.net.peers().changes();
        let mut wanted = self.liveness.wanted();
        let mut dials: JoinSet<Dialled> = JoinSet::new();
        loop {
            let now_wanted = wanted.borrow_and_update().clone();
            let wake = self.dial_due(&now_wanted, &mut dials);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = dials.join_next(), if !dials.is_empty() => {
                    if let Ok(done) = done {
                        self.on_dialled(done, &now_wanted);
                    }
                }
                Ok(()) = views.changed() => self.part_with_strangers().await,
                Ok(()) = changes.changed() => {}
                Ok(()) = wanted.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// In a large cluster: one of those of whom nothing is heard, another each time.
    fn look_round(&mut self, wanted: &Wanted) -> Option<NodeId> {
        let now = Instant::now();
        if wanted.all {
            return None;
        }
        if now >= self.round.1 {
            let peers = self.net.peers();
            let views = self.store.views();
            let lost = views.machines.values().map(|m| m.node);
            let lost = lost.filter(|n| *n != self.own && !peers.is_up(n));
            self.round = (lost.choose(&mut rand::rng()), now + LOOK_ROUND);
        }
        self.round.0
    }

    /// Starts the dials that are due; says when the next one is.
    fn dial_due(&mut self, wanted: &Wanted, dials: &mut JoinSet<Dialled>) -> Instant {
        let now = Instant::now();
        let mut wake = now + PAUSE.1;
        let lost = self.look_round(wanted);
        if !wanted.all {
            wake = wake.min(self.round.1);
        }
        let views = self.store.views();
        if views.removal(&self.own.0).is_some() {
            return wake; // nobody would have it
        }
        let is_target = |n: &NodeId| wanted.members.contains(n) || lost == Some(*n);
        self.attempts.retain(|node, _| is_target(node));
        for node in wanted.members.iter().chain(&lost).copied() {
            if node == self.own || self.net.peers().get(&node).connected {
                self.attempts.remove(&node);
                continue;
            }
            let first = if self.own < node { now } else { now + YIELD };
            let new = Attempt { next: first, pause: PAUSE.0, failed: 0, looked_up: None };
            let attempt = self.attempts.entry(node).or_insert(new);
            if attempt.next > now {
                wake = wake.min(attempt.next);
                continue;
            }
            let again = attempt.failed > 0;
            if dials.len() >= AT_ONCE || (again && self.again >= AGAIN_AT_ONCE) {
                continue; // the end of a dial wakes this task
            }
            // until it has ended, this dial is not due again
            attempt.next = now + PAUSE.1;
            self.again += usize::from(again);
            let unseen = attempt.looked_up.is_none_or(|at| now >= at + LOOK_UP);
            let look_up = (attempt.failed >= 2 && unseen)
                .then(|| views.machine_of(&node.0).map(|m| m.id))
                .flatten();
            if look_up.is_some() {
                attempt.looked_up = Some(now);
            }
            let (net, replicas) = (self.net.clone(), self.replicas.clone());
            dials.spawn(async move {
                if let Some(machine) = look_up {
                    read_record(&net, &replicas, node, machine).await;
                }
                let dialled = net.dial(Some(node), &net.peers().addrs_of(&node)).await;
                if let Err(error) = &dialled {
                    debug!(peer = %node, %error, "cannot connect");
                }
                (node, again, dialled.map(drop))
            });
        }
        wake
    }

    fn on_dialled(&mut self, (node, again, dialled): Dialled, wanted: &Wanted) {
        self.again -= usize::from(again);
        let connected = dialled.is_ok();
        // what this node itself could not do says nothing of the other
        let theirs = matches!(dialled, Err(NetError::Dial { .. } | NetError::Refused { .. }));
        if theirs && wanted.members.contains(&node) {
            self.liveness.unreachable(node);
        }
        let Some(attempt) = self.attempts.get_mut(&node) else { return };
        if connected {
            // it may be closed again before this task has seen it open
            (attempt.pause, attempt.failed) = (PAUSE.0, 0);
        } else {
            attempt.failed = attempt.failed.saturating_add(1);
        }
        attempt.next = Instant::now() + attempt.pause;
        attempt.pause = (attempt.pause * 2).min(PAUSE.1);
    }

    /// R16: who is no longer a member loses its connections.
    async fn part_with_strangers(&self) {
        let views = self.store.views();
        let now = self.store.clock().now();
        if views.machine_of(&self.own.0).is_none() && views.removal(&self.own.0).is_none() {
            return; // this node does not know the roster yet
        }
        for peer in self.net.peers().connected() {
            if !views.is_welcome(&peer.0, now) {
                info!(%peer, "no longer a member: closing its connections");
                drop(self.net.close(peer).await);
            }
        }
    }
}

/// Where a member says, in its signed record, that it listens.
async fn read_record(net: &Net, replicas: &Replicas, node: NodeId, machine: MachineId) {
    let subject = machine.as_bytes().to_vec();
    let Ok(read) = replicas.read(Kind::NODE_RECORD, subject).await else { return };
    for cell in read.cells.iter().filter(|c| c.id.author == node.0) {
        if let Ok(record) = cell.record::<NodeRecord>() {
            net.peers().note(node, &record.addrs);
        }
    }
}
