//! A line to another node: a bulk connection where one can be made, and the libp2p stream over which
//! it was agreed where not. The stream stays open beside the connection: it keeps the libp2p
//! connection alive, and when that is closed, because the other is no member any more, say, the
//! line ends too.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2pinst_chunks::wire::{Direction, TICKET_LEN, ToDownloader, ToSource};
use p2pinst_types::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::{lock, wire};
use crate::net::{Bulk, NAME, Net, NetStream, Protocol, SECRET, Ticket};

/// After a bulk connection could not be made, streams must do for so long.
const INDIRECT: Duration = Duration::from_secs(60);
/// Nodes of which that is remembered.
const REMEMBERED: usize = 1024;
/// How long the answer to a wish for a ticket may take.
const ANSWER: Duration = Duration::from_secs(5);

const _: () = assert!(TICKET_LEN == NAME + SECRET, "a ticket has the length of its parts");

pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// The stream beside a bulk connection, watched by a task of its own, so that not every packet of the
/// line looks at it.
pub(super) struct Hold(JoinSet<io::Result<()>>);

impl Hold {
    pub(super) fn new(
        net: &Net,
        peer: NodeId,
        reader: ReadHalf<NetStream>,
        writer: WriteHalf<NetStream>,
    ) -> Self {
        let peers = Arc::clone(net.peers());
        let mut watch = JoinSet::new();
        watch.spawn(async move {
            let (mut reader, _writer, mut byte) = (reader, writer, [0]);
            // yamux does not wake the readers of a connection that this side closes
            let mut changes = peers.changes();
            let disconnected =
                async { while peers.get(&peer).connected && changes.changed().await.is_ok() {} };
            tokio::select! {
                read = reader.read(&mut byte) => read.map(drop),
                () = disconnected => Ok(()),
            }
        });
        Self(watch)
    }

    /// Ends when the two are no longer connected, or the other side closes the stream or says
    /// anything on it.
    pub(super) async fn ended(hold: Option<Self>) -> io::Result<()> {
        match hold {
            Some(mut hold) => match hold.0.join_next().await {
                Some(Ok(ended)) => ended,
                _ => Ok(()),
            },
            None => std::future::pending().await,
        }
    }
}

/// Both directions of a line.
pub(super) struct Line {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) hold: Option<Hold>,
}

impl Line {
    /// A bulk connection and the stream beside it.
    pub(super) fn bulk(bulk: Bulk, hold: Hold) -> Self {
        let Bulk { reader, writer } = bulk;
        Self { reader: Box::new(reader), writer: Box::new(writer), hold: Some(hold) }
    }

    /// The stream itself.
    pub(super) fn stream(reader: ReadHalf<NetStream>, writer: WriteHalf<NetStream>) -> Self {
        Self { reader: Box::new(reader), writer: Box::new(writer), hold: None }
    }
}

/// Nodes to which no bulk connection could be made, and when that was.
#[derive(Debug, Default)]
pub(super) struct Indirect(Mutex<BTreeMap<NodeId, Instant>>);

impl Indirect {
    fn contains(&self, node: &NodeId) -> bool {
        let mut nodes = lock(&self.0);
        nodes.retain(|_, since| since.elapsed() < INDIRECT);
        nodes.contains_key(node)
    }

    fn insert(&self, node: NodeId) {
        let mut nodes = lock(&self.0);
        if nodes.len() < REMEMBERED {
            nodes.insert(node, Instant::now());
        }
    }
}

/// Opens a line to a source: a bulk connection, unless one could not be made to it before, or none is
/// wanted (`indirect` is `None`).
///
/// # Errors
/// When it cannot be reached or does not keep to the protocol.
pub(super) async fn open(
    net: &Net,
    indirect: Option<&Indirect>,
    peer: NodeId,
    addrs: &[String],
) -> Result<Line, String> {
    let stream = net.open(peer, Protocol::Exchange, addrs).await.map_err(|e| e.to_string())?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let Some(indirect) = indirect.filter(|i| !i.contains(&peer)) else {
        return Ok(Line::stream(reader, writer));
    };
    let asked = tokio::time::timeout(ANSWER, ask(&mut reader, &mut writer)).await;
    let ticket = asked.unwrap_or_else(|e| Err(e.into())).map_err(|e| e.to_string())?;
    let Some(ticket) = ticket else { return Ok(Line::stream(reader, writer)) };
    match net.bulk(peer, &ticket).await {
        Ok(bulk) => Ok(Line::bulk(bulk, Hold::new(net, peer, reader, writer))),
        Err(error) => {
            debug!(%peer, %error, "no bulk connection can be made: the stream must do");
            indirect.insert(peer);
            Ok(Line::stream(reader, writer))
        }
    }
}

async fn ask(
    reader: &mut ReadHalf<NetStream>,
    writer: &mut WriteHalf<NetStream>,
) -> io::Result<Option<Ticket>> {
    let (mut out, mut body) = (Vec::new(), Vec::new());
    ToSource::Direct.encode(&mut out);
    wire::write(writer, &[&out]).await?;
    let header =
        wire::read(reader, Direction::ToDownloader, &mut body, &AtomicU64::new(0), None).await?;
    let header = header.ok_or(io::ErrorKind::UnexpectedEof)?;
    match ToDownloader::decode(header, wire::taken(header, &body)).map_err(wire::invalid)? {
        ToDownloader::Ticket(None) => Ok(None),
        ToDownloader::Ticket(Some(bytes)) => {
            let (name, secret) = bytes.split_at(NAME);
            let ticket = |e| io::Error::new(io::ErrorKind::InvalidData, e);
            Ok(Some(Ticket {
                name: name.try_into().map_err(ticket)?,
                secret: secret.try_into().map_err(ticket)?,
            }))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The bytes of a ticket as they travel.
pub(super) fn encode(ticket: &Ticket) -> [u8; TICKET_LEN] {
    let mut bytes = [0; TICKET_LEN];
    let (name, secret) = bytes.split_at_mut(NAME);
    name.copy_from_slice(&ticket.name);
    secret.copy_from_slice(&ticket.secret);
    bytes
}
