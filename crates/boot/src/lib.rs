//! Bare metal: network boot, the scout, host setups, images, templates, power.
//!
//! What parses and decides ([`dhcp`], [`tftp`], [`setup`]) reads no clock, socket or file: time and randomness are passed in.
//! Everything else blocks, or runs in a process of its own ([`service`]).

mod cpio;
pub mod dhcp;
pub mod http;
pub mod image;
pub mod power;
pub mod repository;
pub mod scout;
pub mod service;
pub mod setup;
pub mod template;
pub mod tftp;
