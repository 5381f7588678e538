//! A member whose key and certificate are good, and whose bytes are not.

use std::env;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dht_store::Store;
use p2pinst_api::DataDir;
use p2pinst_chunks::BlobStore;
use p2pinst_chunks::wire::{Direction, HEADER, Header, ToDownloader, ToSource};
use p2pinst_node::clock::Clock;
use p2pinst_node::clones::Clones;
use p2pinst_node::config::Config;
use p2pinst_node::identity::{Identity, load_key};
use p2pinst_node::keeper::Keeper;
use p2pinst_node::life::Life;
use p2pinst_node::net::{self, Net, NetConfig, NetEvent, NetStream, Protocol, Settings, Worth};
use p2pinst_node::peers::Peers;
use p2pinst_node::store::{self, Own, StoreHandle};
use p2pinst_testnet::root::expect_whole;
use p2pinst_testnet::{Deb, Node, eventually};
use p2pinst_trust::SecretKey;
use p2pinst_types::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{LATER, SOON, cluster, publish_to_all};

const MIB: u64 = 1 << 20;
/// Names the data directory to the process that lies.
const DIR: &str = "P2PINST_TESTNET_LIAR";

#[test]
fn anytime_a_peer_that_sends_wrong_bytes_is_caught_and_others_are_asked() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        n1.ok(["group", "create", "second", "--hosts", "n2"])?;
        let file = Deb::new("coveted", "1.0").payload(8 * MIB).build(lab.dir())?;
        n1.publish(&file, &["--group", "second", "--urgent", "--wait"])?;
        // n2 has all of it. From now on it answers with something else.
        n2.stop()?;
        let lies = ["--exact", "liar::helper_liar", "--ignored", "--nocapture"];
        let liar = n2.exec(env::current_exe()?).args(lies).env(DIR, n2.data());
        let liar = liar.limit(Duration::from_secs(600)).start()?;
        n1.sees_up(3, SOON)?;
        n3.sees_up(3, SOON)?;
        // n1 is slow, so that n3 asks n2 as well.
        lab.network().switch()?.limit(1, "20mbit")?;
        publish_to_all(n1, &file, &[]).run()?.ok()?;
        n3.installs("coveted", "1.0", LATER)?;
        expect_whole(&n3.root())?;
        let payload = "usr/share/coveted/payload";
        let [a, b] = [fs::read(n2.root().join(payload))?, fs::read(n3.root().join(payload))?];
        ensure!(a == b, "n3 installed other bytes than were published");
        let id = n1.roster()?.named("n2")?.id.clone();
        eventually(SOON, "n3 says who sent wrong bytes", || banned(n3, &id))?;
        drop(liar);
        Ok(())
    });
}

fn banned(node: &Node, id: &str) -> Result<()> {
    let log = node.log_text();
    let found = log.lines().any(|l| l.contains("wrong bytes") && l.contains(id));
    ensure!(found, "no line of its log has `wrong bytes` and {id}");
    Ok(())
}

/// Not a test: a member that says it has everything, and sends nonsense.
#[test]
#[ignore = "the process that another test starts on one of its hosts"]
fn helper_liar() {
    let Some(dir) = env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(lie(&DataDir::new(dir))).expect("a life of lies");
}

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

async fn lie(dir: &DataDir) -> Result<()> {
    let Member { net, mut events, mut tasks, .. } = member(dir).await?;
    let blobs = BlobStore::open(&dir.blobs())?;
    while let Some(event) = events.recv().await {
        match event {
            NetEvent::Gossip { id, .. } => net.report(id, Worth::Ignore).await?,
            NetEvent::Inbound { protocol: Protocol::Exchange, stream, .. } => {
                let blobs = blobs.clone();
                tasks.spawn(async move { drop(answer(&blobs, stream).await) });
            }
            NetEvent::Inbound { .. } => {}
        }
    }
    Ok(())
}

async fn answer(blobs: &BlobStore, mut stream: NetStream) -> Result<()> {
    let mut open = None;
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await?;
        let header = Header::parse(header, Direction::ToSource)?;
        let mut body = vec![0; header.body_len()];
        stream.read_exact(&mut body).await?;
        let mut out = Vec::new();
        match ToSource::decode(header, &body)? {
            ToSource::Open { root } => {
                let status = blobs.status(&root).context("nothing to lie about")?;
                open = Some(status.blob);
                let (blob, have) = (status.blob, status.have);
                ToDownloader::Opened { blob, seeding: false, have, recipe: None }.encode(&mut out);
            }
            ToSource::GetLayer { from } => {
                let layer = blobs.layer(&open.context("not opened")?.root)?;
                ToDownloader::Layer { from, bytes: layer.page(from) }.encode(&mut out);
            }
            ToSource::Request { piece } => {
                let range = open.and_then(|b| b.range(piece)).context("no such piece")?;
                let bytes = vec![0x5a; usize::try_from(range.end - range.start)?];
                ToDownloader::Piece { piece, bytes: &bytes }.encode(&mut out);
            }
            ToSource::Direct => ToDownloader::Ticket(None).encode(&mut out),
            ToSource::Cancel { .. } => {}
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
    }
}
