//! tar archives, read with distrust.
//!
//! What comes out of [`Walker`] is lawful: every path is relative and has no `..`, no path leads through a
//! symbolic link of the archive, numbers are numbers, and all is bounded. [`Writer`] writes what was understood, and nothing else,
//! as a new archive: who unpacks that sees what was checked, however the two would have read the original.
//!
//! POSIX.1-2017 pax, GNU tar's manual (appendix "Tar Internals") for long names and sparse files.

mod path;
mod pax;
mod sparse;
mod walk;
mod write;

use std::io;

use thiserror::Error;

pub use self::path::Place;
pub use self::walk::Walker;
pub use self::write::Writer;

/// All that is in a tar lies in units of this.
pub(crate) const BLOCK: usize = 512;

/// What an archive may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of the files, holes included.
    pub bytes: u64,
}

impl Default for Limits {
    /// A large system has some 500,000 files; 16 TiB is the largest blob.
    fn default() -> Self {
        Self { entries: 10_000_000, bytes: p2pinst_types::limits::BLOB }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A regular file.
    File,
    /// A regular file with holes: where its data lie, and how long it is with them.
    Sparse {
        /// Its parts with data: offset and length, in order.
        map: Vec<(u64, u64)>,
        /// Its length.
        len: u64,
    },
    /// A directory.
    Dir,
    /// A further name of a file of this archive.
    HardLink(Place),
    /// A symbolic link, wherever it leads.
    Symlink(Vec<u8>),
    /// A character or block device.
    Device {
        /// Whether it is a block device.
        block: bool,
        /// Its driver.
        major: u32,
        /// Which one of the driver's.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One entry, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes.
    pub place: Place,
    /// What it is.
    pub what: What,
    /// Permissions, with set-user-id and the like.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change: seconds since 1970, perhaps with a fraction.
    pub mtime: String,
    /// Extended attributes, by their names: `security.capability`.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// POSIX ACLs as text: of the entry, and what is inherited from a directory.
    pub acls: Acls,
    /// Bytes of data that follow.
    pub data: u64,
}

/// POSIX ACLs as star writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acls {
    /// `SCHILY.acl.access`
    pub access: Option<Vec<u8>>,
    /// `SCHILY.acl.default`
    pub default: Option<Vec<u8>>,
}

impl Acls {
    /// Whether there is one.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.access.is_some() || self.default.is_some()
    }
}

/// Why an archive is refused.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// Its bytes cannot be read.
    #[error("cannot read the archive: {0}")]
    Read(#[source] io::Error),
    /// It ends too early.
    #[error("the archive ends in the middle, after {entries} entries: is it whole?")]
    Cut {
        /// Whole entries.
        entries: u64,
    },
    /// It is not a tar, or damaged.
    #[error("the archive is damaged after {entries} entries: {reason}")]
    Damaged {
        /// Whole entries.
        entries: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A path that must not be.
    #[error("the archive is refused: the path {path:?} {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A path that goes through a link.
    #[error("the archive is refused: {path:?} goes through {link:?}, which is a symbolic link")]
    ThroughLink {
        /// The path.
        path: String,
        /// The link in it.
        link: String,
    },
    /// Something that root filesystems do not have.
    #[error("the archive is refused: {path:?} is {kind}")]
    Unsupported {
        /// The entry.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// Too much of something.
    #[error("the archive is refused: more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
}

/// Text of a path for people, not longer than they read.
fn shown(bytes: &[u8]) -> String {
    let text = p2pinst_command::text(bytes);
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// For fuzzers: any bytes as an archive. What is understood of it is written anew, and understood again as the same.
pub fn fuzz_archive(bytes: &[u8]) {
    let limits = Limits { entries: 10_000, bytes: 1 << 30 };
    let mut walker = Walker::new(bytes, limits);
    let mut writer = Writer::new(Vec::new());
    let mut entries = Vec::new();
    let mut buffer = [0; 1000];
    while let Ok(Some(entry)) = walker.next_entry() {
        // of a flood of maps a part is enough
        if bytes.len() > 1 << 20 || writer.begin(&entry).is_err() {
            return;
        }
        while let Ok(n @ 1..) = walker.data(&mut buffer) {
            let part = buffer.get(..n).unwrap_or_default();
            assert!(writer.data(part).is_ok(), "data of its length are taken");
        }
        entries.push(entry);
    }
    let Ok(written) = writer.finish() else { return };
    let mut again = Walker::new(written.as_slice(), limits);
    for entry in &entries {
        let read = again.next_entry().ok().flatten();
        assert!(read.as_ref() == Some(entry), "{entry:?} became {read:?}");
    }
}

#[cfg(test)]
mod tests;
