//! Nothing starts from a disk before its new system is ready, wherever the work stops.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use p2pinst_boot::setup::plan::Step;
use p2pinst_types::record::Firmware;

use super::lab::{LET_GO, Lab, LabDisk, MIB, root, said};

/// What a BIOS goes on to the next disk by.
const PASS_ON: [u8; 5] = [0xcd, 0x18, 0xf4, 0xeb, 0xfd];

fn bytes(path: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fs::File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn system(dir: &Path) {
    fs::create_dir_all(dir.join("etc")).unwrap();
    fs::write(dir.join("etc/os-release"), "ID=lab\n").unwrap();
}

/// The steps that are done before machines may start from a disk, and after.
fn order(lab: &Lab, document: &str) -> (Vec<String>, Vec<String>) {
    let plan = lab.plan(document).unwrap();
    let start = plan.steps.iter().position(|step| matches!(step, Step::Start { .. })).unwrap();
    let keys: Vec<String> = plan.steps.iter().map(Step::key).collect();
    (keys[..start].to_vec(), keys[start..].to_vec())
}

const PARTITIONS: &str = "hostname = \"{{name}}\"\n[[disk]]\nmatch = {}\n\
    [[disk.partition]]\nlabel = \"esp\"\ntype = \"esp\"\nsize = \"70MiB\"\nimage = \"esp\"\n\
    [[disk.partition]]\nlabel = \"root\"\nsize = \"rest\"\nfilesystem = \"ext4\"\nmount = \"/\"\nimage = \"tree\"\n\
    [boot]\nbootloader = \"none\"\n";

#[test]
fn partitions_are_found_when_the_system_is_ready() {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 200)]) };
    lab.tar("tree", system);
    let esp = lab.dir.join("images/esp.part");
    fs::File::create(&esp).unwrap().set_len(64 * MIB).unwrap();
    said("mkfs.vfat", &["-F", "32", esp.to_str().unwrap()]);
    let (before, after) = order(&lab, PARTITIONS);
    assert!(before.contains(&"write esp esp".to_owned()) && before.contains(&"system".to_owned()));
    assert_eq!(after, ["start"]);
    let disk = lab.dev("sda");
    // stopped before each step: nothing is to be found, and each time it goes on
    for stop in &before[1..] {
        let plan = lab.plan(PARTITIONS).unwrap();
        let watch = |step: &Step| match step.key() == *stop {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        lab.apply_watched(&plan, &watch).unwrap_err();
        assert!(bytes(&disk, 0, 1 << 20).iter().all(|byte| *byte == 0), "before {stop}");
        assert!(stop != "system" || lab.dir.join("images").join(LET_GO).exists());
        let again = lab.plan(PARTITIONS).unwrap();
        assert_eq!(again.hash(), plan.hash());
        assert!(!again.steps.iter().any(|step| step.key() == "table"), "{}", again.describe());
    }
    let plan = lab.plan(PARTITIONS).unwrap();
    lab.apply(&plan).unwrap();
    lab.settled(PARTITIONS, &plan);
    assert!(bytes(&disk, 0, PASS_ON.len()) == PASS_ON, "there is no boot loader for a BIOS");
    let dump = said("sfdisk", &["-J", disk.to_str().unwrap()]);
    assert!(dump.contains("\"esp\"") && dump.contains("\"root\""), "{dump}");
    assert!(bytes(&disk, MIB, 512) == bytes(&esp, 0, 512));
    let hostname = |dir: &Path| fs::read_to_string(dir.join("etc/hostname")).unwrap();
    assert_eq!(lab.inside("sda", 2, hostname), "node01\n");
}

/// An image of a disk with something for every firmware: code in the first sector, and a FAT.
fn disk_image(lab: &Lab) -> Vec<u8> {
    let make = Lab::new(&[LabDisk::new("sda", "M", 150)]);
    make.tar("tree", system);
    let document = "[[disk]]\nmatch = {}\nwipe = \"once\"\n[[disk.partition]]\nlabel = \"esp\"\ntype = \"esp\"\nsize = \"64MiB\"\n\
        [[disk.partition]]\nlabel = \"system\"\nfilesystem = \"ext4\"\nsize = \"rest\"\nmount = \"/\"\nimage = \"tree\"\n[boot]\nbootloader = \"none\"\n";
    make.set_up(document);
    let mut image = fs::read(make.file("sda")).unwrap();
    image[..440].fill(0x90);
    fs::write(lab.dir.join("images/lab.disk"), &image).unwrap();
    image
}

fn whole(wipe: &str) -> String {
    format!(
        "hostname = \"{{{{name}}}}\"\n[[disk]]\nmatch = {{}}\nwipe = \"{wipe}\"\nimage = \"lab\"\ngrow = true\n"
    )
}

fn interrupted(wipe: &str) {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 300)]) };
    let (image, document) = (disk_image(&lab), whole(wipe));
    let (before, after) = order(&lab, &document);
    assert_eq!((before.last().unwrap().as_str(), after), ("system", vec!["start".to_owned()]));
    let disk = lab.dev("sda");
    let let_go = lab.dir.join("images").join(LET_GO);
    for stop in ["grow", "system", "start"] {
        let plan = lab.plan(&document).unwrap();
        assert_eq!(plan.steps[0].key(), "image lab", "{}", plan.describe());
        let watch = |step: &Step| match step.key() == stop {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        lab.apply_watched(&plan, &watch).unwrap_err();
        // the table is there, and nothing that firmware starts
        assert!(said("sfdisk", &["-J", disk.to_str().unwrap()]).contains("\"system\""));
        assert!(bytes(&disk, 0, PASS_ON.len()) == PASS_ON, "before {stop}");
        assert!(bytes(&disk, MIB, 512).iter().all(|byte| *byte == 0), "before {stop}");
        assert_eq!(let_go.exists(), stop != "grow", "others have it as long as it is the image");
    }
    // the power fails: what was put aside is lost with the memory
    let plan = lab.plan(&document).unwrap();
    lab.apply(&plan).unwrap();
    lab.settled(&document, &plan);
    assert!(bytes(&disk, 0, 440) == image[..440], "{wipe}");
    assert!(bytes(&disk, MIB, 512) == image[1 << 20..(1 << 20) + 512]);
    let hostname = |dir: &Path| fs::read_to_string(dir.join("etc/hostname")).unwrap();
    assert_eq!(lab.inside("sda", 2, hostname), "node01\n");
    let found = lab.found();
    let last = found.disks["sda"].table.as_ref().unwrap().partitions[1].clone();
    assert_eq!(last.start + last.size, 299 * MIB, "it has grown");
}

#[test]
fn an_image_is_started_when_it_is_ready_and_nothing_was_to_be_lost() {
    interrupted("never");
}

#[test]
fn an_image_is_started_when_it_is_ready_with_once() {
    interrupted("once");
}

#[test]
fn an_image_is_started_when_it_is_ready_with_always() {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 300)]) };
    let (image, document) = (disk_image(&lab), whole("always"));
    let watch = |step: &Step| match step.key() == "start" {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    lab.apply_watched(&lab.plan(&document).unwrap(), &watch).unwrap_err();
    assert!(bytes(&lab.dev("sda"), 0, PASS_ON.len()) == PASS_ON);
    lab.apply(&lab.plan(&document).unwrap()).unwrap();
    assert!(bytes(&lab.dev("sda"), 0, 440) == image[..440]);
}

/// An image that leaves no room for a note: what was interrupted is erased and written again.
#[test]
fn an_image_that_fills_its_disk() {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 150)]) };
    let (image, document) = (disk_image(&lab), whole("once").replace("grow = true\n", ""));
    let refused = lab.plan(&document.replace("once", "never")).unwrap_err().to_string();
    assert!(refused.contains("the image lab fills") && refused.contains("--wipe"), "{refused}");
    let watch = |step: &Step| match step.key() == "start" {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    lab.apply_watched(&lab.plan(&document).unwrap(), &watch).unwrap_err();
    assert!(bytes(&lab.dev("sda"), 0, PASS_ON.len()) == PASS_ON);
    let plan = lab.plan(&document).unwrap();
    assert_eq!(plan.steps[0].key(), "wipe", "{}", plan.describe());
    lab.apply(&plan).unwrap();
    assert!(bytes(&lab.dev("sda"), 0, 440) == image[..440]);
    let hostname = |dir: &Path| fs::read_to_string(dir.join("etc/hostname")).unwrap();
    assert_eq!(lab.inside("sda", 2, hostname), "node01\n");
}
