//! Somebody with a real network stack who shows what it likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use p2pinst_node::clock::{self, Clock};
use p2pinst_node::identity::Identity;
use p2pinst_node::net::{self, Gatekeeper, NetConfig, NetError, Settings};
use p2pinst_node::peers::Peers;
use p2pinst_trust::{Hello, Refusal, SecretKey};
use p2pinst_types::{ClusterId, Hash, NodeId, codec};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::Machine;

struct Face {
    hello: Vec<u8>,
    seen: AtomicBool,
}

impl Gatekeeper for Face {
    fn hello(&self) -> BoxFuture<'static, Result<Vec<u8>, Refusal>> {
        Box::pin(ready(Ok(self.hello.clone())))
    }

    fn judge(&self, _: NodeId, _: Vec<u8>, _: bool) -> BoxFuture<'static, Result<(), Refusal>> {
        self.seen.store(true, Ordering::Relaxed);
        Box::pin(ready(Ok(())))
    }
}

pub(crate) struct Outsider {
    key: SecretKey,
    face: Arc<Face>,
}

impl Outsider {
    /// Says some bytes where a node says its hello.
    pub(crate) fn saying(hello: Vec<u8>, key: &SecretKey) -> Self {
        Self { key: key.clone(), face: Arc::new(Face { hello, seen: AtomicBool::new(false) }) }
    }

    /// Shows an identity, whosoever it is.
    pub(crate) fn showing(identity: &Identity, key: &SecretKey) -> Self {
        let hello = Hello {
            roots: identity.roots.clone(),
            grant: identity.grant.clone(),
            invite: identity.invite.clone(),
            cert: identity.cert.clone(),
            admission: identity.admission.clone(),
            incarnation: clock::local().0,
            clock: clock::local(),
            addrs: Vec::new(),
            version: "0.1.0".to_owned(),
        };
        Self::saying(codec::encode(&hello).unwrap(), key)
    }

    /// Whether a node has shown it anything.
    pub(crate) fn has_seen_anything(&self) -> bool {
        self.face.seen.load(Ordering::Relaxed)
    }

    /// Dials a node and hangs up.
    pub(crate) async fn dial(&self, machine: &Machine) -> Result<(), Refusal> {
        let shutdown = CancellationToken::new();
        let config = NetConfig {
            key: self.key.clone(),
            listen: Vec::new(),
            keeper: Arc::clone(&self.face) as Arc<dyn Gatekeeper>,
            peers: Arc::new(Peers::new(Clock::default())),
            settings: Settings {
                cluster: ClusterId(Hash([0; 32])),
                ping: Duration::from_secs(5),
                unused: Duration::from_secs(60),
            },
        };
        let (net, _events, driver) = net::start(config, shutdown.clone()).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        let dialled = net.dial(None, &machine.addrs()).await;
        shutdown.cancel();
        drop(tasks.join_all().await);
        match dialled {
            Ok(_) => Ok(()),
            Err(NetError::Refused { refusal, .. }) => Err(refusal),
            Err(other) => panic!("neither let in nor refused: {other}"),
        }
    }
}
