//! Clusters on one machine: real `p2pinst` and `p2pinstd` binaries in network namespaces.
//!
//! A [`Lab`] owns a network (namespaces on a bridge, or loopback addresses without root), a
//! directory, and one [`Node`] per host: data directory, root for packages, log, daemon. Dropping
//! a lab kills what it started and removes what it made; what a killed run left behind, the next
//! run sweeps away. The demo, the benchmarks and the scenarios are written on top of it.

pub mod bench;
pub mod bins;
pub mod cluster;
pub mod daemon;
pub mod deb;
pub mod demo;
pub mod exec;
pub mod image;
pub mod lab;
pub mod net;
pub mod node;
pub mod os;
pub mod ready;
pub mod registry;
pub mod root;
pub mod sim;
pub mod stats;
pub mod view;
pub mod vm;
pub mod wait;

pub use cluster::Invite;
pub use deb::Deb;
pub use exec::{Done, Exec};
pub use lab::{Lab, LabOptions};
pub use node::Node;
pub use wait::eventually;
