//! Out of the unpacked packages into the archive: programs, and every library that they are linked with.
//!
//! Only what is asked for goes in. Whether all that a program needs is there, in a version that has what it needs, is checked here,
//! and not when the scout has booted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::elf::{self, ElfError, Program};
use crate::cpio::{Archive, CpioError};

/// Linux follows at most 40 links in a path.
const LINKS_MAX: usize = 40;
/// Where the loader looks for libraries (Debian multiarch).
const LIBRARY_DIRS: &[&str] = &["/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/lib64"];
/// The directories that a merged `/usr` replaces by links.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64", "lib32", "libx32"];

/// What a scout lacks.
#[derive(Debug, Error)]
pub enum TreeError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program's format.
    #[error("{program} {source}")]
    Elf {
        /// The program.
        program: String,
        /// What is wrong.
        #[source]
        source: ElfError,
    },
    /// No package has the library.
    #[error(
        "{program} needs the library {library}, which no package of the scout has: link it statically, or leave it out"
    )]
    Library {
        /// What needs it.
        program: String,
        /// Its soname.
        library: String,
    },
    /// The library is older than the one that the program was linked with.
    #[error(
        "{program} needs {version} of {library}, and the scout's is older: build it on a system no newer than the scout's packages, or link it statically"
    )]
    Version {
        /// What needs it.
        program: String,
        /// The library.
        library: String,
        /// The version of its symbols.
        version: String,
    },
    /// A link leads out of the tree or in a circle.
    #[error("the link {0} in the scout's packages leads nowhere")]
    Link(String),
    /// It cannot be in the archive.
    #[error(transparent)]
    Archive(#[from] CpioError),
}

/// The unpacked packages, and what was taken of them.
pub(crate) struct Tree<'a> {
    root: &'a Path,
    archive: &'a mut Archive,
    /// What was taken and not looked through for libraries yet: its name, and what it needs.
    open: VecDeque<(String, Program)>,
    /// By path, what each library taken defines.
    libraries: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(root: &'a Path, archive: &'a mut Archive) -> Self {
        Self { root, archive, open: VecDeque::new(), libraries: BTreeMap::new() }
    }

    /// Takes a file of the packages; of a link also what it leads to.
    pub(crate) fn take(&mut self, path: &str) -> Result<(), TreeError> {
        let mut path = normal(path, "/").ok_or_else(|| TreeError::Link(path.to_owned()))?;
        for _ in 0..LINKS_MAX {
            if self.archive.has(&path) {
                return Ok(());
            }
            let file = place(self.root, &path);
            let error = |source| TreeError::Read { path: file.clone(), source };
            let meta = fs::symlink_metadata(&file).map_err(error)?;
            if !meta.is_symlink() {
                let content = fs::read(&file).map_err(error)?;
                let executable = meta.permissions().mode() & 0o111 != 0;
                self.look_through(&path, &content)?;
                self.archive.file(&path, executable, content)?;
                return Ok(());
            }
            let target = fs::read_link(&file).map_err(error)?;
            let target = target.to_str().ok_or_else(|| TreeError::Link(path.clone()))?;
            self.archive.link(&path, target)?;
            let dir = path.rsplit_once('/').map_or("/", |(dir, _)| dir);
            path = normal(target, dir).ok_or_else(|| TreeError::Link(path.clone()))?;
        }
        Err(TreeError::Link(path))
    }

    /// Takes a program of the packages, from whichever of the two directories it is in.
    pub(crate) fn program(&mut self, name: &str) -> Result<(), TreeError> {
        let system = format!("/usr/sbin/{name}");
        if fs::symlink_metadata(place(self.root, &system)).is_ok() {
            return self.take(&system);
        }
        self.take(&format!("/usr/bin/{name}"))
    }

    /// Takes a program from elsewhere to a place in the scout.
    pub(crate) fn bring(&mut self, from: &Path, to: &str) -> Result<(), TreeError> {
        let content =
            fs::read(from).map_err(|source| TreeError::Read { path: from.to_owned(), source })?;
        self.look_through(&from.display().to_string(), &content)?;
        self.archive.file(to, true, content)?;
        Ok(())
    }

    fn look_through(&mut self, path: &str, content: &[u8]) -> Result<(), TreeError> {
        if elf::is_elf(content) {
            let program = elf::read(content)
                .map_err(|source| TreeError::Elf { program: path.to_owned(), source })?;
            self.libraries.insert(path.to_owned(), program.defines.clone());
            self.open.push_back((path.to_owned(), program));
        }
        Ok(())
    }

    /// Takes the libraries of all that was taken, and theirs. At the end every program has what it needs.
    pub(crate) fn complete(mut self) -> Result<(), TreeError> {
        while let Some((name, program)) = self.open.pop_front() {
            if let Some(loader) = &program.interpreter {
                let missing =
                    |_| TreeError::Library { program: name.clone(), library: loader.clone() };
                self.take(loader).map_err(missing)?;
            }
            for library in &program.libraries {
                let path = self.find(library, &program.search).ok_or_else(|| {
                    TreeError::Library { program: name.clone(), library: library.clone() }
                })?;
                self.take(&path)?;
                let defines = self.real(&path).and_then(|real| self.libraries.get(&real));
                let needs = program.needs.iter().filter(|need| need.library == *library);
                for need in needs {
                    if !defines.is_some_and(|defines| defines.contains(&need.version)) {
                        return Err(TreeError::Version {
                            program: name,
                            library: library.clone(),
                            version: need.version.clone(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Where the loader finds a library.
    fn find(&self, library: &str, search: &[String]) -> Option<String> {
        if library.contains('/') {
            return None;
        }
        let own = search.iter().map(String::as_str).filter(|dir| dir.starts_with('/'));
        own.chain(LIBRARY_DIRS.iter().copied()).find_map(|dir| {
            let path = normal(library, dir)?;
            self.real(&path).map(|_| path)
        })
    }

    /// The file that a path leads to within the tree.
    fn real(&self, path: &str) -> Option<String> {
        let mut path = normal(path, "/")?;
        for _ in 0..LINKS_MAX {
            let file = place(self.root, &path);
            if !fs::symlink_metadata(&file).ok()?.is_symlink() {
                return Some(path);
            }
            let target = fs::read_link(&file).ok()?;
            let dir = path.rsplit_once('/').map_or("/", |(dir, _)| dir);
            path = normal(target.to_str()?, dir)?;
        }
        None
    }
}

/// Where a path of the merged `/usr` is among the unpacked packages: some have their files in `/bin` still.
pub(crate) fn place(root: &Path, path: &str) -> PathBuf {
    let merged = root.join(path.trim_start_matches('/'));
    if fs::symlink_metadata(&merged).is_err()
        && let Some(old) = path.trim_start_matches('/').strip_prefix("usr/")
        && fs::symlink_metadata(root.join(old)).is_ok()
    {
        return root.join(old);
    }
    merged
}

/// A path as it is in a merged `/usr`, seen from a directory, without `.` and `..`; `None` when it leads above the root.
fn normal(path: &str, dir: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let from = if path.starts_with('/') { "" } else { dir };
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    if parts.first().is_some_and(|first| MERGED.contains(first)) {
        parts.insert(0, "usr");
    }
    Some(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_a_merged_usr() {
        let seen = |path, dir| normal(path, dir);
        assert_eq!(seen("/lib64/ld.so", "/x"), Some("/usr/lib64/ld.so".into()));
        assert_eq!(seen("libc.so.6", "/lib/a"), Some("/usr/lib/a/libc.so.6".into()));
        assert_eq!(seen("../bin/./a", "/usr/sbin"), Some("/usr/bin/a".into()));
        assert_eq!(seen("../../../etc/shadow", "/usr/sbin"), None);
        assert_eq!(seen("/usr/bin/a", "/"), Some("/usr/bin/a".into()));
    }

    #[test]
    fn links_stay_in_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for dir in ["usr/bin", "sbin"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.join(at)).unwrap();
        link("/usr/bin/b", "usr/bin/a");
        link("a", "usr/bin/b");
        link("../../../../etc/passwd", "usr/bin/out");
        link("/sbin/tool", "usr/bin/tool");
        fs::write(root.join("sbin/tool"), "#!/bin/sh\n").unwrap();
        let mut archive = Archive::default();
        let mut tree = Tree::new(root, &mut archive);
        assert!(matches!(tree.take("/bin/out"), Err(TreeError::Link(_))));
        assert!(tree.real("/bin/a").is_none());
        tree.take("/bin/tool").unwrap();
        tree.complete().unwrap();
        assert!(archive.has("/usr/sbin/tool") && archive.has("usr/bin/tool"));
    }

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::default();
        let mut tree = Tree::new(dir.path(), &mut archive);
        tree.bring(Path::new("/bin/sh"), "/usr/sbin/p2pinstd").unwrap();
        let error = tree.complete().unwrap_err().to_string();
        assert!(error.contains("/bin/sh needs the library /lib"), "{error}");
    }
}
