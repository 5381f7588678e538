//! The serverless database: signed cells, admitted, merged, kept and folded to views.
//!
//! Data flows one way: bytes → [`admission`] → [`store::Store`] (memory and redb) → [`view::Views`].
//! [`coverage`] and [`sync`] say what two nodes must exchange to hold the same control plane;
//! [`placement`] says which nodes hold a cell of the data plane; [`wire`] is how they ask.
//! Nothing here opens a socket or reads a clock.

pub mod admission;
pub mod answer;
pub mod clock;
pub mod coverage;
pub mod disk;
mod log;
pub mod outbox;
pub mod placement;
pub mod record;
pub mod repair;
pub mod shelf;
pub mod store;
pub mod summary;
pub mod sync;
mod tables;
pub mod view;
pub mod wire;

pub use admission::Outcome;
pub use store::{Store, StoreError};
pub use summary::Summary;
pub use view::Views;
