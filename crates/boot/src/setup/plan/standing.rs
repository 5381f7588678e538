//! How far a disk already is what it shall be.

use std::collections::BTreeSet;

use super::goal::{DiskGoal, PartitionGoal};
use super::{Refusal, Step, Subject};
use crate::setup::document::{FileSystem, PartitionType, TableKind, Wipe};
use crate::setup::found::{FoundDisk, FoundPartition, FoundTable, Stamp};

/// A stamp's word for a setup that was finished.
pub(in crate::setup) const COMPLETE: &str = "complete";

/// How far a disk is.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Nothing of the setup is on it.
    pub(super) fresh: bool,
    /// What is to be erased before, for people.
    pub(super) wipe: Option<String>,
    /// What is done, by the keys of steps.
    pub(super) done: BTreeSet<String>,
    /// It is used as it was found: what its filesystems have is kept whatever images say.
    pub(super) adopted: bool,
}

impl Standing {
    fn fresh(found: &FoundDisk) -> Self {
        let wipe = (!found.is_blank()).then(|| found.to_string());
        Self { fresh: true, wipe, ..Self::default() }
    }

    /// Whether a step has been done to this disk.
    pub(super) fn has(&self, step: &Step) -> bool {
        !self.fresh && self.done.contains(&step.key())
    }
}

/// How far this disk is. Where its table is kept, the goal takes on the table's identifiers.
///
/// # Errors
/// When what is on it may not be lost and is not what the setup describes.
pub(super) fn standing(
    number: usize,
    goal: &mut DiskGoal,
    found: &FoundDisk,
    subject: &Subject,
) -> Result<Standing, Refusal> {
    let which = goal.identity.to_string();
    if !found.users.is_empty() {
        return Err(Refusal::InUse { disk: number, which, users: found.users.clone() });
    }
    if found.is_blank() {
        return Ok(Standing::fresh(found));
    }
    let ours = found.valid_stamp().filter(|stamp| stamp.machine == subject.machine);
    let same = ours.filter(|stamp| stamp.epoch == subject.epoch);
    // What was interrupted is written again: that only reads what is there already, and takes back what was changed since.
    let again = match goal.wipe {
        Wipe::Never => ours.is_some(),
        Wipe::Once => same.is_some(),
        Wipe::Always => false,
    };
    if goal.image.is_some() && again && found.is_begun() {
        return Ok(Standing { fresh: true, ..Standing::default() });
    }
    let fits = fits(goal, found, ours);
    let has_data =
        || Refusal::HasData { disk: number, which: which.clone(), found: found.to_string() };
    match (goal.wipe, same) {
        (Wipe::Always, _) => Ok(Standing::fresh(found)),
        (Wipe::Once, None) => Ok(Standing::fresh(found)),
        (Wipe::Once, _) if !fits => {
            Err(Refusal::Changed { disk: number, which, found: found.to_string() })
        }
        (Wipe::Never, _) if !fits => Err(has_data()),
        (_, Some(stamp)) => kept(goal, found, done(found, stamp)),
        (Wipe::Never, None) => {
            // the setup of an earlier assignment that was never finished: nobody has used it since
            let unfinished = ours.filter(|stamp| !stamp.done.contains(COMPLETE));
            match unfinished {
                Some(stamp) => kept(goal, found, done(found, stamp)),
                // another machine's, which was never finished
                None if found.held => Err(has_data()),
                None => adopt(goal, found).ok_or_else(has_data),
            }
        }
    }
}

/// What a stamp says is done. Of an image that has everything in its place, and says otherwise, the power failed just then.
fn done(found: &FoundDisk, stamp: &Stamp) -> BTreeSet<String> {
    let mut stamp = stamp.clone();
    if stamp.is_begun() && !found.veiled {
        stamp.end();
        stamp.done.insert(Step::Start { disk: 0 }.key());
    }
    stamp.done
}

fn fits(goal: &DiskGoal, found: &FoundDisk, ours: Option<&Stamp>) -> bool {
    match (&goal.image, &found.table) {
        (Some((image, _)), _) => {
            let written = Step::WriteDisk { disk: 0, image: image.clone() }.key();
            ours.is_some_and(|stamp| stamp.done.contains(&written))
        }
        (None, Some(table)) => matches(goal, table),
        (None, None) => false,
    }
}

/// Whether a table has the partitions of the goal.
fn matches(goal: &DiskGoal, table: &FoundTable) -> bool {
    let kind = match goal.table {
        TableKind::Gpt => "gpt",
        TableKind::Dos => "dos",
    };
    let same = |goal: &PartitionGoal, found: &FoundPartition, is_gpt: bool| {
        let kind = if is_gpt {
            goal.kind.guid().to_string()
        } else {
            goal.kind.dos().map(|kind| format!("{kind:x}")).unwrap_or_default()
        };
        (goal.number, goal.start, goal.size) == (found.number, found.start, found.size)
            && kind == found.kind
            && (!is_gpt || goal.content.label.as_str() == found.name)
    };
    let is_gpt = goal.table == TableKind::Gpt;
    table.kind == kind
        && table.partitions.len() == goal.partitions.len()
        && goal
            .partitions
            .iter()
            .zip(&table.partitions)
            .all(|(goal, found)| same(goal, found, is_gpt))
}

/// A disk whose table a setup has made, with what was done since.
fn kept(
    goal: &mut DiskGoal,
    found: &FoundDisk,
    done: BTreeSet<String>,
) -> Result<Standing, Refusal> {
    take_on(goal, found);
    let standing = Standing { done, ..Standing::default() };
    let which = goal.identity.to_string();
    for part in &mut goal.partitions {
        let has = found_part(found, part.number).and_then(|found| found.content.as_deref());
        let content = &mut part.content;
        let format = format!("format {}", content.label);
        if !content.is_made() || !standing.done.contains(&format) {
            continue;
        }
        if has != Some(content.filesystem.as_str()) {
            return Err(Refusal::OtherContent {
                label: content.label.clone(),
                which,
                wanted: content.filesystem.to_string(),
                has: has.unwrap_or("nothing").to_owned(),
            });
        }
        // what an earlier assignment has made keeps its identifier
        let uuid = found_part(found, part.number).and_then(|found| found.content_uuid.as_ref());
        if let Some(uuid) = uuid.filter(|_| goal.wipe == Wipe::Never) {
            content.uuid.clone_from(uuid);
        }
    }
    Ok(standing)
}

/// A disk that somebody else has made as the setup describes it. Partitions that are still empty get what they shall have.
fn adopt(goal: &mut DiskGoal, found: &FoundDisk) -> Option<Standing> {
    take_on(goal, found);
    let mut standing = Standing {
        adopted: true,
        done: [Step::Table { disk: 0 }.key(), Step::Start { disk: 0 }.key()].into(),
        ..Standing::default()
    };
    if let Some((image, _)) = &goal.image {
        standing.done.extend([
            Step::WriteDisk { disk: 0, image: image.clone() }.key(),
            Step::Grow { disk: 0 }.key(),
        ]);
    }
    for part in &mut goal.partitions {
        let found =
            found.table.as_ref()?.partitions.iter().find(|found| found.number == part.number)?;
        let content = &mut part.content;
        let Some(has) = &found.content else { continue };
        let kept = match content.filesystem {
            // LVM's own is left to the groups, and an image brings what it brings; the rest must be empty
            FileSystem::None => {
                content.raw().is_some() || has == "LVM2_member" && part.kind == PartitionType::Lvm
            }
            filesystem => has == filesystem.as_str(),
        };
        if !kept {
            return None;
        }
        if let Some(uuid) = &found.content_uuid {
            content.uuid.clone_from(uuid);
        }
        let label = &content.label;
        standing.done.insert(format!("format {label}"));
        if let Some((image, _)) = &content.image {
            standing
                .done
                .extend([format!("write {label} {image}"), format!("extract {label} {image}")]);
        }
    }
    Some(standing)
}

/// The goal takes the identifiers that are there.
fn take_on(goal: &mut DiskGoal, found: &FoundDisk) {
    let Some(table) = found.table.as_ref().filter(|_| goal.image.is_none()) else { return };
    goal.id.clone_from(&table.id);
    for part in &mut goal.partitions {
        let found = table.partitions.iter().find(|found| found.number == part.number);
        if let Some(found) = found.filter(|_| goal.table == TableKind::Gpt) {
            part.uuid.clone_from(&found.uuid);
        } else if goal.table == TableKind::Dos {
            part.uuid = format!("{}-{:02x}", table.id.trim_start_matches("0x"), part.number);
        }
    }
}

fn found_part(found: &FoundDisk, number: u32) -> Option<&FoundPartition> {
    found.table.as_ref()?.partitions.iter().find(|found| found.number == number)
}
