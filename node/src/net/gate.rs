//! The security upgrade: Noise, then the exchange of certificates on the encrypted stream. Only
//! when both sides have said yes does a connection exist for anything above.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::{PeerId, noise};
use p2pinst_trust::Refusal;
use p2pinst_types::{NodeId, limits};
use tracing::{debug, warn};

use super::{Gatekeeper, node_id};

/// Who refused, and why.
#[derive(Debug)]
pub(super) enum GateError {
    Noise(noise::Error),
    /// This node refused the other.
    Refused(Refusal),
    /// The other refused this node.
    RefusedBy(Refusal),
    Io(std::io::Error),
    Timeout,
}

impl fmt::Display for GateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noise(e) => write!(f, "no encrypted connection: {e}"),
            Self::Refused(r) => write!(f, "refused here: {r}"),
            Self::RefusedBy(r) => write!(f, "refused by the other side: {r}"),
            Self::Io(e) => write!(f, "the handshake broke: {e}"),
            Self::Timeout => f.write_str("the handshake took too long"),
        }
    }
}

impl std::error::Error for GateError {}

impl From<std::io::Error> for GateError {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

/// Noise with a gatekeeper behind it.
#[derive(Clone)]
pub(super) struct Gate {
    noise: noise::Config,
    keeper: Arc<dyn Gatekeeper>,
}

impl Gate {
    pub(super) fn new(noise: noise::Config, keeper: Arc<dyn Gatekeeper>) -> Self {
        Self { noise, keeper }
    }
}

impl UpgradeInfo for Gate {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/p2pinst/noise/1")
    }
}

type Upgraded<T> = Result<(PeerId, noise::Output<T>), GateError>;
type Future<T> = Pin<Box<dyn futures::Future<Output = Upgraded<T>> + Send>>;

/// The byte that says yes.
const WELCOME: u8 = 0;

async fn send_hello<S: AsyncWrite + Unpin>(io: &mut S, hello: &[u8]) -> Result<(), GateError> {
    let len = u32::try_from(hello.len()).unwrap_or(u32::MAX);
    io.write_all(&len.to_be_bytes()).await?;
    io.write_all(hello).await?;
    io.flush().await?;
    Ok(())
}

async fn read_hello<S: AsyncRead + Unpin>(io: &mut S) -> Result<Vec<u8>, GateError> {
    let mut len = [0; 4];
    io.read_exact(&mut len).await?;
    let len = u32::from_be_bytes(len) as usize;
    if len > limits::HELLO {
        return Err(GateError::Refused(Refusal::Malformed));
    }
    let mut hello = vec![0; len];
    io.read_exact(&mut hello).await?;
    Ok(hello)
}

async fn send_byte<S: AsyncWrite + Unpin>(io: &mut S, byte: u8) -> Result<(), GateError> {
    io.write_all(&[byte]).await?;
    io.flush().await?;
    Ok(())
}

async fn read_verdict<S: AsyncRead + Unpin>(
    io: &mut S,
    keeper: &dyn Gatekeeper,
) -> Result<(), GateError> {
    let mut byte = [0];
    io.read_exact(&mut byte).await?;
    let refusal = match byte {
        [WELCOME] => return Ok(()),
        [other] => Refusal::from_byte(other).unwrap_or(Refusal::Malformed),
    };
    // R16: this node may not have heard of its own removal
    if refusal == Refusal::Revoked
        && let Ok(proof) = read_hello(io).await
        && !proof.is_empty()
    {
        keeper.refused(proof).await;
    }
    Err(GateError::RefusedBy(refusal))
}

/// Tells the other side why not, as far as it still listens, and closes.
async fn refuse<S: AsyncWrite + Unpin>(
    io: &mut S,
    refusal: Refusal,
    keeper: &dyn Gatekeeper,
    peer: Option<NodeId>,
) -> GateError {
    let told = async {
        send_byte(io, refusal as u8).await?;
        if let Some(peer) = peer.filter(|_| refusal == Refusal::Revoked) {
            send_hello(io, &keeper.proof(peer)).await?;
        }
        io.close().await.map_err(GateError::Io)
    };
    if let Err(e) = told.await {
        debug!(error = %e, "could not tell the other side why it is refused");
    }
    GateError::Refused(refusal)
}

/// The dialler shows itself first.
async fn dialled<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    peer: PeerId,
    keeper: &dyn Gatekeeper,
) -> Result<(), GateError> {
    let hello = keeper.hello().await.map_err(GateError::Refused)?;
    send_hello(io, &hello).await?;
    read_verdict(io, keeper).await?;
    let theirs = read_hello(io).await?;
    let node = node_id(&peer).ok_or(GateError::Refused(Refusal::NotCertified))?;
    match keeper.judge(node, theirs, true).await {
        Ok(()) => send_byte(io, WELCOME).await,
        Err(refusal) => Err(refuse(io, refusal, keeper, Some(node)).await),
    }
}

/// The listener answers with its own hello or with one byte.
async fn accepted<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    peer: PeerId,
    keeper: &dyn Gatekeeper,
) -> Result<(), GateError> {
    let theirs = match read_hello(io).await {
        Err(GateError::Refused(refusal)) => return Err(refuse(io, refusal, keeper, None).await),
        other => other?,
    };
    let Some(node) = node_id(&peer) else {
        return Err(refuse(io, Refusal::NotCertified, keeper, None).await);
    };
    if let Err(refusal) = keeper.judge(node, theirs, false).await {
        return Err(refuse(io, refusal, keeper, Some(node)).await);
    }
    let hello = match keeper.hello().await {
        Ok(hello) => hello,
        Err(refusal) => return Err(refuse(io, refusal, keeper, None).await),
    };
    send_byte(io, WELCOME).await?;
    send_hello(io, &hello).await?;
    read_verdict(io, keeper).await
}

async fn pass<T>(upgrade: noise::Output<T>, peer: PeerId, gate: Gate, dialler: bool) -> Upgraded<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = upgrade;
    let exchange = async {
        if dialler {
            dialled(&mut io, peer, &*gate.keeper).await
        } else {
            accepted(&mut io, peer, &*gate.keeper).await
        }
    };
    let result = tokio::time::timeout(limits::HANDSHAKE, exchange).await;
    match result.unwrap_or(Err(GateError::Timeout)) {
        Ok(()) => Ok((peer, io)),
        Err(e) => {
            if let (GateError::RefusedBy(refusal), Some(by)) = (&e, node_id(&peer)) {
                gate.keeper.turned_away(by, *refusal);
            }
            match &e {
                GateError::Refused(_) | GateError::RefusedBy(_) => {
                    warn!(%peer, dialler, reason = %e, "connection refused");
                }
                _ => debug!(%peer, dialler, reason = %e, "handshake failed"),
            }
            Err(e)
        }
    }
}

impl<T> InboundConnectionUpgrade<T> for Gate
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = GateError;
    type Future = Future<T>;

    fn upgrade_inbound(self, socket: T, _: Self::Info) -> Self::Future {
        Box::pin(async move {
            let noise = self.noise.clone().upgrade_inbound(socket, "/noise");
            let (peer, io) = noise.await.map_err(GateError::Noise)?;
            pass(io, peer, self, false).await
        })
    }
}

impl<T> OutboundConnectionUpgrade<T> for Gate
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = GateError;
    type Future = Future<T>;

    fn upgrade_outbound(self, socket: T, _: Self::Info) -> Self::Future {
        Box::pin(async move {
            let noise = self.noise.clone().upgrade_outbound(socket, "/noise");
            let (peer, io) = noise.await.map_err(GateError::Noise)?;
            pass(io, peer, self, true).await
        })
    }
}
