//! Setups that are killed between any two steps, and within steps, and then begun again.

use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs, thread, time};

use p2pinst_types::record::Firmware;
use rustix::process::{Pid, Signal, getpid, kill_process};

use super::lab::{Lab, LabDisk, has_volumes, root};

const DOCUMENT: &str = r#"
hostname = "{{name}}"
[[disk]]
match = { serial = "A1" }
wipe = "WIPE"
[[disk.partition]]
label = "root"
size = "120MiB"
filesystem = "ext4"
mount = "/"
image = "tree"
[[disk.partition]]
label = "swap"
size = "16MiB"
filesystem = "swap"
[[disk]]
match = { serial = "B1" }
wipe = "WIPE"
[[disk.partition]]
label = "data"
size = "rest"
filesystem = "ext4"
mount = "/data"
[boot]
bootloader = "none"
"#;

fn lab() -> Lab {
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 160), LabDisk::new("sdb", "B1", 64)]);
    let lab = Lab { firmware: Firmware::Bios, ..lab };
    lab.tar("tree", |dir| {
        fs::create_dir_all(dir.join("etc")).unwrap();
        for i in 0..300 {
            fs::write(dir.join(format!("file{i}")), vec![b'x'; 100_000]).unwrap();
        }
    });
    lab
}

/// What the killed process does: the tests below start it.
#[test]
#[ignore = "is started by the tests of kills"]
fn child() {
    let Ok(dir) = env::var("P2PINST_LAB") else { return };
    let at: usize = env::var("P2PINST_KILL_AT").unwrap().parse().unwrap();
    let lab = Lab { firmware: Firmware::Bios, ..Lab::at(&PathBuf::from(dir)) };
    let count = std::cell::Cell::new(0);
    let plan = lab.plan(&env::var("P2PINST_DOCUMENT").unwrap()).unwrap();
    lab.apply_watched(&plan, &|_| {
        count.set(count.get() + 1);
        if count.get() > at {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
        ControlFlow::Continue(())
    })
    .unwrap();
}

/// Runs the child until it kills itself before a step, or until it is killed from here; whether it came to its end.
fn run(lab: &Lab, document: &str, at: usize, after: Option<time::Duration>) -> bool {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "setup::kills::child", "--ignored", "--nocapture"])
        .env("P2PINST_LAB", &lab.dir)
        .env("P2PINST_KILL_AT", at.to_string())
        .env("P2PINST_DOCUMENT", document)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if let Some(after) = after {
        thread::sleep(after);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let _gone = kill_process(pid, Signal::KILL);
    }
    let output = child.wait_with_output().unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    !killed
}

fn is_whole(lab: &Lab) {
    lab.inside("sda", 1, |dir| {
        for i in 0..300 {
            assert_eq!(fs::metadata(dir.join(format!("file{i}"))).unwrap().len(), 100_000);
        }
        assert_eq!(fs::read_to_string(dir.join("etc/hostname")).unwrap(), "node01\n");
    });
}

fn killed_between_all_steps(wipe: &str) {
    if !root() {
        return;
    }
    let document = DOCUMENT.replace("WIPE", wipe);
    let lab = lab();
    let plan = lab.plan(&document).unwrap();
    let mut hashes = Vec::new();
    // Each run goes on from what the one before has done. With two steps in each this ends, as an archive is extracted into a new
    // filesystem; what is erased each time is killed one step later each time.
    for at in 1..=plan.steps.len() + 1 {
        let ended = run(&lab, &document, if wipe == "once" { 2 } else { at }, None);
        hashes.push(lab.plan(&document).unwrap().hash());
        if ended {
            break;
        }
        assert!(at <= plan.steps.len(), "it never ends");
    }
    assert!(hashes.iter().all(|hash| *hash == plan.hash()), "the goal is the same at any time");
    is_whole(&lab);
    if wipe != "always" {
        lab.settled(&document, &plan);
    }
}

#[test]
fn killed_between_all_steps_with_once() {
    killed_between_all_steps("once");
}

#[test]
fn killed_between_all_steps_with_never() {
    killed_between_all_steps("never");
}

#[test]
fn killed_between_all_steps_with_always() {
    killed_between_all_steps("always");
}

#[test]
fn killed_between_all_steps_with_volumes() {
    if !root() || !has_volumes() {
        return;
    }
    let document = DOCUMENT.replace("WIPE", "once").replace(
        "label = \"data\"\nsize = \"rest\"\nfilesystem = \"ext4\"\nmount = \"/data\"\n",
        "label = \"pv\"\ntype = \"lvm\"\nsize = \"rest\"\n[[group]]\nname = \"p2pinstkill\"\npartitions = [\"pv\"]\n\
         [[volume]]\ngroup = \"p2pinstkill\"\nname = \"data\"\nsize = \"100%\"\nfilesystem = \"ext4\"\nmount = \"/data\"\n",
    );
    assert!(document.contains("p2pinstkill"));
    let lab = lab();
    let plan = lab.plan(&document).unwrap();
    let runs = (0..plan.steps.len()).take_while(|_| !run(&lab, &document, 2, None)).count();
    assert!(runs < plan.steps.len(), "it never ends");
    is_whole(&lab);
    lab.settled(&document, &plan);
}

#[test]
fn killed_at_any_moment() {
    if !root() {
        return;
    }
    let document = DOCUMENT.replace("WIPE", "once");
    let lab = lab();
    let plan = lab.plan(&document).unwrap();
    let mut ended = false;
    for round in 0..40 {
        let after = time::Duration::from_millis(30 + 45 * round);
        ended = run(&lab, &document, usize::MAX, Some(after));
        if ended {
            break;
        }
    }
    if !ended {
        lab.apply(&lab.plan(&document).unwrap()).unwrap();
    }
    is_whole(&lab);
    lab.settled(&document, &plan);
}
