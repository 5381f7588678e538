//! The blobs that people have pinned: a text file, replaced whole at every change.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use p2pinst_files::{Access, FileError};
use p2pinst_types::Hash;
use thiserror::Error;

/// First line of the file: its name and the version of its format.
const HEADER: &str = "p2pinst-pins-1";
/// Pins at once: more than a person makes.
const MOST: usize = 10_000;
/// Bytes of the whole file: 65 for each pin.
const FILE_MAX: u64 = 1024 * 1024;

/// Why a blob was not pinned.
#[derive(Debug, Error)]
pub enum PinError {
    /// It is not here.
    #[error("blob {root} is not in the store")]
    Unknown {
        /// The blob.
        root: Hash,
    },
    /// There are too many.
    #[error("{MOST} blobs are pinned: unpin some first")]
    TooMany,
    /// The file is not what it should be.
    #[error("{} is not a list of pins that this version reads (line {line})", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The first line that is wrong, from 1.
        line: usize,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    roots: BTreeSet<Hash>,
}

impl Pins {
    pub(super) fn open(path: PathBuf) -> Result<Self, PinError> {
        let bytes = match p2pinst_files::read(&path, FILE_MAX) {
            Ok(bytes) => bytes,
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, roots: BTreeSet::new() });
            }
            Err(e) => return Err(e.into()),
        };
        let text = String::from_utf8_lossy(&bytes);
        let foreign = |line| PinError::Foreign { path: path.clone(), line };
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(foreign(1));
        }
        let root = |(at, line): (usize, &str)| line.parse().map_err(|_| foreign(at + 2));
        let roots = lines.enumerate().map(root).collect::<Result<_, _>>()?;
        Ok(Self { path, roots })
    }

    pub(super) fn contains(&self, root: &Hash) -> bool {
        self.roots.contains(root)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Hash> + '_ {
        self.roots.iter().copied()
    }

    /// Pins or unpins, durably; whether that changed anything.
    pub(super) fn set(&mut self, root: Hash, pin: bool) -> Result<bool, PinError> {
        if self.roots.contains(&root) == pin {
            return Ok(false);
        }
        if pin && self.roots.len() >= MOST {
            return Err(PinError::TooMany);
        }
        let mut roots = self.roots.clone();
        if pin {
            roots.insert(root);
        } else {
            roots.remove(&root);
        }
        let lines: String = roots.iter().map(|r| format!("{r}\n")).collect();
        let text = format!("{HEADER}\n{lines}");
        p2pinst_files::write(&self.path, text.as_bytes(), Access::Private)?;
        self.roots = roots;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_survive_and_other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let (a, b) = (Hash([1; 32]), Hash([2; 32]));
        let mut pins = Pins::open(path.clone()).unwrap();
        assert!(pins.set(a, true).unwrap() && pins.set(b, true).unwrap());
        assert!(!pins.set(a, true).unwrap());
        assert!(pins.set(b, false).unwrap());
        let pins = Pins::open(path.clone()).unwrap();
        assert!(pins.contains(&a) && !pins.contains(&b));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("p2pinst-pins-1\n{a}\n"));
        for bad in ["p2pinst-pins-2\n", "p2pinst-pins-1\nxyz\n", ""] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Pins::open(path.clone()), Err(PinError::Foreign { .. })), "{bad}");
        }
    }
}
