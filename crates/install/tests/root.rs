//! Making roots.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use p2pinst_install::Dpkg;
use p2pinst_install::minbase::prepare_minbase;
use p2pinst_install::root::{PrepareError, Prepared, prepare_skeleton};

use crate::common::{Deb, is_root, patient};

#[test]
fn a_skeleton_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/b");
    assert_eq!(prepare_skeleton(&root).unwrap(), Prepared::Made);
    let dpkg = Dpkg::open(&root, &dir.path().join("log")).unwrap();
    let info = p2pinst_install::inspect(&Deb::new("hello", "1").build(dir.path())).unwrap();
    assert_eq!(dpkg.check(&info).unwrap(), []);
    let status = root.join("var/lib/dpkg/status");
    fs::write(
        &status,
        "Package: x\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n",
    )
    .unwrap();
    assert_eq!(prepare_skeleton(&root).unwrap(), Prepared::Already);
    assert_eq!(dpkg.installed("x").unwrap().as_deref(), Some("1"));
    let audit = Command::new("dpkg")
        .arg(format!("--root={}", root.display()))
        .args(["--get-selections"])
        .output()
        .unwrap();
    assert!(audit.status.success() && audit.stdout.starts_with(b"x"), "{audit:?}");
}

#[test]
fn an_interrupted_preparation_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
    fs::write(dir.path().join("var/lib/dpkg/.new-xyz"), "").unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    assert_eq!(prepare_skeleton(dir.path()).unwrap(), Prepared::Made);
    fs::remove_dir(dir.path().join("var/lib/dpkg/updates")).unwrap();
    assert!(Dpkg::open(dir.path(), &dir.path().join("log")).is_err());
    assert_eq!(prepare_skeleton(dir.path()).unwrap(), Prepared::Already);
    Dpkg::open(dir.path(), &dir.path().join("log")).unwrap();
}

#[test]
fn what_is_no_root_is_left_alone() {
    for foreign in ["home", "var/www", "var/lib/mysql", "var/lib/dpkg/other"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(foreign)).unwrap();
        for error in [
            prepare_skeleton(dir.path()).unwrap_err(),
            prepare_minbase(dir.path(), &dir.path().join("home/cache")).unwrap_err(),
        ] {
            assert!(matches!(error, PrepareError::NotEmpty { .. }), "{error}");
            assert!(error.to_string().contains(foreign), "{error}");
        }
        assert!(!dir.path().join("var/lib/dpkg/status").exists());
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(prepare_skeleton(&file).is_err());
}

fn unmount(dir: &Path) {
    assert!(Command::new("umount").arg(dir).status().unwrap().success());
}

/// Makes a whole Debian from a mirror: a minute, once. `P2PINST_TEST_CACHE` keeps it.
#[test]
fn a_minbase_runs_scripts_and_is_shared() {
    if !is_root("a_minbase_runs_scripts_and_is_shared") {
        return;
    }
    if Command::new("debootstrap").arg("--version").output().is_err() {
        println!("SKIPPED a_minbase_runs_scripts_and_is_shared: debootstrap is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = match std::env::var_os("P2PINST_TEST_CACHE") {
        Some(cache) => cache.into(),
        None => dir.path().join("cache"),
    };
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for root in [&one, &two] {
        match prepare_minbase(root, &cache) {
            Ok(made) => assert_eq!(made, Prepared::Made),
            // the disk of this machine bears no overlays, or no mirror is within reach
            Err(error @ (PrepareError::Mount { .. } | PrepareError::Debootstrap { .. })) => {
                println!("SKIPPED a_minbase_runs_scripts_and_is_shared: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(prepare_minbase(root, &cache).unwrap(), Prepared::Already);
    }
    let deb = Deb::new("scripted", "1")
        .field("Depends: coreutils, libc6")
        .script("postinst", "id -u >/made");
    let deb = deb.build(dir.path());
    let dpkg = Dpkg::open(&one, &dir.path().join("log")).unwrap();
    dpkg.install(&deb, &p2pinst_install::inspect(&deb).unwrap(), &patient()).unwrap();
    assert_eq!(fs::read_to_string(one.join("made")).unwrap(), "0\n");
    // what one root does, the other does not see
    assert!(!two.join("made").exists());
    let other = Dpkg::open(&two, &dir.path().join("log2")).unwrap();
    assert_eq!(other.installed("scripted").unwrap(), None);
    assert!(other.installed("coreutils").unwrap().is_some());
    // a machine that starts anew finds what was installed
    unmount(&one);
    assert_eq!(prepare_minbase(&one, &cache).unwrap(), Prepared::Made);
    assert_eq!(dpkg.installed("scripted").unwrap().as_deref(), Some("1"));
    unmount(&one);
    unmount(&two);
}
