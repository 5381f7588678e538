//! TCP, the gate, yamux.

use std::sync::Arc;
use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, noise, tcp, yamux};

use super::gate::Gate;
use super::{Gatekeeper, NetError};

/// For the whole set-up of a connection: connecting, encrypting, the certificates, the muxer.
const SET_UP: Duration = Duration::from_secs(15);

pub(super) fn build(
    keypair: &Keypair,
    keeper: Arc<dyn Gatekeeper>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let noise = noise::Config::new(keypair).map_err(|e| NetError::Key(e.to_string()))?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    Ok(tcp
        .upgrade(Version::V1)
        .authenticate(Gate::new(noise, keeper))
        .multiplex(yamux::Config::default())
        .timeout(SET_UP)
        .boxed())
}
