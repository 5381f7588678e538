//! What goes wrong while a plan is carried out.

use std::io;
use std::path::PathBuf;

use p2pinst_files::FileError;
use thiserror::Error;

use crate::setup::probe::ProbeError;

/// Why a plan was not carried out, or not to its end. What was done so far is remembered: the same setup, planned
/// again, goes on from there.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// Another process is at it.
    #[error("another process sets up this machine's disks; wait for it, or end it")]
    Busy,
    /// A program of a run that was killed is at work still.
    #[error(
        "a program of an interrupted setup still works on this machine's disks; wait for it, or end it"
    )]
    LeftOver,
    /// A disk is not the one that was planned for.
    #[error("{planned} has changed since the plan was made: now there is {now}; plan again")]
    Identity {
        /// The disk of the plan.
        planned: String,
        /// What is there now.
        now: String,
    },
    /// What is on a disk is not what the plan was made for.
    #[error("what is on {disk} has changed since the plan was made: {now}; plan again")]
    Content {
        /// The disk.
        disk: String,
        /// What is on it now.
        now: String,
    },
    /// A program ended with an error.
    #[error("cannot {what}: {program} says: {said}")]
    Tool {
        /// What was attempted.
        what: String,
        /// The program.
        program: &'static str,
        /// Its last words.
        said: String,
    },
    /// A program cannot be run.
    #[error("cannot {what}: cannot run {program}: {source}")]
    Start {
        /// What was attempted.
        what: String,
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A disk, a mount or a file of the new system.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the journal.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be seen what is on a disk.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// An image was not written.
    #[error("cannot write the image {image}: {source}")]
    Image {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Images that were written are still given to others.
    #[error("cannot keep the images that were written from others: {0}")]
    LetGo(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A template was not rendered.
    #[error("cannot render the template {template}: {source}")]
    Template {
        /// The template.
        template: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was made is not what the plan says.
    #[error("{what} was made, but is not as planned: {found}; the disk may be failing")]
    Verify {
        /// What.
        what: String,
        /// What was found.
        found: String,
    },
    /// The kernel shows no way to a partition.
    #[error("cannot reach {what}: {why}")]
    NoNode {
        /// The partition or volume.
        what: String,
        /// Why not.
        why: String,
    },
    /// The new system has no root where it was looked for.
    #[error(
        "cannot find the root filesystem of the image on {disk}: no partition has /etc/os-release; say root = … in the setup"
    )]
    NoRoot {
        /// The disk.
        disk: String,
    },
    /// No boot loader can be installed.
    #[error("cannot install a boot loader: {0}")]
    NoLoader(&'static str),
    /// A plan that contradicts itself: not one that `plan` has made.
    #[error("the plan cannot be carried out: {0}")]
    Plan(&'static str),
    /// Whoever watches has asked to stop.
    #[error("stopped before: {0}")]
    Stopped(String),
}

/// Adds what was attempted on what to an error.
pub(super) trait IoContext<T> {
    fn on(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, ApplyError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn on(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, ApplyError> {
        self.map_err(|source| ApplyError::Io { what, path: path.into(), source: source.into() })
    }
}
