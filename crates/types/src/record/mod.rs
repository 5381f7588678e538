//! The records that cells carry, one file per concern.

pub mod boot;
pub mod hardware;
pub mod install;
pub mod node;
pub mod power;
pub mod transfer;
pub mod trust;

pub use boot::{
    Adoption, Assignment, BootState, BootStatus, BootUse, ConsoleCode, Disarmament, Ended, Guise,
    INSTALLER, Image, ImageKind, ImageRemoval, Setup, Sighting, Task,
};
pub use hardware::{Disk, Firmware, Inventory, Nic};
pub use install::{
    Action, Deployment, Group, GroupEdit, GroupPolicy, HistoryEntry, HistorySegment, Manager, Mode,
    PackageId, Release, Retirement, State, Status,
};
pub use node::NodeRecord;
pub use power::{
    BootFrom, Controller, PowerAction, PowerCause, PowerOrder, PowerOutcome, PowerStatus, Resealed,
    Sealed,
};
pub use transfer::{ByDistance, Distance, Progress, Speed, Speeds, Transfer};
pub use trust::{
    Admission, Grant, Invite, LabelEdit, MachineName, NodeCert, Revocation, Role, RootDoc,
    SignedCert, SignedRoot, Standing,
};
