//! Clocks as data: wall-clock milliseconds and hybrid logical clocks.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, in cluster time.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment later by `d` (saturating).
    #[must_use]
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time passed since `earlier`; zero if that is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Millis {
    /// `2026-11-20 09:42:17Z`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0 / 1000;
        let (day, of_day) = (secs / 86_400, secs % 86_400);
        let (y, m, d) = civil_from_days(day);
        write!(
            f,
            "{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}Z",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60
        )
    }
}

/// Gregorian date of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`).
fn civil_from_days(day: u64) -> (u64, u64, u64) {
    let z = day + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let d = doy - (153 * mp + 2) / 5 + 1;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(m <= 2), m, d)
}

/// Bits of an [`Hlc`] that count events within one millisecond.
const LOGICAL_BITS: u32 = 16;

/// A hybrid logical clock reading (Kulkarni et al., "Logical Physical Clocks", 2014): 48 bits of
/// milliseconds since the Unix epoch, 16 bits of counter. Compares as a number.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first reading of a millisecond.
    #[must_use]
    pub fn at(now: Millis) -> Self {
        Self(now.0 << LOGICAL_BITS)
    }

    /// The physical part.
    #[must_use]
    pub fn millis(self) -> Millis {
        Millis(self.0 >> LOGICAL_BITS)
    }

    /// The reading to give to the next event: above `self` and not before `now`.
    #[must_use]
    pub fn next(self, now: Millis) -> Self {
        Self::at(now).max(Self(self.0.saturating_add(1)))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.millis().fmt(f)
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.millis().0, self.0 & ((1 << LOGICAL_BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_shown_in_utc() {
        assert_eq!(Millis(0).to_string(), "1970-01-01 00:00:00Z");
        assert_eq!(Millis(951_782_400_000).to_string(), "2000-02-29 00:00:00Z");
        assert_eq!(Millis(1_795_167_737_000).to_string(), "2026-11-20 09:42:17Z");
    }

    #[test]
    fn hlc_only_rises() {
        let a = Hlc::at(Millis(100));
        let b = a.next(Millis(50));
        assert!(b > a && b.millis() == Millis(100));
        assert_eq!(b.next(Millis(200)), Hlc::at(Millis(200)));
    }
}
