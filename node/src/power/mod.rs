//! The power role of a node: it switches the power of other machines, through their controllers, when that was ordered or a
//! machine is to start over the network.
//!
//! Any node with the role can; who does is settled by ranks and leases ([`turn`]). What is to be done follows from the views
//! ([`job`]); how it goes is said in the machine's power status, which is on the data plane. Nothing here decides what a controller
//! is asked: that is `p2pinst_boot::power::run`. Lost when the process ends: conversations; their leases end, and who
//! goes on begins by reading.

mod conduct;
mod job;
mod learnt;
mod secrets;
mod turn;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dht_store::store::Write;
use dht_store::{Store, Views};
use p2pinst_types::record::{PowerCause, Resealed};
use p2pinst_types::{Cell, Kind, MachineId, Millis, NodeId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use conduct::{Conductor, Parts};
pub(crate) use job::able;

use self::conduct::Next;
use self::secrets::Sealer;
use crate::net::Net;
use crate::store::{Own, StoreFailure, StoreHandle};

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(50);
/// How often it is looked at everything, whatever was heard: grants end, and nodes come and go.
const LOOK: Duration = Duration::from_secs(15);
/// Who was just started knows nothing of what others did meanwhile, and switches nothing for so long, unless it is alone.
const SETTLES: Duration = Duration::from_secs(15);
/// Jobs that are looked at at once; of these few act.
const ATTENDED: usize = 64;
/// Jobs of which it is remembered that they are over.
const OVER: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub struct Power {
    own: Arc<Own>,
    store: StoreHandle,
    net: Net,
    announce: mpsc::Sender<Cell>,
    conductor: Conductor,
    /// Jobs that are over.
    over: BTreeSet<PowerCause>,
    /// When to look at the others again.
    later: BTreeMap<PowerCause, Millis>,
    at_work: BTreeSet<PowerCause>,
    sealer: Sealer,
    begun: Instant,
}

impl Power {
    /// The task, and what others ask.
    #[must_use]
    pub fn new(parts: Parts, announce: mpsc::Sender<Cell>) -> (Conductor, Self) {
        let (own, store, net) = (Arc::clone(&parts.own), parts.store.clone(), parts.net.clone());
        let conductor = Conductor::new(parts);
        let task = Self {
            own,
            store,
            net,
            announce,
            conductor: conductor.clone(),
            over: BTreeSet::new(),
            later: BTreeMap::new(),
            at_work: BTreeSet::new(),
            sealer: Sealer::default(),
            begun: Instant::now(),
        };
        (conductor, task)
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut views = self.store.watch();
        let mut attending: JoinSet<(PowerCause, Next)> = JoinSet::new();
        let mut sealing: JoinSet<()> = JoinSet::new();
        loop {
            let next = self.look(&mut attending, &mut sealing);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = attending.join_next(), if !attending.is_empty() => {
                    if let Ok((cause, next)) = done {
                        self.ended(cause, next);
                    }
                }
                Some(_) = sealing.join_next(), if !sealing.is_empty() => {}
                Ok(()) = views.changed() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    fn ended(&mut self, cause: PowerCause, next: Next) {
        self.at_work.remove(&cause);
        match next {
            Next::Over => {
                if self.over.len() >= OVER {
                    self.over.pop_first();
                }
                self.over.insert(cause);
                self.later.remove(&cause);
            }
            Next::Again(then) => {
                self.later.insert(cause, then);
            }
        }
    }

    /// Begins what is due; how long nothing else is.
    fn look(
        &mut self,
        attending: &mut JoinSet<(PowerCause, Next)>,
        sealing: &mut JoinSet<()>,
    ) -> Duration {
        let (views, now) = (self.store.views(), self.store.clock().now());
        let mut next = now.after(LOOK);
        let settles = SETTLES.saturating_sub(self.begun.elapsed());
        let jobs = match views.machines.len() > 1 && !settles.is_zero() {
            true => Vec::new(),
            false => job::open(&views, &self.own.node.0, now),
        };
        if !settles.is_zero() {
            next = next.min(now.after(settles));
        }
        let open: BTreeSet<_> = jobs.iter().map(|job| job.cause).collect();
        self.later.retain(|cause, _| open.contains(cause));
        self.over.retain(|cause| open.contains(cause));
        for job in jobs {
            let cause = job.cause;
            if self.over.contains(&cause) || self.at_work.contains(&cause) {
                continue;
            }
            let then = self.later.get(&cause).copied().unwrap_or(now);
            if then > now {
                next = next.min(then);
                continue;
            }
            if attending.len() >= ATTENDED {
                continue; // looked at again when one of them has ended
            }
            self.at_work.insert(cause);
            let conductor = self.conductor.clone();
            attending.spawn(async move { (cause, conductor.attend(job).await) });
        }
        if sealing.is_empty() {
            next = next.min(self.seal(&views, now, sealing));
        }
        next.since(now)
    }

    /// Begins to seal anew what is due; when to look again.
    fn seal(&mut self, views: &Arc<Views>, now: Millis, sealing: &mut JoinSet<()>) -> Millis {
        let peers = self.net.peers();
        let is_up = |node: &p2pinst_types::PublicKey| peers.is_up(&NodeId(*node));
        let (due, next) = self.sealer.due(views, &self.own.node.0, is_up, now);
        if !due.is_empty() {
            let (own, store) = (Arc::clone(&self.own), self.store.clone());
            sealing.spawn(reseal(own, store, self.announce.clone(), Arc::clone(views), due));
        }
        next.unwrap_or_else(|| now.after(LOOK)).max(now.after(GATHER))
    }
}

/// Seals credentials anew, and tells all.
async fn reseal(
    own: Arc<Own>,
    store: StoreHandle,
    announce: mpsc::Sender<Cell>,
    views: Arc<Views>,
    machines: Vec<MachineId>,
) {
    for machine in machines {
        let (own, store, views) = (Arc::clone(&own), store.clone(), Arc::clone(&views));
        let (key, now) = (own.key.clone(), store.clock().now());
        let sealed =
            tokio::task::spawn_blocking(move || secrets::reseal(&views, &machine, &key, now));
        let record = match sealed.await {
            Ok(Ok(Some(record))) => record,
            Ok(Ok(None)) => continue,
            Ok(Err(error)) => {
                warn!(%machine, %error, "a controller's credentials cannot be sealed anew");
                continue;
            }
            Err(error) => {
                debug!(%error, "sealing has ended");
                continue;
            }
        };
        match write(&own, &store, machine, record).await {
            Ok(cell) => {
                info!(%machine, "a controller's credentials were sealed anew: the nodes with the power role have changed");
                if announce.try_send(cell).is_err() {
                    debug!("too busy to announce a record; sync will tell");
                }
            }
            Err(error) => warn!(%machine, %error, "cannot keep what was sealed anew"),
        }
    }
}

async fn write(
    own: &Arc<Own>,
    store: &StoreHandle,
    machine: MachineId,
    record: Resealed,
) -> Result<Cell, StoreFailure> {
    let (own, clock) = (Arc::clone(own), store.clock().clone());
    let written = store.run(move |store: &mut Store| {
        let now = clock.now();
        let incarnation = own.incarnation_in(store, now);
        let subject = machine.as_bytes();
        let write = Write { kind: Kind::RESEALED, subject, slot: &[], incarnation };
        store.write(&own.key, write, &record, now)
    });
    Ok(written.await??)
}
