//! What one run of one method gave.

use std::fs;

use anyhow::{Context as _, Result};

use super::wire::Wire;

/// Ticks of the clock in `/proc/stat`: fixed by the kernel's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one run of one method gave, as measured.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// Seconds until each receiver had all, the first one first.
    pub(super) times: Vec<f64>,
    /// Seconds until the first receiver asked for the first byte, if the method tells.
    pub(super) first_fetch: Option<f64>,
    /// Bytes that receivers got twice, if they count that.
    pub(super) twice: Option<u64>,
    /// Processor seconds of the method's processes.
    pub(super) cpu: f64,
    /// Processor seconds of the whole machine, kernel included.
    pub(super) busy: f64,
    /// The most resident memory that one process had, in bytes.
    pub(super) peak: u64,
    /// What the links carried.
    pub(super) wire: Option<Wire>,
}

/// What was counted besides the times.
pub(super) struct Sums {
    pub(super) cpu: f64,
    pub(super) busy: f64,
    pub(super) peak: u64,
    pub(super) wire: Option<Result<Wire>>,
}

impl Outcome {
    /// From the moments in milliseconds.
    pub(super) fn new(begun: u64, done: &[u64], sums: Sums) -> Result<Self> {
        let mut times: Vec<f64> =
            done.iter().map(|d| (*d as f64 - begun as f64) / 1000.0).collect();
        times.sort_by(f64::total_cmp);
        let Sums { cpu, busy, peak, wire } = sums;
        Ok(Self { times, first_fetch: None, twice: None, cpu, busy, peak, wire: wire.transpose()? })
    }
}

/// How busy the machine has been so far, in ticks.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Busy(u64);

impl Busy {
    pub(in crate::bench) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        ticks(&text).map(Self).context("/proc/stat has no line of all processors")
    }

    /// Processor seconds, of all processors, since then.
    pub(in crate::bench) fn seconds_since(self) -> Result<f64> {
        Ok(Self::now()?.0.saturating_sub(self.0) as f64 / TICKS_PER_SECOND)
    }
}

/// user, nice, system, (idle, iowait,) irq, softirq: what a hypervisor took is not ours.
fn ticks(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|f| f.parse().ok()).collect();
    let (busy, rest) = (fields.get(..3)?, fields.get(5..7)?);
    Some(busy.iter().chain(rest).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_stolen_time_do_not_count() {
        let text = "cpu  100 1 20 9999 77 3 4 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(ticks(text), Some(128));
        assert_eq!(ticks("cpu0 1 1 1 1 1 1 1 1 0 0\n"), None);
        assert_eq!(ticks("cpu  1 2\n"), None);
    }
}
