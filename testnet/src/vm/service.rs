//! A foreign server that runs while it is needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::exec::{Exec, signal};

/// A process that is killed when this is dropped. What it says is kept.
#[derive(Debug)]
pub(super) struct Service {
    child: Child,
    shown: String,
    log: PathBuf,
}

impl Service {
    /// Starts it; what it says goes into this file.
    pub(super) fn start(exec: &Exec, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = file.try_clone().context("cannot open a file twice")?;
        let child = exec
            .command()?
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start `{}`", exec.shown()))?;
        Ok(Self { child, shown: exec.shown(), log: log.to_owned() })
    }

    /// Waits until it is ready, as this finds out.
    pub(super) fn ready(
        &mut self,
        within: Duration,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let shown = self.shown.clone();
        crate::wait::eventually(within, &format!("`{shown}` is ready"), || {
            self.runs()?;
            check()
        })
    }

    /// Makes sure that it still runs.
    pub(super) fn runs(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot ask how a server is")? {
            Some(status) => bail!("`{}` ended with {status}: {}", self.shown, self.log()),
            None => Ok(()),
        }
    }

    /// All that it said.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Makes it hang, or go on.
    pub(super) fn freeze(&self, frozen: bool) -> Result<()> {
        signal(self.child.id(), if frozen { "STOP" } else { "CONT" })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // gone already is as good
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
