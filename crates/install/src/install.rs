//! Installing one package with dpkg, and telling precisely what became of it.

use std::fmt;
use std::path::{Path, PathBuf};

use p2pinst_files::FileError;
use p2pinst_types::record::install::{Action, Manager, PackageId};
use thiserror::Error;

use crate::check::{Problem, check, replaced};
use crate::deb::{DebInfo, InspectError, identify};
use crate::dpkg::{Dpkg, Patience, RunError};
use crate::lock::{FrontendLock, LockError};
use crate::status::{Broken, Database, State};
use p2pinst_command::{Exit, Finished};

/// How to install.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstallOptions {
    /// Whether a newer version may be replaced.
    pub allow_downgrade: bool,
    /// How long to wait.
    pub patience: Patience,
}

/// What was done, and verified in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallReport {
    /// What it was.
    pub action: Action,
    /// The version that was there before.
    pub old_version: Option<String>,
    /// dpkg's exit code.
    pub exit_code: i32,
    /// How long dpkg took.
    pub millis: u64,
    /// dpkg's last words.
    pub log_tail: String,
}

/// Why a package was not installed.
#[derive(Debug, Error)]
pub enum InstallError {
    /// The file is no package (any more).
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The file is another package than it was.
    #[error("{} is {found}, but {expected} was to be installed: the file was replaced", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: Box<PackageId>,
        /// What it is.
        found: Box<PackageId>,
    },
    /// Others use the database.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The database cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A newer version is there.
    #[error(
        "{package} is older than {installed}, which is installed in {}; \
         to replace it, publish with --allow-downgrade", root.display()
    )]
    Downgrade {
        /// What was to be installed.
        package: Box<PackageId>,
        /// The newer version.
        installed: String,
        /// Where.
        root: PathBuf,
    },
    /// Something speaks against it; nothing was touched.
    #[error("{package} cannot be installed in {}: it {}", root.display(), list(problems))]
    Unfit {
        /// What was to be installed.
        package: Box<PackageId>,
        /// Where.
        root: PathBuf,
        /// Everything that speaks against it.
        problems: Vec<Problem>,
    },
    /// dpkg cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// dpkg ran, and the package is not what it should be.
    #[error(transparent)]
    Failed(Box<Failure>),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; it ")
}

/// What dpkg left behind when it failed.
#[derive(Debug, Error)]
pub struct Failure {
    /// What was to be installed.
    pub package: PackageId,
    /// Where.
    pub root: PathBuf,
    /// What it would have been.
    pub action: Action,
    /// The version that was there before.
    pub old_version: Option<String>,
    /// How dpkg ended.
    pub exit: Exit,
    /// The package as it is now; `None` when it is not there.
    pub left: Option<Broken>,
    /// What was done about it.
    pub cleanup: Cleanup,
    /// Other packages that are broken now and were not before.
    pub others: Vec<Broken>,
    /// Whether a script could not run because the root has no shell.
    pub no_shell: bool,
    /// How long dpkg took.
    pub millis: u64,
    /// dpkg's last words.
    pub log_tail: String,
}

/// What was done about a package that dpkg left half-way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleanup {
    /// Nothing: dpkg itself left nothing behind, or there was an earlier version.
    None,
    /// It was not there before, and has been removed again.
    Removed,
    /// It was not there before, and cannot be removed either; dpkg's last words on that.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.root.display();
        write!(f, "{} was not installed in {root}: dpkg {}", self.package, self.exit)?;
        match (&self.left, &self.cleanup) {
            (_, Cleanup::Removed) => {
                f.write_str("; what it had left half-way was removed again")?
            }
            (Some(left), Cleanup::None) => write!(f, "; {left}")?,
            (Some(left), Cleanup::Failed(why)) => {
                write!(f, "; {left}, and cannot be removed: {why}")?;
            }
            (None, _) => f.write_str("; nothing was left behind")?,
        }
        for other in &self.others {
            write!(f, "; {other}")?;
        }
        if self.no_shell {
            write!(
                f,
                "; its scripts cannot run because {root} has no /bin/sh: make a root that has \
                 one with: p2pinst root prepare --minbase DIR"
            )?;
        }
        if self.log_tail.is_empty() { Ok(()) } else { write!(f, "\n{}", self.log_tail) }
    }
}

impl Dpkg {
    /// Installs a package that was inspected before, and verifies in the database that exactly
    /// this version is properly there. Blocks until dpkg has ended.
    ///
    /// A package that was not there before and fails is removed again, if it lets itself be
    /// removed; of a failed upgrade dpkg restores what it can. Either way the error tells.
    ///
    /// # Errors
    /// When the file changed, the locks are not released in time, something speaks against
    /// installing (nothing is touched then), or dpkg fails.
    pub fn install(
        &self,
        path: &Path,
        deb: &DebInfo,
        options: &InstallOptions,
    ) -> Result<InstallReport, InstallError> {
        let path = &std::path::absolute(path)
            .map_err(|source| InspectError::Read { path: path.to_owned(), source })?;
        let _lock = FrontendLock::acquire(&self.admin(), options.patience.locks)?;
        let found = identify(path)?;
        if found != *deb {
            return Err(InstallError::Changed {
                path: path.clone(),
                expected: Box::new(deb.package.clone()),
                found: Box::new(found.package),
            });
        }
        let before = self.database()?;
        let (action, old_version) = self.judge(deb, &before, options)?;
        let finished = self.run(&options.patience, |dpkg| {
            if !options.allow_downgrade {
                dpkg.arg("--refuse-downgrade");
            }
            dpkg.arg("--install").arg(path)
        })?;
        let attempt = Attempt { dpkg: self, deb, before: &before, action, old_version };
        attempt.verify(finished, &options.patience)
    }

    /// What installing would be, if nothing speaks against it.
    fn judge(
        &self,
        deb: &DebInfo,
        before: &Database,
        options: &InstallOptions,
    ) -> Result<(Action, Option<String>), InstallError> {
        let (root, package) = (self.root().to_owned(), Box::new(deb.package.clone()));
        let problems = check(deb, before);
        if !problems.is_empty() {
            return Err(InstallError::Unfit { package, root, problems });
        }
        let Some(old) = replaced(deb, before).map(|p| p.version.clone()) else {
            return Ok((Action::Install, None));
        };
        let action = match Manager::Dpkg.compare(&old, &package.version) {
            std::cmp::Ordering::Less => Action::Upgrade,
            std::cmp::Ordering::Equal => Action::Reinstall,
            std::cmp::Ordering::Greater => Action::Downgrade,
        };
        if action == Action::Downgrade && !options.allow_downgrade {
            return Err(InstallError::Downgrade { package, installed: old, root });
        }
        Ok((action, Some(old)))
    }
}

/// One run of dpkg, to be judged.
struct Attempt<'a> {
    dpkg: &'a Dpkg,
    deb: &'a DebInfo,
    before: &'a Database,
    action: Action,
    old_version: Option<String>,
}

impl Attempt<'_> {
    fn verify(self, ended: Finished, patience: &Patience) -> Result<InstallReport, InstallError> {
        let package = &self.deb.package;
        let millis = u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX);
        let mut after = self.dpkg.database()?;
        let installed = after.get(&package.name, &package.architecture).is_some_and(|p| {
            p.state == State::Installed && !p.reinstall_required && p.version == package.version
        });
        if let (Exit::Code(exit_code @ 0), true) = (ended.exit, installed) {
            return Ok(InstallReport {
                action: self.action,
                old_version: self.old_version,
                exit_code,
                millis,
                log_tail: ended.tail,
            });
        }
        let mut cleanup = Cleanup::None;
        if self.action == Action::Install && self.left(&after).is_some() && !installed {
            cleanup = self.remove(patience)?;
            after = self.dpkg.database()?;
        }
        let known = self.before.broken();
        let others = after.broken().into_iter().filter(|b| b.name != package.name);
        let no_shell = ended.tail.contains("unable to execute")
            && self.dpkg.root().join("bin/sh").symlink_metadata().is_err();
        Err(InstallError::Failed(Box::new(Failure {
            package: package.clone(),
            root: self.dpkg.root().to_owned(),
            action: self.action,
            old_version: self.old_version.clone(),
            exit: ended.exit,
            left: self.left(&after),
            cleanup,
            others: others.filter(|b| !known.contains(b)).collect(),
            no_shell,
            millis,
            log_tail: ended.tail,
        })))
    }

    /// The package as it is, when anything of it is there.
    fn left(&self, database: &Database) -> Option<Broken> {
        let package = &self.deb.package;
        database
            .get(&package.name, &package.architecture)
            .filter(|p| p.state.is_present() || p.reinstall_required)
            .map(Broken::of)
    }

    fn remove(&self, patience: &Patience) -> Result<Cleanup, InstallError> {
        let PackageId { name, architecture, .. } = &self.deb.package;
        let named = match architecture.as_str() {
            "all" => name.clone(),
            _ => format!("{name}:{architecture}"),
        };
        tracing::info!(package = %name, "A first installation failed; the package is removed again.");
        let ended = self
            .dpkg
            .run(patience, |dpkg| dpkg.args(["--force-remove-reinstreq", "--remove", &named]))?;
        let gone = self.left(&self.dpkg.database()?).is_none();
        Ok(if gone { Cleanup::Removed } else { Cleanup::Failed(ended.tail) })
    }
}
