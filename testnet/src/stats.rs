//! What a daemon costs: processor, memory and traffic, read from /proc.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::exec::stat_fields;

/// Ticks of the clock in `/proc/PID/stat`: fixed by the kernel's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// One look at a process.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Processor time used so far, in seconds.
    pub cpu: f64,
    /// Resident memory, in bytes.
    pub rss: u64,
    /// Resident memory with shared pages divided among those that share them, in bytes.
    pub pss: u64,
    /// Bytes that came in by the host's cable.
    pub received: u64,
    /// Bytes that went out by the host's cable.
    pub sent: u64,
}

impl Sample {
    /// Looks at a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let (received, sent) = cable(pid)?;
        Ok(Self {
            at: Instant::now(),
            cpu: cpu_seconds(pid)?,
            rss: kilobytes(pid, "status", "VmRSS:")?,
            pss: kilobytes(pid, "smaps_rollup", "Pss:")?,
            received,
            sent,
        })
    }

    /// Processor time per second since an earlier look: 1.0 is a whole core.
    #[must_use]
    pub fn cores_since(&self, earlier: &Self) -> f64 {
        (self.cpu - earlier.cpu) / self.at.duration_since(earlier.at).as_secs_f64()
    }

    /// Bytes per second since an earlier look, in and out.
    #[must_use]
    pub fn rates_since(&self, earlier: &Self) -> (f64, f64) {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        (rate(self.received, earlier.received), rate(self.sent, earlier.sent))
    }
}

/// Processor time that a process and its ended children used, in seconds.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    ticks(pid, 4)
}

/// Processor time that a process itself used, in seconds: what it started does not count.
///
/// # Errors
/// When there is no such process.
pub fn own_cpu_seconds(pid: u32) -> Result<f64> {
    ticks(pid, 2)
}

/// The most resident memory that a process ever had, in bytes.
///
/// # Errors
/// When there is no such process, or it has ended and nobody has waited for it.
pub fn peak_rss(pid: u32) -> Result<u64> {
    kilobytes(pid, "status", "VmHWM:")
}

/// utime, stime, cutime, cstime: fields 14 to 17 of the file, of which two are cut off.
fn ticks(pid: u32, fields: usize) -> Result<f64> {
    let stat = stat_fields(pid).with_context(|| format!("there is no process {pid}"))?;
    let ticks = stat.iter().skip(11).take(fields).filter_map(|f| f.parse::<u64>().ok());
    Ok(ticks.sum::<u64>() as f64 / TICKS_PER_SECOND)
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = PathBuf::from("/proc").join(pid.to_string()).join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn kilobytes(pid: u32, file: &str, key: &str) -> Result<u64> {
    let text = read(pid, file)?;
    let value = text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next());
    let kb: u64 = value.and_then(|v| v.parse().ok()).with_context(|| format!("no {key}"))?;
    Ok(kb * 1024)
}

/// The counters of `eth0` as the process sees it, in and out; the loopback has none of its own.
fn cable(pid: u32) -> Result<(u64, u64)> {
    let text = read(pid, "net/dev")?;
    let Some(line) = text.lines().find_map(|l| l.trim().strip_prefix("eth0:")) else {
        return Ok((0, 0));
    };
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    Ok((numbers.first().copied().unwrap_or(0), numbers.get(8).copied().unwrap_or(0)))
}
