//! Blobs that people ask for, and damaged ones that are fetched again: whoever is connected, and whoever
//! the DHT names, is asked.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2pinst_types::{BlobRef, Hash, NodeId};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Storage, lock};
use crate::exchange::Wish;

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
    /// When somebody asked after it last; `None`: the node itself wants it.
    polled: Option<Mutex<Instant>>,
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
    fn new(blob: Option<BlobRef>, for_somebody: bool) -> Arc<Self> {
        let progress = watch::Sender::new(Progress { blob, ..Progress::default() });
        let polled = for_somebody.then(|| Mutex::new(Instant::now()));
        Arc::new(Self { progress, polled })
    }

    fn is_forgotten(&self) -> bool {
        self.polled.as_ref().is_some_and(|at| lock(at).elapsed() > FORGOTTEN)
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
            if let Some(polled) = &running.polled {
                *lock(polled) = Instant::now();
            }
            return Ok(running.progress.subscribe());
        }
        table.fetches.retain(|_, r| r.progress.borrow().end.is_none() || !r.is_forgotten());
        if table.fetches.len() >= AT_ONCE {
            return Err(Busy);
        }
        let running = Running::new(blob, true);
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
        let sources = self.sources(Arc::clone(&named));
        let (net, found) = (self.inner.net.clone(), named);
        let look = async move {
            let more = net.providers(root).await.unwrap_or_default();
            let mut known = lock(&found);
            let new: Vec<NodeId> = more.into_iter().filter(|n| !known.contains(n)).collect();
            known.extend(new);
        };
        let work = async {
            let exchange = &self.inner.exchange;
            let here = exchange.blobs().status(&root).map(|s| s.blob);
            let (blob, located) = match here.or(blob) {
                Some(blob) => (blob, None),
                None => {
                    let located = exchange.locate(root, &sources).await;
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
            let (places, own) = (exchange.clone(), self.inner.node);
            let sources = move || places.candidates(own, sources());
            let fetched = exchange.fetch_as(blob, Box::new(sources), wish).await;
            let fetched = fetched.map_err(|e| e.to_string())?;
            running.progress.send_modify(|p| {
                (p.sources, p.received) = (fetched.sources, fetched.received);
                p.saved = (fetched.local, fetched.zero);
            });
            self.announce(root).await;
            Ok::<_, String>(room)
        };
        tokio::pin!(work, look);
        let mut looking = true;
        let room = loop {
            tokio::select! {
                done = &mut work => break done?,
                () = &mut look, if looking => looking = false,
            }
        };
        // whoever asked for it comes for it now
        let storage = self.clone();
        let held = tokio::task::spawn_blocking(move || storage.hold(root)).await;
        drop(room);
        match held {
            Ok(true) => Ok(()),
            _ => Err("it was removed again".to_owned()),
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

    /// Begins to fetch again what the disk damaged and somebody needs, unless that is under way.
    pub(super) fn mend(&self) -> Vec<Ask> {
        let lacking = self.blobs().stored().into_iter().filter(|s| !s.status.complete);
        let lacking: Vec<_> = lacking.collect();
        if lacking.is_empty() {
            return Vec::new();
        }
        let mut table = self.table();
        let mut asks = Vec::new();
        for stored in lacking {
            let blob = stored.status.blob;
            let pinned = table.pins.contains(&blob.root);
            let ordered = table.needs.as_ref().is_some_and(|n| n.contains_key(&blob.root));
            let comes = table.claims.values().any(|c| c.root == Some(blob.root));
            let idle =
                table.fetches.get(&blob.root).is_none_or(|r| r.progress.borrow().end.is_some());
            let wanted = pinned || (stored.damaged && ordered);
            if wanted && !comes && idle && asks.len() < AT_ONCE {
                let running = Running::new(Some(blob), false);
                table.fetches.insert(blob.root, Arc::clone(&running));
                let (root, blob) = (blob.root, Some(blob));
                let (holders, delta_from) = (Vec::new(), Vec::new());
                asks.push(Ask { root, blob, holders, delta_from, running });
            }
        }
        asks
    }

    /// Forgets how fetches have ended that nobody asks after.
    pub(super) fn forget_ended(&self) {
        self.table().fetches.retain(|_, r| {
            let ended = r.progress.borrow().end.is_some();
            !ended || (r.polled.is_some() && !r.is_forgotten())
        });
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
