//! What a scout says of its machine: what it is made of, and how far it is.

use std::sync::{Mutex, PoisonError};

use p2pinst_types::record::{BootState, BootStatus, Inventory};
use p2pinst_types::{Kind, Millis, limits};
use tracing::{info, warn};

use super::core::Core;

/// See the module.
#[derive(Debug)]
pub(super) struct Reporter<'a> {
    core: &'a Core,
    last: Mutex<Option<(BootState, Millis)>>,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        Self { core, last: Mutex::new(None) }
    }

    /// How far the machine is.
    pub(super) async fn say(&self, state: BootState, done: (u64, u64), detail: impl Into<String>) {
        let mut detail: String = detail.into();
        while detail.len() > limits::DESCRIPTION {
            detail.pop();
        }
        let now = self.core.store.clock().now();
        let since = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let since = last.filter(|(was, _)| *was == state).map_or(now, |(_, since)| since);
            if last.is_none_or(|(was, _)| was != state) {
                info!(%state, "{detail}");
            }
            *last = Some((state, since));
            since
        };
        let record = BootStatus { assignment: self.core.assignment, state, since, done, detail };
        self.write(Kind::BOOT_STATUS, record).await;
    }

    /// What it is made of.
    pub(super) async fn show(&self, inventory: Inventory) {
        self.write(Kind::INVENTORY, inventory).await;
    }

    async fn write<T: serde::Serialize + Send + 'static>(&self, kind: Kind, record: T) {
        let subject = self.core.machine.as_bytes().to_vec();
        if let Err(error) = self.core.replicas.write(kind, subject, Vec::new(), record).await {
            warn!(%error, "cannot report");
        }
    }
}
