//! How fast this node moves bytes: now, and at its fastest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2pinst_chunks::bound::Rate;
use p2pinst_types::record::{Speed, Speeds};

use crate::exchange::nic::Carried;

/// How much of the past a rate shows.
const MEMORY: Duration = Duration::from_secs(2);
/// The highest rate is that of no less time.
const WINDOW: Duration = Duration::from_secs(1);
/// After so long without any work the highest rates are forgotten: links change.
const FORGET: Duration = Duration::from_secs(600);
/// Fewer bytes that were made durable say nothing about the disk.
const DISK: u64 = 4 << 20;

/// A rate that follows what happens within about [`MEMORY`].
#[derive(Debug, Default)]
pub(super) struct Smooth {
    count: u64,
    rate: f64,
}

impl Smooth {
    pub(super) fn see(&mut self, passed: Duration, count: u64) {
        let new = count.saturating_sub(std::mem::replace(&mut self.count, count));
        let secs = passed.as_secs_f64();
        if secs > 0.0 {
            let weight = 1.0 - (-secs / MEMORY.as_secs_f64()).exp();
            self.rate += weight * (new as f64 / secs - self.rate);
        }
    }

    /// Bytes per second; what is almost nothing is nothing.
    pub(super) fn get(&self) -> u64 {
        if self.rate < 1.0 { 0 } else { self.rate as u64 }
    }
}

/// The highest rate over at least [`WINDOW`].
#[derive(Debug, Default)]
struct Peak {
    window: VecDeque<(Instant, u64)>,
    best: u64,
}

impl Peak {
    fn see(&mut self, now: Instant, count: u64) {
        self.window.push_back((now, count));
        let old = |at: &(Instant, u64)| now.saturating_duration_since(at.0) >= WINDOW;
        while self.window.get(1).is_some_and(old) {
            self.window.pop_front();
        }
        if let Some((at, before)) = self.window.front().filter(|at| old(at)) {
            let secs = now.saturating_duration_since(*at).as_secs_f64();
            let rate = count.saturating_sub(*before) as f64 / secs;
            self.best = self.best.max(rate as u64);
        }
    }
}

/// What this node moves as a whole.
#[derive(Debug, Default)]
pub(super) struct Load {
    sampled: Option<Instant>,
    /// Bytes that came and were sent, by what the exchange itself sees.
    pub(super) arrived: u64,
    pub(super) wan: u64,
    pub(super) sent: u64,
    /// What the interface had carried at the beginning, and now.
    carried: Option<(Carried, Carried)>,
    /// `arrived` and `sent` at that beginning.
    base: (u64, u64),
    own_in: Peak,
    own_out: Peak,
    wan_in: Peak,
    nic_in: Peak,
    nic_out: Peak,
    /// What was made durable, and how long that took.
    pub(super) disk: (u64, Duration),
    /// What is configured or told by the interface.
    pub(super) known: (Option<u64>, Option<u64>),
}

fn seen(peak: &Peak) -> Option<Speed> {
    (peak.best > 0).then_some(Speed { rate: peak.best, known: false })
}

impl Load {
    /// The interface counts byte by byte as they leave, the exchange only what it has handed over;
    /// but the traffic may go another way than by this interface.
    fn carries(&self) -> (bool, bool) {
        let Some((first, last)) = self.carried else { return (false, false) };
        let half = |nic: u64, own: u64| nic >= own / 2;
        let arrived = self.arrived.saturating_sub(self.base.0);
        let sent = self.sent.saturating_sub(self.base.1);
        let nic_in = last.received.saturating_sub(first.received);
        let nic_out = last.sent.saturating_sub(first.sent);
        (half(nic_in, arrived), half(nic_out, sent))
    }

    /// Begins a look at everything: how long ago the last was.
    pub(super) fn look(&mut self, now: Instant) -> Duration {
        let passed = self.sampled.map(|at| now.saturating_duration_since(at)).unwrap_or_default();
        if self.sampled.is_none() || passed >= FORGET {
            let (arrived, wan, sent) = (self.arrived, self.wan, self.sent);
            let base = (arrived, sent);
            *self = Self { known: self.known, arrived, wan, sent, base, ..Self::default() };
        }
        self.sampled = Some(now);
        passed
    }

    /// Ends it, when all that came is counted.
    pub(super) fn looked(&mut self, now: Instant, carried: Option<Carried>) {
        self.own_in.see(now, self.arrived);
        self.own_out.see(now, self.sent);
        self.wan_in.see(now, self.wan);
        if let Some(carried) = carried {
            let first = self.carried.map_or(carried, |(first, _)| first);
            self.carried = Some((first, carried));
            self.nic_in.see(now, carried.received);
            self.nic_out.see(now, carried.sent);
        }
    }

    pub(super) fn speeds(&self) -> Speeds {
        let (nic_in, nic_out) = self.carries();
        let down = seen(if nic_in { &self.nic_in } else { &self.own_in });
        let up = seen(if nic_out { &self.nic_out } else { &self.own_out });
        // a link that carried more than it says does not know its speed
        let best = |known: Option<u64>, seen: Option<Speed>| match (known, seen) {
            (Some(rate), seen) if seen.is_none_or(|s| s.rate <= rate + rate / 16) => {
                Some(Speed { rate, known: true })
            }
            (_, seen) => seen,
        };
        let disk = Rate::of(self.disk.0, self.disk.1);
        Speeds {
            up: best(self.known.0, up),
            down: best(self.known.1, down),
            wan_in: seen(&self.wan_in),
            disk: disk.filter(|_| self.disk.0 >= DISK).map(|d| Speed { rate: d.0, known: false }),
        }
    }
}
