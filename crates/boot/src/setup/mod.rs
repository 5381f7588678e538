//! Host setups: what disks a machine has, what shall be on them, and what must be done for that.
//!
//! [`inventory`] reads what the machine is made of, [`probe`] what is on its disks. A [`Setup`] says what shall be there.
//! [`plan()`] makes of these a [`Plan`], or says everything that speaks against one; it is pure. [`apply()`] carries a plan out,
//! and only that: it decides nothing, and refuses when the machine is not the one that was planned for.
//!
//! What was done is written on each disk that it was done to ([`Stamp`]), so that who begins again after a power cut goes on
//! where the machine was left, also when nothing of its memory is there any more.

pub mod apply;
pub mod document;
pub mod found;
mod guid;
pub mod installer;
pub mod inventory;
pub mod plan;
pub mod probe;
mod size;

pub use apply::{Context, Images, Inject, apply, release};
pub use document::Setup;
pub use found::{Found, Stamp};
pub use guid::Guid;
pub use inventory::Roots;
pub use plan::{Epoch, ImageFacts, ImageKind, Plan, Refusal, Refusals, Request, Subject, plan};
pub use size::{Bytes, Extent};
