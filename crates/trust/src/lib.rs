//! Trust: keys, the root of trust, certificate chains, join tokens, sealed key exports.
//!
//! Everything here verifies or makes signatures over bytes in memory; nothing does I/O, nothing
//! reads a clock. Time comes in as a parameter.

pub mod console;
#[cfg(any(test, feature = "fixture"))]
#[doc(hidden)]
pub mod fixture;
pub mod hello;
pub mod key;
pub mod keytext;
pub mod policy;
pub mod proof;
pub mod root;
pub mod scout;
pub mod seal;
pub mod sealed;
pub mod token;

pub use hello::{Hello, Presented, Refusal};
pub use key::SecretKey;
pub use proof::Proof;
pub use root::RootChain;
pub use scout::{Greeting, ScoutCluster, ScoutHello, Welcome};
pub use token::Token;

#[cfg(test)]
mod tests;
