//! Where a file of a repository is: a path that stays below the repository's directory, everywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a path.
const LONGEST: usize = 512;
/// Directories below one another.
pub(super) const DEPTH: usize = 16;

/// A relative path without `.`, `..`, empty parts and control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Path(String);

/// A text that is no path of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} cannot be a file of a repository: at most {LONGEST} bytes in {DEPTH} directories, without '.', '..' and control characters"
)]
pub struct BadPath(String);

impl Path {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a URL's path asks for, where it could be a file's: apt writes `%2b` for `+`, and `./Packages` as its sources do.
    #[must_use]
    pub fn from_url(path: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(path.len());
        let mut rest = path.bytes();
        while let Some(byte) = rest.next() {
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        }
        let text = String::from_utf8(bytes).ok()?;
        text.split('/').filter(|part| *part != ".").collect::<Vec<_>>().join("/").try_into().ok()
    }
}

impl TryFrom<String> for Path {
    type Error = BadPath;

    fn try_from(text: String) -> Result<Self, BadPath> {
        let part = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
        let fits = text.len() <= LONGEST && text.split('/').count() <= DEPTH;
        if fits && text.split('/').all(part) && !text.chars().any(char::is_control) {
            Ok(Self(text))
        } else {
            Err(BadPath(text.chars().take(80).collect()))
        }
    }
}

impl FromStr for Path {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<Self, BadPath> {
        text.to_owned().try_into()
    }
}

impl From<Path> for String {
    fn from(path: Path) -> Self {
        path.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below() {
        for good in ["Release", ".treeinfo", "pool/g/g++_1%3a2_all.deb", "a b/é"] {
            assert!(good.parse::<Path>().is_ok(), "{good}");
        }
        let (long, deep) = ("x/".repeat(10) + &"y".repeat(500), "a/".repeat(16) + "a");
        for bad in ["", "/", "/etc/passwd", "a//b", "a/", "..", "a/../b", "./a", "a\n", "a\0"] {
            assert!(bad.parse::<Path>().is_err(), "{bad:?}");
        }
        assert!(long.parse::<Path>().is_err() && deep.parse::<Path>().is_err());
    }

    #[test]
    fn urls_are_decoded_once() {
        let path = |url| Path::from_url(url).map(|path| path.0);
        assert_eq!(path("pool/g%2b%2B_1%253a2.deb").as_deref(), Some("pool/g++_1%3a2.deb"));
        assert_eq!(path("./a/./Packages").as_deref(), Some("a/Packages"));
        for bad in ["%2e%2e/x", "a%2f%2fb", "%2fetc", "a%00", "a%", "a%2", "a%zz", "a%ff", "%2e"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
