//! What the node shows: roster, groups, grants, history.

use std::collections::BTreeMap;

use dht_store::Views;
use dht_store::view::Machine;
use p2pinst_api::request::{ApiError, ErrorKind, Nodes};
use p2pinst_api::view::{GrantView, HistoryView, NodeInfo, NodeView};
use p2pinst_types::record::NodeRecord;
use p2pinst_types::{Cell, Hash, Kind, MachineId, Name, NodeId, codec};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{Api, Reply};
use crate::agent::history_entries;
use crate::liveness::State;

/// Machines of one answer: whose records are read for it.
const MACHINES: usize = 1000;
/// Bytes of one answer, about.
const PAGE: usize = 512 * 1024;
/// Reads of the data plane under way at once.
const AT_ONCE: usize = 16;

impl Api {
    pub(super) fn info(&self) -> NodeInfo {
        let views = self.store.views();
        NodeInfo {
            cluster: *views.roots.cluster(),
            cluster_name: views.roots.cluster_name(),
            name: self.name(&views),
            id: self.own.node,
            machine: self.own.machine,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peers: self.net.peers().connected().len(),
            machines: views.machines.len(),
            unknown_cells: views.unknown,
            needs: views.machine_of(&self.own.node.0).and_then(|m| views.needs_of(m)),
            clock_ahead_ms: self.store.clock().ahead(),
            root: self.root.clone(),
            removed: self.removal(&views),
            isolated_since: self.net.peers().isolated_since(),
            refused: self.clones.refused(),
        }
    }

    /// A page of the roster.
    pub(super) async fn nodes(&self, ask: Nodes) -> Reply<Vec<NodeView>> {
        let views = self.store.views();
        let name = |node: &NodeId| views.machine_of(&node.0).map(|m| m.name.clone());
        let mut page: Vec<&Machine> = views.machines.values().collect();
        page.retain(|m| ask.after.as_ref().is_none_or(|after| m.name > *after));
        page.sort_by(|a, b| a.name.cmp(&b.name));
        page.truncate(MACHINES);
        let subjects = page.iter().map(|m| m.id.as_bytes().to_vec());
        let subjects = if ask.records { subjects.collect() } else { Vec::new() };
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
        let nodes = page.into_iter().map(|m| self.node(m, records.get(&m.id), name));
        Ok(fitting(nodes))
    }

    fn node(
        &self,
        machine: &Machine,
        record: Option<&NodeRecord>,
        name: impl Fn(&NodeId) -> Option<Name>,
    ) -> NodeView {
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
            state: match peer.state {
                _ if own => "up",
                State::Alive => "up",
                State::Suspect => "suspect",
                State::Unknown if peer.connected => "up",
                State::Down => "down",
                State::Unknown => "unknown",
            }
            .to_owned(),
            seen_by: peer.by.as_ref().and_then(name),
            incarnation: match peer.incarnation {
                _ if own => Some(self.own.incarnation()),
                0 => None,
                known => Some(known),
            },
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

    pub(super) async fn history(&self, machine: Option<Name>) -> Reply<HistoryView> {
        let views = self.store.views();
        let name = machine.unwrap_or_else(|| self.name(&views));
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

/// As many as one answer holds: at least one.
pub(super) fn fitting<T: Serialize>(views: impl Iterator<Item = T>) -> Vec<T> {
    let mut bytes = 0;
    let room = |view: &T| {
        let room = bytes < PAGE;
        bytes += codec::encode(view).map_or(0, |b| b.len());
        room
    };
    views.take_while(room).collect()
}

/// The names of nodes' machines.
fn names(views: &Views, nodes: &[NodeId]) -> Vec<Name> {
    nodes.iter().filter_map(|n| views.machine_of(&n.0)).map(|m| m.name.clone()).collect()
}
