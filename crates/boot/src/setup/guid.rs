//! GUIDs of partition tables, partitions and filesystems: derived, so that the same order makes the same ones.

use std::fmt;
use std::str::FromStr;

use p2pinst_types::{Hash, MachineId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::plan::Epoch;

/// A text that is no GUID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no GUID: it has the form 0fc63daf-8483-4772-8e79-3d69d8477de4")]
pub struct GuidError(String);

/// A GUID in the order of its text (RFC 9562), shown in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Guid([u8; 16]);

impl Guid {
    /// From a number, as constants are written.
    #[must_use]
    pub const fn new(number: u128) -> Self {
        Self(number.to_be_bytes())
    }

    /// The one of this machine, assignment and thing: a UUID of version 8 (RFC 9562, 5.8).
    #[must_use]
    pub fn derive(machine: MachineId, epoch: Epoch, what: &str) -> Self {
        let epoch = epoch.0.to_be_bytes();
        let hash =
            Hash::of_parts("p2pinst-setup-guid-1", &[machine.as_bytes(), &epoch, what.as_bytes()]);
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(hash.as_bytes()) {
            *to = *from;
        }
        let number = u128::from_be_bytes(bytes);
        let version = 0xf << 76;
        let variant = 0b11 << 62;
        Self::new((number & !version & !variant) | (0x8 << 76) | (0b10 << 62))
    }

    /// Its first 32 bits: the identifier of a DOS partition table, or the serial number of a FAT volume. Never zero.
    #[must_use]
    pub fn short(self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d]).max(1)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u128::from_be_bytes(self.0);
        let part = |shift: u32, bits: u32| (number >> shift) & ((1 << bits) - 1);
        let (a, b, c) = (part(96, 32), part(80, 16), part(64, 16));
        let (d, e) = (part(48, 16), part(0, 48));
        f.pad(&format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}"))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

impl FromStr for Guid {
    type Err = GuidError;
    fn from_str(text: &str) -> Result<Self, GuidError> {
        let wrong = || GuidError(text.chars().take(40).collect());
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        let digits = text.replace('-', "");
        if lengths != [8, 4, 4, 4, 12] || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u128::from_str_radix(&digits, 16).map(Self::new).map_err(|_| wrong())
    }
}

impl TryFrom<String> for Guid {
    type Error = GuidError;
    fn try_from(text: String) -> Result<Self, GuidError> {
        text.parse()
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> Self {
        guid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_read_written_and_derived() {
        let text = "0fc63daf-8483-4772-8e79-3d69d8477de4";
        let guid: Guid = text.to_uppercase().parse().unwrap();
        assert_eq!((guid.to_string().as_str(), guid.short()), (text, 0x0fc6_3daf));
        for bad in [
            "",
            "0fc63daf84834772-8e79-3d69d8477de4",
            "0fc63daf-8483-4772-8e79-3d69d8477deé",
            "+fc63daf-8483-4772-8e79-3d69d8477de4",
        ] {
            assert!(bad.parse::<Guid>().is_err(), "{bad}");
        }
        let machine = MachineId([7; 16]);
        let one = Guid::derive(machine, Epoch(1), "partition root");
        assert_eq!(one, Guid::derive(machine, Epoch(1), "partition root"));
        assert_ne!(one, Guid::derive(machine, Epoch(2), "partition root"));
        let shown = one.to_string();
        assert_eq!((&shown[14..15], "89ab".contains(&shown[19..20])), ("8", true), "{shown}");
    }
}
