//! One request and one response on a stream of the store protocol.

use std::io;
use std::time::Duration;

use dht_store::wire::{Request, Response};
use p2pinst_api::frame;
use p2pinst_types::{NodeId, codec};

use crate::net::{Net, NetError, NetStream, Protocol};

/// Time for a request and its answer, after the stream is open.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a node.
///
/// # Errors
/// When it cannot be reached, does not answer in time, or answers what cannot be read.
pub async fn ask(
    net: &Net,
    peer: NodeId,
    addrs: &[String],
    request: &Request,
) -> Result<Response, NetError> {
    let mut stream = net.open(peer, Protocol::Store, addrs).await?;
    net.peers().traffic().asked(peer);
    let exchange = async {
        let invalid = |e: codec::CodecError| io::Error::new(io::ErrorKind::InvalidData, e);
        let bytes = codec::encode(request).map_err(invalid)?;
        frame::write(&mut stream, &bytes).await?;
        let body = frame::read(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        codec::decode(&body).map_err(invalid)
    };
    let answered = tokio::time::timeout(PATIENCE, exchange).await;
    answered
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| NetError::Stream { peer, source })
}

/// Reads the one request of an inbound stream.
///
/// # Errors
/// When the stream breaks, nothing comes in time, or it cannot be read.
pub async fn read_request(stream: &mut NetStream) -> io::Result<Request> {
    let body = tokio::time::timeout(PATIENCE, frame::read(stream))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    codec::decode(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Answers it.
///
/// # Errors
/// When the stream breaks or the other side does not read.
pub async fn write_response(stream: &mut NetStream, response: &Response) -> io::Result<()> {
    let bytes =
        codec::encode(response).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let write = async {
        frame::write(stream, &bytes).await?;
        tokio::io::AsyncWriteExt::shutdown(stream).await
    };
    tokio::time::timeout(PATIENCE, write).await.map_err(|_| io::ErrorKind::TimedOut)?
}
