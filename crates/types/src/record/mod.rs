//! The records that cells carry, one file per concern.

pub mod install;
pub mod node;
pub mod transfer;
pub mod trust;

pub use install::{
    Action, Deployment, Group, GroupEdit, HistoryEntry, HistorySegment, Manager, Mode, PackageId,
    Release, Retirement, State, Status,
};
pub use node::NodeRecord;
pub use transfer::{ByDistance, Distance, Progress, Speed, Speeds, Transfer};
pub use trust::{
    Admission, Grant, Invite, LabelEdit, MachineName, NodeCert, Revocation, Role, RootDoc,
    SignedCert, SignedRoot, Standing,
};
