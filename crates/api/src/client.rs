//! The client side of the control socket.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pinst_types::{BlobRef, codec};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::frame;
use crate::paths::DataDir;
use crate::request::{ApiError, Call, Invites, Nodes, PutBlob, Request};
use crate::view::{InviteView, NodeView};

/// How long a client waits for a node that is just starting.
const START_UP: Duration = Duration::from_secs(10);
/// How long it waits when nothing says that a node is starting.
const BRIEF: Duration = Duration::from_secs(3);
/// Bytes read from a file at a time while it is handed over.
const COPY: usize = 256 * 1024;

/// Why a request got no answer, or not the one hoped for.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No node on this data directory.
    #[error("no node answers on {}: {source}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// Why it does not answer.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the node closed the connection: {0}")]
    Broken(#[source] io::Error),
    /// The answer is not one.
    #[error("the node's answer cannot be read ({0}); is it of another version?")]
    Protocol(#[from] codec::CodecError),
    /// The file could not be read while it was handed over.
    #[error("cannot read the file: {0}")]
    Source(#[source] io::Error),
    /// The node says no.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A connection to the node on this machine.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

/// Opens a unix socket whatever the length of its path (a socket address holds 107 bytes): through
/// the open directory's own name in /proc.
async fn open(path: &Path) -> io::Result<UnixStream> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return UnixStream::connect(path).await;
    };
    let dir = File::open(dir)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    UnixStream::connect(short).await
}

impl Client {
    /// Connects to the node of a data directory; waits for one that is just starting.
    ///
    /// # Errors
    /// When none answers within ten seconds.
    pub async fn connect(dir: &DataDir) -> Result<Self, ClientError> {
        let path = dir.socket();
        let begun = Instant::now();
        loop {
            match open(&path).await {
                Ok(stream) => return Ok(Self { stream }),
                Err(source) => {
                    // a node that is starting holds the lock before it has the socket
                    let starting = p2pinst_files::Lock::holder(&dir.lock()).is_some();
                    let patience = if starting { START_UP } else { BRIEF };
                    if begun.elapsed() > patience || !dir.identity().exists() {
                        return Err(ClientError::NotRunning { path, source });
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the connection breaks, or the node says no.
    pub async fn call<C: Call>(&mut self, call: C) -> Result<C::Reply, ClientError> {
        self.send(call.into()).await?;
        self.receive().await
    }

    /// The roster, page by page. `records`: with what the machines say of themselves.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn nodes(&mut self, records: bool) -> Result<Vec<NodeView>, ClientError> {
        let mut all: Vec<NodeView> = Vec::new();
        loop {
            let after = all.last().map(|n| n.name.clone());
            let page = self.call(Nodes { after, records }).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The invites, page by page; the one that ends first comes first.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn invites(&mut self) -> Result<Vec<InviteView>, ClientError> {
        let mut all: Vec<InviteView> = Vec::new();
        loop {
            let after = all.last().map(|i| i.invite);
            let page = self.call(Invites { after }).await?;
            if page.is_empty() {
                all.sort_by_key(|i| (i.not_after, i.invite));
                return Ok(all);
            }
            all.extend(page);
        }
    }

    async fn send(&mut self, request: Request) -> Result<(), ClientError> {
        let bytes = codec::encode(&request)?;
        frame::write(&mut self.stream, &bytes).await.map_err(ClientError::Broken)
    }

    async fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let body = frame::read(&mut self.stream).await.map_err(ClientError::Broken)?;
        let body = body.ok_or_else(ended).map_err(ClientError::Broken)?;
        let reply: Result<T, ApiError> = codec::decode(&body)?;
        Ok(reply?)
    }

    /// Hands over a blob of `len` bytes. `seen` is called with each run of bytes as it goes by, so
    /// that the caller can hash what it hands over.
    ///
    /// # Errors
    /// When the source ends early or goes on after `len` bytes, the connection breaks, or the node
    /// cannot store it.
    pub async fn put_blob<R: AsyncRead + Unpin>(
        &mut self,
        source: &mut R,
        len: u64,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<BlobRef, ClientError> {
        self.send(PutBlob { len }.into()).await?;
        let mut buffer = vec![0; COPY];
        let mut left = len;
        loop {
            let n = source.read(&mut buffer).await.map_err(ClientError::Source)?;
            let bytes = buffer.get(..n).unwrap_or_default();
            if n as u64 > left || (n == 0 && left > 0) {
                let reason = "its length changed while it was read";
                return Err(ClientError::Source(io::Error::other(reason)));
            }
            if n == 0 {
                break;
            }
            seen(bytes);
            if let Err(broken) = self.stream.write_all(bytes).await {
                // the node hung up: it has said why
                return match self.receive::<BlobRef>().await {
                    Err(api @ ClientError::Api(_)) => Err(api),
                    _ => Err(ClientError::Broken(broken)),
                };
            }
            left -= n as u64;
        }
        self.receive().await
    }
}
