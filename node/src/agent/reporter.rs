//! Writes the node's records: status of deployments, and history. One task, so that the records of
//! one place follow each other; of several reports on one deployment that wait, the last counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dht_store::Store;
use p2pinst_types::record::{HistoryEntry, HistorySegment, State, Status};
use p2pinst_types::{Cell, DeploymentId, Hash, Kind, codec, limits, shard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::replicate::Replicas;
use crate::store::{Own, StoreFailure, StoreHandle};

/// A pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Entries that may wait to be written; the journal has them all.
const ENTRIES: usize = 1024;
/// Longest text in a status: enough for a list of problems.
const DETAIL: usize = 1500;
/// Longest log in a history entry, so that some entries fit in one segment.
const LOG: usize = 700;

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
    store: StoreHandle,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Table>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// The latest status of each deployment, written or about to be.
    status: BTreeMap<DeploymentId, Status>,
    dirty: BTreeMap<DeploymentId, Status>,
    entries: Vec<HistoryEntry>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the end of a text: that is where package managers say what went wrong.
fn tail(text: &str, max: usize) -> String {
    let from = text.len().saturating_sub(max);
    let from = (from..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
    text.get(from..).unwrap_or_default().to_owned()
}

/// Keeps the beginning of a text.
fn head(text: &str, max: usize) -> String {
    text.char_indices().take_while(|(i, _)| *i < max).map(|(_, c)| c).collect()
}

impl Reporter {
    /// A handle, and the task behind it.
    pub fn new(own: Arc<Own>, store: StoreHandle, replicas: Replicas) -> (Self, Task) {
        let shared = Arc::new(Shared::default());
        let reporter = Self { shared: Arc::clone(&shared), store: store.clone() };
        (reporter, Task { own, store, replicas, shared })
    }

    /// The state that was reported last.
    #[must_use]
    pub fn state(&self, id: &DeploymentId) -> Option<State> {
        self.shared.table().status.get(id).map(|s| s.state)
    }

    /// Reports how far a deployment is.
    pub fn report(&self, id: DeploymentId, attempt: u32, state: State, detail: String) {
        let now = self.store.clock().now();
        let mut table = self.shared.table();
        let old = table.status.get(&id);
        let mut reached = match old {
            Some(old) if old.attempt == attempt => old.reached.clone(),
            _ => Vec::new(),
        };
        if !reached.iter().any(|(s, _)| *s == state) {
            reached.push((state, now));
        }
        let status = Status { state, attempt, detail: head(&detail, DETAIL), reached };
        if old == Some(&status) {
            return;
        }
        table.status.insert(id, status.clone());
        table.dirty.insert(id, status);
        drop(table);
        self.shared.wake.notify_one();
    }

    /// Appends to the history.
    pub fn record(&self, mut entry: HistoryEntry) {
        entry.log = tail(&entry.log, LOG);
        let mut table = self.shared.table();
        if table.entries.len() < ENTRIES {
            table.entries.push(entry);
        }
        drop(table);
        self.shared.wake.notify_one();
    }
}

/// The task: writes what was reported.
#[derive(Debug)]
pub struct Task {
    own: Arc<Own>,
    store: StoreHandle,
    replicas: Replicas,
    shared: Arc<Shared>,
}

/// The segments of a history that this node holds of itself, in order.
fn segments(cells: Vec<Cell>) -> Vec<(u64, Cell, HistorySegment)> {
    let mut out: Vec<_> = cells
        .into_iter()
        .filter_map(|cell| {
            let number = u64::from_be_bytes(cell.id.slot.as_slice().try_into().ok()?);
            let segment = cell.record().ok()?;
            Some((number, cell, segment))
        })
        .collect();
    out.sort_by_key(|(number, ..)| *number);
    out
}

/// The entries of a history, oldest first, from the cells of its segments.
#[must_use]
pub fn entries(cells: Vec<Cell>) -> Vec<HistoryEntry> {
    segments(cells).into_iter().flat_map(|(_, _, s)| s.entries).collect()
}

impl Task {
    /// Reads back what this node has written of itself before; call it before the agent runs.
    pub async fn load(&self) {
        let own = self.own.node.0;
        let loaded = self.store.run(move |s: &mut Store| s.written_by(Kind::STATUS, &own)).await;
        match loaded {
            Ok(Ok(cells)) => {
                let mut table = self.shared.table();
                for cell in cells {
                    let id = shard::parse_status_subject(&cell.id.subject).map(|(id, _)| id);
                    if let (Some(id), Ok(status)) = (id, cell.record::<Status>()) {
                        table.status.insert(id, status);
                    }
                }
            }
            Ok(Err(error)) => warn!(%error, "cannot read this node's own records"),
            Err(_) => {}
        }
    }

    /// Runs until shutdown, and then writes what is left. What cannot be written (a full disk) is
    /// kept and tried again.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let written = self.write_all().await;
            if let Err(error) = &written {
                error!(%error, "cannot write this node's records; trying again");
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(RETRY), if written.is_err() => {}
            }
        }
        if let Err(error) = self.write_all().await {
            error!(%error, "some records of this node could not be written");
        }
    }

    async fn write_all(&self) -> Result<(), StoreFailure> {
        if self.store.views().removal(&self.own.node.0).is_some() {
            return Ok(()); // R16: nobody takes it, and nobody asks
        }
        loop {
            // history before the status that speaks of it
            let entry = self.shared.table().entries.first().cloned();
            if let Some(entry) = entry {
                self.append(entry).await?;
                self.shared.table().entries.remove(0);
                continue;
            }
            let Some((id, status)) = self.shared.table().dirty.pop_first() else { return Ok(()) };
            // of an order that counts no more there is nothing to say
            let Some(subject) = self.status_subject(&id) else { continue };
            let slot = self.own.machine.as_bytes().to_vec();
            let written = self.replicas.write(Kind::STATUS, subject, slot, status.clone()).await;
            if written.is_err() {
                // unless there is something newer to say by now
                self.shared.table().dirty.entry(id).or_insert(status);
            }
            written?;
        }
    }

    /// Where this machine's status in a deployment is filed; `None`: there is no such order.
    fn status_subject(&self, id: &DeploymentId) -> Option<Vec<u8>> {
        let views = self.store.views();
        let order = views.order(id.as_bytes())?;
        Some(order.deployment.status_subject(id, &self.own.machine))
    }

    /// Appends to the last segment, or begins a new one when it is full.
    async fn append(&self, entry: HistoryEntry) -> Result<(), StoreFailure> {
        let subject = self.own.machine.as_bytes().to_vec();
        let wanted = subject.clone();
        let cells = self.store.run(move |s: &mut Store| s.data(Kind::HISTORY, &wanted)).await??;
        let (number, mut segment, last) = match segments(cells).pop() {
            Some((number, cell, segment)) => (number, segment, Some(cell)),
            None => (0, HistorySegment { previous: None, entries: Vec::new() }, None),
        };
        segment.entries.push(entry.clone());
        let fits = codec::encode(&segment).is_ok_and(|b| b.len() <= limits::CELL_PAYLOAD);
        let (number, segment) = if fits {
            (number, segment)
        } else {
            let previous = last.map(|cell| Hash::of(cell.payload()));
            (number + 1, HistorySegment { previous, entries: vec![entry] })
        };
        let slot = number.to_be_bytes().to_vec();
        self.replicas.write(Kind::HISTORY, subject, slot, segment).await?;
        Ok(())
    }
}
