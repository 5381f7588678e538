//! The document of a host setup: TOML that says what shall be on the disks of a machine.
//!
//! ```toml
//! name = "compute"
//! hostname = "{{name}}"
//!
//! [[disk]]
//! match = { min_size = "4GB", rotational = false }
//! pick = "smallest"
//! wipe = "once"
//!
//! [[disk.partition]]
//! label = "esp"
//! type = "esp"
//! size = "512MiB"
//! mount = "/boot/efi"
//!
//! [[disk.partition]]
//! label = "root"
//! size = "rest"
//! filesystem = "ext4"
//! mount = "/"
//! image = "debian-rootfs"
//! ```
//!
//! Keys that stand for themselves (`name`, `hostname`, `agent`) come before the first `[`, as TOML wants it.
//! Every member can read every document: secrets do not belong into one.

mod check;
mod kind;
mod parse;

use p2pinst_types::{Hash, Name};
use serde::{Deserialize, Serialize};

pub use check::Problem;
pub use kind::{FileSystem, PartitionType, TypeError};
pub use parse::SetupError;

use super::size::{Bytes, Extent};
use crate::template::Format;

/// The longest document: with what is around it, it fits into a cell.
pub const TEXT_MAX: usize = 7 * 1024;
/// Disks of a document.
pub const DISKS_MAX: usize = 16;
/// Partitions of a disk.
pub const PARTITIONS_MAX: usize = 32;
/// Volume groups, and volumes, of a document.
pub const VOLUMES_MAX: usize = 32;
/// Files of a document.
pub const FILES_MAX: usize = 64;
/// Bytes of the arguments of an installer's kernel: with a machine's name in them they are shorter than Linux's
/// `COMMAND_LINE_SIZE` on x86, 2048.
pub const ARGUMENTS_MAX: usize = 1024;

/// What shall be on the disks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// What the setup is called.
    pub name: Name,
    /// What the machine calls itself; `{{name}}` is its name in the cluster. Without it the image's name stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Whether the node and a fresh certificate are put into the new system, so that it joins by itself.
    #[serde(default)]
    pub agent: bool,
    /// The disks; those of the machine that no entry matches stay as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<DiskSetup>,
    /// Volume groups (LVM).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group: Vec<GroupSetup>,
    /// Logical volumes (LVM).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume: Vec<VolumeSetup>,
    /// An installer of a distribution's own, which does all this in the scout's place: there are no disks then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installer: Option<InstallerSetup>,
    /// Files to be written into the new system; into the installer's own root, where one is started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file: Vec<FileSetup>,
    /// How the machine starts afterwards.
    #[serde(default)]
    pub boot: BootSetup,
}

/// An installer of a distribution's own (debian-installer, …): its kernel, which the scout starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstallerSetup {
    /// Its kernel and initrd, as they were published together.
    pub image: Name,
    /// The kernel's arguments; `{{name}}` is the machine's name in the cluster. At most [`ARGUMENTS_MAX`] bytes.
    #[serde(default)]
    pub arguments: String,
}

/// A disk, and what shall be on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSetup {
    /// Which disk of the machine it is. Everything that is said must hold; `{}` is any disk.
    #[serde(rename = "match")]
    pub matching: Match,
    /// Which one to take when several match; without it, that is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick: Option<Pick>,
    /// What may become of that which is on the disk.
    #[serde(default)]
    pub wipe: Wipe,
    /// The kind of its partition table.
    #[serde(default)]
    pub table: TableKind,
    /// An image of a whole disk, with a partition table of its own. There are no partitions to be described then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// Whether the last partition of the image, and the filesystem on it, are enlarged to the end of the disk.
    #[serde(default)]
    pub grow: bool,
    /// The number of the image's partition that has the root filesystem: `hostname`, `agent` and files are put there.
    /// Without it the one that has an `/etc/os-release` is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<u8>,
    /// Its partitions, in the order in which they lie on the disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<PartitionSetup>,
}

/// By what a disk is found. In texts `*` stands for any characters and `?` for one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Its world-wide name: `naa.5000c500a1b2c3d4`, `eui.0025385b71b0a2c3`; `0x5000…` and `wwn-0x5000…` are understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its model: `Samsung*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Where it is plugged in, as in `/dev/disk/by-path`: `pci-0000:00:1f.2-ata-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The least size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Bytes>,
    /// The greatest size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Bytes>,
    /// Whether its platters turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
}

/// Which of several disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// The smallest; of equal ones the first.
    Smallest,
    /// The largest; of equal ones the first.
    Largest,
    /// The first by where they are plugged in, then by their world-wide name, serial number and device.
    First,
}

/// What may become of that which is on a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wipe {
    /// Nothing that is there is lost: an empty disk is set up, one that has exactly the described partitions and
    /// filesystems is used as it is, any other is refused.
    #[default]
    Never,
    /// It is erased once for each assignment; what the machine has written since then stays.
    Once,
    /// It is erased each time.
    Always,
}

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// GUID partition table (UEFI specification, chapter 5).
    #[default]
    Gpt,
    /// The PC's old one, of at most four partitions below 2 TiB.
    Dos,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionSetup {
    /// Its name: in the partition table, and, where it is short enough, of its filesystem. At most 36 characters.
    pub label: Name,
    /// What it is for: `esp`, `bios-boot`, `swap`, `linux`, `lvm`, or the GUID of a type. Without it, what the filesystem
    /// suggests.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<PartitionType>,
    /// `20GB`, a part of the disk (`25%`), or what the others leave (`rest`).
    pub size: Extent,
    /// The filesystem. Without it, what the type suggests: `vfat` for `esp`, `swap` for `swap`, none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FileSystem>,
    /// Where it is mounted in the new system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// The options of the mount: `noatime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
    /// A tar archive that is extracted where it is mounted, or an image of a partition, which brings the filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSetup {
    /// Its name.
    pub name: Name,
    /// The labels of its partitions, each of the type `lvm`.
    pub partitions: Vec<Name>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSetup {
    /// The group that it is in.
    pub group: Name,
    /// Its name.
    pub name: Name,
    /// `20GB`, a part of the group (`25%`), or what the others leave (`rest`).
    pub size: Extent,
    /// The filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FileSystem>,
    /// Where it is mounted in the new system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// The options of the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
    /// A tar archive, or an image of a partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
}

/// A file of the new system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSetup {
    /// Where it is, from the new system's root. Directories above it are made.
    pub path: String,
    /// Its mode, in octal digits.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// The number of the user that it belongs to.
    #[serde(default)]
    pub owner: u32,
    /// The number of the group that it belongs to.
    #[serde(default)]
    pub group: u32,
    /// What is in it; this, or a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The templates, as they were published, that make a file of a format of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Name>,
    /// The format; without it the one that the path ends with (`…/user-data`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// What of the templates the machine becomes; without it what its label `appliance` says, or the only one that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appliance: Option<Name>,
}

/// What is rendered into a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rendering {
    /// The templates.
    pub templates: Name,
    /// The format.
    pub format: Format,
    /// The appliance, where it is said.
    pub appliance: Option<Name>,
}

fn default_mode() -> String {
    "0644".to_owned()
}

/// How the machine starts afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSetup {
    /// From what it starts next.
    #[serde(default)]
    pub next: NextBoot,
    /// Whether a boot loader is installed.
    #[serde(default)]
    pub bootloader: Bootloader,
}

/// From what a machine starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NextBoot {
    /// From its disk.
    #[default]
    Disk,
    /// From the network.
    Pxe,
    /// As its firmware is set: nothing is changed.
    None,
}

/// Whether a boot loader is installed. Images of whole disks bring their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bootloader {
    /// GRUB where the new system has it; otherwise, with UEFI, systemd-boot at the path that firmware falls back to.
    #[default]
    Auto,
    /// None is.
    None,
}

impl Setup {
    /// What names this document: the same for documents that say the same, however they are laid out.
    #[must_use]
    pub fn hash(&self) -> Hash {
        // nothing in it is a shape that CBOR cannot hold
        let bytes = p2pinst_types::codec::encode(self).unwrap_or_default();
        Hash::of_parts("p2pinst-setup-1", &[&bytes])
    }
}

impl PartitionSetup {
    /// What it is for, said or suggested.
    #[must_use]
    pub fn kind(&self) -> PartitionType {
        match (self.kind, self.filesystem) {
            (Some(kind), _) => kind,
            (None, Some(FileSystem::Swap)) => PartitionType::Swap,
            (None, _) => PartitionType::Linux,
        }
    }

    /// Its filesystem, said or suggested.
    #[must_use]
    pub fn filesystem(&self) -> FileSystem {
        match (self.filesystem, self.kind) {
            (Some(filesystem), _) => filesystem,
            (None, Some(PartitionType::Esp)) => FileSystem::Vfat,
            (None, Some(PartitionType::Swap)) => FileSystem::Swap,
            (None, _) => FileSystem::None,
        }
    }
}

impl InstallerSetup {
    /// The kernel's arguments on a machine of this name.
    #[must_use]
    pub fn arguments(&self, name: &Name) -> String {
        self.arguments.replace("{{name}}", name.as_str()).replace("{{ name }}", name.as_str())
    }
}

impl FileSetup {
    /// What is rendered into it; none when it has a content, or no format can be told.
    #[must_use]
    pub fn rendering(&self) -> Option<Rendering> {
        let last = || self.path.rsplit('/').next().and_then(|name| name.parse().ok());
        Some(Rendering {
            templates: self.template.clone()?,
            format: self.format.or_else(last)?,
            appliance: self.appliance.clone(),
        })
    }

    /// Its mode as a number, where it is one.
    #[must_use]
    pub fn mode(&self) -> Option<u32> {
        let octal = !self.mode.is_empty() && self.mode.bytes().all(|b| matches!(b, b'0'..=b'7'));
        let mode = octal.then(|| u32::from_str_radix(&self.mode, 8).ok()).flatten();
        mode.filter(|mode| *mode <= 0o7777)
    }
}
