//! Whole nodes in this process, each on a loopback address and a data directory of its own.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use p2pinst_api::request::{Call, CellBytes, Info, PrepareInvite, ReadHead, Submit};
use p2pinst_api::{Client, DataDir};
use p2pinst_node::config::Config;
use p2pinst_node::daemon::{self, Options};
use p2pinst_node::found::{InitOptions, init};
use p2pinst_node::identity::{Identity, load_key};
use p2pinst_node::join::{JoinError, JoinOptions, join};
use p2pinst_trust::{RootChain, SecretKey, Token};
use p2pinst_types::cell::Draft;
use p2pinst_types::record::Invite;
use p2pinst_types::{Cell, CellId, ClusterId, Kind, Labels, Millis, Name, Version, codec};
use serde::Serialize;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long anything may take: these tests share a machine with others.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until something holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = std::time::Instant::now();
    while !holds().await {
        if begun.elapsed() > DEADLINE {
            let log = LOG.0.lock().unwrap().clone();
            panic!("not within {DEADLINE:?}: {what}\n{}", String::from_utf8_lossy(&log));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What all nodes of this process have logged.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter("info,p2pinst_node=debug")
        .with_writer(move || writer.clone())
        .init();
    log
});

pub(crate) fn logged(text: &str) -> bool {
    String::from_utf8_lossy(&LOG.0.lock().unwrap()).contains(text)
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A loopback address that nobody else uses.
pub(crate) fn fresh_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    // below the ports that the system gives to whoever connects
    let port = 10_000 + u16::from_be_bytes([high, low]) % 20_000;
    ([127, 64 | (high & 0x3f), low, last], port).into()
}

/// One machine; its node runs or is halted.
pub(crate) struct Machine {
    name: Name,
    dir: DataDir,
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinSet<()>,
}

impl Machine {
    fn multiaddr(&self) -> String {
        multiaddr(self.address)
    }

    pub(crate) fn socket(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn addrs(&self) -> Vec<String> {
        vec![self.multiaddr()]
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::load(&self.dir).unwrap()
    }

    pub(crate) fn key(&self) -> SecretKey {
        load_key(&self.dir).unwrap()
    }

    pub(crate) async fn ask<C: Call>(&self, call: C) -> Result<C::Reply, p2pinst_api::ClientError> {
        Client::connect(&self.dir).await?.call(call).await
    }

    /// Starts the node and waits until it answers.
    async fn start(&mut self) {
        let config =
            Config { listen: self.addrs(), sync_secs: 2, ping_secs: 2, ..Config::default() };
        config.save(&self.dir).unwrap();
        let root = self.dir.path().join("root");
        p2pinst_install::root::prepare_skeleton(&root).unwrap();
        // who has just joined in this process may still be about to close its store
        let roots = self.identity().roots(&self.dir).unwrap();
        until("the store is free", async || {
            dht_store::Store::open(&self.dir.store(), roots.clone()).is_ok()
        })
        .await;
        let options = Options { dir: self.dir.clone(), root };
        let shutdown = self.shutdown.clone();
        self.task.spawn(async move {
            let name = options.dir.path().display().to_string();
            daemon::run(options, shutdown).await.unwrap_or_else(|e| panic!("{name}: {e:#}"));
        });
        self.ask(Info {}).await.unwrap();
    }

    async fn halt(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.task.join_next().await {
            ended.unwrap();
        }
    }
}

fn multiaddr(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}

pub(crate) struct Cluster {
    dir: TempDir,
    id: ClusterId,
    operator: SecretKey,
    machines: Vec<Machine>,
}

impl Cluster {
    /// A cluster of one running machine, `n1`.
    pub(crate) async fn found(cluster: &str) -> Self {
        LazyLock::force(&LOG);
        let temp = tempfile::tempdir().unwrap();
        let machine = machine(&temp, "n1");
        let [root, operator] = [(); 2].map(|()| SecretKey::generate().unwrap());
        let founded = init(InitOptions {
            dir: &machine.dir,
            cluster: name(cluster),
            node_name: machine.name.clone(),
            site: name("lab"),
            labels: Labels::default(),
            listen: machine.addrs(),
            root_key: &root,
            operator_key: &operator,
            operator_name: name("alice"),
        })
        .unwrap();
        let mut cluster =
            Self { dir: temp, id: founded.cluster, operator, machines: vec![machine] };
        for machine in &mut cluster.machines {
            machine.start().await;
        }
        cluster
    }

    pub(crate) fn first(&self) -> &Machine {
        self.machines.first().unwrap()
    }

    pub(crate) fn node(&self, named: &str) -> &Machine {
        self.machines.iter().find(|m| m.name.as_str() == named).unwrap()
    }

    /// Signs and submits a record of the operator, as the command line does.
    pub(crate) async fn submit<T: Serialize>(
        &self,
        kind: Kind,
        subject: &[u8],
        record: &T,
    ) -> Result<Cell, p2pinst_api::ClientError> {
        let author = self.operator.public();
        let head = self.first().ask(ReadHead { author }).await?;
        let id = CellId { kind, subject: subject.to_vec(), slot: Vec::new(), author };
        let version = Version { seq: head.version.seq + 1, ..head.version };
        let draft = Draft { id, version, hlc: head.hlc, payload: codec::encode(record).unwrap() };
        let cell = draft.sign(&self.id, |m| self.operator.sign(m)).unwrap();
        let cells = vec![CellBytes(cell.bytes().to_vec())];
        self.first().ask(Submit { cells }).await?;
        Ok(cell)
    }

    /// The text of a token for some machines, that ends in so many milliseconds.
    pub(crate) async fn token(&self, uses: u32, ends: i64) -> String {
        let operator = self.operator.public();
        let material = self.first().ask(PrepareInvite { operator }).await.unwrap();
        let now = self.first().ask(ReadHead { author: operator }).await.unwrap().now;
        let key = SecretKey::generate().unwrap();
        let invite = Invite {
            key: key.public(),
            site: name("lab"),
            labels: Labels::default(),
            uses,
            not_after: Millis(now.0.checked_add_signed(ends).unwrap()),
            replaces: None,
            boot: None,
        };
        let invite_cell =
            self.submit(Kind::INVITE, key.public().as_bytes(), &invite).await.unwrap();
        let token = Token {
            roots: RootChain::verify(self.id, material.roots).unwrap(),
            bootstrap: material.bootstrap,
            grant: Cell::parse(material.grant.0).unwrap(),
            invite_cell,
            invite,
            key,
            name: None,
        };
        token.encode().unwrap().to_string()
    }

    /// Joins with a token, without starting the node.
    pub(crate) async fn enter(&mut self, named: &str, token: String) -> Result<(), JoinError> {
        let token = Token::decode(&token).unwrap();
        self.enter_with(named, token).await.map(drop)
    }

    /// Joins, forgets all but the key as if the answer had never come, and joins again.
    pub(crate) async fn enter_twice(&mut self, named: &str, token: &str) -> Result<(), JoinError> {
        let first = self.enter_with(named, Token::decode(token).unwrap()).await?;
        let again = machine(&self.dir, named);
        p2pinst_files::make_private_dir(again.dir.path()).unwrap();
        std::fs::rename(first.dir.node_key(), again.dir.joining_key()).unwrap();
        let options = JoinOptions {
            dir: &again.dir,
            token: Token::decode(token).unwrap(),
            name: again.name.clone(),
            listen: again.addrs(),
        };
        join(options).await?;
        let same = |i: Identity| (i.machine, i.cert, i.invite, i.admission);
        assert!(same(again.identity()) == same(first.identity()), "it is the same machine");
        assert!(!again.dir.joining_key().exists());
        Ok(())
    }

    async fn enter_with(&self, named: &str, token: Token) -> Result<Machine, JoinError> {
        let machine = machine(&self.dir, named);
        let listen = machine.addrs();
        let options = JoinOptions { dir: &machine.dir, token, name: machine.name.clone(), listen };
        join(options).await?;
        Ok(machine)
    }

    /// Joins and starts a machine.
    pub(crate) async fn join(&mut self, named: &str) -> Result<(), JoinError> {
        let first = self.first().name.to_string();
        self.join_through(named, &first).await
    }

    /// The same, through a certain member.
    pub(crate) async fn join_through(&mut self, named: &str, by: &str) -> Result<(), JoinError> {
        let text = self.token(1, 3_600_000).await;
        let mut token = Token::decode(&text).unwrap();
        token.bootstrap = self.node(by).addrs();
        let mut machine = self.enter_with(named, token).await?;
        machine.start().await;
        self.machines.push(machine);
        Ok(())
    }

    /// Waits until every node is connected with every other.
    pub(crate) async fn connected(&self) {
        let others = self.machines.len() - 1;
        for machine in &self.machines {
            until("all are connected", async || {
                machine.ask(Info {}).await.unwrap().peers == others
            })
            .await;
        }
    }

    /// Stops one node.
    pub(crate) async fn halt(&mut self, named: &str) {
        let at = self.machines.iter().position(|m| m.name.as_str() == named).unwrap();
        self.machines.remove(at).halt().await;
    }

    /// Stops all: every task of every node has ended.
    pub(crate) async fn stop(self) {
        for machine in self.machines {
            machine.halt().await;
        }
    }
}

fn machine(temp: &TempDir, named: &str) -> Machine {
    let address = fresh_address();
    Machine {
        name: name(named),
        dir: DataDir::new(temp.path().join(address.ip().to_string())),
        address,
        shutdown: CancellationToken::new(),
        task: JoinSet::new(),
    }
}
