//! Plans against disks in memory: whatever is planned and done in part, planned again it comes to the same end.

use proptest::prelude::*;

use super::*;
use crate::setup::document::{FileSystem, TableKind, Wipe};
use crate::setup::found::{FoundDisk, FoundPartition, FoundTable, MIB, Stamp};
use p2pinst_types::record::{Disk, Firmware};

fn subject(epoch: u64) -> Subject {
    Subject { machine: MachineId([3; 16]), name: "n1".parse().unwrap(), epoch: Epoch(epoch) }
}

fn inventory(disks: usize) -> Inventory {
    let disk = |i: usize| Disk {
        name: format!("sd{}", ['a', 'b', 'c'][i]),
        path: None,
        size: 1000 * MIB,
        sector: 512,
        wwn: None,
        serial: Some(format!("S{i}")),
        model: None,
        rotational: false,
        removable: false,
        content: None,
    };
    Inventory {
        uuid: None,
        vendor: None,
        product: None,
        serial: None,
        firmware: Firmware::Uefi,
        arch: "x86_64".into(),
        cpu: None,
        cpus: 1,
        memory: 1 << 30,
        disks: (0..disks).map(disk).collect(),
        nics: vec![],
        controller: None,
    }
}

fn images() -> BTreeMap<Name, ImageFacts> {
    let image = |name: &str, kind| (name.parse().unwrap(), ImageFacts { kind, size: 20 * MIB });
    [
        image("tree", ImageKind::Tar),
        image("part", ImageKind::Partition),
        image("disk", ImageKind::Disk),
    ]
    .into()
}

pub(in crate::setup) fn blank(disks: usize) -> Found {
    let disks = inventory(disks).disks;
    Found {
        disks: disks
            .into_iter()
            .map(|d| (d.name, FoundDisk { sector: 512, ..FoundDisk::default() }))
            .collect(),
        ..Found::default()
    }
}

pub(in crate::setup) fn planned(
    document: &Setup,
    found: &Found,
    epoch: u64,
) -> Result<Plan, Refusals> {
    let inventory = inventory(found.disks.len());
    let (images, templates) = (images(), BTreeSet::new());
    plan(&Request {
        setup: document,
        subject: &subject(epoch),
        inventory: &inventory,
        found,
        images: &images,
        templates: &templates,
    })
}

/// Does the first steps of a plan as `apply` does them, to disks in memory.
fn carry_out(plan: &Plan, found: &mut Found, count: usize) {
    let goal = &plan.goal;
    let is_begin = |step: &Step| {
        matches!(step, Step::Wipe { .. } | Step::Table { .. } | Step::WriteDisk { .. })
    };
    let stamp = |id: &str, done: BTreeSet<String>| Stamp {
        machine: goal.subject.machine,
        epoch: goal.subject.epoch,
        setup: goal.setup,
        table: id.to_owned(),
        done,
        held: None,
    };
    for (index, disk) in goal.disks.iter().enumerate() {
        if !plan.steps.iter().any(|step| is_begin(step) && goal.home(step) == Some(index))
            && count > 0
        {
            let found = found.disks.get_mut(&disk.identity.name).unwrap();
            let id = found.table.as_ref().map_or(String::new(), |table| table.id.clone());
            found.stamp = Some(stamp(&id, plan.done[index].clone()));
        }
    }
    for step in plan.steps.iter().take(count) {
        let home = goal.home(step).unwrap();
        let disk = &goal.disks[home];
        let found = found.disks.get_mut(&disk.identity.name).unwrap();
        match step {
            Step::Wipe { .. } => *found = FoundDisk { sector: 512, ..FoundDisk::default() },
            Step::Table { .. } => {
                assert!(
                    found.is_blank(),
                    "a table is written to a disk with data that nobody erased"
                );
                let partitions = disk.partitions.iter().map(|part| FoundPartition {
                    number: part.number,
                    start: part.start,
                    size: part.size,
                    kind: part.kind.guid().to_string(),
                    name: part.content.label.to_string(),
                    uuid: part.uuid.clone(),
                    ..FoundPartition::default()
                });
                let partitions = partitions.collect();
                found.table =
                    Some(FoundTable { kind: "gpt".into(), id: disk.id.clone(), partitions });
                found.held = true;
                let held = found.table.clone();
                found.stamp = Some(Stamp { held, ..stamp(&disk.id, BTreeSet::new()) });
            }
            Step::WriteDisk { .. } => {
                assert!(found.is_blank() || found.is_begun());
                found.table =
                    Some(FoundTable { kind: "gpt".into(), id: "image".into(), partitions: vec![] });
                let mut begun = stamp("image", BTreeSet::new());
                begun.begin();
                found.stamp = Some(begun);
                found.veiled = true;
            }
            Step::Start { .. } => {
                (found.held, found.veiled) = (false, false);
                found.stamp.as_mut().unwrap().end();
            }
            Step::Format { place: Place::Partition(_, p), .. } => {
                let content = &disk.partitions[*p].content;
                let part = &mut found.table.as_mut().unwrap().partitions[*p];
                part.content = Some(content.filesystem.to_string());
                part.content_uuid = Some(content.uuid.clone());
            }
            Step::Write { place: Place::Partition(_, p), .. } => {
                let brought = match disk.partitions[*p].content.filesystem {
                    FileSystem::None => "ext4",
                    filesystem => filesystem.as_str(),
                };
                found.table.as_mut().unwrap().partitions[*p].content = Some(brought.into());
            }
            _ => {}
        }
        if let Some(stamp) = &mut found.stamp {
            stamp.done.insert(step.key());
        }
    }
    if count >= plan.steps.len() {
        for disk in found.disks.values_mut() {
            disk.stamp.iter_mut().for_each(|stamp| stamp.done.extend([COMPLETE.to_owned()]));
        }
    }
}

fn somebody_elses() -> FoundDisk {
    let part = FoundPartition {
        number: 1,
        start: MIB,
        size: MIB,
        content: Some("ntfs".into()),
        ..FoundPartition::default()
    };
    let table = FoundTable { kind: "dos".into(), id: "0x1".into(), partitions: vec![part] };
    FoundDisk { sector: 512, table: Some(table), ..FoundDisk::default() }
}

fn partition() -> impl Strategy<Value = String> {
    let filesystem =
        prop_oneof![Just("ext4"), Just("swap"), Just("none"), Just("btrfs"), Just("vfat")];
    let image = prop_oneof![2 => Just(""), 1 => Just("tree"), 1 => Just("part")];
    (filesystem, image, 120..200u64).prop_map(|(filesystem, image, size)| {
        let mut text = format!("size = \"{size}MiB\"\nfilesystem = \"{filesystem}\"\n");
        let mountable = !matches!(filesystem, "swap" | "none");
        if mountable {
            text.push_str("mount = \"/MOUNT\"\n");
        }
        if image == "part" && filesystem != "swap" || image == "tree" && mountable {
            text.push_str(&format!("image = \"{image}\"\n"));
        }
        text
    })
}

fn document() -> impl Strategy<Value = Setup> {
    let wipe = || prop_oneof![Just("never"), Just("once")];
    let disks =
        proptest::collection::vec((wipe(), proptest::collection::vec(partition(), 1..5)), 1..3);
    (disks, any::<bool>(), wipe()).prop_map(|(disks, whole, first)| {
        let mut text = "name = \"t\"\n[boot]\nbootloader = \"none\"\n".to_owned();
        // the root of everything: an image of a disk, or a partition of its own
        text.push_str(&format!("[[disk]]\nmatch = {{ serial = \"S0\" }}\nwipe = \"{first}\"\n"));
        if whole {
            text.push_str("image = \"disk\"\ngrow = true\n");
        } else {
            text.push_str("[[disk.partition]]\nlabel = \"root\"\nfilesystem = \"ext4\"\nsize = \"rest\"\nmount = \"/\"\nimage = \"tree\"\n");
        }
        for (d, (wipe, partitions)) in (1..).zip(&disks) {
            text.push_str(&format!("[[disk]]\nmatch = {{ serial = \"S{d}\" }}\nwipe = \"{wipe}\"\n"));
            for (p, partition) in partitions.iter().enumerate() {
                let partition = partition.replace("MOUNT", &format!("m{d}{p}"));
                text.push_str(&format!("[[disk.partition]]\nlabel = \"p{d}{p}\"\n{partition}"));
            }
        }
        Setup::parse(&text).unwrap()
    })
}

proptest! {
    /// However often the work stops, and wherever, it comes to its end, which is the goal that was planned first; then
    /// nothing is left to be done.
    #[test]
    fn plans_are_idempotent(document in document(), stops in proptest::collection::vec(0..12usize, 0..6), foreign in 0..8u8) {
        let mut found = blank(3);
        for (bit, disk) in found.disks.values_mut().enumerate() {
            if foreign & (1 << bit) != 0 {
                *disk = somebody_elses();
            }
        }
        let before = found.clone();
        let first = match planned(&document, &found, 1) {
            Ok(plan) => plan,
            Err(refusals) => {
                prop_assert!(refusals.0.iter().all(|r| matches!(r, Refusal::HasData { .. })), "{refusals}");
                return Ok(());
            }
        };
        prop_assert!(first.is_destructive());
        for (setup, disk) in document.disk.iter().zip(before.disks.values()) {
            prop_assert!(setup.wipe == Wipe::Once || disk.is_blank(), "data is lost that nobody wanted to lose");
        }
        for stop in stops {
            let plan = planned(&document, &found, 1).unwrap();
            prop_assert_eq!(plan.hash(), first.hash());
            carry_out(&plan, &mut found, stop);
        }
        let last = planned(&document, &found, 1).unwrap();
        carry_out(&last, &mut found, usize::MAX);
        let settled = planned(&document, &found, 1).unwrap();
        prop_assert_eq!(&settled.steps, &[][..], "{}", settled.describe());
        prop_assert_eq!(settled.hash(), first.hash());
        // the next assignment erases what may be erased, and only that
        let next = planned(&document, &found, 2).unwrap();
        for step in next.steps.iter().filter(|step| step.is_destructive()) {
            let disk = next.goal.home(step).unwrap();
            prop_assert_eq!(next.goal.disks[disk].wipe, Wipe::Once, "{}", next.describe());
        }
        prop_assert!(document.disk.iter().all(|d| d.wipe == Wipe::Never) || next.is_destructive());
    }

    /// What is on a disk cannot make planning panic, and never loses data that shall stay.
    #[test]
    fn any_disk_is_planned_for(
        document in document(),
        parts in proptest::collection::vec((any::<u32>(), any::<u64>(), any::<u64>(), "[a-z0-9 ]{0,8}"), 0..4),
        sector: u32,
        stamped: bool,
    ) {
        let mut found = blank(3);
        let partitions = parts.into_iter().map(|(number, start, size, text)| FoundPartition {
            number, start, size, name: text.clone(), content: Some(text), ..FoundPartition::default()
        }).collect();
        let disk = found.disks.get_mut("sda").unwrap();
        disk.sector = sector;
        disk.table = Some(FoundTable { kind: "gpt".into(), id: "x".into(), partitions });
        disk.stamp = stamped.then(|| Stamp {
            machine: MachineId([3; 16]), epoch: Epoch(1), setup: document.hash(), table: "x".into(), done: BTreeSet::new(), held: None,
        });
        if let Ok(plan) = planned(&document, &found, 1) {
            prop_assert!(document.disk[0].wipe == Wipe::Once);
            prop_assert!(!plan.describe().is_empty());
        }
    }
}

#[test]
fn a_plan_is_told_and_hashed() {
    let document = Setup::parse(
        "name = \"t\"\n[[disk]]\nmatch = { serial = \"S0\" }\n[[disk.partition]]\nlabel = \"a\"\nfilesystem = \"ext4\"\nsize = \"rest\"\n",
    )
    .unwrap();
    let plan = planned(&document, &blank(1), 1).unwrap();
    let text = plan.describe();
    for words in ["serial S0", "1000 MiB", "sectors 2048-2045951", "make ext4 on a"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    let cbor = p2pinst_types::codec::encode(&plan).unwrap();
    assert_eq!(p2pinst_types::codec::decode::<Plan>(&cbor).unwrap().hash(), plan.hash());
    let mut renamed = plan.clone();
    renamed.goal.disks[0].identity.name = "sdz".into();
    assert_eq!(renamed.hash(), plan.hash(), "names of devices change");
    renamed.goal.disks[0].identity.serial = Some("S1".into());
    assert_ne!(renamed.hash(), plan.hash());
    assert_ne!(planned(&document, &blank(1), 2).unwrap().hash(), plan.hash());
    let content = &plan.goal.disks[0].partitions[0].content;
    assert_eq!((content.filesystem, plan.goal.disks[0].table), (FileSystem::Ext4, TableKind::Gpt));
}

/// The archive lies in the filesystem that it is unpacked into.
#[test]
fn an_archive_and_what_is_in_it_have_room() {
    let document = |size: u64, more: &str| {
        let text = format!(
            "name = \"t\"\n[boot]\nbootloader = \"none\"\n[[disk]]\nmatch = {{ serial = \"S0\" }}\n[[disk.partition]]\nlabel = \"root\"\n\
             filesystem = \"ext4\"\nmount = \"/\"\nimage = \"tree\"\nsize = \"{size}MiB\"\n{more}"
        );
        Setup::parse(&text).unwrap()
    };
    let var = "[[disk.partition]]\nlabel = \"var\"\nfilesystem = \"ext4\"\nmount = \"/var\"\nsize = \"50MiB\"\n";
    for (size, more, fits) in [(41, "", false), (42, "", true), (20, var, false), (22, var, true)] {
        let planned = planned(&document(size, more), &blank(1), 1);
        assert_eq!(planned.is_ok(), fits, "{size} {more}: {planned:?}");
    }
    let volume = |size: &str| {
        let text = format!(
            "name = \"t\"\n[boot]\nbootloader = \"none\"\n[[disk]]\nmatch = {{ serial = \"S0\" }}\n[[disk.partition]]\nlabel = \"pv\"\ntype = \"lvm\"\n\
             size = \"rest\"\n[[group]]\nname = \"vg\"\npartitions = [\"pv\"]\n[[volume]]\ngroup = \"vg\"\nname = \"root\"\nsize = \"{size}\"\n\
             filesystem = \"ext4\"\nmount = \"/\"\nimage = \"tree\"\n"
        );
        planned(&Setup::parse(&text).unwrap(), &blank(1), 1)
    };
    let refused = volume("30MiB").unwrap_err().to_string();
    assert!(refused.contains("the volume root is too small"), "{refused}");
    assert!(volume("42MiB").is_ok() && volume("rest").is_ok());
}

/// The image of a whole disk that may lose nothing: what its own interrupted writing has left is no data of anybody.
#[test]
fn an_image_that_was_interrupted_is_written_again() {
    let whole = |wipe: &str| {
        let text = format!(
            "name = \"t\"\n[[disk]]\nmatch = {{ serial = \"S0\" }}\nwipe = \"{wipe}\"\nimage = \"disk\"\n"
        );
        Setup::parse(&text).unwrap()
    };
    let begun = |id: &str| {
        let mut found = blank(1);
        let disk = found.disks.get_mut("sda").unwrap();
        disk.table =
            Some(FoundTable { kind: "gpt".into(), id: "image".into(), partitions: vec![] });
        let (machine, epoch) = (MachineId([3; 16]), Epoch(1));
        let (setup, table) = (whole("never").hash(), id.to_owned());
        let mut stamp = Stamp { machine, epoch, setup, table, done: BTreeSet::new(), held: None };
        stamp.begin();
        disk.stamp = Some(stamp);
        disk.veiled = true;
        found
    };
    for wipe in ["never", "once"] {
        let plan = planned(&whole(wipe), &begun("image"), 1).unwrap();
        assert!(matches!(plan.steps[0], Step::WriteDisk { .. }), "{wipe}: {}", plan.describe());
    }
    // another assignment goes on as well, but for one that may erase: that does so
    assert!(planned(&whole("never"), &begun("image"), 2).is_ok());
    let next = planned(&whole("once"), &begun("image"), 2).unwrap();
    assert!(matches!(next.steps[0], Step::Wipe { .. }), "{}", next.describe());
    // a table that somebody has made since is data
    let refused = planned(&whole("never"), &begun("other"), 1).unwrap_err();
    assert!(matches!(refused.0[..], [Refusal::HasData { .. }]), "{refused}");
    // the power failed when everything was in its place, and its stamp did not say so yet: it may have been in use since
    let mut ready = begun("image");
    let disk = ready.disks.get_mut("sda").unwrap();
    disk.veiled = false;
    disk.stamp.as_mut().unwrap().done.extend(["image disk".to_owned(), "system".to_owned()]);
    for epoch in [1, 2] {
        let plan = planned(&whole("never"), &ready, epoch).unwrap();
        let kept = |step: &Step| !matches!(step, Step::WriteDisk { .. } | Step::Start { .. });
        assert!(plan.steps.iter().all(kept), "{}", plan.describe());
    }
    // where nothing can be noted, nothing is begun that could not be gone on with
    let mut inventory = inventory(1);
    inventory.disks[0].size = 20 * MIB;
    let plan_on = |setup: &Setup| {
        let (images, templates) = (images(), BTreeSet::new());
        let (subject, found) = (subject(1), blank(1));
        let (inventory, images, templates) = (&inventory, &images, &templates);
        plan(&Request { setup, subject: &subject, inventory, found: &found, images, templates })
    };
    let refused = plan_on(&whole("never")).unwrap_err().to_string();
    assert!(refused.contains("fills") && refused.contains("wipe = \"once\""), "{refused}");
    assert!(plan_on(&whole("once")).is_ok());
}

/// A disk whose table is still in its stamp belongs to the machine that has begun with it.
#[test]
fn a_table_that_is_held_is_nobody_elses() {
    let text = "name = \"t\"\n[[disk]]\nmatch = { serial = \"S0\" }\n[[disk.partition]]\nlabel = \"a\"\nfilesystem = \"ext4\"\nsize = \"rest\"\n";
    let document = Setup::parse(text).unwrap();
    let mut found = blank(1);
    let first = planned(&document, &found, 1).unwrap();
    assert!(matches!(first.steps.last(), Some(Step::Start { .. })), "{}", first.describe());
    carry_out(&first, &mut found, 1);
    let second = planned(&document, &found, 1).unwrap();
    assert!(!second.steps.contains(&Step::Table { disk: 0 }), "{}", second.describe());
    found.disks.get_mut("sda").unwrap().stamp.as_mut().unwrap().machine = MachineId([4; 16]);
    let refused = planned(&document, &found, 1).unwrap_err();
    assert!(matches!(refused.0[..], [Refusal::HasData { .. }]), "{refused}");
}
