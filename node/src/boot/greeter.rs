//! Answers machines that introduce themselves, and signs the certificates of scouts and of the systems that they install.
//!
//! Only a node with the boot role signs; another asks one that has it. What a machine says is verified to be its own word, and
//! bounded, before it is judged ([`super::judge`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dht_store::store::Write;
use dht_store::view::{Assigned, Scout};
use dht_store::wire::{Request, Response};
use dht_store::{Store, Views};
use p2pinst_boot::setup::document::Setup;
use p2pinst_trust::policy::sign_cert;
use p2pinst_trust::scout::ScoutError;
use p2pinst_trust::{Greeting, ScoutHello, SecretKey, Welcome};
use p2pinst_types::record::{
    Assignment, BootState, BootUse, Disarmament, Ended, Guise, Invite, NodeCert, Role, Sighting,
    Task,
};
use p2pinst_types::{AssignmentId, Cell, Hlc, Kind, Mac, MachineId, NodeId, PublicKey, limits};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::alive;
use super::judge::{Verdict, judge};
use super::reports::Reports;
use crate::net::Net;
use crate::rpc;
use crate::store::{Own, StoreFailure, StoreHandle};

/// How long a scout may take.
const SCOUT: Duration = Duration::from_secs(24 * 3600);
/// How long a system may take to start for the first time.
const SYSTEM: Duration = Duration::from_secs(7 * 24 * 3600);
/// Invites that this node gives for one assignment and guise at once, and then one for each of these: a machine that loses power
/// again and again, and no flood of records.
const INVITES: Rate = Rate { most: 16, each: Duration::from_secs(60) };
/// Assignments that it counts them for.
const COUNTED: usize = 4096;
/// Unknown machines that are noted at once, and then one for each of these: whoever invents addresses does not fill the
/// cluster's records with them.
const NOTED: Rate = Rate { most: 32, each: Duration::from_secs(5) };
/// How long a node with the boot role may take to answer.
const RELAY: Duration = Duration::from_secs(8);
/// Nodes with the boot role that are asked.
const ASKED: usize = 3;

/// Why nothing was signed.
#[derive(Debug, Error)]
pub(super) enum SignError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreFailure),
    /// There is no such assignment, or it is over.
    #[error("no order is in force for this machine")]
    NotArmed,
    /// This node has no boot role.
    #[error("this node does not have the boot role (p2pinst grant {0} --role boot)")]
    NoRole(NodeId),
    /// It was asked too often.
    #[error(
        "many certificates were given for this order in a short time: the next one in a minute"
    )]
    TooMany,
    /// The scout's own order is over, or it installs no system of ours.
    #[error("the order of this scout does not call for a system that joins")]
    NoSystem,
    /// There is no randomness, or a record cannot be encoded.
    #[error("cannot sign: {0}")]
    Sign(String),
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Greeter {
    own: Arc<Own>,
    net: Net,
    store: StoreHandle,
    announce: mpsc::Sender<Cell>,
    given: Arc<Mutex<BTreeMap<(AssignmentId, Guise), Given>>>,
    pace: Arc<Mutex<Pace>>,
    sightings: Arc<Mutex<BTreeMap<Mac, u16>>>,
    addrs: Vec<String>,
    reports: Reports,
}

/// What was given for one assignment, in one guise.
#[derive(Debug)]
struct Given {
    pace: Pace,
    /// The latest: who asks again, because the answer was lost or was overheard, gets the same.
    last: Option<(PublicKey, Welcome)>,
}

/// So many at once, and then one for each of these times.
#[derive(Debug, Clone, Copy)]
struct Rate {
    most: u32,
    each: Duration,
}

/// How many there may be now.
#[derive(Debug)]
struct Pace {
    rate: Rate,
    left: u32,
    since: Instant,
}

impl Pace {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.most, since: now }
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.since).as_secs() / self.rate.each.as_secs();
        if due > 0 {
            self.since = now;
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(due).min(self.rate.most);
        }
        let taken = self.left > 0;
        self.left -= u32::from(taken);
        taken
    }
}

fn told(reason: impl Into<String>, secs: u16) -> Greeting {
    Greeting::Wait { reason: reason.into(), secs, code: None }
}

impl Greeter {
    /// A greeter of a node that is reached at these addresses.
    #[must_use]
    pub fn new(
        own: Arc<Own>,
        net: Net,
        store: StoreHandle,
        announce: mpsc::Sender<Cell>,
        addrs: Vec<String>,
        reports: Reports,
    ) -> Self {
        let (given, sightings) = (Arc::default(), Arc::default());
        let pace = Arc::new(Mutex::new(Pace::new(NOTED, Instant::now())));
        Self { own, net, store, announce, given, pace, sightings, addrs, reports }
    }

    /// Whether a node may sign certificates of scouts now.
    fn may_sign(views: &Views, node: &PublicKey, at: Hlc) -> bool {
        views.machine_of(node).is_some() && views.roles(node, at).contains(&Role::Boot)
    }

    fn now(&self) -> Hlc {
        Hlc::at(self.store.clock().now())
    }

    /// What a machine is told that said this, from the interface that is known to this machine's kernel.
    pub async fn greet(&self, hello: &[u8], heard: Option<Mac>) -> Greeting {
        let views = self.store.views();
        let said = match ScoutHello::verify(hello, views.roots.cluster()) {
            Ok(said) => said,
            Err(ScoutError::WrongCluster) => {
                return told("this scout was made for another cluster", 60);
            }
            Err(error) => {
                debug!(%error, "a machine's introduction is refused");
                return told(
                    "its introduction cannot be read: is the scout as new as its cluster?",
                    60,
                );
            }
        };
        if Self::may_sign(&views, &self.own.node.0, self.now()) {
            return self.greet_verified(&views, said, heard).await;
        }
        if let Some(mac) = heard.filter(|mac| !said.macs.contains(mac)) {
            return told(format!("it calls from {mac}, which is none of its interfaces"), 60);
        }
        self.relay(&views, hello, heard).await
    }

    /// Asks nodes with the boot role, one after the other.
    async fn relay(&self, views: &Views, hello: &[u8], heard: Option<Mac>) -> Greeting {
        let now = self.now();
        let mut able: Vec<NodeId> = views.machines.values().map(|m| m.node).collect();
        able.retain(|n| *n != self.own.node && Self::may_sign(views, &n.0, now));
        able.sort_by_key(|n| !self.net.peers().is_up(n));
        let peers = self.net.peers();
        for node in able.iter().take(ASKED) {
            let request = Request::Greet { hello: hello.to_vec(), heard };
            match tokio::time::timeout(
                RELAY,
                rpc::ask(&self.net, *node, &peers.addrs_of(node), &request),
            )
            .await
            {
                Ok(Ok(Response::Greeting(greeting))) => return greeting,
                other => debug!(%node, ?other, "a node with the boot role does not answer"),
            }
        }
        match able.is_empty() {
            true => told(
                "no node of the cluster has the boot role (p2pinst grant NODE --role boot)",
                15,
            ),
            false => told("no node with the boot role answers", 5),
        }
    }

    async fn greet_verified(
        &self,
        views: &Views,
        said: ScoutHello,
        heard: Option<Mac>,
    ) -> Greeting {
        let peers = self.net.peers();
        let now = self.store.clock().now();
        // a scout keeps some nodes connected; this one may be none of them
        let mut scouts = alive::others(views, &said, now);
        scouts.retain(|node, _| !peers.get(node).connected);
        let reporting = alive::reporting(&scouts, now, |id| self.reports.said(id)).await;
        let is_alive = |node: &NodeId| peers.get(node).connected || reporting.contains(node);
        let gate = |assigned: &Assigned| super::waves::may_begin(views, assigned);
        match judge(views, &said, heard, now, &is_alive, &gate) {
            Verdict::Wait { reason, secs, code, machine } => {
                if let Some(machine) = machine {
                    self.waiting(views, &machine, &reason).await;
                }
                Greeting::Wait { reason, secs, code }
            }
            Verdict::Leave { reason } => Greeting::Leave { reason },
            Verdict::Stranger { mac } => {
                self.sight(mac, Some(&said)).await;
                told(format!("nobody knows this machine: p2pinst machine adopt {mac}"), 10)
            }
            Verdict::Spoofed { machine, scout } => {
                warn!(%machine, %scout, macs = ?said.macs, "a second machine says that it is this one, while its scout is at work");
                told("another scout of this machine is at work", 15)
            }
            Verdict::Certify { machine, assignment } => {
                let order = (machine, assignment);
                match self.certify(order, Guise::Scout, said.key, said.addrs).await {
                    Ok(welcome) => Greeting::Welcome(Box::new(welcome)),
                    Err(error) => {
                        warn!(%machine, %error, "a scout gets no certificate");
                        told(error.to_string(), 10)
                    }
                }
            }
        }
    }

    /// What it says, and reads of others.
    pub(super) fn reports(&self) -> Reports {
        self.reports.clone()
    }

    /// A machine has asked for something to boot.
    pub async fn discovered(&self, mac: Mac, strangers: bool) {
        let views = self.store.views();
        let Some(machine) = views.machine_with(&mac) else {
            if strangers {
                self.sight(mac, None).await;
            }
            return;
        };
        if let Some(assigned) = self.armed(&views, &machine) {
            let detail = format!("{mac} asked for something to boot");
            self.reports.say(assigned, BootState::Booting, detail).await;
        }
    }

    /// A machine's scout runs, and waits: for somebody at its console, or its wave. Whoever switches its power is not to lose
    /// patience with it.
    async fn waiting(&self, views: &Views, machine: &MachineId, reason: &str) {
        if let Some(assigned) = self.armed(views, machine) {
            let detail = format!("its scout waits: {reason}");
            self.reports.say(assigned, BootState::Booting, detail).await;
        }
    }

    /// The order that is in force for a machine.
    fn armed<'v>(&self, views: &'v Views, machine: &MachineId) -> Option<&'v Assigned> {
        let now = self.store.clock().now();
        views.current_assignment(machine).filter(|a| a.is_armed(now))
    }

    /// A machine that nobody knows was seen.
    pub async fn sight(&self, mac: Mac, said: Option<&ScoutHello>) {
        let views = self.store.views();
        if !Self::may_sign(&views, &self.own.node.0, self.now()) {
            return;
        }
        let (at, inventory) = (self.store.clock().now(), said.map(|s| s.inventory.clone()));
        let known = views.sightings.get(&mac).map(|seen| &seen.sighting);
        let fresh = known.is_some_and(|k| {
            (inventory.is_none() || k.inventory == inventory) && at.since(k.at) < limits::SIGHTED
        });
        let may = || self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if fresh || !may() {
            return;
        }
        let number = self.number_of(mac);
        let record = Sighting { mac, at, inventory };
        let subject = number.to_be_bytes().to_vec();
        match self.write(Kind::SIGHTING, subject, Vec::new(), record).await {
            Ok(_) => info!(%mac, "an unknown machine was seen (p2pinst machine adopt {mac})"),
            Err(error) => warn!(%mac, %error, "cannot note that an unknown machine was seen"),
        }
    }

    /// The place for what is seen of an interface: the same as before, or a new one, or one of another.
    fn number_of(&self, mac: Mac) -> u16 {
        let mut numbers = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        let next = u16::try_from(numbers.len()).unwrap_or(u16::MAX);
        if !numbers.contains_key(&mac) && next >= limits::SIGHTINGS {
            // the table is full: all begin anew, in place of the oldest
            numbers.clear();
        }
        let next = u16::try_from(numbers.len()).unwrap_or(0);
        *numbers.entry(mac).or_insert(next)
    }

    /// Signs a certificate for a key in the name of a machine, if that order of it is in force.
    async fn certify(
        &self,
        (machine, assignment): (MachineId, AssignmentId),
        guise: Guise,
        key: PublicKey,
        addrs: Vec<String>,
    ) -> Result<Welcome, SignError> {
        let views = self.store.views();
        let (now, own) = (self.now(), self.own.node);
        if !Self::may_sign(&views, &own.0, now) {
            return Err(SignError::NoRole(own));
        }
        // another one that has come meanwhile may want a code
        let assigned = self.armed(&views, &machine).filter(|a| a.id == assignment);
        let assigned = assigned.ok_or(SignError::NotArmed)?;
        if let Some(welcome) = self.count(assigned.id, guise, &key)? {
            return Ok(welcome);
        }
        let invite_key = SecretKey::generate().map_err(|e| SignError::Sign(e.to_string()))?;
        let Assignment { site, labels, name, .. } = assigned.order.clone();
        let invite = Invite {
            key: invite_key.public(),
            site: site.clone(),
            labels: labels.clone(),
            uses: 1,
            not_after: now.millis().after(if guise == Guise::Scout { SCOUT } else { SYSTEM }),
            replaces: Some(machine),
            boot: Some(BootUse { assignment: assigned.id, guise }),
        };
        let cert = NodeCert {
            node: key,
            name: name.clone(),
            site,
            labels,
            addrs,
            invite: invite.key,
            replaces: Some(machine),
        };
        let cert = sign_cert(&views.roots, &invite_key, &cert);
        let cert = cert.map_err(|e| SignError::Sign(e.to_string()))?;
        let subject = invite.key.as_bytes().to_vec();
        let cell = self.write(Kind::INVITE, subject, Vec::new(), invite).await?;
        let grant = views.grants.get(&own.0).ok_or(SignError::NoRole(own))?;
        info!(%name, ?guise, key = %NodeId(key), "certified");
        let welcome = Welcome {
            roots: views.roots.signed().to_vec(),
            grant: grant.cell.bytes().to_vec(),
            invite: cell.bytes().to_vec(),
            cert,
            bootstrap: self.bootstrap(&views),
        };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(given) = given.get_mut(&(assigned.id, guise)) {
            given.last = Some((key, welcome.clone()));
        }
        Ok(welcome)
    }

    /// What was given to this key before; or counts one more.
    fn count(
        &self,
        id: AssignmentId,
        guise: Guise,
        key: &PublicKey,
    ) -> Result<Option<Welcome>, SignError> {
        let (now, of) = (Instant::now(), (id, guise));
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= COUNTED && !given.contains_key(&of) {
            given.pop_first();
        }
        let new = || Given { pace: Pace::new(INVITES, now), last: None };
        let given = given.entry(of).or_insert_with(new);
        if let Some((_, welcome)) = given.last.as_ref().filter(|(to, _)| to == key) {
            return Ok(Some(welcome.clone()));
        }
        if given.pace.take(now) { Ok(None) } else { Err(SignError::TooMany) }
    }

    /// Where a scout finds the cluster: here, and at others that are up.
    fn bootstrap(&self, views: &Views) -> Vec<String> {
        let peers = self.net.peers();
        let others = views.machines.values().map(|m| m.node);
        let up = others.filter(|n| *n != self.own.node && peers.is_up(n));
        let theirs = up.flat_map(|n| peers.addrs_of(&n).into_iter().take(1));
        self.addrs.iter().cloned().chain(theirs).take(limits::ADDRS).collect()
    }

    async fn write<T: serde::Serialize + Send + 'static>(
        &self,
        kind: Kind,
        subject: Vec<u8>,
        slot: Vec<u8>,
        record: T,
    ) -> Result<Cell, StoreFailure> {
        let (own, clock) = (Arc::clone(&self.own), self.store.clock().clone());
        let written = self.store.run(move |store: &mut Store| {
            let now = clock.now();
            let incarnation = own.incarnation_in(store, now);
            let write = Write { kind, subject: &subject, slot: &slot, incarnation };
            store.write(&own.key, write, &record, now)
        });
        let cell = written.await??;
        if self.announce.try_send(cell.clone()).is_err() {
            debug!("too busy to announce a record; sync will tell");
        }
        Ok(cell)
    }

    /// A scout wants the key of the system certified that it installs.
    pub async fn certify_system(&self, peer: NodeId, key: PublicKey) -> Response {
        let Some(scout) = self.scout(peer) else { return refused("it is no scout") };
        // under the order of this scout and no other: another may want a code
        if !calls_for_system(&self.store.views(), &scout) {
            return refused(&SignError::NoSystem.to_string());
        }
        let order = (scout.machine, scout.assignment);
        match self.certify(order, Guise::System, key, Vec::new()).await {
            Ok(welcome) => Response::Certified(Box::new(welcome)),
            Err(error) => refused(&error.to_string()),
        }
    }

    /// A scout has installed its machine.
    pub async fn installed(&self, peer: NodeId, what: String) -> Response {
        let Some(scout) = self.scout(peer) else { return refused("it is no scout") };
        let views = self.store.views();
        if !Self::may_sign(&views, &self.own.node.0, self.now()) {
            return refused(&SignError::NoRole(self.own.node).to_string());
        }
        let order = views.assignments.get(&scout.assignment);
        match order.and_then(|a| a.ended.as_ref()).map(|(_, over)| over.ended) {
            Some(Ended::Installed) => return Response::Noted,
            Some(Ended::Cancelled) => return refused("its order was taken back"),
            None if order.is_some_and(|a| a.superseded.is_some()) => {
                return refused("another order was given since");
            }
            None => {}
        }
        if what.len() > limits::DESCRIPTION {
            return refused("it says too much");
        }
        let record =
            Disarmament { assignment: scout.assignment, ended: Ended::Installed, reason: what };
        let (subject, slot) = (scout.machine.as_bytes(), scout.assignment.as_bytes());
        match self.write(Kind::DISARMAMENT, subject.to_vec(), slot.to_vec(), record).await {
            Ok(_) => {
                info!(name = %scout.name, "installed; it starts from its disk from now on");
                Response::Noted
            }
            Err(error) => refused(&error.to_string()),
        }
    }

    fn scout(&self, peer: NodeId) -> Option<Scout> {
        let (views, now) = (self.store.views(), self.store.clock().now());
        views.scout_of(&peer.0, now).cloned()
    }
}

/// Whether what a scout installs is a system that joins.
fn calls_for_system(views: &Views, scout: &Scout) -> bool {
    let assigned = views.current_assignment(&scout.machine).filter(|a| a.id == scout.assignment);
    let Some(Task::Install { setup, .. }) = assigned.map(|a| &a.order.task) else { return false };
    let setup = views.setups.get(setup).and_then(|s| Setup::parse(&s.text).ok());
    setup.is_some_and(|s| s.agent)
}

fn refused(why: &str) -> Response {
    Response::Refused(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_unknown_machines_is_noted_at_a_walking_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(NOTED, start);
        assert_eq!((0..1000).filter(|_| pace.take(start)).count(), 32);
        let later = start + 3 * NOTED.each;
        assert_eq!((0..1000).filter(|_| pace.take(later)).count(), 3);
        let long = later + 1000 * NOTED.each;
        assert_eq!((0..1000).filter(|_| pace.take(long)).count(), 32, "no more than at first");
    }
}
