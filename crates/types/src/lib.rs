//! Ids, hashes, clocks, cells, records and limits: the words that every other crate speaks.
//!
//! Pure data. Nothing here reads a clock, a file or a socket, and nothing here verifies a
//! signature: that is the work of `p2pinst-trust`.

pub mod bytes;
pub mod cell;
pub mod codec;
pub mod groupfile;
pub mod hostexpr;
pub mod id;
pub mod limits;
pub mod mac;
pub mod name;
pub mod piece;
pub mod rate;
pub mod record;
pub mod selector;
pub mod shard;
pub mod time;
pub mod version;

pub use bytes::Hash;
pub use cell::{Cell, CellError, CellId, Kind, Plane, Version};
pub use id::{
    AssignmentId, ClusterId, DeploymentId, ImageId, MachineId, NodeId, PowerOrderId, PublicKey,
    ReleaseId, SetupId, Signature,
};
pub use mac::Mac;
pub use name::{LabelValue, Labels, Name};
pub use piece::{BlobRef, PieceIndex};
pub use rate::{Limit, Rate, RateError, Rates};
pub use time::{Hlc, Millis};
