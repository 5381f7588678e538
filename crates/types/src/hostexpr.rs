//! Host expressions: `node[01-16,20],10.0.0.1-12,login`. Names and addresses, separated by commas.

use std::collections::{BTreeMap, BTreeSet};
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

/// A parsed host expression. Compares and serialises as its text. What it stands for is matched,
/// never spelled out: `node[00001-65536]` takes a few words of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostExpr {
    text: String,
    terms: Vec<Term>,
}

/// One comma-separated term: where its text lies, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    from: usize,
    to: usize,
    hosts: Hosts,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    /// Addresses, from the first to the last.
    Addresses(Ipv4Addr, Ipv4Addr),
    /// Names, part by part.
    Names(Vec<Part>),
}

/// A part of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// One of these numbers: what stands within brackets.
    Number(Vec<Numbers>),
}

/// The numbers from low to high, padded with zeros to a width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    low: u64,
    high: u64,
    width: usize,
}

impl Numbers {
    /// Digits that a number has as it is written here.
    fn digits(self, number: u64) -> usize {
        let natural = number.checked_ilog10().map_or(1, |log| log as usize + 1);
        natural.max(self.width)
    }

    fn contains(self, digits: &str) -> bool {
        digits.parse().is_ok_and(|number: u64| {
            (self.low..=self.high).contains(&number) && digits.len() == self.digits(number)
        })
    }
}

impl HostExpr {
    /// Whether the expression stands for a machine of this name or one of these addresses.
    #[must_use]
    pub fn contains(&self, name: &str, addresses: &[Ipv4Addr]) -> bool {
        self.terms.iter().any(|term| match &term.hosts {
            Hosts::Addresses(low, high) => addresses.iter().any(|a| low <= a && a <= high),
            Hosts::Names(parts) => is_name(parts, name),
        })
    }

    /// The comma-separated terms, as they are written.
    pub fn terms(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().filter_map(|t| self.text.get(t.from..t.to))
    }
}

/// Whether these parts make this name. Recursion ends with the parts; their number is small, as
/// each bracket with more than one number at least doubles the names, which are bounded.
fn is_name(parts: &[Part], name: &str) -> bool {
    let Some((first, rest)) = parts.split_first() else { return name.is_empty() };
    match first {
        Part::Text(text) => name.strip_prefix(text.as_str()).is_some_and(|n| is_name(rest, n)),
        Part::Number(numbers) => {
            let most = name.bytes().take_while(u8::is_ascii_digit).count();
            (1..=most).any(|len| {
                let Some((digits, tail)) = name.split_at_checked(len) else { return false };
                numbers.iter().any(|n| n.contains(digits)) && is_name(rest, tail)
            })
        }
    }
}

impl fmt::Display for HostExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is wrong, and at which offset.
type Wrong = (usize, &'static str);

impl FromStr for HostExpr {
    type Err = HostExprError;

    fn from_str(text: &str) -> Result<Self, HostExprError> {
        if text.len() > limits::EXPR {
            let text = text.chars().take(60).collect();
            return Err(HostExprError { text, at: 0, reason: "longer than 4096 characters" });
        }
        let mut budget = limits::EXPR_NAMES;
        let mut read = |(from, term): (usize, &str)| {
            let hosts = match address_range(term) {
                Ok(Some((low, high))) => Ok(Hosts::Addresses(low, high)),
                Ok(None) => names(term, &mut budget).map(Hosts::Names),
                Err(wrong) => Err(wrong),
            };
            let to = from + term.len();
            hosts.map(|hosts| Term { from, to, hosts }).map_err(|(at, why)| (from + at, why))
        };
        split(text)
            .and_then(|terms| terms.into_iter().map(&mut read).collect())
            .map(|terms| Self { text: text.to_owned(), terms })
            .map_err(|(at, reason)| HostExprError { text: text.to_owned(), at, reason })
    }
}

/// Splits at the commas that are outside of brackets: each term and where it begins.
fn split(text: &str) -> Result<Vec<(usize, &str)>, Wrong> {
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
                out.push((start + lead, trimmed));
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
fn address_range(term: &str) -> Result<Option<(Ipv4Addr, Ipv4Addr)>, Wrong> {
    if let Some((base, bits)) = term.split_once('/') {
        let after = base.len() + 1;
        let base: Ipv4Addr = base.parse().map_err(|_| (0, "not an IPv4 network (10.0.0.0/24)"))?;
        let bits: Option<u32> = bits.parse().ok().filter(|b| *b <= 32);
        let bits = bits.ok_or((after, "not a prefix length (0 to 32)"))?;
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let low = base.to_bits() & mask;
        return Ok(Some((Ipv4Addr::from_bits(low), Ipv4Addr::from_bits(low | !mask))));
    }
    let (first, last) = match term.split_once('-') {
        Some((first, last)) => (first, Some(last)),
        None => (term, None),
    };
    let Ok(low) = first.parse::<Ipv4Addr>() else { return Ok(None) };
    let after = first.len() + 1;
    let high = match last {
        None => low,
        Some(last) => match last.parse::<Ipv4Addr>() {
            Ok(high) => high,
            Err(_) => {
                let end = last.parse();
                let end: u8 = end.map_err(|_| (after, "not the last byte of an address"))?;
                let [a, b, c, _] = low.octets();
                Ipv4Addr::new(a, b, c, end)
            }
        },
    };
    if high < low { Err((after, "the range ends before it begins")) } else { Ok(Some((low, high))) }
}

/// Reads `node[01-16,20]x[1-2]`. Every name that it stands for must be one.
fn names(term: &str, budget: &mut u64) -> Result<Vec<Part>, Wrong> {
    let (mut parts, mut total, mut longest) = (Vec::new(), 1u64, 0);
    let (mut sample, mut rest) = (String::new(), term);
    while let Some((before, after)) = rest.split_once('[') {
        let at = term.len() - after.len();
        let (inside, tail) = after.split_once(']').ok_or((at, "this '[' is never closed"))?;
        let numbers = numbers(inside, budget).map_err(|(i, why)| (at + i, why))?;
        let count = numbers.iter().map(|n| n.high - n.low + 1).sum();
        total = total.saturating_mul(count);
        if total > limits::EXPR_NAMES {
            return Err((at, "more than 65536 names"));
        }
        let widest = numbers.iter().map(|n| n.digits(n.high)).max().unwrap_or_default();
        longest += before.len() + widest;
        sample.push_str(before);
        sample.push('0');
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        parts.push(Part::Number(numbers));
        rest = tail;
    }
    longest += rest.len();
    sample.push_str(rest);
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    // what a name may be does not depend on which digit stands where
    if longest > crate::Name::MAX {
        return Err((0, "longer than the 63 characters of a host name"));
    }
    if sample.parse::<crate::Name>().is_err() { Err((0, "not a host name")) } else { Ok(parts) }
}

/// Reads `01-16,20`: padded as the first of each range is.
fn numbers(inside: &str, budget: &mut u64) -> Result<Vec<Numbers>, Wrong> {
    let (mut out, mut at) = (Vec::new(), 0);
    for part in inside.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let missing = (at, "a number is missing within the brackets");
        let low: u64 = first.parse().map_err(|_| missing)?;
        let high: u64 = last.parse().map_err(|_| missing)?;
        if high < low {
            return Err((at, "the range ends before it begins"));
        }
        let many = (high - low).checked_add(1).and_then(|n| budget.checked_sub(n));
        *budget = many.ok_or((at, "more than 65536 names"))?;
        out.push(Numbers { low, high, width: first.len() });
        at += part.len() + 1;
    }
    Ok(out)
}

/// Writes names as the terms of an expression that stands for just them: `node[01-16]`. Names that
/// are alike but for their last number share a term.
#[must_use]
pub fn fold<'a>(names: impl IntoIterator<Item = &'a crate::Name>) -> Vec<String> {
    // by what is before the number, its width, and what is after it
    let mut alike: BTreeMap<(&str, usize, &str), BTreeSet<u64>> = BTreeMap::new();
    let mut plain: BTreeSet<&str> = BTreeSet::new();
    for name in names {
        match last_number(name.as_str()) {
            Some((before, digits, number, after)) => {
                alike.entry((before, digits, after)).or_default().insert(number);
            }
            None => {
                plain.insert(name.as_str());
            }
        }
    }
    let mut terms: Vec<String> = plain.into_iter().map(str::to_owned).collect();
    for ((before, width, after), numbers) in alike {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for n in numbers {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == n => *last = n,
                _ => runs.push((n, n)),
            }
        }
        let written = |(a, b): &(u64, u64)| match a == b {
            true => format!("{a:0width$}"),
            false => format!("{a:0width$}-{b:0width$}"),
        };
        let inside = runs.iter().map(written).collect::<Vec<_>>().join(",");
        let single = runs.iter().all(|(a, b)| a == b) && runs.len() == 1;
        // 10.0.0.1 would be read as an address
        let address = before.as_bytes().first().is_some_and(u8::is_ascii_digit);
        terms.push(match single && !address && !before.is_empty() {
            true => format!("{before}{inside}{after}"),
            false => format!("{before}[{inside}]{after}"),
        });
    }
    terms
}

/// What is before the last number of a name, its digits, itself, and what is after it. Numbers of
/// more than 18 digits are text.
fn last_number(name: &str) -> Option<(&str, usize, u64, &str)> {
    let end = name.rfind(|c: char| c.is_ascii_digit())? + 1;
    let (head, after) = name.split_at_checked(end)?;
    let before = head.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = head.get(before.len()..).filter(|d| d.len() <= 18)?;
    Some((before, digits.len(), digits.parse().ok()?, after))
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
            ("n[1,,2]", 4),
            ("n[1-3,5-]", 6),
            ("n[1-3,9-7]", 6),
            ("n[1-999999]", 2),
            ("n[1-2],n[1-60000],m[1-60000]", 20),
            ("n[0-18446744073709551615]", 2),
            ("a!b", 1),
            ("ok, näme", 5),
            ("a[[1]]", 2),
            ("-a", 0),
            ("ok,-a[1]", 3),
            ("10.0.0.9-3", 9),
            ("10.0.0.9-300", 9),
            ("a,10.0.0.0/33", 11),
            ("a,10.0.0/24", 2),
            ("a, ", 2),
        ] {
            let error = text.parse::<HostExpr>().unwrap_err();
            assert_eq!(error.at, at, "{error}");
        }
        let long = format!("{}[1-10]", "x".repeat(62));
        assert!(long.parse::<HostExpr>().unwrap_err().to_string().contains("63 characters"));
        assert!("x,".repeat(2049).parse::<HostExpr>().is_err());
        let shown = "node[01-16],b!d".parse::<HostExpr>().unwrap_err().to_string();
        assert!(shown.ends_with("at character 14\n  node[01-16],b!d\n               ^"), "{shown}");
    }

    #[test]
    fn zeros_are_padded_as_written() {
        assert!(has("node[001-512]", "node001") && has("node[001-512]", "node512"));
        assert!(!has("node[001-512]", "node1") && !has("node[001-512]", "node0001"));
        assert!(!has("node[001-512]", "node000") && !has("node[001-512]", "node513"));
        assert!(has("n[8-12]", "n8") && has("n[8-12]", "n10") && !has("n[8-12]", "n08"));
        assert!(has("n[08-100]", "n08") && has("n[08-100]", "n100") && !has("n[08-100]", "n8"));
        assert!(has("n[007,1-2]", "n007") && !has("n[007,1-2]", "n7"));
        assert!(has("r[1-2][0-9]", "r17") && !has("r[1-2][0-9]", "r37"));
        assert!(has("[1-3]", "2") && has("n[0-3]x", "n0x") && !has("n[0-3]x", "n0"));
    }

    #[test]
    fn terms_are_as_written() {
        let expr: HostExpr = " node[01-16,20] ,10.0.0.1-12,a".parse().unwrap();
        assert_eq!(expr.terms().collect::<Vec<_>>(), ["node[01-16,20]", "10.0.0.1-12", "a"]);
    }

    #[test]
    fn names_are_folded() {
        let names = ["n01", "n02", "n03", "n10", "n9", "login", "10.0.0.1", "a2.lab", "a3.lab"];
        let names = names.map(|n| n.parse().unwrap());
        let terms = fold(&names);
        assert_eq!(terms, ["login", "10.0.0.[1]", "a[2-3].lab", "n9", "n[01-03,10]"]);
    }

    proptest! {
        /// The names that an expression stands for, spelled out: what the matching must equal.
        #[test]
        fn matching_is_spelling_out(
            low in 0u64..120, more in 0u64..30, width in 1usize..4, probe in "[0-9]{1,4}",
        ) {
            let expr: HostExpr = format!("n[{low:0width$}-{}]", low + more).parse().unwrap();
            let width = format!("{low:0width$}").len();
            let spelled: Vec<_> = (low..=low + more).map(|n| format!("n{n:0width$}")).collect();
            prop_assert!(spelled.iter().all(|n| expr.contains(n, &[])));
            let name = format!("n{probe}");
            prop_assert_eq!(expr.contains(&name, &[]), spelled.contains(&name));
        }

        #[test]
        fn folded_names_are_those_names(
            names in prop::collection::btree_set("[a-c]{0,1}[0-9.]{0,4}[a-b0-9]{1,3}", 0..20),
            other in "[a-c]{0,1}[0-9.]{0,4}[a-b0-9]{1,3}",
        ) {
            let names: Vec<crate::Name> = names.iter().filter_map(|n| n.parse().ok()).collect();
            let text = fold(&names).join(",");
            prop_assume!(!text.is_empty());
            let expr: HostExpr = text.parse().unwrap();
            prop_assert!(names.iter().all(|n| expr.contains(n.as_str(), &[])), "{}", text);
            let is_one = names.iter().any(|n| n.as_str() == other);
            prop_assert_eq!(expr.contains(&other, &[]), is_one, "{}", text);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-z0-9.,\\[\\]/ -]{0,40}") {
            if let Ok(expr) = text.parse::<HostExpr>() {
                prop_assert_eq!(expr.to_string(), text);
            }
        }
    }
}
