//! What is where in a data directory.

use std::path::{Path, PathBuf};

/// The default data directory.
pub const DEFAULT: &str = "/var/lib/p2pinst";

/// A node's data directory. Names the files; touches none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The layout below `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The node's configuration, TOML.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// The node's public credentials: roots, grant, invite, certificate, admission.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// The node's secret key.
    #[must_use]
    pub fn node_key(&self) -> PathBuf {
        self.0.join("node.key")
    }

    /// Which life of the node was begun last.
    #[must_use]
    pub fn life(&self) -> PathBuf {
        self.0.join("life")
    }

    /// The secret key of a join that is under way.
    #[must_use]
    pub fn joining_key(&self) -> PathBuf {
        self.0.join("joining.key")
    }

    /// Directory of the administrators' keys. Only the command line opens what is in it.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// The store of cells.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    /// Directory of blobs.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// The list of the blobs that people have pinned.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.0.join("pins")
    }

    /// Directory of the install journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// The log of the package manager.
    #[must_use]
    pub fn dpkg_log(&self) -> PathBuf {
        self.0.join("dpkg.log")
    }

    /// The files that machines boot from this node: the boot service sees nothing else.
    #[must_use]
    pub fn boot(&self) -> PathBuf {
        self.0.join("boot")
    }

    /// What is known of the controllers of machines.
    #[must_use]
    pub fn controllers(&self) -> PathBuf {
        self.0.join("controllers")
    }

    /// Held by the running node.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
}
