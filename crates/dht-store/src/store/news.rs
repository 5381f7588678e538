//! Statuses that were stored just now, for whoever watches them.

use p2pinst_types::{Cell, Kind};

/// Statuses that may wait to be fetched; what is beyond is found by a later read.
const WAITING: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct News(Vec<Cell>);

impl News {
    /// These cells are stored.
    pub(super) fn extend(&mut self, cells: &[Cell]) {
        let room = WAITING.saturating_sub(self.0.len());
        let statuses = cells.iter().filter(|c| c.id.kind == Kind::STATUS);
        self.0.extend(statuses.take(room).cloned());
    }

    /// What has not been fetched yet.
    pub(super) fn take(&mut self) -> Vec<Cell> {
        std::mem::take(&mut self.0)
    }
}
