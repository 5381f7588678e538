//! The node: composition of store, network, exchange and installer into `p2pinstd`.

pub mod addrs;
pub mod agent;
pub mod api;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod exchange;
pub mod found;
mod gather;
pub mod identity;
pub mod join;
pub mod keeper;
pub mod liveness;
pub mod lost;
pub mod membership;
pub mod mesh;
pub mod net;
pub mod peers;
pub mod repair;
pub mod replicate;
pub mod rpc;
pub mod store;
pub mod summaries;
pub mod traffic;
pub mod watch;
