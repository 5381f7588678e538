//! Raw streams for our own protocols, with bounded queues: what is asked of a connection that has
//! too many streams is refused at once, inbound as outbound.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use futures::future::{Ready, ready};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};

use super::{OpenReply, Protocol};

/// Streams that may wait for negotiation on one connection.
const PENDING: usize = 64;
/// Events that may wait for the swarm.
const EVENTS: usize = 1024;

/// A stream that the other side opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) peer: PeerId,
    pub(super) protocol: Protocol,
    pub(super) stream: Stream,
}

/// A wish for a stream.
#[derive(Debug)]
pub(super) struct Wish {
    protocol: Protocol,
    reply: OpenReply,
}

/// Offers all protocols, or asks for one.
#[derive(Debug, Clone)]
pub(super) struct Upgrade(Vec<Protocol>);

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        let names: Vec<_> = self.0.iter().map(|p| StreamProtocol::new(p.name())).collect();
        names.into_iter()
    }
}

fn protocol(name: &StreamProtocol) -> Protocol {
    Protocol::ALL.into_iter().find(|p| p.name() == name.as_ref()).unwrap_or(Protocol::Store)
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol(&name))))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol(&name))))
    }
}

/// One per connection.
#[derive(Debug, Default)]
pub(super) struct Handler {
    wishes: VecDeque<Wish>,
    opened: VecDeque<(Stream, Protocol)>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Wish;
    type ToBehaviour = (Stream, Protocol);
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade, ()> {
        SubstreamProtocol::new(Upgrade(Protocol::ALL.to_vec()), ())
    }

    /// A connection stays while a stream is open on it: who wants it to stay holds one open.
    fn connection_keep_alive(&self) -> bool {
        false
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, OpenReply, (Stream, Protocol)>> {
        if let Some(opened) = self.opened.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(opened));
        }
        if let Some(Wish { protocol, reply }) = self.wishes.pop_front() {
            let protocol = SubstreamProtocol::new(Upgrade(vec![protocol]), reply);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, wish: Wish) {
        if self.wishes.len() < PENDING {
            self.wishes.push_back(wish);
        } else {
            answer(wish.reply, Err("too many streams wait on the connection".to_owned()));
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), OpenReply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) if self.opened.len() < PENDING => self.opened.push_back(protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info,
                ..
            }) => answer(info, Ok(stream)),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error, .. }) => {
                answer(info, Err(error.to_string()));
            }
            _ => {}
        }
    }
}

/// Whoever asked may have gone away: then the stream is dropped, which resets it.
fn answer(reply: OpenReply, result: Result<Stream, String>) {
    drop(reply.send(result));
}

/// Connections of one address that may be in set-up at once: a stranger that says nothing keeps
/// nobody else out. Loopback is free: there all share one address.
const PENDING_OF_ONE: usize = 8;

/// The address at the other end; `None` for loopback.
fn source(addr: &Multiaddr) -> Option<IpAddr> {
    let ip = match addr.iter().next()? {
        Part::Ip4(ip) => IpAddr::from(ip),
        Part::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    (!ip.is_loopback()).then_some(ip)
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    /// Inbound connections in set-up, by where they come from.
    pending: HashMap<ConnectionId, IpAddr>,
    events: VecDeque<ToSwarm<Opened, Wish>>,
}

impl Behaviour {
    /// Opens a stream on the peer's newest connection: an older one may be dead without knowing.
    pub(super) fn open(&mut self, peer: PeerId, protocol: Protocol, reply: OpenReply) {
        let connection = self.connections.get(&peer).and_then(|c| c.last()).copied();
        match connection {
            Some(id) if self.events.len() < EVENTS => {
                let handler = NotifyHandler::One(id);
                let event = Wish { protocol, reply };
                self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event });
            }
            Some(_) => answer(reply, Err("too many streams wait for the network".to_owned())),
            None => answer(reply, Err("it is not connected".to_owned())),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Opened;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(ip) = source(remote) else { return Ok(()) };
        if self.pending.values().filter(|p| **p == ip).count() >= PENDING_OF_ONE {
            return Err(ConnectionDenied::new("too many connections of one address in set-up"));
        }
        self.pending.insert(id, ip);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(f) => drop(self.pending.remove(&f.connection_id)),
            FromSwarm::ConnectionEstablished(c) => {
                self.pending.remove(&c.connection_id);
                self.connections.entry(c.peer_id).or_default().push(c.connection_id);
            }
            FromSwarm::ConnectionClosed(c) => {
                if let Some(ids) = self.connections.get_mut(&c.peer_id) {
                    ids.retain(|id| *id != c.connection_id);
                    if ids.is_empty() {
                        self.connections.remove(&c.peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        _: ConnectionId,
        (stream, protocol): THandlerOutEvent<Self>,
    ) {
        // beyond the bound the stream is dropped: the other side sees a reset
        if self.events.len() < EVENTS {
            self.events.push_back(ToSwarm::GenerateEvent(Opened { peer, protocol, stream }));
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Opened, THandlerInEvent<Self>>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn who_asks_for_too_many_streams_is_told_so_at_once() {
        let mut handler = Handler::default();
        let mut answers = Vec::new();
        for _ in 0..=PENDING {
            let (reply, answer) = oneshot::channel();
            handler.on_behaviour_event(Wish { protocol: Protocol::Store, reply });
            answers.push(answer);
        }
        let refused = answers.pop().unwrap().try_recv().unwrap();
        assert!(refused.unwrap_err().contains("too many streams"));
        assert!(answers.iter_mut().all(|a| a.try_recv().is_err()), "the others wait");
        let (reply, mut answer) = oneshot::channel();
        Behaviour::default().open(PeerId::random(), Protocol::Store, reply);
        assert!(answer.try_recv().unwrap().unwrap_err().contains("not connected"));
    }

    #[test]
    fn one_address_sets_up_few_connections_at_once() {
        let mut behaviour = Behaviour::default();
        let own: Multiaddr = "/ip4/10.0.0.1/tcp/4001".parse().unwrap();
        let mut begins = |id: usize, from: &str| {
            let id = ConnectionId::new_unchecked(id);
            behaviour.handle_pending_inbound_connection(id, &own, &from.parse().unwrap()).is_ok()
        };
        assert!((0..PENDING_OF_ONE).all(|id| begins(id, "/ip4/10.0.0.2/tcp/1")));
        assert!(!begins(20, "/ip4/10.0.0.2/tcp/2"));
        assert!(begins(21, "/ip4/10.0.0.3/tcp/1"), "another has places of its own");
        assert!((30..50).all(|id| begins(id, "/ip4/127.0.0.1/tcp/1")));
    }
}
