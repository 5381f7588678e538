//! Disks that are set up: every filesystem, both kinds of tables, both ways to partitions, both lengths of sectors.

use p2pinst_boot::setup::apply::Nodes;
use p2pinst_types::record::Firmware;

use super::lab::{Lab, LabDisk, MIB, has_filesystem, has_volumes, root, said, unmount};

const ALL: &str = r#"
[[disk]]
match = { serial = "A1" }
wipe = "once"
[[disk.partition]]
label = "esp"
type = "esp"
size = "100MiB"
[[disk.partition]]
label = "swap"
filesystem = "swap"
size = "16MiB"
[[disk.partition]]
label = "e4"
filesystem = "ext4"
size = "5%"
[[disk.partition]]
label = "x"
filesystem = "xfs"
size = "320MB"
[[disk.partition]]
label = "b"
filesystem = "btrfs"
size = "rest"
[[disk.partition]]
label = "raw"
type = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
size = "1"
"#;

fn every_filesystem(nodes: Nodes, sector: u32) {
    if !root() {
        return;
    }
    let disk = LabDisk { sector, ..LabDisk::new("sda", "A1", 1000) };
    let lab = Lab { nodes, ..Lab::new(&[disk]) };
    let plan = lab.set_up(ALL);
    // judged by the tools themselves, not by what was made of their words
    let dump: serde_json::Value =
        serde_json::from_str(&said("sfdisk", &["-J", lab.dev("sda").to_str().unwrap()])).unwrap();
    let table = &dump["partitiontable"];
    let sector = u64::from(sector);
    assert_eq!(table["id"].as_str().unwrap().to_lowercase(), plan.goal.disks[0].id);
    let parts = table["partitions"].as_array().unwrap();
    assert_eq!(parts.len(), 6);
    for (part, goal) in parts.iter().zip(&plan.goal.disks[0].partitions) {
        assert_eq!(part["start"].as_u64().unwrap() * sector, goal.start);
        assert_eq!(part["size"].as_u64().unwrap() * sector, goal.size);
        assert_eq!(part["uuid"].as_str().unwrap().to_lowercase(), goal.uuid);
        assert_eq!(part["name"].as_str().unwrap(), goal.content.label.as_str());
        assert_eq!(goal.start % MIB, 0);
    }
    let kinds = ["vfat", "swap", "ext4", "xfs", "btrfs"];
    for (goal, kind) in plan.goal.disks[0].partitions.iter().zip(kinds) {
        let (start, size) = (goal.start.to_string(), goal.size.to_string());
        let blkid = said(
            "blkid",
            &["-p", "-o", "export", "-O", &start, "-S", &size, lab.dev("sda").to_str().unwrap()],
        );
        assert!(blkid.contains(&format!("\nTYPE={kind}\n")), "{blkid}");
        assert!(
            blkid.contains(&format!("\nUUID={}\n", goal.content.uuid)),
            "{blkid} {}",
            goal.content.uuid
        );
        if kind != "swap" && has_filesystem(kind) {
            lab.inside("sda", goal.number, |dir| {
                std::fs::write(dir.join("file"), b"kept").unwrap()
            });
        }
    }
    // what the machine has written stays with this assignment, and goes with the next
    lab.settled(ALL, &plan);
    lab.inside("sda", 3, |dir| assert_eq!(std::fs::read(dir.join("file")).unwrap(), b"kept"));
    let next = Lab { epoch: 2, ..lab };
    let plan = next.plan(ALL).unwrap();
    assert!(plan.is_destructive() && plan.describe().contains("ERASE"), "{}", plan.describe());
    next.apply(&plan).unwrap();
    next.inside("sda", 3, |dir| assert!(!dir.join("file").exists()));
    next.settled(ALL, &plan);
}

#[test]
fn every_filesystem_by_the_kernels_partitions() {
    every_filesystem(Nodes::Kernel, 512);
}

#[test]
fn every_filesystem_by_loop_devices() {
    every_filesystem(Nodes::Loop, 512);
}

#[test]
fn every_filesystem_on_long_sectors() {
    every_filesystem(Nodes::Auto, 4096);
}

#[test]
fn a_dos_table() {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 200)]) };
    let document = "[[disk]]\nmatch = {}\ntable = \"dos\"\n[[disk.partition]]\nlabel = \"data\"\nfilesystem = \"ext4\"\nsize = \"25%\"\n[[disk.partition]]\nlabel = \"swap\"\nfilesystem = \"swap\"\nsize = \"rest\"\n";
    let plan = lab.set_up(document);
    let part = &plan.goal.disks[0].partitions[1];
    let blkid = said("blkid", &["-p", "-o", "export", lab.dev("sda").to_str().unwrap()]);
    let id = part.uuid.split('-').next().unwrap();
    assert!(blkid.contains(&format!("PTUUID={id}")) && blkid.contains("PTTYPE=dos"), "{blkid}");
}

#[test]
fn each_time_anew_with_always() {
    if !root() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 64)]);
    let document = "[[disk]]\nmatch = {}\nwipe = \"always\"\n[[disk.partition]]\nlabel = \"a\"\nfilesystem = \"ext4\"\nsize = \"rest\"\n";
    lab.apply(&lab.plan(document).unwrap()).unwrap();
    lab.inside("sda", 1, |dir| std::fs::write(dir.join("file"), b"lost").unwrap());
    let again = lab.plan(document).unwrap();
    assert!(again.is_destructive());
    lab.apply(&again).unwrap();
    lab.inside("sda", 1, |dir| assert!(!dir.join("file").exists()));
}

/// A disk of data outlives assignments of its machine, with the identifiers that it was given first.
#[test]
fn data_that_is_never_wiped_stays() {
    if !root() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 64), LabDisk::new("sdb", "B1", 64)]);
    let document = "[[disk]]\nmatch = { serial = \"A1\" }\nwipe = \"once\"\n[[disk.partition]]\nlabel = \"system\"\nfilesystem = \"ext4\"\nsize = \"rest\"\n\
        [[disk]]\nmatch = { serial = \"B1\" }\nwipe = \"never\"\n[[disk.partition]]\nlabel = \"data\"\nfilesystem = \"ext4\"\nsize = \"rest\"\n";
    let first = lab.set_up(document);
    lab.inside("sdb", 1, |dir| std::fs::write(dir.join("file"), b"kept").unwrap());
    let lab = Lab { epoch: 2, ..lab };
    let second = lab.set_up(document);
    assert_ne!(first.goal.disks[0].id, second.goal.disks[0].id);
    assert_eq!(first.goal.disks[1].id, second.goal.disks[1].id);
    let touched = second.steps.iter().filter(|step| second.goal.home(step) == Some(1)).count();
    assert_eq!(touched, 0, "{}", second.describe());
    lab.inside("sdb", 1, |dir| assert_eq!(std::fs::read(dir.join("file")).unwrap(), b"kept"));
}

#[test]
fn volumes() {
    if !root() || !has_volumes() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 200), LabDisk::new("sdb", "B1", 200)]);
    lab.tar("tree", |dir| std::fs::write(dir.join("file"), b"from the archive").unwrap());
    let disk = |serial: &str| {
        format!(
            "[[disk]]\nmatch = {{ serial = \"{serial}\" }}\nwipe = \"once\"\n[[disk.partition]]\nlabel = \"pv-{serial}\"\ntype = \"lvm\"\nsize = \"rest\"\n"
        )
    };
    let document = format!(
        "{}{}[[group]]\nname = \"p2pinst-lab\"\npartitions = [\"pv-A1\", \"pv-B1\"]\n\
         [[volume]]\ngroup = \"p2pinst-lab\"\nname = \"root\"\nsize = \"rest\"\nfilesystem = \"ext4\"\nmount = \"/\"\nimage = \"tree\"\n\
         [[volume]]\ngroup = \"p2pinst-lab\"\nname = \"swap\"\nsize = \"32MiB\"\nfilesystem = \"swap\"\n[boot]\nbootloader = \"none\"\n",
        disk("A1"),
        disk("B1")
    );
    lab.set_up(&document);
    let look = || {
        said("vgchange", &["-ay", "p2pinst-lab"]);
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().to_str().unwrap();
        let size = said(
            "lvs",
            &["--noheadings", "--nosuffix", "--units", "m", "-o", "lv_size", "p2pinst-lab/root"],
        );
        said("mount", &["/dev/p2pinst-lab/root", dir]);
        let file = std::fs::read_to_string(format!("{dir}/file"));
        let fstab = std::fs::read_to_string(format!("{dir}/etc/fstab")).unwrap();
        unmount(dir.as_ref());
        said("vgchange", &["-an", "p2pinst-lab"]);
        (file.unwrap(), fstab, size.trim().parse::<f64>().unwrap())
    };
    let (file, fstab, size) = look();
    assert_eq!(file, "from the archive");
    assert!(
        fstab
            .contains("/dev/p2pinst-lab/root / ext4 defaults 0 1\n/dev/p2pinst-lab/swap none swap"),
        "{fstab}"
    );
    assert!(size > 340.0, "over both disks: {size}");
    // the same group anew, where the old one is
    let lab = Lab { epoch: 2, ..lab };
    lab.set_up(&document);
    assert_eq!(look().0, "from the archive");
    let elsewhere = document.replace("once", "never").replace(
        "wipe = \"never\"\n[[disk.partition]]\nlabel = \"pv-A1\"",
        "wipe = \"always\"\n[[disk.partition]]\nlabel = \"pv-A1\"",
    );
    let refused = lab.plan(&elsewhere).unwrap_err().to_string();
    assert!(refused.contains("some are kept"), "{refused}");
}
