//! What is in an image or on a disk: partition table, filesystems, or the files of a root filesystem.
//!
//! Reads and never writes; everything is bounded, whatever the bytes say. What is damaged is a warning and no error: a disk that is
//! shown need not be whole.

mod describe;
mod filesystem;
mod gpt;
mod guid;
mod mbr;

use std::io;

use serde::{Deserialize, Serialize};

pub(crate) use self::describe::size;
pub use self::filesystem::{Filesystem, FilesystemKind};
pub use self::gpt::Backup;
pub use self::guid::Guid;
use super::source::{Part, ReadAt};
use super::tree::Rootfs;

/// What an image is, as far as writing it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Kind {
    /// A whole disk.
    Disk,
    /// One partition.
    Partition {
        /// Its filesystem.
        filesystem: FilesystemKind,
    },
    /// A tar of a root filesystem.
    Rootfs,
}

/// What is in an image or on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub content: Content,
    /// What people should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// The three kinds of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// A partition table and what it names.
    Disk(Disk),
    /// A filesystem.
    Partition(Filesystem),
    /// A tar.
    Rootfs(Rootfs),
}

/// A disk with a partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Which table.
    pub table: Table,
    /// The GUID of the disk, or its 32-bit identifier in hexadecimal.
    pub id: String,
    /// Whether the first sector has code for a BIOS.
    pub boot_code: bool,
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
}

/// Which partition table a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Table {
    /// That of UEFI.
    Gpt {
        /// The unit of its numbers in bytes: 512 or 4096.
        sector: u64,
        /// Its second copy.
        backup: Backup,
    },
    /// That of the PC.
    Mbr,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its type: a GUID, or one byte in hexadecimal.
    pub type_id: String,
    /// What that is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
    /// Its name in a GPT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its UUID, as the kernel takes it in `PARTUUID=`.
    pub uuid: String,
    /// Whether a BIOS is to start from it.
    pub bootable: bool,
    /// What is in it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<Filesystem>,
}

/// What people should know of an image before they write it to machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
pub enum Warning {
    /// Nothing here starts a machine.
    NoBootloader,
    /// No kernel.
    NoKernel,
    /// The first copy of the GPT is damaged; the second was read.
    GptPrimaryBad,
    /// A protective MBR, but both copies of the GPT are damaged.
    GptGone,
    /// The second copy is whole, but not in the last sector.
    GptBackupNotAtEnd,
    /// The second copy tells of other partitions.
    GptBackupDiffers,
    /// The second copy is missing or damaged.
    GptBackupBad,
    /// A partition does not lie on the disk.
    Outside {
        /// Its number.
        partition: u32,
    },
    /// A filesystem is longer than its partition, or than the image.
    Cut {
        /// The number of the partition; none when the image is the filesystem.
        partition: Option<u32>,
    },
    /// A filesystem was not unmounted.
    Unclean {
        /// The number of the partition; none when the image is the filesystem.
        partition: Option<u32>,
    },
    /// Partitions that are in use have been copied as they were.
    Swap {
        /// The number of the partition.
        partition: u32,
    },
    /// All machines would be one to those that tell them by this.
    MachineId,
    /// All machines would have the same host keys.
    HostKeys,
    /// Has none of what a root filesystem has.
    NotARoot {
        /// What is missing.
        missing: String,
    },
    /// Device files.
    Devices {
        /// How many.
        count: u64,
    },
}

impl Layout {
    /// What it is, as far as writing it goes.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.content {
            Content::Disk(_) => Kind::Disk,
            Content::Partition(f) => Kind::Partition { filesystem: f.kind },
            Content::Rootfs(_) => Kind::Rootfs,
        }
    }
}

/// What a disk or a filesystem has, from its bytes; nothing where they are neither.
///
/// A partition table comes first: what an older filesystem left on the disk is not its content. A first
/// sector that is both a FAT's and a table's is a table's only when that names partitions.
///
/// # Errors
/// When it cannot be read.
pub fn read<S: ReadAt + ?Sized>(source: &S) -> io::Result<Option<Layout>> {
    let mut warnings = Vec::new();
    let mbr = mbr::read(source)?;
    let boot_code = mbr.as_ref().is_some_and(|mbr| mbr.has_code);
    let disk = if let Some(gpt) = gpt::read(source)? {
        of_gpt(gpt, boot_code, &mut warnings)
    } else if let Some(mbr) = mbr {
        if mbr.entries.iter().any(|e| e.kind == mbr::PROTECTIVE) {
            warnings.push(Warning::GptGone);
        }
        of_mbr(&mbr)
    } else {
        let Some(found) = filesystem::read(source)? else { return Ok(None) };
        judge(&found, source.len(), None, &mut warnings);
        return Ok(Some(Layout {
            len: source.len(),
            content: Content::Partition(found),
            warnings,
        }));
    };
    let disk = look_inside(source, disk, &mut warnings)?;
    if !starts_machines(&disk) {
        warnings.push(Warning::NoBootloader);
    }
    Ok(Some(Layout { len: source.len(), content: Content::Disk(disk), warnings }))
}

/// The filesystem of a volume.
pub(crate) fn filesystem<S: ReadAt + ?Sized>(volume: &S) -> io::Result<Option<Filesystem>> {
    filesystem::read(volume)
}

fn of_gpt(gpt: gpt::Gpt, boot_code: bool, warnings: &mut Vec<Warning>) -> Disk {
    if !gpt.primary {
        warnings.push(Warning::GptPrimaryBad);
    }
    warnings.extend(match gpt.backup {
        Backup::Good => None,
        Backup::NotAtEnd => Some(Warning::GptBackupNotAtEnd),
        Backup::Differs => Some(Warning::GptBackupDiffers),
        Backup::Bad => Some(Warning::GptBackupBad),
    });
    let partition = |e: gpt::Entry| Partition {
        number: e.number,
        start: e.first.saturating_mul(gpt.sector),
        len: (e.last.saturating_add(1)).saturating_sub(e.first).saturating_mul(gpt.sector),
        type_id: e.kind.to_string(),
        type_name: e.kind.type_name().map(str::to_owned),
        name: Some(e.name).filter(|name| !name.is_empty()),
        uuid: e.uuid.to_string().to_ascii_lowercase(),
        bootable: e.legacy_boot,
        filesystem: None,
    };
    Disk {
        table: Table::Gpt { sector: gpt.sector, backup: gpt.backup },
        id: gpt.disk.to_string(),
        boot_code,
        partitions: gpt.entries.into_iter().map(partition).collect(),
    }
}

fn of_mbr(mbr: &mbr::Mbr) -> Disk {
    let partition = |e: &mbr::Entry| Partition {
        number: e.number,
        start: e.start.saturating_mul(mbr::SECTOR),
        len: e.sectors.saturating_mul(mbr::SECTOR),
        type_id: format!("{:02x}", e.kind),
        type_name: e.type_name().map(str::to_owned),
        name: None,
        uuid: format!("{:08x}-{:02x}", mbr.id, e.number),
        bootable: e.active,
        filesystem: None,
    };
    Disk {
        table: Table::Mbr,
        id: format!("{:08x}", mbr.id),
        boot_code: mbr.has_code,
        partitions: mbr.entries.iter().map(partition).collect(),
    }
}

fn look_inside<S: ReadAt + ?Sized>(
    source: &S,
    mut disk: Disk,
    warnings: &mut Vec<Warning>,
) -> io::Result<Disk> {
    for p in &mut disk.partitions {
        let holds_others = matches!(p.type_name.as_deref(), Some("extended" | "GPT"));
        let end = p.start.checked_add(p.len);
        if end.is_none_or(|end| end > source.len() || p.len == 0) {
            // a protective entry may be as long as the table can say
            if !holds_others {
                warnings.push(Warning::Outside { partition: p.number });
            }
            continue;
        }
        if holds_others {
            continue;
        }
        p.filesystem = filesystem::read(&Part { of: source, start: p.start, len: p.len })?;
        if let Some(found) = &p.filesystem {
            judge(found, p.len, Some(p.number), warnings);
        }
    }
    Ok(disk)
}

fn judge(found: &Filesystem, room: u64, partition: Option<u32>, warnings: &mut Vec<Warning>) {
    if found.len.is_some_and(|len| len > room) {
        warnings.push(Warning::Cut { partition });
    }
    if !found.clean {
        warnings.push(Warning::Unclean { partition });
    }
    if let (FilesystemKind::Swap, Some(partition)) = (found.kind, partition) {
        warnings.push(Warning::Swap { partition });
    }
}

/// Whether firmware finds anything to run: an EFI system partition that is one, or code in the first sector.
fn starts_machines(disk: &Disk) -> bool {
    let is_esp = |p: &Partition| {
        p.type_name.as_deref() == Some("EFI system")
            && p.filesystem.as_ref().is_some_and(|f| f.kind == FilesystemKind::Vfat)
    };
    disk.boot_code || disk.partitions.iter().any(is_esp)
}

/// Text in a field that ends at its first zero or is filled with blanks, without what terminals obey.
fn label(field: &[u8]) -> Option<String> {
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = p2pinst_command::text(text).replace(char::is_control, " ");
    Some(text).filter(|text| !text.is_empty())
}

/// For fuzzers: any bytes as a disk. Reads it, describes it, and writes both down.
pub fn fuzz_layout(bytes: &[u8]) {
    if let Ok(Some(layout)) = read(bytes) {
        let text = layout.describe();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "it could move a cursor");
        let json = serde_json::to_vec(&layout).unwrap_or_default();
        let back: Option<Layout> = serde_json::from_slice(&json).ok();
        assert!(back.as_ref() == Some(&layout), "it is read back as it was");
    }
}

#[cfg(test)]
mod tests;
