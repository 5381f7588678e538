//! Files of the new system. Every path is resolved as if the new system's root were the root of all (openat2,
//! `RESOLVE_IN_ROOT`): no link in an image leads out of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::ApplyError;
use super::error::IoContext;

/// The longest file that is read to be changed.
const READ_MAX: u64 = 1 << 20;

/// Whose a file is, and who may do what with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) group: u32,
}

impl Rights {
    pub(super) const PUBLIC: Self = Self { mode: 0o644, owner: 0, group: 0 };
}

/// The root of a new system.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    path: PathBuf,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, ApplyError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).on("open", path)?;
        Ok(Self { dir, path: path.to_owned() })
    }

    /// Where the root itself is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    fn at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.dir, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Whether there is anything at a path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.at(path, OFlags::PATH).is_ok()
    }

    /// A directory, made where it is missing, with those above it.
    pub(super) fn make_dir(&self, path: &str) -> Result<OwnedFd, ApplyError> {
        let what = "make the directory";
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut so_far = String::new();
        let mut dir = self.at("", flags).on(what, self.inside(path))?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            so_far.push('/');
            so_far.push_str(part);
            dir = match self.at(&so_far, flags) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o755))
                        .on(what, self.inside(path))?;
                    self.at(&so_far, flags).on(what, self.inside(path))?
                }
                found => found.on(what, self.inside(path))?,
            };
        }
        Ok(dir)
    }

    /// A directory's own path, without links: something can be mounted there.
    pub(super) fn make_mountpoint(&self, path: &str) -> Result<PathBuf, ApplyError> {
        use std::os::fd::AsRawFd;
        let dir = self.make_dir(path)?;
        let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let real = std::fs::read_link(&link).on("find", self.inside(path))?;
        let root = std::fs::canonicalize(&self.path).on("find", &self.path)?;
        if real.starts_with(&root) {
            return Ok(real);
        }
        Err(Errno::XDEV).on("mount at", self.inside(path))
    }

    /// Writes a whole file, in place of whatever has its name; a link there is replaced, not followed.
    pub(super) fn write(
        &self,
        path: &str,
        mut content: impl Read,
        rights: Rights,
    ) -> Result<(), ApplyError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.make_dir(parent)?;
        let short: String = name.chars().take(60).collect();
        let temp = format!(".p2pinst-new-{short}");
        let mut put = || -> io::Result<()> {
            ignore_missing(rustix::fs::unlinkat(&dir, &temp, AtFlags::empty()))?;
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file =
                File::from(rustix::fs::openat(&dir, &temp, flags, Mode::from_raw_mode(0o600))?);
            io::copy(&mut content, &mut file)?;
            file.flush()?;
            let (owner, group) = (Uid::from_raw(rights.owner), Gid::from_raw(rights.group));
            rustix::fs::fchown(&file, Some(owner), Some(group))?;
            // after the owner, whose change takes setuid away; what a FAT cannot keep is no error
            match rustix::fs::fchmod(&file, Mode::from_raw_mode(rights.mode)) {
                Err(Errno::PERM) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
            file.sync_all()?;
            rustix::fs::renameat(&dir, &temp, &dir, name)?;
            Ok(())
        };
        put().on("write", self.inside(path))
    }

    /// Makes a link that says `to`, in place of whatever has its name.
    pub(super) fn link(&self, path: &str, to: &str) -> Result<(), ApplyError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.make_dir(parent)?;
        ignore_missing(rustix::fs::unlinkat(&dir, name, AtFlags::empty()))
            .on("replace", self.inside(path))?;
        rustix::fs::symlinkat(to, &dir, name).on("make the link", self.inside(path))
    }

    /// A file's content; `None` where there is none.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ApplyError> {
        let file = match self.file(path) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error).on("read", self.inside(path)),
        };
        let mut bytes = Vec::new();
        file.take(READ_MAX).read_to_end(&mut bytes).on("read", self.inside(path))?;
        Ok(Some(bytes))
    }

    /// A file, opened for reading.
    pub(super) fn file(&self, path: &str) -> Result<File, Errno> {
        let file = File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if file.metadata().is_ok_and(|m| m.is_file()) { Ok(file) } else { Err(Errno::NOENT) }
    }

    /// Removes a file or a link; one that is not there is no error.
    pub(super) fn remove(&self, path: &str) -> Result<(), ApplyError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        match self.at(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error).on("remove", self.inside(path)),
            Ok(dir) => {
                let removed = rustix::fs::unlinkat(&dir, name, AtFlags::empty());
                ignore_missing(removed).on("remove", self.inside(path))
            }
        }
    }

    /// The names in a directory, sorted; none where there is no directory.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let Ok(dir) = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(entries) = rustix::fs::Dir::read_from(&dir) else { return Vec::new() };
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().map(str::to_owned).ok());
        let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").collect();
        names.sort();
        names
    }
}

fn ignore_missing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        (dir, root)
    }

    fn mine() -> Rights {
        let (owner, group) =
            (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Rights { mode: 0o4755, owner, group }
    }

    #[test]
    fn files_are_written_with_their_rights() {
        let (dir, root) = root();
        root.write("/usr/bin/x", &b"1"[..], mine()).unwrap();
        root.write("/usr/bin/x", &b"2"[..], mine()).unwrap();
        let path = dir.path().join("root/usr/bin/x");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o4755);
        assert_eq!(root.read("/usr/bin/x").unwrap().unwrap(), b"2");
        assert_eq!(root.list("/usr/bin"), ["x"]);
        root.remove("/usr/bin/x").unwrap();
        root.remove("/usr/bin/x").unwrap();
        assert_eq!(root.read("/usr/bin/x").unwrap(), None);
    }

    #[test]
    fn no_path_leads_out() {
        let (dir, root) = root();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), b"s").unwrap();
        let inner = dir.path().join("root");
        // as an image might have them: absolute, relative and dangling links
        symlink(&outside, inner.join("abs")).unwrap();
        symlink("../outside", inner.join("rel")).unwrap();
        symlink(outside.join("secret"), inner.join("file")).unwrap();
        for path in ["/abs/x", "/rel/x", "/../outside/x", "/../../../x"] {
            // a link that leads nowhere inside is an error, or what it names is made inside
            let _either = root.write(path, &b"evil"[..], mine());
        }
        root.write("/file", &b"evil"[..], mine()).unwrap();
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"s");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "nothing came out");
        assert!(
            fs::symlink_metadata(inner.join("file")).unwrap().is_file(),
            "the link is replaced"
        );
        assert_eq!(root.read("/abs/secret").unwrap(), None);
        assert!(!root.list("/rel").contains(&"secret".to_owned()));
        assert!(root.make_mountpoint("/abs/y").is_err());
        assert_eq!(
            root.make_mountpoint("/a/b").unwrap(),
            fs::canonicalize(inner.join("a/b")).unwrap()
        );
    }
}
