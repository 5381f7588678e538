use std::sync::atomic::{AtomicU8, Ordering};

use futures::future::ready;
use p2pinst_types::ClusterId;
use tokio::time::{Instant, sleep};

use super::*;
use crate::clock::Clock;

/// Lets everybody in.
struct Anybody;

impl Gatekeeper for Anybody {
    fn hello(&self) -> BoxFuture<'static, Result<Vec<u8>, Refusal>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn judge(&self, _: NodeId, _: Vec<u8>, _: bool) -> BoxFuture<'static, Result<(), Refusal>> {
        Box::pin(ready(Ok(())))
    }
}

async fn host(shutdown: &CancellationToken) -> (NodeId, String, Net, mpsc::Receiver<NetEvent>) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    let addr = format!("/ip4/127.{}.{low}.{last}/tcp/4002", 128 | (high & 0x7f));
    let key = SecretKey::generate().unwrap();
    let id = NodeId(key.public());
    let config = NetConfig {
        key,
        listen: vec![addr.clone()],
        keeper: Arc::new(Anybody),
        peers: Arc::new(Peers::new(Clock::default())),
        settings: Settings {
            cluster: ClusterId(Hash([7; 32])),
            ping: Duration::from_secs(1),
            unused: Duration::from_secs(2),
        },
    };
    let (net, events, driver) = start(config, shutdown.clone()).await.unwrap();
    tokio::spawn(driver);
    (id, addr, net, events)
}

#[tokio::test]
async fn a_connection_is_closed_when_no_stream_is_open_whatever_gossip_wants() {
    let shutdown = CancellationToken::new();
    let (_, _, one, _events) = host(&shutdown).await;
    let (other, addr, _net, mut events) = host(&shutdown).await;
    let stream = one.open(other, Protocol::Swim, &[addr]).await.unwrap();
    let connected = || one.peers().get(&other).connected;
    // gossip has made its mesh by now, and goes on
    for _ in 0..50 {
        one.gossip(vec![1]).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        assert!(connected(), "a stream is open");
    }
    drop(stream);
    while let Ok(event) = events.try_recv() {
        drop(event);
    }
    let limit = Instant::now() + Duration::from_secs(10);
    while connected() {
        assert!(Instant::now() < limit, "nobody needs the connection");
        sleep(Duration::from_millis(50)).await;
    }
    shutdown.cancel();
}
