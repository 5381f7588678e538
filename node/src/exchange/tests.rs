//! The exchange over real connections on loopback, with peers that do not behave.

mod delta;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use p2pinst_chunks::fetch::Place;
use p2pinst_chunks::wire::{Direction, ToDownloader, ToSource, piece_prefix};
use p2pinst_chunks::{Bitmap, BlobStore, PieceLayer};
use p2pinst_trust::{Refusal, SecretKey};
use p2pinst_types::{BlobRef, ClusterId, Hash, NodeId, PublicKey, Rates};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Candidates, Exchange, FetchError, Limits, Ordered, Places, Source, line, lock, wire};
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

pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) addr: String,
    pub(crate) net: Net,
    events: mpsc::Receiver<NetEvent>,
    tasks: JoinSet<()>,
}

impl Host {
    /// Answers each stream that somebody opens to it, in a task of its own.
    fn answer<F>(&mut self, answer: impl Fn(NodeId, NetStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (_gone, none) = mpsc::channel(1);
        let mut events = std::mem::replace(&mut self.events, none);
        self.tasks.spawn(async move {
            let mut streams = JoinSet::new();
            while let Some(event) = events.recv().await {
                if let NetEvent::Inbound { peer, stream, .. } = event {
                    streams.spawn(answer(peer, stream));
                }
            }
        });
    }

    /// Answers them from what is in the exchange's store.
    fn serve(&mut self, exchange: &Exchange) {
        let exchange = exchange.clone();
        self.answer(move |peer, stream| {
            let exchange = exchange.clone();
            async move { exchange.serve(peer, stream).await }
        });
    }

    /// Connects to others.
    async fn meet<'a>(&self, others: impl IntoIterator<Item = &'a Host>) {
        for other in others {
            self.net.dial(Some(other.id), std::slice::from_ref(&other.addr)).await.unwrap();
        }
    }
}

/// A host on a loopback address of its own.
pub(crate) async fn host() -> Host {
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
pub(crate) async fn honest(store: &BlobStore) -> Host {
    limited(store, Limits::default()).await.0
}

/// The same with limits.
pub(super) async fn limited(store: &BlobStore, limits: Limits) -> (Host, Exchange) {
    let mut host = host().await;
    host.tasks.spawn(limits.clone().keep_time());
    let exchange = Exchange::with(host.net.clone(), store.clone(), limits, Places::default());
    host.serve(&exchange);
    (host, exchange)
}

/// A host that says it has everything, shows this layer, and sends noise for pieces.
async fn liar(blob: BlobRef, layer: Vec<u8>, asked: Arc<AtomicBool>) -> Host {
    let mut host = host().await;
    host.answer(move |_, stream| lie(stream, blob, layer.clone(), Arc::clone(&asked)));
    host
}

async fn lie(stream: NetStream, blob: BlobRef, layer: Vec<u8>, asked: Arc<AtomicBool>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut body = Vec::new();
    let count = AtomicU64::new(0);
    while let Ok(Some(header)) =
        wire::read(&mut reader, Direction::ToSource, &mut body, &count, None).await
    {
        let mut out = Vec::new();
        match ToSource::decode(header, wire::taken(header, &body)).unwrap() {
            ToSource::Open { .. } => {
                let have = Bitmap::full(blob.pieces());
                ToDownloader::Opened { blob, seeding: false, have, recipe: None }.encode(&mut out);
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
            ToSource::RequestParts { .. } | ToSource::Held { .. } | ToSource::Cancel { .. } => {}
        }
        if wire::write(&mut writer, &[&out]).await.is_err() {
            return;
        }
    }
}

/// A host that takes streams, and never says a word; or only that it has everything.
async fn silent(claims: Option<BlobRef>) -> Host {
    let mut host = host().await;
    host.answer(move |_, stream| be_silent(stream, claims));
    host
}

async fn be_silent(stream: NetStream, claims: Option<BlobRef>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (mut body, count) = (Vec::new(), AtomicU64::new(0));
    while let Ok(Some(header)) =
        wire::read(&mut reader, Direction::ToSource, &mut body, &count, None).await
    {
        let mut out = Vec::new();
        match (ToSource::decode(header, wire::taken(header, &body)).unwrap(), claims) {
            (ToSource::Direct, _) => ToDownloader::Ticket(None).encode(&mut out),
            (ToSource::Open { .. }, Some(blob)) => {
                let have = Bitmap::full(blob.pieces());
                ToDownloader::Opened { blob, seeding: false, have, recipe: None }.encode(&mut out);
            }
            _ => continue,
        }
        if wire::write(&mut writer, &[&out]).await.is_err() {
            return;
        }
    }
}

pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7 % 251) as u8).collect()
}

/// A store in a directory of its own.
pub(crate) fn store() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, store)
}

/// A store that has this.
fn holding(data: &[u8]) -> (tempfile::TempDir, BlobStore, BlobRef) {
    let (dir, store) = store();
    let blob = store.ingest(&mut &data[..], data.len() as u64).unwrap();
    (dir, store, blob)
}

/// A reader whose own id does not matter.
pub(super) const NOBODY: NodeId = NodeId(PublicKey([0; 32]));

/// All at the site of the reader.
pub(super) fn near(own: NodeId, nodes: &[NodeId]) -> Candidates {
    let peers = nodes.iter().map(|n| Source { node: *n, place: Place::Site });
    Candidates { own, peers: peers.collect() }
}

/// Fetches 3 MB from a liar with this layer (or the right one) and an honest source.
async fn fetch_beside_a_liar(layer: Option<Vec<u8>>) -> (BlobRef, super::Fetched) {
    let data = content(3_000_000);
    let ((_d1, full, blob), (_d2, empty)) = (holding(&data), store());
    let layer = layer.unwrap_or_else(|| full.layer(&blob.root).unwrap().as_bytes().to_vec());
    let asked = Arc::new(AtomicBool::new(false));
    let liar = liar(blob, layer, Arc::clone(&asked)).await;
    let (source, reader) = (honest(&full).await, host().await);
    reader.meet([&liar, &source]).await;
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
    let ((_d1, one, blob), (_d2, two, _)) = (holding(&data), holding(&data));
    let (_d3, empty) = store();
    // a part is here already, as after a restart
    empty.begin(&one.layer(&blob.root).unwrap()).unwrap();
    let mut bytes = Vec::new();
    for piece in blob.indices().take(20) {
        one.read_piece(&blob.root, piece, &mut bytes).unwrap();
        empty.put_piece(&blob.root, piece, &bytes).unwrap();
    }
    let (a, b, reader) = (honest(&one).await, honest(&two).await, host().await);
    reader.meet([&a, &b]).await;
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let (own, order) = (reader.id, [a.id, b.id]);
    let fetch = exchange.fetch(blob, Box::new(move || near(own, &order)));
    let fetched = tokio::time::timeout(Duration::from_secs(30), fetch).await.unwrap().unwrap();
    assert_eq!(fetched.sources, 2);
    let new = fetched.received - fetched.duplicate;
    assert_eq!(new, blob.len() - 20 * blob.piece_len(), "what was here is not fetched again");
    assert_eq!(std::fs::read(empty.path(&blob.root).unwrap()).unwrap(), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_members_do_not_keep_the_places_of_others() {
    let data = content(3_000_000);
    let ((_d1, full, blob), (_d2, empty)) = (holding(&data), store());
    let (source, reader) = (honest(&full).await, host().await);
    // as many as are used at once, and they come first
    let mut hosts = Vec::new();
    for n in 0..super::sources::SOURCES {
        hosts.push(silent((n % 5 == 0).then_some(blob)).await);
    }
    hosts.push(source);
    reader.meet(&hosts).await;
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let order: Vec<NodeId> = hosts.iter().map(|h| h.id).collect();
    let fetch = exchange.fetch(blob, Box::new(move || near(NOBODY, &order)));
    let fetched = tokio::time::timeout(Duration::from_secs(60), fetch).await.unwrap().unwrap();
    assert_eq!(fetched.sources, 1);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_a_bulk_connection_where_one_can_be_made_and_ends_with_the_libp2p_one() {
    let ((_d1, full), reader) = (store(), host().await);
    let source = honest(&full).await;
    reader.meet([&source]).await;
    let indirect = line::Indirect::default();
    // no address is known to connect to: the stream must do, and that is remembered
    let open = || line::open(&reader.net, Some(&indirect), source.id, &[]);
    assert!(open().await.unwrap().hold.is_none());
    reader.net.peers().shown(source.id, vec![source.addr.clone()], 1);
    assert!(open().await.unwrap().hold.is_none());
    let indirect = line::Indirect::default();
    let mut line = line::open(&reader.net, Some(&indirect), source.id, &[]).await.unwrap();
    assert!(line.hold.is_some(), "it is a bulk connection");
    let mut open = Vec::new();
    ToSource::Open { root: Hash([9; 32]) }.encode(&mut open);
    wire::write(&mut line.writer, &[&open]).await.unwrap();
    let (mut body, count) = (Vec::new(), AtomicU64::new(0));
    let read = wire::read(&mut line.reader, Direction::ToDownloader, &mut body, &count, None);
    let header = read.await.unwrap().unwrap();
    let answer = ToDownloader::decode(header, wire::taken(header, &body)).unwrap();
    assert_eq!(answer, ToDownloader::NotFound { root: Hash([9; 32]) });
    let again = line::open(&reader.net, Some(&indirect), source.id, &[]).await.unwrap();
    reader.net.close(source.id).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), line::Hold::ended(again.hold)).await;
    assert!(ended.is_ok(), "who is disconnected has no line left");
}

/// Finds out what a root stands for from these hosts, and keeps what proved it.
async fn located(hosts: &[Host], root: Hash) -> Option<BlobRef> {
    let reader = host().await;
    reader.meet(hosts).await;
    let sources: Vec<NodeId> = hosts.iter().map(|h| h.id).collect();
    let (_dir, empty) = store();
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let located = exchange.locate(root, || sources.clone()).await.ok()?;
    let blob = located.blob();
    exchange.adopt(located).await.unwrap();
    let have = empty.status(&root).unwrap().have.count();
    assert_eq!(have, 1, "what proved it is kept");
    Some(blob)
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_the_length_of_a_bare_root_is_proved_and_not_believed() {
    for len in [5, 65_536, 3_000_000] {
        let data = content(len);
        let (_dir, full, blob) = holding(&data);
        let longer = BlobRef::new(blob.root, blob.len() + 1).unwrap();
        let other = BlobRef::new(blob.root, 10 << 20).unwrap();
        let mut hosts = vec![honest(&full).await];
        // two who say the same are asked first, and prove nothing
        for claim in [longer, longer, other] {
            hosts.push(liar(claim, vec![7; 32], Arc::new(AtomicBool::new(false))).await);
        }
        assert_eq!(located(&hosts, blob.root).await, Some(blob));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_root_stands_for_is_asked_of_nobody_while_the_blob_is_fetched() {
    let (_d1, full, blob) = holding(&content(3_000_000));
    let ((_d2, empty), (source, reader)) = (store(), (honest(&full).await, host().await));
    reader.meet([&source]).await;
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let turn = exchange.turn_to_fetch(blob.root);
    let held = turn.lock().await;
    let asked = AtomicU64::new(0);
    let sources = || {
        asked.fetch_add(1, Ordering::SeqCst);
        vec![source.id]
    };
    let begin = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        empty.begin(&full.layer(&blob.root).unwrap()).unwrap();
    };
    let (located, ()) = tokio::join!(exchange.locate(blob.root, sources), begin);
    let located = located.unwrap();
    assert_eq!((located.blob(), asked.load(Ordering::SeqCst)), (blob, 0));
    drop(held);
    exchange.adopt(located).await.unwrap();
    assert_eq!(empty.status(&blob.root).unwrap().have.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_that_never_come_to_the_proof_hold_up_nobody() {
    let (_dir, full, blob) = holding(&content(3_000_000));
    let mut hosts = vec![honest(&full).await];
    // more than may prove something at once say the same, and are the first to be believed; and
    // another says something else
    for _ in 0..5 {
        hosts.push(silent(BlobRef::new(blob.root, 10 << 20).ok()).await);
    }
    hosts.push(silent(BlobRef::new(blob.root, 20 << 20).ok()).await);
    let found = located(&hosts, blob.root);
    // a minute is for those that do something, and these are not asked twice
    let found = tokio::time::timeout(Duration::from_secs(50), found).await;
    assert_eq!(found, Ok(Some(blob)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_blob_is_removed_says_so_and_others_go_on() {
    let data = content(8_000_000);
    let ((_d1, one, blob), (_d2, two, _)) = (holding(&data), holding(&data));
    let (_d3, empty) = store();
    let (a, b, reader) = (honest(&one).await, host().await, host().await);
    // b serves until a piece has come, and then no more
    let gone = Exchange::new(b.net.clone(), two.clone());
    let mut b = b;
    b.serve(&gone);
    reader.meet([&a, &b]).await;
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    // only the one that will lose it at first
    let (first, both) = (vec![b.id], vec![b.id, a.id]);
    let removed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&removed);
    let sources = move || if seen.load(Ordering::SeqCst) { both.clone() } else { first.clone() };
    let sources = move || near(NOBODY, &sources());
    let fetch = exchange.fetch(blob, Box::new(sources));
    tokio::pin!(fetch);
    let begun = async {
        while empty.status(&blob.root).is_none_or(|s| s.have.count() < 3) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = &mut fetch => panic!("it was too fast for this test"),
        () = begun => {}
    }
    let losing = gone.clone();
    assert!(tokio::task::spawn_blocking(move || losing.remove(&blob.root)).await.unwrap().unwrap());
    removed.store(true, Ordering::SeqCst);
    let fetched = tokio::time::timeout(Duration::from_secs(30), fetch).await.unwrap().unwrap();
    assert_eq!(fetched.sources, 2);
    assert_eq!(fetched.received - fetched.duplicate, blob.len());
    assert_eq!(std::fs::read(empty.path(&blob.root).unwrap()).unwrap(), data);
    assert!(gone.serving().is_empty() && gone.blobs().status(&blob.root).is_none());
}

pub(super) fn rates(text: &str) -> Rates {
    let mut rates = Rates::default();
    let (name, limit) = text.split_once('=').unwrap();
    *rates.by_name(name).unwrap() = Some(limit.parse().unwrap());
    rates
}

/// Fetches 3 MB under these limits, and returns how long it took.
async fn time_under(source: &str, reader: &str) -> Duration {
    let data = content(3_000_000);
    let ((_d1, full, blob), (_d2, empty)) = (holding(&data), store());
    let limits = |text: &str| {
        let limits = Limits::default();
        limits.set(rates(text), None).unwrap();
        limits
    };
    let (source, _) = limited(&full, limits(source)).await;
    let (reader, exchange) = limited(&empty, limits(reader)).await;
    reader.meet([&source]).await;
    let begun = std::time::Instant::now();
    let looked = Arc::new(AtomicU64::new(0));
    let sources = {
        let looked = Arc::clone(&looked);
        move || {
            looked.fetch_add(1, Ordering::Relaxed);
            near(NOBODY, &[source.id])
        }
    };
    let fetch = exchange.fetch(blob, Box::new(sources));
    tokio::time::timeout(Duration::from_secs(60), fetch).await.unwrap().unwrap();
    assert_eq!(std::fs::read(empty.path(&blob.root).unwrap()).unwrap(), data);
    // who may have the blob is not looked at all the time
    let (looked, time) = (looked.load(Ordering::Relaxed), begun.elapsed());
    assert!(looked <= 2 * time.as_secs() + 6, "{looked} times in {time:?}");
    time
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_who_sends_and_for_who_receives() {
    // slower is always possible on a machine that is at work; faster never
    let (up, down) =
        tokio::join!(time_under("up=1MB/s", "up=1MB/s"), time_under("down=1MB/s", "down=1MB/s"));
    for time in [up, down] {
        assert!(time >= Duration::from_millis(2500), "{time:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_source_names_others_and_only_members_are_tried() {
    let data = content(3_000_000);
    let ((_d1, one, blob), (_d2, two, _)) = (holding(&data), holding(&data));
    let (_d3, empty) = store();
    let (busy, exchange) = limited(&one, Limits::default()).await;
    let (other, reader) = (honest(&two).await, host().await);
    lock(&exchange.shared.uploads).serve.throttle(Some(0));
    for unknown in 0..5 {
        exchange.shared.holders.note(blob.root, NodeId(PublicKey([unknown; 32])));
    }
    exchange.shared.holders.note(blob.root, other.id);
    reader.meet([&busy, &other]).await;
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let fetch = exchange.fetch(blob, Box::new(move || near(NOBODY, &[busy.id])));
    let fetched = tokio::time::timeout(Duration::from_secs(30), fetch).await.unwrap().unwrap();
    assert_eq!((fetched.sources, fetched.received), (1, blob.len()));
    assert_eq!(exchange.shared.holders.some(&blob.root, &busy.id, 8), [other.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_in_other_pieces_begins_anew() {
    let data = content(100_000);
    let ((_d1, one, blob), (_d2, empty)) = (holding(&data), store());
    let other = BlobRef::with_piece_log2(blob.root, blob.len(), 17).unwrap();
    empty.begin(&PieceLayer::new(other, blob.root.0.to_vec()).unwrap()).unwrap();
    let (source, reader) = (honest(&one).await, host().await);
    reader.meet([&source]).await;
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let fetch = exchange.fetch(blob, Box::new(move || near(NOBODY, &[source.id])));
    let fetched = tokio::time::timeout(Duration::from_secs(30), fetch).await.unwrap().unwrap();
    assert_eq!(fetched.received, blob.len());
    let status = empty.status(&blob.root).unwrap();
    assert_eq!((status.blob, status.complete), (blob, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_urgent_overtakes_what_was_there_first() {
    let (big, small) = (content(12_000_000), content(2_000_000));
    let ((_d1, full), (_d2, empty)) = (store(), store());
    let big = full.ingest(&mut big.as_slice(), big.len() as u64).unwrap();
    let small = full.ingest(&mut small.as_slice(), small.len() as u64).unwrap();
    let limits = Limits::default();
    limits.set(rates("up=3MB/s"), None).unwrap();
    let (source, serving) = limited(&full, limits).await;
    let (reader, fetching) = limited(&empty, Limits::default()).await;
    for exchange in [&serving, &fetching] {
        exchange.set_orders([(small.root, Ordered { urgent: true, limit: None })].into());
    }
    reader.meet([&source]).await;
    let source = source.id;
    let first = fetching.fetch(big, Box::new(move || near(NOBODY, &[source])));
    let mut first = std::pin::pin!(first);
    let begun = async {
        while empty.status(&big.root).is_none_or(|s| s.have.count() < 3) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ended = &mut first => panic!("too early: {ended:?}"),
        () = begun => {}
    }
    let urgent = fetching.fetch(small, Box::new(move || near(NOBODY, &[source])));
    tokio::select! {
        biased;
        ended = urgent => drop(ended.unwrap()),
        _ = &mut first => panic!("the urgent one is not there"),
    }
    let rest = tokio::time::timeout(Duration::from_secs(60), first).await.unwrap().unwrap();
    assert_eq!(rest.sources, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_want_the_same_fetch_it_once() {
    let data = content(8_000_000);
    let ((_d1, full, blob), (_d2, empty)) = (holding(&data), store());
    let (source, reader) = (honest(&full).await, host().await);
    reader.meet([&source]).await;
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let source = source.id;
    let fetch = || exchange.fetch(blob, Box::new(move || near(NOBODY, &[source])));
    let both = async { tokio::join!(fetch(), fetch()) };
    let (one, two) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.received + two.received, blob.len());
    assert_eq!(std::fs::read(empty.path(&blob.root).unwrap()).unwrap(), data);
}
