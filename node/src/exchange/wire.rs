//! Frames of the exchange protocol on a byte stream.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2pinst_chunks::wire::{Direction, HEADER, Header, WireError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A peer that takes nothing for so long is given up.
pub(super) const STALLED: Duration = Duration::from_secs(30);

pub(super) fn invalid(e: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

/// Reads one frame into the beginning of `body`, which never shrinks (or it would be cleared again for
/// each piece): its bytes are [`taken`]. `None` at the end of the stream. The length is checked
/// against its tag before anything is allocated. `count` is told of the bytes as they come.
pub(super) async fn read<R: AsyncRead + Unpin>(
    stream: &mut R,
    direction: Direction,
    body: &mut Vec<u8>,
    count: &AtomicU64,
) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER];
    match stream.read_exact(&mut bytes).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let header = Header::parse(bytes, direction).map_err(invalid)?;
    if body.len() < header.body_len() {
        body.resize(header.body_len(), 0);
    }
    let mut rest = body.get_mut(..header.body_len()).unwrap_or_default();
    while !rest.is_empty() {
        let n = stream.read(rest).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        count.fetch_add(n as u64, Ordering::Relaxed);
        rest = rest.split_at_mut(n).1;
    }
    Ok(Some(header))
}

/// The body of a frame that was read.
pub(super) fn taken(header: Header, body: &[u8]) -> &[u8] {
    body.get(..header.body_len()).unwrap_or_default()
}

/// Writes bytes that are whole frames, and flushes.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    stream: &mut W,
    parts: &[&[u8]],
) -> io::Result<()> {
    let write = async {
        for part in parts {
            stream.write_all(part).await?;
        }
        stream.flush().await
    };
    tokio::time::timeout(STALLED, write).await.map_err(|_| io::ErrorKind::TimedOut)?
}
