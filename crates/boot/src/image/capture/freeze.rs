//! A mounted filesystem, held still.
//!
//! Whoever writes to a frozen filesystem waits, for ever if nobody thaws it. So that is done by a process of its own,
//! which waits at a pipe: it thaws when it is asked to, when the time is over, and when this process dies.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::time::{Duration, Instant};

use p2pinst_command::{ask_within, clean};
use thiserror::Error;

use crate::image::process::Running;

/// A freeze writes all that is in memory to the disk first.
const FREEZING: Duration = Duration::from_secs(120);

/// Why a filesystem is not, or was not, held still.
#[derive(Debug, Error)]
pub enum FreezeError {
    /// It knows no freezing.
    #[error("{} cannot be frozen", mount.display())]
    Unsupported {
        /// Where it is mounted.
        mount: PathBuf,
    },
    /// Freezing failed.
    #[error("cannot freeze {}: {source}", mount.display())]
    Freeze {
        /// Where it is mounted.
        mount: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Copying took too long.
    #[error("{} was frozen for more than {} s, and thawed before all was copied: allow more time, or capture the machine switched off", mount.display(), limit.as_secs())]
    TooLong {
        /// Where it is mounted.
        mount: PathBuf,
        /// How long was allowed.
        limit: Duration,
    },
}

/// A frozen filesystem; thawed when dropped.
#[derive(Debug)]
pub(super) struct Frozen {
    mount: PathBuf,
    limit: Duration,
    since: Instant,
    /// Before the process, so that it is closed before that is waited for.
    pipe: Option<ChildStdin>,
    thawer: Option<Running>,
}

impl Frozen {
    pub(super) fn freeze(mount: &Path, limit: Duration) -> Result<Self, FreezeError> {
        let error = |source| FreezeError::Freeze { mount: mount.to_owned(), source };
        let mut command = clean("sh");
        // ended by nobody's Ctrl-C
        command.process_group(0);
        command.args(["-c", r#"timeout "$1" cat >/dev/null; exec fsfreeze --unfreeze "$0""#]);
        command.arg(mount).arg(limit.as_secs().max(1).to_string());
        let thawer = Running::start(command, Stdio::piped(), Stdio::null());
        let mut thawer = thawer.map_err(error)?;
        let pipe = thawer.take_stdin();
        let mut freezer = clean("fsfreeze");
        freezer.arg("--freeze").arg(mount);
        let since = Instant::now();
        let frozen = Self { mount: mount.to_owned(), limit, since, pipe, thawer: Some(thawer) };
        let said = ask_within(freezer, b"", 1024, FREEZING).map_err(error)?;
        if said.success {
            return Ok(frozen);
        }
        // what is not frozen cannot be thawed: the process says so, and nobody listens
        drop(frozen);
        if said.stderr.contains("not supported") {
            return Err(FreezeError::Unsupported { mount: mount.to_owned() });
        }
        Err(error(io::Error::other(said.stderr)))
    }

    /// Thaws it: how long it was frozen.
    pub(super) fn thaw(mut self) -> Result<Duration, FreezeError> {
        let time = self.since.elapsed();
        let done = self.release();
        let Some(done) = done else { return Ok(time) };
        let too_long = time >= self.limit;
        match done {
            Ok(true) if !too_long => Ok(time),
            _ => Err(FreezeError::TooLong { mount: self.mount.clone(), limit: self.limit }),
        }
    }

    fn release(&mut self) -> Option<io::Result<bool>> {
        drop(self.pipe.take());
        let thawer = self.thawer.take()?;
        Some(thawer.finish().map(|ended| ended.success))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _released = self.release();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader};
    use std::process::Command;
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::image::capture::Loop;

    const WHERE: &str = "P2PINST_TEST_FREEZE";

    struct Mounted {
        dir: tempfile::TempDir,
        _device: Loop,
    }

    impl Mounted {
        fn new() -> Self {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let image = dir.path().join("image");
            fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
            let make = Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap();
            assert!(make.success());
            let device = Loop::attach(&image, 0, 32 << 20, false).unwrap();
            fs::create_dir(dir.path().join("m")).unwrap();
            let at = dir.path().join("m");
            let mount = Command::new("mount").arg(device.path()).arg(at).status().unwrap();
            assert!(mount.success());
            Self { dir, _device: device }
        }

        fn point(&self) -> PathBuf {
            self.dir.path().join("m")
        }

        /// Whether a file can be written within this time.
        fn can_write(&self, name: &str, within: Duration) -> bool {
            let (done, wait) = sync_channel(1);
            let path = self.point().join(name);
            let write = move || {
                fs::write(path, "x").unwrap();
                done.send(()).ok();
            };
            std::thread::spawn(write);
            wait.recv_timeout(within).is_ok()
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let done = Command::new("umount").arg(self.point()).status();
            assert!(done.unwrap().success());
        }
    }

    #[test]
    fn a_freeze_ends() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let (soon, late) = (Duration::from_millis(300), Duration::from_secs(30));
        let m = Mounted::new();
        let frozen = Frozen::freeze(&m.point(), late).unwrap();
        assert!(!m.can_write("a", soon), "it is frozen");
        assert!(frozen.thaw().unwrap() >= soon);
        assert!(m.can_write("b", late), "it is thawed");

        drop(Frozen::freeze(&m.point(), late).unwrap());
        assert!(m.can_write("c", late), "it is thawed by dropping it");

        let frozen = Frozen::freeze(&m.point(), Duration::from_secs(1)).unwrap();
        assert!(m.can_write("d", late), "the time is over");
        assert!(matches!(frozen.thaw(), Err(FreezeError::TooLong { .. })));

        let none = Frozen::freeze(Path::new("/proc"), late).unwrap_err();
        assert!(matches!(none, FreezeError::Unsupported { .. }), "{none}");
        killed(&m, late);
    }

    /// Who has frozen it is killed.
    fn killed(m: &Mounted, late: Duration) {
        let name = "image::capture::freeze::tests::freezes_and_waits";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", name])
            .env(WHERE, m.point())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        assert!(out.lines().any(|line| line.unwrap().contains("frozen now")));
        assert!(!m.can_write("e", Duration::from_millis(300)), "it is frozen");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(m.can_write("f", late), "it is thawed");
    }

    #[test]
    #[ignore = "run by another test"]
    fn freezes_and_waits() {
        let point = std::env::var(WHERE).unwrap();
        let _frozen = Frozen::freeze(Path::new(&point), Duration::from_secs(60)).unwrap();
        println!("frozen now");
        std::thread::sleep(Duration::from_secs(120));
    }
}
