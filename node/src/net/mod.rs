//! The network: everything that names libp2p, behind [`Net`] and [`NetEvent`].
//!
//! One task owns the swarm ([`driver`]) and does nothing else; bulk bytes travel on raw streams
//! that their users drive on their own tasks. Every queue here is bounded: when one is full, hints
//! are dropped (sync finds what they told) and inbound streams are refused.

mod behaviour;
mod bulk;
mod driver;
mod gate;
mod lowat;
mod quiet;
mod streams;
#[cfg(test)]
mod tests;
mod transport;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol as Part};
use p2pinst_trust::{Refusal, SecretKey};
use p2pinst_types::{Hash, NodeId, PublicKey};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::Compat;
use tokio_util::sync::CancellationToken;

use crate::liveness::State;
use crate::peers::Peers;

pub use behaviour::Settings;
pub use bulk::{Bulk, Claim, NAME, SECRET, Ticket};

/// A stream to another node: ordered bytes both ways, encrypted, between admitted members.
pub type NetStream = Compat<libp2p::Stream>;

/// Time to open a stream, dialling included.
const OPEN: Duration = Duration::from_secs(10);
/// Commands that may wait for the swarm task.
const COMMANDS: usize = 256;
/// Events that may wait for the node.
const EVENTS: usize = 512;

/// The protocols that are served over raw streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// `/p2pinst/store/1`
    Store,
    /// `/p2pinst/exchange/1`
    Exchange,
    /// `/p2pinst/swim/1`
    Swim,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Store, Self::Exchange, Self::Swim];

    fn name(self) -> &'static str {
        match self {
            Self::Store => dht_store::wire::PROTOCOL,
            Self::Exchange => "/p2pinst/exchange/1",
            Self::Swim => "/p2pinst/swim/1",
        }
    }
}

/// Says who may connect. Called within the security upgrade, before any other protocol.
pub trait Gatekeeper: Send + Sync + 'static {
    /// What this node shows.
    fn hello(&self) -> BoxFuture<'static, Result<Vec<u8>, Refusal>>;
    /// Judges what the other side has shown. `dialled`: this node opened the connection.
    fn judge(
        &self,
        peer: NodeId,
        hello: Vec<u8>,
        dialled: bool,
    ) -> BoxFuture<'static, Result<(), Refusal>>;
    /// What a peer that is refused as revoked is given to see why; may be empty.
    fn proof(&self, _peer: NodeId) -> Vec<u8> {
        Vec::new()
    }
    /// The other side has refused this node as revoked, and has shown this.
    fn refused(&self, _proof: Vec<u8>) -> BoxFuture<'static, ()> {
        Box::pin(futures::future::ready(()))
    }
    /// Hears that the other side has refused this node.
    fn turned_away(&self, _by: NodeId, _refusal: Refusal) {}
}

/// What a gossiped message turned out to be worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// Good: pass it on.
    Accept,
    /// Not to be judged here: do not pass it on.
    Ignore,
    /// Bad: whoever passed it on did not check.
    Reject,
}

/// What happens on the network.
#[derive(Debug)]
pub enum NetEvent {
    /// A gossiped message; answer with [`Net::report`].
    Gossip {
        /// The neighbour that passed it on.
        source: NodeId,
        /// The message's id.
        id: GossipId,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// Another node opened a stream.
    Inbound {
        /// The other node.
        peer: NodeId,
        /// For which protocol.
        protocol: Protocol,
        /// The stream.
        stream: NetStream,
    },
}

/// Identifies a gossiped message until it is reported on.
#[derive(Debug)]
pub struct GossipId {
    message: libp2p::gossipsub::MessageId,
    source: PeerId,
}

/// What the network could not do.
#[derive(Debug, Error)]
pub enum NetError {
    /// An address that libp2p does not understand.
    #[error("{text:?} is not a multiaddress: {reason} (write /ip4/10.0.0.1/tcp/4001)")]
    Address {
        /// The text.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// Nobody can listen there.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// The address.
        addr: String,
        /// Why not.
        reason: String,
    },
    /// No stream to a node.
    #[error("cannot reach {peer}: {reason}")]
    Open {
        /// The node.
        peer: NodeId,
        /// Why not.
        reason: String,
    },
    /// The other side refused the connection, or this one did.
    #[error("{addr} refused the connection: {refusal}")]
    Refused {
        /// Who.
        addr: String,
        /// Why.
        refusal: Refusal,
    },
    /// This node does not dial now: that says nothing of the other.
    #[error("cannot connect to {addr}: {reason}")]
    NotDialled {
        /// The address.
        addr: String,
        /// Why not.
        reason: String,
    },
    /// Nobody answered at an address.
    #[error("cannot connect to {addr}: {reason}")]
    Dial {
        /// The address.
        addr: String,
        /// Why not.
        reason: String,
    },
    /// A stream broke.
    #[error("the connection to {peer} broke: {source}")]
    Stream {
        /// The node.
        peer: NodeId,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The swarm task has ended.
    #[error("the network is shut down")]
    Closed,
    /// The node's key is not one.
    #[error("the node's key cannot be used: {0}")]
    Key(String),
}

/// Commands to the swarm task.
#[derive(Debug)]
enum Command {
    Dial {
        peer: Option<PeerId>,
        addrs: Vec<Multiaddr>,
        reply: oneshot::Sender<Result<PeerId, NetError>>,
    },
    Open {
        peer: PeerId,
        protocol: Protocol,
        addrs: Vec<Multiaddr>,
        reply: OpenReply,
    },
    Gossip {
        data: Vec<u8>,
    },
    Report {
        id: GossipId,
        worth: Worth,
    },
    Withdraw {
        root: Hash,
    },
    Provide {
        root: Hash,
    },
    Providers {
        root: Hash,
        reply: oneshot::Sender<Vec<NodeId>>,
    },
    Close {
        peer: PeerId,
    },
    Forget {
        peer: PeerId,
    },
}

type OpenReply = oneshot::Sender<Result<libp2p::Stream, String>>;

/// A handle on the network; cheap to clone.
#[derive(Debug, Clone)]
pub struct Net {
    tx: mpsc::Sender<Command>,
    peers: Arc<Peers>,
    bulks: Arc<bulk::Bulks>,
}

/// What a network is made of.
pub struct NetConfig {
    /// The node's key.
    pub key: SecretKey,
    /// Where to listen; may be nowhere.
    pub listen: Vec<String>,
    /// Who may connect.
    pub keeper: Arc<dyn Gatekeeper>,
    /// Who is connected: written here, read everywhere.
    pub peers: Arc<Peers>,
    /// The gossip topic, and the timing of the parts.
    pub settings: Settings,
}

impl std::fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetConfig").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// A started network: the handle, its events, and the task to run.
pub type Started = (Net, mpsc::Receiver<NetEvent>, BoxFuture<'static, ()>);

/// Makes the network and starts to listen.
///
/// # Errors
/// When an address cannot be understood or listened on.
pub async fn start(config: NetConfig, shutdown: CancellationToken) -> Result<Started, NetError> {
    let NetConfig { key, listen, keeper, peers, settings } = config;
    let keypair = Keypair::ed25519_from_bytes(key.to_seed().as_mut_slice())
        .map_err(|e| NetError::Key(e.to_string()))?;
    let listen = listen.iter().map(|a| parse(a)).collect::<Result<Vec<_>, _>>()?;
    let (bulks, acceptor) = bulk::Bulks::new();
    let mut swarm = behaviour::swarm(&keypair, keeper, bulks.inbound(), &settings)?;
    driver::listen(&mut swarm, listen).await?;
    let (tx, commands) = mpsc::channel(COMMANDS);
    let (events_tx, events) = mpsc::channel(EVENTS);
    let driver = driver::Driver::new(swarm, commands, events_tx, Arc::clone(&peers), &settings);
    let net = Net { tx, peers, bulks: Arc::new(bulks) };
    let accepting = acceptor.run(shutdown.clone());
    let task = async move {
        tokio::join!(driver.run(shutdown), accepting);
    };
    Ok((net, events, Box::pin(task)))
}

fn parse(text: &str) -> Result<Multiaddr, NetError> {
    text.parse().map_err(|e: libp2p::multiaddr::Error| NetError::Address {
        text: text.chars().take(200).collect(),
        reason: e.to_string(),
    })
}

/// Checks that a text is a multiaddress of TCP over IP or DNS.
///
/// # Errors
/// When it is not.
pub fn check_addr(text: &str) -> Result<(), NetError> {
    let addr = parse(text)?;
    let reason = |r: &str| NetError::Address { text: text.to_owned(), reason: r.to_owned() };
    let mut parts = addr.iter();
    match parts.next() {
        Some(Part::Ip4(_) | Part::Ip6(_)) => {}
        _ => return Err(reason("it does not begin with /ip4/ or /ip6/")),
    }
    match parts.next() {
        Some(Part::Tcp(_)) => Ok(()),
        _ => Err(reason("no /tcp/PORT follows the address")),
    }
}

/// The IP address and port of a multiaddress.
#[must_use]
pub fn socket_addr(text: &str) -> Option<std::net::SocketAddr> {
    let addr: Multiaddr = text.parse().ok()?;
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Part::Ip4(ip) => ip.into(),
        Part::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Part::Tcp(port) => Some(std::net::SocketAddr::new(ip, port)),
        _ => None,
    }
}

fn peer_id(node: NodeId) -> Option<PeerId> {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(node.0.as_bytes()).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

fn node_id(peer: &PeerId) -> Option<NodeId> {
    // an ed25519 key is short enough to stand in the PeerId itself (an identity multihash)
    let bytes = peer.to_bytes();
    let at = bytes.len().checked_sub(PublicKey::LEN)?;
    let node = NodeId(PublicKey::from_slice(bytes.get(at..)?)?);
    (peer_id(node).as_ref() == Some(peer)).then_some(node)
}

impl Net {
    /// Who is connected.
    #[must_use]
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    async fn send(&self, command: Command) -> Result<(), NetError> {
        self.tx.send(command).await.map_err(|_| NetError::Closed)
    }

    /// Dials addresses in turn until one is a member's.
    ///
    /// # Errors
    /// The last failure.
    pub async fn dial(&self, node: Option<NodeId>, addrs: &[String]) -> Result<NodeId, NetError> {
        let addrs = addrs.iter().filter_map(|a| parse(a).ok()).collect();
        let (reply, answer) = oneshot::channel();
        self.send(Command::Dial { peer: node.and_then(peer_id), addrs, reply }).await?;
        let peer = answer.await.map_err(|_| NetError::Closed)??;
        node_id(&peer).ok_or(NetError::Closed)
    }

    /// Opens a stream to a node, dialling one of `addrs` when it is not connected; with none given,
    /// those that are known of it, unless it is down.
    ///
    /// # Errors
    /// When the node cannot be reached within ten seconds.
    pub async fn open(
        &self,
        node: NodeId,
        protocol: Protocol,
        addrs: &[String],
    ) -> Result<NetStream, NetError> {
        let failed = |reason: String| NetError::Open { peer: node, reason };
        let peer = peer_id(node).ok_or_else(|| failed("its key is not one".to_owned()))?;
        let known = || match self.peers.get(&node).state {
            State::Down => Vec::new(),
            _ => self.peers.addrs_of(&node),
        };
        let addrs = if addrs.is_empty() { known() } else { addrs.to_vec() };
        let addrs = addrs.iter().filter_map(|a| parse(a).ok()).collect();
        let (reply, answer) = oneshot::channel();
        self.send(Command::Open { peer, protocol, addrs, reply }).await?;
        let opened = tokio::time::timeout(OPEN, answer).await;
        let opened = opened.map_err(|_| failed("it does not answer".to_owned()))?;
        let stream = opened.map_err(|_| NetError::Closed)?.map_err(failed)?;
        Ok(tokio_util::compat::FuturesAsyncReadCompatExt::compat(stream))
    }

    /// A ticket for a bulk connection that another member makes to this node; `None` when too many
    /// wait for theirs.
    #[must_use]
    pub fn bulk_ticket(&self) -> Option<(Ticket, Claim)> {
        self.bulks.issue()
    }

    /// Makes a bulk connection to a member that gave out a ticket.
    ///
    /// # Errors
    /// When none of its addresses answers, or it does not know the ticket any more.
    pub async fn bulk(&self, node: NodeId, ticket: &Ticket) -> io::Result<Bulk> {
        let addrs = self.peers.addrs_of(&node);
        let addrs: Vec<_> = addrs.iter().filter_map(|a| socket_addr(a)).collect();
        bulk::connect(&addrs, ticket).await
    }

    /// Tells all members something small. A hint: it may be lost.
    ///
    /// # Errors
    /// When the network is shut down.
    pub async fn gossip(&self, data: Vec<u8>) -> Result<(), NetError> {
        self.send(Command::Gossip { data }).await
    }

    /// Says what a gossiped message was worth.
    ///
    /// # Errors
    /// When the network is shut down.
    pub async fn report(&self, id: GossipId, worth: Worth) -> Result<(), NetError> {
        self.send(Command::Report { id, worth }).await
    }

    /// Announces in the DHT that this node holds a blob.
    ///
    /// # Errors
    /// When the network is shut down.
    pub async fn provide(&self, root: Hash) -> Result<(), NetError> {
        self.send(Command::Provide { root }).await
    }

    /// Announces a blob no more: the DHT forgets this holder in time.
    pub fn withdraw_soon(&self, root: Hash) {
        drop(self.tx.try_send(Command::Withdraw { root }));
    }

    /// Asks the DHT who else holds a blob.
    ///
    /// # Errors
    /// When the network is shut down.
    pub async fn providers(&self, root: Hash) -> Result<Vec<NodeId>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Providers { root, reply }).await?;
        answer.await.map_err(|_| NetError::Closed)
    }

    /// A node is down: it is no longer asked for providers of blobs.
    pub fn forget_soon(&self, node: NodeId) {
        if let Some(peer) = peer_id(node) {
            drop(self.tx.try_send(Command::Forget { peer }));
        }
    }

    /// Closes all connections with a node, unless the network is too busy to be told.
    pub fn close_soon(&self, node: NodeId) {
        if let Some(peer) = peer_id(node) {
            drop(self.tx.try_send(Command::Close { peer }));
        }
    }

    /// Closes all connections with a node.
    ///
    /// # Errors
    /// When the network is shut down.
    pub async fn close(&self, node: NodeId) -> Result<(), NetError> {
        match peer_id(node) {
            Some(peer) => self.send(Command::Close { peer }).await,
            None => Ok(()),
        }
    }
}
