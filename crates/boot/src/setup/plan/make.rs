//! Puts a plan together.

use std::collections::BTreeMap;

use p2pinst_types::Name;
use p2pinst_types::record::{Disk, Firmware};

use super::goal::content_uuid;
use super::layout::{Room, Wish, lay_out};
use super::standing::{Standing, standing};
use super::{
    Content, DiskGoal, Goal, GroupGoal, Identity, ImageKind, MountGoal, PartitionGoal, Place, Plan,
    Refusal, Refusals, Request, RootGoal, VolumeGoal, choose,
};
use crate::setup::document::{
    Bootloader, DiskSetup, FileSystem, PartitionSetup, PartitionType, TableKind, Wipe,
};
use crate::setup::found::{FoundDisk, MIB, Stamp};
use crate::setup::guid::Guid;
use crate::setup::size::Extent;

/// Makes a plan.
///
/// # Errors
/// Everything that speaks against one, at once.
pub fn plan(request: &Request<'_>) -> Result<Plan, Refusals> {
    let document = request.setup.check();
    if !document.is_empty() {
        return Err(Refusals(document.into_iter().map(Refusal::Document).collect()));
    }
    let mut maker = Maker { request, refusals: Vec::new(), standings: Vec::new() };
    let disks = maker.disks();
    let goal = maker.goal(disks);
    maker.check_boot(&goal);
    maker.check_templates();
    let steps = maker.steps(&goal);
    if !maker.refusals.is_empty() {
        return Err(Refusals(maker.refusals));
    }
    let done = maker.standings.into_iter().map(|standing| standing.done).collect();
    Ok(Plan { goal, steps, done })
}

pub(super) struct Maker<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) refusals: Vec<Refusal>,
    /// Of the disks, in their order.
    pub(super) standings: Vec<Standing>,
}

impl Maker<'_> {
    fn disks(&mut self) -> Vec<DiskGoal> {
        let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
        let mut goals = Vec::new();
        for (index, setup) in self.request.setup.disk.iter().enumerate() {
            let number = index + 1;
            let disk = match choose::choose(number, setup, self.request.inventory) {
                Ok(disk) => disk,
                Err(refusal) => {
                    self.refusals.push(refusal);
                    continue;
                }
            };
            if let Some(first) = taken.insert(&disk.name, number) {
                let which = Identity::of(disk).to_string();
                self.refusals.push(Refusal::SameDisk { first, second: number, which });
                continue;
            }
            let Some(found) = self.request.found.disks.get(&disk.name) else {
                let which = Identity::of(disk).to_string();
                self.refusals.push(Refusal::NotLooked { disk: number, which });
                continue;
            };
            let Some(mut goal) = self.disk(number, setup, disk, found) else { continue };
            match standing(number, &mut goal, found, self.request.subject) {
                Ok(standing) => {
                    self.standings.push(standing);
                    goals.push(goal);
                }
                Err(refusal) => self.refusals.push(refusal),
            }
        }
        goals
    }

    fn guid(&self, what: &str) -> Guid {
        Guid::derive(self.request.subject.machine, self.request.subject.epoch, what)
    }

    fn disk(
        &mut self,
        number: usize,
        setup: &DiskSetup,
        disk: &Disk,
        found: &FoundDisk,
    ) -> Option<DiskGoal> {
        let identity = Identity::of(disk);
        let which = identity.to_string();
        // what no disk has is not divided by
        let sector = Some(found.sector).filter(|sector| Disk::is_sector(*sector));
        let sector = sector.unwrap_or_else(Disk::usual_sector);
        let guid = self.guid(&format!("table {number}"));
        let id = match setup.table {
            TableKind::Gpt => guid.to_string(),
            TableKind::Dos => format!("0x{:08x}", guid.short()),
        };
        let user = format!("disk {number}");
        let image = setup.image.as_ref().and_then(|image| {
            let (_, size) =
                self.image(&user, image, |kind| kind == ImageKind::Disk, "a whole disk")?;
            if size > disk.size {
                let what = format!("the image {image}");
                let which = which.clone();
                self.refusals.push(Refusal::TooSmall {
                    disk: number,
                    which,
                    what,
                    needs: size,
                    has: disk.size,
                });
            } else if setup.wipe == Wipe::Never && size > Stamp::place(disk.size) {
                let (which, image) = (which.clone(), image.clone());
                self.refusals.push(Refusal::NoRoomForStamp { disk: number, which, image });
            }
            Some((image.clone(), size))
        });
        let contents: Vec<(Content, u64)> =
            setup.partition.iter().map(|part| self.content(part, part.filesystem())).collect();
        let wishes = setup.partition.iter().zip(&contents);
        let wishes: Vec<Wish<'_>> =
            wishes.map(|(setup, (_, least))| Wish { setup, least: *least }).collect();
        let room = Room { number, which: &which, size: disk.size, sector, table: setup.table };
        let spans = match lay_out(room, &wishes) {
            Ok(spans) => spans,
            Err(refusals) => {
                self.refusals.extend(refusals);
                return None;
            }
        };
        let parts = setup.partition.iter().zip(contents).zip(spans).zip(1..);
        let partitions = parts.map(|(((part, (content, _)), span), number)| PartitionGoal {
            number,
            kind: part.kind(),
            start: span.start,
            size: span.size,
            uuid: match setup.table {
                TableKind::Gpt => self.guid(&format!("partition {}", part.label)).to_string(),
                TableKind::Dos => format!("{:08x}-{number:02x}", guid.short()),
            },
            content,
        });
        let partitions = partitions.collect();
        let (wipe, table, grow) = (setup.wipe, setup.table, setup.grow);
        Some(DiskGoal { identity, sector, wipe, table, id, image, grow, partitions })
    }

    /// What is on a partition, and the least size for it.
    fn content(&mut self, part: &PartitionSetup, filesystem: FileSystem) -> (Content, u64) {
        self.place(&part.label, filesystem, part.mount.as_deref(), part.image.as_ref())
    }

    fn place(
        &mut self,
        label: &Name,
        filesystem: FileSystem,
        mount: Option<&str>,
        image: Option<&Name>,
    ) -> (Content, u64) {
        let mut least = if filesystem == FileSystem::None { MIB } else { filesystem.least() };
        let facts = image.and_then(|image| {
            let wanted = "a partition or a tree of files";
            let (kind, size) =
                self.image(label.as_str(), image, |kind| kind != ImageKind::Disk, wanted)?;
            Some((image.clone(), kind, size))
        });
        if let Some((image, kind, size)) = &facts {
            if *kind == ImageKind::Partition {
                least = *size;
            } else if mount.is_none() || !filesystem.is_mountable() {
                self.refusals
                    .push(Refusal::TarNowhere { label: label.clone(), image: image.clone() });
            } else {
                // the archive lies there while it is unpacked, beside what is in it
                let divided = self.has_mount_below(mount.unwrap_or_default());
                let content = if divided { 0 } else { *size };
                // and what a filesystem keeps for itself, roughly
                let needs = size.saturating_add(content).saturating_add(size / 16);
                least = least.max(needs);
            }
        }
        let uuid = content_uuid(filesystem, self.guid(&format!("filesystem {label}")));
        let image = facts.map(|(image, kind, _)| (image, kind));
        (Content { label: label.clone(), filesystem, uuid, image }, least)
    }

    /// Whether something else is mounted below: an archive is then divided among several filesystems.
    fn has_mount_below(&self, mount: &str) -> bool {
        let setup = self.request.setup;
        let below = |other: &Option<String>| {
            let rest =
                other.as_deref().and_then(|other| other.strip_prefix(mount.trim_end_matches('/')));
            rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
        };
        setup
            .disk
            .iter()
            .flat_map(|d| &d.partition)
            .any(|p| below(&p.mount) && p.kind() != PartitionType::Esp)
            || setup.volume.iter().any(|v| below(&v.mount))
    }

    fn image(
        &mut self,
        user: &str,
        image: &Name,
        fits: impl Fn(ImageKind) -> bool,
        wanted: &'static str,
    ) -> Option<(ImageKind, u64)> {
        let (user, named) = (user.to_owned(), image.clone());
        match self.request.images.get(image) {
            None => self.refusals.push(Refusal::UnknownImage { user, image: named }),
            Some(facts) if !fits(facts.kind) => {
                self.refusals.push(Refusal::WrongImage {
                    user,
                    image: named,
                    is: facts.kind,
                    wanted,
                });
            }
            Some(facts) => return Some((facts.kind, facts.size)),
        }
        None
    }

    fn goal(&mut self, disks: Vec<DiskGoal>) -> Goal {
        let setup = self.request.setup;
        let volumes: Vec<VolumeGoal> = setup
            .volume
            .iter()
            .map(|volume| {
                let filesystem = volume.filesystem.unwrap_or(FileSystem::None);
                let (content, least) = self.place(
                    &volume.name,
                    filesystem,
                    volume.mount.as_deref(),
                    volume.image.as_ref(),
                );
                // what is a part of the group is known when the group is made
                if let Extent::Bytes(has) = volume.size
                    && has.0 < least
                {
                    let (volume, has) = (volume.name.clone(), has.0);
                    self.refusals.push(Refusal::SmallVolume { volume, needs: least, has });
                }
                VolumeGoal { group: volume.group.clone(), size: volume.size, content }
            })
            .collect();
        let at = |label: &Name| {
            let disks = disks.iter().enumerate();
            let mut parts = disks.flat_map(|(d, disk)| {
                disk.partitions.iter().enumerate().map(move |(p, part)| ((d, p), part))
            });
            parts.find(|(_, part)| part.content.label == *label).map(|(at, _)| at)
        };
        let groups = setup.group.iter().map(|group| GroupGoal {
            name: group.name.clone(),
            partitions: group.partitions.iter().filter_map(at).collect(),
        });
        let groups = groups.collect();
        let hostname = setup.hostname.as_ref().map(|hostname| {
            let name = self.request.subject.name.as_str();
            hostname.replace("{{name}}", name).replace("{{ name }}", name)
        });
        let mut goal = Goal {
            setup: setup.hash(),
            setup_name: setup.name.clone(),
            subject: self.request.subject.clone(),
            firmware: self.request.inventory.firmware,
            disks,
            groups,
            volumes,
            mounts: Vec::new(),
            root: None,
            hostname,
            files: setup.file.clone(),
            agent: setup.agent,
            boot: setup.boot.clone(),
            boot_disk: None,
        };
        goal.mounts = self.mounts(&goal);
        let mounted = goal.mounts.iter().find(|mount| mount.path.as_deref() == Some("/"));
        goal.root =
            mounted.map(|mount| RootGoal::Mounted(mount.place)).or_else(|| self.image_root());
        goal.boot_disk = boot_disk(&goal);
        goal
    }

    /// What is mounted, from the root downwards; then swap.
    fn mounts(&self, goal: &Goal) -> Vec<MountGoal> {
        let setup = self.request.setup;
        let partitions = setup.disk.iter().flat_map(|disk| &disk.partition);
        let said = partitions.map(|p| (&p.label, &p.mount, &p.options));
        let said = said.chain(setup.volume.iter().map(|v| (&v.name, &v.mount, &v.options)));
        let said: BTreeMap<_, _> =
            said.map(|(label, mount, options)| (label, (mount, options))).collect();
        let places = goal.places().filter_map(|(place, content)| {
            let (path, options) = said.get(&content.label)?;
            let used = path.is_some() || content.filesystem == FileSystem::Swap;
            used.then(|| MountGoal { place, path: (*path).clone(), options: (*options).clone() })
        });
        let mut mounts: Vec<MountGoal> = places.collect();
        let depth = |path: &str| path.split('/').filter(|part| !part.is_empty()).count();
        mounts.sort_by_key(|mount| {
            let path = mount.path.clone();
            (path.is_none(), path.as_deref().map_or(0, depth), path)
        });
        mounts
    }

    fn image_root(&self) -> Option<RootGoal> {
        let images =
            || self.request.setup.disk.iter().enumerate().filter(|(_, disk)| disk.image.is_some());
        let said = images().find(|(_, disk)| disk.root.is_some());
        let (disk, setup) = said.or_else(|| images().next())?;
        Some(RootGoal::Image { disk, partition: setup.root })
    }

    fn check_boot(&mut self, goal: &Goal) {
        if !installs_loader(goal) || goal.disks.len() < self.request.setup.disk.len() {
            return;
        }
        let parts = || goal.disks.iter().flat_map(|disk| &disk.partitions);
        match goal.firmware {
            Firmware::Bios => {
                let dos = goal
                    .boot_disk
                    .and_then(|d| goal.disks.get(d))
                    .is_some_and(|d| d.table == TableKind::Dos);
                if !dos && !parts().any(|part| part.kind == PartitionType::BiosBoot) {
                    self.refusals.push(Refusal::NoBiosBoot);
                }
            }
            Firmware::Uefi if esp(goal).is_none() => self.refusals.push(Refusal::NoEsp),
            Firmware::Uefi => {}
        }
    }

    fn check_templates(&mut self) {
        for file in &self.request.setup.file {
            let unknown =
                file.template.as_ref().filter(|name| !self.request.templates.contains(*name));
            if let Some(template) = unknown {
                let path = file.path.clone();
                self.refusals.push(Refusal::UnknownTemplate { path, template: template.clone() });
            }
        }
    }
}

/// Whether a boot loader is installed: into a root that files were put into.
pub(super) fn installs_loader(goal: &Goal) -> bool {
    let Some(RootGoal::Mounted(place)) = goal.root else { return false };
    let has_system = goal.content(place).is_some_and(|content| content.image.is_some());
    goal.boot.bootloader == Bootloader::Auto && has_system
}

/// The EFI system partition that is mounted where boot loaders look for it.
fn esp(goal: &Goal) -> Option<Place> {
    let usual =
        |mount: &&MountGoal| matches!(mount.path.as_deref(), Some("/boot/efi" | "/efi" | "/boot"));
    let mut mounts = goal.mounts.iter().filter(usual);
    let found = mounts.find(|mount| match mount.place {
        Place::Partition(d, p) => {
            goal.partition(d, p).is_some_and(|part| part.kind == PartitionType::Esp)
        }
        Place::Volume(_) => false,
    });
    found.map(|mount| mount.place)
}

fn boot_disk(goal: &Goal) -> Option<usize> {
    let with = |kind| {
        goal.disks.iter().position(|disk| disk.partitions.iter().any(|part| part.kind == kind))
    };
    let special = match goal.firmware {
        Firmware::Bios => with(PartitionType::BiosBoot),
        Firmware::Uefi => with(PartitionType::Esp),
    };
    special.or_else(|| goal.root_disk())
}
