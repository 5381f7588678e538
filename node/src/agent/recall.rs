//! What the cluster remembers of this machine, read back before anything is written.
//!
//! A data directory that was put back to an older copy, or a machine that lost its disk, does not
//! know what it has written. The replicas do: its own record, its history and its statuses are
//! taken over from them first; what is new goes on from there. The package manager is not kept
//! waiting by this: reports wait, and the journal has them.

use std::collections::BTreeMap;
use std::time::Duration;

use dht_store::placement::majority;
use dht_store::{Store, Views};
use p2pinst_types::record::{HistoryEntry, HistorySegment, NodeRecord, State, Status};
use p2pinst_types::{Cell, CellId, DeploymentId, Kind, limits, shard};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::reporter::{Memory, Task};
use crate::replicate::Read;
use crate::store::StoreFailure;

/// How long a node waits for a majority of the replicas, once somebody has answered.
const SOME: Duration = Duration::from_secs(3);
/// How long a node that reaches nobody waits before it goes on by itself.
const ALONE: Duration = Duration::from_secs(10);
/// A pause between two tries when nothing changes.
const AGAIN: Duration = Duration::from_millis(500);
/// Peers that are synced with first, so that the orders are known.
const PEERS: usize = 3;
/// Statuses that are read back: those of the latest orders.
const STATUSES: usize = 512;
/// Reads under way at once.
const AT_ONCE: usize = 16;

/// The newest of the cells of each subject and aspect: a machine has written with several keys
/// when it was replaced.
fn latest(cells: Vec<Cell>) -> Vec<Cell> {
    let mut by_place: BTreeMap<(Vec<u8>, Vec<u8>), Cell> = BTreeMap::new();
    for cell in cells {
        let place = (cell.id.subject.to_vec(), cell.id.slot.to_vec());
        if by_place.get(&place).is_none_or(|old| cell.hlc > old.hlc) {
            by_place.insert(place, cell);
        }
    }
    by_place.into_values().collect()
}

fn is_done(state: State) -> bool {
    matches!(state, State::Installed | State::Skipped)
}

/// Whether a status that was read back says all that the present one says: both that the package
/// is there, and the present one only that it was found there.
fn says_enough(recalled: &Status, now: &Status) -> bool {
    is_done(recalled.state) && is_done(now.state) && now.reached.len() <= 1
}

impl Task {
    /// Reads back what the cluster has of this machine, and writes its record anew. Returns when
    /// that is done, when nobody has answered for a while, or at shutdown.
    pub(super) async fn recall(&mut self, shutdown: &CancellationToken) {
        let begun = Instant::now();
        let mut changes = self.replicas.net().peers().changes();
        loop {
            match self.try_recall(begun).await {
                Ok(true) => {
                    self.memory = Memory::Whole;
                    return self.tell_of_itself().await;
                }
                Ok(false) => {}
                Err(error) => warn!(%error, "cannot read back this node's records"),
            }
            if begun.elapsed() > ALONE {
                info!("nobody tells what the cluster has of this node; it goes on alone");
                self.memory = Memory::Alone;
                return self.tell_of_itself().await;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = changes.changed() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Tries again, for a node that went on alone.
    pub(super) async fn recall_late(&mut self) {
        if matches!(self.try_recall(Instant::now()).await, Ok(true)) {
            self.memory = Memory::Whole;
        }
    }

    /// Says whether enough replicas have answered.
    async fn try_recall(&mut self, begun: Instant) -> Result<bool, StoreFailure> {
        let machines = self.store.views().machines.len();
        if machines <= 1 && begun.elapsed() < SOME && self.knows_nothing().await? {
            return Ok(false); // the store may be a new one: somebody may tell of the cluster
        }
        if machines > 1 {
            if self.replicas.net().peers().connected().is_empty() {
                return Ok(false);
            }
            self.control.freshen(PEERS).await;
        }
        let enough = majority(machines.min(limits::REPLICAS));
        let subject = self.own.machine.as_bytes().to_vec();
        let (record, history) = tokio::join!(
            self.replicas.read(Kind::NODE_RECORD, subject.clone()),
            self.replicas.read(Kind::HISTORY, subject),
        );
        let (record, history) = (record?, history?);
        let patient = begun.elapsed() < SOME;
        let heard = |read: &Read| read.answered >= enough || (!patient && read.answered > 1);
        if !heard(&record) || !heard(&history) {
            return Ok(false);
        }
        let cells: Vec<Cell> = record.cells.into_iter().chain(history.cells).collect();
        // by now replicas may have brought some of it here: what counts is what was here at the start
        let now = self.own.incarnation();
        let forgotten = cells.iter().any(|c| {
            let written_since = c.id.author == self.own.node.0 && c.version.incarnation == now;
            !written_since && !self.known.contains(&c.hash())
        });
        self.take_over(cells).await?;
        if forgotten {
            warn!(
                "the cluster knows more of this machine than its own data directory: was its disk replaced, or an older copy put back? Its records are taken over"
            );
            let statuses = self.statuses().await;
            let known: Vec<Cell> = latest(statuses);
            self.shared.recalled(&known, says_enough);
            self.take_over(known).await?;
        }
        Ok(true)
    }

    /// Whether there is not even a record of this node.
    async fn knows_nothing(&self) -> Result<bool, StoreFailure> {
        let subject = self.own.machine.as_bytes().to_vec();
        let held = self.store.run(move |s: &mut Store| s.data(Kind::NODE_RECORD, &subject));
        Ok(held.await??.is_empty())
    }

    /// Stores cells of this machine that are newer than what is here, and begins a life after
    /// theirs. Says whether there were any.
    async fn take_over(&self, cells: Vec<Cell>) -> Result<bool, StoreFailure> {
        let (own, clock) = (std::sync::Arc::clone(&self.own), self.store.clock().clone());
        let taken = self.store.run(move |s: &mut Store| {
            let mine = |c: &&Cell| c.id.author == own.node.0;
            let newest = cells.iter().filter(mine).map(|c| c.version.incarnation).max();
            let now = clock.now();
            let outcomes = s.apply(cells, &[], now)?;
            if let Some(life) = newest {
                own.life.begin_after(life, now);
            }
            Ok(outcomes.contains(&dht_store::Outcome::Accepted))
        });
        taken.await?
    }

    /// The statuses of this machine that are not known here.
    async fn statuses(&self) -> Vec<Cell> {
        let views = self.store.views();
        let mut wanted = self.orders_of_mine(&views).into_iter();
        let (mut reads, mut found) = (JoinSet::new(), Vec::new());
        let machine = self.own.machine;
        loop {
            while reads.len() < AT_ONCE
                && let Some(id) = wanted.next()
            {
                let replicas = self.replicas.clone();
                let Some(order) = views.deployment(&id) else { continue };
                let subject = order.status_subject(&id, &machine);
                reads.spawn(async move { replicas.read(Kind::STATUS, subject).await });
            }
            match reads.join_next().await {
                Some(Ok(Ok(read))) => {
                    let mine = |c: &Cell| c.id.slot == machine.as_bytes();
                    found.extend(read.cells.into_iter().filter(mine));
                }
                Some(_) => {}
                None => return found,
            }
        }
    }

    /// The latest orders to this machine.
    fn orders_of_mine(&self, views: &Views) -> Vec<DeploymentId> {
        let Some(machine) = views.machine_of(&self.own.node.0) else { return Vec::new() };
        let mine = views.orders.iter().rev();
        mine.filter(|o| views.is_member(machine, &o.deployment.group))
            .map(|o| o.id)
            .take(STATUSES)
            .collect()
    }

    /// Writes this node's own record.
    pub(super) async fn tell_of_itself(&mut self) {
        let needs = self.needs();
        let record = NodeRecord { needs: needs.clone(), ..self.record.clone() };
        let subject = self.own.machine.as_bytes().to_vec();
        match self.replicas.write(Kind::NODE_RECORD, subject, Vec::new(), record).await {
            Ok(_) => self.told = Some(needs),
            Err(error) => {
                warn!(%error, "cannot write this node's record: others see an older one");
            }
        }
    }

    /// A replica has a newer version of a record than this node has written: that one is taken
    /// over, and what is still to be said is said again in a newer life.
    pub(super) async fn on_outdated(&mut self, offered: Cell) -> Result<(), StoreFailure> {
        let place = offered.id.clone();
        let of_place = |cells: Vec<Cell>, id: &CellId| cells.into_iter().find(|c| c.id == *id);
        let subject = place.subject.to_vec();
        let kind = place.kind;
        let local = self.store.run(move |s: &mut Store| s.data(kind, &subject)).await??;
        let local = of_place(local, &place);
        if local.as_ref().is_some_and(|l| l.order(&offered).is_gt()) {
            return Ok(()); // this node itself has written it meanwhile
        }
        let read = self.replicas.read(place.kind, place.subject.to_vec()).await?;
        let Some(theirs) = of_place(read.cells, &place) else { return Ok(()) };
        if theirs.order(&offered).is_le() {
            return Ok(()); // it only says so
        }
        self.take_over(vec![theirs.clone()]).await?;
        info!(kind = %place.kind, "a replica has a newer record of this node: taken over");
        match place.kind {
            Kind::NODE_RECORD => self.tell_of_itself().await,
            Kind::STATUS => {
                let id = shard::parse_status_subject(&place.subject);
                id.into_iter().for_each(|(id, _)| self.shared.say_again(&id));
            }
            Kind::HISTORY => {
                let entries = |c: &Cell| c.record::<HistorySegment>().map(|s| s.entries);
                let said: Vec<HistoryEntry> = entries(&offered).unwrap_or_default();
                self.shared.append_again(said);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::Millis;

    use super::*;

    fn status(state: State, reached: usize) -> Status {
        let reached = State::ALL.iter().take(reached).map(|s| (*s, Millis(1))).collect();
        Status { state, attempt: 1, detail: String::new(), reached, transfer: None }
    }

    #[test]
    fn what_was_installed_stays_so_and_what_is_done_now_is_told() {
        let installed = status(State::Installed, 6);
        assert!(says_enough(&installed, &status(State::Skipped, 1)), "it was found there");
        assert!(!says_enough(&installed, &status(State::Installed, 6)), "it was installed anew");
        assert!(!says_enough(&installed, &status(State::Failed, 1)));
        assert!(!says_enough(&status(State::Failed, 4), &status(State::Skipped, 1)));
    }
}
