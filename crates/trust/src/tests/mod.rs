//! What a stranger can do to tokens, handshakes and grants.

mod hello;
mod policy;
mod scout;
mod token;
