//! Records of this node of which a replica holds a newer version than this node has written: an
//! older copy of the data directory was put back, or the key is used twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2pinst_types::{Cell, CellId};
use tokio::sync::Notify;

/// Records that may wait to be read back; replicas tell of the rest again when it is offered.
const MOST: usize = 1024;

/// A list of them; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outdated(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    cells: Mutex<BTreeMap<CellId, Cell>>,
    wake: Notify,
}

impl Outdated {
    /// A replica has a newer version than this.
    pub(crate) fn tell(&self, cell: &Cell) {
        let mut cells = self.0.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if cells.len() < MOST {
            cells.insert(cell.id.clone(), cell.clone());
            self.0.wake.notify_one();
        }
    }

    /// Is woken when there are some.
    pub(crate) async fn wait(&self) {
        self.0.wake.notified().await;
    }

    /// Takes one.
    pub(crate) fn take(&self) -> Option<Cell> {
        let mut cells = self.0.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.pop_first().map(|(_, cell)| cell)
    }
}
