//! A link over a pipe in memory.

use tokio::io::{AsyncWriteExt, DuplexStream};

use super::super::tests::{Host, content, host, store};
use super::*;

const PEER: NodeId = NodeId(p2pinst_types::PublicKey([1; 32]));

/// A link to a source that is written by hand, for a blob that was begun.
struct Pipe {
    link: Link,
    source: DuplexStream,
    events: mpsc::Receiver<(Origin, Event)>,
    useful: Arc<AtomicU64>,
    blob: BlobRef,
    data: Vec<u8>,
    store: BlobStore,
    tasks: JoinSet<()>,
    _host: Host,
    _dirs: [tempfile::TempDir; 2],
}

impl Pipe {
    async fn new() -> Self {
        let data = content(300_000);
        let ((d1, full), (d2, empty)) = (store(), store());
        let blob = full.ingest(&mut data.as_slice(), data.len() as u64).unwrap();
        empty.begin(&full.layer(&blob.root).unwrap()).unwrap();
        let host = host().await;
        let (events_tx, events) = mpsc::channel(99);
        let (link, requests) = queue(7);
        let useful = Arc::default();
        let task = Task {
            exchange: Exchange::new(host.net.clone(), empty.clone()),
            root: blob.root,
            bulk: false,
            from: Origin { peer: PEER, link: 7 },
            addrs: Vec::new(),
            requests,
            events: events_tx,
            bytes: Arc::default(),
            useful: Arc::clone(&useful),
        };
        let (source, ours) = tokio::io::duplex(1 << 20);
        let (reader, writer) = tokio::io::split(ours);
        let line = Line { reader: Box::new(reader), writer: Box::new(writer), hold: None };
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run_over(async { Ok(line) }));
        let _dirs = [d1, d2];
        Self { link, source, events, useful, blob, data, store: empty, tasks, _host: host, _dirs }
    }

    async fn say(&mut self, message: ToDownloader<'_>) {
        let mut out = Vec::new();
        message.encode(&mut out);
        self.source.write_all(&out).await.unwrap();
    }

    async fn say_opened(&mut self) {
        let (blob, have) = (self.blob, Bitmap::full(self.blob.pieces()));
        self.say(ToDownloader::Opened { blob, seeding: false, have, recipe: None }).await;
        assert!(matches!(self.event().await, Event::Opened { .. }));
    }

    async fn say_piece(&mut self, piece: PieceIndex) {
        let range = self.blob.range(piece).unwrap();
        let bytes = self.data[range.start as usize..range.end as usize].to_vec();
        self.say(ToDownloader::Piece { piece, bytes: &bytes }).await;
    }

    async fn event(&mut self) -> Event {
        let (from, event) = self.events.recv().await.unwrap();
        assert_eq!(from, Origin { peer: PEER, link: 7 });
        event
    }

    fn useful(&self) -> u64 {
        self.useful.load(Ordering::Relaxed)
    }
}

#[test]
fn a_piece_is_told_also_when_its_link_is_dropped_while_it_is_stored() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let mut pipe = Pipe::new().await;
        pipe.say_opened().await;
        // the disk is busy
        let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
        let busy = tokio::task::spawn_blocking(move || released.recv());
        assert!(pipe.link.send(ToSource::Request { piece: PieceIndex(1) }));
        assert!(pipe.link.owes());
        pipe.say_piece(PieceIndex(1)).await;
        while pipe.useful() < pipe.blob.piece_len() {
            tokio::task::yield_now().await;
        }
        let Pipe { link, mut events, store, mut tasks, blob, .. } = pipe;
        drop(link);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(events.try_recv().is_err());
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        let (_, event) = events.recv().await.unwrap();
        assert!(
            matches!(event, Event::Stored { piece: PieceIndex(1), put: Put::New }),
            "{event:?}"
        );
        assert!(store.status(&blob.root).unwrap().have.get(PieceIndex(1)));
        assert!(matches!(events.recv().await.unwrap().1, Event::Closed(_)));
        tasks.join_next().await.unwrap().unwrap();
    });
}

#[tokio::test]
async fn only_what_was_asked_for_is_useful() {
    let mut pipe = Pipe::new().await;
    pipe.say_opened().await;
    let len = pipe.blob.piece_len();
    pipe.say_piece(PieceIndex(0)).await;
    assert!(matches!(pipe.event().await, Event::Stored { put: Put::New, .. }));
    assert_eq!(pipe.useful(), 0, "nobody asked for it");
    for piece in [1, 2].map(PieceIndex) {
        assert!(pipe.link.send(ToSource::Request { piece }));
    }
    assert!(pipe.link.send(ToSource::Cancel { piece: PieceIndex(2) }));
    for piece in [1, 1, 2].map(PieceIndex) {
        pipe.say_piece(piece).await;
        assert!(matches!(pipe.event().await, Event::Stored { .. }));
    }
    assert_eq!(pipe.useful(), len, "once, and nothing that was taken back");
    assert!(!pipe.link.owes());
    let (piece, reason) = (PieceIndex(3), Refusal::Busy);
    assert!(pipe.link.send(ToSource::Request { piece }) && pipe.link.owes());
    pipe.say(ToDownloader::Refused { piece, reason, others: Vec::new() }).await;
    assert!(matches!(pipe.event().await, Event::Refused { .. }));
    assert!(!pipe.link.owes());
}

#[tokio::test]
async fn a_piece_is_no_longer_than_those_of_the_blob() {
    let mut pipe = Pipe::new().await;
    pipe.say_opened().await;
    let long = u32::try_from(pipe.blob.piece_len()).unwrap() + 1;
    let prefix = p2pinst_chunks::wire::piece_prefix(PieceIndex(0), long);
    pipe.source.write_all(&prefix).await.unwrap();
    assert!(matches!(pipe.event().await, Event::Closed(_)), "before any of it has come");
    // and before it is known which blob it is, there are none
    let mut pipe = Pipe::new().await;
    pipe.say_piece(PieceIndex(0)).await;
    assert!(matches!(pipe.event().await, Event::Closed(_)));
}

#[tokio::test]
async fn a_refusal_instead_of_an_answer_says_that_there_are_takers_enough() {
    let mut pipe = Pipe::new().await;
    let (piece, reason) = (PieceIndex(0), Refusal::Busy);
    pipe.say(ToDownloader::Refused { piece, reason, others: vec![PEER] }).await;
    assert!(matches!(pipe.event().await, Event::Full { others } if others == [PEER]));
}
