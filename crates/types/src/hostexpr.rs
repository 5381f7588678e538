//! Host expressions: `node[01-16,20],10.0.0.1-12,login`. Names and addresses, separated by commas.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits;

/// Why a text is no host expression; points at the character.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("host expression: {reason}, at character {at}\n  {text}\n  {pad}^", at = at + 1, pad = " ".repeat(*at))]
pub struct HostExprError {
    /// The expression.
    pub text: String,
    /// Offset of the character, from 0.
    pub at: usize,
    /// What is wrong.
    pub reason: &'static str,
}

/// A parsed host expression. Compares and serialises as its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostExpr {
    text: String,
    names: BTreeSet<String>,
    addresses: Vec<(Ipv4Addr, Ipv4Addr)>,
}

impl HostExpr {
    /// Whether the expression stands for a machine of this name or one of these addresses.
    #[must_use]
    pub fn contains(&self, name: &str, addresses: &[Ipv4Addr]) -> bool {
        let in_range = |a: &Ipv4Addr| self.addresses.iter().any(|(lo, hi)| lo <= a && a <= hi);
        self.names.contains(name) || addresses.iter().any(in_range)
    }
}

impl fmt::Display for HostExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One comma-separated term and where it begins.
struct Term<'a> {
    text: &'a str,
    at: usize,
}

impl FromStr for HostExpr {
    type Err = HostExprError;

    fn from_str(text: &str) -> Result<Self, HostExprError> {
        let error = |at, reason| HostExprError { text: text.to_owned(), at, reason };
        if text.len() > limits::EXPR {
            let text = text.chars().take(60).collect();
            return Err(HostExprError { text, at: 0, reason: "longer than 4096 characters" });
        }
        let mut expr =
            Self { text: text.to_owned(), names: BTreeSet::new(), addresses: Vec::new() };
        let mut budget = limits::EXPR_NAMES;
        for term in terms(text).map_err(|(at, reason)| error(at, reason))? {
            if let Some(range) = address_range(&term).map_err(|r| error(term.at, r))? {
                expr.addresses.push(range);
            } else {
                let names = expand(&term, &mut budget).map_err(|(at, r)| error(at, r))?;
                expr.names.extend(names);
            }
        }
        Ok(expr)
    }
}

/// Splits at the commas that are outside of brackets.
fn terms(text: &str) -> Result<Vec<Term<'_>>, (usize, &'static str)> {
    let mut out = Vec::new();
    let (mut start, mut open) = (0, None);
    for (at, c) in text.char_indices().chain([(text.len(), ',')]) {
        match c {
            '[' if open.is_some() => return Err((at, "a '[' within brackets")),
            '[' => open = Some(at),
            ']' if open.is_none() => return Err((at, "a ']' without its '['")),
            ']' => open = None,
            ',' if at == text.len() && open.is_some() => {
                return Err((open.unwrap_or(at), "this '[' is never closed"));
            }
            ',' if open.is_none() => {
                let raw = text.get(start..at).unwrap_or_default();
                let trimmed = raw.trim();
                let lead = raw.len() - raw.trim_start().len();
                if trimmed.is_empty() {
                    return Err((start.min(text.len().saturating_sub(1)), "a host is missing"));
                }
                out.push(Term { text: trimmed, at: start + lead });
                start = at + 1;
            }
            c if open.is_some() && !(c.is_ascii_digit() || matches!(c, '-' | ',')) => {
                return Err((at, "only digits, '-' and ',' stand within brackets"));
            }
            c if !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ',' | '/' | ' ')) => {
                return Err((at, "no host has this character in its name"));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// `10.0.0.1`, `10.0.0.1-12`, `10.0.0.1-10.0.1.9` or `10.0.0.0/24`; `None` when it is no address.
fn address_range(term: &Term<'_>) -> Result<Option<(Ipv4Addr, Ipv4Addr)>, &'static str> {
    if let Some((base, bits)) = term.text.split_once('/') {
        let base: Ipv4Addr = base.parse().map_err(|_| "not an IPv4 network (10.0.0.0/24)")?;
        let bits: u32 = bits.parse().ok().filter(|b| *b <= 32).ok_or("not a prefix length")?;
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let low = base.to_bits() & mask;
        return Ok(Some((Ipv4Addr::from_bits(low), Ipv4Addr::from_bits(low | !mask))));
    }
    let (first, last) = match term.text.split_once('-') {
        Some((first, last)) => (first, Some(last)),
        None => (term.text, None),
    };
    let Ok(low) = first.parse::<Ipv4Addr>() else { return Ok(None) };
    let high = match last {
        None => low,
        Some(last) => match last.parse::<Ipv4Addr>() {
            Ok(high) => high,
            Err(_) => {
                let end: u8 = last.parse().map_err(|_| "not the last byte of an address")?;
                let [a, b, c, _] = low.octets();
                Ipv4Addr::new(a, b, c, end)
            }
        },
    };
    if high < low { Err("the range ends before it begins") } else { Ok(Some((low, high))) }
}

/// Expands `node[01-16,20]x[1-2]` to names.
fn expand(term: &Term<'_>, budget: &mut u64) -> Result<Vec<String>, (usize, &'static str)> {
    let mut names = vec![String::new()];
    let mut rest = term.text;
    while let Some((before, after)) = rest.split_once('[') {
        let at = term.at + (term.text.len() - after.len());
        let (inside, tail) = after.split_once(']').ok_or((at, "this '[' is never closed"))?;
        let numbers = numbers(inside, budget).map_err(|reason| (at, reason))?;
        let total = (names.len() as u64).saturating_mul(numbers.len() as u64);
        if total > limits::EXPR_NAMES {
            return Err((at, "more than 65536 names"));
        }
        names = names
            .iter()
            .flat_map(|n| numbers.iter().map(move |number| format!("{n}{before}{number}")))
            .collect();
        rest = tail;
    }
    for name in &mut names {
        name.push_str(rest);
    }
    match names.iter().find_map(|n| n.parse::<crate::Name>().err()) {
        Some(_) => Err((term.at, "not a host name")),
        None => Ok(names),
    }
}

/// `01-16,20` to numbers, padded as the first of each range is.
fn numbers(inside: &str, budget: &mut u64) -> Result<Vec<String>, &'static str> {
    let mut out = Vec::new();
    for part in inside.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let low: u64 = first.parse().map_err(|_| "a number is missing within the brackets")?;
        let high: u64 = last.parse().map_err(|_| "a number is missing within the brackets")?;
        if high < low {
            return Err("the range ends before it begins");
        }
        *budget = budget.checked_sub(high - low + 1).ok_or("more than 65536 names")?;
        out.extend((low..=high).map(|n| format!("{n:0width$}", width = first.len())));
    }
    Ok(out)
}

impl Serialize for HostExpr {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for HostExpr {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn has(expr: &str, name: &str) -> bool {
        expr.parse::<HostExpr>().unwrap().contains(name, &[])
    }

    #[test]
    fn names_and_ranges() {
        assert!(has("node[01-16],login", "node07") && has("node[01-16],login", "login"));
        assert!(!has("node[01-16]", "node7") && !has("node[01-16]", "node17"));
        assert!(has("r[1-2]n[1,5-6]", "r2n5") && !has("r[1-2]n[1,5-6]", "r2n2"));
        assert!(has("node-a, node-b", "node-b"));
    }

    #[test]
    fn addresses() {
        let expr: HostExpr = "10.0.0.1-12,10.1.0.0/24".parse().unwrap();
        let has = |a: &str| expr.contains("x", &[a.parse().unwrap()]);
        assert!(has("10.0.0.12") && !has("10.0.0.13") && has("10.1.0.200") && !has("10.1.1.0"));
    }

    #[test]
    fn errors_point_at_the_character() {
        for (text, at) in [
            ("node[1-", 4),
            ("a,,b", 2),
            ("", 0),
            ("a]", 1),
            ("a[b]", 2),
            ("n[5-1]", 2),
            ("n[1-999999]", 2),
            ("a!b", 1),
            ("10.0.0.9-3", 0),
        ] {
            let error = text.parse::<HostExpr>().unwrap_err();
            assert_eq!(error.at, at, "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-z0-9.,\\[\\]/ -]{0,40}") {
            if let Ok(expr) = text.parse::<HostExpr>() {
                prop_assert_eq!(expr.to_string(), text);
            }
        }
    }
}
