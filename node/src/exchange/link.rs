//! The downloader's side of one stream: from one source, for one blob.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use p2pinst_chunks::recipe::Named;
use p2pinst_chunks::store::PutError;
use p2pinst_chunks::wire::{Direction, Refusal, ToDownloader, ToSource};
use p2pinst_chunks::{Bitmap, BlobStore, Put};
use p2pinst_types::{BlobRef, Hash, NodeId, PieceIndex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::limits::{Flow, Way};
use super::line::{self, Hold, Line};
use super::{Exchange, wire};

/// Requests that may wait to be written.
const QUEUE: usize = 512;

/// What a source has said, or what became of what it sent.
#[derive(Debug)]
pub(super) enum Event {
    /// It has the blob, or a part of it.
    Opened { blob: BlobRef, seeding: bool, have: Bitmap, recipe: Option<Named> },
    /// It seeds the blob, and offers these pieces.
    Offered(Vec<PieceIndex>),
    /// It seeds the blob no more.
    Free,
    /// It does not.
    NotFound,
    /// A page of the piece layer.
    Layer { from: PieceIndex, bytes: Vec<u8> },
    /// It has more.
    Have(Vec<PieceIndex>),
    /// A piece was verified and stored.
    Stored { piece: PieceIndex, put: Put },
    /// A piece was not what it was said to be.
    Bad { piece: PieceIndex },
    /// A piece could not be stored.
    Disk(PutError),
    /// It will not send a piece.
    Refused { piece: PieceIndex, reason: Refusal, others: Vec<NodeId> },
    /// The stream is over.
    Closed(String),
    /// The DHT says that this peer has the blob.
    Found,
}

/// A source, from the fetch's point of view.
#[derive(Debug)]
pub(super) struct Link {
    tx: mpsc::Sender<ToSource>,
}

impl Link {
    /// Sends a message; whether there was room.
    pub(super) fn send(&self, message: ToSource) -> bool {
        self.tx.try_send(message).is_ok()
    }
}

/// The queue between a fetch and a link's task.
pub(super) fn queue() -> (Link, mpsc::Receiver<ToSource>) {
    let (tx, rx) = mpsc::channel(QUEUE);
    (Link { tx }, rx)
}

/// Everything that a link's task needs.
pub(super) struct Task {
    pub(super) exchange: Exchange,
    pub(super) root: Hash,
    /// Whether there is enough to fetch to make a bulk connection for it.
    pub(super) bulk: bool,
    pub(super) peer: NodeId,
    pub(super) addrs: Vec<String>,
    pub(super) requests: mpsc::Receiver<ToSource>,
    pub(super) events: mpsc::Sender<(NodeId, Event)>,
    /// Counts the bytes that come.
    pub(super) bytes: Arc<AtomicU64>,
}

impl Task {
    /// Runs until the stream or the fetch ends.
    pub(super) async fn run(self) {
        let (peer, events) = (self.peer, self.events.clone());
        let reason = match self.connect_and_pump().await {
            Ok(()) => "it closed the stream".to_owned(),
            Err(reason) => reason,
        };
        drop(events.send((peer, Event::Closed(reason))).await);
    }

    async fn connect_and_pump(self) -> Result<(), String> {
        let Self { exchange, root, bulk, peer, addrs, requests, events, bytes } = self;
        let indirect = bulk.then_some(&exchange.shared.indirect);
        let opened = line::open(&exchange.net, indirect, peer, &addrs).await;
        let Line { reader, mut writer, hold } = opened?;
        let flow = exchange.limits().flow(Way::Down, peer, root);
        let mut open = Vec::new();
        ToSource::Open { root }.encode(&mut open);
        wire::write(&mut writer, &[&open]).await.map_err(|e| e.to_string())?;
        tokio::select! {
            read = read_all(reader, (&bytes, &flow), exchange.blobs, root, peer, events) => read,
            written = write_all(writer, requests) => written,
            ended = Hold::ended(hold) => ended,
        }
        .map_err(|e| e.to_string())
    }
}

/// Writes requests, as many in one go as are waiting.
async fn write_all<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut requests: mpsc::Receiver<ToSource>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    while let Some(request) = requests.recv().await {
        bytes.clear();
        request.encode(&mut bytes);
        while let Ok(request) = requests.try_recv() {
            request.encode(&mut bytes);
        }
        wire::write(&mut writer, &[&bytes]).await?;
    }
    Ok(())
}

async fn read_all<R: AsyncRead + Unpin>(
    mut reader: R,
    (count, flow): (&AtomicU64, &Flow),
    blobs: BlobStore,
    root: Hash,
    peer: NodeId,
    events: mpsc::Sender<(NodeId, Event)>,
) -> io::Result<()> {
    let mut body = Vec::new();
    while let Some(header) =
        wire::read(&mut reader, Direction::ToDownloader, &mut body, count, Some(flow)).await?
    {
        let event = match ToDownloader::decode(header, wire::taken(header, &body))
            .map_err(wire::invalid)?
        {
            ToDownloader::Opened { blob, seeding, have, recipe } => {
                Event::Opened { blob, seeding, have, recipe }
            }
            ToDownloader::Offer { pieces } => Event::Offered(pieces),
            ToDownloader::Free => Event::Free,
            ToDownloader::NotFound { .. } => Event::NotFound,
            ToDownloader::Ticket(_) => return Err(io::ErrorKind::InvalidData.into()),
            ToDownloader::Layer { from, bytes } => Event::Layer { from, bytes: bytes.to_vec() },
            ToDownloader::Have { pieces } => Event::Have(pieces),
            ToDownloader::Refused { piece, reason, others } => {
                Event::Refused { piece, reason, others }
            }
            ToDownloader::Piece { piece, bytes } => {
                let end = header.body_len();
                let at = end - bytes.len()..end;
                store(&blobs, root, piece, &mut body, at).await?
            }
        };
        if events.send((peer, event)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Verifies and stores a piece on a blocking thread; the buffer goes there and comes back.
async fn store(
    blobs: &BlobStore,
    root: Hash,
    piece: PieceIndex,
    body: &mut Vec<u8>,
    at: std::ops::Range<usize>,
) -> io::Result<Event> {
    let (blobs, bytes) = (blobs.clone(), std::mem::take(body));
    let (result, bytes) = tokio::task::spawn_blocking(move || {
        let result = blobs.put_piece(&root, piece, bytes.get(at).unwrap_or_default());
        (result, bytes)
    })
    .await?;
    *body = bytes;
    Ok(match result {
        Ok(put) => Event::Stored { piece, put },
        Err(PutError::Bad(_)) => Event::Bad { piece },
        Err(error) => Event::Disk(error),
    })
}
