//! Layouts in words.

use std::fmt::{self, Write as _};

use super::{Content, Disk, Filesystem, Layout, Table, Warning};
use crate::image::tree::Rootfs;

impl Layout {
    /// What people read: one line of what it is, one for each partition, one for each warning.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut out = String::new();
        // writing to a string does not fail
        let _done = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        match &self.content {
            Content::Disk(disk) => write_disk(out, disk, self.len)?,
            Content::Partition(f) => writeln!(out, "partition, {}: {}", size(self.len), words(f))?,
            Content::Rootfs(tree) => write_tree(out, tree, self.len)?,
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        Ok(())
    }
}

fn write_disk(out: &mut String, disk: &Disk, len: u64) -> fmt::Result {
    let table = match disk.table {
        Table::Gpt { sector: 512, .. } => "GPT".to_owned(),
        Table::Gpt { sector, .. } => format!("GPT in sectors of {sector} bytes"),
        Table::Mbr => "MBR".to_owned(),
    };
    writeln!(out, "disk, {}: {table} {}", size(len), disk.id)?;
    for p in &disk.partitions {
        let kind = p.type_name.as_deref().unwrap_or(&p.type_id);
        write!(out, "{:>4}  at {}, {}: {kind}", p.number, size(p.start), size(p.len))?;
        if let Some(name) = &p.name {
            write!(out, " {name:?}")?;
        }
        if let Some(found) = &p.filesystem {
            write!(out, ", {}", words(found))?;
        }
        writeln!(out, "{}", if p.bootable { ", bootable" } else { "" })?;
    }
    Ok(())
}

fn write_tree(out: &mut String, tree: &Rootfs, len: u64) -> fmt::Result {
    let os = tree.os.as_deref().unwrap_or("a system without a name");
    writeln!(
        out,
        "root filesystem, {}: {os}, {} entries, {} of files",
        size(len),
        tree.entries,
        size(tree.bytes)
    )
}

fn words(found: &Filesystem) -> String {
    let mut words = found.kind.to_string();
    if let Some(label) = &found.label {
        let _done = write!(words, " {label:?}");
    }
    if let Some(uuid) = &found.uuid {
        let _done = write!(words, " {uuid}");
    }
    words
}

/// Bytes as people say them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if scaled < 1024.0 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, next);
    }
    if unit == "bytes" || scaled.fract() < 0.05 {
        format!("{scaled:.0} {unit}")
    } else {
        format!("{scaled:.1} {unit}")
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = |partition: &Option<u32>| match partition {
            Some(number) => format!("the filesystem of partition {number}"),
            None => "the filesystem".to_owned(),
        };
        match self {
            Self::NoBootloader => f.write_str(
                "no bootloader: neither an EFI system partition nor code in the first sector",
            ),
            Self::NoKernel => f.write_str("no kernel in /boot or /usr/lib/modules"),
            Self::GptPrimaryBad => {
                f.write_str("the GPT is damaged; its backup was read: repair it with sgdisk")
            }
            Self::GptGone => f.write_str("both copies of the GPT are damaged"),
            Self::GptBackupNotAtEnd => f.write_str(
                "the GPT's backup header is not at the end: the image was made longer, or is of a larger disk",
            ),
            Self::GptBackupDiffers => {
                f.write_str("the GPT's backup header tells of other partitions")
            }
            Self::GptBackupBad => {
                f.write_str("the GPT's backup header is missing or damaged: is the image whole?")
            }
            Self::Outside { partition } => {
                write!(f, "partition {partition} does not lie on the disk")
            }
            Self::Cut { partition } => {
                write!(f, "{} is longer than its place: is the image whole?", whose(partition))
            }
            Self::Unclean { partition } => {
                write!(f, "{} was not unmounted: its journal has to be read first", whose(partition))
            }
            Self::Swap { partition } => {
                write!(f, "partition {partition} is swap space: it may hold secrets")
            }
            Self::MachineId => f.write_str(
                "the image has a machine-id: it is replaced on each machine (empty /etc/machine-id to say so)",
            ),
            Self::HostKeys => f.write_str("the image has ssh host keys: all machines would share them"),
            Self::NotARoot { missing } => {
                write!(f, "this does not look like a root filesystem: there is no {missing}")
            }
            Self::Devices { count } => write!(f, "{count} device files outside /dev"),
        }
    }
}
