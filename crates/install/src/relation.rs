//! Relations between Debian packages (`deb-control(5)`, Debian Policy 7): read, shown, evaluated.
//! Pure.

use std::cmp::Ordering;
use std::fmt;

use p2pinst_types::version::compare_debian;
use thiserror::Error;

use crate::control::Stanza;

/// A relation field longer than this is refused: the longest in Debian have some 20 kB.
const FIELD_MAX: usize = 128 * 1024;

/// Why a relation field cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot read the relation {text:?}: {reason}")]
pub struct RelationError {
    /// The part that is wrong, cut at 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl RelationError {
    fn new(text: &str, reason: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), reason }
    }
}

/// How a version must compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

impl Op {
    /// Reads an operator; `<` and `>` have the old meaning "or equal", as for dpkg.
    fn split(text: &str) -> Option<(Self, &str)> {
        [
            ("<<", Self::Earlier),
            ("<=", Self::EarlierOrEqual),
            (">=", Self::LaterOrEqual),
            (">>", Self::Later),
            ("=", Self::Equal),
            ("<", Self::EarlierOrEqual),
            (">", Self::LaterOrEqual),
        ]
        .into_iter()
        .find_map(|(sign, op)| text.strip_prefix(sign).map(|rest| (op, rest)))
    }
}

/// A condition on a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// How it must compare…
    pub op: Op,
    /// …with this version.
    pub version: String,
}

impl Constraint {
    /// Whether a version meets the condition.
    #[must_use]
    pub fn accepts(&self, version: &str) -> bool {
        let order = compare_debian(version, &self.version);
        match self.op {
            Op::Earlier => order == Ordering::Less,
            Op::EarlierOrEqual => order != Ordering::Greater,
            Op::Equal => order == Ordering::Equal,
            Op::LaterOrEqual => order != Ordering::Less,
            Op::Later => order == Ordering::Greater,
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            Op::Earlier => "<<",
            Op::EarlierOrEqual => "<=",
            Op::Equal => "=",
            Op::LaterOrEqual => ">=",
            Op::Later => ">>",
        };
        write!(f, "({op} {})", self.version)
    }
}

/// One package that a relation names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The package, or a virtual one.
    pub name: String,
    /// The architecture that it is asked for in (`any`, `amd64`), when one is written.
    pub architecture: Option<String>,
    /// Which versions are meant; all when there is none.
    pub constraint: Option<Constraint>,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(architecture) = &self.architecture {
            write!(f, ":{architecture}")?;
        }
        match &self.constraint {
            Some(constraint) => write!(f, " {constraint}"),
            None => Ok(()),
        }
    }
}

/// Alternatives, of which one is enough: `a | b (>= 2)`. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause(pub Vec<Relation>);

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, relation) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" | ")?;
            }
            relation.fmt(f)?;
        }
        Ok(())
    }
}

/// Reads a field of clauses as a package of `architecture` means it: what is restricted to other
/// architectures (`[i386]`) is left out, build profiles (`<!nocheck>`) are passed over.
///
/// # Errors
/// When the field is no list of relations, or is too long.
pub fn parse(field: &str, architecture: &str) -> Result<Vec<Clause>, RelationError> {
    if field.len() > FIELD_MAX {
        return Err(RelationError::new(field, "the field is too long"));
    }
    let mut clauses = Vec::new();
    for text in field.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let mut alternatives = Vec::new();
        for alternative in text.split('|') {
            alternatives.extend(parse_one(alternative.trim(), architecture)?);
        }
        if !alternatives.is_empty() {
            clauses.push(Clause(alternatives));
        }
    }
    Ok(clauses)
}

/// Reads a field that knows no alternatives: `Provides`, `Conflicts`, `Breaks`.
///
/// # Errors
/// As [`parse`], and when there are alternatives.
pub fn parse_plain(field: &str, architecture: &str) -> Result<Vec<Relation>, RelationError> {
    let single = |clause: Clause| match <[Relation; 1]>::try_from(clause.0) {
        Ok([relation]) => Ok(relation),
        Err(many) => {
            Err(RelationError::new(&Clause(many).to_string(), "no alternatives are allowed here"))
        }
    };
    parse(field, architecture)?.into_iter().map(single).collect()
}

/// `name[:architecture] [(op version)] [[architectures]] [<profiles>]`
fn parse_one(text: &str, architecture: &str) -> Result<Option<Relation>, RelationError> {
    let error = |reason| RelationError::new(text, reason);
    let end = text.find(|c: char| c.is_whitespace() || "([<".contains(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    if !is_package_name(name) {
        return Err(error("this is no package name"));
    }
    if qualifier.is_some_and(|q| !is_architecture(q)) {
        return Err(error("this is no architecture"));
    }
    let mut constraint = None;
    let mut applies = true;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            break;
        } else if let Some(inner) = rest.strip_prefix('(') {
            let (inside, after) = inner.split_once(')').ok_or_else(|| error("`)` is missing"))?;
            let (op, version) =
                Op::split(inside.trim()).ok_or_else(|| error("the operator is missing"))?;
            let version = version.trim();
            if version.is_empty() || version.contains(char::is_whitespace) || constraint.is_some() {
                return Err(error("one version is needed"));
            }
            constraint = Some(Constraint { op, version: version.to_owned() });
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (inside, after) = inner.split_once(']').ok_or_else(|| error("`]` is missing"))?;
            applies &= restriction_includes(inside, architecture);
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('<') {
            rest = inner.split_once('>').ok_or_else(|| error("`>` is missing"))?.1;
        } else {
            return Err(error("there is something after the relation"));
        }
    }
    let architecture = qualifier.map(str::to_owned);
    Ok(applies.then(|| Relation { name: name.to_owned(), architecture, constraint }))
}

/// Whether `[amd64 arm64]` or `[!i386]` includes the architecture.
fn restriction_includes(list: &str, architecture: &str) -> bool {
    let mut negated = false;
    let mut named = false;
    for word in list.split_whitespace() {
        let (wildcard, not) = match word.strip_prefix('!') {
            Some(wildcard) => (wildcard, true),
            None => (word, false),
        };
        negated |= not;
        named |= wildcard == architecture
            || matches!(wildcard, "any" | "linux-any")
            || wildcard.strip_prefix("any-") == Some(architecture)
            || wildcard.strip_prefix("linux-") == Some(architecture);
    }
    named != negated
}

/// Debian Policy 5.6.7: at least two of `a-z0-9+-.`, the first a letter or digit. Names in
/// relations and in the status database may be older than that: capitals are let through there.
fn is_package_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c))
}

fn is_architecture(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// What a package asks of others, and offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relations {
    /// Must be configured before this package is configured.
    pub depends: Vec<Clause>,
    /// Must be configured before this package is unpacked.
    pub pre_depends: Vec<Clause>,
    /// Must not be unpacked together with this package.
    pub conflicts: Vec<Relation>,
    /// Must not be configured together with this package.
    pub breaks: Vec<Relation>,
    /// Virtual packages that this package offers.
    pub provides: Vec<Relation>,
}

impl Relations {
    /// Reads all relations, and names the field of the first that cannot be read.
    pub(crate) fn read(
        stanza: &Stanza<'_>,
        architecture: &str,
    ) -> Result<Self, (&'static str, RelationError)> {
        let clauses = |name| {
            parse(stanza.get(name).unwrap_or(""), architecture).map_err(|error| (name, error))
        };
        let plain = |name| {
            parse_plain(stanza.get(name).unwrap_or(""), architecture).map_err(|error| (name, error))
        };
        Ok(Self {
            depends: clauses("Depends")?,
            pre_depends: clauses("Pre-Depends")?,
            conflicts: plain("Conflicts")?,
            breaks: plain("Breaks")?,
            provides: plain("Provides")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(field: &str) -> String {
        let clauses = parse(field, "amd64").unwrap();
        clauses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn reads_what_policy_allows() {
        assert_eq!(
            shown("libc6 (>= 2.14), a|b:any (<<1:2-3) , c (= 1)\n, python3:any,"),
            "libc6 (>= 2.14), a | b:any (<< 1:2-3), c (= 1), python3:any"
        );
        assert_eq!(shown("a [amd64], b [i386], c [!i386], d [linux-any] <!nocheck>"), "a, c, d");
        assert_eq!(shown("a [i386] | b"), "b");
        assert_eq!(shown("a (< 1), b (> 1)"), "a (<= 1), b (>= 1)");
        assert_eq!(shown(""), "");
    }

    #[test]
    fn refuses_what_is_no_relation() {
        for bad in
            ["a (1)", "a (>= )", "a (>= 1", "a b", "-a", "a [x", "|", "a (>= 1) (<< 2)", "a:"]
        {
            assert!(parse(bad, "amd64").is_err(), "{bad}");
        }
        assert!(parse(&"a,".repeat(FIELD_MAX), "amd64").is_err());
        let error = parse_plain("a | b", "amd64").unwrap_err().to_string();
        assert!(error.contains("a | b") && error.contains("alternatives"), "{error}");
    }

    #[test]
    fn constraints_compare_as_versions() {
        let accepts = |text: &str, version: &str| {
            let clauses = parse(&format!("a ({text})"), "amd64").unwrap();
            clauses[0].0[0].constraint.as_ref().unwrap().accepts(version)
        };
        assert!(accepts(">= 1.9", "1.10") && !accepts(">= 1.10", "1.9"));
        assert!(accepts("<< 1.0", "1.0~rc1") && !accepts("<< 1.0", "1.0"));
        assert!(accepts("= 1.0-0", "1.0") && accepts("<= 1", "1") && !accepts(">> 1", "1"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a:|,()<>=\\[\\]! é1]{0,40}") {
            drop(parse(&text, "amd64"));
        }

        #[test]
        fn what_is_shown_reads_the_same(text in "[a-c]{1,3}(:any)?( \\((<<|<=|=|>=|>>) [0-9]{1,2}\\))?( \\| [d-f]{2})?(, [g-i]{2})?") {
            let clauses = parse(&text, "amd64").unwrap();
            prop_assert_eq!(shown(&text), text);
            prop_assert!(!clauses.is_empty());
        }
    }
}
