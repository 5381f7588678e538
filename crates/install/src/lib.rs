//! Package managers, idleness, planning, journal.
pub mod check;
pub mod command;
mod control;
pub mod deb;
pub mod relation;
pub mod status;
