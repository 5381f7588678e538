//! The node: composition of store, network, exchange and installer into `p2pinstd`.

pub mod addrs;
pub mod agent;
pub mod api;
pub mod clock;
pub mod clones;
pub mod config;
pub mod control;
pub mod daemon;
pub mod exchange;
pub mod found;
pub mod identity;
pub mod join;
pub mod keeper;
pub mod life;
pub mod lost;
pub mod mesh;
pub mod net;
pub mod outdated;
pub mod peers;
pub mod repair;
pub mod replicate;
pub mod rpc;
pub mod store;
