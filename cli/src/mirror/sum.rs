//! SHA-256, which is what the world outside publishes of its files.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// A SHA-256 sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum(pub(super) [u8; 32]);

impl Sum {
    /// The sum of some bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The sum of all that a reader gives.
    pub(super) fn of_all(reader: &mut dyn Read) -> io::Result<Self> {
        let (mut sha256, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(Self(sha256.finalize().into())),
                n => sha256.update(buffer.get(..n).unwrap_or_default()),
            }
        }
    }
}

impl FromStr for Sum {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHY: &str = "a SHA-256 sum has 64 hexadecimal digits";
        let mut sum = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(WHY);
        }
        for (byte, digits) in sum.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| WHY)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| WHY)?;
        }
        Ok(Self(sum))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_and_written() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sum::of(b"abc").to_string(), abc);
        assert_eq!(Sum::of_all(&mut &b"abc"[..]).unwrap().to_string(), abc);
        assert_eq!(abc.to_uppercase().parse(), Ok(Sum::of(b"abc")));
        for bad in ["", "ab", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(bad.parse::<Sum>().is_err(), "{bad}");
        }
    }
}
