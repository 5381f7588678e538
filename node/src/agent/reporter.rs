//! Writes the node's records: status of deployments, and history. One task, so that the records of
//! one place follow each other; of several reports on one deployment that wait, the last counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dht_store::{Store, StoreError};
use p2pinst_types::record::{HistoryEntry, HistorySegment, NodeRecord, State, Status, Transfer};
use p2pinst_types::{Cell, DeploymentId, Hash, Kind, PublicKey, codec, limits, shard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::control::Control;
use crate::replicate::Replicas;
use crate::store::{Own, StoreFailure, StoreHandle};

/// A pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Entries that may wait to be written; the journal has them all.
const ENTRIES: usize = 1024;
/// Statuses that are written in one transaction.
const TOGETHER: usize = 64;
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
pub(super) struct Shared {
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

impl Table {
    /// Some of the statuses that are to be written; they are taken out.
    fn some_dirty(&mut self) -> Vec<(DeploymentId, Status)> {
        std::iter::from_fn(|| self.dirty.pop_first()).take(TOGETHER).collect()
    }

    /// They are to be written after all, unless there is something newer to say by now.
    fn put_back(&mut self, statuses: impl IntoIterator<Item = (DeploymentId, Status)>) {
        for (id, status) in statuses {
            self.dirty.entry(id).or_insert(status);
        }
    }
}

impl Shared {
    /// Takes statuses that the cluster has of this machine. `says_enough(recalled, now)`: whether
    /// what is about to be written adds nothing to what was read back.
    pub(super) fn recalled(&self, cells: &[Cell], says_enough: impl Fn(&Status, &Status) -> bool) {
        let mut table = self.table();
        for cell in cells {
            let id = shard::parse_status_subject(&cell.id.subject).map(|(id, _)| id);
            let (Some(id), Ok(recalled)) = (id, cell.record::<Status>()) else { continue };
            let now = table.status.get(&id);
            if now.is_none_or(|now| says_enough(&recalled, now)) {
                table.dirty.remove(&id);
                table.status.insert(id, recalled);
            }
        }
    }

    /// The status of a deployment is written once more.
    pub(super) fn say_again(&self, id: &DeploymentId) {
        let mut table = self.table();
        if let Some(status) = table.status.get(id).cloned() {
            table.dirty.insert(*id, status);
        }
    }

    /// Entries are appended, unless the history has them.
    pub(super) fn append_again(&self, entries: Vec<HistoryEntry>) {
        let mut table = self.table();
        let room = ENTRIES.saturating_sub(table.entries.len());
        table.entries.extend(entries.into_iter().take(room));
    }

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
    /// A handle, and the task behind it. `record`: what the node says of itself.
    pub fn new(
        own: Arc<Own>,
        store: StoreHandle,
        replicas: Replicas,
        control: Control,
        record: NodeRecord,
    ) -> (Self, Task) {
        let shared = Arc::new(Shared::default());
        let reporter = Self { shared: Arc::clone(&shared), store: store.clone() };
        let (memory, known) = (Memory::Unknown, BTreeSet::new());
        let task =
            Task { own, store, replicas, control, record, shared, memory, known, told: None };
        (reporter, task)
    }

    /// The number of the attempt that was reported to be over, in this life or before; 0 when none
    /// was.
    #[must_use]
    pub fn finished(&self, id: &DeploymentId) -> u32 {
        let table = self.shared.table();
        let status = table.status.get(id);
        status.map_or(0, |s| s.attempt.saturating_sub(u32::from(!s.state.is_final())))
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
        let transfer = old.and_then(|o| o.transfer.clone());
        let detail = head(&detail, DETAIL);
        let status = Status { state, attempt, detail, reached, transfer };
        if old == Some(&status) {
            return;
        }
        table.status.insert(id, status.clone());
        table.dirty.insert(id, status);
        drop(table);
        self.shared.wake.notify_one();
    }

    /// Reports how the file came here, beside what is reported of the deployment; without effect
    /// where nothing is.
    pub fn transferred(&self, id: DeploymentId, transfer: Transfer) {
        let mut table = self.shared.table();
        let Some(status) = table.status.get_mut(&id) else { return };
        if status.transfer.as_ref() == Some(&transfer) {
            return;
        }
        status.transfer = Some(transfer);
        let status = status.clone();
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

/// Whether this node knows all that it has ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Not yet: nothing is written.
    Unknown,
    /// The replicas have told.
    Whole,
    /// Nobody answers: what is written keeps clear of what it may have written before.
    Alone,
    /// Nobody answers, and the last segment of the history is one that was begun since.
    Apart,
}

/// The task: writes what was reported.
#[derive(Debug)]
pub struct Task {
    pub(super) own: Arc<Own>,
    pub(super) store: StoreHandle,
    pub(super) replicas: Replicas,
    pub(super) control: Control,
    pub(super) record: NodeRecord,
    pub(super) shared: Arc<Shared>,
    pub(super) memory: Memory,
    /// What was here of this machine at the start: its record and its history.
    pub(super) known: BTreeSet<Hash>,
    /// What the node's record says that it needs; `None`: it is not written yet.
    pub(super) told: Option<Option<String>>,
}

/// Segments that a node which cannot ask leaves free for those that it may have forgotten.
const CLEAR: u64 = 64;

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
    // of several keys of one machine: each went on where the one before had ended
    out.sort_by_key(|(number, cell, _)| (*number, cell.hlc));
    out
}

/// The segment that an entry goes to, and what that holds then. `own`: who writes; `clear`:
/// segments to leave free before a new one, when the last may not be the last. `None`: the history
/// has the entry.
fn extend(
    cells: Vec<Cell>,
    own: &PublicKey,
    entry: &HistoryEntry,
    clear: u64,
) -> Option<(u64, HistorySegment)> {
    let mut segments = segments(cells);
    if segments.iter().any(|(.., s)| s.entries.contains(entry)) {
        return None;
    }
    let Some((number, last, mut segment)) = segments.pop() else {
        let segment = HistorySegment { previous: None, entries: vec![entry.clone()] };
        return Some((clear, segment));
    };
    if last.id.author == *own && clear == 0 {
        segment.entries.push(entry.clone());
        if codec::encode(&segment).is_ok_and(|b| b.len() <= limits::CELL_PAYLOAD) {
            return Some((number, segment));
        }
    }
    let previous = Some(Hash::of(last.payload()));
    Some((number + 1 + clear, HistorySegment { previous, entries: vec![entry.clone()] }))
}

/// The entries of a history, oldest first, from the cells of its segments.
#[must_use]
pub fn entries(cells: Vec<Cell>) -> Vec<HistoryEntry> {
    segments(cells).into_iter().flat_map(|(_, _, s)| s.entries).collect()
}

/// A record that the store will never take must not hold up those behind it; a full disk, or a
/// roster that is not here yet, passes.
fn refused_for_good(error: StoreFailure) -> Result<(), StoreFailure> {
    match error {
        StoreFailure::Store(StoreError::Record { passing: false, .. }) => {
            error!(%error, "a record of this node is refused, and given up");
            Ok(())
        }
        error => Err(error),
    }
}

impl Task {
    /// Reads back what this node has written of itself before; call it before the agent runs.
    pub async fn load(&mut self) {
        let machine = self.own.machine.as_bytes().to_vec();
        let held = self.store.run(move |s: &mut Store| {
            let mut cells = s.data(Kind::NODE_RECORD, &machine)?;
            cells.extend(s.data(Kind::HISTORY, &machine)?);
            Ok::<_, StoreError>(cells)
        });
        if let Ok(Ok(cells)) = held.await {
            self.known = cells.iter().map(Cell::hash).collect();
        }
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

    /// The version of p2pinst that this machine needs in order to do all that is wanted of it.
    pub(super) fn needs(&self) -> Option<String> {
        let views = self.store.views();
        views.machine_of(&self.own.node.0).and_then(|m| views.needs_of(m))
    }

    /// Runs until shutdown, and then writes what is left. What cannot be written (a full disk) is
    /// kept and tried again.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.recall(&shutdown).await;
        if self.memory == Memory::Unknown {
            return; // the journal has what there was to tell
        }
        let outdated = self.replicas.outdated().clone();
        let mut changes = self.replicas.net().peers().turns();
        let mut views = self.store.watch();
        loop {
            let written = self.write_all().await;
            if let Err(error) = &written {
                error!(%error, "cannot write this node's records; trying again");
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.shared.wake.notified() => {}
                () = outdated.wait() => {
                    while let Some(cell) = outdated.take() {
                        if let Err(error) = self.on_outdated(cell).await {
                            warn!(%error, "cannot read back a record of this node");
                        }
                    }
                }
                Ok(()) = changes.changed(), if self.memory != Memory::Whole => {
                    self.recall_late().await;
                }
                Ok(()) = views.changed() => {
                    if self.told != Some(self.needs()) {
                        self.tell_of_itself().await;
                    }
                }
                () = tokio::time::sleep(RETRY), if written.is_err() => {}
            }
        }
        if let Err(error) = self.write_all().await {
            error!(%error, "some records of this node could not be written");
        }
    }

    async fn write_all(&mut self) -> Result<(), StoreFailure> {
        if self.store.views().removal(&self.own.node.0).is_some() {
            return Ok(()); // R16: nobody takes it, and nobody asks
        }
        loop {
            // history before the status that speaks of it
            let entry = self.shared.table().entries.first().cloned();
            if let Some(entry) = entry {
                if let Err(error) = self.append(entry).await {
                    refused_for_good(error)?;
                }
                self.shared.table().entries.remove(0);
                continue;
            }
            let some = self.shared.table().some_dirty();
            if some.is_empty() {
                return Ok(());
            }
            self.write_statuses(some).await?;
        }
    }

    /// Writes statuses of several deployments in one transaction. What cannot be written is kept.
    async fn write_statuses(
        &mut self,
        statuses: Vec<(DeploymentId, Status)>,
    ) -> Result<(), StoreFailure> {
        let slot = self.own.machine.as_bytes().to_vec();
        let filed = |(id, status): (DeploymentId, Status)| {
            // of an order that counts no more there is nothing to say
            let subject = self.status_subject(&id)?;
            Some((id, (subject, slot.clone(), status)))
        };
        let (ids, records): (Vec<_>, Vec<_>) = statuses.into_iter().filter_map(filed).unzip();
        let kept: Vec<Status> = records.iter().map(|(_, _, status)| status.clone()).collect();
        let written = self.replicas.write_many(Kind::STATUS, records).await;
        let outcomes: Vec<Result<(), StoreFailure>> = match written {
            Ok(each) => each
                .into_iter()
                .map(|one| one.map(drop).map_err(StoreFailure::from).or_else(refused_for_good))
                .collect(),
            Err(error) => {
                self.shared.table().put_back(ids.into_iter().zip(kept));
                return Err(error);
            }
        };
        let mut failed = Ok(());
        for ((id, status), outcome) in ids.into_iter().zip(kept).zip(outcomes) {
            if let Err(error) = outcome {
                self.shared.table().put_back([(id, status)]);
                failed = Err(error);
            }
        }
        failed
    }

    /// Where this machine's status in a deployment is filed; `None`: there is no such order.
    fn status_subject(&self, id: &DeploymentId) -> Option<Vec<u8>> {
        let views = self.store.views();
        Some(views.deployment(id)?.status_subject(id, &self.own.machine))
    }

    /// Appends to the last segment, or begins a new one when it is full or another key's.
    async fn append(&mut self, entry: HistoryEntry) -> Result<(), StoreFailure> {
        let subject = self.own.machine.as_bytes().to_vec();
        let wanted = subject.clone();
        let cells = self.store.run(move |s: &mut Store| s.data(Kind::HISTORY, &wanted)).await??;
        let clear = if self.memory == Memory::Alone { CLEAR } else { 0 };
        let Some((number, segment)) = extend(cells, &self.own.node.0, &entry, clear) else {
            return Ok(());
        };
        let slot = number.to_be_bytes().to_vec();
        self.replicas.write(Kind::HISTORY, subject, slot, segment).await?;
        if self.memory == Memory::Alone {
            // from here on the last segment is one of this life
            self.memory = Memory::Apart;
        }
        Ok(())
    }
}
