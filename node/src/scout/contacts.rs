//! Whom a scout stays connected with: those who keep its reports, members of its site, and other scouts there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dht_store::Views;
use dht_store::placement::Ring;
use dht_store::shelf::Subject;
use dht_store::view::Machine;
use p2pinst_types::{Hash, Hlc, Kind, MachineId, NodeId};
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

/// Somebody to be dialled: who, where that is known, and at which addresses.
type Target = (Option<NodeId>, Vec<String>);

/// Who was dialled, and when in the order of all dials: who was not for longest is next.
#[derive(Debug, Default)]
struct Dialled {
    at: BTreeMap<String, u64>,
    count: u64,
}

impl Dialled {
    fn key((node, addrs): &Target) -> String {
        node.map_or_else(|| addrs.concat(), |node| node.to_string())
    }

    /// Sorts those that are to be dialled, and forgets all others.
    fn sort(&mut self, targets: &mut [Target]) {
        let keys: BTreeSet<String> = targets.iter().map(Self::key).collect();
        self.at.retain(|key, _| keys.contains(key));
        targets.sort_by_key(|target| self.at.get(&Self::key(target)).copied());
    }

    fn dial(&mut self, target: &Target) {
        self.count += 1;
        self.at.insert(Self::key(target), self.count);
    }
}

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
        let mut dialled = Dialled::default();
        let (mut views, mut look) = (self.store.watch(), Instant::now());
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = dials.join_next(), if !dials.is_empty() => {}
                () = sleep_until(look) => {
                    self.dial(&mut dials, &mut dialled);
                    look = Instant::now() + LOOK;
                }
                Ok(()) = views.changed() => look = look.min(Instant::now() + GATHER),
            }
        }
        dials.shutdown().await;
    }

    fn dial(&self, dials: &mut JoinSet<()>, dialled: &mut Dialled) {
        let views = self.store.views();
        let peers = self.net.peers();
        let mut targets: Vec<Target> = Vec::new();
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
        dialled.sort(&mut targets);
        for target in targets {
            if dials.len() >= DIALS {
                break;
            }
            dialled.dial(&target);
            let ((node, addrs), net) = (target, self.net.clone());
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
        let now = self.store.clock().now();
        // machines that are being installed anew are members still, and down
        let scouts = views.scouts().filter(|s| now <= s.not_after);
        let anew: BTreeMap<MachineId, Hlc> = scouts.map(|s| (s.machine, s.admitted)).collect();
        let is_anew = |m: &&Machine| anew.get(&m.id).is_some_and(|admitted| *admitted > m.admitted);
        let members = views.machines.values().filter(|m| m.id != self.machine && !is_anew(m));
        let mut members: Vec<_> = members.collect();
        members.sort_by_cached_key(|m| (Some(&m.site) != home.as_ref(), place(&m.node)));
        let roster = views.machines.values().map(|m| (m.node.0, m.site.clone()));
        let ring = Ring::new(*views.roots.cluster(), roster);
        let subject = Subject { kind: Kind::BOOT_STATUS, id: self.machine.as_bytes().to_vec() };
        let replicas = ring.replicas(&subject, home.as_ref());
        let keeps = |n: &NodeId| replicas.contains(&n.0);
        let chosen = members.iter().enumerate().filter(|(i, m)| *i < MEMBERS || keeps(&m.node));
        let chosen = chosen.map(|(_, m)| (m.node, m.addrs.clone()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_their_turn_though_the_first_never_answer() {
        let all = || -> Vec<Target> { (0..30).map(|n| (None, vec![format!("a{n}")])).collect() };
        let (mut dialled, mut met) = (Dialled::default(), BTreeSet::new());
        for round in 0..4 {
            let mut targets = all();
            dialled.sort(&mut targets);
            for target in targets.iter().take(DIALS) {
                dialled.dial(target);
                met.insert(target.1.concat());
            }
            // in the order of their worth, while nobody was tried
            assert!(round > 0 || (met.contains("a0") && met.contains("a7")), "{met:?}");
        }
        assert_eq!(met.len(), 30, "{met:?}");
        dialled.sort(&mut all()[..3]);
        assert_eq!(dialled.at.len(), 3, "who is not wanted any more is forgotten");
    }
}
