//! Scenarios: the real binaries, in network namespaces, through everything that can go wrong.
//!
//! They need root; without it each says SKIPPED and why. A failure prints the ends of all logs.
//! `P2PINST_TESTNET_KEEP=1` keeps the files and namespaces of what failed, for a look.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed, which is what it is for"
)]

mod bad_input;
mod baremetal;
mod blank;
mod clocks;
mod concurrency;
mod crashes;
mod delta;
mod demo;
mod disk;
mod downgrade;
mod durable;
mod groups;
mod harness;
mod hostile;
mod installer;
mod joining;
mod liar;
mod limits;
mod liveness;
mod lives;
mod machines;
mod main_job;
mod many;
mod member;
mod members;
mod mirrors;
mod network;
mod newer;
mod poison;
mod power;
mod rack;
mod repository;
mod rivals;
mod second_operator;
mod segment;
mod spread;
mod status;
mod storage;
mod strangers;
mod swarm;
mod templates;
mod terminal;
