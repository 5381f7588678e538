//! One order on its way: wait for idleness, fetch, verify, install, record.

use std::path::PathBuf;
use std::time::Duration;

use p2pinst_install::journal::{Record, Step};
use p2pinst_install::plan::Order;
use p2pinst_install::{DebInfo, InstallError, InstallOptions, InstallReport, Patience, inspect};
use p2pinst_types::DeploymentId;
use p2pinst_types::record::{Action, HistoryEntry, Mode, State, Transfer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Context;
use super::turn::Turn;
use crate::exchange::{Candidates, FetchError, Sources};

/// A pause before what failed for a passing reason is tried again.
const PASSING: Duration = Duration::from_secs(15);

/// How long one run waits for the package manager's locks before it looks whether it should go on.
const LOCKS: Duration = Duration::from_secs(5);
/// A pause before a fetch that found nobody is tried again.
const STARVED: Duration = Duration::from_secs(5);

/// When an order that failed may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never by itself: the package manager ran, and failed.
    Never,
    /// When another package was installed: a dependency was missing.
    AfterInstall,
    /// After a while: the disk was full, say.
    At(Instant),
}

impl Retry {
    /// Whether it is time.
    #[must_use]
    pub fn is_due(self) -> bool {
        matches!(self, Self::At(at) if at <= Instant::now())
    }

    fn soon() -> Self {
        Self::At(Instant::now() + PASSING)
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The package is there.
    Installed,
    /// The file is there and stays; nothing more was ordered.
    Kept,
    /// It is not, and when to try again.
    Failed(Retry),
    /// The order was superseded, or the node is stopping.
    Cancelled,
}

/// Why a job failed.
struct Failed {
    reason: String,
    retry: Retry,
    history: Option<HistoryEntry>,
}

pub(super) struct Job {
    pub(super) context: Context,
    pub(super) order: Order,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) cancel: CancellationToken,
}

impl Job {
    /// Runs to the end. An install that has begun is never cut off.
    pub(super) async fn run(self) -> (DeploymentId, End) {
        let id = self.order.id;
        let end = match self.proceed().await {
            Ok(end) => end,
            Err(failed) => {
                warn!(deployment = %self.name, package = %self.order.release.package, reason = %failed.reason, "failed");
                self.journal(Step::Failed, &failed.reason, failed.history.clone()).await;
                if let Some(entry) = failed.history {
                    self.context.reporter.record(entry);
                }
                self.report(State::Failed, failed.reason);
                End::Failed(failed.retry)
            }
        };
        (id, end)
    }

    async fn proceed(&self) -> Result<End, Failed> {
        self.report(State::Pending, String::new());
        let path = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Ok(End::Cancelled),
            fetched = self.fetch() => fetched?,
        };
        if self.order.deployment.preheat {
            self.identify(&path).await?;
            self.report(State::Verified, "kept; nothing is installed".to_owned());
            return Ok(End::Kept);
        }
        self.report(State::Verified, String::new());
        let deb = self.identify(&path).await?;
        let turn = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Ok(End::Cancelled),
            turn = self.turn() => turn,
        };
        let end = self.install(&path, &deb).await;
        drop(turn);
        end
    }

    fn report(&self, state: State, detail: String) {
        self.context.reporter.report(self.order.id, self.attempt, state, detail);
    }

    /// Waits until the node is idle, unless the order is urgent. Says so in the status.
    async fn idle(&self) {
        if self.order.deployment.mode == Mode::Urgent {
            return;
        }
        let mut idle = self.context.idle.clone();
        loop {
            let why = match &*idle.borrow_and_update() {
                Ok(()) => return,
                Err(why) => why.clone(),
            };
            // the reason of the moment changes with each sample; the status tells its kind
            let why = why.split(',').next().unwrap_or_default();
            self.report(State::Waiting, format!("waiting for the node to be idle: {why}"));
            if idle.changed().await.is_err() {
                // nobody measures any more: load-aware orders stay where they are
                std::future::pending::<()>().await;
            }
        }
    }

    /// Brings the whole file here; every byte is verified on arrival.
    async fn fetch(&self) -> Result<PathBuf, Failed> {
        let blob = self.order.release.blob;
        let blobs = self.context.exchange.blobs();
        if let Some(path) = blobs.path(&blob.root) {
            return Ok(path);
        }
        let begun = Instant::now();
        let mut fetching = Duration::ZERO;
        loop {
            self.idle().await;
            let slot = self.fetch_slots().acquire().await;
            let room = self.context.storage.room_for(Some(blob.root), blob.len()).await;
            let room = room.map_err(|error| Failed {
                reason: format!("cannot fetch {}: {error}", self.order.release.file),
                retry: Retry::soon(),
                history: None,
            })?;
            self.report(State::Fetching, String::new());
            let taken_up = Instant::now();
            let fetched = tokio::select! {
                fetched = self.context.exchange.fetch(blob, self.sources()) => Some(fetched),
                () = self.no_longer_idle() => None,
            };
            drop((slot, room));
            fetching += taken_up.elapsed();
            let Some(fetched) = fetched else { continue };
            match fetched {
                Ok(fetched) => {
                    info!(
                        deployment = %self.name,
                        bytes = blob.len(),
                        millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                        sources = fetched.sources,
                        duplicate_bytes = fetched.duplicate,
                        "fetched"
                    );
                    self.tell_of_transfer(fetching, begun.elapsed().saturating_sub(fetching));
                    break;
                }
                // others get their turn; whoever comes back may bring it
                Err(error @ FetchError::Starved) => {
                    self.report(State::Waiting, error.to_string());
                    tokio::time::sleep(STARVED).await;
                }
                Err(error) => {
                    let retry = match error {
                        FetchError::Layer(_) => Retry::Never,
                        _ => Retry::soon(),
                    };
                    let reason = format!("cannot fetch {}: {error}", self.order.release.file);
                    return Err(Failed { reason, retry, history: None });
                }
            }
        }
        blobs.path(&blob.root).ok_or_else(|| Failed {
            reason: "the fetched file is gone".to_owned(),
            retry: Retry::soon(),
            history: None,
        })
    }

    /// How the file came: kept with the status.
    fn tell_of_transfer(&self, fetched: Duration, waited: Duration) {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let meter = self.context.exchange.meter();
        let now = self.context.store.clock().now();
        let transfer = Transfer {
            order_ms: millis(now.since(self.order.hlc.millis())),
            fetch_ms: millis(fetched),
            waited_ms: millis(waited),
            ..meter.transfer(self.order.release.blob, &self.order.deployment.holders)
        };
        self.context.reporter.transferred(self.order.id, transfer);
    }

    fn fetch_slots(&self) -> &tokio::sync::Semaphore {
        if self.order.release.blob.pieces() == 1 {
            return &self.context.small_fetches;
        }
        match self.order.deployment.mode {
            Mode::Urgent => &self.context.urgent_fetches,
            Mode::LoadAware => &self.context.fetches,
        }
    }

    /// Ends when the node becomes busy; of an urgent order, never.
    async fn no_longer_idle(&self) {
        let mut idle = self.context.idle.clone();
        let busy = idle.wait_for(Result::is_err);
        if self.order.deployment.mode == Mode::Urgent || busy.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Who may have the blob: those that the order names, and the members of the group.
    fn sources(&self) -> Sources {
        let (store, exchange) = (self.context.store.clone(), self.context.exchange.clone());
        let (own, deployment) = (self.context.own.node, self.order.deployment.clone());
        Box::new(move || {
            let (holders, group) = (&deployment.holders, &deployment.group);
            Candidates::of(&store.views(), exchange.peers(), own, holders, group)
        })
    }

    /// R1, R6: the file is the package that the publisher signed for.
    async fn identify(&self, path: &std::path::Path) -> Result<DebInfo, Failed> {
        let never = |reason: String| Failed { reason, retry: Retry::Never, history: None };
        let inspected = path.to_owned();
        let deb = tokio::task::spawn_blocking(move || inspect(&inspected))
            .await
            .map_err(|e| never(e.to_string()))?
            .map_err(|e| never(e.to_string()))?;
        let signed = &self.order.release.package;
        if deb.package == *signed {
            Ok(deb)
        } else {
            Err(never(format!(
                "the file is {}, but the publisher signed for {signed}: it is not installed",
                deb.package
            )))
        }
    }

    /// The one package manager, once the node is idle.
    async fn turn(&self) -> Option<Turn> {
        loop {
            self.idle().await;
            let later = self.order.deployment.mode != Mode::Urgent;
            let turn = self.context.turns.take((later, self.order.hlc, self.order.id)).await;
            // the wait may have been long
            if self.order.deployment.mode == Mode::Urgent || self.context.idle.borrow().is_ok() {
                return turn;
            }
        }
    }

    async fn install(&self, path: &std::path::Path, deb: &DebInfo) -> Result<End, Failed> {
        if self.cancel.is_cancelled() {
            return Ok(End::Cancelled);
        }
        if !self.journal(Step::Installing, "", None).await {
            return Err(Failed {
                reason: "the journal cannot be written; nothing is installed without it".to_owned(),
                retry: Retry::soon(),
                history: None,
            });
        }
        self.report(State::Installing, String::new());
        let begun = Instant::now();
        let result = loop {
            let result = self.run_manager(path, deb).await;
            match &result {
                // others use the database: wait on, but see to it that the order still stands
                Ok(Err(InstallError::Lock(error)))
                    if begun.elapsed() < self.context.patience.locks =>
                {
                    if self.cancel.is_cancelled() {
                        return Ok(End::Cancelled);
                    }
                    self.report(State::Waiting, error.to_string());
                }
                _ => break result,
            }
        };
        match result {
            Ok(Ok(report)) => {
                self.on_installed(report).await;
                Ok(End::Installed)
            }
            Ok(Err(error)) => Err(self.on_refused(error)),
            Err(error) => {
                Err(Failed { reason: error.to_string(), retry: Retry::Never, history: None })
            }
        }
    }

    /// One run of the package manager; waits for its locks for a little while only.
    async fn run_manager(
        &self,
        path: &std::path::Path,
        deb: &DebInfo,
    ) -> Result<Result<InstallReport, InstallError>, tokio::task::JoinError> {
        let (dpkg, path, deb) =
            (std::sync::Arc::clone(&self.context.dpkg), path.to_owned(), deb.clone());
        let patience = Patience { locks: LOCKS, ..self.context.patience };
        let options =
            InstallOptions { allow_downgrade: self.order.deployment.allow_downgrade, patience };
        tokio::task::spawn_blocking(move || {
            // a run that was cut off before left its traces: they are mended first
            if let Err(error) = dpkg.repair(&patience) {
                warn!(%error, "cannot repair what an earlier run left");
            }
            dpkg.install(&path, &deb, &options)
        })
        .await
    }

    async fn on_installed(&self, report: InstallReport) {
        let package = &self.order.release.package;
        info!(deployment = %self.name, %package, millis = report.millis, "installed");
        let detail = match &report.old_version {
            Some(old) => format!("{} from {old}", report.action),
            None => report.action.to_string(),
        };
        let entry = self.entry(State::Installed, report.action, report.old_version);
        let entry = HistoryEntry {
            exit_code: Some(report.exit_code),
            millis: report.millis,
            log: report.log_tail,
            ..entry
        };
        self.journal(Step::Committed, "", Some(entry.clone())).await;
        self.context.reporter.record(entry);
        self.report(State::Installed, detail);
    }

    fn entry(&self, outcome: State, action: Action, old_version: Option<String>) -> HistoryEntry {
        HistoryEntry {
            at: self.context.store.clock().now(),
            deployment: self.order.id,
            release: self.order.deployment.release,
            package: self.order.release.package.clone(),
            action,
            old_version,
            outcome,
            exit_code: None,
            millis: 0,
            log: String::new(),
        }
    }

    fn on_refused(&self, error: InstallError) -> Failed {
        let reason = error.to_string();
        match error {
            InstallError::Failed(failure) => {
                let entry = self.entry(State::Failed, failure.action, failure.old_version.clone());
                let history = HistoryEntry {
                    exit_code: failure.exit.code(),
                    millis: failure.millis,
                    log: failure.log_tail.clone(),
                    ..entry
                };
                Failed { reason, retry: Retry::Never, history: Some(history) }
            }
            InstallError::Unfit { .. } => {
                Failed { reason, retry: Retry::AfterInstall, history: None }
            }
            InstallError::Lock(_) | InstallError::File(_) | InstallError::Run(_) => {
                Failed { reason, retry: Retry::soon(), history: None }
            }
            InstallError::Inspect(_)
            | InstallError::Changed { .. }
            | InstallError::Downgrade { .. } => {
                Failed { reason, retry: Retry::Never, history: None }
            }
        }
    }

    /// Writes a step down, durably. Says whether that worked.
    async fn journal(&self, step: Step, detail: &str, history: Option<HistoryEntry>) -> bool {
        let record = Record {
            at: self.context.store.clock().now(),
            deployment: self.order.id,
            attempt: self.attempt,
            step,
            detail: detail.to_owned(),
            ran: history.is_some(),
            history,
        };
        let context = self.context.clone();
        let appended = tokio::task::spawn_blocking(move || context.journal().append(record)).await;
        match appended {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                error!(%error, "cannot write the journal");
                false
            }
            Err(_) => false,
        }
    }
}
