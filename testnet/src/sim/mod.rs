//! The simulator: replication in virtual time, seeded.
//!
//! The code that replicates is the node's own (`dht-store`); only sockets, disks, clocks and chance
//! are simulated. [`full`] runs tens of real stores through everything that can go wrong and checks
//! what must hold `anytime_`, `eventually_` and `finally_`. [`light`] runs the same machines over
//! compact stores for thousands of nodes, to measure.

mod engine;
pub mod full;
pub mod light;
pub mod links;
pub mod queue;
pub mod swarm;
pub mod trace;
