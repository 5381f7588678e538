//! When is a machine idle? Sans-IO: samples and the time come in, a judgement goes out.

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Gaps between samples longer than this many periods begin the interval anew: nobody knows what
/// the machine did while it slept or was too busy to sample.
const GAP_PERIODS: u32 = 3;

/// What counts as idle.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdleConfig {
    /// The machine is quiet while others than p2pinst use less of all its processors than this,
    /// in percent.
    pub cpu_percent: f32,
    /// An idle machine becomes busy when others use this much more than `cpu_percent`: small
    /// waves about the threshold change nothing.
    pub hysteresis_percent: f32,
    /// A machine is idle once it was quiet for so long, in seconds.
    pub interval_secs: u32,
    /// Between two samples, in seconds.
    pub sample_secs: u32,
}

impl Default for IdleConfig {
    /// HTCondor's policy in short: idle below 30 % of the processors, busy above 50 %.
    /// One minute tells a pause between two jobs from their end.
    fn default() -> Self {
        Self { cpu_percent: 30.0, hysteresis_percent: 20.0, interval_secs: 60, sample_secs: 5 }
    }
}

impl IdleConfig {
    fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_secs.into())
    }

    /// Between two samples; at least one second, for less is not measured well.
    #[must_use]
    pub fn period(&self) -> Duration {
        Duration::from_secs(self.sample_secs.max(1).into())
    }
}

/// The load since the sample before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Of all processors, in percent of them all.
    pub cpu_total_percent: f32,
    /// That part of it which is this process and its children.
    pub own_percent: f32,
}

impl Sample {
    /// What others use. A value that is no number counts as full load: better late than wrong.
    fn foreign(self) -> f32 {
        let foreign = self.cpu_total_percent - self.own_percent;
        if foreign.is_nan() { 100.0 } else { foreign.clamp(0.0, 100.0) }
    }
}

/// Whether the machine is idle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Idleness {
    /// Others have been quiet since then.
    Idle {
        /// When the quiet began.
        since: Duration,
    },
    /// Not now.
    Busy(Why),
}

impl Idleness {
    /// Whether it is idle.
    #[must_use]
    pub fn is_idle(self) -> bool {
        matches!(self, Self::Idle { .. })
    }
}

/// Why a machine is not idle. `Display` says it for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why {
    /// Others use the processors.
    Load {
        /// How much of them.
        percent: f32,
        /// What would be allowed.
        limit: f32,
    },
    /// Quiet, but not for long enough.
    Settling {
        /// For how long.
        quiet: Duration,
        /// How long it takes.
        interval: Duration,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { percent, limit } => write!(
                f,
                "other programs use {percent:.0} % of the processors, more than {limit:.0} %"
            ),
            Self::Settling { quiet, interval } => {
                write!(f, "quiet for {} s, idle after {} s", quiet.as_secs(), interval.as_secs())
            }
        }
    }
}

/// Judges a machine's idleness by its samples. Restarting begins the interval anew.
#[derive(Debug, Clone)]
pub struct IdleDetector {
    config: IdleConfig,
    quiet_since: Option<Duration>,
    idle: bool,
    last: Option<Duration>,
}

impl IdleDetector {
    /// Begins with nothing known: not idle.
    #[must_use]
    pub fn new(config: IdleConfig) -> Self {
        Self { config, quiet_since: None, idle: false, last: None }
    }

    /// Takes a sample at `now`, a time since any fixed start.
    pub fn step(&mut self, now: Duration, sample: Sample) -> Idleness {
        let gap = self.last.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        if gap > self.config.period() * GAP_PERIODS {
            (self.quiet_since, self.idle) = (None, false);
        }
        self.last = Some(now);
        let hysteresis = if self.idle { self.config.hysteresis_percent } else { 0.0 };
        let limit = self.config.cpu_percent + hysteresis;
        let percent = sample.foreign();
        // not `>=`: a limit that is no number lets nothing pass
        if percent.partial_cmp(&limit) != Some(Ordering::Less) {
            (self.quiet_since, self.idle) = (None, false);
            return Idleness::Busy(Why::Load { percent, limit });
        }
        let since = *self.quiet_since.get_or_insert(now);
        let (quiet, interval) = (now.saturating_sub(since), self.config.interval());
        self.idle |= quiet >= interval;
        if self.idle {
            Idleness::Idle { since }
        } else {
            Idleness::Busy(Why::Settling { quiet, interval })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn load(total: f32, own: f32) -> Sample {
        Sample { cpu_total_percent: total, own_percent: own }
    }

    fn detector() -> IdleDetector {
        IdleDetector::new(IdleConfig::default())
    }

    #[test]
    fn idle_after_the_interval_and_busy_again() {
        let mut d = detector();
        assert!(!d.step(secs(0), load(90.0, 0.0)).is_idle());
        for t in (5..65).step_by(5) {
            let why = d.step(secs(t), load(10.0, 0.0));
            assert!(matches!(why, Idleness::Busy(Why::Settling { .. })), "{t} {why:?}");
        }
        assert_eq!(d.step(secs(65), load(10.0, 0.0)), Idleness::Idle { since: secs(5) });
        // within the hysteresis it stays idle, beyond it does not
        assert!(d.step(secs(70), load(49.0, 0.0)).is_idle());
        assert!(!d.step(secs(75), load(50.0, 0.0)).is_idle());
        // and then the lower threshold counts
        assert!(matches!(d.step(secs(80), load(40.0, 0.0)), Idleness::Busy(Why::Load { .. })));
    }

    #[test]
    fn own_load_does_not_count() {
        let mut d = detector();
        for t in (0..=60).step_by(5) {
            d.step(secs(t), load(100.0, 95.0));
        }
        assert!(d.step(secs(65), load(100.0, 95.0)).is_idle());
        assert!(!d.step(secs(70), load(f32::NAN, 0.0)).is_idle());
    }

    #[test]
    fn a_gap_begins_anew() {
        let mut d = detector();
        d.step(secs(0), load(0.0, 0.0));
        assert!(!d.step(secs(100), load(0.0, 0.0)).is_idle());
        for t in (105..160).step_by(5) {
            assert!(!d.step(secs(t), load(0.0, 0.0)).is_idle());
        }
        assert!(d.step(secs(160), load(0.0, 0.0)).is_idle());
    }

    #[test]
    fn reasons_are_for_people() {
        let why = Why::Load { percent: 81.4, limit: 30.0 };
        assert_eq!(why.to_string(), "other programs use 81 % of the processors, more than 30 %");
        let why = Why::Settling { quiet: secs(7), interval: secs(60) };
        assert_eq!(why.to_string(), "quiet for 7 s, idle after 60 s");
    }

    #[test]
    fn the_configuration_refuses_unknown_fields() {
        let config: IdleConfig = serde_json::from_str(r#"{"cpu_percent": 10}"#).unwrap();
        assert_eq!(config, IdleConfig { cpu_percent: 10.0, ..IdleConfig::default() });
        assert!(serde_json::from_str::<IdleConfig>(r#"{"cpu": 10}"#).is_err());
    }

    proptest! {
        /// Never idle with less quiet than the interval behind it.
        #[test]
        fn idle_needs_a_quiet_interval(loads in prop::collection::vec(0u8..100, 1..60)) {
            let mut d = detector();
            let mut last_loud = None;
            for (load_now, t) in loads.into_iter().zip((0u64..).step_by(5)) {
                let idle = d.step(secs(t), load(f32::from(load_now), 0.0)).is_idle();
                if load_now >= 50 {
                    last_loud = Some(t);
                    prop_assert!(!idle);
                }
                let quiet = last_loud.map_or(t, |l| t - l);
                prop_assert!(!idle || quiet >= 60);
            }
        }
    }
}
