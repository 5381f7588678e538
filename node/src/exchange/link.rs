//! The downloader's side of one stream: from one source, for one blob.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use p2pinst_chunks::recipe::{Named, PARTS};
use p2pinst_chunks::store::PutError;
use p2pinst_chunks::wire::{Direction, Header, PIECE_NUMBER, Refusal, ToDownloader, ToSource};
use p2pinst_chunks::{Bitmap, BlobStore, Put};
use p2pinst_types::{BlobRef, Hash, NodeId, PieceIndex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::buffers::Buffers;
use super::limits::{Flow, Way};
use super::line::{self, Hold, Line};
use super::{Exchange, lock, wire};

/// Requests that may wait to be written.
const QUEUE: usize = 512;
/// Bytes of the ranges of parts in their frame, and of their number.
const MAX_RANGES: u64 = PARTS as u64 * 8 + 1;

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
    /// So many bytes of a piece came, which with what is here of it was verified and stored.
    StoredParts { piece: PieceIndex, put: Put, bytes: u64 },
    /// So many bytes of a piece came, which is wrong with what is here of it.
    BadParts { piece: PieceIndex, bytes: u64 },
    /// A piece was not what it was said to be.
    Bad { piece: PieceIndex },
    /// A piece could not be stored.
    Disk(PutError),
    /// It will not send a piece.
    Refused { piece: PieceIndex, reason: Refusal, others: Vec<NodeId> },
    /// It has takers enough, and names others.
    Full { others: Vec<NodeId> },
    /// The stream is over.
    Closed(String),
    /// The DHT says that this peer has the blob.
    Found,
}

/// Where an event comes from: there may be several links to a peer, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) peer: NodeId,
    /// The number of the link.
    pub(super) link: u64,
}

/// What was asked of a source and not taken back, and has not come.
type Asked = Arc<Mutex<BTreeSet<PieceIndex>>>;

/// A source, from the fetch's point of view. Its task ends when this is dropped.
#[derive(Debug)]
pub(super) struct Link {
    number: u64,
    tx: mpsc::Sender<ToSource>,
    asked: Asked,
    /// Pages of the layer that it was asked for and has not sent.
    pub(super) pages: u32,
    _end: DropGuard,
}

impl Link {
    /// Sends a message; whether there was room.
    pub(super) fn send(&self, message: ToSource) -> bool {
        let (asked, cancelled) = match &message {
            ToSource::Request { piece } | ToSource::RequestParts { piece, .. } => {
                (Some(*piece), None)
            }
            ToSource::Cancel { piece } => (None, Some(*piece)),
            _ => (None, None),
        };
        let sent = self.tx.try_send(message).is_ok();
        let mut waiting = lock(&self.asked);
        waiting.extend(asked.filter(|_| sent));
        if let Some(piece) = cancelled {
            waiting.remove(&piece);
        }
        sent
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether it was asked for a piece that has not come.
    pub(super) fn owes(&self) -> bool {
        !lock(&self.asked).is_empty()
    }
}

/// The other end of a [`Link`].
#[derive(Debug)]
pub(super) struct Requests {
    rx: mpsc::Receiver<ToSource>,
    asked: Asked,
    end: CancellationToken,
}

/// What is between a fetch and a link's task.
pub(super) fn queue(number: u64) -> (Link, Requests) {
    let (tx, rx) = mpsc::channel(QUEUE);
    let (asked, end) = (Asked::default(), CancellationToken::new());
    let guard = end.clone().drop_guard();
    let link = Link { number, tx, asked: Arc::clone(&asked), pages: 0, _end: guard };
    (link, Requests { rx, asked, end })
}

/// Everything that a link's task needs.
pub(super) struct Task {
    pub(super) exchange: Exchange,
    pub(super) root: Hash,
    /// Whether there is enough to fetch to make a bulk connection for it.
    pub(super) bulk: bool,
    pub(super) from: Origin,
    pub(super) addrs: Vec<String>,
    pub(super) requests: Requests,
    pub(super) events: mpsc::Sender<(Origin, Event)>,
    /// Counts the bytes that come.
    pub(super) bytes: Arc<AtomicU64>,
    /// Counts those of pieces that were asked for.
    pub(super) useful: Arc<AtomicU64>,
}

impl Task {
    /// Runs until the stream or the fetch ends, or the link is dropped.
    pub(super) async fn run(self) {
        let (exchange, peer) = (self.exchange.clone(), self.from.peer);
        let (bulk, addrs) = (self.bulk, self.addrs.clone());
        let line = async move {
            let indirect = bulk.then_some(&exchange.shared.indirect);
            line::open(&exchange.net, indirect, peer, &addrs).await
        };
        self.run_over(line).await;
    }

    /// The same over a line. A piece that is just being stored is told all the same.
    async fn run_over(self, line: impl Future<Output = Result<Line, String>>) {
        let (from, events) = (self.from, self.events.clone());
        let end = self.requests.end.clone();
        let mut storing = JoinSet::new();
        let pumping = async {
            let line = line.await?;
            self.pump(line, &mut storing).await.map_err(|e| e.to_string())
        };
        let pumped = end.run_until_cancelled(pumping).await;
        while storing.join_next().await.is_some() {}
        let reason = match pumped {
            None => "it was given up".to_owned(),
            Some(Ok(())) => "it closed the stream".to_owned(),
            Some(Err(reason)) => reason,
        };
        drop(events.send((from, Event::Closed(reason))).await);
    }

    /// Exchanges messages over a line until it ends.
    async fn pump(self, line: Line, storing: &mut JoinSet<()>) -> io::Result<()> {
        let Self { exchange, root, from, requests, events, bytes, useful, .. } = self;
        let Line { reader, mut writer, hold } = line;
        let flow = exchange.limits().flow(Way::Down, from.peer, root);
        let mut open = Vec::new();
        ToSource::Open { root }.encode(&mut open);
        wire::write(&mut writer, &[&open]).await?;
        let Requests { rx, asked, .. } = requests;
        let (blobs, buffers) = (exchange.blobs.clone(), exchange.shared.buffers.clone());
        let incoming =
            Incoming { blobs, buffers, root, from, events, asked, bytes, useful, flow, blob: None };
        tokio::select! {
            read = incoming.read_all(reader, storing) => read,
            written = write_all(writer, rx) => written,
            ended = Hold::ended(hold) => ended,
        }
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

/// What comes over a line, and where it goes.
struct Incoming {
    blobs: BlobStore,
    buffers: Buffers,
    root: Hash,
    from: Origin,
    events: mpsc::Sender<(Origin, Event)>,
    asked: Asked,
    bytes: Arc<AtomicU64>,
    useful: Arc<AtomicU64>,
    flow: Flow,
    /// What the source has opened.
    blob: Option<BlobRef>,
}

impl Incoming {
    async fn read_all<R: AsyncRead + Unpin>(
        mut self,
        mut reader: R,
        storing: &mut JoinSet<()>,
    ) -> io::Result<()> {
        let mut body = Vec::new();
        while let Some(header) = wire::header(&mut reader, Direction::ToDownloader).await? {
            if let Some(len) = header.piece_len() {
                self.read_piece(&mut reader, len, storing).await?;
                continue;
            }
            if header.parts_len().is_some() {
                self.read_parts(&mut reader, header, storing).await?;
                continue;
            }
            body.clear();
            let counted = |n| {
                self.bytes.fetch_add(n, Ordering::Relaxed);
            };
            let (len, flow) = (header.body_len(), Some(&self.flow));
            wire::read_more(&mut reader, &mut body, len, flow, counted).await?;
            let said = ToDownloader::decode(header, &body).map_err(wire::invalid)?;
            let event = self.take_in(said)?;
            if self.events.send((self.from, event)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn take_in(&mut self, said: ToDownloader<'_>) -> io::Result<Event> {
        Ok(match said {
            ToDownloader::Opened { blob, seeding, have, recipe } => {
                self.blob = Some(blob);
                Event::Opened { blob, seeding, have, recipe }
            }
            ToDownloader::Offer { pieces } => Event::Offered(pieces),
            ToDownloader::Free => Event::Free,
            ToDownloader::NotFound { .. } => Event::NotFound,
            ToDownloader::Layer { from, bytes } => Event::Layer { from, bytes: bytes.to_vec() },
            ToDownloader::Have { pieces } => Event::Have(pieces),
            ToDownloader::Refused { others, .. } if self.blob.is_none() => Event::Full { others },
            ToDownloader::Refused { piece, reason, others } => {
                lock(&self.asked).remove(&piece);
                Event::Refused { piece, reason, others }
            }
            ToDownloader::Ticket(_) | ToDownloader::Piece { .. } | ToDownloader::Parts { .. } => {
                return Err(io::ErrorKind::InvalidData.into());
            }
        })
    }

    /// Reads a piece, no longer than those of the blob are; then verifies and stores it on a blocking
    /// thread, which is told also when this is dropped meanwhile.
    async fn read_piece<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        len: usize,
        storing: &mut JoinSet<()>,
    ) -> io::Result<()> {
        let most = self.blob.map_or(0, |b| b.piece_len());
        if u64::try_from(len).is_ok_and(|len| len > most) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut number = [0; PIECE_NUMBER];
        reader.read_exact(&mut number).await?;
        let piece = PieceIndex(u32::from_be_bytes(number));
        let counted = |n| {
            self.bytes.fetch_add(n, Ordering::Relaxed);
            if lock(&self.asked).contains(&piece) {
                self.useful.fetch_add(n, Ordering::Relaxed);
            }
        };
        let mut bytes = self.buffers.take();
        wire::read_more(reader, &mut bytes, len, Some(&self.flow), counted).await?;
        lock(&self.asked).remove(&piece);
        let (blobs, root) = (self.blobs.clone(), self.root);
        let (from, events) = (self.from, self.events.clone());
        storing.spawn(async move {
            let stored = tokio::task::spawn_blocking(move || blobs.put_piece(&root, piece, &bytes));
            // it fails only when the node ends
            let Ok(result) = stored.await else { return };
            let event = match result {
                Ok(put) => Event::Stored { piece, put },
                Err(PutError::Bad(_)) => Event::Bad { piece },
                Err(error) => Event::Disk(error),
            };
            drop(events.send((from, event)).await);
        });
        // one at a time: who sends faster than the disk takes has to wait
        storing.join_next().await;
        Ok(())
    }

    /// The same for parts of a piece, of which the others are here.
    async fn read_parts<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        header: Header,
        storing: &mut JoinSet<()>,
    ) -> io::Result<()> {
        let most = self.blob.map_or(0, |b| b.piece_len()) + MAX_RANGES;
        if header.parts_len().is_none_or(|len| len as u64 > most) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut number = [0; PIECE_NUMBER];
        reader.read_exact(&mut number).await?;
        let piece = PieceIndex(u32::from_be_bytes(number));
        let counted = |n| {
            self.bytes.fetch_add(n, Ordering::Relaxed);
            if lock(&self.asked).contains(&piece) {
                self.useful.fetch_add(n, Ordering::Relaxed);
            }
        };
        let mut body = self.buffers.take();
        body.extend_from_slice(&number);
        let rest = header.body_len().saturating_sub(PIECE_NUMBER);
        wire::read_more(reader, &mut body, rest, Some(&self.flow), counted).await?;
        let said = ToDownloader::decode(header, &body).map_err(wire::invalid)?;
        let ToDownloader::Parts { parts, .. } = said else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        lock(&self.asked).remove(&piece);
        let (blobs, root) = (self.blobs.clone(), self.root);
        let (from, events) = (self.from, self.events.clone());
        storing.spawn(async move {
            let bytes = parts.bytes() as u64;
            let stored = tokio::task::spawn_blocking(move || {
                let start = body.len().saturating_sub(parts.bytes());
                let placed = parts.placed(body.get(start..).unwrap_or_default());
                blobs.put_parts(&root, piece, &placed.unwrap_or_default())
            });
            let Ok(result) = stored.await else { return };
            let event = match result {
                Ok(put) => Event::StoredParts { piece, put, bytes },
                Err(PutError::Bad(_)) => Event::BadParts { piece, bytes },
                Err(error) => Event::Disk(error),
            };
            drop(events.send((from, event)).await);
        });
        storing.join_next().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
