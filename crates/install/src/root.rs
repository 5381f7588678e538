//! Making roots: directories with a dpkg database, to install into.
//!
//! A skeleton is an empty database and holds packages without scripts. A minbase is a small
//! Debian whose shell can run them, made once and shared by overlay: see [`crate::minbase`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use p2pinst_files::{Access, Context, FileError};
use thiserror::Error;

use crate::dpkg::own_architecture;

/// What `dpkg --root` wants to find.
const DIRECTORIES: [&str; 6] = ["info", "updates", "triggers", "alternatives", "parts", "methods"];

/// What was done to make a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// There is a new root.
    Made,
    /// There was a root before; what may have been missing is there now.
    Already,
}

/// Why a root cannot be made.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The directory has something in it that is no root.
    #[error(
        "cannot make a root of {}: it is not empty (it has {found:?}) and no dpkg root; \
         choose an empty or a new directory", dir.display()
    )]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// Something in it.
        found: PathBuf,
    },
    /// A file or directory cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// dpkg does not tell its architecture.
    #[error(
        "cannot ask dpkg for its architecture: {source}; install it with: apt-get install dpkg"
    )]
    NoDpkg {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Only root may make devices and mount.
    #[error(
        "cannot make a minbase root in {}: that takes root's rights; run it with sudo, or make \
         a skeleton with: p2pinst root prepare {}", dir.display(), dir.display()
    )]
    NotRoot {
        /// The directory.
        dir: PathBuf,
    },
    /// debootstrap is not there, or cannot be started.
    #[error("cannot start debootstrap: {source}; install it with: apt-get install debootstrap")]
    NoDebootstrap {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// debootstrap ran and failed.
    #[error("debootstrap failed to make {} ({log} tells all):\n{said}", base.display(), log = log.display())]
    Debootstrap {
        /// What it should make.
        base: PathBuf,
        /// All that it said.
        log: PathBuf,
        /// Its last words.
        said: String,
    },
    /// The overlay cannot be mounted.
    #[error(
        "cannot mount the overlay of {} on {}: {source}; the directory must lie on a file system \
         that bears overlays (ext4, xfs, btrfs, tmpfs)", base.display(), dir.display()
    )]
    Mount {
        /// The lower directory.
        base: PathBuf,
        /// Where it should appear.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path that overlay options cannot hold.
    #[error("cannot mount an overlay with the path {}: it has a comma, colon, backslash or quote", path.display())]
    OddPath {
        /// The path.
        path: PathBuf,
    },
}

/// Makes an empty dpkg database in a new or empty directory. Does nothing to one that is there.
///
/// # Errors
/// When the directory has something else in it, or cannot be written; when dpkg is not there.
pub fn prepare_skeleton(dir: &Path) -> Result<Prepared, PrepareError> {
    let admin = dir.join("var/lib/dpkg");
    let already = is_root(dir);
    if !already {
        refuse_foreign(dir)?;
    }
    fs::create_dir_all(&admin).context("make the directory", &admin)?;
    // The status comes first: it makes the directory a root, which a second try completes.
    let architecture = own_architecture().map_err(|source| PrepareError::NoDpkg { source })?;
    for (name, content) in [("status", ""), ("available", ""), ("arch", architecture.as_str())] {
        let path = admin.join(name);
        let content = if content.is_empty() { String::new() } else { format!("{content}\n") };
        if !path.exists() && (name != "arch" || !already) {
            p2pinst_files::write(&path, content.as_bytes(), Access::Public)?;
        }
    }
    for name in DIRECTORIES {
        let path = admin.join(name);
        fs::create_dir_all(&path).context("make the directory", &path)?;
    }
    p2pinst_files::sync_dir(&admin)?;
    Ok(if already { Prepared::Already } else { Prepared::Made })
}

/// Whether a directory has a dpkg database.
pub(crate) fn is_root(dir: &Path) -> bool {
    dir.join("var/lib/dpkg/status").exists()
}

/// Refuses a directory with anything in it but what an interrupted preparation leaves.
pub(crate) fn refuse_foreign(dir: &Path) -> Result<(), PrepareError> {
    let mut at = dir.to_owned();
    for ours in ["var", "lib", "dpkg", ""] {
        let entries = match fs::read_dir(&at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.context("read the directory", &at)?,
        };
        for entry in entries {
            let name = entry.context("read the directory", &at)?.file_name();
            // a new file system is not quite empty; a temporary file is ours
            let temporary = ours.is_empty() && name.as_encoded_bytes().starts_with(b".new-");
            if name != ours && name != "lost+found" && !temporary {
                return Err(PrepareError::NotEmpty { dir: dir.to_owned(), found: at.join(name) });
            }
        }
        at.push(ours);
    }
    Ok(())
}
