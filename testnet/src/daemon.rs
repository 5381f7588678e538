//! The process of a daemon: started by this program, or found again by its number.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::exec::{alive, process_state, signal};
use crate::wait::eventually;

/// A daemon that is asked to end does so within this time.
const STOP: Duration = Duration::from_secs(15);

/// A daemon that was started.
#[derive(Debug)]
pub(crate) struct Daemon {
    pid: u32,
    /// None for a daemon of an earlier run of this program.
    child: Option<Child>,
}

/// How a daemon ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// In words.
    pub words: String,
    /// Whether it ended as it should when asked to.
    pub clean: bool,
    /// Whether SIGKILL ended it.
    pub killed: bool,
}

impl Daemon {
    pub(crate) fn of(child: Child) -> Self {
        Self { pid: child.id(), child: Some(child) }
    }

    /// The daemon that an earlier run noted in a file, if it still runs.
    pub(crate) fn noted(file: &Path) -> Option<Self> {
        let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        alive(pid).then_some(Self { pid, child: None })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended; nothing while it runs.
    pub(crate) fn ended(&mut self) -> Result<Option<Ending>> {
        let Some(child) = self.child.as_mut() else {
            let gone = || Ending { words: "gone".to_owned(), clean: true, killed: true };
            return Ok((!alive(self.pid)).then(gone));
        };
        let status = child.try_wait().context("cannot ask how a daemon is")?;
        Ok(status.map(|s| Ending {
            words: s.to_string(),
            clean: s.success(),
            killed: s.signal() == Some(9),
        }))
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&mut self) -> Result<()> {
        signal(self.pid, "TERM")?;
        let ending = self.wait()?;
        ensure!(ending.clean, "asked to end, it ended with {}", ending.words);
        Ok(())
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(before) = self.ended()? {
            bail!("it had ended before: {}", before.words);
        }
        signal(self.pid, "KILL")?;
        let ending = self.wait()?;
        ensure!(ending.killed, "it had ended before: {}", ending.words);
        Ok(())
    }

    /// Makes it hang.
    pub(crate) fn freeze(&self) -> Result<()> {
        signal(self.pid, "STOP")?;
        eventually(STOP, "the process hangs", || {
            ensure!(process_state(self.pid) == Some('T'), "it still runs");
            Ok(())
        })
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> Result<()> {
        signal(self.pid, "CONT")
    }

    fn wait(&mut self) -> Result<Ending> {
        eventually(STOP, "the process ends", || self.ended()?.context("it still runs"))
    }
}
