//! The exchange over real connections on loopback, with peers that do not behave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use p2pinst_chunks::fetch::Place;
use p2pinst_chunks::wire::{Direction, ToDownloader, ToSource, piece_prefix};
use p2pinst_chunks::{Bitmap, BlobStore};
use p2pinst_trust::{Refusal, SecretKey};
use p2pinst_types::{BlobRef, ClusterId, Hash, NodeId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Candidates, Exchange, FetchError, Source, wire};
use crate::clock::Clock;
use crate::net::{self, Gatekeeper, Net, NetConfig, NetEvent, NetStream, Settings};
use crate::peers::Peers;

/// Lets everybody in: who may connect is tested elsewhere.
struct Open;

impl Gatekeeper for Open {
    fn hello(&self) -> BoxFuture<'static, Result<Vec<u8>, Refusal>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn judge(&self, _: NodeId, _: Vec<u8>, _: bool) -> BoxFuture<'static, Result<(), Refusal>> {
        Box::pin(ready(Ok(())))
    }
}

struct Host {
    id: NodeId,
    addr: String,
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    tasks: JoinSet<()>,
}

/// A host on a loopback address of its own.
async fn host() -> Host {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    let addr = format!("/ip4/127.{}.{low}.{last}/tcp/4001", 128 | (high & 0x7f));
    let key = SecretKey::generate().unwrap();
    let id = NodeId(key.public());
    let config = NetConfig {
        key,
        listen: vec![addr.clone()],
        keeper: Arc::new(Open),
        peers: Arc::new(Peers::new(Clock::default())),
        settings: Settings {
            cluster: ClusterId(Hash([7; 32])),
            ping: Duration::from_secs(5),
            unused: Duration::from_secs(60),
        },
    };
    let (net, events, driver) = net::start(config, CancellationToken::new()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    Host { id, addr, net, events, tasks }
}

/// A host that serves what is in its store.
async fn honest(store: &BlobStore) -> Host {
    let mut host = host().await;
    let exchange = Exchange::new(host.net.clone(), store.clone());
    let (_gone, none) = mpsc::channel(1);
    let mut events = std::mem::replace(&mut host.events, none);
    host.tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Some(event) = events.recv().await {
            if let NetEvent::Inbound { peer, stream, .. } = event {
                let exchange = exchange.clone();
                streams.spawn(async move { exchange.serve(peer, stream).await });
            }
        }
    });
    host
}

/// A host that says it has everything, shows this layer, and sends noise for pieces.
async fn liar(blob: BlobRef, layer: Vec<u8>, asked: Arc<AtomicBool>) -> Host {
    let mut host = host().await;
    let (_gone, none) = mpsc::channel(1);
    let mut events = std::mem::replace(&mut host.events, none);
    host.tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Some(event) = events.recv().await {
            if let NetEvent::Inbound { stream, .. } = event {
                streams.spawn(lie(stream, blob, layer.clone(), Arc::clone(&asked)));
            }
        }
    });
    host
}

async fn lie(stream: NetStream, blob: BlobRef, layer: Vec<u8>, asked: Arc<AtomicBool>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut body = Vec::new();
    let count = AtomicU64::new(0);
    while let Ok(Some(header)) =
        wire::read(&mut reader, Direction::ToSource, &mut body, &count).await
    {
        let mut out = Vec::new();
        match ToSource::decode(header, &body).unwrap() {
            ToSource::Open { .. } => {
                let have = Bitmap::full(blob.pieces());
                ToDownloader::Opened { blob, seeding: false, have }.encode(&mut out);
            }
            ToSource::GetLayer { from } => {
                asked.store(true, Ordering::SeqCst);
                ToDownloader::Layer { from, bytes: &layer }.encode(&mut out);
            }
            ToSource::Request { piece } => {
                let range = blob.range(piece).unwrap();
                let len = (range.end - range.start) as usize;
                out.extend_from_slice(&piece_prefix(piece, len as u32));
                out.extend(std::iter::repeat_n(7u8, len));
            }
            ToSource::Direct => ToDownloader::Ticket(None).encode(&mut out),
            ToSource::Cancel { .. } => {}
        }
        if wire::write(&mut writer, &[&out]).await.is_err() {
            return;
        }
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7 % 251) as u8).collect()
}

/// A store in a directory of its own.
fn store() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, store)
}

/// All at the site of the reader.
fn near(own: NodeId, nodes: &[NodeId]) -> Candidates {
    let peers = nodes.iter().map(|n| Source { node: *n, place: Place::Site });
    Candidates { own, peers: peers.collect() }
}

/// Fetches 3 MB from a liar with this layer (or the right one) and an honest source.
async fn fetch_beside_a_liar(layer: Option<Vec<u8>>) -> (BlobRef, super::Fetched) {
    let data = content(3_000_000);
    let ((_d1, full), (_d2, empty)) = (store(), store());
    let blob = full.ingest(&mut data.as_slice(), data.len() as u64).unwrap();
    let layer = layer.unwrap_or_else(|| full.layer(&blob.root).unwrap().as_bytes().to_vec());
    let asked = Arc::new(AtomicBool::new(false));
    let liar = liar(blob, layer, Arc::clone(&asked)).await;
    let (source, reader) = (honest(&full).await, host().await);
    for other in [&liar, &source] {
        reader.net.dial(Some(other.id), std::slice::from_ref(&other.addr)).await.unwrap();
    }
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    // the layer is asked of the liar first
    let (first, both) = (vec![liar.id], vec![liar.id, source.id]);
    let sources = move || if asked.load(Ordering::SeqCst) { both.clone() } else { first.clone() };
    let own = reader.id;
    let fetch = exchange.fetch(blob, Box::new(move || near(own, &sources())));
    let fetched = tokio::time::timeout(Duration::from_secs(30), fetch).await.unwrap().unwrap();
    assert_eq!(fetched.sources, 1, "only the honest one gave a piece");
    assert_eq!(std::fs::read(empty.path(&blob.root).unwrap()).unwrap(), data);
    (blob, fetched)
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_a_peer_that_sends_wrong_bytes_is_banned_and_others_are_asked() {
    let (blob, fetched) = fetch_beside_a_liar(None).await;
    let wrong = fetched.received - fetched.duplicate - blob.len();
    assert!(wrong > 0, "the liar was asked");
    assert!(wrong <= 4 * blob.piece_len(), "and not again after the first lie: {wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_a_peer_that_shows_a_wrong_layer_is_banned_before_any_piece() {
    let (blob, fetched) = fetch_beside_a_liar(Some(vec![7; 32 * 46])).await;
    assert_eq!(fetched.received - fetched.duplicate, blob.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_come_from_several_holders_at_once_and_a_fetch_is_taken_up_again() {
    let data = content(8_000_000);
    let ((_d1, one), (_d2, two), (_d3, empty)) = (store(), store(), store());
    let blob = one.ingest(&mut data.as_slice(), data.len() as u64).unwrap();
    two.ingest(&mut data.as_slice(), data.len() as u64).unwrap();
    // a part is here already, as after a restart
    empty.begin(&one.layer(&blob.root).unwrap()).unwrap();
    let mut bytes = Vec::new();
    for piece in blob.indices().take(20) {
        one.read_piece(&blob.root, piece, &mut bytes).unwrap();
        empty.put_piece(&blob.root, piece, &bytes).unwrap();
    }
    let (a, b, reader) = (honest(&one).await, honest(&two).await, host().await);
    for other in [&a, &b] {
        reader.net.dial(Some(other.id), std::slice::from_ref(&other.addr)).await.unwrap();
    }
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let (own, order) = (reader.id, [a.id, b.id]);
    let fetch = exchange.fetch(blob, Box::new(move || near(own, &order)));
    let fetched = tokio::time::timeout(Duration::from_secs(30), fetch).await.unwrap().unwrap();
    assert_eq!(fetched.sources, 2);
    let new = fetched.received - fetched.duplicate;
    assert_eq!(new, blob.len() - 20 * blob.piece_len(), "what was here is not fetched again");
    assert_eq!(std::fs::read(empty.path(&blob.root).unwrap()).unwrap(), data);
}

#[tokio::test]
async fn a_fetch_that_finds_nobody_says_so() {
    let (_dir, empty) = store();
    let reader = host().await;
    let exchange = Exchange::new(reader.net.clone(), empty);
    let blob = BlobRef::new(Hash([1; 32]), 1_000_000).unwrap();
    tokio::time::pause();
    let own = reader.id;
    let fetched = exchange.fetch(blob, Box::new(move || near(own, &[]))).await;
    assert!(matches!(fetched, Err(FetchError::Starved)), "{fetched:?}");
}
