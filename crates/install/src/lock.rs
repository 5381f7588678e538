//! dpkg's own locks: waited for, held, never broken.
//!
//! `lock-frontend` is for whoever orders several runs of dpkg and is held here; `lock` is dpkg's,
//! and only looked at. Both are POSIX record locks, which belong to a process and not to a file
//! descriptor: two threads would not exclude each other, and closing any descriptor of the file
//! gives the lock up. So one table of this process decides first who may open the file at all.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, fs, io, thread};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use thiserror::Error;

/// Between two looks at a lock that another process holds: record locks have no timed wait.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Why a lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// The lock file cannot be opened or locked.
    #[error("cannot lock dpkg's database with {}: {source}", path.display())]
    Open {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it for longer than is waited.
    #[error(
        "dpkg's database is in use: {holder} has held {} for the {} s that were waited; \
         try again when it has finished (never delete the lock file)",
        path.display(), waited.as_secs()
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Another process.
    Process {
        /// Its number.
        pid: i32,
        /// Its name, if it still has one.
        name: Option<String>,
    },
    /// A process that cannot be seen from here (in another container, say).
    Unseen,
    /// This process, in another thread.
    Ourselves,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name: Some(name) } => write!(f, "process {pid} ({name})"),
            Self::Process { pid, name: None } => write!(f, "process {pid}"),
            Self::Unseen => f.write_str("a process that cannot be seen from here"),
            Self::Ourselves => f.write_str("another installation of this node"),
        }
    }
}

/// Lock files that threads of this process have.
static TAKEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Tells when one of them is given back.
static GIVEN_BACK: Condvar = Condvar::new();

fn taken() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // the set is whole at every instruction: a panic elsewhere does not harm it
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right of one thread of this process to open a lock file.
#[derive(Debug)]
struct Turn(PathBuf);

impl Turn {
    fn wait(path: &Path, deadline: Instant) -> Option<Self> {
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut held, _) = GIVEN_BACK
            .wait_timeout_while(taken(), left, |held| held.contains(path))
            .unwrap_or_else(PoisonError::into_inner);
        held.insert(path.to_owned()).then(|| Self(path.to_owned()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        taken().remove(&self.0);
        GIVEN_BACK.notify_all();
    }
}

/// dpkg's database, locked as a frontend does.
#[derive(Debug)]
pub(crate) struct FrontendLock {
    // the order of the fields is the order in which they are given back
    _file: File,
    _turn: Turn,
}

impl FrontendLock {
    /// Waits until nobody else uses the database, at most `patience`.
    pub(crate) fn acquire(admin: &Path, patience: Duration) -> Result<Self, LockError> {
        let started = Instant::now();
        let deadline = started + patience;
        let path = admin.join("lock-frontend");
        // two names of one directory are one lock
        let canonical = fs::canonicalize(admin)
            .map_err(|source| LockError::Open { path: path.clone(), source })?;
        let busy = |path: &Path, holder| LockError::Busy {
            path: path.to_owned(),
            holder,
            waited: started.elapsed(),
        };
        let turn =
            Turn::wait(&canonical, deadline).ok_or_else(|| busy(&path, Holder::Ourselves))?;
        let file = open(&path)?;
        let mut told = false;
        while let Err(error) = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            use rustix::io::Errno;
            if !matches!(error, Errno::AGAIN | Errno::ACCESS) {
                return Err(LockError::Open { path, source: error.into() });
            }
            let holder = holder(&file, &path)?;
            pause(deadline, &path, holder, &mut told).map_err(|holder| busy(&path, holder))?;
        }
        // A dpkg that outlived its frontend still has the inner lock.
        let path = admin.join("lock");
        let inner = open(&path)?;
        while let Some(holder) = holder(&inner, &path)? {
            pause(deadline, &path, Some(holder), &mut told)
                .map_err(|holder| busy(&path, holder))?;
        }
        Ok(Self { _file: file, _turn: turn })
    }
}

/// Waits a little; gives the holder back when the time is over.
fn pause(
    deadline: Instant,
    path: &Path,
    holder: Option<Holder>,
    told: &mut bool,
) -> Result<(), Holder> {
    let holder = holder.unwrap_or(Holder::Unseen);
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(holder);
    }
    if !*told {
        tracing::info!(lock = %path.display(), %holder, "Waiting until dpkg's database is free.");
        *told = true;
    }
    thread::sleep(LOOK_AGAIN.min(left));
    Ok(())
}

fn open(path: &Path) -> Result<File, LockError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)
        .map_err(|source| LockError::Open { path: path.to_owned(), source })
}

fn holder(file: &File, path: &Path) -> Result<Option<Holder>, LockError> {
    let whole = Flock {
        start: 0,
        length: 0,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    let blocking = fcntl_getlk(file, &whole)
        .map_err(|e| LockError::Open { path: path.to_owned(), source: e.into() })?;
    Ok(blocking.map(|lock| match lock.pid {
        Some(pid) => {
            let pid = pid.as_raw_nonzero().get();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
            Holder::Process { pid, name: name.map(|n| n.trim().to_owned()) }
        }
        None => Holder::Unseen,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let held = FrontendLock::acquire(dir.path(), Duration::ZERO).unwrap();
        let error = FrontendLock::acquire(dir.path(), Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("another installation of this node"), "{error}");
        thread::scope(|scope| {
            let waiting =
                scope.spawn(|| FrontendLock::acquire(dir.path(), Duration::from_secs(60)).is_ok());
            drop(held);
            assert!(waiting.join().unwrap());
        });
        assert!(FrontendLock::acquire(&dir.path().join("no"), Duration::ZERO).is_err());
    }
}
