//! Keys leave a machine sealed with a passphrase: argon2id (RFC 9106) and ChaCha20-Poly1305.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use p2pinst_types::{Name, codec};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::key::SecretKey;
use crate::keytext;

const HEAD: &str = "p2pinst-sealed-key-1";
/// Longest sealed key, in bytes.
pub const MAX: u64 = 4096;
/// RFC 9106, second recommended option: 64 MiB, three passes (four lanes there, one here).
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;

/// Why a key cannot be sealed or opened.
#[derive(Debug, Error)]
pub enum SealError {
    /// Not a sealed key.
    #[error("this is not a key exported by `p2pinst key export`")]
    NotSealed,
    /// Wrong passphrase, or the text was changed.
    #[error("the passphrase is wrong, or the file was changed")]
    Passphrase,
    /// The system gives no random numbers, or no memory.
    #[error("cannot seal the key: {0}")]
    System(String),
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    memory_kib: u32,
    passes: u32,
    salt: [u8; 16],
    #[serde(with = "serde_bytes")]
    ciphertext: Vec<u8>,
}

/// The key is used for one message only (the salt is fresh), so the nonce can be constant.
fn cipher(passphrase: &str, sealed: &Sealed) -> Result<ChaCha20Poly1305, SealError> {
    let system = |e: argon2::Error| SealError::System(e.to_string());
    let params = Params::new(sealed.memory_kib, sealed.passes, 1, Some(32)).map_err(system)?;
    let mut key = Zeroizing::new([0u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), &sealed.salt, key.as_mut())
        .map_err(system)?;
    Ok(ChaCha20Poly1305::new(Key::from_slice(key.as_ref())))
}

/// Seals a key with a passphrase; the result is text.
///
/// # Errors
/// When the system gives no random numbers or no memory.
pub fn seal(name: &Name, key: &SecretKey, passphrase: &str) -> Result<String, SealError> {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).map_err(|e| SealError::System(e.to_string()))?;
    let mut sealed =
        Sealed { memory_kib: MEMORY_KIB, passes: PASSES, salt, ciphertext: Vec::new() };
    let text = keytext::write(name, key);
    let payload = Payload { msg: text.as_bytes(), aad: HEAD.as_bytes() };
    sealed.ciphertext = cipher(passphrase, &sealed)?
        .encrypt(&Nonce::default(), payload)
        .map_err(|e| SealError::System(e.to_string()))?;
    let bytes = codec::encode(&sealed).map_err(|e| SealError::System(e.to_string()))?;
    Ok(format!("{HEAD} {name}\n{}\n", data_encoding::BASE64.encode(&bytes)))
}

/// Opens a sealed key.
///
/// # Errors
/// When it is none, was changed, or the passphrase is wrong.
pub fn open(text: &str, passphrase: &str) -> Result<(Name, SecretKey), SealError> {
    let mut lines = text.lines();
    let head = lines.next().is_some_and(|l| l.starts_with(HEAD));
    let body = lines.next().filter(|_| head).ok_or(SealError::NotSealed)?;
    let bytes =
        data_encoding::BASE64.decode(body.trim().as_bytes()).map_err(|_| SealError::NotSealed)?;
    let sealed: Sealed = codec::decode(&bytes).map_err(|_| SealError::NotSealed)?;
    if sealed.memory_kib > 4 * MEMORY_KIB || sealed.passes > 4 * PASSES {
        return Err(SealError::NotSealed);
    }
    let payload = Payload { msg: &sealed.ciphertext, aad: HEAD.as_bytes() };
    let text = cipher(passphrase, &sealed)?
        .decrypt(&Nonce::default(), payload)
        .map_err(|_| SealError::Passphrase)?;
    keytext::read(&Zeroizing::new(text)).map_err(|_| SealError::NotSealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_passphrase_opens() {
        let key = SecretKey::from_seed(&[5; 32]);
        let text = seal(&"root".parse().unwrap(), &key, "correct horse").unwrap();
        assert!(text.len() as u64 <= MAX);
        assert_eq!(open(&text, "correct horse").unwrap().1.public(), key.public());
        assert!(matches!(open(&text, "wrong"), Err(SealError::Passphrase)));
        assert!(matches!(open("hello", "wrong"), Err(SealError::NotSealed)));
        let changed = text.replace("root\n", "root\nA");
        assert!(open(&changed, "correct horse").is_err());
    }
}
