//! Repositories of packages, as apt, dnf and installers read them: a tree of files that any peer hands out.
//!
//! A repository is published as an [`Index`] that names a blob for each file, so that versions of it and other repositories share
//! what is equal, and a peer that has any of them need not fetch it again. Peers lay the tree out in their directory of boot
//! files ([`directory`]), and the boot service gives it away below `/boot/mirror/NAME/`.

mod path;
mod tree;

use std::collections::BTreeMap;

use p2pinst_types::{BlobRef, ImageId, codec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use path::{BadPath, Path};
pub use tree::{TreeError, tree};

/// Files of a repository: what an installation needs and more, and few enough to be kept pinned by who publishes it.
pub const FILES: usize = 4096;
/// Bytes of the longest index: as many paths as long as they may be.
pub const INDEX_MAX: u64 = 4 << 20;
/// What an index begins with.
const FORMAT: u8 = 1;
/// The file of an image record that is the index.
pub const INDEX: &str = "index";

/// The files of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    format: u8,
    /// By where they are; `None`: an empty file.
    files: BTreeMap<Path, Option<BlobRef>>,
}

/// Why bytes are no index.
#[derive(Debug, Error)]
pub enum IndexError {
    /// They are something else, or of a newer version.
    #[error("it is no index of a repository that this version reads: {0}")]
    Codec(#[from] codec::CodecError),
    /// Another version's.
    #[error("the index has the format {0}, this version reads {FORMAT}")]
    Format(u8),
    /// More than there may be.
    #[error("the repository has {0} files, at most {FILES} are possible")]
    TooMany(usize),
}

impl Index {
    /// Of these files.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(files: BTreeMap<Path, Option<BlobRef>>) -> Result<Self, IndexError> {
        let index = Self { format: FORMAT, files };
        index.check()?;
        Ok(index)
    }

    fn check(&self) -> Result<(), IndexError> {
        if self.format != FORMAT {
            return Err(IndexError::Format(self.format));
        }
        let files = self.files.len();
        if files > FILES { Err(IndexError::TooMany(files)) } else { Ok(()) }
    }

    /// The files, by where they are; `None`: an empty one.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<Path, Option<BlobRef>> {
        &self.files
    }

    /// The blobs that the files are.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> {
        self.files.values().flatten().copied()
    }

    /// Bytes of all files.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs().map(|blob| blob.len()).fold(0, u64::saturating_add)
    }

    /// As it is published.
    ///
    /// # Errors
    /// Never: nothing in it is a shape that cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, IndexError> {
        Ok(codec::encode(self)?)
    }

    /// From what was published.
    ///
    /// # Errors
    /// When it is something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let index: Self = codec::decode(bytes)?;
        index.check()?;
        Ok(index)
    }
}

/// Where a version of a repository lies, below the directory of boot files.
#[must_use]
pub fn directory(id: &ImageId) -> String {
    format!("{DIRECTORY}/{}", id.0)
}

/// The directory of all repositories, below that of boot files.
pub const DIRECTORY: &str = "mirror";

#[cfg(test)]
mod tests {
    use p2pinst_types::Hash;

    use super::*;

    #[test]
    fn an_index_is_read_as_it_was_written_and_nothing_else_is() {
        let blob = BlobRef::new(Hash([3; 32]), 7).unwrap();
        let files = [("dists/x/Release", Some(blob)), ("empty", None)];
        let files = files.map(|(path, blob)| (path.parse().unwrap(), blob)).into();
        let index = Index::new(files).unwrap();
        let bytes = index.encode().unwrap();
        assert_eq!(Index::decode(&bytes).unwrap(), index);
        assert_eq!((index.size(), index.blobs().count()), (7, 1));
        // a path that leads out of the tree
        let at = bytes.windows(5).position(|w| w == b"dists").unwrap();
        let mut bad = bytes.clone();
        bad[at..at + 5].copy_from_slice(b"../xx");
        assert!(Index::decode(&bad).is_err());
        let newer = Index { format: 2, ..index };
        assert!(matches!(Index::decode(&newer.encode().unwrap()), Err(IndexError::Format(2))));
        assert!(Index::decode(&bytes[1..]).is_err());
        let many = (0..=FILES).map(|i| (format!("f{i}").parse().unwrap(), None)).collect();
        assert!(matches!(Index::new(many), Err(IndexError::TooMany(_))));
    }
}
