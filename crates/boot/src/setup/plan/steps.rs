//! What is still to be done for a goal, in the order in which it can be done.

use std::mem;

use p2pinst_types::Name;
use p2pinst_types::record::Firmware;

use super::make::{Maker, installs_loader};
use super::standing::Standing;
use super::{DiskGoal, Goal, GroupGoal, Place, Refusal, Step, VolumeGoal};
use crate::setup::document::NextBoot;
use crate::setup::size::Extent;

impl Maker<'_> {
    pub(super) fn steps(&mut self, goal: &Goal) -> Vec<Step> {
        if goal.disks.len() < self.request.setup.disk.len() {
            return Vec::new();
        }
        let standings = mem::take(&mut self.standings);
        let mut steps = Vec::new();
        for (disk, standing) in standings.iter().enumerate() {
            steps.extend(standing.wipe.clone().map(|found| Step::Wipe { disk, found }));
        }
        for (disk, (standing, of)) in standings.iter().zip(&goal.disks).enumerate() {
            if standing.fresh {
                steps.push(match &of.image {
                    Some((image, _)) => Step::WriteDisk { disk, image: image.clone() },
                    None => Step::Table { disk },
                });
            }
        }
        let grow = |(disk, of): (usize, &DiskGoal)| of.grow.then_some(Step::Grow { disk });
        let grows = goal.disks.iter().enumerate().filter_map(grow);
        steps.extend(grows.filter(|step| !is_done(goal, &standings, step)));
        self.volume_steps(goal, &standings, &mut steps);
        let new_volumes: Vec<Name> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Volume { name, .. } => Some(name.clone()),
                _ => None,
            })
            .collect();
        content_steps(goal, &standings, &new_volumes, &mut steps);
        let mut last = Vec::new();
        if let Some(root) = goal.root_disk().and_then(|disk| standings.get(disk)) {
            let mut system = Step::System { is_new: true };
            system = Step::System { is_new: !root.adopted && !root.has(&system) };
            last.push(system);
        }
        // the one that firmware looks at comes last: then it finds the others
        let mut starts: Vec<usize> = (0..goal.disks.len()).collect();
        starts.sort_by_key(|disk| Some(*disk) == goal.boot_disk);
        let starts = starts.into_iter().map(|disk| Step::Start { disk });
        last.extend(starts.filter(|step| !is_done(goal, &standings, step)));
        if installs_loader(goal) {
            last.push(Step::Bootloader);
        }
        if goal.firmware == Firmware::Uefi
            && goal.boot.next != NextBoot::None
            && goal.root.is_some()
        {
            last.push(Step::BootOrder);
        }
        let undone = !steps.is_empty() || last.iter().any(|step| !is_done(goal, &standings, step));
        if undone {
            steps.extend(last);
        }
        self.standings = standings;
        steps
    }

    fn volume_steps(&mut self, goal: &Goal, standings: &[Standing], steps: &mut Vec<Step>) {
        for group in &goal.groups {
            let fresh = |(disk, _): &(usize, usize)| standings.get(*disk).is_some_and(|s| s.fresh);
            let some = group.partitions.iter().any(fresh);
            let step = Step::Group { name: group.name.clone() };
            let make =
                some || !is_done(goal, standings, &step) && !is_adopted(goal, standings, group);
            if some && !group.partitions.iter().all(fresh) {
                self.refusals.push(Refusal::MixedGroup { group: group.name.clone() });
            }
            let lost = |(disk, _): &(usize, usize)| {
                standings
                    .get(*disk)
                    .and_then(|s| s.wipe.as_ref())
                    .is_some_and(|found| found.contains("LVM2"))
            };
            let exists = self.request.found.groups.contains_key(group.name.as_str());
            if make && some && exists && !group.partitions.iter().any(lost) {
                self.refusals.push(Refusal::ForeignGroup { group: group.name.clone() });
            }
            if make {
                steps.push(step);
            }
            // sizes in parts and the rest come after fixed ones, when it is known what these have left
            let mut volumes: Vec<&VolumeGoal> =
                goal.volumes.iter().filter(|v| v.group == group.name).collect();
            volumes.sort_by_key(|v| v.size == Extent::Rest);
            for volume in volumes {
                let (group, name) = (group.name.clone(), volume.content.label.clone());
                let there = self
                    .request
                    .found
                    .groups
                    .get(group.as_str())
                    .is_some_and(|g| g.contains(name.as_str()));
                let step = Step::Volume { group, name };
                if make || !is_done(goal, standings, &step) && !there {
                    steps.push(step);
                }
            }
        }
    }
}

/// Whether the group's disks are used as they were found, and have it.
fn is_adopted(goal: &Goal, standings: &[Standing], group: &GroupGoal) -> bool {
    let format = |(disk, index): &(usize, usize)| {
        let label =
            goal.partition(*disk, *index).map(|part| format!("format {}", part.content.label));
        let standing = standings.get(*disk).filter(|standing| standing.adopted);
        standing.zip(label).is_some_and(|(standing, label)| standing.done.contains(&label))
    };
    !group.partitions.is_empty() && group.partitions.iter().all(format)
}

fn is_done(goal: &Goal, standings: &[Standing], step: &Step) -> bool {
    goal.home(step).and_then(|disk| standings.get(disk)).is_some_and(|standing| standing.has(step))
}

/// Filesystems and what is written into them: first what is made, then what is extracted, from the root downwards.
fn content_steps(goal: &Goal, standings: &[Standing], new_volumes: &[Name], steps: &mut Vec<Step>) {
    let mut extracts = Vec::new();
    for (place, content) in goal.places() {
        let label = content.label.clone();
        let is_new = matches!(place, Place::Volume(_)) && new_volumes.contains(&label);
        let adopted =
            goal.disk_of(place).and_then(|disk| standings.get(disk)).is_some_and(|s| s.adopted);
        let keep_volume = adopted && matches!(place, Place::Volume(_)) && !is_new;
        let undone = |step: &Step| (is_new || !is_done(goal, standings, step)) && !keep_volume;
        let extract = content.tar().map(|image| Step::Extract {
            place,
            label: label.clone(),
            image: image.clone(),
        });
        let extract = extract.filter(undone);
        let format = Step::Format { place, label: label.clone() };
        // an archive that was interrupted is extracted into a new filesystem
        if content.is_made() && (undone(&format) || extract.is_some()) {
            steps.push(format);
        }
        let write = content.raw().map(|image| Step::Write { place, label, image: image.clone() });
        steps.extend(write.filter(undone));
        extracts.extend(extract);
    }
    let depth = |step: &Step| {
        let Step::Extract { place, .. } = step else { return None };
        goal.mounts.iter().position(|mount| mount.place == *place)
    };
    extracts.sort_by_key(depth);
    steps.extend(extracts);
}
