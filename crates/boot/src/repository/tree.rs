//! The files below a directory that is to be published as a repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path as FsPath, PathBuf};

use p2pinst_files::{Context, FileError};
use thiserror::Error;

use super::path::{BadPath, DEPTH, Path};
use super::{FILES, IndexError};

/// Why a directory is no repository.
#[derive(Debug, Error)]
pub enum TreeError {
    /// A name that cannot be handed out.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// A name that is no text.
    #[error("{} is no UTF-8 text: rename it", path.display())]
    Text {
        /// The file.
        path: PathBuf,
    },
    /// A link that leads out of the directory.
    #[error("{} leads out of the directory: copy what it leads to", path.display())]
    Outside {
        /// The link.
        path: PathBuf,
    },
    /// Something that is neither a file nor a directory.
    #[error("{} is neither a file nor a directory", path.display())]
    Kind {
        /// It.
        path: PathBuf,
    },
    /// Too much.
    #[error(transparent)]
    TooMany(#[from] IndexError),
    /// Nothing.
    #[error("there is no file in {}", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// The system would not let it be read.
    #[error(transparent)]
    Read(#[from] FileError),
}

/// The files below a directory, by where they will be. Links within the directory (`stable` in Debian's archive) are followed.
/// Blocking.
///
/// # Errors
/// When it cannot be read, or holds something that cannot be handed out.
pub fn tree(dir: &FsPath) -> Result<BTreeMap<Path, PathBuf>, TreeError> {
    let root = fs::canonicalize(dir).context("find", dir)?;
    let mut files = BTreeMap::new();
    let mut left = vec![(root.clone(), String::new())];
    while let Some((dir, prefix)) = left.pop() {
        for entry in fs::read_dir(&dir).context("read the directory", &dir)? {
            let path = entry.context("read the directory", &dir)?.path();
            let last = path.file_name().and_then(|name| name.to_str());
            let last = last.ok_or_else(|| TreeError::Text { path: path.clone() })?;
            let name = format!("{prefix}{last}");
            // a link's directory could be its own
            let real = fs::canonicalize(&path).context("find", &path)?;
            if !real.starts_with(&root) {
                return Err(TreeError::Outside { path });
            }
            let kind = fs::metadata(&real).context("read", &real)?.file_type();
            if kind.is_dir() {
                if name.split('/').count() >= DEPTH {
                    name.parse::<Path>()
                        .map(drop)
                        .and_then(|()| format!("{name}/x").parse::<Path>())?;
                }
                left.push((real, format!("{name}/")));
            } else if kind.is_file() {
                files.insert(name.parse()?, real);
            } else {
                return Err(TreeError::Kind { path });
            }
            if files.len() + left.len() > FILES {
                return Err(IndexError::TooMany(files.len() + left.len()).into());
            }
        }
    }
    if files.is_empty() { Err(TreeError::Empty { path: root }) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_within_are_followed_and_others_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(matches!(tree(path), Err(TreeError::Empty { .. })));
        fs::create_dir_all(path.join("dists/bookworm")).unwrap();
        fs::write(path.join("dists/bookworm/Release"), "x").unwrap();
        symlink("bookworm", path.join("dists/stable")).unwrap();
        let found = tree(path).unwrap();
        let names: Vec<&str> = found.keys().map(Path::as_str).collect();
        assert_eq!(names, ["dists/bookworm/Release", "dists/stable/Release"]);
        assert_eq!(found.values().next(), found.values().last(), "one file");
        symlink("..", path.join("dists/circle")).unwrap();
        assert!(tree(path).is_err(), "a circle has no end");
        fs::remove_file(path.join("dists/circle")).unwrap();
        symlink("/etc/passwd", path.join("passwd")).unwrap();
        assert!(matches!(tree(path), Err(TreeError::Outside { .. })));
        assert!(matches!(tree(&path.join("none")), Err(TreeError::Read(_))));
    }
}
