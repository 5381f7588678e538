//! Frames of the exchange protocol on a byte stream.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2pinst_chunks::wire::{Direction, HEADER, Header, WireError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::limits::Flow;

/// A peer that takes nothing for so long is given up.
pub(super) const STALLED: Duration = Duration::from_secs(30);

/// Bytes that have to leave within [`STALLED`].
pub(super) const STEP: usize = 64 << 10;

pub(super) fn invalid(e: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

/// Reads one frame into `body`: its bytes are [`taken`]. `None` at the end of the stream. The length is
/// checked against its tag before anything is allocated, and room is made as the bytes come. `count` is
/// told of them. With a `flow` no more is taken from the stream than its limits allow.
pub(super) async fn read<R: AsyncRead + Unpin>(
    stream: &mut R,
    direction: Direction,
    body: &mut Vec<u8>,
    count: &AtomicU64,
    flow: Option<&Flow>,
) -> io::Result<Option<Header>> {
    let Some(header) = header(stream, direction).await? else { return Ok(None) };
    body.clear();
    while body.len() < header.body_len() {
        let step = (header.body_len() - body.len()).min(STEP);
        let counted = |n| {
            count.fetch_add(n, Ordering::Relaxed);
        };
        body.reserve(step);
        read_more(stream, body, step, flow, counted).await?;
    }
    Ok(Some(header))
}

/// Reads the header of a frame; `None` at the end of the stream.
pub(super) async fn header<R: AsyncRead + Unpin>(
    stream: &mut R,
    direction: Direction,
) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER];
    match stream.read_exact(&mut bytes).await {
        Ok(_) => Header::parse(bytes, direction).map(Some).map_err(invalid),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

/// Appends so many bytes of a frame to `body`, in memory that is touched as they come.
pub(super) async fn read_more<R: AsyncRead + Unpin>(
    stream: &mut R,
    body: &mut Vec<u8>,
    bytes: usize,
    flow: Option<&Flow>,
    counted: impl Fn(u64),
) -> io::Result<()> {
    body.reserve_exact(bytes);
    let mut rest = bytes;
    while rest > 0 {
        let most = rest.min(flow.map_or(usize::MAX, Flow::chunk));
        let n = (&mut *stream).take(most as u64).read_buf(body).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        counted(n as u64);
        if let Some(flow) = flow {
            flow.pass(n).await;
        }
        rest -= n;
    }
    Ok(())
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
    for step in parts.iter().flat_map(|part| part.chunks(STEP)) {
        in_time(stream.write_all(step)).await?;
    }
    finish(stream).await
}

/// Flushes what was written.
pub(super) async fn finish<W: AsyncWrite + Unpin>(stream: &mut W) -> io::Result<()> {
    in_time(stream.flush()).await
}

async fn in_time<T>(write: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(STALLED, write).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Writes the beginning of a frame; it leaves with what follows.
pub(super) async fn begin<W: AsyncWrite + Unpin>(stream: &mut W, prefix: &[u8]) -> io::Result<()> {
    in_time(stream.write_all(prefix)).await
}

/// Writes bytes of a piece from `at` on, no faster than the limits allow, and flushes. When it is dropped,
/// `at` tells how far it came; the writer may hold some of it still.
pub(super) async fn write_within<W: AsyncWrite + Unpin>(
    stream: &mut W,
    bytes: &[u8],
    at: &mut usize,
    flow: &Flow,
) -> io::Result<()> {
    while *at < bytes.len() {
        let end = bytes.len().min(at.saturating_add(flow.chunk().min(STEP)));
        let limited = !flow.is_open();
        flow.pass(end - *at).await;
        let step = async {
            while *at < end {
                let n = stream.write(bytes.get(*at..end).unwrap_or_default()).await?;
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                *at += n;
            }
            if limited { stream.flush().await } else { Ok(()) }
        };
        in_time(step).await?;
    }
    finish(stream).await
}
