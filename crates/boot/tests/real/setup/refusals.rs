//! What is refused, and what stays untouched then.

use std::fs;

use p2pinst_boot::setup::apply::ApplyError;

use super::lab::{Lab, LabDisk, root, said, unmount};

fn document(matching: &str, wipe: &str, size: &str) -> String {
    format!(
        "[[disk]]\nmatch = {{ {matching} }}\nwipe = \"{wipe}\"\n[[disk.partition]]\nlabel = \"a\"\nfilesystem = \"ext4\"\nsize = \"{size}\"\n"
    )
}

fn refused(lab: &Lab, document: &str, words: &[&str]) {
    let refusals = lab.plan(document).unwrap_err();
    let text = refusals.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn what_cannot_be_is_said_before_anything_is_touched() {
    if !root() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 64), LabDisk::new("sdb", "B1", 128)]);
    fs::write(lab.dir.join("sys/block/sdb/removable"), "1").unwrap();
    refused(
        &lab,
        &document("", "once", "100MiB"),
        &["too small", "needs 102 MiB", "there are 64 MiB", "A1"],
    );
    refused(&lab, &document("min_size = \"100MB\"", "once", "rest"), &["B1", "taken out by hand"]);
    refused(
        &lab,
        &document("serial = \"C*\"", "once", "rest"),
        &["no disk", "serial = \"C*\"", "A1", "B1"],
    );
    assert!(lab.plan(&document("serial = \"b1\"", "once", "rest")).is_ok(), "named by its serial");
    fs::write(lab.dir.join("sys/block/sdb/removable"), "0").unwrap();
    refused(&lab, &document("", "once", "rest"), &["serial A1", "serial B1", "pick"]);
    let picked = lab
        .plan(&document("", "once", "rest").replace("wipe", "pick = \"largest\"\nwipe"))
        .unwrap();
    assert_eq!(picked.goal.disks[0].identity.serial.as_deref(), Some("B1"));
    let twice = document("serial = \"A1\"", "once", "rest");
    let twice = format!("{twice}{}", twice.replace("\"a\"", "\"b\""));
    refused(&lab, &twice, &["disks 1 and 2 are both"]);
}

#[test]
fn data_stays_untouched_byte_for_byte() {
    if !root() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 64), LabDisk::new("sdb", "B1", 64)]);
    said("mkfs.ext4", &["-q", "-F", lab.dev("sda").to_str().unwrap()]);
    said(
        "bash",
        &[
            "-c",
            &format!(
                "echo 'start=2048,size=40960,name=old' | sfdisk -q --label gpt {}",
                lab.dev("sdb").display()
            ),
        ],
    );
    let before = (lab.hash("sda"), lab.hash("sdb"));
    refused(
        &lab,
        &document("serial = \"A1\"", "never", "rest"),
        &["ext4 on the whole disk", "never", "A1"],
    );
    refused(&lab, &document("serial = \"B1\"", "never", "rest"), &["\"old\"", "20 MiB", "gpt"]);
    assert_eq!((lab.hash("sda"), lab.hash("sdb")), before);
    // with once it goes, and nothing of it comes to light again
    lab.set_up(&document("serial = \"A1\"", "once", "rest"));
    let wiped = said("wipefs", &[lab.dev("sda").to_str().unwrap()]);
    assert!(!wiped.contains("ext4"), "{wiped}");
}

#[test]
fn a_disk_that_is_another_by_now_is_refused() {
    if !root() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 64)]);
    let plan = lab.plan(&document("", "once", "rest")).unwrap();
    let before = lab.hash("sda");
    fs::write(lab.dir.join("sys/block/sda/device/serial"), "Z9").unwrap();
    let error = lab.apply(&plan).unwrap_err();
    assert!(matches!(error, ApplyError::Identity { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("A1") && text.contains("Z9") && text.contains("plan again"), "{text}");
    fs::write(lab.dir.join("sys/block/sda/device/serial"), "A1").unwrap();
    fs::write(lab.dir.join("sys/block/sda/size"), "4096").unwrap();
    assert!(matches!(lab.apply(&plan), Err(ApplyError::Identity { .. })));
    fs::write(lab.dir.join("sys/block/sda/size"), "131072").unwrap();
    assert_eq!(lab.hash("sda"), before);
}

#[test]
fn a_disk_with_something_new_on_it_is_refused() {
    if !root() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 64)]);
    let plan = lab.plan(&document("", "once", "rest")).unwrap();
    said("mkfs.ext4", &["-q", "-F", lab.dev("sda").to_str().unwrap()]);
    let before = lab.hash("sda");
    let error = lab.apply(&plan).unwrap_err();
    assert!(matches!(error, ApplyError::Content { .. }), "{error}");
    assert_eq!(lab.hash("sda"), before);
}

#[test]
fn a_disk_in_use_is_refused() {
    if !root() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 64)]);
    lab.set_up(&document("", "once", "rest"));
    lab.inside("sda", 1, |_mounted| ());
    let dir = tempfile::tempdir().unwrap();
    said("mkfs.ext4", &["-q", "-F", lab.dev("sda").to_str().unwrap()]);
    said("mount", &[lab.dev("sda").to_str().unwrap(), dir.path().to_str().unwrap()]);
    let refusals = lab.plan(&document("", "always", "rest"));
    unmount(dir.path());
    let text = refusals.unwrap_err().to_string();
    assert!(text.contains("in use") && text.contains("mounted at"), "{text}");
}

#[test]
fn what_a_disk_remembers_ends_with_its_table() {
    if !root() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 64)]);
    let once = document("", "once", "rest");
    lab.set_up(&once);
    refused(&lab, &document("", "once", "30MiB"), &["already wiped for this assignment"]);
    refused(&lab, &document("", "never", "30MiB"), &["has data"]);
    // somebody partitions it by hand
    said(
        "bash",
        &[
            "-c",
            &format!(
                "echo 'start=2048,size=40960' | sfdisk -q --label gpt {}",
                lab.dev("sda").display()
            ),
        ],
    );
    assert!(lab.plan(&once).unwrap().describe().contains("ERASE"));
}
