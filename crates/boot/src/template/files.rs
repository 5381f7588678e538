//! A directory of text files, in memory: what a graph is made of.
//!
//! Names are safe as paths below any directory. Everything is bounded, so that a directory fits into one small blob.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use p2pinst_files::{Context, FileError};
use thiserror::Error;

/// Files of one graph.
pub(crate) const FILES: usize = 1000;
/// Bytes of all files of one graph together.
pub(crate) const BYTES: u64 = 4 * 1024 * 1024;
/// Bytes of a file's name: what a plain tar header has room for.
const NAME: usize = 100;
/// Directories below one another.
const DEPTH: usize = 8;
/// Entries that are looked at in one directory before it is refused: a wrong path (`/`) is found out soon.
const ENTRIES: usize = 10_000;

/// Why files cannot be those of a graph.
#[derive(Debug, Error)]
pub enum FilesError {
    /// A name that would not be safe, or does not fit.
    #[error(
        "{name:?} cannot be a file of a graph: use at most {NAME} letters, digits and . _ + - in up to {DEPTH} directories, none beginning with a dot"
    )]
    Name {
        /// The name, cut.
        name: String,
    },
    /// Two files of one name.
    #[error("{name} is there twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// Something that is neither a file nor a directory.
    #[error("{name} is no regular file: a graph has neither links nor devices; copy the content")]
    Kind {
        /// The name.
        name: String,
    },
    /// Bytes that are no text.
    #[error("{name} is no UTF-8 text: a graph has texts only; bring other files in a package")]
    Text {
        /// The name.
        name: String,
    },
    /// Too many files, or too many bytes.
    #[error(
        "the graph is too large: at most {FILES} files with {BYTES} bytes in all, and {name} is beyond"
    )]
    TooLarge {
        /// The first file that does not fit.
        name: String,
    },
    /// The system would not let it be read.
    #[error(transparent)]
    Read(#[from] FileError),
}

/// The text files of a graph, by their names below its directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    texts: BTreeMap<String, String>,
    bytes: u64,
}

impl Files {
    /// No files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When the name is not safe or there already, or the file does not fit.
    pub fn insert(&mut self, name: &str, text: String) -> Result<(), FilesError> {
        if !is_safe(name) {
            return Err(FilesError::Name { name: name.chars().take(NAME).collect() });
        }
        if self.texts.contains_key(name) {
            return Err(FilesError::Twice { name: name.to_owned() });
        }
        let bytes = self.bytes.saturating_add(text.len() as u64);
        if self.texts.len() >= FILES || bytes > BYTES {
            return Err(FilesError::TooLarge { name: name.to_owned() });
        }
        self.bytes = bytes;
        self.texts.insert(name.to_owned(), text);
        Ok(())
    }

    /// The text of a file.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// Names and texts, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Reads a directory; what begins with a dot (`.git`) is left out. Blocking.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or holds something that a graph cannot hold.
    pub fn read(dir: &Path) -> Result<Self, FilesError> {
        let mut files = Self::new();
        let mut left = ENTRIES;
        files.read_below(dir, "", &mut left)?;
        Ok(files)
    }

    fn read_below(&mut self, dir: &Path, prefix: &str, left: &mut usize) -> Result<(), FilesError> {
        for entry in fs::read_dir(dir).context("read the directory", dir)? {
            let path = entry.context("read the directory", dir)?.path();
            let Some(last) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else {
                continue;
            };
            if last.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}{last}");
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(FilesError::TooLarge { name });
            }
            let kind = fs::symlink_metadata(&path).context("read", &path)?.file_type();
            if kind.is_dir() {
                // the name of a file in it is longer still
                if !is_safe(&name) {
                    return Err(FilesError::Name { name });
                }
                self.read_below(&path, &format!("{name}/"), left)?;
            } else if kind.is_file() {
                let text = read_text(&path, &name)?;
                self.insert(&name, text)?;
            } else {
                return Err(FilesError::Kind { name });
            }
        }
        Ok(())
    }
}

fn read_text(path: &PathBuf, name: &str) -> Result<String, FilesError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|f| f.take(BYTES + 1).read_to_end(&mut bytes));
    read.context("read", path)?;
    String::from_utf8(bytes).map_err(|_| FilesError::Text { name: name.to_owned() })
}

/// Whether a name stays below the directory that it is used in, everywhere.
fn is_safe(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
    };
    name.len() <= NAME && name.split('/').count() <= DEPTH && name.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below() {
        for good in ["graph.toml", "nodes/base.toml", "templates/a/b+c_d-e.sh"] {
            assert!(is_safe(good), "{good}");
        }
        let long = "x".repeat(101);
        let deep = "a/".repeat(8) + "a";
        for bad in
            ["", "/", "/etc/passwd", "a//b", "a/", "../a", "a/../b", ".git", "a/.b", "a\\b", "a b"]
                .into_iter()
                .chain(["é", "a\n", "a\0", &long, &deep])
        {
            let refused = Files::new().insert(bad, String::new());
            assert!(matches!(refused, Err(FilesError::Name { .. })), "{bad:?}");
        }
    }

    #[test]
    fn bounded() {
        let mut files = Files::new();
        files.insert("big", "x".repeat(BYTES as usize)).unwrap();
        assert!(matches!(files.insert("more", "x".into()), Err(FilesError::TooLarge { .. })));
        assert!(matches!(files.insert("big", String::new()), Err(FilesError::Twice { .. })));
        let mut files = Files::new();
        for i in 0..FILES {
            files.insert(&format!("f{i}"), String::new()).unwrap();
        }
        let refused = files.insert("one-more", String::new()).unwrap_err().to_string();
        assert!(refused.contains("one-more") && refused.contains("1000"), "{refused}");
    }

    #[test]
    fn directories_are_read_without_what_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::create_dir_all(path.join("nodes")).unwrap();
        fs::create_dir_all(path.join(".git")).unwrap();
        fs::write(path.join("graph.toml"), "a").unwrap();
        fs::write(path.join("nodes/base.toml"), "b").unwrap();
        fs::write(path.join(".git/HEAD"), "c").unwrap();
        let files = Files::read(path).unwrap();
        assert_eq!(
            files.iter().collect::<Vec<_>>(),
            [("graph.toml", "a"), ("nodes/base.toml", "b")]
        );
        fs::write(path.join("bytes"), [0xff]).unwrap();
        assert!(matches!(Files::read(path), Err(FilesError::Text { .. })));
        fs::remove_file(path.join("bytes")).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", path.join("nodes/link")).unwrap();
        let refused = Files::read(path).unwrap_err().to_string();
        assert!(refused.starts_with("nodes/link is no regular file"), "{refused}");
        assert!(matches!(Files::read(&path.join("none")), Err(FilesError::Read(_))));
    }
}
