//! Length-prefixed frames over any byte stream.

use std::io;

use p2pinst_types::limits;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// When the stream breaks, ends within a frame, or announces more than [`limits::FRAME`].
pub async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0u8; 4];
    match stream.read_exact(&mut len).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > limits::FRAME {
        let reason = format!("a frame of {len} bytes; at most {} are allowed", limits::FRAME);
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    Ok(Some(body))
}

/// Writes one frame and flushes.
///
/// # Errors
/// When the stream breaks, or the body is longer than [`limits::FRAME`].
pub async fn write<W: AsyncWrite + Unpin>(stream: &mut W, body: &[u8]) -> io::Result<()> {
    if body.len() > limits::FRAME {
        let reason = format!("an answer of {} bytes is too long for one frame", body.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}
