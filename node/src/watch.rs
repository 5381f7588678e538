//! Watching statuses: replicas tell who asked for it of each new one, so that nobody polls.
//!
//! A node that shows a status asks two replicas of each shard to be told, for a minute at a time.
//! What it is told is a hint: it makes the status be read anew. A hint that is lost is made up for
//! when the watch is renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dht_store::shelf::Subject;
use dht_store::summary::SUMMARIES;
use dht_store::wire::{CELL_BYTES, CellBytes, LEASE, Request, Response, StatusSubject};
use p2pinst_types::{Cell, CellId, Kind, NodeId, limits};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock;
use crate::control::from_wire;
use crate::net::Net;
use crate::replicate::Replicas;
use crate::rpc;
use crate::store::{StoreFailure, StoreHandle};
use crate::summaries::{AT_ONCE, PATIENCE};

/// Subjects that one peer may watch here: the shards of a group of 65,536 machines.
const OF_ONE: usize = limits::SHARDS as usize;
/// Watched subjects in all, times who watches them.
const OF_ALL: usize = 65_536;
/// Pause between two messages to one watcher.
const PAUSE: Duration = Duration::from_millis(200);
/// Statuses that may wait for one watcher; of what is beyond it hears when it renews.
const WAITING: usize = 256;
/// A watch of this age is renewed: no watch lapses while somebody looks at the status.
const RENEW: Duration = Duration::from_secs(30);
/// Replicas of a subject that are asked to tell: one may fail.
const REPLICAS: usize = 2;
/// Longest wait for a change.
const LONGEST: Duration = Duration::from_secs(30);

/// Who watches what here, and until when.
#[derive(Debug, Default)]
struct Watchers {
    by_subject: BTreeMap<Vec<u8>, BTreeMap<NodeId, Instant>>,
    of_peer: BTreeMap<NodeId, usize>,
}

impl Watchers {
    /// Registers a peer; returns how many of the subjects, from the first on, it watches now.
    fn register(&mut self, now: Instant, peer: NodeId, subjects: Vec<Vec<u8>>) -> usize {
        self.prune(now);
        let mut total: usize = self.of_peer.values().sum();
        for (done, subject) in subjects.iter().enumerate() {
            let known = self.by_subject.get(subject).is_some_and(|w| w.contains_key(&peer));
            if !known {
                let count = self.of_peer.entry(peer).or_default();
                if *count >= OF_ONE || total >= OF_ALL {
                    return done;
                }
                *count += 1;
                total += 1;
            }
            self.by_subject.entry(subject.clone()).or_default().insert(peer, now + LEASE);
        }
        subjects.len()
    }

    fn prune(&mut self, now: Instant) {
        self.of_peer.clear();
        self.by_subject.retain(|_, watchers| {
            watchers.retain(|_, until| *until > now);
            for peer in watchers.keys() {
                *self.of_peer.entry(*peer).or_default() += 1;
            }
            !watchers.is_empty()
        });
    }

    fn of<'a>(&'a self, now: Instant, subject: &[u8]) -> impl Iterator<Item = NodeId> + 'a {
        let watchers = self.by_subject.get(subject).into_iter().flatten();
        watchers.filter(move |(_, until)| **until > now).map(|(peer, _)| *peer)
    }
}

/// A subject that this node watches.
#[derive(Debug, Clone)]
struct Lease {
    /// The replicas that tell.
    peers: Vec<NodeId>,
    /// Since when.
    at: Instant,
}

#[derive(Debug)]
struct Shared {
    watchers: Mutex<Watchers>,
    leases: Mutex<BTreeMap<Vec<u8>, Lease>>,
    /// Changes with every change of what is watched here. Begins elsewhere in every life of the
    /// node, so that who waited before a restart notices it.
    generation: watch::Sender<u64>,
}

impl Shared {
    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.generation.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    own: NodeId,
    net: Net,
    store: StoreHandle,
    replicas: Replicas,
}

impl Watch {
    /// A handle, and the task behind it.
    #[must_use]
    pub fn new(own: NodeId, net: Net, store: StoreHandle, replicas: Replicas) -> (Self, Task) {
        let shared = Arc::new(Shared {
            watchers: Mutex::default(),
            leases: Mutex::default(),
            generation: watch::Sender::new(clock::local().0),
        });
        let news = store.news();
        let watch = Self { shared, own, net, store, replicas };
        (watch.clone(), Task { watch, news, outgoing: Outgoing::default() })
    }

    /// Answers the requests of other nodes about watching.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn answer(&self, peer: NodeId, request: Request) -> Result<Response, StoreFailure> {
        match request {
            Request::Watch { subjects } => {
                let too_long = |s: &StatusSubject| s.0.len() > limits::CELL_SUBJECT;
                if subjects.len() > SUMMARIES || subjects.iter().any(too_long) {
                    return Ok(Response::Refused("too many subjects".to_owned()));
                }
                let subjects = subjects.into_iter().map(|s| s.0).collect();
                let watched = self.shared.watchers().register(Instant::now(), peer, subjects);
                Ok(Response::Watching(watched))
            }
            Request::Changed { cells } => {
                self.hear(peer, from_wire(cells)).await?;
                Ok(Response::Noted)
            }
            _ => Ok(Response::Refused("not a request about watching".to_owned())),
        }
    }

    /// A replica tells of new statuses. What was not asked for, or could not be stored, is no news.
    async fn hear(&self, peer: NodeId, mut cells: Vec<Cell>) -> Result<(), StoreFailure> {
        {
            let leases = self.shared.leases();
            let asked =
                |c: &Cell| leases.get(&c.id.subject).is_some_and(|l| l.peers.contains(&peer));
            cells.retain(|c| c.id.kind == Kind::STATUS && asked(c));
        }
        let now = self.store.clock().now();
        let good =
            !cells.is_empty() && self.store.run(move |s| !s.vet(cells, now).is_empty()).await?;
        if good {
            self.shared.bump();
        }
        Ok(())
    }

    /// Waits until something that is watched has changed since the generation `after`, at most for
    /// `wait`; returns the generation of now. Without `after`: watches, and returns at once.
    /// `subjects` says what to watch; it is asked again after each change.
    pub async fn changed(
        &self,
        subjects: impl Fn() -> Vec<Vec<u8>>,
        after: Option<u64>,
        wait: Duration,
    ) -> u64 {
        let mut generation = self.shared.generation.subscribe();
        let until = Instant::now() + wait.min(LONGEST);
        self.lease(subjects()).await;
        loop {
            let now = *generation.borrow_and_update();
            if after != Some(now) {
                return now;
            }
            tokio::select! {
                _ = generation.changed() => {}
                () = tokio::time::sleep_until(until) => return now,
            }
        }
    }

    /// Asks the replicas of these subjects to tell, where they have not been asked lately.
    async fn lease(&self, subjects: Vec<Vec<u8>>) {
        let now = Instant::now();
        let mut by_peer: BTreeMap<NodeId, Vec<Vec<u8>>> = BTreeMap::new();
        let mut renewed = false;
        for subject in subjects {
            let mut peers = self.replicas.of(&Subject { kind: Kind::STATUS, id: subject.clone() });
            peers.retain(|p| *p != self.own);
            peers.truncate(REPLICAS);
            let mut leases = self.shared.leases();
            let old = leases.get(&subject).filter(|l| now < l.at + RENEW).cloned();
            renewed |= old.is_none() && leases.contains_key(&subject);
            let known = old.as_ref().map(|l| l.peers.clone()).unwrap_or_default();
            for peer in peers.iter().filter(|p| !known.contains(p)) {
                by_peer.entry(*peer).or_default().push(subject.clone());
            }
            let at = old.map_or(now, |l| l.at);
            leases.insert(subject, Lease { peers: known, at });
        }
        self.shared.leases().retain(|_, lease| now < lease.at + LEASE);
        let mut asked = JoinSet::new();
        let mut wanted = by_peer.into_iter().flat_map(|(peer, all)| {
            all.chunks(SUMMARIES).map(|c| (peer, c.to_vec())).collect::<Vec<_>>()
        });
        loop {
            while asked.len() < AT_ONCE
                && let Some((peer, subjects)) = wanted.next()
            {
                asked.spawn(ask(self.net.clone(), peer, subjects));
            }
            let Some(done) = asked.join_next().await else { break };
            let Ok((peer, watched)) = done else { continue };
            let mut leases = self.shared.leases();
            for subject in watched {
                if let Some(lease) = leases.get_mut(&subject) {
                    lease.peers.push(peer);
                }
            }
        }
        if renewed {
            self.shared.bump(); // what was told and lost is read now
        }
    }
}

/// Asks one replica; returns the subjects of which it will tell.
async fn ask(net: Net, peer: NodeId, mut subjects: Vec<Vec<u8>>) -> (NodeId, Vec<Vec<u8>>) {
    let request =
        Request::Watch { subjects: subjects.iter().cloned().map(StatusSubject).collect() };
    match tokio::time::timeout(PATIENCE, rpc::ask(&net, peer, &[], &request)).await {
        Ok(Ok(Response::Watching(n))) => subjects.truncate(n),
        _ => {
            debug!(%peer, "a replica cannot be asked to tell of changes");
            subjects.clear();
        }
    }
    (peer, subjects)
}

/// Statuses on their way to who watches them.
#[derive(Debug, Default)]
struct Outgoing {
    waiting: BTreeMap<NodeId, BTreeMap<CellId, Cell>>,
    /// When a peer may be told again.
    not_before: BTreeMap<NodeId, Instant>,
    busy: BTreeSet<NodeId>,
}

impl Outgoing {
    /// A peer is to be told of a status; of several versions the newest counts.
    fn add(&mut self, peer: NodeId, cell: &Cell) {
        let waiting = self.waiting.entry(peer).or_default();
        let newer = waiting.get(&cell.id).is_none_or(|old| cell.order(old).is_gt());
        if newer && (waiting.len() < WAITING || waiting.contains_key(&cell.id)) {
            waiting.insert(cell.id.clone(), cell.clone());
        }
    }

    /// Whom to tell now, of what.
    fn due(&mut self, now: Instant) -> Vec<(NodeId, Vec<Cell>)> {
        self.not_before.retain(|_, at| *at > now);
        let free = |p: &&NodeId| !self.busy.contains(p) && !self.not_before.contains_key(p);
        let peers: Vec<NodeId> = self.waiting.keys().filter(free).copied().collect();
        let mut due = Vec::new();
        for peer in peers {
            let mut room = CELL_BYTES;
            let mut cells = Vec::new();
            for cell in self.waiting.remove(&peer).unwrap_or_default().into_values() {
                match room.checked_sub(cell.bytes().len()) {
                    Some(left) => room = left,
                    None => break,
                }
                cells.push(cell);
            }
            self.busy.insert(peer);
            self.not_before.insert(peer, now + PAUSE);
            due.push((peer, cells));
        }
        due
    }

    /// When somebody is due next; `None`: nobody waits for the time to pass.
    fn wake(&self) -> Option<Instant> {
        let peers = self.waiting.keys().filter(|p| !self.busy.contains(p));
        peers.filter_map(|p| self.not_before.get(p)).min().copied()
    }
}

/// The task: tells watchers of new statuses, and notices what changes here.
#[derive(Debug)]
pub struct Task {
    watch: Watch,
    news: broadcast::Receiver<Cell>,
    outgoing: Outgoing,
}

impl Task {
    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut told: JoinSet<NodeId> = JoinSet::new();
        let mut views = self.watch.store.watch();
        let mut peers = self.watch.net.peers().turns();
        loop {
            for (peer, cells) in self.outgoing.due(Instant::now()) {
                told.spawn(tell(self.watch.net.clone(), peer, cells));
            }
            let wake = self.outgoing.wake();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = told.join_next(), if !told.is_empty() => {
                    if let Ok(peer) = done {
                        self.outgoing.busy.remove(&peer);
                    }
                }
                news = self.news.recv() => match news {
                    Ok(cell) => self.on_news(&cell),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.watch.shared.bump(),
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                // who is up, and what is ordered for whom, is a part of the status
                Ok(()) = views.changed() => self.watch.shared.bump(),
                Ok(()) = peers.changed() => self.watch.shared.bump(),
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)),
                    if wake.is_some() => {}
            }
        }
    }

    fn on_news(&mut self, cell: &Cell) {
        let shared = &self.watch.shared;
        if shared.leases().contains_key(&cell.id.subject) {
            shared.bump();
        }
        for peer in shared.watchers().of(Instant::now(), &cell.id.subject) {
            self.outgoing.add(peer, cell);
        }
    }
}

async fn tell(net: Net, peer: NodeId, cells: Vec<Cell>) -> NodeId {
    let cells = cells.iter().map(|c| CellBytes(c.bytes().to_vec())).collect();
    let request = Request::Changed { cells };
    let told = rpc::ask(&net, peer, &[], &request);
    if !matches!(tokio::time::timeout(PATIENCE, told).await, Ok(Ok(Response::Noted))) {
        debug!(%peer, "a watcher could not be told");
    }
    peer
}

#[cfg(test)]
mod tests {
    use p2pinst_trust::fixture::key;
    use p2pinst_types::cell::Draft;
    use p2pinst_types::{ClusterId, Hash, Hlc, PublicKey, Version};

    use super::*;

    fn node(n: u16) -> NodeId {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&n.to_be_bytes());
        NodeId(PublicKey(key))
    }

    fn subject(n: usize) -> Vec<u8> {
        n.to_be_bytes().to_vec()
    }

    fn cell(n: usize, seq: u64) -> Cell {
        let author = key(1);
        let id = CellId {
            kind: Kind::STATUS,
            subject: subject(n),
            slot: vec![],
            author: author.public(),
        };
        let version = Version { incarnation: 1, seq };
        let draft = Draft { id, version, hlc: Hlc(seq), payload: vec![0xf6] };
        draft.sign(&ClusterId(Hash([1; 32])), |m| author.sign(m)).unwrap()
    }

    #[test]
    fn a_watch_ends_by_itself_and_can_be_renewed() {
        let (mut watchers, now) = (Watchers::default(), Instant::now());
        assert_eq!(watchers.register(now, node(1), vec![subject(1), subject(2)]), 2);
        let of = |w: &Watchers, at, n| w.of(at, &subject(n)).collect::<Vec<_>>();
        assert_eq!(of(&watchers, now, 1), [node(1)]);
        assert_eq!(of(&watchers, now, 3), []);
        let later = now + LEASE - Duration::from_secs(1);
        watchers.register(later, node(1), vec![subject(1)]);
        assert_eq!(of(&watchers, now + LEASE, 1), [node(1)]);
        assert_eq!(of(&watchers, now + LEASE, 2), []);
        watchers.prune(later + LEASE);
        assert!(watchers.by_subject.is_empty() && watchers.of_peer.is_empty());
    }

    #[test]
    fn watches_are_bounded_for_each_and_for_all() {
        let (mut watchers, now) = (Watchers::default(), Instant::now());
        let many: Vec<_> = (0..OF_ONE + 5).map(subject).collect();
        assert_eq!(watchers.register(now, node(0), many.clone()), OF_ONE);
        // those that it has can be renewed all the same
        assert_eq!(watchers.register(now, node(0), many[..3].to_vec()), 3);
        for n in 1..(OF_ALL / OF_ONE) as u16 {
            assert_eq!(watchers.register(now, node(n), many.clone()), OF_ONE);
        }
        assert_eq!(watchers.register(now, node(999), many.clone()), 0);
        assert_eq!(watchers.register(now + LEASE, node(999), many), OF_ONE);
    }

    #[test]
    fn changes_are_told_together_and_not_too_often() {
        let (mut outgoing, now) = (Outgoing::default(), Instant::now());
        outgoing.add(node(1), &cell(1, 1));
        let due = outgoing.due(now);
        assert_eq!(due, [(node(1), vec![cell(1, 1)])], "the first goes out at once");
        // while it is told, and for a pause after, changes gather; the newest of each counts
        for seq in 2..5 {
            outgoing.add(node(1), &cell(1, seq));
        }
        outgoing.add(node(1), &cell(1, 3));
        outgoing.add(node(1), &cell(2, 1));
        assert!(outgoing.due(now).is_empty());
        assert_eq!(outgoing.wake(), None, "it is busy");
        outgoing.busy.remove(&node(1));
        assert!(outgoing.due(now).is_empty());
        assert_eq!(outgoing.wake(), Some(now + PAUSE));
        let due = outgoing.due(now + PAUSE);
        assert_eq!(due, [(node(1), vec![cell(1, 4), cell(2, 1)])]);
        outgoing.busy.clear();
        assert!(outgoing.due(now + 3 * PAUSE).is_empty());
    }

    #[test]
    fn a_slow_watcher_costs_a_bounded_amount() {
        let mut outgoing = Outgoing::default();
        for n in 0..WAITING + 10 {
            outgoing.add(node(1), &cell(n, 1));
        }
        assert_eq!(outgoing.waiting[&node(1)].len(), WAITING);
    }
}
