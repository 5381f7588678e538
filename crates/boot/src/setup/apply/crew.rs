//! Programs that outlive the run that started them: a `mkfs` goes on when its run is killed, and must not meet the next run
//! on the same disk.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};

use super::ApplyError;
use super::error::IoContext;

/// How long the programs of a killed run are waited for.
const WAIT: Duration = Duration::from_secs(60);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(20);

/// A lock that this process has together with every program that it starts from now on; it is free when the last of
/// them has ended.
#[derive(Debug)]
pub(super) struct Crew {
    _file: File,
}

impl Crew {
    /// Waits until no program of an earlier run is at work any more.
    pub(super) fn assemble(work: &Path) -> Result<Self, ApplyError> {
        let path = work.join("setup.crew");
        let mut options = OpenOptions::new();
        let open = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.on("open", &path)?;
        let deadline = Instant::now() + WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(AGAIN),
                Err(TryLockError::WouldBlock) => return Err(ApplyError::LeftOver),
                Err(TryLockError::Error(error)) => return Err(error).on("lock", &path),
            }
        }
        // not closed when another program begins: that makes the lock the program's too
        fcntl_setfd(&file, FdFlags::empty()).on("share", &path)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_next_waits_for_what_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let crew = Crew::assemble(dir.path()).unwrap();
        let began = Instant::now();
        let mut sleep = p2pinst_command::clean("sleep").arg("0.7").spawn().unwrap();
        drop(crew);
        drop(Crew::assemble(dir.path()).unwrap());
        assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
        sleep.wait().unwrap();
    }
}
