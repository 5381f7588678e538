//! Carries a plan out, with the system's own tools.
//!
//! Blocks; runs as root. It writes to the disks of the plan and to no other, after it has seen that they are those disks still.
//! What is done is noted after each step: on the disk itself ([`Stamp`]) and in the directory of who applies. After a kill the
//! same setup is planned and applied again, and goes on. Images are written by [`Images`], which belongs to who applies.

mod crew;
mod disk;
mod error;
mod format;
mod grow;
mod journal;
mod loader;
pub(in crate::setup) mod lvm;
mod mount;
mod needs;
mod node;
mod rootfs;
mod run;
mod system;
mod tool;
mod veil;

use std::error::Error;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use p2pinst_types::Name;

pub use error::ApplyError;
pub use needs::missing;
pub use run::{apply, release};

use super::document::Rendering;
use super::inventory::Roots;
use super::plan::Step;
#[cfg(doc)]
use crate::setup::found::Stamp;

/// Why an image or a template failed.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Who writes images.
pub trait Images {
    /// Writes the image of a disk or a partition to a device, durably, but for its beginning: at most the first MiB, which is
    /// returned, and without which nothing is found there.
    ///
    /// # Errors
    /// When not all of it is there.
    fn write_raw(&self, image: &Name, device: &Path) -> Result<Vec<u8>, Cause>;

    /// What was written is no image any more from now on, but a system that gets secrets of its own: nobody may read it
    /// again.
    ///
    /// # Errors
    /// When that cannot be.
    fn let_go(&self) -> Result<(), Cause>;

    /// Extracts an archive into a directory; what is there and in the archive is replaced.
    ///
    /// # Errors
    /// When not all of it is there.
    fn extract_tar(&self, image: &Name, dir: &Path) -> Result<(), Cause>;
}

/// The ways to a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Nodes {
    /// The kernel's own devices where it shows them, loop devices otherwise.
    #[default]
    Auto,
    /// The kernel's own devices.
    Kernel,
    /// Loop devices over the place of the partition.
    Loop,
}

/// A file that is put into the new system beside those of the document: the node, its unit, its certificate.
#[derive(Debug, Clone)]
pub struct Inject {
    /// Where it is, from the new system's root.
    pub path: String,
    /// What is in it.
    pub source: Source,
    /// Its mode; it belongs to root.
    pub mode: u32,
}

/// What is in a file.
#[derive(Clone)]
pub enum Source {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What is in this file of the running system.
    File(PathBuf),
    /// Nothing: it is a symbolic link that says this.
    Link(String),
}

impl fmt::Debug for Source {
    /// Without the bytes: a key may be among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Link(to) => write!(f, "Link({to:?})"),
        }
    }
}

/// What it takes to carry a plan out.
#[expect(missing_debug_implementations, reason = "it is made of other people's functions")]
pub struct Context<'a> {
    /// Where the kernel shows what there is.
    pub roots: Roots,
    /// A directory of who applies: the journal is there, and the new system is mounted in it.
    pub work: &'a Path,
    /// How partitions are reached.
    pub nodes: Nodes,
    /// Who writes images.
    pub images: &'a dyn Images,
    /// Who renders templates.
    pub templates: &'a dyn Fn(&Rendering) -> Result<String, Cause>,
    /// What makes the new system a member, where the setup wants it.
    pub agent: &'a [Inject],
    /// Is told of each step before it is done, and may stop there.
    pub watch: &'a dyn Fn(&Step) -> ControlFlow<()>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many steps were done, and not only found done.
    pub steps: usize,
    /// What could not be done and does no harm, for people.
    pub remarks: Vec<String>,
}
