//! Label selectors: `gpu=true && site!=pisa`. `name` and `site` stand for the machine's own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits;
use crate::name::{LabelValue, Labels, Name, NameError};

/// Why a text is no selector; points at the character.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("selector: {reason}, at character {at}\n  {text}\n  {pad}^", at = at + 1, pad = " ".repeat(*at))]
pub struct SelectorError {
    /// The selector.
    pub text: String,
    /// Offset of the character, from 0.
    pub at: usize,
    /// What is wrong.
    pub reason: String,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Equals(Name, LabelValue),
    Differs(Name, LabelValue),
    Exists(Name),
    Absent(Name),
}

/// A parsed selector: all terms must hold. Compares and serialises as its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    text: String,
    terms: Vec<Term>,
}

impl Selector {
    /// Whether a machine of this name, site and labels is selected.
    #[must_use]
    pub fn matches(&self, name: &Name, site: &Name, labels: &Labels) -> bool {
        let value = |key: &Name| match key.as_str() {
            "name" => Some(name.as_str()),
            "site" => Some(site.as_str()),
            _ => labels.get(key).map(LabelValue::as_str),
        };
        self.terms.iter().all(|term| match term {
            Term::Equals(key, want) => value(key) == Some(want.as_str()),
            Term::Differs(key, other) => value(key) != Some(other.as_str()),
            Term::Exists(key) => value(key).is_some(),
            Term::Absent(key) => value(key).is_none(),
        })
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > limits::EXPR {
            let reason = "longer than 4096 characters".to_owned();
            return Err(SelectorError { text: text.chars().take(60).collect(), at: 0, reason });
        }
        let mut terms = Vec::new();
        let mut at = 0;
        for raw in text.split("&&") {
            let lead = raw.len() - raw.trim_start().len();
            let term = parse_term(raw.trim()).map_err(|(offset, reason)| SelectorError {
                text: text.to_owned(),
                at: (at + lead + offset).min(text.len().saturating_sub(1)),
                reason,
            })?;
            terms.push(term);
            at += raw.len() + 2;
        }
        Ok(Self { text: text.to_owned(), terms })
    }
}

/// What is wrong with a condition, and at which offset.
type Wrong = (usize, String);

fn parse_term(text: &str) -> Result<Term, Wrong> {
    if text.is_empty() {
        let reason = "a condition is missing (write label=value, label!=value, label or !label)";
        return Err((0, reason.to_owned()));
    }
    let name = |at: usize, t: &str| part(at, t, str::parse::<Name>);
    let value = |at: usize, t: &str| part(at, t, |v| LabelValue::try_from(v.to_owned()));
    if let Some((key, other)) = text.split_once("!=") {
        return Ok(Term::Differs(name(0, key)?, value(key.len() + 2, other)?));
    }
    let equals = if text.contains("==") { "==" } else { "=" };
    if let Some((key, want)) = text.split_once(equals) {
        return Ok(Term::Equals(name(0, key)?, value(key.len() + equals.len(), want)?));
    }
    match text.strip_prefix('!') {
        Some(key) => name(1, key).map(Term::Absent),
        None => name(0, text).map(Term::Exists),
    }
}

/// Reads a name or a value that begins at an offset; an error points at the character that is
/// wrong with it.
fn part<T>(
    at: usize,
    text: &str,
    read: impl FnOnce(&str) -> Result<T, NameError>,
) -> Result<T, Wrong> {
    let trimmed = text.trim();
    let at = at + text.len() - text.trim_start().len();
    read(trimmed).map_err(|e| {
        let within = match &e {
            NameError::Character { bad, .. } => trimmed.find(*bad).unwrap_or_default(),
            _ => 0,
        };
        (at + within, e.to_string())
    })
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Selector {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::parse_label;

    fn matches(text: &str) -> bool {
        let labels = ["gpu=true", "rack=7"].iter().map(|l| parse_label(l).unwrap()).collect();
        let selector: Selector = text.parse().unwrap();
        selector.matches(&"n1".parse().unwrap(), &"pisa".parse().unwrap(), &labels)
    }

    #[test]
    fn conditions() {
        assert!(matches("gpu=true") && matches("gpu == true && rack=7") && matches("name=n1"));
        assert!(matches("site=pisa && !ssd") && matches("rack") && matches("ssd!=yes"));
        assert!(!matches("gpu=true && site!=pisa") && !matches("ssd") && !matches("!rack"));
    }

    #[test]
    fn errors_point_at_the_character() {
        for (text, at) in [
            ("", 0),
            ("a=b && ", 6),
            ("a=b && c d", 8),
            ("=x", 0),
            ("a||b", 1),
            ("gpu=true,,", 8),
            ("gpu = tr ue", 8),
            ("a=b &&  c!=x/y", 12),
            ("a=b && !c=d!", 7),
            ("!g pu", 2),
            ("a=b && g>5", 8),
            ("a=b & c=d", 3),
        ] {
            let error = text.parse::<Selector>().unwrap_err();
            assert_eq!(error.at, at, "{error}");
        }
    }
}
