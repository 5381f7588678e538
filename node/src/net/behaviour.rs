//! The swarm's parts and their settings.

use std::sync::Arc;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{StreamProtocol, Swarm, kad, ping, swarm};
use p2pinst_types::{ClusterId, Hash};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::quiet::Quiet;
use super::streams;
use super::transport;
use super::{Gatekeeper, NetError};

/// Connections that may be in set-up from outside: strangers can cause no more work than this.
const PENDING_IN: u32 = 256;
/// Connections in all.
const CONNECTIONS: u32 = 1024;
/// A gossiped message: one cell (8 KiB payload) and its envelope.
const MESSAGE: usize = 16 * 1024;
/// A message is not taken twice within this time.
const SEEN: Duration = Duration::from_secs(600);

/// What differs between clusters and deployments of the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Names the gossip topic.
    pub cluster: ClusterId,
    /// A silent connection is probed this often; twice without an answer and it is closed.
    pub ping: Duration,
    /// A connection on which no stream is open is closed after so long.
    pub unused: Duration,
}

impl Settings {
    pub(super) fn topic(&self) -> IdentTopic {
        IdentTopic::new(format!("p2pinst/1/{}", self.cluster.0.short()))
    }
}

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) streams: streams::Behaviour,
    pub(super) gossip: Quiet<gossipsub::Behaviour>,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) ping: ping::Behaviour,
}

fn gossip(keypair: &Keypair, settings: &Settings) -> Result<gossipsub::Behaviour, NetError> {
    let config = gossipsub::ConfigBuilder::default()
        .max_transmit_size(MESSAGE)
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(|m| MessageId::from(Hash::of(&m.data).0.to_vec()))
        .duplicate_cache_time(SEEN)
        .mesh_n(8)
        .mesh_n_low(6)
        .mesh_n_high(12)
        .mesh_outbound_min(3)
        .flood_publish(true)
        .build()
        .map_err(|e| NetError::Key(e.to_string()))?;
    let authenticity = MessageAuthenticity::Signed(keypair.clone());
    let mut gossip = gossipsub::Behaviour::new(authenticity, config)
        .map_err(|e| NetError::Key((*e).to_owned()))?;
    gossip.subscribe(&settings.topic()).map_err(|e| NetError::Key(e.to_string()))?;
    Ok(gossip)
}

fn kademlia(keypair: &Keypair) -> kad::Behaviour<MemoryStore> {
    let peer = keypair.public().to_peer_id();
    let mut config = kad::Config::new(StreamProtocol::new("/p2pinst/kad/1"));
    config
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .disjoint_query_paths(true)
        .set_caching(kad::Caching::Disabled)
        // records are not what it is used for: those that come in are dropped
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_record_ttl(None)
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(900)));
    let store = MemoryStoreConfig { max_records: 1, ..MemoryStoreConfig::default() };
    let mut kad = kad::Behaviour::with_config(peer, MemoryStore::with_config(peer, store), config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

pub(super) fn swarm(
    keypair: &Keypair,
    keeper: Arc<dyn Gatekeeper>,
    bulks: mpsc::Sender<TcpStream>,
    settings: &Settings,
) -> Result<Swarm<Behaviour>, NetError> {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_IN))
        .with_max_established(Some(CONNECTIONS))
        .with_max_established_per_peer(Some(4));
    let ping = ping::Config::new().with_interval(settings.ping).with_timeout(settings.ping);
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        streams: streams::Behaviour::default(),
        gossip: Quiet(gossip(keypair, settings)?),
        kad: kademlia(keypair),
        ping: ping::Behaviour::new(ping),
    };
    let transport = transport::build(keypair, keeper, bulks)?;
    let peer = keypair.public().to_peer_id();
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(settings.unused);
    Ok(Swarm::new(transport, behaviour, peer, config))
}
