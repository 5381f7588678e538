//! Rates of bytes: what a limit is made of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// A rate that limits something, in bytes per second: from [`Rate::MIN`] to [`Rate::MAX`]. In files
/// for people it is a text (`50MB/s`), in records and messages a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

/// A text or a number that is no rate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RateError {
    /// A text of another form.
    #[error("`{0}` is no rate: write a number and a unit, as in 50MB/s, 500KiB/s or 20Mbit/s")]
    Form(String),
    /// Too little or too much.
    #[error("a rate is from 16kB/s to 1000GB/s; without a limit: none")]
    Range,
}

/// The units, longest names first, and how many bits each has.
const UNITS: [(&str, u64); 13] = [
    ("Gbit", 1_000_000_000),
    ("Mbit", 1_000_000),
    ("kbit", 1000),
    ("Kbit", 1000),
    ("bit", 1),
    ("GiB", 8 << 30),
    ("MiB", 8 << 20),
    ("KiB", 8 << 10),
    ("GB", 8_000_000_000),
    ("MB", 8_000_000),
    ("kB", 8000),
    ("KB", 8000),
    ("B", 8),
];

impl Rate {
    /// 16 kB/s: less would keep a single piece for hours.
    pub const MIN: Self = Self(16_000);
    /// 1 TB/s: more is no limit.
    pub const MAX: Self = Self(1_000_000_000_000);

    /// A rate in bytes per second.
    ///
    /// # Errors
    /// When it is out of bounds.
    pub fn new(bytes_per_second: u64) -> Result<Self, RateError> {
        let rate = Self(bytes_per_second);
        if (Self::MIN..=Self::MAX).contains(&rate) { Ok(rate) } else { Err(RateError::Range) }
    }

    /// The rate that is nearest to so many bytes per second.
    #[must_use]
    pub fn nearest(bytes_per_second: u64) -> Self {
        Self(bytes_per_second).clamp(Self::MIN, Self::MAX)
    }

    /// Bytes per second.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = RateError;

    /// `50MB/s`, `1.5 MiB/s`, `20Mbit/s`; the `/s` may be left out.
    fn from_str(text: &str) -> Result<Self, RateError> {
        let wrong = || RateError::Form(text.chars().take(40).collect());
        let rest = text.trim();
        let rest = rest.strip_suffix("/s").unwrap_or(rest).trim_end();
        let (number, bits) = UNITS
            .iter()
            .find_map(|(unit, bits)| rest.strip_suffix(unit).map(|n| (n.trim_end(), *bits)))
            .ok_or_else(wrong)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 6 {
            return Err(wrong());
        }
        let scale = 10u128.pow(u32::try_from(part.len()).unwrap_or_default());
        let whole: u128 = whole.parse().map_err(|_| RateError::Range)?;
        let part: u128 = part.parse().map_err(|_| wrong())?;
        let bytes = whole
            .checked_mul(scale)
            .and_then(|n| n.checked_add(part)?.checked_mul(bits.into()))
            .map(|n| n / (8 * scale));
        Self::new(bytes.and_then(|n| u64::try_from(n).ok()).ok_or(RateError::Range)?)
    }
}

impl fmt::Display for Rate {
    /// In the largest unit that gives a whole number, so that it reads back as the same rate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000), ("B", 1)];
        let (unit, size) =
            units.into_iter().find(|(_, s)| self.0.is_multiple_of(*s)).unwrap_or(("B", 1));
        f.pad(&format!("{}{unit}/s", self.0 / size))
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            Self::new(u64::deserialize(deserializer)?).map_err(de::Error::custom)
        }
    }
}

/// What one of a node's limits may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// As fast as it goes.
    None,
    /// No faster than this.
    At(Rate),
}

impl Limit {
    /// The rate, if there is one.
    #[must_use]
    pub fn rate(self) -> Option<Rate> {
        match self {
            Self::None => None,
            Self::At(rate) => Some(rate),
        }
    }
}

impl FromStr for Limit {
    type Err = RateError;

    /// `none`, or a rate.
    fn from_str(text: &str) -> Result<Self, RateError> {
        if text.trim() == "none" { Ok(Self::None) } else { text.parse().map(Self::At) }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::At(rate) => rate.fmt(f),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A node's limits on the bytes of blobs, as far as something is said of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Bytes that leave.
    pub up: Option<Limit>,
    /// Bytes that come.
    pub down: Option<Limit>,
    /// Bytes that leave for other sites; they count for `up` as well.
    pub wan_up: Option<Limit>,
    /// Bytes that come from other sites; they count for `down` as well.
    pub wan_down: Option<Limit>,
}

impl Rates {
    /// The names of the limits, as in files and on the command line.
    pub const NAMES: [&str; 4] = ["up", "down", "wan_up", "wan_down"];

    /// What these say, and of what they do not speak, what `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            up: self.up.or(other.up),
            down: self.down.or(other.down),
            wan_up: self.wan_up.or(other.wan_up),
            wan_down: self.wan_down.or(other.wan_down),
        }
    }

    /// The limits by name, in the order of [`Rates::NAMES`].
    pub fn named(self) -> impl Iterator<Item = (&'static str, Option<Limit>)> {
        Self::NAMES.into_iter().zip([self.up, self.down, self.wan_up, self.wan_down])
    }

    /// The limit of that name, to be changed; `None` when none has it.
    pub fn by_name(&mut self, name: &str) -> Option<&mut Option<Limit>> {
        match name {
            "up" => Some(&mut self.up),
            "down" => Some(&mut self.down),
            "wan_up" => Some(&mut self.wan_up),
            "wan_down" => Some(&mut self.wan_down),
            _ => None,
        }
    }

    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    #[test]
    fn rates_are_read_in_bytes_and_bits() {
        let all = [
            ("50MB/s", 50_000_000),
            ("20Mbit/s", 2_500_000),
            (" 1.5 MiB/s ", 1_572_864),
            ("64KiB", 65_536),
            ("1Gbit", 125_000_000),
            ("16kB/s", 16_000),
            ("20000B/s", 20_000),
        ];
        for (text, bytes) in all {
            assert_eq!(text.parse::<Rate>().map(Rate::bytes), Ok(bytes), "{text}");
        }
        for bad in
            ["", "50", "MB/s", "-1MB/s", "1e6B/s", "1.MB/s", "5 apples/s", "1MB/h", "1.1.1MB"]
        {
            assert!(matches!(bad.parse::<Rate>(), Err(RateError::Form(_))), "{bad}");
        }
        for out in ["0MB/s", "15kB/s", "1001GB/s", "99999999999999999999999999999999999999999GB"] {
            assert_eq!(out.parse::<Rate>(), Err(RateError::Range), "{out}");
        }
        assert_eq!(Rate::nearest(0), Rate::MIN);
        assert_eq!("2500kB/s".parse::<Rate>().unwrap().to_string(), "2500kB/s");
    }

    #[test]
    fn limits_are_told_by_name() {
        let mut rates = Rates::default();
        for name in Rates::NAMES {
            *rates.by_name(name).unwrap() = Some(Limit::At(Rate::MIN));
            assert!(rates.named().any(|(n, l)| n == name && l.is_some()));
        }
        assert!(rates.by_name("sideways").is_none());
        let none = Rates { up: Some("none".parse().unwrap()), ..Rates::default() };
        let both = none.or(rates);
        assert_eq!((both.up, both.down), (Some(Limit::None), Some(Limit::At(Rate::MIN))));
        let bytes = codec::encode(&both).unwrap();
        assert_eq!(codec::decode::<Rates>(&bytes).unwrap(), both);
    }

    #[test]
    fn records_hold_numbers_that_are_checked() {
        let rate = Rate::new(2_500_000).unwrap();
        let bytes = codec::encode(&rate).unwrap();
        assert_eq!(bytes, codec::encode(&2_500_000u64).unwrap());
        assert_eq!(codec::decode::<Rate>(&bytes).unwrap(), rate);
        assert!(codec::decode::<Rate>(&codec::encode(&1u64).unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes in 16_000u64..=1_000_000_000_000) {
            let rate = Rate::new(bytes).unwrap();
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
        }

        #[test]
        fn any_text_is_a_rate_or_an_error(text in "\\PC{0,30}") {
            drop(text.parse::<Rate>());
        }
    }
}
