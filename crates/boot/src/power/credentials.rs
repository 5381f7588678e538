//! A user and a password for a controller. Wiped when dropped, never printed; who stores them seals them first.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A user or password that no controller takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialsError {
    /// Too long.
    #[error("the {what} of a controller has at most {max} bytes")]
    Length {
        /// Which of the two.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// A line end or another control character.
    #[error(
        "the {what} of a controller has no control characters (a line end at its end, perhaps?)"
    )]
    Control {
        /// Which of the two.
        what: &'static str,
    },
}

/// The longest user and password: those of Redfish may be longer than the 20 bytes of IPMI.
const MAX: usize = 128;

/// A user and a password.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Credentials {
    user: String,
    password: String,
}

/// As they come, before they are checked.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
struct Raw {
    user: String,
    password: String,
}

impl TryFrom<Raw> for Credentials {
    type Error = CredentialsError;
    fn try_from(mut raw: Raw) -> Result<Self, CredentialsError> {
        Self::new(std::mem::take(&mut raw.user), std::mem::take(&mut raw.password))
    }
}

impl Credentials {
    /// A user and a password.
    ///
    /// # Errors
    /// When one is too long or has control characters.
    pub fn new(user: String, password: String) -> Result<Self, CredentialsError> {
        // wiped also when refused
        let both = Self { user, password };
        for (what, text) in [("user", &both.user), ("password", &both.password)] {
            if text.len() > MAX {
                return Err(CredentialsError::Length { what, max: MAX });
            }
            if text.chars().any(char::is_control) {
                return Err(CredentialsError::Control { what });
            }
        }
        Ok(both)
    }

    /// The user: no secret.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password, for the line to the controller alone.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let both = Credentials::new("admin".to_owned(), "s3cret".to_owned()).unwrap();
        let shown = format!("{both:?}");
        assert!(shown.contains("admin") && !shown.contains("s3cret"), "{shown}");
        let cbor = p2pinst_types::codec::encode(&both).unwrap();
        assert_eq!(p2pinst_types::codec::decode::<Credentials>(&cbor).unwrap(), both);
        assert!(Credentials::new("a\n".to_owned(), String::new()).is_err());
        let long = Credentials::new(String::new(), "s3cret".repeat(50)).unwrap_err();
        assert_eq!(long.to_string(), "the password of a controller has at most 128 bytes");
    }
}
