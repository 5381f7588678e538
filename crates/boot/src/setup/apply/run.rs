//! One step after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use p2pinst_files::{Access, Lock};
use p2pinst_types::Name;

use super::crew::Crew;
use super::journal::Journal;
use super::mount::Mounts;
use super::node::{Node, Slice, node};
use super::rootfs::Root;
use super::veil::Veil;
use super::{Applied, ApplyError, Context, disk, format, grow, loader, lvm, system};
use crate::setup::document::Wipe;
use crate::setup::found::{FoundDisk, Stamp};
use crate::setup::inventory;
use crate::setup::plan::{
    COMPLETE, Content, DiskGoal, Goal, Identity, Place, Plan, RootGoal, Step,
};

/// Names of the volume groups that a run may have made active, one in a line.
const GROUPS: &str = "setup.groups";
/// The longest list of them.
const GROUPS_MAX: u64 = 64 << 10;

/// Carries a plan out.
///
/// # Errors
/// When a disk is not the one that was planned for, what is on it has changed since, or a step fails. What was done
/// stays noted; the same setup, planned and applied again, goes on from there.
pub fn apply(plan: &Plan, context: &Context<'_>) -> Result<Applied, ApplyError> {
    p2pinst_files::make_private_dir(context.work)?;
    let Some(_lock) = Lock::try_exclusive(&context.work.join("setup.lock"))? else {
        return Err(ApplyError::Busy);
    };
    let _crew = Crew::assemble(context.work)?;
    let mut run = Run::begin(plan, context)?;
    let mut applied = Applied::default();
    for (index, step) in plan.steps.iter().enumerate() {
        if run.is_noted(index, step) {
            continue;
        }
        if (context.watch)(step).is_break() {
            return Err(ApplyError::Stopped(plan.goal.tell(step)));
        }
        tracing::info!(step = %plan.goal.tell(step), "setup");
        run.forget(step)?;
        applied.remarks.extend(run.carry_out(step)?);
        run.note(step)?;
        applied.steps += 1;
    }
    run.finish()?;
    Ok(applied)
}

/// Waits for the programs that an interrupted run has left, unmounts what it has mounted, and releases its volume groups. They
/// keep disks in use: who plans after a kill calls this before looking at them.
///
/// # Errors
/// When a program does not end within a minute, or something cannot be unmounted.
pub fn release(work: &Path) -> Result<(), ApplyError> {
    p2pinst_files::make_private_dir(work)?;
    let _crew = Crew::assemble(work)?;
    clear(work)
}

fn clear(work: &Path) -> Result<(), ApplyError> {
    Mounts::below(&work.join("root")).map(drop)?;
    let list = work.join(GROUPS);
    let groups = p2pinst_files::read(&list, GROUPS_MAX).unwrap_or_default();
    for name in String::from_utf8_lossy(&groups).lines().filter_map(|name| name.parse().ok()) {
        lvm::deactivate(&name);
    }
    Ok(p2pinst_files::remove(&list)?)
}

struct Run<'a> {
    plan: &'a Plan,
    goal: &'a Goal,
    context: &'a Context<'a>,
    journal: Journal,
    /// What is done to each disk; `None` where nothing of the setup is on it yet.
    stamps: Vec<Option<Stamp>>,
    /// What was on each disk when the run began.
    found: Vec<FoundDisk>,
    /// What was put aside of images of whole disks.
    veils: BTreeMap<usize, Veil>,
    mounts: Option<Mounts>,
    /// Below the mounts: fields are dropped in their order, and what is mounted needs its device until then.
    nodes: BTreeMap<(usize, u32), Node>,
}

impl<'a> Run<'a> {
    fn begin(plan: &'a Plan, context: &'a Context<'a>) -> Result<Self, ApplyError> {
        let goal = &plan.goal;
        clear(context.work)?;
        check_identities(goal, context)?;
        let found: Result<Vec<FoundDisk>, ApplyError> =
            goal.disks.iter().map(|of| disk::look(&context.roots, of)).collect();
        let journal = Journal::open(context.work, plan.hash());
        let mut run = Self {
            plan,
            goal,
            context,
            journal,
            stamps: Vec::new(),
            found: found?,
            veils: BTreeMap::new(),
            mounts: None,
            nodes: BTreeMap::new(),
        };
        let groups: String = goal.groups.iter().map(|group| format!("{}\n", group.name)).collect();
        p2pinst_files::write(&context.work.join(GROUPS), groups.as_bytes(), Access::Private)?;
        for index in 0..goal.disks.len() {
            let stamp = run.check_content(index)?;
            run.stamps.push(stamp);
        }
        Ok(run)
    }

    /// Whether what is on a disk is what the plan was made for; the stamp to go on with.
    fn check_content(&mut self, index: usize) -> Result<Option<Stamp>, ApplyError> {
        let (Some(of), Some(found)) = (self.goal.disks.get(index), self.found.get(index)) else {
            return Err(ApplyError::Plan("it has no such disk"));
        };
        let changed =
            || ApplyError::Content { disk: of.identity.to_string(), now: found.to_string() };
        if !found.users.is_empty() {
            let now = found.users.join(", ");
            return Err(ApplyError::Content { disk: of.identity.to_string(), now });
        }
        let mine = |step: &Step| self.goal.home(step) == Some(index);
        let wiped =
            self.plan.steps.iter().any(|step| mine(step) && matches!(step, Step::Wipe { .. }));
        let is_begin = |step: &Step| matches!(step, Step::Table { .. } | Step::WriteDisk { .. });
        let begin = self.plan.steps.iter().find(|step| mine(step) && is_begin(step));
        let Some(begin) = begin else {
            if of.image.is_none() {
                disk::verify_table(of, found).map_err(|_| changed())?;
            }
            let done = self.plan.done.get(index).cloned().unwrap_or_default();
            return Ok(Some(self.new_stamp(of, found, done)));
        };
        // a disk that is erased each time: an earlier run of this plan may have come further
        if of.wipe == Wipe::Always && self.journal.has(index, &begin.key()) {
            let goes_on = match of.image {
                // what was put aside of it is lost
                Some(_) => self.journal.has(index, &Step::Start { disk: index }.key()),
                None => disk::verify_table(of, found).is_ok(),
            };
            if goes_on {
                let keys = self.plan.steps.iter().filter(|step| mine(step)).map(Step::key);
                let done: BTreeSet<String> =
                    keys.filter(|key| self.journal.has(index, key)).collect();
                return Ok(Some(self.new_stamp(of, found, done)));
            }
            self.journal.forget(index);
        }
        let machine = self.goal.subject.machine;
        let ours = found.stamp.as_ref().is_some_and(|stamp| stamp.machine == machine);
        let begun = of.image.is_some() && ours && found.is_begun();
        if !wiped && !begun && !found.is_blank() { Err(changed()) } else { Ok(None) }
    }

    fn new_stamp(&self, of: &DiskGoal, found: &FoundDisk, done: BTreeSet<String>) -> Stamp {
        let table = found.table.as_ref().map(|table| table.id.clone()).unwrap_or_default();
        let table = if of.image.is_some() { table } else { of.id.clone() };
        let subject = &self.goal.subject;
        let (machine, epoch, setup) = (subject.machine, subject.epoch, self.goal.setup);
        let held = found.held.then(|| disk::table(of));
        Stamp { machine, epoch, setup, table, done, held }
    }

    /// Whether an earlier run of this plan has done a step: only of disks that are erased each time, as of others the
    /// plan itself knows.
    fn is_noted(&self, index: usize, step: &Step) -> bool {
        let Some(home) = self.goal.home(step) else { return false };
        let always = self.goal.disks.get(home).is_some_and(|of| of.wipe == Wipe::Always);
        let noted = |step: &Step| {
            self.goal.home(step).is_some_and(|home| self.journal.has(home, &step.key()))
        };
        // what was extracted in part is extracted into a new filesystem
        let again = self.plan.steps.iter().skip(index).any(|later| match (step, later) {
            (Step::Format { label, .. }, Step::Extract { label: of, .. }) => {
                label == of && !noted(later)
            }
            _ => false,
        });
        let begun = self.stamps.get(home).is_some_and(Option::is_some);
        always && begun && noted(step) && !again
    }

    /// A step that is done once more is not done until then.
    fn forget(&mut self, step: &Step) -> Result<(), ApplyError> {
        let Some((home, of)) =
            self.goal.home(step).and_then(|home| Some((home, self.goal.disks.get(home)?)))
        else {
            return Ok(());
        };
        let device = self.device(of);
        if let Some(Some(stamp)) = self.stamps.get_mut(home)
            && stamp.done.remove(&step.key()) | stamp.done.remove(COMPLETE)
        {
            disk::stamp(of, &device, stamp)?;
        }
        Ok(())
    }

    fn note(&mut self, step: &Step) -> Result<(), ApplyError> {
        let Some(home) = self.goal.home(step) else { return Ok(()) };
        let Some(of) = self.goal.disks.get(home) else { return Ok(()) };
        match step {
            Step::Wipe { .. } => {
                self.journal.forget(home);
                self.set(home, None);
            }
            Step::Table { .. } => {
                let held = FoundDisk { held: true, ..FoundDisk::default() };
                let stamp = self.new_stamp(of, &held, BTreeSet::new());
                self.set(home, Some(stamp));
            }
            Step::WriteDisk { .. } => {
                let found = disk::look(&self.context.roots, of)?;
                let mut stamp = self.new_stamp(of, &found, BTreeSet::new());
                stamp.begin();
                self.set(home, Some(stamp));
            }
            Step::Start { .. } => {
                if let Some(Some(stamp)) = self.stamps.get_mut(home) {
                    stamp.end();
                }
            }
            _ => {}
        }
        if let Some(Some(stamp)) = self.stamps.get_mut(home) {
            stamp.done.insert(step.key());
            let device = self.device(of);
            if let Some(Some(stamp)) = self.stamps.get(home) {
                disk::stamp(of, &device, stamp)?;
            }
        }
        self.journal.add(home, step.key())?;
        Ok(())
    }

    fn set(&mut self, disk: usize, stamp: Option<Stamp>) {
        if let Some(slot) = self.stamps.get_mut(disk) {
            *slot = stamp;
        }
    }

    fn device(&self, of: &DiskGoal) -> PathBuf {
        self.context.roots.dev.join(&of.identity.name)
    }

    fn disk(&self, index: usize) -> Result<&'a DiskGoal, ApplyError> {
        self.goal.disks.get(index).ok_or(ApplyError::Plan("it has no such disk"))
    }

    fn carry_out(&mut self, step: &Step) -> Result<Option<String>, ApplyError> {
        let (roots, nodes) = (&self.context.roots, self.context.nodes);
        match step {
            Step::Wipe { disk: index, .. } => {
                let of = self.disk(*index)?;
                disk::wipe(roots, of, &self.device(of), nodes)?;
            }
            Step::Table { disk: index } => {
                let of = self.disk(*index)?;
                disk::divide(of, &self.device(of), nodes)?;
            }
            Step::WriteDisk { disk: index, image } => self.write_disk(*index, image)?,
            Step::Grow { disk: index } => {
                let of = self.disk(*index)?;
                self.let_go()?;
                grow::grow(roots, of, &self.device(of), nodes)?;
            }
            Step::Group { name } => {
                self.with_group(name, |devices| lvm::make_group(name, devices))?
            }
            Step::Volume { group, name } => {
                let volume = self
                    .goal
                    .volumes
                    .iter()
                    .find(|v| v.group == *group && v.content.label == *name);
                let size = volume.ok_or(ApplyError::Plan("it has no such volume"))?.size;
                self.with_group(group, |devices| lvm::make_volume(group, name, size, devices))?;
            }
            Step::Format { place, .. } => {
                let (device, content) = self.reach(*place)?;
                format::format(content, &device)?;
            }
            Step::Write { place, image, .. } => {
                let (device, _) = self.reach(*place)?;
                let head = self.write_raw(image, &device)?;
                disk::put(&device, 0, &head)?;
                self.let_go()?;
                grow::filesystem(&device)?;
            }
            Step::Extract { place, image, .. } => self.extract(*place, image)?,
            Step::System { is_new } => {
                match self.mount() {
                    // a disk of data, or of a system that is not known: nothing in it was asked for
                    Err(none @ ApplyError::NoRoot { .. }) if !self.goal.changes_system() => {
                        return Ok(Some(none.to_string()));
                    }
                    mounted => mounted?,
                }
                let root = Root::open(self.target()?)?;
                system::make_own(self.goal, &root, self.context, *is_new)?;
            }
            Step::Start { disk: index } => self.start(*index)?,
            Step::Bootloader => self.install_loader()?,
            Step::BootOrder => return self.set_order(),
        }
        Ok(None)
    }

    fn write_raw(&self, image: &Name, device: &Path) -> Result<Vec<u8>, ApplyError> {
        let failed = |source| ApplyError::Image { image: image.to_string(), source };
        let head = self.context.images.write_raw(image, device).map_err(failed)?;
        disk::sync(device)?;
        Ok(head)
    }

    /// What comes now changes disks otherwise than by images, and brings secrets onto them.
    fn let_go(&self) -> Result<(), ApplyError> {
        self.context.images.let_go().map_err(ApplyError::LetGo)
    }

    /// Writes the image of a whole disk. It is all there then, but nothing starts from it.
    fn write_disk(&mut self, index: usize, image: &Name) -> Result<(), ApplyError> {
        let of = self.disk(index)?;
        let device = self.device(of);
        // also what an interrupted run has left: what was put aside then comes back into its place now
        disk::hide(&device)?;
        let veil = Veil::new(&device, self.write_raw(image, &device)?)?;
        // before anybody can take what is there for data
        let mut stamp = self.new_stamp(of, &FoundDisk::default(), BTreeSet::new());
        veil.id().clone_into(&mut stamp.table);
        stamp.begin();
        disk::stamp(of, &device, &stamp)?;
        veil.lower(&device)?;
        super::node::tell_kernel(&device);
        self.veils.insert(index, veil);
        Ok(())
    }

    /// Lets machines start from a disk.
    fn start(&mut self, index: usize) -> Result<(), ApplyError> {
        // by other ways to partitions than from now on, perhaps
        if let Some(mounts) = self.mounts.take() {
            mounts.unmount()?;
        }
        self.goal.groups.iter().for_each(|group| lvm::deactivate(&group.name));
        self.nodes.clear();
        let of = self.disk(index)?;
        let device = self.device(of);
        match (&of.image, self.veils.remove(&index)) {
            (Some(_), Some(veil)) => veil.lift(&device),
            (Some(_), None) => Err(ApplyError::Plan("it starts an image that it has not written")),
            (None, _) => disk::write_table(&self.context.roots, of, &device),
        }
    }

    fn extract(&mut self, place: Place, image: &Name) -> Result<(), ApplyError> {
        self.mount()?;
        let mount = self.goal.mounts.iter().find(|mount| mount.place == place);
        let path = mount.and_then(|mount| mount.path.as_deref());
        let path = path.ok_or(ApplyError::Plan("an archive has no mount"))?;
        let dir = Root::open(self.target()?)?.make_mountpoint(path)?;
        let failed = |source| ApplyError::Image { image: image.to_string(), source };
        self.context.images.extract_tar(image, &dir).map_err(failed)
    }

    fn install_loader(&mut self) -> Result<(), ApplyError> {
        self.mount()?;
        let index = self.goal.boot_disk.ok_or(ApplyError::Plan("it has no disk to start from"))?;
        let device = self.device(self.disk(index)?);
        let mut mounts = self.mounts.take().ok_or(ApplyError::Plan("nothing is mounted"))?;
        loader::install(self.goal, &mut mounts, &device)?;
        // what it showed the new system goes away with the mounts
        mounts.unmount()
    }

    fn set_order(&self) -> Result<Option<String>, ApplyError> {
        let index = self.goal.boot_disk.ok_or(ApplyError::Plan("it has no disk to start from"))?;
        let of = self.disk(index)?;
        let found = disk::look(&self.context.roots, of)?;
        loader::set_order(self.goal, &self.device(of), &found)
    }

    fn target(&self) -> Result<&Path, ApplyError> {
        self.mounts.as_ref().map(Mounts::target).ok_or(ApplyError::Plan("nothing is mounted"))
    }

    /// The device of a place, kept open until the end of the run.
    fn reach(&mut self, place: Place) -> Result<(PathBuf, &'a Content), ApplyError> {
        let content = self.goal.content(place).ok_or(ApplyError::Plan("it has no such place"))?;
        let path = match place {
            Place::Partition(d, p) => {
                let part = self
                    .goal
                    .partition(d, p)
                    .ok_or(ApplyError::Plan("it has no such partition"))?;
                self.slice(d, Slice { number: part.number, start: part.start, size: part.size })?
            }
            Place::Volume(v) => {
                let volume =
                    self.goal.volumes.get(v).ok_or(ApplyError::Plan("it has no such volume"))?;
                self.with_group(&volume.group, |devices| {
                    lvm::activate(&volume.group, &volume.content.label, devices)
                })?
            }
        };
        Ok((path, content))
    }

    fn slice(&mut self, disk: usize, slice: Slice) -> Result<PathBuf, ApplyError> {
        if let Some(node) = self.nodes.get(&(disk, slice.number)) {
            return Ok(node.path().to_owned());
        }
        let of = self.disk(disk)?;
        let node = node(self.context.nodes, &self.device(of), slice, of.sector)?;
        let path = node.path().to_owned();
        self.nodes.insert((disk, slice.number), node);
        Ok(path)
    }

    fn with_group<T>(
        &mut self,
        name: &Name,
        work: impl FnOnce(&[&Path]) -> Result<T, ApplyError>,
    ) -> Result<T, ApplyError> {
        let group = self.goal.groups.iter().find(|group| group.name == *name);
        let group = group.ok_or(ApplyError::Plan("it has no such group"))?;
        let mut devices = Vec::new();
        for (d, p) in &group.partitions {
            devices.push(self.reach(Place::Partition(*d, *p))?.0);
        }
        let devices: Vec<&Path> = devices.iter().map(PathBuf::as_path).collect();
        work(&devices)
    }

    /// Mounts everything of the new system, from the root downwards.
    fn mount(&mut self) -> Result<(), ApplyError> {
        if self.mounts.is_some() {
            return Ok(());
        }
        self.let_go()?;
        let mut mounts = Mounts::below(&self.context.work.join("root"))?;
        if let Some(RootGoal::Image { disk, partition }) = self.goal.root {
            let (device, filesystem) = self.image_root(disk, partition)?;
            mounts.add(&device, "/", &filesystem)?;
        }
        for mount in &self.goal.mounts {
            let Some(path) = &mount.path else { continue };
            let (device, content) = self.reach(mount.place)?;
            mounts.add(&device, path, content.filesystem.as_str())?;
        }
        self.mounts = Some(mounts);
        Ok(())
    }

    /// The partition of a disk's image that has the root filesystem.
    fn image_root(
        &mut self,
        index: usize,
        wanted: Option<u8>,
    ) -> Result<(PathBuf, String), ApplyError> {
        let of = self.disk(index)?;
        let table = disk::look(&self.context.roots, of)?.table;
        let none = || ApplyError::NoRoot { disk: of.identity.to_string() };
        for part in table.into_iter().flat_map(|table| table.partitions) {
            if wanted.is_some_and(|number| u32::from(number) != part.number) {
                continue;
            }
            let Some(filesystem) = part
                .content
                .filter(|c| ["ext2", "ext3", "ext4", "xfs", "btrfs"].contains(&c.as_str()))
            else {
                continue;
            };
            let device = self
                .slice(index, Slice { number: part.number, start: part.start, size: part.size })?;
            let looks = |dir: &Path| Ok(Root::open(dir)?.has("/etc/os-release"));
            if wanted.is_some() || Mounts::briefly(&device, &filesystem, looks)? {
                return Ok((device, filesystem));
            }
        }
        Err(none())
    }

    /// Unmounts, sees that everything is as planned, and notes that it is complete.
    fn finish(mut self) -> Result<(), ApplyError> {
        if let Some(mounts) = self.mounts.take() {
            mounts.unmount()?;
        }
        let goal = self.goal;
        for of in goal.disks.iter().filter(|of| of.image.is_none()) {
            disk::verify_table(of, &disk::look(&self.context.roots, of)?)?;
        }
        for (place, content) in goal.places().filter(|(_, content)| content.is_made()) {
            let (device, _) = self.reach(place)?;
            format::verify(content, &device)?;
        }
        clear(self.context.work)?;
        self.nodes.clear();
        for (index, of) in goal.disks.iter().enumerate() {
            let Some(Some(stamp)) = self.stamps.get_mut(index) else { continue };
            stamp.done.insert(COMPLETE.to_owned());
            let was = self.found.get(index).and_then(|found| found.stamp.as_ref());
            if was != Some(&*stamp) {
                let device = self.context.roots.dev.join(&of.identity.name);
                disk::stamp(of, &device, stamp)?;
            }
        }
        Ok(self.journal.finish()?)
    }
}

/// Whether the plan's disks are the machine's still: the same device has the same serial number, world-wide name and size.
fn check_identities(goal: &Goal, context: &Context<'_>) -> Result<(), ApplyError> {
    let disks = inventory::disks(&context.roots);
    for of in &goal.disks {
        let planned = &of.identity;
        let now = disks.iter().find(|disk| disk.name == planned.name).map(Identity::of);
        if now.as_ref() != Some(planned) {
            let now = now.map_or_else(|| "no such device".to_owned(), |now| now.to_string());
            return Err(ApplyError::Identity { planned: planned.to_string(), now });
        }
    }
    Ok(())
}
