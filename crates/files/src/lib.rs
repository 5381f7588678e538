//! Files written safely: whole or not at all, secrets private, directories locked.
//!
//! Owns no state. Every function is blocking: call it from a thread that may block.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What went wrong, and with which path.
#[derive(Debug, Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was attempted.
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Adds the path and the attempt to an I/O error.
pub trait Context<T> {
    /// Says what was attempted on which path.
    ///
    /// # Errors
    /// The error that was there.
    fn context(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { action, path: path.to_owned(), source })
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// 0644
    Public,
    /// 0600
    Private,
}

/// Writes a whole file: a temporary file in the same directory, fsync, rename, fsync of the
/// directory. After a crash there is the old content or the new, never a part.
///
/// # Errors
/// When any step fails; the old content is then still there.
pub fn write(path: &Path, content: &[u8], access: Access) -> Result<(), FileError> {
    let dir = parent(path);
    let mut temp = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(match access {
            Access::Public => 0o644,
            Access::Private => 0o600,
        }))
        .tempfile_in(dir)
        .context("create a file in", dir)?;
    temp.write_all(content).context("write", path)?;
    temp.as_file().sync_all().context("sync", path)?;
    temp.persist(path).map_err(|e| e.error).context("write", path)?;
    sync_dir(dir)
}

/// Removes a file, durably; one that is not there is no error.
///
/// # Errors
/// When the file cannot be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => {
            done.context("remove", path)?;
            sync_dir(parent(path))
        }
    }
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|d| d.sync_all()).context("sync", dir)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// When it cannot be read, or is longer.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let read = || {
        let len = fs::metadata(path)?.len();
        if len > max {
            let reason = format!("it has {len} bytes, at most {max} are expected");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        fs::read(path)
    };
    read().context("read", path)
}

/// Reads a secret, and refuses one that others could read too.
///
/// # Errors
/// When it cannot be read, is longer than `max`, or its mode gives any right to group or others.
pub fn read_private(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let mode = fs::metadata(path).context("read", path)?.mode();
    if mode & 0o077 != 0 {
        let reason = format!(
            "others may read it (mode {:03o}); run: chmod 600 {}",
            mode & 0o777,
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
            .context("use the secret", path);
    }
    read(path, max)
}

/// Makes a directory (and those above it) that only its owner may enter.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_dir(dir: &Path) -> Result<(), FileError> {
    fs::create_dir_all(dir).context("make the directory", dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).context("protect", dir)
}

/// An exclusive lock on a file; released when dropped or when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at once; `None` when another process has it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, FileError> {
        let file = open_lock(path)?;
        match file.try_lock() {
            Ok(()) => {
                // for people and for `holder`; the lock itself is the kernel's
                file.set_len(0).context("write", path)?;
                (&file)
                    .write_all(std::process::id().to_string().as_bytes())
                    .context("write", path)?;
                Ok(Some(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).context("lock", path),
        }
    }

    /// The process that has the lock, as far as can be told without touching the lock: the one
    /// that had it last, if that is alive.
    #[must_use]
    pub fn holder(path: &Path) -> Option<u32> {
        let pid: u32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Path::new("/proc").join(pid.to_string()).exists().then_some(pid)
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn exclusive(path: &Path) -> Result<Self, FileError> {
        let file = open_lock(path)?;
        file.lock().context("lock", path)?;
        Ok(Self { _file: file })
    }
}

fn open_lock(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .context("open the lock file", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write(&path, b"one", Access::Private).unwrap();
        write(&path, b"two", Access::Private).unwrap();
        assert_eq!(read_private(&path, 10).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_private(&path, 10).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        assert!(read(&path, 2).is_err());
        assert!(write(&dir.path().join("no/such"), b"", Access::Public).is_err());
    }

    #[test]
    fn one_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::try_exclusive(&path).unwrap();
        assert!(held.is_some());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        assert_eq!(Lock::holder(&path), Some(std::process::id()));
        drop(held);
        assert!(Lock::try_exclusive(&path).unwrap().is_some());
    }
}
