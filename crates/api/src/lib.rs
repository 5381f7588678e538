//! The control API: what the command line and other tools ask of the node on this machine.
//!
//! A unix socket in the data directory (mode 0600, so only the node's own user gets in). Each
//! message is a frame: four bytes of length (big-endian) and CBOR. One connection carries any
//! number of requests, one at a time; each is answered by `Result<Reply, ApiError>`.
//! [`PutBlob`] alone is followed by raw bytes.

pub mod boot;
pub mod client;
pub mod frame;
pub mod inspect;
pub mod paths;
pub mod power;
pub mod request;
pub mod store;
pub mod swarm;
pub mod view;

pub use client::{Client, ClientError};
pub use paths::DataDir;
pub use request::{ApiError, Call, ErrorKind, PutBlob, Request};
