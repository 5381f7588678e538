//! Enlarges the last partition of a disk's image, and filesystems to the size of what they are on.

use std::path::Path;

use super::disk::{look, sync};
use super::mount::Mounts;
use super::node::{Slice, forget, node, tell_kernel};
use super::tool::Tool;
use super::{ApplyError, Nodes};
use crate::setup::found::{FoundPartition, MIB, Stamp};
use crate::setup::inventory::Roots;
use crate::setup::plan::DiskGoal;
use crate::setup::probe;

/// Enlarges the last partition, and what is on it, up to the stamp.
pub(super) fn grow(
    roots: &Roots,
    goal: &DiskGoal,
    device: &Path,
    nodes: Nodes,
) -> Result<(), ApplyError> {
    let last = |goal: &DiskGoal| -> Result<FoundPartition, ApplyError> {
        let table = look(roots, goal)?.table;
        let parts = table.map(|table| table.partitions).unwrap_or_default();
        let last = parts.into_iter().max_by_key(|part| part.start);
        last.ok_or(ApplyError::NoNode {
            what: format!("the last partition of {}", goal.identity),
            why: "the image has none".to_owned(),
        })
    };
    let before = last(goal)?;
    let end = Stamp::place(goal.identity.size);
    let size = end.saturating_sub(before.start);
    // beneath a MiB it is not worth it, and less than nothing cannot be
    if size >= before.size.saturating_add(MIB) {
        forget(device);
        let is_gpt = look(roots, goal)?.table.is_some_and(|table| table.kind == "gpt");
        if is_gpt {
            // the image's second table is where the image ended
            let what = format!("move the second table of {} to its end", goal.identity);
            Tool::new("sfdisk", what)
                .args([
                    "-q",
                    "--no-reread",
                    "--no-tell-kernel",
                    "--force",
                    "--relocate",
                    "gpt-bak-std",
                ])
                .arg(device)
                .run()?;
        }
        let sectors = size / u64::from(goal.sector.max(1));
        let what = format!("enlarge partition {} of {}", before.number, goal.identity);
        let tool = Tool::new("sfdisk", what).args([
            "-q",
            "--no-reread",
            "--no-tell-kernel",
            "--force",
            "-w",
            "never",
            "-W",
            "never",
        ]);
        tool.arg("-N")
            .arg(before.number.to_string())
            .arg(device)
            .input(format!(", {sectors}\n"))
            .run()?;
        sync(device)?;
    }
    let after = last(goal)?;
    if (after.number, after.start, &after.uuid) != (before.number, before.start, &before.uuid)
        || after.size < before.size
    {
        let what = format!("partition {} of {}", before.number, goal.identity);
        return Err(ApplyError::Verify { what, found: format!("{after:?}") });
    }
    tell_kernel(device);
    let slice = Slice { number: after.number, start: after.start, size: after.size };
    let node = node(nodes, device, slice, goal.sector)?;
    filesystem(node.path())
}

/// Enlarges the filesystem on a device to the device's size; what cannot be enlarged stays as it is.
pub(super) fn filesystem(device: &Path) -> Result<(), ApplyError> {
    let what = format!("enlarge the filesystem on {}", device.display());
    match probe::look(device, None)?.content.as_deref() {
        Some("ext2" | "ext3" | "ext4") => {
            // resize2fs wants it checked; e2fsck says 1 when it has corrected something
            let check = Tool::new("e2fsck", what.clone()).args(["-f", "-p"]).arg(device).run();
            if let Err(error) = check {
                tracing::info!(%error, "a filesystem was corrected before it was enlarged");
            }
            Tool::new("resize2fs", what).arg(device).run()?;
        }
        Some("xfs") => Mounts::briefly(device, "xfs", |dir| {
            Tool::new("xfs_growfs", what).arg(dir).run().map(drop)
        })?,
        Some("btrfs") => Mounts::briefly(device, "btrfs", |dir| {
            Tool::new("btrfs", what).args(["filesystem", "resize", "max"]).arg(dir).run().map(drop)
        })?,
        _ => {}
    }
    sync(device)
}
