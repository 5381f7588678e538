//! Measurements. Each is one function that makes its own lab and returns a [`Table`].

pub mod back;
pub mod delta;
pub mod image;
pub mod join;
mod log;
pub mod publish;
pub mod rest;
pub mod swarm;
pub mod sync;
mod table;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

pub use table::Table;

use crate::lab::Lab;
use crate::stats::cpu_seconds;

/// Milliseconds since 1970, as the nodes count them.
pub(crate) fn now_ms() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    u64::try_from(since.as_millis()).context("the clock is far in the future")
}

/// Processor seconds of all daemons of a lab.
pub(crate) fn daemons_cpu(lab: &Lab) -> Result<f64> {
    lab.nodes().iter().map(|n| cpu_seconds(n.pid()?)).sum()
}

/// The middle of some numbers; zero of none.
pub(crate) fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// The greatest of some numbers; zero of none.
pub(crate) fn greatest(numbers: &[f64]) -> f64 {
    numbers.iter().copied().fold(0.0, f64::max)
}
