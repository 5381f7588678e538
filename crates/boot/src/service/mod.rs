//! The boot service: the one process that faces the segments of unknown machines, with their DHCP, TFTP and HTTP.
//!
//! It is a child of the daemon. Started as root, it opens its sockets, makes the directory of boot files its root, becomes `nobody`
//! for good, and only then reads its first packet ([`main`], `confine`). The daemon tells it over its standard input what to serve ([`Tables`]),
//! and hears over its standard output what happened ([`FromService`]); the service has no key, no store, no way to start a program
//! and nothing that it could write. When the pipe ends it ends; when it dies [`Service`] starts another, and nothing is lost, since
//! all that it knows is in the tables.

mod child;
mod config;
mod confine;
mod daemon;
mod interfaces;
mod neighbours;
pub mod script;
mod segment;
mod site;
mod tables;
mod tftp;
mod wire;

pub use child::{ServiceError, main};
pub use config::{BEACON_PORT, BeaconPort, Config, HTTP_PORT, HttpPort, TFTP_PORT};
pub use confine::ConfineError;
pub use daemon::{HelloId, Message, Service, SpawnError};
pub use tables::{Arguments, ArgumentsError, Program, Tables};
pub use wire::{FromService, Hello, Ready, ServedFile, ToService, WireError};
