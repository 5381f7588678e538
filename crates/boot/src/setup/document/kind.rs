//! Types of partitions and filesystems.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::setup::guid::Guid;

/// A filesystem, or what stands in the place of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// FAT, as UEFI needs it.
    Vfat,
    /// Btrfs.
    Btrfs,
    /// Swap space.
    Swap,
    /// None: it stays empty, or its image brings one.
    None,
}

impl FileSystem {
    /// What blkid, fstab and the kernel call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Vfat => "vfat",
            Self::Btrfs => "btrfs",
            Self::Swap => "swap",
            Self::None => "none",
        }
    }

    /// The size below which its tools refuse to make one.
    #[must_use]
    pub fn least(self) -> u64 {
        match self {
            Self::Xfs => 300 << 20,
            Self::Btrfs => 109 << 20,
            Self::Ext4 | Self::Vfat => 8 << 20,
            Self::Swap | Self::None => 1 << 20,
        }
    }

    /// How many characters its label may have.
    #[must_use]
    pub fn label_max(self) -> usize {
        match self {
            Self::Ext4 => 16,
            Self::Xfs => 12,
            Self::Vfat => 11,
            Self::Swap => 15,
            Self::Btrfs => 255,
            Self::None => 0,
        }
    }

    /// Whether files are in it.
    #[must_use]
    pub fn is_mountable(self) -> bool {
        !matches!(self, Self::Swap | Self::None)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PartitionType {
    /// The EFI system partition.
    Esp,
    /// Where GRUB lies on a GPT disk of a BIOS machine.
    BiosBoot,
    /// Swap space.
    Swap,
    /// Linux's own.
    Linux,
    /// A physical volume of LVM.
    Lvm,
    /// Any other, by the GUID of the type.
    Other(Guid),
}

/// A text that is no type of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no type of a partition: write esp, bios-boot, swap, linux, lvm, or the GUID of a type"
)]
pub struct TypeError(String);

/// Name, GPT type (UEFI specification 5.3.3; systemd's list of discoverable partitions; GRUB's manual), and DOS type.
const TYPES: [(&str, PartitionType, u128, u8); 5] = [
    ("esp", PartitionType::Esp, 0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b, 0xef),
    ("bios-boot", PartitionType::BiosBoot, 0x21686148_6449_6e6f_744e_656564454649, 0),
    ("swap", PartitionType::Swap, 0x0657fd6d_a4ab_43c4_84e5_0933c84b4f4f, 0x82),
    ("linux", PartitionType::Linux, 0x0fc63daf_8483_4772_8e79_3d69d8477de4, 0x83),
    ("lvm", PartitionType::Lvm, 0xe6d6d379_f507_44c2_a23c_238f2a3df928, 0x8e),
];

impl PartitionType {
    /// Its GUID in a GPT.
    #[must_use]
    pub fn guid(self) -> Guid {
        match (self, TYPES.iter().find(|(_, kind, ..)| *kind == self)) {
            (Self::Other(guid), _) => guid,
            (_, Some((_, _, guid, _))) => Guid::new(*guid),
            (_, None) => Guid::new(0),
        }
    }

    /// Its number in a DOS partition table, where it has one.
    #[must_use]
    pub fn dos(self) -> Option<u8> {
        TYPES.iter().find(|(_, kind, ..)| *kind == self).map(|(.., dos)| *dos).filter(|d| *d > 0)
    }
}

impl fmt::Display for PartitionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, TYPES.iter().find(|(_, kind, ..)| kind == self)) {
            (_, Some((name, ..))) => f.pad(name),
            (Self::Other(guid), None) => guid.fmt(f),
            (_, None) => f.pad("unknown"),
        }
    }
}

impl FromStr for PartitionType {
    type Err = TypeError;
    fn from_str(text: &str) -> Result<Self, TypeError> {
        if let Some((_, kind, ..)) = TYPES.iter().find(|(name, ..)| *name == text) {
            return Ok(*kind);
        }
        let guid: Guid = text.parse().map_err(|_| TypeError(text.chars().take(40).collect()))?;
        let known = TYPES.iter().find(|(_, _, known, _)| Guid::new(*known) == guid);
        Ok(known.map_or(Self::Other(guid), |(_, kind, ..)| *kind))
    }
}

impl TryFrom<String> for PartitionType {
    type Error = TypeError;
    fn try_from(text: String) -> Result<Self, TypeError> {
        text.parse()
    }
}

impl From<PartitionType> for String {
    fn from(kind: PartitionType) -> Self {
        kind.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_names_or_guids() {
        assert_eq!("esp".parse(), Ok(PartitionType::Esp));
        let esp = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
        assert_eq!(esp.parse(), Ok(PartitionType::Esp), "a GUID that has a name is that name");
        assert_eq!(PartitionType::Esp.guid().to_string(), esp.to_lowercase());
        let other: PartitionType = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709".parse().unwrap();
        assert_eq!((other.dos(), PartitionType::Linux.dos()), (None, Some(0x83)));
        assert_eq!(other.to_string().parse(), Ok(other));
        assert!("boot".parse::<PartitionType>().is_err());
    }
}
