//! The crate beside real counterparts: other people's clients, servers, controllers, disk tools and machines. As root.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod dhcp;
mod image;
mod netns;
mod power;
mod scout;
mod service;
mod setup;
mod template;
