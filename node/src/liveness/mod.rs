//! Who is up: a failure detector in the manner of SWIM, between the machines of the roster.
//!
//! [`core`] is the protocol and does no I/O; [`rings`] says whom to keep connected; [`task`] joins
//! them to the network and writes what is known into [`Peers`](crate::peers::Peers). It decides nothing about trust:
//! the roster says who is a member, and the gate who may connect.

pub mod core;
mod members;
pub mod rings;
mod task;
mod wire;

#[cfg(test)]
mod one;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub use task::{Liveness, Settings, Task, Wanted};
pub use wire::State;
