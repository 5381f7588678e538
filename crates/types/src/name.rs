//! Names that people give: to machines, sites, groups, keys and labels.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing, or too much.
    #[error("{text:?} is not a name: it must have 1 to {max} characters", max = Name::MAX)]
    Length {
        /// The text, cut at 80 characters.
        text: String,
    },
    /// A character that names do not have.
    #[error(
        "{text:?} is not a name: {bad:?} is not allowed (letters, digits, '.', '_' and '-', beginning with a letter or digit)"
    )]
    Character {
        /// The text.
        text: String,
        /// The first offending character.
        bad: char,
    },
    /// A label that is not `key=value`.
    #[error("{text:?} is not a label: write key=value")]
    Label {
        /// The text.
        text: String,
    },
}

/// A name: 1 to 63 letters, digits, `.`, `_`, `-`, beginning with a letter or digit. It is safe
/// in a path, a terminal and a host expression.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Characters a name may have (as DNS labels, RFC 1035).
    pub const MAX: usize = 63;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The group that every machine is in.
    #[must_use]
    pub fn all() -> Self {
        Self("all".to_owned())
    }
}

fn check(text: &str, min: usize) -> Result<(), NameError> {
    if text.len() < min || text.len() > Name::MAX {
        return Err(NameError::Length { text: text.chars().take(80).collect() });
    }
    let ok = |(i, c): (usize, char)| {
        c.is_ascii_alphanumeric() || (i > 0 && matches!(c, '.' | '_' | '-'))
    };
    match text.char_indices().find(|&ic| !ok(ic)) {
        None => Ok(()),
        Some((_, bad)) => Err(NameError::Character { text: text.to_owned(), bad }),
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        check(&text, 1).map(|()| Self(text))
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The value of a label: as a [`Name`], or empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelValue(String);

impl LabelValue {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LabelValue {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        check(&text, 0).map(|()| Self(text))
    }
}

impl From<LabelValue> for String {
    fn from(value: LabelValue) -> Self {
        value.0
    }
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The labels of a machine.
pub type Labels = BTreeMap<Name, LabelValue>;

/// Reads one `key=value`.
///
/// # Errors
/// When there is no `=`, or a part is not a name.
pub fn parse_label(text: &str) -> Result<(Name, LabelValue), NameError> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| NameError::Label { text: text.to_owned() })?;
    Ok((key.parse()?, LabelValue::try_from(value.to_owned())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_paths() {
        for good in ["a", "node-01", "x86_64", "10.0.0.1", "A"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "é", "a\n", "a\0", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!(crate::codec::decode::<Name>(&crate::codec::encode(&"../x").unwrap()).is_err());
    }

    #[test]
    fn labels() {
        assert!(parse_label("gpu=true").is_ok());
        assert!(parse_label("gpu=").is_ok());
        assert!(parse_label("gpu").is_err());
        assert!(parse_label("=x").is_err());
    }
}
