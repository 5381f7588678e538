//! Filesystems mounted below a directory, from the root downwards, and unmounted again, also when something fails.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind_recursive, unmount};

use super::ApplyError;
use super::error::IoContext;
use super::rootfs::Root;

/// How long a filesystem may be busy before that is an error.
const LEAVING: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(50);

/// What is mounted.
#[derive(Debug)]
pub(super) struct Mounts {
    target: PathBuf,
    mounted: Vec<PathBuf>,
}

impl Mounts {
    /// Nothing yet; what an interrupted run has left below the directory is unmounted.
    pub(super) fn below(target: &Path) -> Result<Self, ApplyError> {
        std::fs::create_dir_all(target).on("make the directory", target)?;
        let target = std::fs::canonicalize(target).on("find", target)?;
        let table = std::fs::read_to_string("/proc/self/mounts").on("read", "/proc/self/mounts")?;
        let left = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
        let mut left: Vec<PathBuf> = left.filter(|path| path.starts_with(&target)).collect();
        left.reverse();
        let deadline = Instant::now() + LEAVING;
        for path in left {
            leave(&target, &path, deadline).on("unmount", &path)?;
        }
        Ok(Self { target, mounted: Vec::new() })
    }

    /// Where the new system's root is.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Mounts a device at a path of the new system.
    pub(super) fn add(
        &mut self,
        device: &Path,
        path: &str,
        filesystem: &str,
    ) -> Result<(), ApplyError> {
        let at = if path == "/" {
            self.target.clone()
        } else {
            Root::open(&self.target)?.make_mountpoint(path)?
        };
        mount(device, &at, filesystem, MountFlags::empty(), None::<&std::ffi::CStr>)
            .on("mount", device)?;
        self.mounted.push(at);
        Ok(())
    }

    /// Shows the running system's devices and kernel in the new one, for programs that run there.
    pub(super) fn add_system(&mut self) -> Result<(), ApplyError> {
        for path in ["/dev", "/proc", "/sys"] {
            let at = Root::open(&self.target)?.make_mountpoint(path)?;
            mount_bind_recursive(path, &at).on("mount", &at)?;
            self.mounted.push(at.clone());
            // what is unmounted there shall stay mounted here
            let private = rustix::mount::MountPropagationFlags::DOWNSTREAM
                | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change(&at, private).on("mount", &at)?;
        }
        Ok(())
    }

    /// Unmounts everything, the last first, and says when something cannot be.
    pub(super) fn unmount(mut self) -> Result<(), ApplyError> {
        rustix::fs::sync();
        while let Some(path) = self.mounted.last() {
            leave(&self.target, path, Instant::now() + LEAVING).on("unmount", path)?;
            self.mounted.pop();
        }
        Ok(())
    }

    /// Mounts a device elsewhere only to see or do something, read and write.
    pub(super) fn briefly<T>(
        device: &Path,
        filesystem: &str,
        work: impl FnOnce(&Path) -> Result<T, ApplyError>,
    ) -> Result<T, ApplyError> {
        let dir = EmptyDir::new()?;
        let mut mounts = Self { target: dir.0.clone(), mounted: Vec::new() };
        mounts.add(device, "/", filesystem)?;
        let done = work(&dir.0)?;
        mounts.unmount()?;
        Ok(done)
    }
}

/// A directory to mount at. Only the directory itself is removed in the end, never what is in it: that would be a
/// filesystem that could not be unmounted.
struct EmptyDir(PathBuf);

impl EmptyDir {
    fn new() -> Result<Self, ApplyError> {
        let dir = tempfile::tempdir().on("make a directory in", std::env::temp_dir())?;
        Ok(Self(dir.keep()))
    }
}

impl Drop for EmptyDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a directory is left over");
        }
    }
}

/// Unmounts what somebody may still be leaving: a program that is just being started has all files of its parent open for a
/// moment. What is in use for longer stays mounted, where it is seen: a filesystem that was only detached is alive, and nobody
/// who is to make another in its place could tell.
fn leave(target: &Path, path: &Path, deadline: Instant) -> Result<(), Errno> {
    if is_system(target, path) {
        // those are also mounted elsewhere
        return unmount(path, UnmountFlags::DETACH);
    }
    loop {
        match unmount(path, UnmountFlags::empty()) {
            Err(Errno::BUSY) if Instant::now() < deadline => thread::sleep(AGAIN),
            done => return done,
        }
    }
}

/// Whether it is the running system's devices or kernel, or mounted in there.
fn is_system(target: &Path, path: &Path) -> bool {
    ["dev", "proc", "sys"].iter().any(|name| path.starts_with(target.join(name)))
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let deadline = Instant::now() + LEAVING;
        while let Some(path) = self.mounted.pop() {
            match leave(&self.target, &path, deadline) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "a mount is left over")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn what_is_in_use_is_seen_and_never_only_detached() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let target = fs::canonicalize(dir.path()).unwrap().join("root");
        let is_mounted = || {
            let table = fs::read_to_string("/proc/self/mounts").unwrap();
            table.lines().filter(|line| line.split(' ').nth(1) == target.to_str()).count()
        };
        let mut mounts = Mounts::below(&target).unwrap();
        mounts.add(Path::new("none"), "/", "tmpfs").unwrap();
        let open = File::create(target.join("archive")).unwrap();
        // as an attempt that has failed does
        drop(mounts);
        assert_eq!(is_mounted(), 1, "its filesystem lives");
        let refused = Mounts::below(&target).unwrap_err().to_string();
        assert!(refused.contains("cannot unmount") && refused.contains("busy"), "{refused}");
        drop(open);
        Mounts::below(&target).unwrap();
        assert_eq!(is_mounted(), 0);
    }
}
