//! Bulk connections: a TCP connection beside the libp2p one, for the bytes of pieces.
//!
//! They go to the same port: a libp2p connection begins with a multistream message, a bulk one with
//! [`MAGIC`], and [`super::transport`] tells them apart by the first byte. Two members that are
//! connected agree over a stream of theirs on a ticket: a name and a secret, good for one connection.
//! The secret is the pre-shared key of a Noise handshake (`NNpsk0`, Noise protocol framework,
//! revision 34, section 9), so that only the two who know it get through, and every connection has
//! keys of its own. Then records: length (2 bytes, big-endian), AES-256-GCM ciphertext.
//!
//! Why: no multiplexer frames to cut and join, no swarm to wake for each packet, AES where the
//! libp2p connection has `ChaCha`; and nobody's probes and news wait behind pieces.
//!
//! Bounds: [`TICKETS`] that wait, for [`PATIENCE`] each; [`HANDSHAKES`] at a time; a stranger gets
//! 80 bytes read and no answer.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use snow::StatelessTransportState;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::lowat::{Lowat, Pace, Uplink};

/// How a bulk connection begins; its first byte is that of no multistream message.
const MAGIC: [u8; 16] = *b"p2pinst/bulk/1\r\n";
/// Bytes of a ticket's name.
pub const NAME: usize = 16;
/// Bytes of a ticket's secret.
pub const SECRET: usize = 32;
/// The handshake: two ephemeral keys, and the secret from the first message on.
const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// Bytes of either handshake message: a public key and a tag.
const MESSAGE: usize = 32 + TAG;
const TAG: usize = 16;
/// Plaintext bytes of a record, at most: a Noise message has 65,535.
const RECORD: usize = 65_535 - TAG;
/// Bytes for what comes as long as no longer record does: who only asks sends short ones.
const SHORT: usize = 2 << 10;
/// Ciphertext that may wait before the socket must take some.
const WAITING: usize = 2 * (2 + RECORD + TAG);
/// Tickets that may wait for their connection.
const TICKETS: usize = 1024;
/// How long a ticket is good.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for the handshake, on either side.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time for connecting to one address: one packet may be lost, and is sent again after a second.
const CONNECT: Duration = Duration::from_secs(3);
/// After so long the next address is tried beside it.
const NEXT: Duration = Duration::from_secs(1);
/// Addresses of a node that are tried.
const ADDRS: usize = 4;
/// Handshakes at a time; more are refused.
const HANDSHAKES: usize = 64;
/// Handshakes at a time with one address, loopback aside: a stranger keeps nobody else out.
const HANDSHAKES_OF_ONE: usize = 8;
/// Connections that may wait for their handshake to begin.
const INBOUND: usize = 64;

/// The first byte of a bulk connection.
pub(super) const FIRST: u8 = MAGIC[0];

/// The name and the secret of a bulk connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// What the connection is called.
    pub name: [u8; NAME],
    /// What proves that it may be made.
    pub secret: [u8; SECRET],
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket(..)")
    }
}

type Waiting = BTreeMap<[u8; NAME], ([u8; SECRET], oneshot::Sender<Bulk>)>;

/// The tickets that were given out, and the connections that came in on them.
#[derive(Debug)]
pub(super) struct Bulks {
    waiting: Arc<Mutex<Waiting>>,
    inbound: mpsc::Sender<TcpStream>,
}

/// A ticket that was given out: void when this is dropped.
#[derive(Debug)]
pub struct Claim {
    name: [u8; NAME],
    waiting: Arc<Mutex<Waiting>>,
    arrives: oneshot::Receiver<Bulk>,
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.name);
    }
}

impl Claim {
    /// The connection that was made with the ticket; `None` when none is in time.
    pub async fn arrived(&mut self) -> Option<Bulk> {
        tokio::time::timeout(PATIENCE, &mut self.arrives).await.ok()?.ok()
    }
}

impl Bulks {
    /// The table, and what feeds and runs it.
    pub(super) fn new() -> (Self, Acceptor) {
        let (inbound, connections) = mpsc::channel(INBOUND);
        let waiting = Arc::new(Mutex::new(Waiting::new()));
        (
            Self { waiting: Arc::clone(&waiting), inbound },
            Acceptor { waiting, connections, uplink: Arc::default() },
        )
    }

    /// Where inbound connections are handed over.
    pub(super) fn inbound(&self) -> mpsc::Sender<TcpStream> {
        self.inbound.clone()
    }

    /// Gives out a ticket; `None` when too many wait.
    pub(super) fn issue(&self) -> Option<(Ticket, Claim)> {
        let ticket = Ticket { name: rand::random(), secret: rand::random() };
        let (tx, arrives) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= TICKETS {
            return None;
        }
        waiting.insert(ticket.name, (ticket.secret, tx));
        drop(waiting);
        let claim = Claim { name: ticket.name, waiting: Arc::clone(&self.waiting), arrives };
        Some((ticket, claim))
    }
}

/// Takes inbound bulk connections through their handshake.
#[derive(Debug)]
pub(super) struct Acceptor {
    waiting: Arc<Mutex<Waiting>>,
    connections: mpsc::Receiver<TcpStream>,
    /// What goes out over all of them: pieces go to who has connected.
    uplink: Arc<Uplink>,
}

impl Acceptor {
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut handshakes = JoinSet::new();
        let mut from: Vec<IpAddr> = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = handshakes.join_next(), if !handshakes.is_empty() => {
                    let at = from.iter().position(|ip| ended.as_ref().is_ok_and(|e| e == ip));
                    at.map(|at| from.swap_remove(at));
                }
                stream = self.connections.recv() => {
                    let Some(stream) = stream else { break };
                    let Ok(ip) = stream.peer_addr().map(|a| a.ip()) else { continue };
                    let of_one = from.iter().filter(|f| **f == ip).count();
                    let full = handshakes.len() >= HANDSHAKES
                        || (of_one >= HANDSHAKES_OF_ONE && !ip.is_loopback());
                    if full {
                        debug!(%ip, "too busy: a bulk connection is refused");
                        continue;
                    }
                    from.push(ip);
                    let (waiting, uplink) = (Arc::clone(&self.waiting), Arc::clone(&self.uplink));
                    handshakes.spawn(handshake(stream, ip, waiting, uplink));
                }
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    ip: IpAddr,
    waiting: Arc<Mutex<Waiting>>,
    uplink: Arc<Uplink>,
) -> IpAddr {
    let accepted = tokio::time::timeout(HANDSHAKE, accept(stream, &waiting, uplink)).await;
    if let Err(error) = accepted.unwrap_or_else(|e| Err(e.into())) {
        debug!(%ip, %error, "a bulk connection was not made");
    }
    ip
}

async fn accept(
    mut stream: TcpStream,
    waiting: &Mutex<Waiting>,
    uplink: Arc<Uplink>,
) -> io::Result<()> {
    let mut preface = [0; MAGIC.len() + NAME];
    stream.read_exact(&mut preface).await?;
    let name = preface.strip_prefix(&MAGIC).and_then(|n| n.first_chunk::<NAME>());
    let found = name.and_then(|name| lock(waiting).remove(name));
    let (secret, reply) = found.ok_or(io::ErrorKind::PermissionDenied)?;
    let mut noise = builder(&secret)?.build_responder().map_err(noise_error)?;
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message).await?;
    noise.read_message(&message, &mut []).map_err(noise_error)?;
    let len = noise.write_message(&[], &mut message).map_err(noise_error)?;
    stream.write_all(message.get(..len).unwrap_or_default()).await?;
    let bulk = Bulk::new(stream, noise, uplink)?;
    // whoever waited may have gone away: then the connection is dropped
    drop(reply.send(bulk));
    Ok(())
}

/// Connects with a ticket to the first address that answers.
///
/// # Errors
/// The last failure.
pub(super) async fn connect(addrs: &[SocketAddr], ticket: &Ticket) -> io::Result<Bulk> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut rest = addrs.iter().take(ADDRS).copied();
    let mut trying = FuturesUnordered::new();
    loop {
        if let Some(addr) = rest.next() {
            trying.push(tokio::time::timeout(CONNECT, TcpStream::connect(addr)));
        }
        if trying.is_empty() {
            return Err(failed);
        }
        let late = async {
            if rest.len() == 0 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(NEXT).await;
        };
        let connected = tokio::select! {
            Some(connected) = trying.next() => connected,
            () = late => continue,
        };
        match connected.unwrap_or_else(|e| Err(e.into())) {
            Ok(stream) => {
                let made = tokio::time::timeout(HANDSHAKE, enter(stream, ticket)).await;
                match made.unwrap_or_else(|e| Err(e.into())) {
                    Ok(bulk) => return Ok(bulk),
                    Err(error) => failed = error,
                }
            }
            Err(error) => failed = error,
        }
    }
}

async fn enter(mut stream: TcpStream, ticket: &Ticket) -> io::Result<Bulk> {
    let mut noise = builder(&ticket.secret)?.build_initiator().map_err(noise_error)?;
    let mut message = [0; MESSAGE];
    let len = noise.write_message(&[], &mut message).map_err(noise_error)?;
    let mut first = Vec::with_capacity(MAGIC.len() + NAME + MESSAGE);
    first.extend_from_slice(&MAGIC);
    first.extend_from_slice(&ticket.name);
    first.extend_from_slice(message.get(..len).unwrap_or_default());
    stream.write_all(&first).await?;
    stream.read_exact(&mut message).await?;
    noise.read_message(&message, &mut []).map_err(noise_error)?;
    Bulk::new(stream, noise, Arc::default())
}

fn builder(secret: &[u8; SECRET]) -> io::Result<snow::Builder<'_>> {
    let params = PATTERN.parse().map_err(noise_error)?;
    let builder = snow::Builder::new(params).prologue(&MAGIC).map_err(noise_error)?;
    builder.psk(0, secret).map_err(noise_error)
}

fn noise_error(e: snow::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

/// An encrypted connection, in two halves that need no lock between them.
#[derive(Debug)]
pub struct Bulk {
    /// What comes.
    pub reader: BulkReader,
    /// What goes.
    pub writer: BulkWriter,
}

impl Bulk {
    fn new(
        stream: TcpStream,
        noise: snow::HandshakeState,
        uplink: Arc<Uplink>,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let pace = Pace::new(&stream, uplink)?;
        let keys = Keys(Arc::new(noise.into_stateless_transport_mode().map_err(noise_error)?));
        let (read, write) = stream.into_split();
        Ok(Self {
            reader: BulkReader {
                io: read,
                lowat: Lowat::default(),
                keys: keys.clone(),
                nonce: 0,
                raw: vec![0; SHORT],
                filled: 0,
                plain: Vec::new(),
                rest: 0..0,
            },
            writer: BulkWriter { io: write, pace, keys, nonce: 0, out: Vec::new(), waiting: 0..0 },
        })
    }
}

#[derive(Clone)]
struct Keys(Arc<StatelessTransportState>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// The reading half.
#[derive(Debug)]
pub struct BulkReader {
    io: OwnedReadHalf,
    lowat: Lowat,
    keys: Keys,
    nonce: u64,
    /// Ciphertext that has come: the beginning of a record, `filled` bytes of it.
    raw: Vec<u8>,
    filled: usize,
    /// Plaintext of the last record, and what of it has not been taken.
    plain: Vec<u8>,
    rest: Range<usize>,
}

impl BulkReader {
    /// How many bytes are missing of the record at the beginning of `raw`; of its length, at least.
    fn missing(&self) -> usize {
        let head = self.raw.get(..self.filled).and_then(<[u8]>::first_chunk::<2>);
        let len = head.map_or(0, |len| usize::from(u16::from_be_bytes(*len)));
        (2 + len).saturating_sub(self.filled)
    }

    /// Decrypts the record at the beginning of `raw`, if all of it is there.
    fn open_record(&mut self) -> io::Result<bool> {
        let Some((len, rest)) =
            self.raw.get(..self.filled).and_then(<[u8]>::split_first_chunk::<2>)
        else {
            return Ok(false);
        };
        let len = usize::from(u16::from_be_bytes(*len));
        if len < TAG {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(record) = rest.get(..len) else {
            if self.raw.len() < 2 + len {
                // where long records come, many do: room for any
                self.raw.resize(2 + RECORD + TAG, 0);
            }
            return Ok(false);
        };
        if self.plain.len() < len {
            self.plain.resize(len, 0);
        }
        let opened = self.keys.0.read_message(self.nonce, record, &mut self.plain);
        self.rest = 0..opened.map_err(noise_error)?;
        self.nonce += 1;
        self.raw.copy_within(2 + len..self.filled, 0);
        self.filled -= 2 + len;
        Ok(true)
    }
}

impl AsyncRead for BulkReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.rest.is_empty() {
                let n = this.rest.len().min(buf.remaining());
                let from = this.rest.start;
                buf.put_slice(this.plain.get(from..from + n).unwrap_or_default());
                this.rest.start += n;
                return Poll::Ready(Ok(()));
            }
            if this.open_record()? {
                continue;
            }
            this.lowat.need(this.io.as_ref(), this.missing())?;
            let mut room = ReadBuf::new(this.raw.get_mut(this.filled..).unwrap_or_default());
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut room))?;
            match room.filled().len() {
                0 if this.filled == 0 => return Poll::Ready(Ok(())),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                n => this.filled += n,
            }
        }
    }
}

/// The writing half. What was written is on its way when it has been flushed.
#[derive(Debug)]
pub struct BulkWriter {
    io: OwnedWriteHalf,
    pace: Pace,
    keys: Keys,
    nonce: u64,
    /// Ciphertext, and where in it lies what the socket has not taken.
    out: Vec<u8>,
    waiting: Range<usize>,
}

impl BulkWriter {
    fn seal_record(&mut self, plain: &[u8]) -> io::Result<()> {
        let len = plain.len() + TAG;
        let short = u16::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = self.waiting.end + 2 + len;
        if self.out.len() < end {
            self.out.resize(end, 0);
        }
        let room = self.out.get_mut(self.waiting.end..).unwrap_or_default();
        let (head, room) = room.split_first_chunk_mut().ok_or(io::ErrorKind::InvalidInput)?;
        *head = short.to_be_bytes();
        self.keys.0.write_message(self.nonce, plain, room).map_err(noise_error)?;
        self.nonce += 1;
        self.waiting.end += 2 + len;
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let rest = self.out.get(self.waiting.clone()).unwrap_or_default();
            match ready!(self.pace.poll_write(self.io.as_ref(), cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.waiting.start += n,
            }
        }
        self.waiting = 0..0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BulkWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let record = buf.get(..buf.len().min(RECORD)).unwrap_or_default();
        this.pace.begin();
        // a short one and a long one leave together
        if this.waiting.end + 2 + record.len() + TAG > WAITING {
            ready!(this.poll_send(cx))?;
        }
        this.seal_record(record)?;
        Poll::Ready(Ok(record.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.pace.end();
        ready!(this.poll_send(cx))?;
        this.pace.done(this.io.as_ref())?;
        // many lines, few of which have something to say
        if this.out.len() > SHORT {
            this.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A table with its acceptor, and where it listens.
    async fn acceptor(tasks: &mut JoinSet<()>) -> (Bulks, SocketAddr) {
        let (bulks, acceptor) = Bulks::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, inbound) = (listener.local_addr().unwrap(), bulks.inbound());
        tasks.spawn(acceptor.run(CancellationToken::new()));
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                inbound.send(stream).await.unwrap();
            }
        });
        (bulks, addr)
    }

    #[tokio::test]
    async fn bytes_arrive_as_they_were_in_both_directions() {
        let mut tasks = JoinSet::new();
        let (bulks, addr) = acceptor(&mut tasks).await;
        let (ticket, mut claim) = bulks.issue().unwrap();
        let mut out = connect(&[addr], &ticket).await.unwrap();
        let mut inn = claim.arrived().await.unwrap();
        let sizes = [1, 9, RECORD - 1, RECORD, RECORD + 1, 3 * RECORD + 7, 1 << 20];
        for (seed, size) in (0u8..).zip(sizes) {
            let bytes: Vec<u8> = (0..size).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            let mut got = vec![0; size];
            let send = async {
                out.writer.write_all(&bytes).await.unwrap();
                out.writer.flush().await.unwrap();
            };
            tokio::join!(send, async { inn.reader.read_exact(&mut got).await.unwrap() });
            assert_eq!(got, bytes);
            let send = async {
                inn.writer.write_all(&bytes).await.unwrap();
                inn.writer.flush().await.unwrap();
            };
            tokio::join!(send, async { out.reader.read_exact(&mut got).await.unwrap() });
            assert_eq!(got, bytes);
        }
        drop(out);
        assert_eq!(inn.reader.read(&mut [0; 9]).await.unwrap(), 0, "a clean end");
    }

    #[tokio::test]
    async fn a_ticket_is_good_once_and_only_with_its_secret() {
        let mut tasks = JoinSet::new();
        let (bulks, addr) = acceptor(&mut tasks).await;
        let (ticket, mut claim) = bulks.issue().unwrap();
        let forged = Ticket { secret: [7; SECRET], ..ticket.clone() };
        connect(&[addr], &forged).await.unwrap_err();
        connect(&[addr], &ticket).await.unwrap_err();
        assert!(claim.arrived().await.is_none());
        let (ticket, claim) = bulks.issue().unwrap();
        drop(claim);
        connect(&[addr], &ticket).await.unwrap_err();
        assert!(lock(&bulks.waiting).is_empty());
    }

    #[tokio::test]
    async fn what_was_changed_on_the_way_is_refused() {
        let mut tasks = JoinSet::new();
        let (bulks, addr) = acceptor(&mut tasks).await;
        let (ticket, mut claim) = bulks.issue().unwrap();
        let mut out = connect(&[addr], &ticket).await.unwrap();
        let mut inn = claim.arrived().await.unwrap();
        out.writer.seal_record(b"a piece of a package").unwrap();
        out.writer.out[9] ^= 1;
        out.writer.flush().await.unwrap();
        let error = inn.reader.read(&mut [0; 99]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn tickets_are_bounded() {
        let (bulks, _acceptor) = Bulks::new();
        let claims: Vec<_> = (0..TICKETS).map(|_| bulks.issue().unwrap()).collect();
        assert!(bulks.issue().is_none());
        drop(claims);
        assert!(bulks.issue().is_some());
    }
}
