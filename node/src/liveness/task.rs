//! The failure detector's life: messages in and out, and what it found into the table of peers.
//!
//! Each peer gets its messages over one stream of its own, opened when there is something to say;
//! whoever wants a connection to stay holds its stream open. Everything here may lose messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pinst_types::{Millis, NodeId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::State;
use super::core::{Core, Input, Now, Output};
use super::rings::Rings;
use super::wire::MESSAGE;
use crate::net::{Net, NetStream, Protocol};
use crate::store::StoreHandle;

/// Messages that wait for the task.
const INBOX: usize = 512;
/// Messages that wait for a peer's stream.
const OUTBOX: usize = 32;
/// Streams to peers that are not connected, under way at once: each is a dial.
const DIALS: usize = 8;
/// A stream to a peer that need not stay connected is closed after so long without a message.
const IDLE: Duration = Duration::from_secs(10);
/// A pause after a stream could not be opened.
const PAUSE: Duration = Duration::from_secs(3);
/// A pause before it is tried again with who is connected: of two connections one was just closed.
const AGAIN: Duration = Duration::from_millis(200);
/// Messages that one peer may send in a second, on average, and at once, over all its streams.
const RATE: (f64, f64) = (50.0, 200.0);
/// A stream whose other end takes nothing is broken.
const STUCK: Duration = Duration::from_secs(10);
/// Time to say goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// How the detector works.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Between two probes.
    pub period: Duration,
    /// Connections that a node keeps; see [`Rings`].
    pub limit: usize,
}

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Liveness {
    inputs: mpsc::Sender<Input>,
    wanted: watch::Receiver<Wanted>,
    credits: Arc<Credits>,
}

/// How many messages each peer may still send, over all of its streams, and since when. Who has
/// no entry may send as many as anybody at once.
#[derive(Debug, Default)]
struct Credits(Mutex<BTreeMap<NodeId, (f64, Instant)>>);

impl Credits {
    fn table(&self) -> MutexGuard<'_, BTreeMap<NodeId, (f64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message; says how long the next has to wait.
    fn take(&self, peer: NodeId, now: Instant) -> Duration {
        let mut table = self.table();
        let (credit, last) = table.entry(peer).or_insert((RATE.1, now));
        let past = now.saturating_duration_since(*last).as_secs_f64();
        *credit = (*credit + RATE.0 * past).min(RATE.1) - 1.0;
        *last = now.max(*last);
        Duration::from_secs_f64((-*credit / RATE.0).max(0.0))
    }

    /// Forgets those who have been silent long enough.
    fn tidy(&self, now: Instant) {
        let silent = Duration::from_secs_f64(RATE.1 / RATE.0) * 2;
        self.table().retain(|_, (_, last)| now.saturating_duration_since(*last) < silent);
    }
}

/// Whom a node is to keep connected.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The members.
    pub members: Arc<BTreeSet<NodeId>>,
    /// Whether these are all: a small cluster.
    pub all: bool,
}

impl Liveness {
    /// Whom to keep connected, as it changes.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.clone()
    }

    /// Reads what a peer says until its stream ends.
    pub async fn serve(&self, peer: NodeId, mut stream: NetStream) {
        self.credits.tidy(Instant::now());
        while let Some(bytes) = read(&mut stream).await {
            let wait = self.credits.take(peer, Instant::now());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            // when the task is too busy the message is lost, as on any network
            drop(self.inputs.try_send(Input::Message { from: peer, bytes }));
        }
    }

    /// A peer that should be connected cannot be dialled.
    pub fn unreachable(&self, node: NodeId) {
        drop(self.inputs.try_send(Input::Unreachable(node)));
    }
}

async fn read(stream: &mut NetStream) -> Option<Vec<u8>> {
    let len = usize::from(stream.read_u16().await.ok()?);
    if len > MESSAGE + 8 {
        return None;
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

/// How a stream ended: to whom it was, whether it was open at all.
type Written = (NodeId, bool);

/// Writes what comes, until there is nothing more to say or the stream breaks.
async fn write(net: Net, to: NodeId, mut outbox: mpsc::Receiver<Vec<u8>>, stay: bool) -> Written {
    let mut opened = net.open(to, Protocol::Swim, &[]).await;
    if opened.is_err() && net.peers().get(&to).connected {
        tokio::time::sleep(AGAIN).await;
        opened = net.open(to, Protocol::Swim, &[]).await;
    }
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(error) => {
            debug!(peer = %to, %error, "no stream to a peer");
            return (to, false);
        }
    };
    loop {
        let next = if stay {
            outbox.recv().await
        } else {
            tokio::time::timeout(IDLE, outbox.recv()).await.unwrap_or(None)
        };
        let Some(bytes) = next else {
            drop(stream.shutdown().await);
            return (to, true);
        };
        let Ok(len) = u16::try_from(bytes.len()) else { continue };
        let mut frame = len.to_be_bytes().to_vec();
        frame.extend(bytes);
        let sent = async {
            stream.write_all(&frame).await?;
            stream.flush().await
        };
        if !matches!(tokio::time::timeout(STUCK, sent).await, Ok(Ok(()))) {
            return (to, true);
        }
    }
}

/// The task behind the handle.
#[derive(Debug)]
pub struct Task {
    own: NodeId,
    net: Net,
    store: StoreHandle,
    settings: Settings,
    inputs: mpsc::Receiver<Input>,
    core: Core,
    start: Instant,
    rings: Rings,
    wanted: watch::Sender<Wanted>,
    connections: BTreeMap<NodeId, u64>,
    /// A stream to each peer: its queue, and whether it stays.
    streams: BTreeMap<NodeId, (mpsc::Sender<Vec<u8>>, bool)>,
    writers: JoinSet<Written>,
    /// Peers whose streams broke, and when they are tried again.
    later: BTreeMap<NodeId, Instant>,
    members: BTreeSet<NodeId>,
    /// Since when no connection is open.
    alone: Option<(Instant, Millis)>,
}

impl Task {
    /// A handle, and the task. `life`: as in the hello.
    #[must_use]
    pub fn new(
        own: NodeId,
        life: u64,
        net: Net,
        store: StoreHandle,
        settings: Settings,
    ) -> (Liveness, Self) {
        let (tx, inputs) = mpsc::channel(INBOX);
        let now = Now { steady: Duration::ZERO, wall: store.clock().now() };
        let core = Core::new(own, life, settings.period, now, StdRng::from_rng(&mut rand::rng()));
        let (wanted, watched) = watch::channel(Wanted::default());
        let task = Self {
            own,
            net,
            store,
            settings,
            inputs,
            core,
            start: Instant::now(),
            rings: Rings::default(),
            wanted,
            connections: BTreeMap::new(),
            streams: BTreeMap::new(),
            writers: JoinSet::new(),
            later: BTreeMap::new(),
            members: BTreeSet::new(),
            alone: None,
        };
        (Liveness { inputs: tx, wanted: watched, credits: Arc::default() }, task)
    }

    /// Runs until shutdown, and says goodbye.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut views = self.store.watch();
        let mut changes = self.net.peers().changes();
        self.on_roster();
        loop {
            let wake = self.start + self.core.wake();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.writers.join_next(), if !self.writers.is_empty() => {
                    if let Ok(written) = done {
                        self.on_written(written);
                    }
                }
                Ok(()) = views.changed() => self.on_roster(),
                Ok(()) = changes.changed() => self.on_connections(),
                Some(input) = self.inputs.recv() => self.step(input),
                () = tokio::time::sleep_until(wake) => self.step(Input::Tick),
            }
            self.note_isolation();
        }
        self.step(Input::Leave);
        // the writers end when their queues are empty and nobody can add to them
        self.streams.clear();
        let said = async { while self.writers.join_next().await.is_some() {} };
        drop(tokio::time::timeout(GOODBYE, said).await);
    }

    fn step(&mut self, input: Input) {
        let now = Now { steady: self.start.elapsed(), wall: self.store.clock().now() };
        let mut changed = false;
        for output in self.core.step(now, input) {
            match output {
                Output::Send { to, bytes } => self.send(to, bytes),
                Output::Changed(node) => {
                    changed = true;
                    self.tell(node);
                }
                Output::Dead(peer) => {
                    info!(%peer, "it does not answer: closing its connections");
                    self.net.close_soon(peer);
                }
            }
        }
        if changed {
            self.watch();
        }
    }

    fn tell(&self, node: NodeId) {
        let Some(known) = self.core.get(&node) else { return };
        debug!(peer = %node, state = ?known.state, by = ?known.by, "a member's state");
        self.net.peers().found(node, known.state, known.by, known.life);
        if known.state == State::Down {
            self.net.forget_soon(node);
        }
    }

    fn on_roster(&mut self) {
        let views = self.store.views();
        if views.machine_of(&self.own.0).is_none() {
            return; // this node does not know the roster yet
        }
        let machines = || views.machines.values();
        let members: BTreeSet<NodeId> = machines().map(|m| m.node).collect();
        if members == self.members {
            return;
        }
        let peers = Arc::clone(self.net.peers());
        peers.keep_only(|node| members.contains(node));
        for machine in machines().filter(|m| !self.members.contains(&m.node)) {
            peers.note(machine.node, &machine.addrs);
        }
        let sites: Vec<_> = machines().map(|m| (m.node, m.site.clone())).collect();
        self.rings = Rings::new(self.own, &sites, self.settings.limit);
        let before = std::mem::replace(&mut self.members, members.clone());
        self.step(Input::Roster(members));
        self.watch();
        // whose connection was there before it was known as a member
        self.connections.retain(|node, _| before.contains(node));
        self.on_connections();
    }

    /// Whom to keep connected, by what is known now.
    fn watch(&mut self) {
        let core = &self.core;
        let down = |node: &NodeId| core.get(node).is_some_and(|k| k.state == State::Down);
        let turns = self.rings.turns(down);
        let wanted: BTreeSet<NodeId> = turns.iter().copied().collect();
        if wanted == *self.wanted.borrow().members {
            return;
        }
        let (members, all) = (Arc::new(wanted.clone()), self.rings.is_small());
        self.wanted.send_replace(Wanted { members, all });
        // who was not wanted before gets another stream, which stays
        self.streams.retain(|node, (_, stay)| *stay == wanted.contains(node));
        self.step(Input::Watch { members: wanted, turns });
    }

    fn on_connections(&mut self) {
        let now: BTreeMap<NodeId, u64> = self.net.peers().connections().into_iter().collect();
        let before = std::mem::replace(&mut self.connections, now.clone());
        for node in before.keys().filter(|n| !now.contains_key(n)) {
            self.streams.remove(node);
            self.step(Input::Disconnected(*node));
        }
        for (node, _) in now.iter().filter(|(n, number)| before.get(n) != Some(number)) {
            self.streams.remove(node);
            self.later.remove(node);
            let life = self.net.peers().get(node).incarnation;
            self.step(Input::Connected { node: *node, life });
        }
    }

    fn send(&mut self, to: NodeId, bytes: Vec<u8>) {
        if let Some((queue, _)) = self.streams.get(&to) {
            match queue.try_send(bytes) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {} // lost
                Err(mpsc::error::TrySendError::Closed(_)) => drop(self.streams.remove(&to)),
            }
            return;
        }
        let now = Instant::now();
        if self.later.get(&to).is_some_and(|at| *at > now) {
            return;
        }
        let connected = self.connections.contains_key(&to);
        let dials = self.streams.keys().filter(|n| !self.connections.contains_key(n)).count();
        if !connected && dials >= DIALS {
            return;
        }
        let stay = self.wanted.borrow().members.contains(&to);
        let (queue, outbox) = mpsc::channel(OUTBOX);
        drop(queue.try_send(bytes));
        self.streams.insert(to, (queue, stay));
        self.writers.spawn(write(self.net.clone(), to, outbox, stay));
    }

    fn on_written(&mut self, (peer, opened): Written) {
        if self.streams.get(&peer).is_some_and(|(queue, _)| queue.is_closed()) {
            self.streams.remove(&peer);
            if opened {
                return; // with the next message another is opened
            }
            self.later.retain(|_, at| *at > Instant::now());
            self.later.insert(peer, Instant::now() + PAUSE);
        }
    }

    /// Says once when this node reaches nobody, and once when it does again.
    fn note_isolation(&mut self) {
        let peers = self.net.peers();
        if self.members.len() < 2 || !self.connections.is_empty() {
            self.alone = None;
            if let Some(since) = peers.isolated_since() {
                let seconds = self.store.clock().now().since(since).as_secs();
                info!(seconds, "this node is no longer isolated");
                peers.set_isolated(None);
            }
            return;
        }
        let now = self.store.clock().now();
        let (since, shown) = *self.alone.get_or_insert((Instant::now(), now));
        let long = since.elapsed() >= self.settings.period * 5;
        if long && peers.isolated_since().is_none() {
            warn!(
                members = self.members.len(),
                "this node is isolated: it reaches no other member; it goes on trying"
            );
            peers.set_isolated(Some(shown));
        }
    }
}

#[cfg(test)]
mod tests {
    use dht_store::Store;
    use futures::future::{BoxFuture, ready};
    use p2pinst_trust::Refusal;
    use p2pinst_trust::fixture::Lab;
    use p2pinst_types::PublicKey;

    use super::*;
    use crate::clock::Clock;
    use crate::net::{self, Gatekeeper, NetConfig};
    use crate::peers::Peers;

    struct Anybody;

    impl Gatekeeper for Anybody {
        fn hello(&self) -> BoxFuture<'static, Result<Vec<u8>, Refusal>> {
            Box::pin(ready(Ok(Vec::new())))
        }
        fn judge(&self, _: NodeId, _: Vec<u8>, _: bool) -> BoxFuture<'static, Result<(), Refusal>> {
            Box::pin(ready(Ok(())))
        }
    }

    #[tokio::test]
    async fn who_was_a_member_before_is_not_met_anew_when_another_joins() {
        let (dir, mut lab) = (tempfile::tempdir().unwrap(), Lab::default());
        let invite = lab.invite(100, 3);
        let nodes = [101, 102, 103].map(|n| lab.node(&invite, n, &format!("n{n}")));
        let [own, before, new] = nodes.each_ref().map(|n| NodeId(n.id()));
        let mut cells = vec![lab.operator_grant.clone(), invite.cell.clone()];
        let alice = lab.operator.clone();
        cells.push(lab.admit(&alice, &nodes[0]));
        cells.extend(nodes[1..].iter().map(|n| lab.admit(&nodes[0].key, n)));
        let mut store = Store::open(&dir.path().join("store"), lab.roots.clone()).unwrap();
        store.apply(cells, &[], lab.clock).unwrap();
        let (store, _ended) = crate::store::start(store, Clock::default()).unwrap();
        let config = NetConfig {
            key: nodes[0].key.clone(),
            listen: Vec::new(),
            keeper: Arc::new(Anybody),
            peers: Arc::new(Peers::new(Clock::default())),
            settings: net::Settings {
                cluster: *lab.cluster(),
                ping: Duration::from_secs(5),
                unused: Duration::from_secs(60),
            },
        };
        let (net, _events, _driver) = net::start(config, CancellationToken::new()).await.unwrap();
        let settings = Settings { period: Duration::from_secs(1), limit: 64 };
        let (_, mut task) = Task::new(own, 1, net.clone(), store, settings);
        [before, new].into_iter().for_each(|n| drop(net.peers().up(n)));
        task.on_roster();
        assert_eq!(task.members.len(), 3);
        // as if one of them were known as a member only from now on
        task.members.remove(&new);
        task.streams.remove(&new);
        let stream = task.streams[&before].0.clone();
        task.on_roster();
        assert!(task.streams[&before].0.same_channel(&stream), "it goes on as it was");
        assert!(task.streams.contains_key(&new), "it is greeted");
    }

    #[test]
    fn the_rate_counts_for_a_peer_not_for_a_stream() {
        let (credits, now) = (Credits::default(), Instant::now());
        let [one, other] = [1, 2].map(|n| NodeId(PublicKey([n; 32])));
        for _ in 0..200 {
            assert_eq!(credits.take(one, now), Duration::ZERO);
        }
        // whichever stream it comes on
        assert_eq!(credits.take(one, now), Duration::from_millis(20));
        assert_eq!(credits.take(one, now), Duration::from_millis(40));
        assert_eq!(credits.take(other, now), Duration::ZERO);
        let later = now + Duration::from_secs(1);
        credits.tidy(later);
        for _ in 0..48 {
            assert_eq!(credits.take(one, later), Duration::ZERO);
        }
        assert!(!credits.take(one, later).is_zero(), "another stream does not help");
        credits.tidy(later + Duration::from_secs(60));
        assert!(credits.table().is_empty());
    }
}
