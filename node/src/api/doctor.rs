//! This node's health, looked at from inside.

use std::path::Path;

use p2pinst_api::inspect::Check;
use p2pinst_types::{Kind, Millis};

use super::Api;
use crate::doctor;

impl Api {
    pub(super) async fn doctor(&self) -> Vec<Check> {
        let views = self.store.views();
        let now = self.store.clock().now();
        let up = now.since(self.started);
        let connected = self.net.peers().connected();
        let others = views.machines.values().filter(|m| m.node != self.own.node).count();
        let peers = connected.iter().filter(|p| views.machine_of(&p.0).is_some()).count();
        let wanted = self.wanted.borrow().members.clone();
        let kept = connected.iter().filter(|p| wanted.contains(p)).count();
        let last = self.control.last_sync().map(|(peer, at)| {
            let name = views.machine_of(&peer.0).map(|m| m.name.to_string());
            (name.unwrap_or_else(|| peer.short()), now.since(at))
        });
        let own = self.own.node.0;
        let name_of = |key: &p2pinst_types::PublicKey| {
            let machine = views.machine_of(key).map(|m| m.name.to_string());
            let key_name = || views.key_name(key).map(ToString::to_string);
            machine.or_else(key_name).unwrap_or_else(|| key.short())
        };
        let twins: Vec<String> = views.equivocators.iter().map(name_of).collect();
        let version = env!("CARGO_PKG_VERSION");
        let mut checks = vec![
            Check::ok("daemon", format!("p2pinstd {version} runs since {}", self.started)),
            doctor::peers(peers, others, (kept, wanted.len())),
            doctor::sync(last, others, self.sync, up),
            doctor::clock(self.store.clock().ahead()),
            doctor::member(views.machine_of(&own).is_some(), views.void.get(&own).copied()),
        ];
        checks.extend(self.look_at_store(now).await);
        checks.extend([doctor::versions(views.unknown), doctor::equivocators(&twins)]);
        checks.extend(self.look_at_machine().await);
        checks
    }

    /// The store, the outbox, the quarantine.
    async fn look_at_store(&self, now: Millis) -> Vec<Check> {
        let (own, machine) = (self.own.node.0, self.own.machine);
        let looked = self.store.run(move |s: &mut dht_store::Store| {
            // a read of the file: what is in memory says nothing of the disk
            let read = s.data(Kind::NODE_RECORD, machine.as_bytes()).map(|_| s.size());
            (read.map_err(|e| e.to_string()), s.unsettled(&own), s.held())
        });
        let (size, unsettled, held) = match looked.await {
            Ok(looked) => looked,
            Err(e) => return vec![doctor::store(Err(e.to_string()))],
        };
        let size = size.map(|(control, data, bytes)| {
            format!("{control} records of the cluster, {data} of machines ({} KiB)", bytes >> 10)
        });
        let mut checks = vec![doctor::store(size), doctor::aside(held)];
        if let Ok(unsettled) = unsettled {
            let oldest = unsettled.iter().map(|c| now.since(c.hlc.millis())).max();
            checks.push(doctor::outbox(unsettled.len(), oldest));
        }
        checks
    }

    /// Disks, packages, the journal: all of it blocks.
    async fn look_at_machine(&self) -> Vec<Check> {
        let (dir, root, started) = (self.dir.clone(), self.root.clone(), self.started);
        let looked = tokio::task::spawn_blocking(move || {
            vec![
                doctor::disk("disk", dir.path()),
                doctor::disk("root", Path::new(&root)),
                doctor::packages(Path::new(&root), &dir.dpkg_log()),
                doctor::interrupted(&dir.journal(), Some(started)),
            ]
        });
        looked.await.unwrap_or_default()
    }
}
