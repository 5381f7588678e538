//! Whom a scout stays connected with: those who keep its reports, members of its site, and other scouts there.

use std::time::Duration;

use dht_store::Views;
use dht_store::placement::Ring;
use dht_store::shelf::Subject;
use p2pinst_types::{Hash, Kind, MachineId, NodeId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::net::Net;
use crate::store::StoreHandle;

/// Between two looks at who is missing, while there is no news.
const LOOK: Duration = Duration::from_secs(2);
/// How long news are gathered before a look: machines that are switched on together are heard of one by one.
const GATHER: Duration = Duration::from_millis(100);
/// Members of the own site, and of others.
const MEMBERS: usize = 16;
/// Other scouts.
const SCOUTS: usize = 12;
/// Dials under way at once.
const DIALS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Contacts {
    pub(super) own: NodeId,
    pub(super) machine: MachineId,
    pub(super) net: Net,
    pub(super) store: StoreHandle,
    pub(super) bootstrap: Vec<String>,
}

impl Contacts {
    /// Runs until shutdown.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut dials: JoinSet<()> = JoinSet::new();
        let (mut views, mut look) = (self.store.watch(), Instant::now());
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = dials.join_next(), if !dials.is_empty() => {}
                () = sleep_until(look) => {
                    self.dial(&mut dials);
                    look = Instant::now() + LOOK;
                }
                Ok(()) = views.changed() => look = look.min(Instant::now() + GATHER),
            }
        }
        dials.shutdown().await;
    }

    fn dial(&self, dials: &mut JoinSet<()>) {
        let views = self.store.views();
        let peers = self.net.peers();
        let mut targets: Vec<(Option<NodeId>, Vec<String>)> = Vec::new();
        for (node, addrs) in self.wanted(&views) {
            if !peers.get(&node).connected {
                let mut known = peers.addrs_of(&node);
                known.extend(addrs);
                targets.push((Some(node), known));
            }
        }
        if peers.connected().is_empty() {
            targets.extend(self.bootstrap.iter().map(|a| (None, vec![a.clone()])));
        }
        for (node, addrs) in targets {
            if dials.len() >= DIALS {
                break;
            }
            let net = self.net.clone();
            dials.spawn(async move {
                match net.dial(node, &addrs).await {
                    Ok(peer) => info!(%peer, "connected"),
                    Err(error) => debug!(?node, %error, "not reached"),
                }
            });
        }
    }

    /// Whom to be connected with, with where they were when they joined.
    fn wanted(&self, views: &Views) -> Vec<(NodeId, Vec<String>)> {
        let place = |n: &NodeId| {
            let parts: [&[u8]; 2] = [self.own.0.as_bytes(), n.0.as_bytes()];
            Hash::of_parts("p2pinst/scout-contacts/1", &parts)
        };
        let home = views.place_of(&self.own.0).map(|(site, _)| site.clone());
        let mut members: Vec<_> =
            views.machines.values().filter(|m| m.id != self.machine).collect();
        members.sort_by_cached_key(|m| (Some(&m.site) != home.as_ref(), place(&m.node)));
        let roster = views.machines.values().map(|m| (m.node.0, m.site.clone()));
        let ring = Ring::new(*views.roots.cluster(), roster);
        let subject = Subject { kind: Kind::BOOT_STATUS, id: self.machine.as_bytes().to_vec() };
        let replicas = ring.replicas(&subject, home.as_ref());
        let keeps = |n: &NodeId| replicas.contains(&n.0);
        let chosen = members.iter().enumerate().filter(|(i, m)| *i < MEMBERS || keeps(&m.node));
        let chosen = chosen.map(|(_, m)| (m.node, m.addrs.clone()));
        let now = self.store.clock().now();
        let is_near = |s: &&dht_store::view::Scout| {
            s.node != self.own && Some(&s.site) == home.as_ref() && now <= s.not_after
        };
        let mut scouts: Vec<_> = views.scouts().filter(is_near).collect();
        scouts.sort_by_cached_key(|s| place(&s.node));
        // of two scouts the lower dials, so that they do not end up with two connections
        let scouts = scouts.into_iter().filter(|s| self.own < s.node).take(SCOUTS);
        chosen.chain(scouts.map(|s| (s.node, s.addrs.clone()))).collect()
    }
}
