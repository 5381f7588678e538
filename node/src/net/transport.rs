//! TCP, the gate, yamux.
//!
//! An inbound connection that begins as a bulk one is handed over to [`super::bulk`]; for libp2p it
//! failed.
//!
//! Dials go out from a port of the system's choice, not from the one that is listened on: nobody has
//! a NAT to punch with it, and a program that listens on the same port of another address of the
//! machine would be in the way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, PortUse, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Transport, noise, tcp, yamux};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::gate::Gate;
use super::{Gatekeeper, NetError, bulk};

/// For the whole set-up of a connection: connecting, encrypting, the certificates, the muxer.
const SET_UP: Duration = Duration::from_secs(15);

pub(super) fn build(
    keypair: &Keypair,
    keeper: Arc<dyn Gatekeeper>,
    bulks: mpsc::Sender<TcpStream>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let noise = noise::Config::new(keypair).map_err(|e| NetError::Key(e.to_string()))?;
    let tcp = FreshPort(tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)));
    Ok(tcp
        .and_then(move |stream, point| sort(stream.into(), point.is_listener(), bulks))
        .upgrade(Version::V1)
        .authenticate(Gate::new(noise, keeper))
        .multiplex(yamux::Config::default())
        .timeout(SET_UP)
        .boxed())
}

/// Looks at the first byte of an inbound connection: a bulk one goes its own way.
async fn sort(
    stream: TcpStream,
    inbound: bool,
    bulks: mpsc::Sender<TcpStream>,
) -> io::Result<Compat<TcpStream>> {
    let mut first = [0];
    if inbound && stream.peek(&mut first).await? == 1 && first == [bulk::FIRST] {
        let reason = match bulks.try_send(stream) {
            Ok(()) => "it is a bulk connection",
            Err(_) => "too many bulk connections are being set up",
        };
        return Err(io::Error::other(reason));
    }
    Ok(stream.compat())
}

/// TCP that never dials from a port that it listens on.
struct FreshPort(tcp::tokio::Transport);

impl Transport for FreshPort {
    type Output = <tcp::tokio::Transport as Transport>::Output;
    type Error = <tcp::tokio::Transport as Transport>::Error;
    type ListenerUpgrade = <tcp::tokio::Transport as Transport>::ListenerUpgrade;
    type Dial = <tcp::tokio::Transport as Transport>::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.0.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        self.0.dial(addr, DialOpts { port_use: PortUse::New, ..opts })
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}
