//! Images beside GNU tar, Python's tarfile, qemu-img, sfdisk, sgdisk, the mkfs family, and the kernel's filesystems.

mod capture;
mod prepare;
mod rootfs;
mod seal;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use p2pinst_boot::image::Watch;

static GO_ON: AtomicBool = AtomicBool::new(false);

/// Nobody watches.
fn unwatched() -> Watch<'static> {
    Watch { progress: &|_, _| (), stop: &GO_ON }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// A directory for images: not in memory, and with holes.
struct Workshop {
    dir: tempfile::TempDir,
    shared: bool,
}

/// What is unmounted here is unmounted in all mount namespaces that other tests make meanwhile: the directory is a
/// mount of its own, and shared.
fn workshop() -> Workshop {
    let dir = tempfile::Builder::new().prefix("p2pinst-image-").tempdir_in("/var/tmp").unwrap();
    let shared = rustix::process::geteuid().is_root();
    if shared {
        sh(dir.path(), "mount --bind \"$PWD\" \"$PWD\"; mount --make-shared \"$PWD\"");
    }
    Workshop { dir, shared }
}

impl Workshop {
    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let unmount = || Command::new("umount").arg(self.dir.path()).status();
        if self.shared && !unmount().is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.dir.path().display());
        }
    }
}

/// Runs a script in a directory; what it says on its standard output.
fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(dir)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{stderr}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Something in use that a command gives back.
struct Held {
    release: &'static [&'static str],
    what: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        // other tests' programs may have it open for a moment
        for _ in 0..200 {
            let mut command = Command::new(self.release[0]);
            let output = command.args(&self.release[1..]).arg(&self.what).output();
            if output.is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        eprintln!("cannot release {}", self.what.display());
    }
}

/// A loop device over a part of a file.
fn attach(file: &Path, start: u64, len: u64) -> Held {
    let output = Command::new("losetup")
        .args(["--find", "--show", "--offset", &start.to_string(), "--sizelimit", &len.to_string()])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let what = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    // a run that was killed may have told the kernel of partitions of this loop device: they outlive what was on it
    let _gone = Command::new("partx").arg("-d").arg(&what).output();
    Held { release: &["losetup", "--detach"], what }
}

fn mount(device: &Path, at: &Path, options: &str) -> Held {
    std::fs::create_dir_all(at).unwrap();
    let mut command = Command::new("mount");
    let output = command.args(["-o", options]).args([device, at]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Held { release: &["umount"], what: at.to_owned() }
}

/// All that there is to know of a tree, by tools that are not ours.
fn census(tree: &Path) -> String {
    sh(
        tree,
        r#"find . -printf '%P|%y|%m|%U|%G|%T@|%l\n' | sort
           find . ! -type d -printf '%P|%n\n' | sort
           find . -type f -printf '%P|%s\n' | sort
           find . \( -type c -o -type b \) -print0 | sort -z | xargs -0r stat -c '%n %t %T'
           find . -type f -print0 | sort -z | xargs -0r sha256sum
           find . -print0 | sort -z | xargs -0r getfattr -h -d -m - -e hex 2>/dev/null | { grep -v SGI_ACL || true; }
           find . ! -type l -print0 | sort -z | xargs -0r getfacl -n -p"#,
    )
}

/// What is below a directory: nothing must have been written there.
fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}
