//! Blobs that people ask for: whoever is connected, and whoever the DHT names, is asked.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2pinst_types::{BlobRef, Hash, NodeId};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Storage, Table, lock};
use crate::exchange::{Fetched, Wish};

/// Blobs that are fetched like this at once.
const AT_ONCE: usize = 16;
/// A fetch that nobody has asked after for so long is given up; what has come stays for a while.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// There is too much to do.
#[derive(Debug, Error)]
#[error("{AT_ONCE} blobs are being fetched for people already")]
pub struct Busy;

/// How far a fetch is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The blob, once its length is proved.
    pub blob: Option<BlobRef>,
    /// Sources that gave pieces; known at the end.
    pub sources: usize,
    /// Bytes that came; known at the end.
    pub received: u64,
    /// Bytes that older versions gave, and zeros; known at the end.
    pub saved: (u64, u64),
    /// How it ended.
    pub end: Option<Result<(), String>>,
}

/// A fetch that is under way, or has ended a moment ago.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) progress: watch::Sender<Progress>,
    /// When somebody asked after it last.
    polled: Mutex<Instant>,
}

/// A fetch for the task to run.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) root: Hash,
    pub(super) blob: Option<BlobRef>,
    pub(super) holders: Vec<NodeId>,
    pub(super) delta_from: Vec<PathBuf>,
    pub(super) running: Arc<Running>,
}

impl Running {
    fn new(blob: Option<BlobRef>) -> Arc<Self> {
        let progress = watch::Sender::new(Progress { blob, ..Progress::default() });
        Arc::new(Self { progress, polled: Mutex::new(Instant::now()) })
    }

    fn is_forgotten(&self) -> bool {
        lock(&self.polled).elapsed() > FORGOTTEN
    }
}

impl Storage {
    /// How far the fetch of a blob is; begins one if none is under way. To be asked again and again:
    /// who asks no more has lost interest.
    ///
    /// # Errors
    /// When too many are under way.
    pub fn fetch(
        &self,
        root: Hash,
        blob: Option<BlobRef>,
        holders: Vec<NodeId>,
        delta_from: Vec<PathBuf>,
    ) -> Result<watch::Receiver<Progress>, Busy> {
        let mut table = self.table();
        if let Some(running) = table.fetches.get(&root).cloned() {
            *lock(&running.polled) = Instant::now();
            return Ok(running.progress.subscribe());
        }
        table.forget_ended();
        if table.fetches.len() >= AT_ONCE {
            return Err(Busy);
        }
        let running = Running::new(blob);
        let ask = Ask { root, blob, holders, delta_from, running: Arc::clone(&running) };
        self.inner.asks.try_send(ask).map_err(|_| Busy)?;
        table.fetches.insert(root, Arc::clone(&running));
        Ok(running.progress.subscribe())
    }

    /// Whether a blob is being fetched for somebody.
    #[must_use]
    pub fn is_fetching(&self, root: &Hash) -> bool {
        let table = self.table();
        table.fetches.get(root).is_some_and(|r| r.progress.borrow().end.is_none())
    }

    /// How the fetch of a blob has ended, if that has not been told.
    #[must_use]
    pub fn ended(&self, root: &Hash) -> Option<Progress> {
        let mut table = self.table();
        let ended = table.fetches.get(root).map(|r| r.progress.borrow().clone());
        let ended = ended.filter(|p| p.end.is_some())?;
        table.fetches.remove(root);
        Some(ended)
    }

    /// Fetches a blob from whoever has it, making room for it, and keeps it for a while.
    ///
    /// # Errors
    /// Why it is not here.
    pub(crate) async fn get(&self, blob: BlobRef) -> Result<(), String> {
        self.get_from(blob, Vec::new()).await
    }

    /// As [`Storage::get`], where it is known who has it.
    ///
    /// # Errors
    /// Why it is not here.
    pub(crate) async fn get_from(&self, blob: BlobRef, from: Vec<NodeId>) -> Result<(), String> {
        let running = Running::new(Some(blob));
        self.bring(blob.root, Some(blob), (from, Wish::default()), &running).await
    }

    /// Who says that it has a blob.
    pub(crate) async fn providers(&self, root: Hash) -> Vec<NodeId> {
        self.inner.net.providers(root).await.unwrap_or_default()
    }

    /// Runs a fetch to its end, and says how that was.
    pub(super) async fn run_fetch(self, ask: Ask) {
        let Ask { root, blob, holders, delta_from, running } = ask;
        let wish = Wish { delta_from, ..Wish::default() };
        let end = tokio::select! {
            end = self.bring(root, blob, (holders, wish), &running) => end,
            () = forgotten(&running) => Err("nobody waits for it any more".to_owned()),
        };
        match &end {
            Ok(()) => info!(blob = %root.short(), "a blob was fetched"),
            Err(reason) => debug!(blob = %root.short(), %reason, "a blob was not fetched"),
        }
        running.progress.send_modify(|p| p.end = Some(end));
    }

    /// Fetches a blob from whoever has it.
    async fn bring(
        &self,
        root: Hash,
        blob: Option<BlobRef>,
        (holders, wish): (Vec<NodeId>, Wish),
        running: &Running,
    ) -> Result<(), String> {
        let named = Arc::new(Mutex::new(holders));
        let exchange = &self.inner.exchange;
        let here = exchange.blobs().status(&root).map(|s| s.blob);
        let (blob, located) = match here.or(blob) {
            Some(blob) => (blob, None),
            None => {
                let sources = self.sources(Arc::clone(&named));
                let located = self.looking(root, &named, exchange.locate(root, sources)).await;
                let located = located.map_err(|e| e.to_string())?;
                (located.blob(), Some(located))
            }
        };
        running.progress.send_modify(|p| p.blob = Some(blob));
        let room = self.room_for(Some(root), blob.len()).await;
        let room = room.map_err(|e| format!("cannot fetch {}: {e}", root.short()))?;
        if let Some(located) = located {
            exchange.adopt(located).await.map_err(|e| e.to_string())?;
        }
        let fetched = self.fetch_from_all(blob, &named, wish).await?;
        running.progress.send_modify(|p| {
            (p.sources, p.received) = (fetched.sources, fetched.received);
            p.saved = (fetched.local, fetched.zero);
        });
        // whoever asked for it comes for it now
        let storage = self.clone();
        let held = tokio::task::spawn_blocking(move || storage.hold(root)).await;
        drop(room);
        match held {
            Ok(true) => Ok(()),
            _ => Err("it was removed again".to_owned()),
        }
    }

    /// Fetches a blob from those that are named, whoever is connected, and whoever the DHT names; and
    /// announces it.
    pub(super) async fn fetch_from_all(
        &self,
        blob: BlobRef,
        named: &Arc<Mutex<Vec<NodeId>>>,
        wish: Wish,
    ) -> Result<Fetched, String> {
        let (places, own) = (self.inner.exchange.clone(), self.inner.node);
        let sources = self.sources(Arc::clone(named));
        let sources = move || places.candidates(own, sources());
        let fetch = self.inner.exchange.fetch_as(blob, Box::new(sources), wish);
        let fetched = self.looking(blob.root, named, fetch).await.map_err(|e| e.to_string())?;
        self.announce(blob.root).await;
        Ok(fetched)
    }

    /// Works, and asks the DHT meanwhile who else has the blob.
    async fn looking<T>(
        &self,
        root: Hash,
        named: &Mutex<Vec<NodeId>>,
        work: impl Future<Output = T>,
    ) -> T {
        let look = async {
            let more = self.inner.net.providers(root).await.unwrap_or_default();
            let mut known = lock(named);
            let new: Vec<NodeId> = more.into_iter().filter(|n| !known.contains(n)).collect();
            known.extend(new);
        };
        tokio::pin!(work, look);
        tokio::select! {
            done = &mut work => done,
            () = &mut look => work.await,
        }
    }

    /// Those that are named, then everybody who is connected, in an order of this node's own.
    fn sources(&self, named: Arc<Mutex<Vec<NodeId>>>) -> impl Fn() -> Vec<NodeId> + use<> {
        let (net, own) = (self.inner.net.clone(), self.inner.node);
        move || {
            let mut sources = lock(&named).clone();
            let mut others = net.peers().connected();
            others.retain(|n| !sources.contains(n));
            others.sort_by_cached_key(|n| {
                Hash::of_parts("p2pinst/neighbours/1", &[own.0.as_bytes(), n.0.as_bytes()])
            });
            sources.extend(others);
            sources.retain(|n| *n != own);
            sources
        }
    }

    /// Forgets how fetches have ended that nobody asks after.
    pub(super) fn forget_ended(&self) {
        self.table().forget_ended();
    }
}

impl Table {
    fn forget_ended(&mut self) {
        self.fetches.retain(|_, r| r.progress.borrow().end.is_none() || !r.is_forgotten());
    }
}

async fn forgotten(running: &Running) {
    loop {
        tokio::time::sleep(FORGOTTEN / 10).await;
        if running.is_forgotten() {
            return;
        }
    }
}
