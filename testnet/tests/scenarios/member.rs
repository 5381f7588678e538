//! A member whose key and certificate are good, without the rest of a node: what it says is up to a test.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dht_store::Store;
use p2pinst_api::DataDir;
use p2pinst_node::clock::Clock;
use p2pinst_node::clones::Clones;
use p2pinst_node::config::Config;
use p2pinst_node::identity::{Identity, load_key};
use p2pinst_node::keeper::Keeper;
use p2pinst_node::life::Life;
use p2pinst_node::net::{self, Net, NetConfig, NetEvent, Settings};
use p2pinst_node::peers::Peers;
use p2pinst_node::store::{self, Own, StoreHandle};
use p2pinst_trust::SecretKey;
use p2pinst_types::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A member's network, without the rest of a node.
pub(crate) struct Member {
    pub(crate) net: Net,
    pub(crate) events: mpsc::Receiver<NetEvent>,
    pub(crate) store: StoreHandle,
    pub(crate) key: SecretKey,
    pub(crate) tasks: JoinSet<()>,
}

pub(crate) async fn member(dir: &DataDir) -> Result<Member> {
    let (identity, config, key) = (Identity::load(dir)?, Config::load(dir)?, load_key(dir)?);
    let clock = Clock::default();
    let store = Store::open(&dir.store(), identity.roots(dir)?)?;
    let (store, _ended) = store::start(store, clock.clone())?;
    let peers = Arc::new(Peers::new(clock.clone()));
    let (announce, _nobody) = mpsc::channel(1);
    let keeper = Keeper {
        own: Arc::new(Own {
            node: NodeId(key.public()),
            key: key.clone(),
            machine: identity.machine,
            life: Life::fixed(clock.now().0),
        }),
        addrs: config.listen.clone(),
        store: store.clone(),
        peers: Arc::downgrade(&peers),
        announce,
        clones: Arc::new(Clones::new(clock.clone())),
        joining: false,
        identity: identity.clone(),
    };
    let settings = Settings {
        cluster: identity.cluster,
        ping: Duration::from_secs(5),
        unused: Duration::from_secs(60),
    };
    let config = NetConfig {
        key: key.clone(),
        listen: config.listen,
        keeper: Arc::new(keeper),
        peers,
        settings,
    };
    let (net, events, task) = net::start(config, CancellationToken::new()).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    Ok(Member { net, events, store, key, tasks })
}
