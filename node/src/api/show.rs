//! What the node shows: roster, groups, grants, status, history.

use std::collections::BTreeMap;

use dht_store::Views;
use dht_store::view::{Machine, Order};
use p2pinst_api::request::{ApiError, ErrorKind};
use p2pinst_api::view::{
    DeploymentView, GrantView, GroupView, HistoryView, MachineStatus, NodeInfo, NodeView,
    StatusView,
};
use p2pinst_types::record::{NodeRecord, Status};
use p2pinst_types::{Cell, Hash, Kind, MachineId, Name, NodeId, codec};
use tokio::task::JoinSet;

use super::{Api, Reply};
use crate::agent::history_entries;

/// Deployments that one answer shows when none is named: the latest.
const LATEST: usize = 50;
/// Reads of the data plane under way at once.
const AT_ONCE: usize = 16;

impl Api {
    pub(super) fn info(&self) -> NodeInfo {
        let views = self.store.views();
        NodeInfo {
            cluster: *views.roots.cluster(),
            cluster_name: views.roots.cluster_name(),
            name: self.identity.name.clone(),
            id: self.own.node,
            machine: self.own.machine,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peers: self.net.peers().connected().len(),
            machines: views.machines.len(),
            unknown_cells: views.unknown,
            needs: views.machine_of(&self.own.node.0).and_then(|m| views.needs_of(m)),
            clock_ahead_ms: self.store.clock().ahead(),
            root: self.root.clone(),
            refused: self.clones.refused(),
        }
    }

    pub(super) async fn nodes(&self) -> Reply<Vec<NodeView>> {
        let views = self.store.views();
        let subjects = views.machines.keys().map(|m| m.as_bytes().to_vec()).collect();
        let mut records: BTreeMap<MachineId, NodeRecord> = BTreeMap::new();
        let mut cells = self.read_all(Kind::NODE_RECORD, subjects).await;
        // a machine that was replaced has written with several keys: the newest stays
        cells.sort_by_key(|c| c.hlc);
        for cell in cells {
            if let (Some(id), Ok(record)) = (MachineId::from_slice(&cell.id.subject), cell.record())
            {
                records.insert(id, record);
            }
        }
        let mut nodes: Vec<NodeView> =
            views.machines.values().map(|m| self.node(m, records.get(&m.id))).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    fn node(&self, machine: &Machine, record: Option<&NodeRecord>) -> NodeView {
        let peer = self.net.peers().get(&machine.node);
        let own = machine.node == self.own.node;
        let mut addrs = record.map_or_else(|| peer.addrs.clone(), |r| r.addrs.clone());
        if addrs.is_empty() {
            addrs.clone_from(&machine.addrs);
        }
        NodeView {
            name: machine.name.clone(),
            id: machine.node,
            machine: machine.id,
            site: machine.site.clone(),
            labels: machine.labels.clone(),
            addrs,
            up: own || peer.up,
            since: if own { record.map(|r| r.started) } else { peer.since },
            version: match own {
                true => Some(env!("CARGO_PKG_VERSION").to_owned()),
                false => record.map(|r| r.version.clone()),
            },
            started: record.map(|r| r.started),
            admitted: machine.admitted.millis(),
            needs: record.and_then(|r| r.needs.clone()),
            cloned: self.clones.of(&machine.node),
        }
    }

    /// Reads many subjects, some at a time. What cannot be read is left out.
    pub(super) async fn read_all(&self, kind: Kind, subjects: Vec<Vec<u8>>) -> Vec<Cell> {
        let mut cells = Vec::new();
        let mut reads = JoinSet::new();
        let mut subjects = subjects.into_iter();
        loop {
            while reads.len() < AT_ONCE
                && let Some(subject) = subjects.next()
            {
                let replicas = self.replicas.clone();
                reads.spawn(async move { replicas.read(kind, subject).await });
            }
            match reads.join_next().await {
                Some(Ok(Ok(read))) => cells.extend(read.cells),
                Some(_) => {}
                None => return cells,
            }
        }
    }

    pub(super) fn groups(&self) -> Vec<GroupView> {
        let views = self.store.views();
        let members = |name: &Name| {
            let mut names: Vec<Name> = views.members(name).map(|m| m.name.clone()).collect();
            names.sort();
            names
        };
        let all = Name::all();
        let built_in = GroupView {
            description: "every machine".to_owned(),
            hosts: None,
            select: None,
            author: None,
            members: members(&all),
            name: all,
        };
        let own = views.groups.iter().map(|(name, info)| GroupView {
            name: name.clone(),
            description: info.group.description.clone(),
            hosts: info.group.hosts.as_ref().map(ToString::to_string),
            select: info.group.select.as_ref().map(ToString::to_string),
            author: views.key_name(&info.author).cloned(),
            members: members(name),
        });
        std::iter::once(built_in).chain(own).collect()
    }

    pub(super) fn grants(&self) -> Vec<GrantView> {
        let views = self.store.views();
        let mut grants: Vec<GrantView> = views
            .grants
            .values()
            .map(|info| GrantView {
                name: info.grant.name.clone(),
                key: info.grant.key,
                roles: info.grant.roles.iter().copied().collect(),
                not_after: info.grant.not_after,
                revoked: views.revoked.contains_key(&info.grant.key),
            })
            .collect();
        grants.sort_by(|a, b| a.name.cmp(&b.name));
        grants
    }

    pub(super) async fn status(&self, which: Option<&str>) -> Reply<StatusView> {
        let views = self.store.views();
        let orders: Vec<Order> = match which {
            Some(text) => vec![find(&views, text)?],
            None => {
                let from = views.orders.len().saturating_sub(LATEST);
                views.orders.iter().skip(from).cloned().collect()
            }
        };
        let needs = if which.is_none() { self.needs(&views).await } else { Vec::new() };
        let subjects = orders.iter().map(|o| o.id.as_bytes().to_vec()).collect();
        let mut cells: BTreeMap<(Vec<u8>, Vec<u8>), Cell> = BTreeMap::new();
        let mut found = self.read_all(Kind::STATUS, subjects).await;
        found.sort_by_key(|c| c.hlc); // as above
        for cell in found {
            cells.insert((cell.id.subject.clone(), cell.id.slot.clone()), cell);
        }
        let deployments =
            orders.iter().map(|order| self.deployment(&views, order, &cells)).collect();
        Ok(StatusView { deployments, needs })
    }

    fn deployment(
        &self,
        views: &Views,
        order: &Order,
        cells: &BTreeMap<(Vec<u8>, Vec<u8>), Cell>,
    ) -> DeploymentView {
        let mut machines: Vec<MachineStatus> = views
            .members(&order.deployment.group)
            .map(|machine| {
                let key = (order.id.as_bytes().to_vec(), machine.id.as_bytes().to_vec());
                let status = cells.get(&key).and_then(|c| c.record::<Status>().ok());
                self.machine_status(machine, status)
            })
            .collect();
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for machine in &machines {
            *counts.entry(machine.state.clone()).or_default() += 1;
        }
        let author = views.key_name(&order.author).cloned();
        DeploymentView {
            id: order.id,
            name: views.order_name(order),
            author: author.unwrap_or_else(Name::all),
            at: order.hlc.millis(),
            release: order.deployment.release,
            package: order.release.package.clone(),
            size: order.release.blob.len(),
            group: order.deployment.group.clone(),
            mode: order.deployment.mode,
            ordered: machines.len(),
            counts,
            machines,
        }
    }

    pub(super) fn machine_status(
        &self,
        machine: &Machine,
        status: Option<Status>,
    ) -> MachineStatus {
        let peer = self.net.peers().get(&machine.node);
        let now = self.store.clock().now();
        let since = peer.since.unwrap_or(machine.admitted.millis());
        let (state, detail, attempt, reached) = match status {
            Some(s) => (s.state.as_str(), s.detail, s.attempt, s.reached),
            None => ("unknown", String::new(), 0, Vec::new()),
        };
        MachineStatus {
            name: machine.name.clone(),
            state: state.to_owned(),
            detail,
            attempt,
            reached,
            up: machine.node == self.own.node || peer.up,
            since_ms: u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(super) async fn history(&self, machine: Option<Name>) -> Reply<HistoryView> {
        let views = self.store.views();
        let name = machine.unwrap_or_else(|| self.identity.name.clone());
        let Some(machine) = views.machine_named(&name) else {
            let reason = format!("there is no machine {name} in the cluster");
            return Err(ApiError::new(ErrorKind::Invalid, reason)
                .hint("p2pinst node ls shows the machines")
                .into());
        };
        let read = self.replicas.read(Kind::HISTORY, machine.id.as_bytes().to_vec()).await?;
        let as_of = read.cells.iter().map(|c| c.hlc.millis()).max();
        let entries = history_entries(read.cells);
        let bytes = codec::encode(&entries).unwrap_or_default();
        Ok(HistoryView {
            machine: name,
            as_of,
            answered: read.answered,
            replicas: read.replicas,
            behind: names(&views, &read.behind),
            checksum: Hash::of(&bytes),
            entries,
        })
    }
}

/// The names of nodes' machines.
fn names(views: &Views, nodes: &[NodeId]) -> Vec<Name> {
    nodes.iter().filter_map(|n| views.machine_of(&n.0)).map(|m| m.name.clone()).collect()
}

/// An order by its name (`alice-42`) or the beginning of its id.
fn find(views: &Views, text: &str) -> Result<Order, ApiError> {
    let by_name: Vec<&Order> =
        views.orders.iter().filter(|o| views.order_name(o) == text).collect();
    let by_id = || -> Vec<&Order> {
        views.orders.iter().filter(|o| o.id.to_string().starts_with(text)).collect()
    };
    let found = if by_name.is_empty() && text.len() >= 4 { by_id() } else { by_name };
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(ApiError::new(ErrorKind::Invalid, format!("there is no deployment {text}"))
            .hint("p2pinst status shows the deployments")),
        [_, ..] => {
            let ids: Vec<String> = found.iter().map(|o| o.id.short()).collect();
            let reason = format!("{text} names several deployments: {}", ids.join(", "));
            Err(ApiError::new(ErrorKind::Invalid, reason).hint("name one by its id"))
        }
    }
}
