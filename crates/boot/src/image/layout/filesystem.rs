//! Filesystems and other formats of volumes, told by their superblocks.
//!
//! Offsets as in the kernel's headers: ext4 (Documentation/filesystems/ext4/globals.rst), xfs_format.h,
//! btrfs_tree.h, Microsoft's FAT specification, swap.h, ECMA-119, squashfs_fs.h, erofs_fs.h.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use super::label;
use crate::image::source::{Numbers as _, ReadAt};

/// What a volume is formatted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilesystemKind {
    /// The second extended filesystem: no journal.
    Ext2,
    /// ext2 with a journal.
    Ext3,
    /// ext3 with extents, or any later feature.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// FAT12, FAT16 or FAT32.
    Vfat,
    /// NTFS.
    Ntfs,
    /// Swap space.
    Swap,
    /// ISO 9660: a CD.
    Iso9660,
    /// SquashFS.
    Squashfs,
    /// EROFS.
    Erofs,
    /// A physical volume of LVM.
    Lvm,
    /// An encrypted volume (LUKS).
    Luks,
}

impl FilesystemKind {
    /// What `mount` and `blkid` call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
            Self::Ntfs => "ntfs",
            Self::Swap => "swap",
            Self::Iso9660 => "iso9660",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Lvm => "LVM2_member",
            Self::Luks => "crypto_LUKS",
        }
    }

    /// Whether it is one of the extended filesystems.
    #[must_use]
    pub fn is_ext(self) -> bool {
        matches!(self, Self::Ext2 | Self::Ext3 | Self::Ext4)
    }
}

impl fmt::Display for FilesystemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Its kind.
    pub kind: FilesystemKind,
    /// Its label, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its UUID or serial number, as blkid writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// How many bytes it takes, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
    /// Whether it was unmounted (or frozen), as far as it says so.
    pub clean: bool,
}

/// What is at the beginning of this volume.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read<S: ReadAt + ?Sized>(volume: &S) -> io::Result<Option<Filesystem>> {
    let mut head = [0; 4096];
    let n = volume.read_at(0, &mut head)?;
    let head = head.get(..n).unwrap_or_default();
    let found = xfs(head)
        .or_else(|| luks(head))
        .or_else(|| squashfs(head))
        .or_else(|| ntfs(head))
        .or_else(|| vfat(head))
        .or_else(|| lvm(head))
        .or_else(|| ext(head.get(1024..)?))
        .or_else(|| erofs(head.get(1024..)?));
    if found.is_some() {
        return Ok(found);
    }
    if let Some(block) = volume.array::<4096>(0x10000)?
        && let Some(found) = btrfs(&block)
    {
        return Ok(Some(found));
    }
    if let Some(found) = swap(volume, head)? {
        return Ok(Some(found));
    }
    Ok(volume.array::<2048>(0x8000)?.and_then(|block| iso9660(&block)))
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (n, byte) in bytes.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn plain(kind: FilesystemKind) -> Filesystem {
    Filesystem { kind, label: None, uuid: None, len: None, clean: true }
}

fn ext(sb: &[u8]) -> Option<Filesystem> {
    if sb.le16(0x38)? != 0xEF53 {
        return None;
    }
    let (compat, incompat, ro) = (sb.le32(0x5C)?, sb.le32(0x60)?, sb.le32(0x64)?);
    let block_log2 = sb.le32(0x18)?;
    // a journal's device has the same magic
    if incompat & 0x8 != 0 || block_log2 > 6 {
        return None;
    }
    let high = if incompat & 0x80 != 0 { u64::from(sb.le32(0x150)?) << 32 } else { 0 };
    let blocks = high | u64::from(sb.le32(0x4)?);
    let kind = if incompat & !0x1E != 0 || ro & !0x7 != 0 {
        FilesystemKind::Ext4
    } else if compat & 0x4 != 0 {
        FilesystemKind::Ext3
    } else {
        FilesystemKind::Ext2
    };
    Some(Filesystem {
        kind,
        label: label(sb.get(0x78..0x88)?),
        uuid: Some(uuid(sb.chunk(0x68)?)),
        len: blocks.checked_mul(1024 << block_log2),
        clean: sb.le16(0x3A)? & 1 != 0 && incompat & 0x4 == 0,
    })
}

fn xfs(head: &[u8]) -> Option<Filesystem> {
    let block = head.be32(4)?;
    if !head.starts_with(b"XFSB") || !(512..=65536).contains(&block) {
        return None;
    }
    Some(Filesystem {
        label: label(head.get(108..120)?),
        uuid: Some(uuid(head.chunk(32)?)),
        len: head.be64(8)?.checked_mul(u64::from(block)),
        ..plain(FilesystemKind::Xfs)
    })
}

fn btrfs(sb: &[u8]) -> Option<Filesystem> {
    (sb.get(0x40..0x48)? == b"_BHRfS_M").then_some(())?;
    Some(Filesystem {
        label: label(sb.get(0x12b..0x22b)?),
        uuid: Some(uuid(sb.chunk(0x20)?)),
        len: sb.le64(0x70),
        ..plain(FilesystemKind::Btrfs)
    })
}

fn vfat(head: &[u8]) -> Option<Filesystem> {
    let sector = head.le16(11)?;
    let cluster = *head.get(13)?;
    let lawful = head.le16(510)? == 0xAA55
        && matches!(sector, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two()
        && head.le16(14)? != 0
        && matches!(head.get(16)?, 1 | 2);
    let (serial_at, label_at) = match (head.get(54..57)?, head.get(82..87)?) {
        (b"FAT", _) => (39, 43),
        (_, b"FAT32") => (67, 71),
        _ => return None,
    };
    let sectors = match head.le16(19)? {
        0 => head.le32(32)?,
        short => u32::from(short),
    };
    let serial = head.le32(serial_at)?;
    lawful.then(|| Filesystem {
        label: head.get(label_at..label_at + 11).and_then(label).filter(|l| l != "NO NAME"),
        uuid: Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xFFFF)),
        len: Some(u64::from(sectors) * u64::from(sector)),
        ..plain(FilesystemKind::Vfat)
    })
}

fn ntfs(head: &[u8]) -> Option<Filesystem> {
    (head.get(3..11)? == b"NTFS    ").then_some(())?;
    Some(Filesystem {
        uuid: Some(format!("{:016X}", head.le64(72)?)),
        len: head.le64(40)?.checked_mul(u64::from(head.le16(11)?)),
        ..plain(FilesystemKind::Ntfs)
    })
}

fn swap<S: ReadAt + ?Sized>(volume: &S, head: &[u8]) -> io::Result<Option<Filesystem>> {
    for page in [4096, 8192, 16384, 65536] {
        let magic = volume.array::<10>(page - 10)?;
        if !magic.is_some_and(|m| &m == b"SWAPSPACE2" || &m == b"SWAP-SPACE") {
            continue;
        }
        let pages = head.le32(1028).map(|last| u64::from(last) + 1);
        return Ok(Some(Filesystem {
            label: head.get(1052..1068).and_then(label),
            uuid: head.chunk(1036).map(uuid),
            len: pages.map(|pages| pages.saturating_mul(page)),
            ..plain(FilesystemKind::Swap)
        }));
    }
    Ok(None)
}

fn iso9660(descriptor: &[u8]) -> Option<Filesystem> {
    (descriptor.get(1..6)? == b"CD001").then_some(())?;
    Some(Filesystem {
        label: label(descriptor.get(40..72)?),
        len: Some(u64::from(descriptor.le32(80)?) * u64::from(descriptor.le16(128)?)),
        ..plain(FilesystemKind::Iso9660)
    })
}

fn squashfs(head: &[u8]) -> Option<Filesystem> {
    head.starts_with(b"hsqs").then_some(())?;
    Some(Filesystem { len: head.le64(40), ..plain(FilesystemKind::Squashfs) })
}

fn erofs(sb: &[u8]) -> Option<Filesystem> {
    (sb.le32(0)? == 0xE0F5_E1E2).then_some(())?;
    let uuid = Some(uuid(sb.chunk(48)?));
    Some(Filesystem { uuid, label: label(sb.get(64..80)?), ..plain(FilesystemKind::Erofs) })
}

fn lvm(head: &[u8]) -> Option<Filesystem> {
    let has_label = |at: usize| {
        head.get(at..at + 8) == Some(b"LABELONE") && head.get(at + 24..at + 28) == Some(b"LVM2")
    };
    [0, 512, 1024, 1536].into_iter().any(has_label).then(|| plain(FilesystemKind::Lvm))
}

fn luks(head: &[u8]) -> Option<Filesystem> {
    head.starts_with(b"LUKS\xba\xbe").then_some(())?;
    let uuid = head.get(168..208).and_then(label);
    Some(Filesystem { uuid, ..plain(FilesystemKind::Luks) })
}
