//! The exchange of blobs, live: the members are asked how far they are.

use std::collections::BTreeMap;
use std::time::Duration;

use dht_store::Views;
use dht_store::view::{Machine, Order};
use dht_store::wire::{Request, Response, SWARMS};
use p2pinst_api::request::{ApiError, ErrorKind};
use p2pinst_api::swarm::{BlobSwarm, SwarmPeer, SwarmView};
use p2pinst_types::record::Progress;
use p2pinst_types::{BlobRef, Hash, NodeId};
use tokio::task::JoinSet;

use super::{Api, Reply, status};
use crate::report::{Asked, Exchanged, picture};
use crate::rpc;

/// Machines of one exchange that are asked; of more, those that take part as far as this node
/// knows, then some.
const ASKED: usize = 256;
/// Questions under way at once.
const AT_ONCE: usize = 64;
/// Time for a machine to answer: who watches waits for the slowest.
const PATIENCE: Duration = Duration::from_secs(1);
/// Digits of a blob's root that name it.
const DIGITS: usize = 6;
/// Deployments of one blob that are named.
const NAMED: usize = 8;

/// A machine of an exchange.
#[derive(Debug, Clone)]
struct Part {
    machine: Machine,
    holder: bool,
}

fn invalid(reason: String, hint: &str) -> ApiError {
    ApiError::new(ErrorKind::Invalid, reason).hint(hint)
}

impl Api {
    pub(super) async fn swarm(&self, what: Option<&str>) -> Reply<SwarmView> {
        let views = self.store.views();
        let blobs = match what {
            Some(text) => vec![self.find_blob(&views, text)?],
            None => {
                let now = self.store.clock().now();
                let busy = self.exchange.progress_of_all(&[], now);
                busy.into_iter().map(|p| p.blob).take(SWARMS).collect()
            }
        };
        if blobs.is_empty() {
            let reason = "nothing is at work: this node neither fetches nor serves a file now";
            let hint = "name a deployment to see how far it is: p2pinst swarm DEPLOYMENT";
            return Err(invalid(reason.to_owned(), hint).into());
        }
        let mut swarms = Vec::new();
        for blob in blobs {
            swarms.push(self.swarm_of(&views, blob).await);
        }
        Ok(SwarmView { swarms })
    }

    /// The blob of a deployment, or the one that the beginning of a root names.
    fn find_blob(&self, views: &Views, text: &str) -> Result<BlobRef, ApiError> {
        let not_found = match status::find(views, text) {
            Ok(order) => return Ok(order.release.blob),
            Err(error) => error,
        };
        if text.len() < DIGITS || !text.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(not_found);
        }
        let text = text.to_ascii_lowercase();
        let ordered = views.orders.iter().chain(&views.over).map(|o| o.release.blob);
        let now = self.store.clock().now();
        let here = self.exchange.progress_of_all(&[], now).into_iter().map(|p| p.blob);
        let whole = text.parse::<Hash>().ok().and_then(|h| self.exchange.blobs().status(&h));
        let known = ordered.chain(here).chain(whole.map(|s| s.blob));
        let found: BTreeMap<Hash, BlobRef> =
            known.filter(|b| b.root.to_string().starts_with(&text)).map(|b| (b.root, b)).collect();
        let mut found = found.into_values();
        match (found.next(), found.next()) {
            (Some(blob), None) => Ok(blob),
            (Some(_), Some(_)) => {
                Err(invalid(format!("{text} names several blobs"), "give more digits of its root"))
            }
            (None, _) => Err(invalid(
                format!("there is no deployment or blob {text} here"),
                "p2pinst status shows the deployments",
            )),
        }
    }

    async fn swarm_of(&self, views: &Views, blob: BlobRef) -> BlobSwarm {
        let mut orders: Vec<&Order> =
            views.orders.iter().filter(|o| o.release.blob.root == blob.root).collect();
        orders.reverse();
        let seen = self.exchange.meter().peers(&blob.root);
        let name = |node: &NodeId| views.machine_of(&node.0).map(|m| m.name.clone());
        let peer = |(node, seen): &(NodeId, crate::exchange::meter::Seen)| SwarmPeer {
            name: name(node),
            id: *node,
            distance: seen.distance,
            received: seen.counts.received,
            verified: seen.counts.verified,
            duplicate: seen.counts.duplicate,
            bad: seen.counts.bad,
            sent: seen.counts.sent,
            sent_pieces: seen.counts.sent_pieces,
            rate_in: seen.rate_in,
            rate_out: seen.rate_out,
            refused: seen.counts.refused,
            banned: seen.counts.banned,
        };
        let what = Exchanged {
            blob,
            ordered: orders.first().map(|o| o.hlc.millis()),
            deployments: orders.iter().take(NAMED).map(|o| views.order_name(o)).collect(),
            package: orders.first().map(|o| o.release.package.clone()),
            peers: seen.iter().map(peer).collect(),
        };
        let peers: Vec<NodeId> = seen.iter().map(|(node, _)| *node).collect();
        let parts = self.parts(views, &orders, &peers);
        let machines = self.ask_parts(blob, parts).await;
        picture(self.store.clock().now(), what, machines)
    }

    /// The machines of an exchange: the groups' members, the first holders, this node's peers.
    /// Those that are to be asked first come first.
    fn parts(&self, views: &Views, orders: &[&Order], peers: &[NodeId]) -> Vec<Part> {
        let first = orders.first().and_then(|o| o.deployment.holders.first());
        let holders = orders.iter().flat_map(|o| &o.deployment.holders);
        let near = [&self.own.node].into_iter().chain(holders).chain(peers);
        let near = near.filter_map(|n| views.machine_of(&n.0));
        let mut seen = std::collections::BTreeSet::new();
        let mut parts: Vec<&Machine> = near.filter(|m| seen.insert(m.id)).collect();
        let mut members: Vec<&Machine> = orders
            .iter()
            .flat_map(|o| views.members(&o.deployment.group))
            .filter(|m| seen.insert(m.id))
            .collect();
        let own = self.own.node;
        members.sort_by_cached_key(|m| {
            let parts: [&[u8]; 2] = [own.0.as_bytes(), m.id.as_bytes()];
            (!self.net.peers().is_up(&m.node), Hash::of_parts("p2pinst/swarm/1", &parts))
        });
        parts.extend(members);
        // this node has a part in it only where it is a member or has something of it
        let takes_part = |m: &Machine| {
            m.node != own
                || orders.iter().any(|o| views.is_member(m, &o.deployment.group))
                || first == Some(&own)
                || !peers.is_empty()
        };
        let part = |m: &Machine| Part { machine: m.clone(), holder: first == Some(&m.node) };
        parts.into_iter().filter(|m| takes_part(m)).map(part).collect()
    }

    /// Asks those that are up, some at a time.
    async fn ask_parts(&self, blob: BlobRef, parts: Vec<Part>) -> Vec<Asked> {
        let up = |node: &NodeId| *node == self.own.node || self.net.peers().is_up(node);
        let mut room = ASKED;
        let mut machines = BTreeMap::new();
        let mut wanted = Vec::new();
        for Part { machine, holder } in parts {
            let up = up(&machine.node);
            let asked = up && room > 0;
            room -= usize::from(asked);
            wanted.extend(asked.then_some(machine.node));
            let line = Asked {
                name: machine.name,
                site: machine.site,
                up,
                holder,
                asked,
                answered: false,
                progress: None,
            };
            machines.insert(machine.node, line);
        }
        let mut wanted = wanted.into_iter();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some(node) = wanted.next()
            {
                let api = self.clone();
                under_way.spawn(async move { (node, api.ask_one(node, blob.root).await) });
            }
            let Some(done) = under_way.join_next().await else { break };
            let Ok((node, Some(answer))) = done else { continue };
            if let Some(line) = machines.get_mut(&node) {
                line.answered = true;
                // of another blob, or of more than there is, nothing is believed
                line.progress = answer.filter(|p| p.blob == blob && p.held <= blob.len());
            }
        }
        machines.into_values().collect()
    }

    /// What a node says of a blob: nothing when it does not answer, and when it has nothing of it.
    async fn ask_one(&self, node: NodeId, root: Hash) -> Option<Option<Progress>> {
        if node == self.own.node {
            return Some(self.exchange.progress_of(&root, self.store.clock().now()));
        }
        let request = Request::Swarm { roots: vec![root] };
        let answer = rpc::ask(&self.net, node, &[], &request);
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Response::Swarm(answers))) => Some(answers.into_iter().next()),
            _ => None,
        }
    }
}
