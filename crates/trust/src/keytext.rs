//! The text of a secret key file: a line that says what it is, a line of hexadecimal.

use p2pinst_types::Name;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::key::SecretKey;

const HEAD: &str = "p2pinst-secret-key-1";
/// Longest key file, in bytes.
pub const MAX: u64 = 256;

/// A text that is no key file. Never shows the text.
#[derive(Debug, Error)]
#[error("not a secret key file of p2pinst")]
pub struct NotAKey;

/// The content of a key file.
#[must_use]
pub fn write(name: &Name, key: &SecretKey) -> Zeroizing<String> {
    let seed = key.to_seed();
    let hex = Zeroizing::new(data_encoding::HEXLOWER.encode(seed.as_ref()));
    Zeroizing::new(format!("{HEAD} {name}\n{}\n", *hex))
}

/// Reads the content of a key file: the key's name and the key.
///
/// # Errors
/// When it is anything else.
pub fn read(text: &[u8]) -> Result<(Name, SecretKey), NotAKey> {
    let text = std::str::from_utf8(text).map_err(|_| NotAKey)?;
    let mut lines = text.lines();
    let name = lines.next().and_then(|l| l.strip_prefix(HEAD)).ok_or(NotAKey)?;
    let name = name.trim().parse().map_err(|_| NotAKey)?;
    let hex = lines.next().ok_or(NotAKey)?;
    let mut seed = Zeroizing::new([0u8; 32]);
    let decoded = data_encoding::HEXLOWER.decode(hex.trim().as_bytes()).map_err(|_| NotAKey)?;
    let decoded = Zeroizing::new(decoded);
    if decoded.len() != seed.len() {
        return Err(NotAKey);
    }
    seed.copy_from_slice(&decoded);
    Ok((name, SecretKey::from_seed(&seed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_garbage() {
        let key = SecretKey::from_seed(&[3; 32]);
        let text = write(&"alice".parse().unwrap(), &key);
        assert!(text.len() as u64 <= MAX);
        let (name, back) = read(text.as_bytes()).unwrap();
        assert_eq!((name.as_str(), back.public()), ("alice", key.public()));
        for bad in ["", "p2pinst-secret-key-1 x\n", "p2pinst-secret-key-1 x\n00\n", "\u{0}"] {
            assert!(read(bad.as_bytes()).is_err());
        }
    }
}
