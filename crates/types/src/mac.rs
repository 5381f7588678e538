//! Hardware addresses of network interfaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::IdError;

/// A hardware address of an Ethernet interface (IEEE 802, 48 bits): `52:54:00:12:34:56`. Text in formats for people, six bytes
/// in others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it names many interfaces, or all: no machine's own.
    #[must_use]
    pub fn is_group(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

impl FromStr for Mac {
    type Err = IdError;

    /// Reads `52:54:00:12:34:56`, `52-54-00-12-34-56`, `5254.0012.3456` and `525400123456`.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError { what: "MAC address", text: text.chars().take(80).collect() };
        let group = |separator: char, len: usize| {
            text.split(separator).all(|part| part.len() == len).then(|| text.replace(separator, ""))
        };
        let digits = match text.len() {
            12 => Some(text.to_owned()),
            14 => group('.', 4),
            17 => group(':', 2).or_else(|| group('-', 2)),
            _ => None,
        };
        let bytes = digits.and_then(|d| crate::bytes::from_hex(&d)).ok_or_else(error)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            crate::bytes::serialize(&self.0, s)
        }
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = String::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            crate::bytes::deserialize(d).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_and_switches_write_them() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0xAB]);
        for text in ["52:54:00:12:34:ab", "52-54-00-12-34-AB", "5254.0012.34ab", "5254001234AB"] {
            assert_eq!(text.parse::<Mac>().unwrap(), mac, "{text}");
        }
        assert_eq!(mac.to_string(), "52:54:00:12:34:ab");
        assert!(!mac.is_group() && Mac([0xff; 6]).is_group());
        for bad in
            ["", "52:54:00:12:34", "52:54:00:12:34:zz", "5:254:00:12:34:ab", "é2:54:00:12:34"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        let cbor = crate::codec::encode(&mac).unwrap();
        assert_eq!((cbor.len(), crate::codec::decode::<Mac>(&cbor).unwrap()), (7, mac));
    }
}
