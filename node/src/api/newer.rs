//! What is shown of records that a newer version of p2pinst has written.

use p2pinst_api::view::{MachineStatus, NeedsView};
use p2pinst_types::record::Status;
use p2pinst_types::{Kind, Name};

use super::Api;
use dht_store::Views;

/// Records that one answer shows: the latest.
const LATEST: usize = 50;

impl Api {
    /// The orders, releases and groups that this version cannot read, the latest first.
    pub(super) async fn needs(&self, views: &Views) -> Vec<NeedsView> {
        let mut out = Vec::new();
        for blocked in views.blocked.iter().rev().take(LATEST) {
            let subjects = blocked.deployment.status_subjects(blocked.id).collect();
            let author = views.key_name(&blocked.author).cloned();
            let short = author.as_ref().map_or_else(|| blocked.author.short(), Name::to_string);
            let mut cells = self.read_all(Kind::STATUS, subjects).await;
            cells.sort_by_key(|c| c.hlc);
            let status = |machine: &dht_store::view::Machine| {
                let cell = cells.iter().rev().find(|c| c.id.slot == machine.id.as_bytes());
                cell.and_then(|c| c.record::<Status>().ok())
            };
            let members = views.members(&blocked.deployment.group);
            let mut machines: Vec<MachineStatus> =
                members.map(|m| self.machine_status(m, status(m))).collect();
            machines.sort_by(|a, b| a.name.cmp(&b.name));
            out.push(NeedsView {
                what: "release".to_owned(),
                subject: blocked.id.to_string(),
                name: Some(format!("{short}-{}", blocked.deployment.number)),
                needs: blocked.needs.clone(),
                author,
                at: blocked.hlc.millis(),
                machines,
            });
        }
        let others = views.newer.iter().filter_map(|newer| {
            let subject = match newer.kind {
                Kind::DEPLOYMENT => newer.subject.iter().map(|b| format!("{b:02x}")).collect(),
                Kind::GROUP | Kind::GROUP_EDIT => String::from_utf8_lossy(&newer.subject).into(),
                _ => return None,
            };
            Some(NeedsView {
                what: newer.kind.to_string(),
                subject,
                name: None,
                needs: newer.needs.clone(),
                author: views.key_name(&newer.author).cloned(),
                at: newer.hlc.millis(),
                machines: Vec::new(),
            })
        });
        let room = LATEST.saturating_sub(out.len());
        out.extend(others.take(room));
        out
    }
}
