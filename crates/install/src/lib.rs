//! Package managers, idleness, planning, journal.
//!
//! Everything here blocks: call it from a thread that may block. The pure parts ([`plan`],
//! [`check`], [`relation`], [`idle`]) read no clock and no file. Only this crate starts package
//! managers; nothing here knows the network.

pub mod check;
mod control;
pub mod deb;
pub mod dpkg;
pub mod idle;
pub mod install;
pub mod journal;
mod lock;
pub mod minbase;
pub mod plan;
pub mod relation;
pub mod root;
pub mod sampler;
pub mod status;

pub use deb::{DebInfo, InspectError, identify, inspect};
pub use dpkg::{Dpkg, Patience, RepairError, RepairReport, RootError, RunError};
pub use install::{Cleanup, Failure, InstallError, InstallOptions, InstallReport};
pub use lock::{Holder, LockError};
pub use p2pinst_command::Exit;
