//! Host setups before they are ordered: the images that they name, and what they would do to machines whose disks are known. Pure.
//!
//! What is known of a disk is its inventory: that it has a partition table, not which partitions. The machine's scout plans
//! again, with what it finds; it goes on only when it comes to the same plan.

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_api::boot::{ImageView, MachineView};
use p2pinst_boot::setup::found::{FoundDisk, FoundTable};
use p2pinst_boot::setup::{
    Epoch, Found, ImageFacts, ImageKind as Facts, Plan, Refusals, Request, Setup, Subject, plan,
};
use p2pinst_types::record::{ImageKind, Inventory};
use p2pinst_types::{Hlc, ImageId, Name};

/// A setup with the images that it names.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// The document.
    pub(crate) setup: Setup,
    /// As it was written.
    pub(crate) text: String,
    /// The images by the names that it has for them.
    pub(crate) images: BTreeMap<Name, ImageId>,
    facts: BTreeMap<Name, ImageFacts>,
    templates: BTreeSet<Name>,
    installers: BTreeSet<Name>,
    archs: BTreeMap<Name, String>,
}

/// The names of the templates of a setup.
pub(crate) fn templates(setup: &Setup) -> BTreeSet<&Name> {
    setup.file.iter().filter_map(|f| f.template.as_ref()).collect()
}

/// The names of the images and templates of a setup.
pub(crate) fn named(setup: &Setup) -> BTreeSet<&Name> {
    let disks = setup.disk.iter();
    let parts = disks.clone().flat_map(|d| &d.partition).filter_map(|p| p.image.as_ref());
    let volumes = setup.volume.iter().filter_map(|v| v.image.as_ref());
    let whole = disks.filter_map(|d| d.image.as_ref());
    let installer = setup.installer.iter().map(|i| &i.image);
    whole.chain(parts).chain(volumes).chain(installer).chain(templates(setup)).collect()
}

impl Planned {
    /// With the newest images of the names. Names of which there is no image are left to the plan, which refuses them.
    pub(crate) fn new(setup: Setup, text: String, published: &[ImageView]) -> Self {
        let newest = |name: &Name| published.iter().find(|i| i.image.name == *name && !i.replaced);
        let found: Vec<&ImageView> = named(&setup).into_iter().filter_map(newest).collect();
        Self::of(setup, text, &found)
    }

    /// With certain versions of the images.
    pub(crate) fn with(
        setup: Setup,
        text: String,
        published: &[ImageView],
        ids: &BTreeMap<Name, ImageId>,
    ) -> Self {
        let found: Vec<&ImageView> =
            published.iter().filter(|i| ids.get(&i.image.name) == Some(&i.id)).collect();
        Self::of(setup, text, &found)
    }

    fn of(setup: Setup, text: String, found: &[&ImageView]) -> Self {
        let facts = found.iter().filter_map(|view| {
            let kind = match view.image.kind {
                ImageKind::Disk => Facts::Disk,
                ImageKind::Partition => Facts::Partition,
                ImageKind::Rootfs => Facts::Tar,
                ImageKind::Scout
                | ImageKind::Templates
                | ImageKind::Repository
                | ImageKind::Installer => return None,
            };
            Some((view.image.name.clone(), ImageFacts { kind, size: view.size }))
        });
        let are = |kind| {
            let such = found.iter().filter(move |i| i.image.kind == kind);
            such.map(|i| i.image.name.clone()).collect()
        };
        Self {
            facts: facts.collect(),
            templates: are(ImageKind::Templates),
            installers: are(ImageKind::Installer),
            images: found.iter().map(|i| (i.image.name.clone(), i.id)).collect(),
            archs: found.iter().map(|i| (i.image.name.clone(), i.image.arch.clone())).collect(),
            setup,
            text,
        }
    }

    /// Names in the setup of which there is no image.
    pub(crate) fn missing(&self) -> Vec<&Name> {
        named(&self.setup).into_iter().filter(|name| !self.images.contains_key(*name)).collect()
    }

    /// The installer that does everything on the machine itself, if one does.
    ///
    /// # Errors
    /// What the setup names is something else.
    pub(crate) fn installer(&self) -> Result<Option<&Name>, String> {
        let Some(installer) = &self.setup.installer else { return Ok(None) };
        let name = &installer.image;
        match self.installers.contains(name) {
            true => Ok(Some(name)),
            false => Err(format!(
                "{name} is no installer (p2pinst image publish KERNEL --initrd INITRD --name {name})"
            )),
        }
    }

    /// What it names as templates and is something else.
    pub(crate) fn no_templates(&self) -> Vec<String> {
        let others =
            templates(&self.setup).into_iter().filter(|name| !self.templates.contains(*name));
        others
            .map(|name| format!("{name} is no graph of templates (p2pinst template ls)"))
            .collect()
    }

    /// What would be done to a machine by an order of that time; nothing that is known here, where an installer does it.
    ///
    /// # Errors
    /// Everything that speaks against it.
    pub(crate) fn plan(
        &self,
        machine: &MachineView,
        inventory: &Inventory,
        at: Hlc,
    ) -> Result<Plan, Refusals> {
        let subject =
            Subject { machine: machine.id, name: machine.known.name.clone(), epoch: Epoch(at.0) };
        let found = found(inventory);
        plan(&Request {
            setup: &self.setup,
            subject: &subject,
            inventory,
            found: &found,
            images: &self.facts,
            templates: &self.templates,
        })
    }

    /// An image that is for another architecture.
    pub(crate) fn foreign(&self, inventory: &Inventory) -> Option<String> {
        let other = |(_, arch): &(&Name, &String)| !arch.is_empty() && **arch != inventory.arch;
        let (name, arch) = self.archs.iter().find(other)?;
        Some(format!("the image {name} is for {arch}, the machine is {}", inventory.arch))
    }

    /// Whether it says of any disk that what is on it may be lost.
    pub(crate) fn may_wipe(&self) -> bool {
        use p2pinst_boot::setup::document::Wipe;
        self.setup.installer.is_some() || self.setup.disk.iter().any(|d| d.wipe != Wipe::Never)
    }
}

/// What is known of the disks from the inventory.
fn found(inventory: &Inventory) -> Found {
    let disk = |content: Option<&str>, sector: u32| {
        let is_table = |c: &&str| matches!(*c, "gpt" | "dos" | "PMBR");
        let table = content.filter(is_table).map(|kind| FoundTable {
            kind: kind.to_owned(),
            id: String::new(),
            partitions: Vec::new(),
        });
        let content = content.filter(|c| !is_table(c)).map(str::to_owned);
        FoundDisk { sector, table, content, ..FoundDisk::default() }
    };
    let disks = inventory.disks.iter();
    Found {
        disks: disks.map(|d| (d.name.clone(), disk(d.content.as_deref(), d.sector))).collect(),
        groups: BTreeMap::new(),
    }
}

/// What is on the disks of a machine, for people.
pub(crate) fn disks(inventory: &Inventory) -> String {
    let disks = inventory.disks.iter().map(|disk| {
        let size = crate::format::size(disk.size);
        let content = disk.content.as_deref().unwrap_or("empty");
        format!("{} ({size}, {content})", disk.name)
    });
    disks.collect::<Vec<_>>().join(", ")
}

/// The setup that puts one image on one disk: the only one, or the smallest. What is on the disk is kept unless `wipe`; a disk that can
/// be pulled out by hand is never taken (the plan sees to that).
pub(crate) fn one_disk(image: &ImageView, wipe: bool) -> Option<String> {
    let name = &image.image.name;
    let wipe = if wipe { "once" } else { "never" };
    let mut text = format!(
        "name = \"{name}\"\nhostname = \"{{{{name}}}}\"\nagent = true\n\n[[disk]]\nmatch = {{}}\npick = \"smallest\"\nwipe = \"{wipe}\"\n"
    );
    match image.image.kind {
        ImageKind::Disk => text.push_str(&format!("image = \"{name}\"\ngrow = true\n")),
        ImageKind::Rootfs => {
            text.push_str(
                "\n[[disk.partition]]\nlabel = \"bios\"\ntype = \"bios-boot\"\nsize = \"1MiB\"\n",
            );
            text.push_str("\n[[disk.partition]]\nlabel = \"esp\"\ntype = \"esp\"\nsize = \"512MiB\"\nmount = \"/boot/efi\"\n");
            text.push_str(&format!(
                "\n[[disk.partition]]\nlabel = \"root\"\nsize = \"rest\"\nfilesystem = \"ext4\"\nmount = \"/\"\nimage = \"{name}\"\n"
            ));
        }
        ImageKind::Partition
        | ImageKind::Scout
        | ImageKind::Templates
        | ImageKind::Repository
        | ImageKind::Installer => return None,
    }
    Some(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use p2pinst_types::record::{Adoption, Disk, Firmware, Image};
    use p2pinst_types::{BlobRef, Hash, MachineId, Millis};

    use super::*;

    pub(crate) fn image(name: &str, kind: ImageKind, size: u64) -> ImageView {
        let blob = BlobRef::new(Hash([3; 32]), size).unwrap();
        let image = Image {
            name: name.parse().unwrap(),
            kind,
            arch: "x86_64".to_owned(),
            files: [("disk.raw".to_owned(), blob)].into(),
            about: String::new(),
            at: Millis(0),
        };
        ImageView {
            id: ImageId(Hash([4; 32])),
            image,
            author: None,
            replaced: false,
            size,
            here: true,
        }
    }

    pub(crate) fn inventory(content: Option<&str>) -> Inventory {
        let disk = Disk {
            name: "vda".to_owned(),
            path: None,
            size: 8 << 30,
            sector: 512,
            wwn: None,
            serial: Some("S1".to_owned()),
            model: None,
            rotational: false,
            removable: false,
            content: content.map(str::to_owned),
        };
        Inventory {
            uuid: None,
            vendor: None,
            product: None,
            serial: None,
            firmware: Firmware::Uefi,
            arch: "x86_64".to_owned(),
            cpu: None,
            cpus: 1,
            memory: 1 << 30,
            disks: vec![disk],
            nics: vec![],
            controller: None,
        }
    }

    pub(crate) fn machine() -> MachineView {
        MachineView {
            id: MachineId([1; 16]),
            known: Adoption {
                name: "n1".parse().unwrap(),
                macs: vec![],
                site: "pisa".parse().unwrap(),
                labels: BTreeMap::new(),
                removed: false,
            },
            adopted: true,
            groups: BTreeSet::new(),
            asks_for_code: None,
            member: None,
            up: false,
            order: None,
            inventory: None,
            power: None,
        }
    }

    fn planned(kind: ImageKind, wipe: bool) -> Planned {
        let image = image("debian", kind, 1 << 30);
        let text = one_disk(&image, wipe).unwrap();
        Planned::new(Setup::parse(&text).unwrap(), text, &[image])
    }

    #[test]
    fn an_image_alone_goes_to_an_empty_disk_and_to_no_other() {
        for kind in [ImageKind::Disk, ImageKind::Rootfs] {
            let keeps = planned(kind, false);
            assert!(!keeps.may_wipe() && keeps.missing().is_empty());
            let plan = keeps.plan(&machine(), &inventory(None), Hlc(7)).unwrap();
            assert!(plan.is_destructive() && !plan.describe().contains("ERASE"));
            for content in ["gpt", "dos", "ext4", "LVM2_member"] {
                let refused = keeps.plan(&machine(), &inventory(Some(content)), Hlc(7));
                assert!(refused.unwrap_err().to_string().contains("has data"), "{content}");
                let wipes = planned(kind, true);
                let plan = wipes.plan(&machine(), &inventory(Some(content)), Hlc(7)).unwrap();
                assert!(plan.describe().contains("ERASE"), "{content}");
            }
        }
        assert_eq!(one_disk(&image("x", ImageKind::Scout, 1), false), None);
    }

    #[test]
    fn a_plan_is_of_one_order() {
        let setup = planned(ImageKind::Disk, true);
        let hash = |at| setup.plan(&machine(), &inventory(None), Hlc(at)).unwrap().hash();
        assert_eq!(hash(7), hash(7));
        assert_ne!(hash(7), hash(8));
        let gpt = setup.plan(&machine(), &inventory(Some("gpt")), Hlc(7)).unwrap().hash();
        assert_eq!(hash(7), gpt, "what is erased is no part of what shall be");
    }

    #[test]
    fn a_plan_is_made_for_the_sectors_that_the_disk_has() {
        let setup = planned(ImageKind::Rootfs, false);
        let mut large = inventory(None);
        large.disks[0].sector = 4096;
        let plan = |inventory| setup.plan(&machine(), inventory, Hlc(7)).unwrap();
        let (usual, large) = (plan(&inventory(None)), plan(&large));
        assert_ne!(usual.hash(), large.hash());
        // the first partition begins at 1 MiB
        assert!(usual.describe().contains("sectors 2048-"), "{}", usual.describe());
        assert!(large.describe().contains("sectors 256-"), "{}", large.describe());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut other = inventory(None);
        other.arch = "aarch64".to_owned();
        let setup = planned(ImageKind::Disk, false);
        assert!(setup.foreign(&other).unwrap().contains("is for x86_64"));
        assert_eq!(setup.foreign(&inventory(None)), None);
        other.disks[0].size = 1 << 20;
        let refused = setup.plan(&machine(), &other, Hlc(1)).unwrap_err();
        assert!(refused.to_string().contains("too small"), "{refused}");
        let bare = Planned::new(setup.setup.clone(), String::new(), &[]);
        assert_eq!(bare.missing().len(), 1);
        assert!(bare.plan(&machine(), &inventory(None), Hlc(1)).is_err());
    }
}
