//! Making roots.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
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

/// A mount that is gone at the end, whatever the test says.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

/// Why this machine cannot show it, if it cannot.
fn hindrance(error: &PrepareError, dir: &Path) -> Option<String> {
    let overlay_on_overlay = || {
        let kind = Command::new("stat").args(["--file-system", "--format=%T"]).arg(dir).output();
        kind.unwrap().stdout.starts_with(b"overlay")
    };
    match error {
        PrepareError::NoDebootstrap { .. } => Some(error.to_string()),
        PrepareError::Debootstrap { said, .. } if said.contains("Failed getting release file") => {
            Some(error.to_string())
        }
        PrepareError::Mount { .. } if overlay_on_overlay() => Some(error.to_string()),
        _ => None,
    }
}

/// Makes a whole Debian from a mirror: a minute. With `P2PINST_TEST_CACHE` once for ever.
#[test]
fn a_minbase_runs_scripts_and_is_shared() {
    if !is_root("a_minbase_runs_scripts_and_is_shared") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = match std::env::var_os("P2PINST_TEST_CACHE") {
        Some(cache) => cache.into(),
        None => dir.path().join("cache"),
    };
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let mut mounted = Vec::new();
    // a slash at the end is no part of the name
    for root in [&dir.path().join("one/"), &two] {
        match prepare_minbase(root, &cache) {
            Ok(made) => assert_eq!(made, Prepared::Made),
            Err(error) => {
                let Some(why) = hindrance(&error, dir.path()) else { panic!("{error}") };
                println!("SKIPPED a_minbase_runs_scripts_and_is_shared: {why}");
                return;
            }
        }
        mounted.push(Mounted(root.clone()));
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
    drop(mounted.remove(0));
    assert!(!one.join("made").exists());
    assert_eq!(prepare_minbase(&one, &cache).unwrap(), Prepared::Made);
    mounted.push(Mounted(one));
    assert_eq!(dpkg.installed("scripted").unwrap().as_deref(), Some("1"));
}
