//! What is done, one thing after the other.

use p2pinst_types::Name;
use serde::{Deserialize, Serialize};

use super::Place;

/// A step of a plan. Each can be done again after it was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Erases the signatures of everything on a disk.
    Wipe {
        /// The disk.
        disk: usize,
        /// What is on it, for people.
        found: String,
    },
    /// Writes the partition table.
    Table {
        /// The disk.
        disk: usize,
    },
    /// Writes the image of a whole disk.
    WriteDisk {
        /// The disk.
        disk: usize,
        /// The image.
        image: Name,
    },
    /// Enlarges the last partition of such an image, and its filesystem.
    Grow {
        /// The disk.
        disk: usize,
    },
    /// Makes a volume group.
    Group {
        /// Its name.
        name: Name,
    },
    /// Makes a logical volume.
    Volume {
        /// Its group.
        group: Name,
        /// Its name.
        name: Name,
    },
    /// Makes a filesystem, or swap space.
    Format {
        /// Where.
        place: Place,
        /// What the document calls it.
        label: Name,
    },
    /// Writes the image of a partition.
    Write {
        /// Where.
        place: Place,
        /// What the document calls it.
        label: Name,
        /// The image.
        image: Name,
    },
    /// Extracts an archive into the mounted filesystem.
    Extract {
        /// Where.
        place: Place,
        /// What the document calls it.
        label: Name,
        /// The image.
        image: Name,
    },
    /// Makes the new system this machine's own: fstab, hostname, identifiers, files, agent.
    System {
        /// Whether it has never been started: its identifiers are an image's, and are taken from it.
        is_new: bool,
    },
    /// Lets machines start from a disk: until now nothing on it was to be found.
    Start {
        /// The disk.
        disk: usize,
    },
    /// Installs the boot loader.
    Bootloader,
    /// Sets what the firmware starts from.
    BootOrder,
}

impl Step {
    /// By what a stamp and a journal remember the step.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Wipe { .. } => "wipe".to_owned(),
            Self::Table { .. } => "table".to_owned(),
            Self::WriteDisk { image, .. } => format!("image {image}"),
            Self::Grow { .. } => "grow".to_owned(),
            Self::Group { name } => format!("group {name}"),
            Self::Volume { group, name } => format!("volume {group}/{name}"),
            Self::Format { label, .. } => format!("format {label}"),
            Self::Write { label, image, .. } => format!("write {label} {image}"),
            Self::Extract { label, image, .. } => format!("extract {label} {image}"),
            Self::System { .. } => "system".to_owned(),
            Self::Start { .. } => "start".to_owned(),
            Self::Bootloader => "bootloader".to_owned(),
            Self::BootOrder => "boot-order".to_owned(),
        }
    }

    /// Whether it loses what is on a disk or writes in its place.
    #[must_use]
    pub fn is_destructive(&self) -> bool {
        match self {
            Self::Wipe { .. }
            | Self::Table { .. }
            | Self::WriteDisk { .. }
            | Self::Group { .. }
            | Self::Volume { .. }
            | Self::Format { .. }
            | Self::Write { .. } => true,
            Self::Grow { .. }
            | Self::Extract { .. }
            | Self::System { .. }
            | Self::Start { .. }
            | Self::Bootloader
            | Self::BootOrder => false,
        }
    }
}
