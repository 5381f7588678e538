//! What the daemon and its boot service say to each other: CBOR in frames that begin with their length.
//!
//! The service is the one whose parsers face the segment, so the daemon takes nothing from it that is longer than a frame, or that
//! it would act on without a check of its own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};

use p2pinst_types::codec::{self, CodecError};
use p2pinst_types::{Mac, limits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::config::Config;
use super::tables::Tables;
use crate::dhcp::event::Event;

/// Why a message could not be sent or read.
#[derive(Debug, Error)]
pub enum WireError {
    /// The pipe does not work.
    #[error("cannot use the pipe between the daemon and its boot service: {0}")]
    Pipe(#[from] io::Error),
    /// The other side sends something else.
    #[error("a message between the daemon and its boot service is wrong: {0}")]
    Codec(#[from] CodecError),
    /// A message that does not fit.
    #[error(
        "a message between the daemon and its boot service has {len} bytes, at most {max} are allowed: arm fewer machines at once",
        max = limits::FRAME
    )]
    Long {
        /// Its length.
        len: usize,
    },
}

/// What the daemon says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToService {
    /// The first message, and only that.
    Start(Config),
    /// Serve this from now on, instead of what was before.
    Tables(Tables),
    /// The answer to a [`Hello`].
    HelloAnswer {
        /// Which.
        id: u64,
        /// The status, as HTTP has them.
        status: u16,
        /// The body.
        #[serde(with = "serde_bytes")]
        body: Vec<u8>,
    },
    /// End.
    Stop,
}

/// What the boot service says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromService {
    /// It has dropped its privileges and begins to read.
    Ready(Ready),
    /// Something happened on a segment.
    Event(Event),
    /// A machine has introduced itself, and waits for the answer.
    Hello(Hello),
    /// A file left, or a part of it.
    ServedFile(ServedFile),
    /// Something does not work; the rest goes on.
    Failed {
        /// What was attempted, on what, and why it failed.
        what: String,
    },
    /// There are interfaces or addresses that it has no sockets for, and may not open: it wants to be started anew.
    NewInterfaces,
}

/// What the boot service listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The interfaces, with the first address of each.
    pub interfaces: Vec<(String, Ipv4Addr)>,
    /// The ports of UDP that could be opened on any of them.
    pub udp: Vec<u16>,
    /// The port of the HTTP server; none where it could be opened on no interface.
    pub http: Option<u16>,
}

/// A machine that introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What its answer is called.
    pub id: u64,
    /// Where it called from.
    pub from: SocketAddrV4,
    /// Its hardware address, as this machine's kernel knows it (ARP); none beyond a router.
    pub mac: Option<Mac>,
    /// What it said; nothing of it has been looked at.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

/// A file that left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedFile {
    /// To whom.
    pub to: SocketAddrV4,
    /// Its name.
    pub name: String,
    /// How many bytes left: fewer than it has where the client wanted a part, or went away.
    pub bytes: u64,
}

/// A message as a frame.
///
/// # Errors
/// When it is too long.
pub(super) fn frame(message: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let body = codec::encode(message)?;
    let len = checked(body.len())?;
    Ok([&len.to_be_bytes(), body.as_slice()].concat())
}

fn checked(len: usize) -> Result<u32, WireError> {
    let fits = u32::try_from(len).ok().filter(|_| len <= limits::FRAME);
    fits.ok_or(WireError::Long { len })
}

fn length(head: [u8; 4]) -> Result<usize, WireError> {
    let len = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    checked(len).map(|_| len)
}

/// Writes a message.
///
/// # Errors
/// When it is too long, or the pipe is closed.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> Result<(), WireError> {
    to.write_all(&frame(message)?)?;
    Ok(to.flush()?)
}

/// Reads a message; none when the pipe has ended between two.
///
/// # Errors
/// When the pipe breaks off within a message, or that is wrong.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<T>, WireError> {
    let mut head = [0; 4];
    let Some((first, rest)) = head.split_first_mut() else { return Ok(None) };
    if from.read(std::slice::from_mut(first))? == 0 {
        return Ok(None);
    }
    from.read_exact(rest)?;
    let len = length(head)?;
    let mut body = Vec::new();
    from.take(len as u64).read_to_end(&mut body)?;
    whole(&body, len).map(Some)
}

/// As [`read`], without blocking.
///
/// # Errors
/// As [`read`].
pub(super) async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, WireError> {
    let mut head = [0; 4];
    let Some((first, rest)) = head.split_first_mut() else { return Ok(None) };
    if from.read(std::slice::from_mut(first)).await? == 0 {
        return Ok(None);
    }
    from.read_exact(rest).await?;
    let len = length(head)?;
    let mut body = Vec::new();
    from.take(len as u64).read_to_end(&mut body).await?;
    whole(&body, len).map(Some)
}

fn whole<T: DeserializeOwned>(body: &[u8], len: usize) -> Result<T, WireError> {
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(codec::decode(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole_or_wrong() {
        let answer = ToService::HelloAnswer { id: 7, status: 403, body: vec![1; 300] };
        let bytes = frame(&answer).unwrap();
        let twice = [bytes.as_slice(), &bytes].concat();
        let mut pipe = twice.as_slice();
        for _ in 0..2 {
            let read: ToService = read(&mut pipe).unwrap().unwrap();
            assert!(matches!(read, ToService::HelloAnswer { id: 7, status: 403, .. }));
        }
        assert!(read::<ToService>(&mut pipe).unwrap().is_none());
        for cut in 1..bytes.len() {
            assert!(read::<ToService>(&mut &bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        let claim = u32::try_from(limits::FRAME + 1).unwrap().to_be_bytes();
        let error = read::<ToService>(&mut &claim[..]).unwrap_err();
        assert!(matches!(error, WireError::Long { .. }), "{error}");
        let large = ToService::HelloAnswer { id: 7, status: 200, body: vec![1; limits::FRAME] };
        assert!(matches!(frame(&large), Err(WireError::Long { .. })));
    }
}
