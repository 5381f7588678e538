//! Switches the power of one machine: takes the lease, talks to the controller, watches the machine, reports.
//!
//! The conversation blocks and runs on a thread of its own; it ends when the lease is lost: a process that was stopped
//! and goes on finds that its time is over before it gives another order. What such a process had asked the
//! controller before may still be done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pinst_boot::power::action::PowerState;
use p2pinst_boot::power::controller::Controller;
use p2pinst_boot::power::drive::{Desk, drive};
use p2pinst_boot::power::driver::{self, Target};
use p2pinst_boot::power::error::Class;
use p2pinst_boot::power::run::{Outcome, Pace, Plan, Reason};
use p2pinst_types::record::{BootState, Inventory, PowerCause, PowerOutcome, PowerStatus, Task};
use p2pinst_types::{Cell, Kind, MachineId, Millis, NodeId, limits};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::job::{self, Job, Observed, Standing, Want};
use super::learnt::Memory;
use super::secrets;
use super::turn::{Case, LEASE, RENEW, SETTLE, STAGGER, Said, Turn};
use super::watched::{CallsOff, Watched, Watcher};
use crate::boot::Reports;
use crate::net::Net;
use crate::replicate::Replicas;
use crate::store::{Own, StoreFailure, StoreHandle};

/// Machines that are switched at once by one node.
const AT_ONCE: usize = 16;
/// Controllers that are asked at once because somebody wants to know.
const LOOKS: usize = 8;
/// One question to a controller, at most.
const CALL: Duration = Duration::from_secs(20);
/// The same of who only wants to know the state.
const LOOK: Duration = Duration::from_secs(8);
/// Until a controller is free that another conversation of this node is at.
const DESK: Duration = Duration::from_secs(120);
/// The longest that one order takes.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Switching off and on, beside the time that a machine may take to be seen.
const SWITCHES: Duration = Duration::from_secs(180);
/// How often it is looked what others see of the machine.
const SEES: Duration = Duration::from_secs(2);
/// Until it is tried again, when too much is at work or the store fails.
const BUSY: Duration = Duration::from_secs(2);

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is over.
    Over,
    /// This node looks again then.
    Again(Millis),
}

/// How an attempt ended.
#[derive(Debug)]
enum Ended {
    /// With a word that counts for all.
    Said(PowerOutcome, String),
    /// This node cannot do it; another might.
    Cannot(String),
    /// The lease was lost, or nobody wants it any more.
    CalledOff,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Conductor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: Arc<Own>,
    store: StoreHandle,
    net: Net,
    replicas: Replicas,
    reports: Reports,
    desk: Desk,
    memory: Memory,
    patience: Duration,
    permits: Semaphore,
    looks: Semaphore,
    epoch: Instant,
}

/// What the task is made of.
#[derive(Debug)]
pub struct Parts {
    /// This node.
    pub own: Arc<Own>,
    /// What it knows.
    pub store: StoreHandle,
    /// Whom it is connected with.
    pub net: Net,
    /// Where reports go.
    pub replicas: Replicas,
    /// What it says of machines with an assignment.
    pub reports: Reports,
    /// Where it is kept what is known of controllers.
    pub file: std::path::PathBuf,
    /// How long a machine that starts over the network may say nothing.
    pub patience: Duration,
}

fn short(text: impl Into<String>) -> String {
    let mut text: String = text.into();
    while text.len() > limits::DESCRIPTION {
        text.pop();
    }
    text
}

impl Conductor {
    /// Of this node.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { own, store, net, replicas, reports, file, patience } = parts;
        Self(Arc::new(Inner {
            own,
            store,
            net,
            replicas,
            reports,
            desk: Desk::default(),
            memory: Memory::load(file),
            patience,
            permits: Semaphore::new(AT_ONCE),
            looks: Semaphore::new(LOOKS),
            epoch: Instant::now(),
        }))
    }

    fn now(&self) -> Millis {
        self.0.store.clock().now()
    }

    /// What all nodes said of a machine's power.
    pub(crate) async fn said(&self, machine: &MachineId) -> Result<Vec<Cell>, StoreFailure> {
        let subject = machine.as_bytes().to_vec();
        Ok(self.0.replicas.read(Kind::POWER_STATUS, subject).await?.cells)
    }

    /// What those said of a machine who can switch it: a machine may report of itself, but holds nobody off.
    async fn read(&self, job: &Job) -> Result<Vec<Said>, StoreFailure> {
        let latest = self.now().after(LEASE);
        let said = |cell: &Cell| {
            let mut status: PowerStatus = cell.record().ok()?;
            status.lease = status.lease.map(|until| until.min(latest));
            Some(Said { by: cell.id.author, status })
        };
        let mut all: Vec<_> = self.said(&job.machine).await?.iter().filter_map(said).collect();
        all.retain(|said| job.able.contains(&said.by));
        Ok(all)
    }

    async fn write(&self, job: &Job, status: PowerStatus) -> Result<(), StoreFailure> {
        let subject = job.machine.as_bytes().to_vec();
        let written = self.0.replicas.write(Kind::POWER_STATUS, subject, Vec::new(), status).await;
        written.map(drop)
    }

    fn status(&self, job: &Job, attempt: u32) -> PowerStatus {
        PowerStatus {
            cause: Some(job.cause),
            attempt,
            lease: None,
            outcome: None,
            on: None,
            detail: String::new(),
            at: self.now(),
        }
    }

    /// Looks at a job, and does it when it is this node's turn.
    pub(super) async fn attend(&self, job: Job) -> Next {
        match self.try_attend(&job).await {
            Ok(next) => next,
            Err(error) => {
                warn!(%error, "cannot read or write what is done about a machine's power");
                Next::Again(self.now().after(BUSY))
            }
        }
    }

    async fn try_attend(&self, job: &Job) -> Result<Next, StoreFailure> {
        if !job.is_wanted(&self.0.store.views(), self.now()) {
            return Ok(Next::Over);
        }
        let mut still = None;
        if let Want::Netboot(assigned) = &job.want {
            let observed = self.observe(job).await?;
            if observed.arrived.is_some() && assigned.order.task == Task::Inspect {
                // its scout waits for another order
                return Ok(Next::Again(self.now().after(self.0.patience)));
            }
            match observed.standing(self.0.patience, self.now()) {
                Standing::Goes(until) => return Ok(Next::Again(until)),
                Standing::Still(since) => still = Some(since),
                Standing::NotBegun => {}
            }
        }
        let own = self.0.own.node.0;
        let peers = self.0.net.peers();
        let up = |node: &&p2pinst_types::PublicKey| **node == own || peers.is_up(&NodeId(**node));
        let able: Vec<_> = job.able.iter().filter(up).copied().collect();
        let case = Case {
            machine: &job.machine,
            cause: job.cause,
            since: job.since,
            attempts: job.attempts(),
            in_band: job.in_band(),
            still,
            able: &able,
            own: &own,
        };
        match case.turn(&self.read(job).await?, self.now()) {
            Turn::Over => Ok(Next::Over),
            Turn::Wait(until) => Ok(Next::Again(until)),
            Turn::Returned(attempt) => {
                let detail = "the machine's own node runs again".to_owned();
                let ended = Ended::Said(PowerOutcome::Done, detail);
                self.report(job, &case, attempt, Some(true), ended).await
            }
            Turn::Act(attempt) => self.act(job, &case, attempt).await,
        }
    }

    /// Takes the lease, and does the job if it keeps it.
    async fn act(&self, job: &Job, case: &Case<'_>, attempt: u32) -> Result<Next, StoreFailure> {
        let Ok(_permit) = self.0.permits.try_acquire() else {
            return Ok(Next::Again(self.now().after(BUSY)));
        };
        let taken = self.now();
        let mut held = self.status(job, attempt);
        (held.lease, held.at) = (Some(taken.after(LEASE)), taken);
        let until = Instant::now() + LEASE;
        self.write(job, held.clone()).await?;
        tokio::time::sleep(SETTLE).await;
        let said = self.read(job).await?;
        if let Err(until) = case.contest(&said, taken, self.now()) {
            debug!(machine = %job.machine, "another node is at this machine's power");
            // as if it had not begun: this is not giving up
            self.write(job, self.status(job, attempt - 1)).await?;
            return Ok(Next::Again(until));
        }
        if let Want::Netboot(assigned) = &job.want {
            let detail = "its power is switched, so that it starts over the network".to_owned();
            self.0.reports.say(assigned, BootState::Powering, detail).await;
        }
        let watched = Arc::new(Watched::new(until));
        let ended = self.conduct(job, attempt, held, &watched).await?;
        self.report(job, case, attempt, watched.on(), ended).await
    }

    /// What others see of the machine.
    async fn observe(&self, job: &Job) -> Result<Observed, StoreFailure> {
        let subject = job.machine.as_bytes().to_vec();
        let read = self.0.replicas.read(Kind::BOOT_STATUS, subject).await?;
        let views = self.0.store.views();
        let scout = views.scouts().find(|s| job.cause == PowerCause::Assignment(s.assignment));
        let scout = scout.map(|s| (s.node.0, s.admitted.millis()));
        Ok(job::observe(&read.cells, job.cause, scout, self.now()))
    }

    async fn inventory(&self, machine: &MachineId) -> Result<Option<Inventory>, StoreFailure> {
        let subject = machine.as_bytes().to_vec();
        let cells = self.0.replicas.read(Kind::INVENTORY, subject).await?.cells;
        let newest = cells.into_iter().max_by_key(|cell| cell.hlc);
        Ok(newest.and_then(|cell| cell.record().ok()))
    }

    fn target(&self, machine: &MachineId, inventory: Option<&Inventory>) -> Target {
        let views = self.0.store.views();
        let name = views.known_as(machine).map(|(name, ..)| name.to_string()).unwrap_or_default();
        let mut macs = Vec::new();
        macs.extend(
            views.current_assignment(machine).into_iter().flat_map(|a| a.order.macs.clone()),
        );
        macs.extend(views.adopted.get(machine).into_iter().flat_map(|a| a.adoption.macs.clone()));
        macs.extend(inventory.into_iter().flat_map(|i| i.nics.iter().map(|nic| nic.mac)));
        let mut known = std::collections::BTreeSet::new();
        macs.retain(|mac| known.insert(*mac));
        Target { name, macs, uuid: inventory.and_then(|i| i.uuid.clone()) }
    }

    /// Talks to the controller, while the lease is renewed and the machine is watched.
    async fn conduct(
        &self,
        job: &Job,
        attempt: u32,
        mut held: PowerStatus,
        watched: &Arc<Watched>,
    ) -> Result<Ended, StoreFailure> {
        let views = self.0.store.views();
        let controller = match &job.controller {
            Ok(controller) => controller.clone(),
            Err(reason) => return Ok(Ended::Said(PowerOutcome::Failed, short(reason))),
        };
        let key = &self.0.own.key;
        let credentials = match secrets::credentials(&views, &job.machine, &job.controlled, key) {
            Ok(credentials) => credentials,
            Err(error) => return Ok(Ended::Cannot(error.to_string())),
        };
        let inventory = self.inventory(&job.machine).await?;
        let target = self.target(&job.machine, inventory.as_ref());
        let boot = job.boot(attempt, inventory.map(|i| i.firmware));
        watched.observed(self.observe(job).await?, self.since_epoch(self.now()));
        let limit = self.limit(job, attempt);
        let plan = Plan {
            desired: job.desired(),
            boot,
            expect: job.expect(attempt, self.0.patience),
            forced: job.forced(),
            deadline: self.0.epoch.elapsed().saturating_add(limit),
            pace: Pace::default(),
        };
        let (conductor, watcher) = (self.clone(), Watcher(Arc::clone(watched)));
        // who drops this future wants no more of it
        let calls_off = CallsOff(Arc::clone(watched));
        let talk = move || conductor.talk(&controller, &target, credentials, plan, watcher);
        let mut talking = tokio::task::spawn_blocking(talk);
        let (mut renew, mut sees) = (tokio::time::interval(RENEW), tokio::time::interval(SEES));
        renew.reset();
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut talking => break outcome,
                _ = renew.tick() => {
                    let until = Instant::now() + LEASE;
                    if watched.may_renew() && job.is_wanted(&self.0.store.views(), self.now()) {
                        held.at = self.now();
                        held.lease = Some(held.at.after(LEASE));
                        (held.on, held.detail) = (watched.on(), short(watched.doing()));
                        self.write(job, held.clone()).await?;
                        watched.renewed(until);
                    } else {
                        watched.call_off();
                    }
                }
                _ = sees.tick() => {
                    let observed = self.observe(job).await?;
                    watched.observed(observed, self.since_epoch(self.now()));
                }
            }
        };
        drop(calls_off);
        Ok(match outcome {
            Ok(outcome) => ended(outcome),
            Err(error) => Ended::Cannot(format!("the conversation ended by itself: {error}")),
        })
    }

    /// A cluster time, and what it is on the clock of the runs.
    fn since_epoch(&self, now: Millis) -> (Millis, Duration) {
        (now, self.0.epoch.elapsed())
    }

    fn limit(&self, job: &Job, attempt: u32) -> Duration {
        let left = job.until.since(self.now());
        // silent at first, and again after its last sign, at each of three starts
        let expect = job.expect(attempt, self.0.patience);
        let starts = expect.map(|time| time.saturating_mul(2).saturating_add(SWITCHES) * 3);
        left.min(starts.unwrap_or(LONGEST))
    }

    /// The conversation. Blocks.
    fn talk(
        &self,
        controller: &Controller,
        target: &Target,
        credentials: Option<p2pinst_boot::power::credentials::Credentials>,
        plan: Plan,
        mut watcher: Watcher,
    ) -> Outcome {
        let line = controller.to_string();
        let failed = |error| Outcome::Failed(Reason::Controller { tries: 1, error });
        let mut turn = match self.0.desk.turn(&line, DESK.min(plan.deadline)) {
            Ok(turn) => turn,
            Err(error) => return failed(error),
        };
        let learnt = self.0.memory.of(&line);
        let mut driver = driver::open(controller, target, credentials, learnt, CALL);
        let seed = p2pinst_trust::key::random_u64().unwrap_or(1);
        let history = &mut turn.memory.history;
        let outcome = drive(driver.as_mut(), plan, history, self.0.epoch, seed, &mut watcher);
        self.0.memory.note(&line, driver.learnt());
        outcome
    }

    /// Says how an attempt ended, for all.
    async fn report(
        &self,
        job: &Job,
        case: &Case<'_>,
        attempt: u32,
        on: Option<bool>,
        ended: Ended,
    ) -> Result<Next, StoreFailure> {
        let machine = job.machine;
        let mut status = PowerStatus { on, ..self.status(job, attempt) };
        let next = match ended {
            Ended::CalledOff => {
                status.attempt = attempt - 1;
                Next::Again(self.now().after(STAGGER))
            }
            Ended::Cannot(reason) if case.has_others(&self.read(job).await?) => {
                info!(%machine, %reason, "this node cannot switch the machine; another may");
                status.detail = short(reason);
                Next::Again(self.now().after(STAGGER))
            }
            Ended::Cannot(reason) => {
                (status.outcome, status.detail) = (Some(PowerOutcome::Failed), short(reason));
                Next::Over
            }
            Ended::Said(outcome, detail) => {
                (status.outcome, status.detail) = (Some(outcome), short(detail));
                match (outcome, &job.want) {
                    // until it is installed, it may stand still again
                    (PowerOutcome::Done | PowerOutcome::Unknown, Want::Netboot(_)) => {
                        Next::Again(self.now().after(self.0.patience))
                    }
                    _ => Next::Over,
                }
            }
        };
        if let Some(outcome) = status.outcome {
            info!(%machine, %outcome, detail = %status.detail, "a machine's power was switched");
        }
        let failed = status.outcome == Some(PowerOutcome::Failed);
        let detail = status.detail.clone();
        self.write(job, status).await?;
        if failed && attempt < case.attempts {
            return Ok(Next::Again(self.now().after(STAGGER)));
        }
        if failed && let Want::Netboot(assigned) = &job.want {
            self.0.reports.say(assigned, BootState::Failed, detail).await;
        }
        Ok(next)
    }

    /// Asks a machine's controller now whether the machine is on. Only a node that can does: the error says why it cannot.
    ///
    /// # Errors
    /// When this node may not ask, or the controller does not answer.
    pub async fn look(&self, machine: MachineId) -> Result<Option<bool>, String> {
        let (views, now) = (self.0.store.views(), self.now());
        let controlled = views.controller_of(&machine).ok_or("the machine has no controller")?;
        let controller: Result<Controller, String> =
            controlled.controller.line.parse().map_err(|e| format!("{e}"));
        let able = job::able(&views, &machine, &controller, p2pinst_types::Hlc::at(now));
        if !able.contains(&self.0.own.node.0) {
            return Err("this node cannot ask the machine's controller".to_owned());
        }
        let (controller, key) = (controller?, &self.0.own.key);
        let credentials = secrets::credentials(&views, &machine, controlled, key);
        let credentials = credentials.map_err(|e| e.to_string())?;
        let target = self.target(&machine, None);
        let _permit = self.0.looks.acquire().await.map_err(|e| e.to_string())?;
        let conductor = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let line = controller.to_string();
            let _turn = conductor.0.desk.turn(&line, LOOK)?;
            let learnt = conductor.0.memory.of(&line);
            let mut driver = driver::open(&controller, &target, credentials, learnt, LOOK);
            let said = driver.query();
            conductor.0.memory.note(&line, driver.learnt());
            said
        });
        let state = asked.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        Ok(match state {
            PowerState::On => Some(true),
            PowerState::Off => Some(false),
            PowerState::Unknown => None,
        })
    }
}

/// What a run's end means to the others.
fn ended(outcome: Outcome) -> Ended {
    match outcome {
        Outcome::Ok { orders: 0 } => Ended::Said(PowerOutcome::Done, "it was so before".to_owned()),
        Outcome::Ok { .. } => Ended::Said(PowerOutcome::Done, String::new()),
        Outcome::Unknown(Reason::CalledOff) | Outcome::Failed(Reason::CalledOff) => {
            Ended::CalledOff
        }
        Outcome::Failed(Reason::Controller { tries, error })
            if matches!(error.class, Class::Conn | Class::Tool) =>
        {
            Ended::Cannot(Reason::Controller { tries, error }.to_string())
        }
        Outcome::Failed(reason) => Ended::Said(PowerOutcome::Failed, reason.to_string()),
        Outcome::Unknown(reason) => Ended::Said(PowerOutcome::Unknown, reason.to_string()),
    }
}
