//! Sizes as people write them: `20GB`, `512MiB`, `80%`, `rest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no size: write {expected}")]
pub struct SizeError {
    text: String,
    expected: &'static str,
}

/// Units by powers of 1000 and of 1024; longer names before those that end like them.
const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

/// A number of bytes: `20GB`, `512 MiB`, `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub u64);

fn number(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.into_iter().find_map(|(name, unit)| Some((lower.strip_suffix(name)?, unit)));
    let (number, unit) = unit.unwrap_or((&lower, 1));
    let number: u64 = number.trim_end().parse().ok()?;
    number.checked_mul(unit)
}

fn wrong(text: &str, expected: &'static str) -> SizeError {
    SizeError { text: text.chars().take(40).collect(), expected }
}

impl FromStr for Bytes {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || wrong(text, "20GB, 512MiB or a number of bytes");
        number(text).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, unit): &(&str, u64)| self.0 > 0 && self.0.is_multiple_of(*unit);
        match UNITS.into_iter().filter(fits).max_by_key(|(_, unit)| *unit) {
            Some((name, unit)) if unit > 1 => {
                write!(f, "{}{}", self.0 / unit, name.to_ascii_uppercase().replace("IB", "iB"))
            }
            _ => write!(f, "{}", self.0),
        }
    }
}

impl Bytes {
    /// Rounded, for people: `931.5 GiB`.
    #[must_use]
    pub fn rounded(self) -> String {
        let binary = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match binary.into_iter().find(|(_, unit)| self.0 >= *unit) {
            // exact to a tenth, in integers
            Some((name, unit)) => {
                let tenths = u128::from(self.0) * 10 / u128::from(unit);
                let (whole, tenth) = (tenths / 10, tenths % 10);
                if tenth == 0 {
                    format!("{whole} {name}")
                } else {
                    format!("{whole}.{tenth} {name}")
                }
            }
            None => format!("{} bytes", self.0),
        }
    }
}

impl TryFrom<String> for Bytes {
    type Error = SizeError;
    fn try_from(text: String) -> Result<Self, SizeError> {
        text.parse()
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.to_string()
    }
}

/// How much of a disk or a volume group: `20GB`, `25%`, `rest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Extent {
    /// So many bytes; rounded up to whole MiB.
    Bytes(Bytes),
    /// A part of what the disk has for partitions.
    Percent(u8),
    /// What the others leave.
    Rest,
}

impl FromStr for Extent {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || wrong(text, "20GB, 512MiB, 25% or rest");
        let trimmed = text.trim();
        if trimmed.eq_ignore_ascii_case("rest") {
            return Ok(Self::Rest);
        }
        if let Some(percent) = trimmed.strip_suffix('%') {
            let percent = percent.trim().parse().ok().filter(|p| (1..=100).contains(p));
            return percent.map(Self::Percent).ok_or_else(error);
        }
        number(trimmed).map(|n| Self::Bytes(Bytes(n))).ok_or_else(error)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Rest => f.write_str("rest"),
        }
    }
}

impl TryFrom<String> for Extent {
    type Error = SizeError;
    fn try_from(text: String) -> Result<Self, SizeError> {
        text.parse()
    }
}

impl From<Extent> for String {
    fn from(extent: Extent) -> Self {
        extent.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, again) in [
            ("20GB", 20_000_000_000, "20GB"),
            ("512 MiB", 512 << 20, "512MiB"),
            ("1048576", 1 << 20, "1MiB"),
            ("7", 7, "7"),
        ] {
            let read: Bytes = text.parse().unwrap();
            assert_eq!((read.0, read.to_string().as_str()), (bytes, again));
        }
        assert_eq!("rest".parse(), Ok(Extent::Rest));
        assert_eq!("25 %".parse(), Ok(Extent::Percent(25)));
        for bad in ["", "GB", "-1", "1.5GB", "0%", "101%", "99999999999TB", "é", "all"] {
            assert!(bad.parse::<Extent>().is_err(), "{bad}");
        }
        assert_eq!(Bytes(1_000_204_886_016).rounded(), "931.5 GiB");
        assert_eq!(
            (Bytes(1 << 30).rounded(), Bytes(12).rounded()),
            ("1 GiB".into(), "12 bytes".into())
        );
    }
}
