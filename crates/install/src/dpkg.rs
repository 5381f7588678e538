//! dpkg on a root of its own: what is there, what is broken, installing.
//!
//! The status database is the judge of success, never the exit code alone. A run of dpkg is never
//! cut short by the end of this process, and never begun while another uses the database.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use p2pinst_files::FileError;
use thiserror::Error;

use crate::check::{Problem, check};
use crate::deb::DebInfo;
use crate::lock::{FrontendLock, LockError};
use crate::status::{Broken, Database, architectures};
use p2pinst_command::{Exit, Finished, ask, clean, run};

/// Why a directory cannot be installed into.
#[derive(Debug, Error)]
pub enum RootError {
    /// It is not there, or no directory.
    #[error(
        "cannot install into {}: {source}; make a root with: p2pinst root prepare {}",
        root.display(), root.display()
    )]
    Unreadable {
        /// The root.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has no dpkg database.
    #[error(
        "cannot install into {}: it has no dpkg database (var/lib/dpkg/{missing} is missing); \
         make one with: p2pinst root prepare {}",
        root.display(), root.display()
    )]
    NoDatabase {
        /// The root.
        root: PathBuf,
        /// What a database would have.
        missing: &'static str,
    },
    /// The database cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// dpkg does not tell its architecture.
    #[error("cannot ask dpkg for the architecture of {}: {source}; is dpkg installed?", root.display())]
    NoTool {
        /// The root.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How long to wait, for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For others to release dpkg's locks.
    pub locks: Duration,
    /// For one run of dpkg with all its scripts; without end when there is none.
    pub run: Option<Duration>,
}

impl Default for Patience {
    /// Ten minutes for the locks: an unattended upgrade takes that. An hour for a run: whatever
    /// takes longer hangs, and an operator should hear of it.
    fn default() -> Self {
        Self { locks: Duration::from_secs(600), run: Some(Duration::from_secs(3600)) }
    }
}

/// Why an interrupted dpkg could not be brought to an end.
#[derive(Debug, Error)]
pub enum RepairError {
    /// Others use the database.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The database cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// dpkg cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// dpkg cannot be started, or its output not be kept.
#[derive(Debug, Error)]
#[error("cannot run dpkg on {} with output to {}: {source}", root.display(), output.display())]
pub struct RunError {
    /// The root.
    pub root: PathBuf,
    /// Where its output should go.
    pub output: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What a repair has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What was broken before.
    pub before: Vec<Broken>,
    /// What still is.
    pub remaining: Vec<Broken>,
    /// How dpkg ended; `None` when there was nothing to do.
    pub exit: Option<Exit>,
    /// dpkg's last words.
    pub log_tail: String,
}

/// dpkg, working on one root.
#[derive(Debug, Clone)]
pub struct Dpkg {
    root: PathBuf,
    log: PathBuf,
    native: String,
}

impl Dpkg {
    /// Opens a root that has a dpkg database. dpkg's own log goes to `log` and the output of its
    /// last run to `log` with `.output` added, both outside of the root.
    ///
    /// # Errors
    /// When the root has no database, with the command that makes one; when dpkg is not there.
    pub fn open(root: &Path, log: &Path) -> Result<Self, RootError> {
        let unreadable = |source| RootError::Unreadable { root: root.to_owned(), source };
        let log = std::path::absolute(log).map_err(unreadable)?;
        // a canonical path is absolute and cannot be taken for an option
        let root = fs::canonicalize(root).map_err(unreadable)?;
        let admin = root.join("var/lib/dpkg");
        for missing in ["status", "info", "updates"] {
            if !admin.join(missing).exists() {
                return Err(RootError::NoDatabase { root, missing });
            }
        }
        let native = match architectures(&admin)?.into_iter().next() {
            Some(native) => native,
            None => own_architecture()
                .map_err(|source| RootError::NoTool { root: root.clone(), source })?,
        };
        Ok(Self { root, log, native })
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The root's own architecture.
    #[must_use]
    pub fn native(&self) -> &str {
        &self.native
    }

    /// What the root has now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn database(&self) -> Result<Database, FileError> {
        Database::read(&self.admin(), &self.native)
    }

    /// When the root's package database was changed last; `None` when that cannot be told.
    #[must_use]
    pub fn changed_at(&self) -> Option<std::time::SystemTime> {
        fs::metadata(self.admin().join("status")).and_then(|m| m.modified()).ok()
    }

    /// The version of a package (of the root's own architecture) that is properly there.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn installed(&self, name: &str) -> Result<Option<String>, FileError> {
        Ok(self.database()?.installed_version(name, &self.native).map(str::to_owned))
    }

    /// Packages that were left in the middle of something.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn audit(&self) -> Result<Vec<Broken>, FileError> {
        Ok(self.database()?.broken())
    }

    /// Everything that speaks against installing this package now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn check(&self, deb: &DebInfo) -> Result<Vec<Problem>, FileError> {
        Ok(check(deb, &self.database()?))
    }

    /// Brings an interrupted dpkg to its end, and reports what remains broken. A package that
    /// must be installed again remains: only its file can repair it.
    ///
    /// # Errors
    /// When the locks are not released in time, or dpkg cannot be run.
    pub fn repair(&self, patience: &Patience) -> Result<RepairReport, RepairError> {
        let _lock = FrontendLock::acquire(&self.admin(), patience.locks)?;
        let database = self.database()?;
        let before = database.broken();
        if before.is_empty() && database.pending_updates == 0 {
            return Ok(RepairReport::default());
        }
        tracing::info!(
            root = %self.root.display(), packages = before.len(),
            "An interrupted dpkg is brought to its end."
        );
        let finished = self.run(patience, |dpkg| dpkg.args(["--configure", "-a"]))?;
        let remaining = self.audit()?;
        let (exit, log_tail) = (Some(finished.exit), finished.tail);
        Ok(RepairReport { before, remaining, exit, log_tail })
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.root.join("var/lib/dpkg")
    }

    /// Runs dpkg on the root. The frontend lock must be held.
    pub(crate) fn run(
        &self,
        patience: &Patience,
        what: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Finished, RunError> {
        let mut output = self.log.clone().into_os_string();
        output.push(".output");
        let output = PathBuf::from(output);
        let mut dpkg = clean("dpkg");
        dpkg.envs([
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
            ("NEEDRESTART_MODE", "l"),
            ("DPKG_FRONTEND_LOCKED", "true"),
        ]);
        dpkg.arg(joined("--root=", &self.root)).arg(joined("--log=", &self.log));
        dpkg.args(["--force-confdef", "--force-confold"]);
        if !rustix::process::geteuid().is_root() && self.root != Path::new("/") {
            // a root of one's own can be used without rights, as long as no script has to run
            dpkg.arg("--force-not-root");
        }
        what(&mut dpkg);
        run(dpkg, &output, patience.run).map_err(|source| RunError {
            root: self.root.clone(),
            output,
            source,
        })
    }
}

fn joined(option: &str, path: &Path) -> std::ffi::OsString {
    let mut joined = std::ffi::OsString::from(option);
    joined.push(path);
    joined
}

/// The architecture of this machine's dpkg.
pub(crate) fn own_architecture() -> io::Result<String> {
    let mut command = clean("dpkg");
    command.arg("--print-architecture");
    let said = ask(command, 64)?;
    let name = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if said.success && !name.is_empty() { Ok(name) } else { Err(io::Error::other(said.stderr)) }
}
