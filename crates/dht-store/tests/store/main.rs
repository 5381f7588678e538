//! The store from outside: what is admitted, that all orders of arrival end alike, that sync
//! converges, that what was accepted stays.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests, and helpers outside of #[test] functions"
)]

mod attacks;
mod boot;
mod controllers;
mod crash;
mod data;
mod golden;
mod groups;
mod lives;
mod members;
mod newer;
mod order;
mod persistence;
mod power;
mod replace;
mod summary;
mod sync;
mod world;
