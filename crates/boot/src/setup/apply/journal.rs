//! What was done, in the directory of who applies: for a run that goes on after one that was killed.
//!
//! The stamps on the disks say the same, but a disk that is erased each time (`wipe = "always"`) has none that counts.
//! A lost journal costs the work that was done, and nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use p2pinst_files::{Access, FileError};
use p2pinst_types::Hash;
use serde::{Deserialize, Serialize};

/// The longest journal.
const MAX: u64 = 1 << 20;

/// Steps that are done, by disk and key.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    plan: Hash,
    done: BTreeSet<(usize, String)>,
}

impl Journal {
    /// The journal of an unfinished run of this plan, or a new one. One that cannot be read counts as none.
    pub(super) fn open(dir: &Path, plan: Hash) -> Self {
        let path = dir.join("setup.journal");
        let read = p2pinst_files::read(&path, MAX).ok();
        let state = read.and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        let state = state.filter(|state| state.plan == plan);
        let state = state.unwrap_or(State { plan, done: BTreeSet::new() });
        Self { path, state }
    }

    pub(super) fn has(&self, disk: usize, key: &str) -> bool {
        self.state.done.contains(&(disk, key.to_owned()))
    }

    /// Notes that a step is done, durably.
    pub(super) fn add(&mut self, disk: usize, key: String) -> Result<(), FileError> {
        self.state.done.insert((disk, key));
        let text = serde_json::to_vec(&self.state).unwrap_or_default();
        p2pinst_files::write(&self.path, &text, Access::Private)
    }

    /// Nothing of a disk is done.
    pub(super) fn forget(&mut self, disk: usize) {
        self.state.done.retain(|(of, _)| *of != disk);
    }

    /// The run is at its end.
    pub(super) fn finish(self) -> Result<(), FileError> {
        p2pinst_files::remove(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_of_one_plan() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Hash::of(b"1"), Hash::of(b"2"));
        let mut journal = Journal::open(dir.path(), one);
        journal.add(0, "table".into()).unwrap();
        assert!(Journal::open(dir.path(), one).has(0, "table"));
        assert!(!Journal::open(dir.path(), other).has(0, "table"));
        std::fs::write(dir.path().join("setup.journal"), b"{\"plan\":").unwrap();
        assert!(!Journal::open(dir.path(), one).has(0, "table"));
        journal.finish().unwrap();
        assert!(!dir.path().join("setup.journal").exists());
    }
}
