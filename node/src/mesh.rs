//! Keeps the members connected: dials those that are not, with growing pauses.
//!
//! Of two nodes the one with the lower id dials at once and the other only after a while, so that
//! they do not end up with two connections.

use std::collections::BTreeMap;
use std::time::Duration;

use p2pinst_types::NodeId;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::net::Net;
use crate::store::StoreHandle;

/// Members beyond this number are connected when they are needed.
const MEMBERS: usize = 64;
/// Dials under way at once.
const AT_ONCE: usize = 16;
/// How long the node with the higher id waits for the other's dial.
const YIELD: Duration = Duration::from_millis(500);
/// First and longest pause after a failed dial.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

#[derive(Debug, Clone, Copy)]
struct Attempt {
    next: Instant,
    pause: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Mesh {
    own: NodeId,
    net: Net,
    store: StoreHandle,
    attempts: BTreeMap<NodeId, Attempt>,
}

impl Mesh {
    /// The mesh around a node.
    #[must_use]
    pub fn new(own: NodeId, net: Net, store: StoreHandle) -> Self {
        Self { own, net, store, attempts: BTreeMap::new() }
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut views = self.store.watch();
        let mut changes = self.net.peers().changes();
        let mut dials: JoinSet<(NodeId, bool)> = JoinSet::new();
        loop {
            let wake = self.dial_due(&mut dials);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = dials.join_next(), if !dials.is_empty() => {
                    if let Ok((node, connected)) = done {
                        self.on_dialled(node, connected);
                    }
                }
                Ok(()) = views.changed() => self.part_with_strangers().await,
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Starts the dials that are due; says when the next one is.
    fn dial_due(&mut self, dials: &mut JoinSet<(NodeId, bool)>) -> Instant {
        let now = Instant::now();
        let mut wake = now + PAUSE.1;
        let views = self.store.views();
        if views.removal(&self.own.0).is_some() {
            return wake; // nobody would have it
        }
        let connected = self.net.peers().connected().len();
        for machine in views.machines.values() {
            let node = machine.node;
            let peer = self.net.peers().get(&node);
            if node == self.own || peer.up {
                self.attempts.remove(&node);
                continue;
            }
            let first = if self.own < node { now } else { now + YIELD };
            let attempt =
                self.attempts.entry(node).or_insert(Attempt { next: first, pause: PAUSE.0 });
            if attempt.next > now {
                wake = wake.min(attempt.next);
                continue;
            }
            if dials.len() >= AT_ONCE || connected >= MEMBERS {
                break;
            }
            // until it has ended, this dial is not due again
            attempt.next = now + PAUSE.1;
            let mut addrs = peer.addrs.clone();
            addrs.extend(machine.addrs.iter().filter(|a| !peer.addrs.contains(a)).cloned());
            let net = self.net.clone();
            dials.spawn(async move {
                let dialled = net.dial(Some(node), &addrs).await;
                if let Err(error) = &dialled {
                    debug!(peer = %node, %error, "cannot connect");
                }
                (node, dialled.is_ok())
            });
        }
        wake
    }

    fn on_dialled(&mut self, node: NodeId, connected: bool) {
        let Some(attempt) = self.attempts.get_mut(&node) else { return };
        if connected {
            // it may be closed again before this task has seen it open
            attempt.pause = PAUSE.0;
        }
        attempt.next = Instant::now() + attempt.pause;
        attempt.pause = (attempt.pause * 2).min(PAUSE.1);
    }

    /// R16: who is no longer a member loses its connections.
    async fn part_with_strangers(&self) {
        let views = self.store.views();
        if views.machine_of(&self.own.0).is_none() && views.removal(&self.own.0).is_none() {
            return; // this node does not know the roster yet
        }
        for peer in self.net.peers().connected() {
            if views.machine_of(&peer.0).is_none() {
                info!(%peer, "no longer a member: closing its connections");
                drop(self.net.close(peer).await);
            }
        }
    }
}
