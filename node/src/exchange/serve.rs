//! The source's side of one stream: answers what one downloader asks about one blob.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use p2pinst_chunks::serve::Offer;
use p2pinst_chunks::wire::{
    self as frames, Direction, HAVE_PIECES, OTHERS, PIECE_PREFIX, Parts, Refusal, ToDownloader,
    ToSource,
};
use p2pinst_chunks::{Bitmap, BlobStatus};
use p2pinst_types::{BlobRef, Hash, NodeId, PieceIndex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::buffers::Buffer;
use super::limits::{Flow, Way};
use super::line::{self, Hold, Line};
use super::takers::Admitted;
use super::{Exchange, StreamId, Turn, lock, wire};
use crate::net::NetStream;

/// Messages of a downloader that may wait while a piece is being sent to it.
const QUEUE: usize = 128;
/// Pieces and offers that may wait to be sent to a downloader: one piece, and offers that it is
/// quick to take.
const TURNS: usize = 64;
/// A downloader that asks for nothing for so long has to open a stream again.
const IDLE: Duration = Duration::from_secs(120);
/// A piece that takes longer gives its slot to others, and goes on beside them.
const SLOW: Duration = Duration::from_secs(1);
/// The same to another site: on a slow WAN link more pieces at a time only make all of them later.
const SLOW_FAR: Duration = Duration::from_secs(10);
/// Bytes of a slow piece that are in memory.
const PART: usize = 64 << 10;
/// How long a downloader waits here for a blob that this node has only just begun to fetch.
const SOON: Duration = Duration::from_secs(5);

/// A downloader: one of its streams, and the peer itself.
type Who = (StreamId, NodeId);

impl Exchange {
    /// Serves one inbound stream until it ends.
    pub async fn serve(&self, peer: NodeId, stream: NetStream) {
        let id = self.stream_id();
        let served = self.serve_stream((id, peer), stream).await;
        lock(&self.shared.uploads).left(id);
        self.dispatch();
        if let Err(error) = served {
            debug!(%peer, %error, "a downloader's stream broke");
        }
    }

    async fn serve_stream(&self, who: Who, stream: NetStream) -> io::Result<()> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let first = read_first(&mut reader).await?;
        if first != ToSource::Direct {
            return self.serve_line(who, Line::stream(reader, writer), first).await;
        }
        let room = self.shared.bulks.take(who.1);
        let ticket = room.and_then(|room| Some((room, self.net.bulk_ticket()?)));
        let Some((_room, (ticket, mut claim))) = ticket else {
            send(&mut writer, &ToDownloader::Ticket(None)).await?;
            let first = read_first(&mut reader).await?;
            return self.serve_line(who, Line::stream(reader, writer), first).await;
        };
        let bytes = line::encode(&ticket);
        send(&mut writer, &ToDownloader::Ticket(Some(&bytes))).await?;
        // a downloader that cannot connect goes on over the stream
        let arrived = tokio::select! {
            bulk = claim.arrived() => Ok(bulk.ok_or(io::ErrorKind::TimedOut)?),
            first = read_first(&mut reader) => Err(first?),
        };
        match arrived {
            Ok(bulk) => {
                let mut line = Line::bulk(bulk, Hold::new(&self.net, who.1, reader, writer));
                let first = read_first(&mut line.reader).await?;
                self.serve_line(who, line, first).await
            }
            Err(first) => self.serve_line(who, Line::stream(reader, writer), first).await,
        }
    }

    async fn serve_line(&self, who: Who, line: Line, first: ToSource) -> io::Result<()> {
        let ((id, peer), Line { reader, mut writer, hold }) = (who, line);
        let ToSource::Open { root } = first else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let progress = self.progress(&root);
        let Some(status) = self.status_soon(&root, progress.clone()).await else {
            return send(&mut writer, &ToDownloader::NotFound { root }).await;
        };
        // what has come since then is told first
        let progress = progress.or_else(|| {
            self.progress(&root).map(|mut progress| {
                progress.mark_changed();
                progress
            })
        });
        let Some(progress) = progress else {
            return send(&mut writer, &ToDownloader::NotFound { root }).await;
        };
        let (turns_tx, turns) = mpsc::channel(TURNS);
        let who = (peer, self.places.of(&peer));
        let admitted = lock(&self.shared.uploads).admit(id, who, root, turns_tx);
        let Some(Admitted { seeding, replaced }) = admitted else {
            let others = self.shared.holders.some(&root, &peer, OTHERS);
            let (piece, reason) = (PieceIndex(0), Refusal::Busy);
            return send(&mut writer, &ToDownloader::Refused { piece, reason, others }).await;
        };
        let have = status.have.clone();
        let recipe = self.blobs.recipe(&root);
        let opened = ToDownloader::Opened { blob: status.blob, seeding, have, recipe };
        send(&mut writer, &opened).await?;
        self.dispatch();
        let (messages_tx, messages) = mpsc::channel(QUEUE);
        let flow = self.limits().flow(Way::Up, peer, root);
        let (blob, told) = (status.blob, status.have);
        let parts = BTreeMap::new();
        let session = Session { exchange: self, id, peer, root, blob, told, parts, flow, writer };
        // an answer may take long where little may leave
        let owes = || lock(&self.shared.uploads).serve.owes(id);
        tokio::select! {
            read = read_all(reader, messages_tx, owes) => read,
            answered = session.run(messages, turns, progress) => answered,
            ended = Hold::ended(hold) => ended,
            () = replaced.cancelled() => Ok(()),
        }
    }

    /// Waits for a piece to be sent; others go on when that takes long.
    async fn unless_slow<T>(&self, who: Who, sending: impl Future<Output = T>) -> T {
        let (id, peer) = who;
        let slow = if self.places.of(&peer).is_near() { SLOW } else { SLOW_FAR };
        tokio::pin!(sending);
        tokio::select! {
            sent = &mut sending => return sent,
            () = tokio::time::sleep(slow) => {}
        }
        lock(&self.shared.uploads).serve.is_slow(id);
        self.dispatch();
        sending.await
    }

    /// The blob's status; waits a little for one that is about to begin.
    async fn status_soon(
        &self,
        root: &Hash,
        progress: Option<watch::Receiver<u64>>,
    ) -> Option<BlobStatus> {
        let mut progress = match (self.blobs.status(root), progress) {
            (Some(status), _) => return Some(status),
            (None, progress) => progress?,
        };
        let begun = async {
            while progress.changed().await.is_ok() {
                if let Some(status) = self.blobs.status(root) {
                    return Some(status);
                }
            }
            self.blobs.status(root)
        };
        tokio::time::timeout(SOON, begun).await.ok().flatten()
    }
}

/// The first message, which must come soon.
async fn read_first<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<ToSource> {
    let mut body = Vec::new();
    let first = tokio::time::timeout(wire::STALLED, read_message(reader, &mut body)).await;
    let first = first.map_err(|_| io::ErrorKind::TimedOut)??;
    first.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

async fn read_message<R: AsyncRead + Unpin>(
    reader: &mut R,
    body: &mut Vec<u8>,
) -> io::Result<Option<ToSource>> {
    match wire::read(reader, Direction::ToSource, body, &AtomicU64::new(0), None).await? {
        Some(header) => {
            ToSource::decode(header, wire::taken(header, body)).map(Some).map_err(wire::invalid)
        }
        None => Ok(None),
    }
}

/// Reads until the end; stops reading while too much waits.
async fn read_all<R: AsyncRead + Unpin>(
    mut reader: R,
    messages: mpsc::Sender<ToSource>,
    owes: impl Fn() -> bool,
) -> io::Result<()> {
    let mut body = Vec::new();
    loop {
        let mut read = pin!(read_message(&mut reader, &mut body));
        let message = loop {
            match tokio::time::timeout(IDLE, read.as_mut()).await {
                Ok(read) => break read?,
                Err(_) if owes() => {}
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        };
        let Some(message) = message else { return Ok(()) };
        if messages.send(message).await.is_err() {
            return Ok(());
        }
    }
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, message: &ToDownloader<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    wire::write(writer, &[&bytes]).await
}

struct Session<'a, W> {
    exchange: &'a Exchange,
    id: StreamId,
    peer: NodeId,
    root: Hash,
    blob: BlobRef,
    flow: Flow,
    /// What the downloader knows that is here.
    told: Bitmap,
    /// Of pieces that wait, those of which only parts are wanted.
    parts: BTreeMap<PieceIndex, Parts>,
    writer: W,
}

impl<W: AsyncWrite + Unpin> Session<'_, W> {
    async fn run(
        mut self,
        mut messages: mpsc::Receiver<ToSource>,
        mut turns: mpsc::Receiver<Turn>,
        mut progress: watch::Receiver<u64>,
    ) -> io::Result<()> {
        loop {
            // in no order: a flood of messages holds up no piece that has its turn
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.on_message(message).await?,
                    None => return Ok(()),
                },
                turn = turns.recv() => match turn {
                    Some(Turn::Piece(turn)) => self.send_piece(turn).await?,
                    Some(Turn::Offer(offer)) => self.offer(offer).await?,
                    None => return Ok(()),
                },
                more = progress.changed() => {
                    // removed; it may be here again, and others tell of that
                    more.map_err(|_| io::ErrorKind::NotFound)?;
                    self.tell_news().await?;
                }
            }
        }
    }

    async fn on_message(&mut self, message: ToSource) -> io::Result<()> {
        match message {
            ToSource::Open { .. } | ToSource::Direct => Err(io::ErrorKind::InvalidData.into()),
            ToSource::GetLayer { from } => self.send_layer(from).await,
            ToSource::RequestParts { piece, parts } => {
                let len = self.blob.range(piece).map_or(0, |r| r.end - r.start);
                if parts.ranges().last().is_none_or(|r| u64::from(r.end) > len) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.on_request(piece, Some(parts)).await
            }
            ToSource::Request { piece } => self.on_request(piece, None).await,
            ToSource::Held { bits } => {
                let held = Bitmap::decode(self.blob.pieces(), &bits);
                let held = held.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                lock(&self.exchange.shared.uploads).serve.holds(self.id, self.root, &held);
                self.exchange.dispatch();
                Ok(())
            }
            ToSource::Cancel { piece } => {
                self.parts.remove(&piece);
                lock(&self.exchange.shared.uploads).serve.cancel(self.id, self.root, piece);
                self.exchange.dispatch();
                Ok(())
            }
        }
    }

    /// A piece is asked for, or parts of it.
    async fn on_request(&mut self, piece: PieceIndex, parts: Option<Parts>) -> io::Result<()> {
        let status = self.exchange.blobs.status(&self.root);
        let asked = if status.is_some_and(|s| s.have.get(piece)) {
            lock(&self.exchange.shared.uploads).serve.request(self.id, self.root, piece)
        } else {
            Err(Refusal::Missing)
        };
        match (asked, parts) {
            (Ok(()), parts) => {
                // as many as requests may wait
                match parts {
                    Some(parts) => drop(self.parts.insert(piece, parts)),
                    None => drop(self.parts.remove(&piece)),
                }
                self.exchange.dispatch();
                Ok(())
            }
            (Err(reason), _) => self.refuse(piece, reason).await,
        }
    }

    /// Says that a piece will not come; when this node is busy, also who else may have it.
    async fn refuse(&mut self, piece: PieceIndex, reason: Refusal) -> io::Result<()> {
        let most = if reason == Refusal::Busy { OTHERS } else { 0 };
        let others = self.exchange.shared.holders.some(&self.root, &self.peer, most);
        send(&mut self.writer, &ToDownloader::Refused { piece, reason, others }).await
    }

    async fn offer(&mut self, offer: Offer) -> io::Result<()> {
        let Offer::Pieces(pieces) = offer else {
            return send(&mut self.writer, &ToDownloader::Free).await;
        };
        for pieces in pieces.chunks(HAVE_PIECES) {
            send(&mut self.writer, &ToDownloader::Offer { pieces: pieces.to_vec() }).await?;
        }
        Ok(())
    }

    async fn send_layer(&mut self, from: PieceIndex) -> io::Result<()> {
        let (blobs, root) = (self.exchange.blobs.clone(), self.root);
        let layer = tokio::task::spawn_blocking(move || blobs.layer(&root)).await?;
        let layer = layer.map_err(io::Error::other)?;
        let bytes = layer.page(from);
        if bytes.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        send(&mut self.writer, &ToDownloader::Layer { from, bytes }).await
    }

    async fn send_piece(&mut self, piece: PieceIndex) -> io::Result<()> {
        let (blobs, root) = (self.exchange.blobs.clone(), self.root);
        let len = self.blob.range(piece).map_or(0, |r| r.end - r.start);
        let near = self.exchange.places.of(&self.peer).is_near();
        let mut bytes = self.exchange.shared.buffers.to_send(len, near).await;
        let (read, bytes) = tokio::task::spawn_blocking(move || {
            let read = blobs.read_piece(&root, piece, &mut bytes);
            (read, bytes)
        })
        .await?;
        let sent = match read {
            Ok(()) => {
                let (exchange, who) = (self.exchange, (self.id, self.peer));
                exchange.limits().sent(bytes.len());
                let (sent, written) = match self.parts.remove(&piece) {
                    Some(parts) => {
                        drop(bytes); // it is good, and is read again in small steps
                        let len = parts.bytes() as u64;
                        let writing = self.write_parts(piece, &parts);
                        (len, exchange.unless_slow(who, writing).await)
                    }
                    None => (len, exchange.unless_slow(who, self.write_piece(piece, bytes)).await),
                };
                if written.is_ok() {
                    exchange.meter.sent(&self.root, self.peer, sent);
                }
                written
            }
            Err(error) => {
                warn!(%error, "cannot read a piece that should be here");
                self.refuse(piece, Refusal::Missing).await
            }
        };
        if sent.is_ok() {
            self.exchange.shared.holders.note(self.root, self.peer);
        }
        lock(&self.exchange.shared.uploads).serve.done(self.id);
        self.exchange.dispatch();
        sent
    }

    /// Writes a piece. When that takes long, its memory is given back to others, and the rest is read again
    /// in small parts.
    async fn write_piece(&mut self, piece: PieceIndex, bytes: Buffer) -> io::Result<()> {
        let len = bytes.len();
        let prefix: [u8; PIECE_PREFIX] =
            frames::piece_prefix(piece, u32::try_from(len).unwrap_or(u32::MAX));
        wire::begin(&mut self.writer, &prefix).await?;
        let mut at = 0;
        let whole = wire::write_within(&mut self.writer, &bytes, &mut at, &self.flow);
        match tokio::time::timeout(SLOW, whole).await {
            Ok(written) => return written,
            Err(_) => drop(bytes),
        }
        self.write_again(piece, at..len).await?;
        // the writer may have taken all, and not let go of it
        wire::finish(&mut self.writer).await
    }

    /// Writes parts of a piece that was read and is good.
    async fn write_parts(&mut self, piece: PieceIndex, parts: &Parts) -> io::Result<()> {
        wire::begin(&mut self.writer, &frames::parts_prefix(piece, parts)).await?;
        for range in parts.ranges() {
            self.write_again(piece, range.start as usize..range.end as usize).await?;
        }
        Ok(())
    }

    /// Writes bytes of a piece that was read before, in small steps.
    async fn write_again(&mut self, piece: PieceIndex, range: Range<usize>) -> io::Result<()> {
        let (mut at, len) = (range.start, range.end);
        while at < len {
            let (blobs, root, end) = (self.exchange.blobs.clone(), self.root, len.min(at + PART));
            let part = tokio::task::spawn_blocking(move || {
                let mut part = vec![0; end - at];
                blobs.read_part(&root, piece, at as u64, &mut part).map(|()| part)
            });
            let part = part.await?.map_err(io::Error::other)?;
            wire::write_within(&mut self.writer, &part, &mut 0, &self.flow).await?;
            at = end;
        }
        Ok(())
    }

    /// Tells the pieces that have come since the last time.
    async fn tell_news(&mut self) -> io::Result<()> {
        let Some(status) = self.exchange.blobs.status(&self.root) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let news: Vec<PieceIndex> = status.have.iter().filter(|p| !self.told.get(*p)).collect();
        for pieces in news.chunks(HAVE_PIECES) {
            send(&mut self.writer, &ToDownloader::Have { pieces: pieces.to_vec() }).await?;
            for piece in pieces {
                self.told.set(*piece);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
