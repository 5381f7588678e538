//! The built program from outside: what it says, where it says it, how it ends.

mod fake;
mod offline;
mod online;
mod run;
