//! The disks of a machine.

use std::fs;
use std::path::Path;

use p2pinst_types::limits;
use p2pinst_types::record::Disk;

use super::{FILE_MAX, LOOK, Roots, SAID_MAX, attribute, begin, path, short};

/// Block devices that are no disks of the machine: made by the kernel, or for media that nothing is installed on.
const OTHERS: [&str; 9] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "mtdblock"];

/// The disks by name, at most [`limits::HARDWARE_DISKS`]; without empty card readers and what is no disk.
#[must_use]
pub fn disks(roots: &Roots) -> Vec<Disk> {
    let block = roots.sys.join("block");
    let entries = fs::read_dir(&block).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let is_disk = |name: &String| {
        roots.also.contains(name) || !OTHERS.iter().any(|other| name.starts_with(other))
    };
    let names = names.into_iter().filter(is_disk);
    names.filter_map(|name| disk(roots, &name)).take(limits::HARDWARE_DISKS).collect()
}

fn disk(roots: &Roots, name: &str) -> Option<Disk> {
    let dir = roots.sys.join("block").join(name);
    let get = |key: &str| attribute(&dir.join(key));
    let sectors: u64 = get("size")?.parse().ok()?;
    // a path of several to one disk shows itself, but cannot be opened
    let hidden = get("hidden").is_some_and(|hidden| hidden == "1");
    if sectors == 0 || hidden || name.len() > limits::HARDWARE_TEXT {
        return None;
    }
    let flag = |key: &str| get(key).is_some_and(|value| value == "1");
    Some(Disk {
        name: name.to_owned(),
        path: path::of(roots, name),
        // always in units of 512 bytes, whatever the disk's sectors
        size: sectors.saturating_mul(512),
        sector: sector(&dir),
        wwn: get("wwid").or_else(|| get("device/wwid")),
        serial: serial(&dir),
        model: get("device/model").or_else(|| get("device/name")),
        rotational: flag("queue/rotational"),
        removable: flag("removable"),
        content: content(&roots.dev.join(name)),
    })
}

/// The length of a disk's logical sectors, as the kernel shows it in the disk's directory of sysfs.
pub(in crate::setup) fn sector(dir: &Path) -> u32 {
    let said = attribute(&dir.join("queue/logical_block_size")).and_then(|text| text.parse().ok());
    said.filter(|bytes| Disk::is_sector(*bytes)).unwrap_or_else(Disk::usual_sector)
}

/// Where kernels show a serial number: virtio, NVMe and MMC, SCSI's vital product data (SPC-5, 7.7.18).
fn serial(dir: &Path) -> Option<String> {
    let simple = attribute(&dir.join("serial")).or_else(|| attribute(&dir.join("device/serial")));
    simple.or_else(|| {
        let page = begin(&dir.join("device/vpd_pg80"), FILE_MAX)?;
        let (header, rest) = page.split_at_checked(4)?;
        let len = u16::from_be_bytes([*header.get(2)?, *header.get(3)?]);
        short(rest.get(..usize::from(len).min(rest.len()))?)
    })
}

/// What blkid calls that which is on a whole disk: the table, or else the filesystem.
fn content(device: &Path) -> Option<String> {
    let mut command = p2pinst_command::clean("blkid");
    command.args(["-p", "-o", "export"]).arg(device);
    let said = p2pinst_command::ask_within(command, b"", SAID_MAX, LOOK).ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key));
    short(value("PTTYPE=").or_else(|| value("TYPE="))?.as_bytes())
}
