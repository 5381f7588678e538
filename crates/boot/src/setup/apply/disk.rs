//! A whole disk: its signatures, its partition table, its stamp.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use p2pinst_types::record::Disk;
use rustix::fs::Advice;

use super::error::IoContext;
use super::node::{Slice, forget, node, tell_kernel};
use super::tool::Tool;
use super::{ApplyError, Nodes};
use crate::setup::document::{PartitionType, TableKind};
use crate::setup::found::{FoundDisk, FoundPartition, FoundTable, MIB, PASS_ON, Stamp};
use crate::setup::inventory::Roots;
use crate::setup::plan::{DiskGoal, PartitionGoal};
use crate::setup::probe;

/// The disk as it is now.
pub(super) fn look(roots: &Roots, goal: &DiskGoal) -> Result<FoundDisk, ApplyError> {
    Ok(probe::read_disk(roots, &as_disk(goal))?)
}

fn as_disk(goal: &DiskGoal) -> Disk {
    let identity = goal.identity.clone();
    Disk {
        name: identity.name,
        path: identity.path,
        size: identity.size,
        sector: goal.sector,
        wwn: identity.wwn,
        serial: identity.serial,
        model: identity.model,
        rotational: false,
        removable: false,
        content: None,
    }
}

/// Erases the signatures of everything on a disk: of the filesystems on its partitions first, so that none comes to
/// light again when a new partition begins at the same place; then of the disk, its table, and the stamp.
pub(super) fn wipe(
    roots: &Roots,
    goal: &DiskGoal,
    device: &Path,
    nodes: Nodes,
) -> Result<(), ApplyError> {
    let found = look(roots, goal)?;
    for part in found.table.iter().flat_map(|table| &table.partitions) {
        // an extended partition is a table of its own, and has no signature to erase
        let slice = Slice { number: part.number, start: part.start, size: part.size };
        if part.size < 4096 || part.start.saturating_add(part.size) > goal.identity.size {
            continue;
        }
        let node = node(nodes, device, slice, goal.sector)?;
        let what = format!("erase partition {} of {}", part.number, goal.identity);
        Tool::new("wipefs", what).args(["-a", "-f", "-q"]).arg(node.path()).run()?;
    }
    forget(device);
    let what = format!("erase {}", goal.identity);
    Tool::new("wipefs", what).args(["-a", "-f", "-q"]).arg(device).run()?;
    let zeros = vec![0; usize::try_from(MIB).unwrap_or(0)];
    let file = OpenOptions::new().write(true).open(device).on("open", device)?;
    let last = Stamp::place(goal.identity.size);
    file.write_all_at(&zeros, 0).on("erase", device)?;
    let end = usize::try_from(goal.identity.size.saturating_sub(last)).unwrap_or(usize::MAX);
    let mut at = last;
    for part in vec![0; end.min(2 * zeros.len())].chunks(zeros.len().max(1)) {
        file.write_all_at(part, at).on("erase", device)?;
        at = at.saturating_add(part.len() as u64);
    }
    file.sync_all().on("sync", device)
}

/// Takes a disk for its partitions. Their table is not written yet: the stamp has it.
pub(super) fn divide(goal: &DiskGoal, device: &Path, nodes: Nodes) -> Result<(), ApplyError> {
    hide(device)?;
    // what lies at the place of the new partitions was on the disk before, between the old ones
    for part in &goal.partitions {
        let slice = Slice { number: part.number, start: part.start, size: part.size };
        let node = node(nodes, device, slice, goal.sector)?;
        let what = format!("erase {} on {}", part.content.label, goal.identity);
        Tool::new("wipefs", what).args(["-a", "-f", "-q"]).arg(node.path()).run()?;
    }
    sync(device)
}

/// Erases the beginning of a disk, with whatever table is there: nothing on it is found any more.
pub(super) fn hide(device: &Path) -> Result<(), ApplyError> {
    forget(device);
    put(device, 0, &vec![0; usize::try_from(MIB).unwrap_or(0)])
}

/// The table that a disk shall have, as it is found there then.
pub(super) fn table(goal: &DiskGoal) -> FoundTable {
    let is_gpt = goal.table == TableKind::Gpt;
    let partition = |part: &PartitionGoal| FoundPartition {
        number: part.number,
        start: part.start,
        size: part.size,
        kind: match goal.table {
            TableKind::Gpt => part.kind.guid().to_string(),
            TableKind::Dos => format!("{:x}", part.kind.dos().unwrap_or(0x83)),
        },
        name: if is_gpt { part.content.label.to_string() } else { String::new() },
        uuid: if is_gpt { part.uuid.clone() } else { String::new() },
        ..FoundPartition::default()
    };
    let kind = if is_gpt { "gpt" } else { "dos" }.to_owned();
    let partitions = goal.partitions.iter().map(partition).collect();
    FoundTable { kind, id: goal.id.clone(), partitions }
}

/// Writes the partition table and sees that it is there. What is on the partitions stays.
pub(super) fn write_table(roots: &Roots, goal: &DiskGoal, device: &Path) -> Result<(), ApplyError> {
    let what = format!("write the partition table of {}", goal.identity);
    let sfdisk =
        Tool::new("sfdisk", what).args(["-q", "--no-reread", "--no-tell-kernel", "--force"]);
    sfdisk.args(["-w", "never", "-W", "never"]).arg(device).input(script(goal)).run()?;
    // until a boot loader is installed
    put(device, 0, PASS_ON)?;
    let found = look(roots, goal)?;
    if found.held {
        let what = format!("the partition table of {}", goal.identity);
        return Err(ApplyError::Verify { what, found: "nothing".to_owned() });
    }
    verify_table(goal, &found)?;
    tell_kernel(device);
    Ok(())
}

/// Writes bytes to a device and sees that they are there.
pub(super) fn put(device: &Path, at: u64, bytes: &[u8]) -> Result<(), ApplyError> {
    let file = OpenOptions::new().read(true).write(true).open(device).on("open", device)?;
    file.write_all_at(bytes, at).on("write to", device)?;
    file.sync_all().on("sync", device)?;
    // from the disk, not from memory
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).on("read", device)?;
    let mut is = vec![0; bytes.len()];
    file.read_exact_at(&mut is, at).on("read", device)?;
    if is == bytes {
        return Ok(());
    }
    let what = format!("{} bytes at {at} of {}", bytes.len(), device.display());
    Err(ApplyError::Verify { what, found: "something else".to_owned() })
}

/// What sfdisk is told, in sectors of the disk.
fn script(goal: &DiskGoal) -> String {
    let sector = u64::from(goal.sector.max(1));
    let label = match goal.table {
        TableKind::Gpt => "gpt",
        TableKind::Dos => "dos",
    };
    let mut script = format!("label: {label}\nlabel-id: {}\nunit: sectors\n", goal.id);
    for part in &goal.partitions {
        let (start, size) = (part.start / sector, part.size / sector);
        let fields = match goal.table {
            TableKind::Gpt => format!(
                "type={}, uuid={}, name=\"{}\"",
                part.kind.guid(),
                part.uuid,
                part.content.label
            ),
            TableKind::Dos => {
                // old firmware starts from what is marked
                let boot = if part.kind == PartitionType::Linux && part.number == 1 {
                    ", bootable"
                } else {
                    ""
                };
                format!("type={:x}{boot}", part.kind.dos().unwrap_or(0x83))
            }
        };
        script.push_str(&format!("{}: start={start}, size={size}, {fields}\n", part.number));
    }
    script
}

/// Whether the table is the planned one, to the last identifier.
pub(super) fn verify_table(goal: &DiskGoal, found: &FoundDisk) -> Result<(), ApplyError> {
    let is = found.table.as_ref();
    let parts = || goal.partitions.iter().zip(is.iter().flat_map(|table| &table.partitions));
    let same = is.is_some_and(|table| {
        table.id == goal.id && table.partitions.len() == goal.partitions.len()
    }) && parts().all(|(goal, found)| {
        (goal.start, goal.size, goal.number) == (found.start, found.size, found.number)
            && (found.uuid.is_empty() || found.uuid == goal.uuid)
    });
    if same {
        return Ok(());
    }
    let what = format!("the partition table of {}", goal.identity);
    Err(ApplyError::Verify { what, found: found.to_string() })
}

/// Writes the stamp.
pub(super) fn stamp(goal: &DiskGoal, device: &Path, stamp: &Stamp) -> Result<(), ApplyError> {
    let place = Stamp::place(goal.identity.size);
    // an image that fills the disk has no room for it: what is interrupted there is erased, and found again by reading
    if goal.image.as_ref().is_some_and(|(_, size)| *size > place) {
        return Ok(());
    }
    let bytes = stamp.encode().ok_or(ApplyError::Plan("its steps do not fit into a stamp"))?;
    let file = OpenOptions::new().write(true).open(device).on("open", device)?;
    file.write_all_at(&bytes, place).on("write the stamp of", device)?;
    file.sync_all().on("sync", device)
}

/// Brings what was written to the disk.
pub(super) fn sync(device: &Path) -> Result<(), ApplyError> {
    File::open(device).and_then(|file| file.sync_all()).on("sync", device)
}
