//! Measures the load for [`crate::idle`]: the whole machine's, this process's, its children's.
//!
//! Reads a handful of small files of `/proc` per sample, and never the list of all processes.

use std::collections::BTreeSet;
use std::fs;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use thiserror::Error;

use crate::idle::Sample;

/// More descendants than this are not looked for: a bound, not an expectation.
const DESCENDANTS_MAX: usize = 256;

/// The system does not tell its load.
#[derive(Debug, Error)]
#[error("cannot measure the load of this machine: {source}; is /proc mounted?")]
pub struct SamplerError {
    /// What was missing.
    #[source]
    pub source: sysinfo::Error,
}

/// Measures load between calls.
#[derive(Debug)]
pub struct Sampler {
    system: System,
    own: Pid,
    measured_before: bool,
}

impl Sampler {
    /// Begins to measure.
    ///
    /// # Errors
    /// When the system does not tell its load or this process.
    pub fn new() -> Result<Self, SamplerError> {
        let system = System::new().map_err(|source| SamplerError { source })?;
        let own = sysinfo::get_current_pid().map_err(|source| SamplerError { source })?;
        Ok(Self { system, own, measured_before: false })
    }

    /// The load since the call before; `None` at the first call, which has nothing before it.
    pub fn sample(&mut self) -> Option<Sample> {
        let mut family: Vec<Pid> =
            descendants(self.own.as_u32()).into_iter().map(Pid::from_u32).collect();
        family.push(self.own);
        self.system.refresh_cpu_usage();
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&family),
            true,
            ProcessRefreshKind::nothing().with_cpu().without_tasks(),
        );
        // sysinfo counts a process in percent of one processor
        let processors = self.system.cpus().len().max(1);
        let own: f32 = self.system.processes().values().map(sysinfo::Process::cpu_usage).sum();
        let sample = Sample {
            cpu_total_percent: self.system.global_cpu_usage(),
            #[allow(clippy::cast_precision_loss, reason = "no machine has 2^24 processors")]
            own_percent: own / processors as f32,
        };
        std::mem::replace(&mut self.measured_before, true).then_some(sample)
    }
}

/// The processes that `root` has started, and those that these have.
fn descendants(root: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for child in children(pid) {
            if found.len() < DESCENDANTS_MAX && found.insert(child) {
                open.push(child);
            }
        }
    }
    found
}

/// A process that ends meanwhile has no children any more.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_busy_child_is_own_load() {
        let mut child = Command::new("sh")
            .args(["-c", "echo up; while :; do :; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
        assert!(descendants(std::process::id()).contains(&child.id()));
        let mut sampler = Sampler::new().unwrap();
        assert_eq!(sampler.sample(), None);
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut own = 0.0f32;
        // until it is seen: on a crowded machine the child waits for its turn
        while own < 1.0 {
            assert!(Instant::now() < deadline, "the child's load is not seen: {own} %");
            std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
            let sample = sampler.sample().unwrap();
            assert!((0.0..=100.0).contains(&sample.cpu_total_percent), "{sample:?}");
            own = sample.own_percent;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn measuring_costs_next_to_nothing() {
        let mut sampler = Sampler::new().unwrap();
        sampler.sample();
        let start = Instant::now();
        for _ in 0..50 {
            sampler.sample();
        }
        // 50 samples are four minutes of life: a millisecond each would be 0.02 %
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}
