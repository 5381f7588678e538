//! The scout as a node: a store in memory, the network, the exchange. No agent, no roster, no failure detector.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use dht_store::Store;
use p2pinst_api::DataDir;
use p2pinst_chunks::BlobStore;
use p2pinst_chunks::rates::LimitsConfig;
use p2pinst_trust::SecretKey;
use p2pinst_types::{AssignmentId, MachineId, Name, NodeId};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::contacts::Contacts;
use super::meet::Met;
use super::serve::Server;
use crate::clock::Clock;
use crate::clones::Clones;
use crate::control::Control;
use crate::exchange::{Exchange, Limits, Places};
use crate::identity::Identity;
use crate::keeper::Keeper;
use crate::life::Life;
use crate::net::{self, Net, NetConfig, Settings};
use crate::peers::Peers;
use crate::replicate::Replicas;
use crate::store::{self, Own, StoreHandle};

/// Time between two probes of a silent connection.
const PING: Duration = Duration::from_secs(10);
/// Connections stay: there are few, and not for long.
const UNUSED: Duration = Duration::from_secs(3600);
/// Between two syncs with a random peer.
const SYNC: Duration = Duration::from_secs(30);
/// A clock that is wrong by more than this is not believed.
const WRONG: Duration = Duration::from_secs(3600);
/// How long a scout is one: less than its certificate lasts (a day), so that it never finds itself cut off.
const TERM: Duration = Duration::from_secs(20 * 3600);
/// How long the tasks may take to end.
const GOODBYE: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) own: Arc<Own>,
    pub(super) name: Name,
    pub(super) machine: MachineId,
    pub(super) assignment: AssignmentId,
    /// Boot services that were heard of.
    pub(super) peers: Vec<SocketAddr>,
    pub(super) store: StoreHandle,
    pub(super) net: Net,
    pub(super) exchange: Exchange,
    pub(super) replicas: Replicas,
    closing: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl Core {
    /// Starts the node that a welcome has made this machine.
    pub(super) async fn start(
        dir: DataDir,
        key: SecretKey,
        met: &Met,
        listen: &[String],
        addrs: Vec<String>,
    ) -> anyhow::Result<Self> {
        let Met { welcome, welcomed, .. } = met;
        let machine =
            welcomed.invite.replaces.ok_or_else(|| anyhow!("the invite names no machine"))?;
        let identity = Identity {
            cluster: *welcomed.roots.cluster(),
            roots: welcomed.roots.signed().to_vec(),
            grant: welcome.grant.clone(),
            invite: welcome.invite.clone(),
            cert: welcome.cert.clone(),
            admission: Vec::new(),
            name: welcomed.cert.name.clone(),
            machine,
            bootstrap: welcome.bootstrap.clone(),
        };
        let clock = Clock::default();
        // the certificate was written a moment ago; machines whose battery is empty think that it is 1970
        let written = welcomed.written.millis();
        if written.since(clock.now()).max(clock.now().since(written)) > WRONG {
            warn!("this machine's clock is wrong: that of its certificate counts");
            clock.presume(written);
        }
        p2pinst_files::make_private_dir(dir.path())?;
        let life = Life::begin(&dir, clock.now(), 0);
        let (path, roots) = (dir.store(), welcomed.roots.clone());
        let opened = tokio::task::spawn_blocking(move || Store::open(&path, roots)).await?;
        let (store, store_ended) = store::start(opened?, clock.clone())?;
        let own = Arc::new(Own { node: NodeId(key.public()), key: key.clone(), machine, life });
        let peers = Arc::new(Peers::new(clock.clone()));
        let (announce, announcements) = mpsc::channel(1);
        let clones = Arc::new(Clones::new(clock));
        let keeper = Keeper {
            own: Arc::clone(&own),
            identity: identity.clone(),
            addrs,
            store: store.clone(),
            peers: Arc::downgrade(&peers),
            announce,
            clones: Arc::clone(&clones),
            joining: true,
        };
        let settings = Settings { cluster: identity.cluster, ping: PING, unused: UNUSED };
        let config =
            NetConfig { key, listen: listen.to_vec(), keeper: Arc::new(keeper), peers, settings };
        let closing = CancellationToken::new();
        let (net, events, driver) =
            net::start(config, closing.clone()).await.context("cannot start the network")?;
        clones.connect(net.clone());
        let path = dir.blobs();
        let blobs = tokio::task::spawn_blocking(move || BlobStore::open(&path)).await??;
        let places = Places::of_roster(store.clone(), own.node);
        let limits = Limits::new(LimitsConfig::default(), places.clone());
        let exchange = Exchange::with(net.clone(), blobs, limits, places);
        let (control, control_task) = Control::new(net.clone(), store.clone(), announcements, SYNC);
        let (replicas, outbox) = Replicas::new(Arc::clone(&own), net.clone(), store.clone());
        let contacts = Contacts {
            own: own.node,
            machine,
            net: net.clone(),
            store: store.clone(),
            bootstrap: welcome.bootstrap.clone(),
        };
        let server = Server {
            own: own.node,
            net: net.clone(),
            store: store.clone(),
            control,
            exchange: exchange.clone(),
            replicas: replicas.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        tasks.spawn(store_ended);
        tasks.spawn(control_task.run(closing.clone()));
        tasks.spawn(outbox.run(closing.clone()));
        tasks.spawn(exchange.clone().sample(closing.clone()));
        tasks.spawn(contacts.run(closing.clone()));
        tasks.spawn(server.run(events, closing.clone()));
        Ok(Self {
            own,
            name: identity.name,
            machine,
            assignment: welcomed.assignment,
            peers: met.peers.clone(),
            store,
            net,
            exchange,
            replicas,
            closing,
            tasks: Mutex::new(tasks),
        })
    }

    /// Ends when its time as a scout is over.
    pub(super) async fn over(&self) {
        tokio::time::sleep(TERM).await;
    }

    /// Ends when this scout is one no more, though it was.
    pub(super) async fn replaced(&self) {
        let mut views = self.store.watch();
        let key = self.own.node.0;
        let mut was = false;
        loop {
            let now = views.borrow_and_update().clone();
            let is = now.scout_machine(&key).is_some();
            let over = now.assignments.get(&self.assignment).is_some_and(|a| {
                a.superseded.is_some()
                    || a.ended
                        .as_ref()
                        .is_some_and(|(_, d)| d.ended == p2pinst_types::record::Ended::Cancelled)
            });
            if (was && !is) || over {
                return;
            }
            was |= is;
            if views.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends when a part of the node has, with the reason.
    pub(super) async fn failed(&self) -> anyhow::Error {
        self.tasks.lock().await.join_next().await;
        anyhow!("a part of the scout has ended; the log above says why")
    }

    pub(super) async fn stop(&self) {
        self.closing.cancel();
        let end = async { while self.tasks.lock().await.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, end).await.is_err() {
            warn!("some tasks did not end in time");
        }
    }
}
