//! The agent: one reconcile loop. Desired state (views) − installed state (package manager) → one
//! job per order that is to be installed → status and history.
//!
//! The loop itself never blocks and never waits for a job. What a crash interrupts is found in the
//! journal at the next start; see [`startup`].

mod idle;
mod job;
mod needs;
mod recall;
mod reporter;
mod startup;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dht_store::Views;
use p2pinst_install::journal::{Journal, JournalError, Step, Unfinished};
use p2pinst_install::plan::{Decision, Line, LinePlan, Order, plan};
use p2pinst_install::{Dpkg, Patience, RootError};
use p2pinst_types::DeploymentId;
use p2pinst_types::record::{Mode, NodeRecord, State, Transfer};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::control::Control;
use crate::exchange::Exchange;
use crate::replicate::Replicas;
use crate::storage::Storage;
use crate::store::{Own, StoreHandle};
use turn::Turns;

pub use idle::{Idle, Loaded, watch as watch_idleness};
pub use job::{End, Retry};
pub use reporter::{Reporter, entries as history_entries};

/// Orders that are fetched or wait for their turn at once; a job that waits is a small task.
const JOBS: usize = 1024;
/// Orders whose pieces come in at once: so many urgent ones, and as many others.
const FETCHES: usize = 4;
/// Orders of a blob of a single piece whose pieces come in at once: they wait for answers and for the
/// disk more than for the wire.
const SMALL_FETCHES: usize = 16;
/// A node that has just started waits this long for somebody to tell what it has missed.
const HEARING: Duration = Duration::from_secs(5);
/// What failed for a passing reason (a full disk) is tried again after this.
const RETRY: Duration = Duration::from_secs(15);

/// Why the agent cannot start.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The root is none.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The directory of the journal cannot be made.
    #[error(transparent)]
    File(#[from] p2pinst_files::FileError),
}

/// What every job needs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    own: Arc<Own>,
    store: StoreHandle,
    exchange: Exchange,
    dpkg: Arc<Dpkg>,
    journal: Arc<Mutex<Journal>>,
    reporter: Reporter,
    idle: Idle,
    patience: Patience,
    urgent_fetches: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    small_fetches: Arc<Semaphore>,
    storage: Storage,
    turns: Turns,
}

impl Context {
    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the agent is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who this node is.
    pub own: Arc<Own>,
    /// What it knows.
    pub store: StoreHandle,
    /// Where its records go.
    pub replicas: Replicas,
    /// The control plane.
    pub control: Control,
    /// What the node says of itself; the architecture is the root's.
    pub record: NodeRecord,
    /// Where pieces come from.
    pub exchange: Exchange,
    /// What is kept of them.
    pub storage: Storage,
    /// Where packages are installed.
    pub root: PathBuf,
    /// Where the package manager's own log goes.
    pub dpkg_log: PathBuf,
    /// Where the journal is.
    pub journal: PathBuf,
    /// The configuration.
    pub config: Config,
    /// Whether the machine is idle.
    pub idle: Idle,
}

/// See the module.
pub struct Agent {
    context: Context,
    control: Control,
    unfinished: Vec<Unfinished>,
    jobs: BTreeMap<DeploymentId, CancellationToken>,
    running: JoinSet<(DeploymentId, End)>,
    /// Orders that failed in this life or before, and when they may be tried again.
    failed: BTreeMap<DeploymentId, Retry>,
    /// When the package database was changed last, as far as this agent has looked.
    stamp: Option<SystemTime>,
    /// Records of a newer version, as many as were told of.
    unknown: usize,
    /// Orders that are over, as many as the journal has forgotten.
    over: usize,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("jobs", &self.jobs.len()).finish_non_exhaustive()
    }
}

/// Opens the root and the journal. Blocking.
///
/// # Errors
/// When the root has no package database or the journal cannot be read.
pub fn open(parts: &Parts) -> Result<(Dpkg, Journal, Vec<Unfinished>), AgentError> {
    let dpkg = Dpkg::open(&parts.root, &parts.dpkg_log)?;
    p2pinst_files::make_private_dir(&parts.journal)?;
    let (journal, unfinished) = Journal::open(&parts.journal)?;
    Ok((dpkg, journal, unfinished))
}

/// The orders that are such, live ones and those that are over, as the planner takes them.
fn planned(views: &Views, which: impl Fn(&dht_store::view::Order) -> bool) -> Vec<Order> {
    let live = views.orders.iter().map(|o| (o, false));
    let all = live.chain(views.over.iter().map(|o| (o, true)));
    let order = |(o, retired): (&dht_store::view::Order, bool)| Order {
        id: o.id,
        author: o.author,
        hlc: o.hlc,
        deployment: o.deployment.clone(),
        release: o.release.clone(),
        retired,
    };
    all.filter(|(o, _)| which(o)).map(order).collect()
}

impl Agent {
    /// Makes an agent, and the task that writes its records.
    ///
    /// # Errors
    /// When the root has no package database or the journal cannot be read.
    pub fn new(parts: Parts) -> Result<(Self, reporter::Task), AgentError> {
        let (dpkg, journal, unfinished) = open(&parts)?;
        let run = u64::from(parts.config.script_secs);
        let patience = Patience {
            locks: Duration::from_secs(parts.config.lock_secs.into()),
            run: (run > 0).then(|| Duration::from_secs(run)),
        };
        let record = NodeRecord { architecture: dpkg.native().to_owned(), ..parts.record };
        let (own, store) = (Arc::clone(&parts.own), parts.store.clone());
        let control = parts.control.clone();
        let (reporter, task) = Reporter::new(own, store, parts.replicas, parts.control, record);
        let context = Context {
            own: parts.own,
            store: parts.store,
            exchange: parts.exchange,
            dpkg: Arc::new(dpkg),
            journal: Arc::new(Mutex::new(journal)),
            reporter,
            idle: parts.idle,
            patience,
            urgent_fetches: Arc::new(Semaphore::new(FETCHES)),
            fetches: Arc::new(Semaphore::new(FETCHES)),
            small_fetches: Arc::new(Semaphore::new(SMALL_FETCHES)),
            storage: parts.storage,
            turns: Turns::default(),
        };
        let agent = Self {
            context,
            control,
            unfinished,
            jobs: BTreeMap::new(),
            running: JoinSet::new(),
            failed: BTreeMap::new(),
            stamp: None,
            unknown: 0,
            over: 0,
        };
        Ok((agent, task))
    }

    /// Runs until shutdown; then waits for a package manager that is at work, and for nothing else.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut views = self.context.store.watch();
        let unfinished = std::mem::take(&mut self.unfinished);
        startup::resolve(&self.context, unfinished).await;
        self.hear_first(&shutdown).await;
        let mut changed = true;
        loop {
            if changed {
                views.mark_unchanged();
                self.reconcile().await;
            }
            changed = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.running.join_next(), if !self.running.is_empty() => {
                    let mut done = Some(done);
                    // those that have ended by now are looked at together
                    while let Some(one) = done {
                        match one {
                            Ok((id, end)) => self.on_end(id, end),
                            Err(e) => error!(error = %e, "a job ended badly"),
                        }
                        done = self.running.try_join_next();
                    }
                    true
                }
                Ok(()) = views.changed() => true,
                () = tokio::time::sleep(RETRY), if self.may_retry() => self.look_again(),
                () = self.context.exchange.meter().quiet() => {
                    self.tell_what_was_given();
                    false
                }
            };
        }
        for cancel in self.jobs.values() {
            cancel.cancel();
        }
        if !self.running.is_empty() {
            info!("waiting for the package manager to finish");
        }
        while self.running.join_next().await.is_some() {}
    }

    /// A first holder reports what it gave, once nobody has asked for more for a while.
    fn tell_what_was_given(&self) {
        let Context { own, store, exchange, reporter, .. } = &self.context;
        let settled = exchange.meter().settled();
        if settled.is_empty() {
            return;
        }
        let views = store.views();
        let given = |o: &&dht_store::view::Order| {
            settled.contains(&o.release.blob.root) && o.deployment.holders.contains(&own.node)
        };
        for order in views.orders.iter().filter(given) {
            let sent = exchange.meter().transfer(order.release.blob, &[]);
            reporter.transferred(order.id, Transfer { holder: true, ..sent });
        }
    }

    /// C7: what was published meanwhile counts before what was pending is installed.
    async fn hear_first(&self, shutdown: &CancellationToken) {
        if self.context.store.views().machines.len() > 1 {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.control.first_sync() => {}
                () = tokio::time::sleep(HEARING) => {}
            }
        }
    }

    fn may_retry(&self) -> bool {
        self.failed.values().any(|r| *r != Retry::Never)
    }

    /// Whether something that failed may be tried again: its time has come, or somebody else has
    /// changed the package database, so that what was lacking may be there.
    fn look_again(&mut self) -> bool {
        let stamp = self.context.dpkg.changed_at();
        let touched = stamp != self.stamp;
        if touched {
            self.stamp = stamp;
            self.failed.retain(|_, retry| *retry != Retry::AfterInstall);
        }
        touched || self.failed.values().any(|r| r.is_due())
    }

    fn on_end(&mut self, id: DeploymentId, end: End) {
        self.jobs.remove(&id);
        match end {
            End::Kept => drop(self.failed.remove(&id)),
            End::Installed => {
                self.failed.remove(&id);
                // what lacked a dependency may have it now
                self.failed.retain(|_, retry| *retry != Retry::AfterInstall);
            }
            End::Failed(retry) => {
                self.stamp = self.context.dpkg.changed_at();
                self.failed.insert(id, retry);
            }
            End::Cancelled => {}
        }
    }

    /// Compares what should be with what is, and starts and stops jobs.
    async fn reconcile(&mut self) {
        let views = self.context.store.views();
        self.tell_unknown(&views);
        self.tell_waiting(&views);
        self.forget_retired(&views).await;
        self.context.storage.set_removed(views.removed_blobs.clone());
        let all = self.orders(&views);
        if all.is_empty() && self.jobs.is_empty() {
            return self.context.storage.set_needs(self.needs(&views, &all, |_| false));
        }
        let dpkg = Arc::clone(&self.context.dpkg);
        let read = tokio::task::spawn_blocking(move || dpkg.database()).await;
        let database = match read {
            Ok(Ok(database)) => database,
            Ok(Err(error)) => return warn!(%error, "cannot read the package database"),
            Err(_) => return,
        };
        let version = |line: &Line| {
            let found = database.installed_version(&line.name, &line.architecture);
            found.map(str::to_owned)
        };
        // what is only brought here takes nobody's place, and nobody takes its
        let (preheats, orders): (Vec<Order>, Vec<Order>) =
            all.iter().cloned().partition(|o| o.deployment.preheat);
        let plans = plan(&orders, self.context.dpkg.native(), version);
        let decisions: BTreeMap<&DeploymentId, &Decision> =
            plans.values().flat_map(|p: &LinePlan| &p.decisions).collect();
        let decision = |id: &DeploymentId| decisions.get(id).copied();
        let superseded =
            |id: &DeploymentId| matches!(decision(id), Some(Decision::Superseded { .. }));
        // before anything begins: what begins to come is needed
        self.context.storage.set_needs(self.needs(&views, &all, superseded));
        let mut wanted = BTreeSet::new();
        for order in preheats.iter().filter(|o| !o.retired) {
            wanted.insert(order.id);
            let here = self.context.exchange.blobs().path(&order.release.blob.root).is_some();
            if !here || self.context.reporter.state(&order.id) != Some(State::Verified) {
                self.start(&views, order);
            }
        }
        for order in orders.iter().filter(|o| !o.retired) {
            let decision = decision(&order.id);
            match decision {
                Some(Decision::Install) => {
                    wanted.insert(order.id);
                    self.start(&views, order);
                }
                Some(Decision::Satisfied { installed }) => {
                    let there = format!("version {installed} is installed already");
                    self.settle(order.id, &there);
                }
                Some(Decision::Superseded { by }) => {
                    let over = || views.over.iter().find(|o| o.id == *by);
                    let by = views.order(by.as_bytes()).or_else(over).map(|o| views.order_name(o));
                    let by = format!("superseded by {}", by.unwrap_or_default());
                    self.settle(order.id, &by);
                }
                None => {}
            }
        }
        self.failed.retain(|id, _| wanted.contains(id));
        for (id, cancel) in &self.jobs {
            if !wanted.contains(id) {
                cancel.cancel();
            }
        }
    }

    /// The journal need not remember orders that are over: nothing is done about them any more.
    async fn forget_retired(&mut self, views: &Arc<Views>) {
        let over = views.retired.len();
        if over == self.over {
            return;
        }
        let (context, views) = (self.context.clone(), Arc::clone(views));
        let forget = move || context.journal().retain(|id| !views.retired.contains(id));
        match tokio::task::spawn_blocking(forget).await {
            Ok(Ok(())) => self.over = over,
            Ok(Err(error)) => warn!(%error, "cannot write the journal"),
            Err(_) => {}
        }
    }

    /// Says once, for each that comes, that there are records of a newer version.
    fn tell_unknown(&mut self, views: &Views) {
        if views.unknown > self.unknown {
            warn!(
                records = views.unknown,
                "records of this cluster need a newer version of p2pinst: they are kept and passed on; update this machine's p2pinst"
            );
        }
        self.unknown = views.unknown;
    }

    /// Orders that this version cannot carry out wait, and say for what.
    fn tell_waiting(&self, views: &Views) {
        let Some(machine) = views.machine_of(&self.context.own.node.0) else { return };
        let reporter = &self.context.reporter;
        for (id, needs) in views.waiting_of(machine) {
            if !reporter.state(&id).is_some_and(State::is_final) {
                let attempt = reporter.finished(&id) + 1;
                reporter.report(id, attempt, State::Waiting, format!("needs version {needs}"));
            }
        }
    }

    /// The orders whose group contains this machine.
    fn orders(&self, views: &Views) -> Vec<Order> {
        let Some(machine) = views.machine_of(&self.context.own.node.0) else { return Vec::new() };
        planned(views, |order| {
            let group = &order.deployment.group;
            // who is in the group is known to a newer version only: nothing is begun because of it
            views.is_member(machine, group) && views.group_needs(group).is_none()
        })
    }

    /// Nothing to do for an order: says so once.
    fn settle(&self, id: DeploymentId, detail: &str) {
        let busy = self.jobs.contains_key(&id);
        let open = |s: State| !s.is_final() || s == State::Failed;
        if !busy && self.context.reporter.state(&id).is_none_or(open) {
            self.context.reporter.report(id, 1, State::Skipped, detail.to_owned());
        }
    }

    fn start(&mut self, views: &Views, order: &Order) {
        let urgent = order.deployment.mode == Mode::Urgent;
        if self.jobs.contains_key(&order.id) || (self.jobs.len() >= JOBS && !urgent) {
            return;
        }
        let Some(attempt) = self.next_attempt(&order.id) else { return };
        self.failed.remove(&order.id);
        let name = views
            .order(order.id.as_bytes())
            .map_or_else(|| order.id.short(), |o| views.order_name(o));
        info!(deployment = %name, package = %order.release.package, urgent, attempt, "ordered");
        let cancel = CancellationToken::new();
        self.jobs.insert(order.id, cancel.clone());
        let job =
            job::Job { context: self.context.clone(), order: order.clone(), name, attempt, cancel };
        self.running.spawn(job.run());
    }

    /// The number of the next attempt; `None` while an order that failed is not to be tried again.
    fn next_attempt(&self, id: &DeploymentId) -> Option<u32> {
        let journal = self.context.journal();
        let last = journal.outcome(id);
        // the journal of a machine that lost its disk knows of none
        let told = self.context.reporter.finished(id);
        let attempt = last.map_or(told, |r| r.attempt) + 1;
        match (self.failed.get(id), last) {
            (Some(retry), _) => retry.is_due().then_some(attempt),
            // failed in an earlier life, after the package manager had run: an operator's turn
            (None, Some(r)) if r.step == Step::Failed => (!r.ran).then_some(attempt),
            _ => Some(attempt),
        }
    }
}
