//! The built program from outside: what it says, where it says it, how it ends.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, in its helpers too"
)]

mod bare;
mod fake;
mod fakebare;
mod groups;
mod inspect;
mod members;
mod offline;
mod online;
mod run;
mod store;
mod templates;
