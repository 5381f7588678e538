//! Names of machines that are adopted together: `node{n}` is node1, node2 and so on, `node{nnn}` node001. Pure.

use std::str::FromStr;

use p2pinst_types::Name;

/// The most digits that a number is filled up to.
const DIGITS: usize = 9;

/// What a machine is called, or how those of a rule are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Naming {
    /// One name.
    One(Name),
    /// A number in each name.
    Numbered(Numbered),
}

/// A name with a number in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbered {
    before: String,
    digits: usize,
    after: String,
}

impl FromStr for Naming {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((before, rest)) = text.split_once('{') else {
            return text.parse().map(Self::One).map_err(|e| format!("{e}"));
        };
        let wrong = || "write one {n} where the number goes: node{n}, rack1-{nn}".to_owned();
        let (number, after) = rest.split_once('}').ok_or_else(wrong)?;
        let digits = number.len();
        if number.chars().any(|c| c != 'n') || !(1..=DIGITS).contains(&digits) {
            return Err(wrong());
        }
        let (before, after) = (before.to_owned(), after.to_owned());
        if after.contains(['{', '}']) {
            return Err(wrong());
        }
        // a digit beside the number would be one of it
        if before.ends_with(|c: char| c.is_ascii_digit())
            || after.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err("no digit may stand beside {n}".to_owned());
        }
        let numbered = Numbered { before, digits, after };
        numbered.name(1)?;
        Ok(Self::Numbered(numbered))
    }
}

impl Numbered {
    fn name(&self, number: u64) -> Result<Name, String> {
        let Self { before, digits, after } = self;
        format!("{before}{number:0digits$}{after}").parse().map_err(|e| format!("{e}"))
    }

    fn number(&self, name: &Name) -> Option<u64> {
        let number = name.as_str().strip_prefix(&self.before)?.strip_suffix(&self.after)?;
        number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())?
    }

    /// The names after those that there are: a number that is in use, or below one that is, is given to no other machine.
    pub(super) fn next<'a>(
        &self,
        known: impl Iterator<Item = &'a Name>,
        count: usize,
    ) -> Result<Vec<Name>, String> {
        let last = known.filter_map(|name| self.number(name)).max().unwrap_or(0);
        let number = |i: u64| last.checked_add(i).ok_or("there are no higher numbers".to_owned());
        (1..).take(count).map(|i| self.name(number(i)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(pattern: &str, known: &[&str], count: usize) -> Vec<String> {
        let Naming::Numbered(numbered) = pattern.parse().unwrap() else { panic!() };
        let known: Vec<Name> = known.iter().map(|n| n.parse().unwrap()).collect();
        numbered.next(known.iter(), count).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn numbers_go_on_after_the_last() {
        assert_eq!(next("node{n}", &[], 2), ["node1", "node2"]);
        assert_eq!(next("node{n}", &["node3", "node07", "nodex9", "mode9"], 2), ["node8", "node9"]);
        assert_eq!(next("r{nn}-a", &["r09-a", "r99-b"], 2), ["r10-a", "r11-a"]);
        assert_eq!(next("{nnn}", &["999"], 1), ["1000"]);
        assert_eq!(next("node{n}", &["node99999999999999999999"], 1), ["node1"]);
    }

    #[test]
    fn names_are_names() {
        assert_eq!("n5".parse(), Ok(Naming::One("n5".parse().unwrap())));
        for bad in ["", "a b{n}", "n{", "n{}", "n{x}", "n{n}{n}", "n{n}}", "n1{n}", "n{n}1", "-{n}"]
        {
            assert!(bad.parse::<Naming>().is_err(), "{bad:?}");
        }
        let Ok(Naming::Numbered(numbered)) = "n{n}".parse() else { panic!() };
        let last: Name = format!("n{}", u64::MAX).parse().unwrap();
        assert!(numbered.next([last].iter(), 1).is_err());
    }
}
