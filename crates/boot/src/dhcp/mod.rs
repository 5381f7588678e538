//! DHCP: a boot server beside the site's DHCP server (proxyDHCP), and a small DHCP server where there is none.
//!
//! Pure: [`responder`] is the whole machine, without a socket or a clock; [`table`] is what it goes by. Nothing here panics on
//! any input or grows with it: see [`fuzz_packet`] and [`fuzz_responder`].

pub mod answer;
pub mod beacon;
pub mod client;
mod clients;
pub mod event;
mod fuzz;
pub mod packet;
pub mod pool;
pub mod responder;
pub mod segments;
pub mod siblings;
pub mod table;

pub use fuzz::{fuzz_packet, fuzz_responder};
