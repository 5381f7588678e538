//! The code that somebody types at a machine's console, so that no other machine gets its order.
//!
//! The order has the public half of a key that argon2id (RFC 9106) makes of the code; at the console that key signs the key of the
//! scout. Nobody on the segment, and no member, learns the code, except by guessing it: a code of eight random letters and
//! digits is worth more than the order that it is for.

use argon2::{Algorithm, Argon2, Params, Version};
use p2pinst_types::record::ConsoleCode;
use p2pinst_types::{ClusterId, PublicKey, Signature};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::key::{Domain, SecretKey, verify_in};

/// The shortest code, in bytes.
pub const LEAST: usize = 6;
/// RFC 9106, second recommended option: 64 MiB, three passes (four lanes there, one here).
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;

/// Why no key was made.
#[derive(Debug, Error)]
pub enum CodeError {
    /// It is guessed too soon.
    #[error("a code has {LEAST} bytes at least")]
    Short,
    /// The system gives no random numbers, or no memory.
    #[error("cannot make a key of the code: {0}")]
    System(String),
}

fn key(code: &str, salt: &[u8; 16]) -> Result<SecretKey, CodeError> {
    let system = |e: argon2::Error| CodeError::System(e.to_string());
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(32)).map_err(system)?;
    let mut seed = Zeroizing::new([0u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(code.as_bytes(), salt, seed.as_mut())
        .map_err(system)?;
    Ok(SecretKey::from_seed(&seed))
}

/// What an order says of a code.
///
/// # Errors
/// When it is too short, or the system gives no random numbers or no memory.
pub fn demand(code: &str) -> Result<ConsoleCode, CodeError> {
    if code.len() < LEAST {
        return Err(CodeError::Short);
    }
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).map_err(|e| CodeError::System(e.to_string()))?;
    Ok(ConsoleCode { salt, key: key(code, &salt)?.public() })
}

/// What a scout shows where a code was typed.
///
/// # Errors
/// When the system gives no memory.
pub fn answer(
    code: &str,
    salt: &[u8; 16],
    cluster: &ClusterId,
    scout: &PublicKey,
) -> Result<Signature, CodeError> {
    Ok(key(code, salt)?.sign_in(Domain::ConsoleCode, Some(cluster), scout.as_bytes()))
}

/// Whether the code was typed that an order demands, for this scout.
#[must_use]
pub fn is_met(
    demand: &ConsoleCode,
    cluster: &ClusterId,
    scout: &PublicKey,
    answer: &Signature,
) -> bool {
    verify_in(Domain::ConsoleCode, Some(cluster), &demand.key, scout.as_bytes(), answer)
}
