//! The task behind the storage: cleans after what came and each minute, fetches what people ask for,
//! mends what the disk damaged, makes the recipes of blobs that have come, and announces the pinned
//! blobs.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::fetches::Ask;
use super::{Cleaning, Storage};

/// How often it looks for what is to be mended; without anything to do, that costs nothing.
const LOOK: Duration = Duration::from_secs(5);
/// How often it cleans when nothing calls for it.
const CLEAN: Duration = Duration::from_secs(60);
/// The least time between two cleanings: what comes at once is looked at together.
const PAUSE: Duration = Duration::from_millis(500);
/// How often the pinned blobs are announced: the DHT keeps a provider for a day.
const ANNOUNCE: Duration = Duration::from_secs(12 * 3600);
/// Pinned blobs that are announced: the DHT's own table has 1024 places.
const ANNOUNCED: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Task {
    storage: Storage,
    asks: mpsc::Receiver<Ask>,
    fetches: JoinSet<()>,
    /// Makes recipes, one after the other.
    cooking: JoinSet<()>,
}

/// Ends then; never without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Task {
    pub(super) fn new(storage: Storage, asks: mpsc::Receiver<Ask>) -> Self {
        Self { storage, asks, fetches: JoinSet::new(), cooking: JoinSet::new() }
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cleaned = Instant::now();
        let mut due: Option<Instant> = None;
        let mut announced: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = self.fetches.join_next(), if !self.fetches.is_empty() => {}
                Some(_) = self.cooking.join_next(), if !self.cooking.is_empty() => {}
                Some(ask) = self.asks.recv() => self.start(ask),
                () = self.storage.inner.wake.notified() => {
                    due.get_or_insert_with(|| Instant::now() + PAUSE);
                }
                () = until(due) => {
                    self.clean().await;
                    self.cook(&shutdown);
                    due = None;
                    cleaned = Instant::now();
                }
                _ = look.tick() => {
                    self.storage.forget_ended();
                    for blob in self.storage.mends_due() {
                        self.fetches.spawn(self.storage.clone().run_mend(blob));
                    }
                    if cleaned.elapsed() >= CLEAN {
                        self.clean().await;
                        self.cook(&shutdown);
                        cleaned = Instant::now();
                    }
                    let again = announced.is_none_or(|at| at.elapsed() >= ANNOUNCE);
                    if again && !self.storage.inner.net.peers().connected().is_empty() {
                        announced = Some(Instant::now());
                        self.announce().await;
                    }
                }
            }
        }
        self.fetches.shutdown().await;
    }

    fn start(&mut self, ask: Ask) {
        self.fetches.spawn(self.storage.clone().run_fetch(ask));
    }

    async fn clean(&self) {
        let storage = self.storage.clone();
        let clean = tokio::task::spawn_blocking(move || storage.clean(Cleaning::default()));
        if let Ok(Err(error)) = clean.await {
            warn!(%error, "cannot look whether the blobs take too much room");
        }
    }

    /// Begins to make the recipes that are missing, unless that is under way. It reads a few hundred MB a
    /// second, mostly of what has just been written.
    fn cook(&mut self, shutdown: &CancellationToken) {
        if !self.cooking.is_empty() {
            return;
        }
        let (storage, stop) = (self.storage.clone(), shutdown.clone());
        self.cooking.spawn_blocking(move || {
            for root in storage.blobs().without_recipe() {
                if let Err(error) = storage.blobs().make_recipe(&root, &|| !stop.is_cancelled()) {
                    debug!(blob = %root.short(), %error, "a blob has no recipe");
                }
            }
        });
    }

    async fn announce(&self) {
        let pinned: BTreeSet<_> = {
            let table = self.storage.table();
            table.pins.iter().filter(|root| table.is_pinned(root)).take(ANNOUNCED).collect()
        };
        for root in pinned {
            if self.storage.blobs().path(&root).is_some() {
                self.storage.announce(root).await;
            }
        }
    }
}
