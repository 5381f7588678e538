//! The HTTP server that firmware, iPXE and scouts load from: GET and HEAD with lengths and ranges, and one POST.
//!
//! It runs on tokio, owns its connections and counts them; what there is to serve it asks its [`Site`], by the path as it
//! came: nothing is decoded, and nothing of a request is ever part of a path of the file system. Files leave in chunks. Who is
//! slow is closed, who comes too often has to wait.

mod body;
mod gate;
mod patience;
mod range;
mod respond;
mod serve;

pub use range::{Wanted, wanted};
pub use serve::Server;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use p2pinst_types::Mac;

/// Bounds of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time: of anybody, and as many again of machines that are expected.
    pub connections: usize,
    /// Connections of one caller at a time.
    pub per_client: usize,
    /// Calls to `/hello` that wait for an answer at a time: of machines that are expected, and as many of others.
    pub waiting: usize,
    /// Calls to `/hello` in a minute, of either kind.
    pub hellos: usize,
    /// Calls to `/hello` in a minute of one caller.
    pub hellos_per_client: usize,
    /// How long a client may take for a request's head, for its body, for reading 30 KiB of an answer, and between two requests.
    pub patience: Duration,
    /// How long the answer to a `/hello` may take.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            per_client: 16,
            waiting: 8,
            hellos: 64,
            hellos_per_client: 12,
            patience: Duration::from_secs(30),
            answer: Duration::from_secs(20),
        }
    }
}

/// Bytes of a request's head: firmware's have less than 1 KiB. (hyper's least buffer.)
const HEAD: usize = 8 << 10;
/// Bytes of the body of a `/hello`.
pub const HELLO: usize = 16 << 10;
/// Bytes of the answer to a `/hello`.
pub const ANSWER: usize = 64 << 10;

/// Something that there is to get.
#[derive(Debug)]
pub enum Found {
    /// A file.
    File {
        /// Its name, for [`Site::sent`].
        name: String,
        /// It, open.
        file: File,
    },
    /// A short text.
    Text(String),
}

/// The answer to a `/hello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The status, as HTTP has them.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// A machine of the segment that is to become a scout, by its hardware address.
    Expected(Mac),
    /// Anybody else.
    Other(Ipv4Addr),
}

impl Caller {
    fn is_expected(self) -> bool {
        matches!(self, Self::Expected(_))
    }
}

/// What a server serves.
pub trait Site: Send + Sync + 'static {
    /// What there is at a path, which is as it came. `own` is the address that the client called.
    fn find(&self, path: &str, own: SocketAddrV4) -> Option<Found>;

    /// Who somebody is that calls from there.
    fn caller(&self, from: Ipv4Addr) -> Caller;

    /// A machine introduces itself; none where nobody can answer now.
    fn hello(
        &self,
        from: SocketAddrV4,
        body: Vec<u8>,
    ) -> impl Future<Output = Option<Answered>> + Send;

    /// So many bytes of a file went to a client.
    fn sent(&self, to: SocketAddrV4, name: &str, bytes: u64);
}
