//! Hosts as addresses of the loopback interface: all of 127.0.0.0/8 is there without any set-up.

use std::hash::{BuildHasher as _, RandomState};
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use super::Host;

/// Addresses 127.x.y.1 and on, with x and y by chance, so that labs do not meet.
pub(super) fn hosts(count: usize) -> Result<Vec<Host>> {
    let [x, y, ..] = RandomState::new().hash_one(count).to_be_bytes();
    (1..=count)
        .map(|index| {
            let last = u8::try_from(index).ok().filter(|l| *l < 255);
            let last = last.context("at most 254 nodes fit on loopback addresses")?;
            // 127.0.0.0/16 is left to what runs on this machine anyway.
            Ok(Host {
                index,
                ip: Ipv4Addr::new(127, x.max(1), y, last),
                namespace: None,
                site: None,
            })
        })
        .collect()
}
