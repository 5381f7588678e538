//! The files of a directory tree that may hold parts of an older version.

use std::cmp::Reverse;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::CHUNK_MIN;

/// No chunk of an image lies within a shorter file.
const LEAST: u64 = CHUNK_MIN as u64;
/// Entries of a tree that are looked at.
const ENTRIES: usize = 1 << 20;
/// Files of it that are named.
const FILES: usize = 1 << 14;

/// The files below a directory that are worth looking through, the greatest first; of all else the path
/// itself. Neither follows symbolic links below it nor enters other filesystems; what cannot be read is
/// left out.
#[must_use]
pub fn files(path: &Path) -> Vec<PathBuf> {
    files_among(path, ENTRIES)
}

/// The same, but no more than so many entries are looked at.
fn files_among(path: &Path, most: usize) -> Vec<PathBuf> {
    let Some(top) = fs::metadata(path).ok().filter(fs::Metadata::is_dir) else {
        return vec![path.to_owned()];
    };
    let (mut dirs, mut found, mut entries) = (vec![path.to_owned()], Vec::new(), 0);
    'tree: while let Some(dir) = dirs.pop() {
        let Ok(listed) = fs::read_dir(&dir) else { continue };
        for entry in listed.flatten() {
            entries += 1;
            if entries > most {
                break 'tree;
            }
            // of a link: the link's own
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() && about.dev() == top.dev() {
                dirs.push(entry.path());
            } else if about.is_file() && about.len() >= LEAST {
                found.push((Reverse(about.len()), entry.path()));
            }
        }
    }
    found.sort_unstable();
    found.truncate(FILES);
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_files_come_first_and_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let (tree, other) = (temp.path().join("tree"), temp.path().join("other"));
        fs::create_dir_all(tree.join("usr/lib")).unwrap();
        fs::create_dir(&other).unwrap();
        let write = |path: &Path, len: u64| fs::File::create(path).unwrap().set_len(len).unwrap();
        let (small, large) = (tree.join("large"), tree.join("usr/lib/larger"));
        write(&small, LEAST);
        write(&large, 2 * LEAST);
        write(&tree.join("tiny"), LEAST - 1);
        write(&other.join("elsewhere"), 3 * LEAST);
        std::os::unix::fs::symlink(&other, tree.join("link")).unwrap();
        std::os::unix::fs::symlink(other.join("elsewhere"), tree.join("file")).unwrap();
        assert_eq!(files(&tree), [large.clone(), small]);
        assert!(files_among(&tree.join("usr"), 1).is_empty(), "only `lib` is looked at");
        assert_eq!(files_among(&tree.join("usr"), 2).len(), 1);
        assert_eq!(files(&large), [large]);
        assert_eq!(files(&tree.join("none")), [tree.join("none")]);
    }
}
