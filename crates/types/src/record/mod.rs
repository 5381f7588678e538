//! The records that cells carry, one file per concern.

pub mod install;
pub mod node;
pub mod trust;

pub use install::{
    Action, Deployment, Group, HistoryEntry, HistorySegment, Manager, Mode, PackageId, Release,
    State, Status,
};
pub use node::NodeRecord;
pub use trust::{
    Admission, Grant, Invite, NodeCert, Revocation, Role, RootDoc, SignedCert, SignedRoot,
};
