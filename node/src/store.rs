//! The store behind a handle: one named thread owns the [`Store`], since redb blocks.
//!
//! Cells that several tasks bring at the same time become durable in one transaction. What a reply
//! has reported as accepted is on disk.

use std::sync::Arc;
use std::thread;

use dht_store::store::{StoreError, Write};
use dht_store::sync::Part;
use dht_store::{Outcome, Store, Views};
use p2pinst_trust::SecretKey;
use p2pinst_types::{Cell, Kind, MachineId, Millis, NodeId};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::clock::Clock;
use crate::life::Life;

/// Requests that may wait for the store.
const QUEUE: usize = 256;
/// Requests whose cells may share a transaction.
const TOGETHER: usize = 64;

/// Statuses that may wait for who watches them.
const NEWS: usize = 1024;

/// Why the store did not do something.
#[derive(Debug, Error)]
pub enum StoreFailure {
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its thread has ended.
    #[error("the store is shut down")]
    Closed,
}

/// Says what was done; called once the views are current.
type Answer = Box<dyn FnOnce() + Send>;
type Job = Box<dyn FnOnce(&mut Store) -> Answer + Send>;

/// Cells to apply, and whom to tell.
struct Apply {
    cells: Vec<Cell>,
    covered: Vec<Part>,
    reply: oneshot::Sender<Result<Vec<Outcome>, StoreFailure>>,
}

enum Command {
    Apply(Apply),
    Run(Job),
}

/// Who this node is: what it signs with, and what it writes as.
#[derive(Debug)]
pub struct Own {
    /// The node's key.
    pub key: SecretKey,
    /// The node's id.
    pub node: NodeId,
    /// The machine, under which its records are filed.
    pub machine: MachineId,
    /// Which life of the node this is.
    pub life: Life,
}

impl Own {
    /// The life in which the node writes now.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.life.now()
    }

    /// The life in which the node writes its next control-plane cell: a newer one than before when
    /// the store knows of a newer one (an older copy of the data directory was put back).
    pub fn incarnation_in(&self, store: &Store, now: Millis) -> u64 {
        let head = store.head(&self.key.public()).incarnation;
        if head > self.life.now() { self.life.begin_after(head, now) } else { self.life.now() }
    }
}

/// A handle on the store; cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    tx: mpsc::Sender<Command>,
    views: watch::Receiver<Arc<Views>>,
    news: broadcast::WeakSender<Cell>,
    clock: Clock,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Apply(_) => "Apply",
            Self::Run(_) => "Run",
        })
    }
}

/// Starts the store's thread. It ends when the last handle is dropped; the future ends with it.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    mut store: Store,
    clock: Clock,
) -> std::io::Result<(StoreHandle, impl Future<Output = ()> + use<>)> {
    let (tx, mut rx) = mpsc::channel(QUEUE);
    let (views_tx, views) = watch::channel(store.views());
    let thread_clock = clock.clone();
    let (alive, ended) = oneshot::channel::<()>();
    let (news_tx, _) = broadcast::channel(NEWS);
    let news = news_tx.downgrade();
    thread::Builder::new().name("store".to_owned()).spawn(move || {
        let _alive = alive;
        while let Some(command) = rx.blocking_recv() {
            let mut next = Some(command);
            while let Some(command) = next.take() {
                let answers = match command {
                    Command::Run(job) => vec![job(&mut store)],
                    Command::Apply(first) => {
                        let group;
                        (group, next) = gather(first, &mut rx);
                        apply_group(&mut store, group, &thread_clock)
                    }
                };
                // who reads the views after an answer must find there what it speaks of
                let fresh = store.views();
                views_tx.send_if_modified(|old| {
                    let changed = !Arc::ptr_eq(old, &fresh);
                    *old = fresh;
                    changed
                });
                answers.into_iter().for_each(|answer| answer());
                for cell in store.take_news() {
                    drop(news_tx.send(cell)); // nobody may be watching
                }
            }
        }
    })?;
    let ended = async move { drop(ended.await) };
    Ok((StoreHandle { tx, views, news, clock }, ended))
}

/// What waits already and can share a transaction; and the first command that cannot.
fn gather(first: Apply, rx: &mut mpsc::Receiver<Command>) -> (Vec<Apply>, Option<Command>) {
    let mut group = vec![first];
    while group.len() < TOGETHER {
        match rx.try_recv() {
            Ok(Command::Apply(apply)) => group.push(apply),
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}

/// One transaction for several requests. When it fails, each is tried alone, so that nobody pays
/// for another's cells.
fn apply_group(store: &mut Store, group: Vec<Apply>, clock: &Clock) -> Vec<Answer> {
    let answer = |reply: oneshot::Sender<_>, result| -> Answer {
        Box::new(move || drop(reply.send(result)))
    };
    if group.len() > 1 {
        let cells = group.iter().flat_map(|a| a.cells.iter().cloned()).collect();
        let covered: Vec<Part> = group.iter().flat_map(|a| a.covered.iter().cloned()).collect();
        if let Ok(outcomes) = store.apply(cells, &covered, clock.now()) {
            let mut outcomes = outcomes.into_iter();
            let part = |apply: Apply| {
                let part = outcomes.by_ref().take(apply.cells.len()).collect();
                answer(apply.reply, Ok(part))
            };
            return group.into_iter().map(part).collect();
        }
    }
    let alone = |Apply { cells, covered, reply }: Apply| {
        let result = store.apply(cells, &covered, clock.now());
        answer(reply, result.map_err(StoreFailure::from))
    };
    group.into_iter().map(alone).collect()
}

impl StoreHandle {
    /// What the control plane says now.
    #[must_use]
    pub fn views(&self) -> Arc<Views> {
        Arc::clone(&self.views.borrow())
    }

    /// Is woken when the views change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Views>> {
        self.views.clone()
    }

    /// Statuses that are stored from now on. Who is slow misses some, and is told so.
    #[must_use]
    pub fn news(&self) -> broadcast::Receiver<Cell> {
        let closed = || broadcast::channel(1).1;
        self.news.upgrade().map_or_else(closed, |news| news.subscribe())
    }

    /// Cluster time.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Judges, merges and stores cells; see [`Store::apply`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn apply(
        &self,
        cells: Vec<Cell>,
        covered: Vec<Part>,
    ) -> Result<Vec<Outcome>, StoreFailure> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Apply(Apply { cells, covered, reply });
        self.tx.send(command).await.map_err(|_| StoreFailure::Closed)?;
        answer.await.map_err(|_| StoreFailure::Closed)?
    }

    /// Runs a closure on the store's thread.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, StoreFailure> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |store| {
            let result = job(store);
            Box::new(move || drop(reply.send(result)))
        });
        self.tx.send(Command::Run(job)).await.map_err(|_| StoreFailure::Closed)?;
        answer.await.map_err(|_| StoreFailure::Closed)
    }

    /// Signs and stores records of this node of one kind, each for a place (subject and slot), in one
    /// transaction; what became of each.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn write_many<T: Serialize + Send + 'static>(
        &self,
        own: &Arc<Own>,
        kind: Kind,
        records: Vec<(Vec<u8>, Vec<u8>, T)>,
    ) -> Result<Vec<Result<Cell, StoreError>>, StoreFailure> {
        let (own, clock) = (Arc::clone(own), self.clock.clone());
        let written = self.run(move |store| {
            let incarnation = own.incarnation();
            let write =
                |(subject, slot, record)| (Write { kind, subject, slot, incarnation }, record);
            let records: Vec<_> = records
                .iter()
                .map(|(subject, slot, record)| write((subject.as_slice(), slot.as_slice(), record)))
                .collect();
            store.write_many(&own.key, &records, clock.now())
        });
        Ok(written.await??)
    }

    /// Signs and stores a record of this node.
    ///
    /// # Errors
    /// When the record is too large, or the store fails.
    pub async fn write<T: Serialize + Send + 'static>(
        &self,
        own: &Arc<Own>,
        kind: Kind,
        subject: Vec<u8>,
        slot: Vec<u8>,
        record: T,
    ) -> Result<Cell, StoreFailure> {
        let (own, clock) = (Arc::clone(own), self.clock.clone());
        self.run(move |store| {
            let incarnation = own.incarnation();
            let write = Write { kind, subject: &subject, slot: &slot, incarnation };
            store.write(&own.key, write, &record, clock.now())
        })
        .await?
        .map_err(Into::into)
    }
}
