//! The task that owns the swarm. Local commands before the network; never waits for anybody.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance};
use libp2p::kad::{self, QueryId};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, ping};
use p2pinst_types::{Hash, NodeId};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::behaviour::{Behaviour, BehaviourEvent, Settings};
use super::gate::GateError;
use super::{Command, GossipId, NetError, NetEvent, OpenReply, Protocol, Worth, node_id};
use crate::peers::Peers;

/// Streams that may wait for a connection to be dialled, per peer.
const WAITING: usize = 64;
/// Dials and provider queries under way.
const QUERIES: usize = 256;

type DialReply = oneshot::Sender<Result<PeerId, NetError>>;

pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<NetEvent>,
    peers: Arc<Peers>,
    topic: IdentTopic,
    dials: HashMap<ConnectionId, (String, DialReply)>,
    waiting: HashMap<PeerId, Vec<(Protocol, OpenReply)>>,
    /// Open connections, and whether this node dialled them.
    connections: HashMap<PeerId, Vec<(ConnectionId, bool)>>,
    providers: HashMap<QueryId, (Vec<NodeId>, oneshot::Sender<Vec<NodeId>>)>,
}

/// Starts to listen, and waits until every listener has its address or fails.
pub(super) async fn listen(
    swarm: &mut Swarm<Behaviour>,
    addrs: Vec<Multiaddr>,
) -> Result<(), NetError> {
    let failed =
        |addr: &Multiaddr, reason: String| NetError::Listen { addr: addr.to_string(), reason };
    let mut pending: HashMap<ListenerId, Multiaddr> = HashMap::new();
    for addr in addrs {
        let id = swarm.listen_on(addr.clone()).map_err(|e| failed(&addr, e.to_string()))?;
        pending.insert(id, addr);
    }
    while !pending.is_empty() {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                info!(%address, "listening");
                pending.remove(&listener_id);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(addr) = pending.remove(&listener_id) {
                    let reason = reason.err().map(|e| e.to_string()).unwrap_or_default();
                    return Err(failed(&addr, reason));
                }
            }
            SwarmEvent::ListenerError { listener_id, error } => {
                if let Some(addr) = pending.remove(&listener_id) {
                    return Err(failed(&addr, error.to_string()));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

impl Driver {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<NetEvent>,
        peers: Arc<Peers>,
        settings: &Settings,
    ) -> Self {
        Self {
            swarm,
            commands,
            events,
            peers,
            topic: settings.topic(),
            dials: HashMap::new(),
            waiting: HashMap::new(),
            connections: HashMap::new(),
            providers: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
        debug!("the network is shut down");
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { peer, addrs, reply } => self.on_dial(peer, addrs, reply),
            Command::Open { peer, protocol, addrs, reply } => {
                self.on_open(peer, protocol, addrs, reply);
            }
            Command::Gossip { data } => {
                let topic = self.topic.clone();
                if let Err(e) = self.swarm.behaviour_mut().gossip.publish(topic, data) {
                    debug!(error = %e, "nobody was told by gossip; sync will tell");
                }
            }
            Command::Report { id, worth } => {
                let acceptance = match worth {
                    Worth::Accept => MessageAcceptance::Accept,
                    Worth::Ignore => MessageAcceptance::Ignore,
                    Worth::Reject => MessageAcceptance::Reject,
                };
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                let _still_cached =
                    gossip.report_message_validation_result(&id.message, &id.source, acceptance);
            }
            Command::Provide { root } => {
                let key = kad::RecordKey::new(&root.as_bytes());
                if let Err(e) = self.swarm.behaviour_mut().kad.start_providing(key) {
                    warn!(error = %e, "cannot announce a blob in the DHT");
                }
            }
            Command::Withdraw { root } => {
                let key = kad::RecordKey::new(&root.as_bytes());
                self.swarm.behaviour_mut().kad.stop_providing(&key);
            }
            Command::Providers { root, reply } => self.on_providers(root, reply),
            Command::Close { peer } => {
                let _was_connected = self.swarm.disconnect_peer_id(peer).is_ok();
            }
            // who is only not connected stays: Kademlia looks around with every newcomer while it
            // knows few, which connects many
            Command::Forget { peer } => drop(self.swarm.behaviour_mut().kad.remove_peer(&peer)),
        }
    }

    fn on_dial(&mut self, peer: Option<PeerId>, addrs: Vec<Multiaddr>, reply: DialReply) {
        let shown = addrs.first().map(ToString::to_string).unwrap_or_default();
        let refuse = |reply: DialReply, reason: String| {
            drop(reply.send(Err(NetError::NotDialled { addr: shown.clone(), reason })));
        };
        if self.dials.len() >= QUERIES {
            return refuse(reply, "too many connections are being set up".to_owned());
        }
        let opts = match (peer, addrs.as_slice()) {
            (Some(peer), [_, ..]) => DialOpts::peer_id(peer)
                .addresses(addrs)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build(),
            (Some(peer), []) => DialOpts::from(peer),
            (None, [addr, ..]) => DialOpts::unknown_peer_id().address(addr.clone()).build(),
            (None, []) => return refuse(reply, "no address is known".to_owned()),
        };
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => drop(self.dials.insert(id, (shown, reply))),
            Err(e) => refuse(reply, e.to_string()),
        }
    }

    fn on_open(
        &mut self,
        peer: PeerId,
        protocol: Protocol,
        addrs: Vec<Multiaddr>,
        reply: OpenReply,
    ) {
        if self.swarm.is_connected(&peer) {
            return self.swarm.behaviour_mut().streams.open(peer, protocol, reply);
        }
        let full = self.waiting.len() >= QUERIES && !self.waiting.contains_key(&peer);
        if full {
            drop(reply.send(Err("too many connections are being set up".to_owned())));
            return;
        }
        let waiting = self.waiting.entry(peer).or_default();
        if waiting.len() >= WAITING || addrs.is_empty() {
            if waiting.is_empty() {
                self.waiting.remove(&peer);
            }
            drop(reply.send(Err("it is not connected".to_owned())));
            return;
        }
        waiting.push((protocol, reply));
        let opts = DialOpts::peer_id(peer)
            .addresses(addrs)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        match self.swarm.dial(opts) {
            // under way already: its end will be told
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(e) => self.on_unreachable(peer, &e.to_string()),
        }
    }

    fn on_unreachable(&mut self, peer: PeerId, reason: &str) {
        for (_, reply) in self.waiting.remove(&peer).unwrap_or_default() {
            drop(reply.send(Err(reason.to_owned())));
        }
    }

    fn on_providers(&mut self, root: Hash, reply: oneshot::Sender<Vec<NodeId>>) {
        if self.providers.len() >= QUERIES {
            drop(reply.send(Vec::new()));
            return;
        }
        let key = kad::RecordKey::new(&root.as_bytes());
        let query = self.swarm.behaviour_mut().kad.get_providers(key);
        self.providers.insert(query, (Vec::new(), reply));
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let open = self.connections.entry(peer_id).or_default();
                open.push((connection_id, endpoint.is_dialer()));
                self.on_connected(peer_id, connection_id);
                self.close_double(peer_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                if let Some(open) = self.connections.get_mut(&peer_id) {
                    open.retain(|(id, _)| *id != connection_id);
                }
                if num_established == 0 {
                    self.on_disconnected(peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                if let Some((addr, reply)) = self.dials.remove(&connection_id) {
                    drop(reply.send(Err(dial_error(addr, &error))));
                }
                if let Some(peer) = peer_id
                    && !self.swarm.is_connected(&peer)
                {
                    self.on_unreachable(peer, &error.to_string());
                }
            }
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                warn!(?addresses, ?reason, "no longer listening");
            }
            _ => {}
        }
    }

    fn on_disconnected(&mut self, peer: PeerId) {
        self.connections.remove(&peer);
        if let Some(node) = node_id(&peer) {
            self.peers.down(node);
        }
    }

    /// Two nodes that dialled each other have two connections. The one that the lower id dialled
    /// stays; the node with the higher id closes its own.
    fn close_double(&mut self, peer: PeerId) {
        if *self.swarm.local_peer_id() < peer {
            return;
        }
        let open = self.connections.get(&peer).cloned().unwrap_or_default();
        if open.iter().any(|(_, dialled)| !dialled) {
            for (id, _) in open.iter().filter(|(_, dialled)| *dialled) {
                self.swarm.close_connection(*id);
            }
        }
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some((_, reply)) = self.dials.remove(&connection) {
            drop(reply.send(Ok(peer)));
        }
        for (protocol, reply) in self.waiting.remove(&peer).unwrap_or_default() {
            self.swarm.behaviour_mut().streams.open(peer, protocol, reply);
        }
        let Some(node) = node_id(&peer) else { return };
        for addr in self.peers.up(node) {
            if let Ok(addr) = addr.parse() {
                self.swarm.behaviour_mut().kad.add_address(&peer, addr);
            }
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Streams(opened) => {
                let Some(peer) = node_id(&opened.peer) else { return };
                let stream = opened.stream.compat();
                let event = NetEvent::Inbound { peer, protocol: opened.protocol, stream };
                if self.events.try_send(event).is_err() {
                    debug!(%peer, "too busy: an inbound stream is refused");
                }
            }
            BehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            }) => {
                let Some(source) = node_id(&propagation_source) else { return };
                let id = GossipId { message: message_id, source: propagation_source };
                let event = NetEvent::Gossip { source, id, data: message.data };
                if self.events.try_send(event).is_err() {
                    debug!(%source, "too busy: a gossiped hint is dropped");
                }
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetProviders(result),
                step,
                ..
            }) => self.on_provider_progress(id, result, step.last),
            BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(error) }) => {
                debug!(%peer, %error, "no answer to a ping: closing the connection");
                self.swarm.close_connection(connection);
            }
            _ => {}
        }
    }

    fn on_provider_progress(
        &mut self,
        id: QueryId,
        result: Result<kad::GetProvidersOk, kad::GetProvidersError>,
        last: bool,
    ) {
        let own = *self.swarm.local_peer_id();
        if let Some((found, _)) = self.providers.get_mut(&id)
            && let Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) = result
        {
            let others = providers.iter().filter(|peer| **peer != own);
            found.extend(others.filter_map(node_id).take(64));
        }
        if last && let Some((found, reply)) = self.providers.remove(&id) {
            drop(reply.send(found));
        }
    }
}

/// Finds the reason of the gate in what libp2p made of it.
fn dial_error(addr: String, error: &DialError) -> NetError {
    let mut reason = error.to_string();
    let mut own = !matches!(error, DialError::Transport(_) | DialError::WrongPeerId { .. });
    if let DialError::Transport(failed) = error {
        for (_, e) in failed {
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(e);
            while let Some(inner) = source {
                if let Some(GateError::RefusedBy(refusal) | GateError::Refused(refusal)) =
                    inner.downcast_ref::<GateError>()
                {
                    return NetError::Refused { addr, refusal: *refusal };
                }
                if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                    reason = io.to_string();
                    own |= is_own(io);
                    if let Some(GateError::RefusedBy(r) | GateError::Refused(r)) =
                        io.get_ref().and_then(|e| find_gate(e))
                    {
                        return NetError::Refused { addr, refusal: *r };
                    }
                }
                source = inner.source();
            }
        }
    }
    if own { NetError::NotDialled { addr, reason } } else { NetError::Dial { addr, reason } }
}

/// Whether this machine has no more to give: nobody was asked.
fn is_own(error: &std::io::Error) -> bool {
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|e| own.contains(&e))
}

/// Looks for a gate error below an error.
fn find_gate<'a>(
    error: &'a (dyn std::error::Error + Send + Sync + 'static),
) -> Option<&'a GateError> {
    let mut source: Option<&'a (dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(gate) = inner.downcast_ref::<GateError>() {
            return Some(gate);
        }
        source = inner.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use libp2p::TransportError;

    use super::*;

    #[test]
    fn what_this_node_cannot_do_is_told_from_what_the_other_did() {
        let transport = |e: io::Error| {
            DialError::Transport(vec![(Multiaddr::empty(), TransportError::Other(e))])
        };
        let is_own =
            |e: &DialError| matches!(dial_error(String::new(), e), NetError::NotDialled { .. });
        assert!(is_own(&DialError::NoAddresses));
        assert!(is_own(&DialError::Aborted));
        assert!(is_own(&transport(io::Error::from(Errno::MFILE))));
        assert!(!is_own(&transport(io::Error::from(Errno::CONNREFUSED))));
        assert!(!is_own(&transport(io::Error::from(io::ErrorKind::TimedOut))));
    }
}
