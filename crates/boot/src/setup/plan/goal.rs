//! What shall be on a machine's disks.

use std::fmt;

use p2pinst_types::record::{Disk, Firmware};
use p2pinst_types::{Hash, Name};
use serde::{Deserialize, Serialize};

use super::{ImageKind, Step, Subject};
use crate::setup::document::{BootSetup, FileSetup, FileSystem, PartitionType, TableKind, Wipe};
use crate::setup::guid::Guid;
use crate::setup::size::{Bytes, Extent};

/// By what a disk is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its device's name at the time of planning.
    pub name: String,
    /// Where it is plugged in.
    pub path: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// Its world-wide name.
    pub wwn: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its model.
    pub model: Option<String>,
}

impl Identity {
    /// Of a disk of an inventory.
    #[must_use]
    pub fn of(disk: &Disk) -> Self {
        let Disk { name, path, size, wwn, serial, model, .. } = disk.clone();
        Self { name, path, size, wwn, serial, model }
    }

    /// Whether nothing but the name of its device tells it from another disk.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        self.wwn.is_none() && self.serial.is_none() && self.path.is_none()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.name)?;
        if let Some(model) = &self.model {
            write!(f, "{model}, ")?;
        }
        match (&self.serial, &self.wwn, &self.path) {
            (Some(serial), ..) => write!(f, "serial {serial}, ")?,
            (None, Some(wwn), _) => write!(f, "wwn {wwn}, ")?,
            (None, None, Some(path)) => write!(f, "no serial number, at {path}, ")?,
            (None, None, None) => f.write_str("no serial number, ")?,
        }
        write!(f, "{})", Bytes(self.size).rounded())
    }
}

/// What shall be on a machine's disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// The document, by its hash.
    pub setup: Hash,
    /// What the document is called.
    pub setup_name: Name,
    /// Whose disks, by which assignment.
    pub subject: Subject,
    /// How the machine starts.
    pub firmware: Firmware,
    /// The disks, in the order of the document.
    pub disks: Vec<DiskGoal>,
    /// The volume groups.
    pub groups: Vec<GroupGoal>,
    /// The logical volumes.
    pub volumes: Vec<VolumeGoal>,
    /// What is mounted, in the order of mounting: what is above comes first.
    pub mounts: Vec<MountGoal>,
    /// Where the new system's root is.
    pub root: Option<RootGoal>,
    /// What the machine calls itself.
    pub hostname: Option<String>,
    /// Files of the new system.
    pub files: Vec<FileSetup>,
    /// Whether the node is put into it.
    pub agent: bool,
    /// How it starts afterwards.
    pub boot: BootSetup,
    /// The disk that it starts from, where a boot loader is installed.
    pub boot_disk: Option<usize>,
}

/// Where the new system's root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootGoal {
    /// What is mounted at `/`.
    Mounted(Place),
    /// A partition of the image of a whole disk: the one with this number, or the one that looks like it.
    Image {
        /// The disk.
        disk: usize,
        /// The number of the partition.
        partition: Option<u8>,
    },
}

/// What shall be on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskGoal {
    /// Which disk.
    pub identity: Identity,
    /// The length of its logical sectors in bytes.
    pub sector: u32,
    /// What may become of what is on it.
    pub wipe: Wipe,
    /// The kind of its table.
    pub table: TableKind,
    /// The identifier of its table, as sfdisk shows it, in lower case. Of no meaning where an image brings the table.
    pub id: String,
    /// The image of the whole of it, and its size.
    pub image: Option<(Name, u64)>,
    /// Whether the image's last partition is enlarged.
    pub grow: bool,
    /// The partitions.
    pub partitions: Vec<PartitionGoal>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionGoal {
    /// Its number, from 1.
    pub number: u32,
    /// What it is for.
    pub kind: PartitionType,
    /// Where it begins, in bytes: at a whole MiB.
    pub start: u64,
    /// Its size in bytes: whole MiB.
    pub size: u64,
    /// What `PARTUUID=` calls it, in lower case.
    pub uuid: String,
    /// What is on it.
    pub content: Content,
}

/// What is on a partition or a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// What the document calls it.
    pub label: Name,
    /// The filesystem.
    pub filesystem: FileSystem,
    /// The filesystem's identifier, in the form that blkid shows; of no meaning where an image brings the filesystem.
    pub uuid: String,
    /// The image.
    pub image: Option<(Name, ImageKind)>,
}

impl Content {
    /// Whether a filesystem is made there, rather than brought by an image.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.filesystem != FileSystem::None && self.raw().is_none()
    }

    /// The image that brings the filesystem.
    #[must_use]
    pub fn raw(&self) -> Option<&Name> {
        self.image.as_ref().filter(|(_, kind)| *kind == ImageKind::Partition).map(|(name, _)| name)
    }

    /// The archive that is extracted there.
    #[must_use]
    pub fn tar(&self) -> Option<&Name> {
        self.image.as_ref().filter(|(_, kind)| *kind == ImageKind::Tar).map(|(name, _)| name)
    }
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupGoal {
    /// Its name.
    pub name: Name,
    /// Its partitions: disks and indexes of partitions.
    pub partitions: Vec<(usize, usize)>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeGoal {
    /// Its group.
    pub group: Name,
    /// Its size, which LVM rounds up to its extents.
    pub size: Extent,
    /// What is on it; its label is the volume's name.
    pub content: Content,
}

/// Where a filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// On a partition: indexes of the disk and of the partition.
    Partition(usize, usize),
    /// On a volume, by its index.
    Volume(usize),
}

/// A mounted filesystem, or swap in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountGoal {
    /// Where it is.
    pub place: Place,
    /// Where it is mounted; `None` for swap.
    pub path: Option<String>,
    /// The options of the mount.
    pub options: Option<String>,
}

impl Goal {
    /// What is at a place.
    #[must_use]
    pub fn content(&self, place: Place) -> Option<&Content> {
        match place {
            Place::Partition(d, p) => self.partition(d, p).map(|part| &part.content),
            Place::Volume(v) => self.volumes.get(v).map(|volume| &volume.content),
        }
    }

    /// A partition.
    #[must_use]
    pub fn partition(&self, disk: usize, index: usize) -> Option<&PartitionGoal> {
        self.disks.get(disk)?.partitions.get(index)
    }

    /// Every place, partitions first.
    pub fn places(&self) -> impl Iterator<Item = (Place, &Content)> {
        let disks = self.disks.iter().enumerate();
        let partitions = disks.flat_map(|(d, disk)| {
            let parts = disk.partitions.iter().enumerate();
            parts.map(move |(p, part)| (Place::Partition(d, p), &part.content))
        });
        let volumes = self.volumes.iter().enumerate();
        partitions.chain(volumes.map(|(v, volume)| (Place::Volume(v), &volume.content)))
    }

    /// The disk that a place is on; of a volume, the first of its group.
    #[must_use]
    pub fn disk_of(&self, place: Place) -> Option<usize> {
        match place {
            Place::Partition(disk, _) => Some(disk),
            Place::Volume(v) => self.disk_of_group(&self.volumes.get(v)?.group),
        }
    }

    fn disk_of_group(&self, name: &Name) -> Option<usize> {
        let group = self.groups.iter().find(|group| group.name == *name)?;
        group.partitions.first().map(|(disk, _)| *disk)
    }

    /// The disk that remembers that a step is done.
    #[must_use]
    pub fn home(&self, step: &Step) -> Option<usize> {
        match step {
            Step::Wipe { disk, .. }
            | Step::Table { disk }
            | Step::WriteDisk { disk, .. }
            | Step::Grow { disk }
            | Step::Start { disk } => Some(*disk),
            Step::Group { name } => self.disk_of_group(name),
            Step::Volume { group, .. } => self.disk_of_group(group),
            Step::Format { place, .. }
            | Step::Write { place, .. }
            | Step::Extract { place, .. } => self.disk_of(*place),
            Step::System { .. } | Step::Bootloader | Step::BootOrder => self.root_disk(),
        }
    }

    /// The disk that the root of the new system is on.
    #[must_use]
    pub fn root_disk(&self) -> Option<usize> {
        match self.root? {
            RootGoal::Mounted(place) => self.disk_of(place),
            RootGoal::Image { disk, .. } => Some(disk),
        }
    }

    /// Whether anything is to be put into the new system, or somebody has said where it is.
    #[must_use]
    pub fn changes_system(&self) -> bool {
        let is_named = matches!(self.root, Some(RootGoal::Image { partition: Some(_), .. }));
        let adds = self.hostname.is_some() || !self.files.is_empty() || !self.mounts.is_empty();
        is_named || adds || self.agent
    }

    /// How the new system's fstab names a place.
    #[must_use]
    pub fn spec(&self, place: Place) -> Option<String> {
        match place {
            Place::Partition(d, p) => Some(format!("PARTUUID={}", self.partition(d, p)?.uuid)),
            Place::Volume(v) => {
                let volume = self.volumes.get(v)?;
                Some(format!("/dev/{}/{}", volume.group, volume.content.label))
            }
        }
    }
}

/// The identifier of a filesystem, in the form that its tools take and blkid shows.
pub(super) fn content_uuid(filesystem: FileSystem, guid: Guid) -> String {
    match filesystem {
        FileSystem::Vfat => {
            let id = guid.short();
            format!("{:04X}-{:04X}", id >> 16, id & 0xffff)
        }
        _ => guid.to_string(),
    }
}
