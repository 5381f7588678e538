//! The composition: every part of a node, its tasks, and their end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use dht_store::Store;
use dht_store::answer::Asked;
use dht_store::wire::{Request, Response};
use p2pinst_api::DataDir;
use p2pinst_boot::setup::inventory;
use p2pinst_chunks::BlobStore;
use p2pinst_files::Lock;
use p2pinst_trust::SecretKey;
use p2pinst_types::record::NodeRecord;
use p2pinst_types::{Cell, Kind, NodeId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::addrs::reachable;
use crate::agent::{Agent, Parts, watch_idleness};
use crate::api::{self, Api};
use crate::boot::{self, Boot, Greeter, Reports};
use crate::clock::{self, Clock};
use crate::clones::Clones;
use crate::config::Config;
use crate::control::{self, Control};
use crate::exchange::{Exchange, Limits, Places};
use crate::identity::{Identity, load_key};
use crate::keeper::Keeper;
use crate::life::Life;
use crate::liveness::{self, Liveness};
use crate::lost::{find_home, open_store};
use crate::membership::{self, Membership};
use crate::mesh::Mesh;
use crate::net::{self, Net, NetConfig, NetEvent, NetStream, Protocol, Settings};
use crate::peers::Peers;
use crate::power::{self, Power};
use crate::repair::Repair;
use crate::replicate::{self, Replicas};
use crate::rpc;
use crate::slots::{self, STREAMS, Slots};
use crate::storage::Storage;
use crate::store::{self, Own, StoreHandle};
use crate::summaries;
use crate::watch::Watch;

/// Gossiped messages that are judged at once.
const GOSSIP: usize = 256;
/// Admissions that may wait to be announced.
const ANNOUNCEMENTS: usize = 64;
/// How long the tasks may take to end, once the package manager is done.
const GOODBYE: Duration = Duration::from_secs(8);

/// What the daemon is started with.
#[derive(Debug)]
pub struct Options {
    /// The data directory.
    pub dir: DataDir,
    /// Where packages are installed.
    pub root: PathBuf,
}

/// The directory's identity, checked, and the lock on it.
fn take(dir: &DataDir) -> anyhow::Result<(Identity, Lock)> {
    let identity = Identity::load(dir).map_err(|e| {
        anyhow!("{e}\n\nhint: run `p2pinst init` on the first machine of a cluster, `p2pinst join TOKEN` on every other")
    })?;
    let lock = Lock::try_exclusive(&dir.lock())?.ok_or_else(|| {
        let pid = Lock::holder(&dir.lock()).map(|p| format!(" (process {p})")).unwrap_or_default();
        anyhow!(
            "a p2pinstd{pid} is running on {} already\n\nhint: stop that one first, or give this one a --data-dir of its own",
            dir.path().display()
        )
    })?;
    Ok((identity, lock))
}

/// Begins a life that is newer than all that the data directory knows of.
fn begin_life(
    dir: &DataDir,
    store: &Store,
    key: &SecretKey,
    clock: &Clock,
) -> anyhow::Result<Life> {
    let author = key.public();
    // the node's record is written anew in every life
    let records = store.written_by(Kind::NODE_RECORD, &author)?;
    let newest = records.iter().map(|c| c.version.incarnation).max().unwrap_or(0);
    Ok(Life::begin(dir, clock.now(), newest.max(store.head(&author).incarnation)))
}

/// Runs a node until `shutdown`.
///
/// # Errors
/// When a part cannot be started: the directory belongs to no cluster or is in use, the root has no
/// package database, an address cannot be listened on.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Options { dir, root } = options;
    slots::raise_files();
    let (identity, _lock) = take(&dir)?;
    let config = Config::load(&dir)?;
    let key = load_key(&dir)?;
    let clock = Clock::default();
    let store = open_store(&dir, &identity)?;
    let life = begin_life(&dir, &store, &key, &clock)?;
    let (store, store_ended) =
        store::start(store, clock.clone()).context("cannot start the store's thread")?;
    let own = Arc::new(Own {
        node: NodeId(key.public()),
        key: key.clone(),
        machine: identity.machine,
        life,
    });
    let addrs = reachable(&config.listen, identity.bootstrap.first().map(String::as_str));
    let peers = Arc::new(Peers::new(clock.clone()));
    let (announce, announcements) = mpsc::channel::<Cell>(ANNOUNCEMENTS);
    let clones = Arc::new(Clones::new(clock.clone()));
    let keeper = Keeper {
        own: Arc::clone(&own),
        identity: identity.clone(),
        addrs: addrs.clone(),
        store: store.clone(),
        peers: Arc::downgrade(&peers),
        announce: announce.clone(),
        clones: Arc::clone(&clones),
        joining: false,
    };
    let settings = Settings {
        cluster: identity.cluster,
        ping: Duration::from_secs(config.ping_secs.into()),
        unused: Duration::from_secs(config.unused_secs.into()),
    };
    let net_config =
        NetConfig { key, listen: config.listen.clone(), keeper: Arc::new(keeper), peers, settings };
    // the agent stops first; what it still has to tell needs the rest of the node
    let closing = CancellationToken::new();
    let (net, events, driver) = net::start(net_config, closing.clone()).await?;
    clones.connect(net.clone());

    let blobs = {
        let blobs_dir = dir.blobs();
        tokio::task::spawn_blocking(move || BlobStore::open(&blobs_dir)).await??
    };
    let places = Places::of_roster(store.clone(), own.node);
    let limits = Limits::new(config.limits.clone(), places.clone());
    let exchange = Exchange::with(net.clone(), blobs, limits, places);
    let quota = config.store.read().map_err(|reason| anyhow!("config.toml: {reason}"))?;
    let (storage, storing) =
        Storage::new(exchange.clone(), net.clone(), own.node, quota, dir.pins())?;
    let interval = Duration::from_secs(config.sync_secs.into());
    let (control, control_task) = Control::new(net.clone(), store.clone(), announcements, interval);
    let (replicas, outbox) = Replicas::new(Arc::clone(&own), net.clone(), store.clone());
    let reports = Reports::new(replicas.clone(), store.clone());
    let greeter = Greeter::new(
        Arc::clone(&own),
        net.clone(),
        store.clone(),
        announce.clone(),
        addrs.clone(),
        reports.clone(),
    );
    let switching = power::Parts {
        own: Arc::clone(&own),
        store: store.clone(),
        net: net.clone(),
        replicas: replicas.clone(),
        reports,
        file: dir.controllers(),
        patience: Duration::from_secs(config.boot.patience_secs.into()),
    };
    let (power, switching) = Power::new(switching, announce);
    let boot_log = Arc::new(boot::Log::default());
    let booting = Boot::new(boot::Parts {
        node: own.node,
        addrs: addrs.clone(),
        store: store.clone(),
        storage: storage.clone(),
        greeter: greeter.clone(),
        log: Arc::clone(&boot_log),
        directory: dir.boot(),
        config: config.boot.clone(),
    });
    let (idle, loaded, sampling) = watch_idleness(config.idle, closing.clone());
    let (agent, mut reporting) = Agent::new(Parts {
        own: Arc::clone(&own),
        store: store.clone(),
        replicas: replicas.clone(),
        control: control.clone(),
        record: NodeRecord {
            addrs: addrs.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: clock.now(),
            architecture: String::new(),
            macs: inventory::macs(&inventory::Roots::default()),
            needs: None,
        },
        exchange: exchange.clone(),
        storage: storage.clone(),
        root: root.clone(),
        dpkg_log: dir.dpkg_log(),
        journal: dir.journal(),
        config: config.clone(),
        idle,
    })?;
    reporting.load().await;
    let listener = api::bind(&dir)?;
    let left = CancellationToken::new();
    let started = clock.now();
    let (watch, watching) = Watch::new(own.node, net.clone(), store.clone(), replicas.clone());
    let (liveness, detector) = liveness::Task::new(
        own.node,
        own.life.first(),
        net.clone(),
        store.clone(),
        liveness::Settings {
            period: Duration::from_secs(config.probe_secs.into()),
            limit: usize::try_from(config.connections).unwrap_or(usize::MAX),
        },
    );
    let api = Api {
        own: Arc::clone(&own),
        identity: Arc::new(identity.clone()),
        addrs,
        root: root.display().to_string(),
        store: store.clone(),
        net: net.clone(),
        control: control.clone(),
        replicas: replicas.clone(),
        watch: watch.clone(),
        exchange: exchange.clone(),
        storage,
        dir: dir.clone(),
        started,
        sync: interval,
        wanted: liveness.wanted(),
        clones,
        submitting: api::submit_lock(),
        boot_log,
        left: left.clone(),
        power: power.clone(),
    };
    let parts = (store.clone(), control.clone(), net.clone());
    let membership = Membership::new(dir.clone(), Arc::clone(&own), identity.name.clone(), parts);
    let name = store.views().machine_of(&own.node.0).map(|m| m.name.clone());
    let name = name.unwrap_or_else(|| identity.name.clone());
    let mesh = Mesh::new(own.node, net.clone(), store.clone(), replicas.clone(), liveness.clone());
    let repair = Repair {
        own: Arc::clone(&own),
        net: net.clone(),
        store: store.clone(),
        replicas: replicas.clone(),
        interval,
    };
    let answering = exchange.clone();
    let parts = Answering {
        store: store.clone(),
        control,
        replicas,
        exchange: answering,
        watch,
        liveness,
        greeter,
        power,
    };
    let limiting = exchange.clone().keep_limits(store.watch(), loaded, closing.clone());
    let server = Server { net: net.clone(), parts };

    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    tasks.spawn(control_task.run(closing.clone()));
    tasks.spawn(outbox.run(closing.clone()));
    tasks.spawn(repair.run(closing.clone()));
    tasks.spawn(watching.run(closing.clone()));
    tasks.spawn(sampling);
    tasks.spawn(storing.run(closing.clone()));
    tasks.spawn(limiting);
    tasks.spawn(exchange.sample(closing.clone()));
    tasks.spawn(reporting.run(closing.clone()));
    tasks.spawn(api.run(listener, closing.clone()));
    tasks.spawn(booting.run(closing.clone()));
    tasks.spawn(switching.run(closing.clone()));
    tasks.spawn(mesh.run(closing.clone()));
    tasks.spawn(membership.run(closing.clone()));
    tasks.spawn(server.run(events, closing.clone()));
    tasks.spawn(store_ended);
    let bootstrap = identity.bootstrap.clone();
    tasks.spawn(find_home(own.node, bootstrap, net, store, closing.clone()));
    let leaving = CancellationToken::new();
    let mut detecting = JoinSet::new();
    detecting.spawn(detector.run(leaving.clone()));
    let mut working = JoinSet::new();
    working.spawn(agent.run(shutdown.clone()));
    info!(%name, id = %own.node, root = %root.display(), "the node is running");

    // any task that ends before shutdown has failed: better to restart than to limp
    let failed = tokio::select! {
        biased;
        () = shutdown.cancelled() => false,
        () = left.cancelled() => false,
        _ = working.join_next() => !shutdown.is_cancelled(),
        _ = tasks.join_next() => true,
        _ = detecting.join_next() => true,
    };
    shutdown.cancel();
    drop(working.join_all().await); // a package manager that is at work ends first
    leaving.cancel();
    drop(detecting.join_all().await); // the others are told while there is a network
    closing.cancel();
    if tokio::time::timeout(GOODBYE, tasks.join_all()).await.is_err() {
        warn!("some tasks did not end in time");
    }
    if failed {
        return Err(anyhow!("a part of the node has ended; the log above says why"));
    }
    if left.is_cancelled() {
        let aside =
            membership::put_aside(&dir).context("this machine has left, but its data stays")?;
        info!(aside = %aside.display(), "this machine has left the cluster: its node's data was put aside, and it can join anew");
    }
    p2pinst_files::remove(&dir.socket())?;
    info!("stopped");
    Ok(())
}

/// Answers what other nodes ask.
struct Server {
    net: Net,
    parts: Answering,
}

/// What answers are made of.
#[derive(Debug, Clone)]
struct Answering {
    store: StoreHandle,
    control: Control,
    replicas: Replicas,
    exchange: Exchange,
    watch: Watch,
    liveness: Liveness,
    greeter: Greeter,
    power: power::Conductor,
}

impl Answering {
    fn is_welcome(&self, peer: &NodeId) -> bool {
        self.store.views().is_welcome(&peer.0, self.store.clock().now())
    }
}

impl Server {
    async fn run(self, mut events: mpsc::Receiver<NetEvent>, shutdown: CancellationToken) {
        let mut streams = JoinSet::new();
        let mut gossip = JoinSet::new();
        let slots = Slots::default();
        let mut changes = self.net.peers().changes();
        let mut known = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = streams.join_next(), if !streams.is_empty() => {}
                Some(_) = gossip.join_next(), if !gossip.is_empty() => {}
                Ok(()) = changes.changed() => self.greet(&mut known),
                event = events.recv() => match event {
                    // beyond the bound the hint is lost: sync finds what it told
                    Some(NetEvent::Gossip { .. }) if gossip.len() >= GOSSIP => {}
                    Some(NetEvent::Gossip { source, id, data }) => {
                        let control = self.parts.control.clone();
                        gossip.spawn(async move { control.on_gossip(source, id, data).await });
                    }
                    Some(NetEvent::Inbound { peer, protocol, stream }) => {
                        let slot = slots.take(peer, protocol);
                        let Some(slot) = slot.filter(|_| streams.len() < STREAMS) else {
                            debug!(%peer, "too busy: an inbound stream is refused");
                            continue;
                        };
                        let parts = self.parts.clone();
                        self.net.peers().traffic().answered(peer);
                        streams.spawn(async move {
                            match protocol {
                                Protocol::Store => answer(parts, peer, stream).await,
                                // R16: as of requests, also on a connection of before
                                Protocol::Exchange if !parts.is_welcome(&peer) => {
                                    debug!(%peer, "a downloader that is no member gets nothing");
                                }
                                Protocol::Exchange => parts.exchange.serve(peer, stream).await,
                                Protocol::Swim => parts.liveness.serve(peer, stream).await,
                            }
                            drop(slot);
                        });
                    }
                    None => break,
                }
            }
        }
        streams.shutdown().await;
    }

    /// A new connection: sync with the peer.
    fn greet(&self, known: &mut BTreeSet<(NodeId, u64)>) {
        let connected: BTreeSet<_> = self.net.peers().connections().into_iter().collect();
        for (peer, _) in connected.difference(known) {
            self.parts.control.wish(*peer);
        }
        *known = connected;
    }
}

/// One request of the store protocol.
async fn answer(parts: Answering, peer: NodeId, mut stream: NetStream) {
    let Answering { store, control, replicas, exchange, watch, greeter, power, .. } = parts;
    let request = match rpc::read_request(&mut stream).await {
        Ok(request) => request,
        Err(error) => return debug!(%peer, %error, "a request cannot be read"),
    };
    // R16: a node that was removed gets nothing, also on a connection of before
    let is_scout = store.views().scout_of(&peer.0, store.clock().now()).is_some();
    if !(is_scout && request.is_for_scouts() || store.views().machine_of(&peer.0).is_some()) {
        return debug!(%peer, "a request of a node that is no member is not answered");
    }
    let response = match request {
        Request::Push { cells, covered } => control::take(&store, peer, cells, covered).await,
        Request::Put { cells } => replicate::take(&store, cells).await,
        Request::Summaries { subjects } => summaries::answer(&store, subjects).await,
        Request::Watch { .. } | Request::Changed { .. } => watch.answer(peer, request).await,
        Request::Holds { root } => {
            Ok(Response::Holds(exchange.blobs().status(&root).is_some_and(|s| s.complete)))
        }
        Request::Greet { hello, heard } => {
            Ok(Response::Greeting(greeter.greet(&hello, heard).await))
        }
        Request::Certify { node } => Ok(greeter.certify_system(peer, node).await),
        Request::Installed { what } => Ok(greeter.installed(peer, what).await),
        Request::Power { machine } => Ok(Response::Power(power.look(machine).await)),
        Request::Swarm { roots } => {
            Ok(Response::Swarm(exchange.progress_of_all(&roots, store.clock().now())))
        }
        request => {
            if let Request::Heads { clock, roots, .. } = request {
                store.clock().heard(peer, clock);
                if roots > store.views().roots.signed().len() as u64 {
                    control.wish(peer);
                }
            }
            let ring = replicas.ring();
            let own = replicas.node().0;
            let answer = move |s: &mut Store| {
                let asked = Asked { own, peer: peer.0, ring: &ring, clock: clock::local() };
                dht_store::answer::answer(s, request, asked)
            };
            match store.run(answer).await {
                Ok(Ok(response)) => {
                    Ok(response.unwrap_or_else(|| Response::Refused("not answered".to_owned())))
                }
                Ok(Err(error)) => Err(error.into()),
                Err(error) => Err(error),
            }
        }
    };
    let response = response.unwrap_or_else(|error| {
        warn!(%error, "cannot answer a request");
        Response::Refused("the store failed".to_owned())
    });
    if let Err(error) = rpc::write_response(&mut stream, &response).await {
        debug!(%peer, %error, "an answer cannot be sent");
    }
}
