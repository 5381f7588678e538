//! The Clumpt group file: groups as text, to be kept under version control or edited by hand.
//!
//! ```text
//! group {
//!     name = "LSC"
//!     description = "Room 214 - CT/UFSM"
//!     machines = { host01, host02, node[01-16], 10.0.0.1-12 }
//! }
//! ```
//!
//! The format is that of libConfuse as Clumpt used it: white space is free, `#`, `//` and `/* */`
//! are comments, strings may stand in double quotes. One option is ours: `select = "gpu=true"`,
//! for groups by label.

mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use thiserror::Error;

use crate::hostexpr::HostExpr;
use crate::limits;
use crate::name::Name;
use crate::selector::Selector;
use scan::{Scanner, Token, Word};

/// Why a text is no group file; shows the line and points at the character.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {reason}\n  {text}\n  {pad}^", pad = " ".repeat(*.pad))]
pub struct GroupFileError {
    /// The line, from 1.
    pub line: usize,
    /// The character of the line, from 1.
    pub column: usize,
    /// The line's text around the character.
    pub text: String,
    /// How many characters of `text` stand before the one that is wrong.
    pub pad: usize,
    /// What is wrong.
    pub reason: String,
}

/// One group of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileGroup {
    /// Its name.
    pub name: Name,
    /// What it is, for people.
    pub description: String,
    /// Its machines by name or address; `None` when there are none.
    pub hosts: Option<HostExpr>,
    /// Its machines by label.
    pub select: Option<Selector>,
    /// A comment that is written above it, line by line; not read.
    pub comment: String,
}

impl FileGroup {
    /// Whether two groups mean the same: name, description, selector, and the terms of the hosts
    /// in any order. Comments do not count.
    #[must_use]
    pub fn means(&self, other: &Self) -> bool {
        let terms = |group: &Self| {
            let hosts = group.hosts.iter().flat_map(HostExpr::terms);
            hosts.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        self.name == other.name
            && self.description == other.description
            && self.select == other.select
            && terms(self) == terms(other)
    }
}

/// What is wrong, and at which byte.
type Wrong = (usize, String);

/// Reads a group file.
///
/// # Errors
/// At the first thing that is wrong, or when the file is larger than [`limits::GROUP_FILE`] or has
/// more than [`limits::GROUPS`] groups.
pub fn parse(bytes: &[u8]) -> Result<Vec<FileGroup>, GroupFileError> {
    if bytes.len() > limits::GROUP_FILE {
        return Err(locate("", 0, "the file is larger than 1 MiB".to_owned()));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let good = bytes.get(..e.valid_up_to()).unwrap_or_default();
            let good = std::str::from_utf8(good).unwrap_or_default();
            return Err(locate(good, good.len(), "this is not text (UTF-8)".to_owned()));
        }
    };
    Parser { scanner: Scanner::new(text) }.file().map_err(|(at, reason)| locate(text, at, reason))
}

/// Characters of a long line that are shown on each side of the one that is wrong.
const AROUND: usize = 60;

fn locate(text: &str, at: usize, reason: String) -> GroupFileError {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    let column = text.get(start..at).unwrap_or_default().chars().count();
    let whole = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
    let skip = column.saturating_sub(AROUND);
    let shown = whole.chars().skip(skip).take(2 * AROUND);
    let text = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
    GroupFileError { line, column: column + 1, text, pad: column - skip, reason }
}

struct Parser<'a> {
    scanner: Scanner<'a>,
}

/// The options of a group as they are read.
#[derive(Default)]
struct Options {
    name: Option<Name>,
    description: Option<String>,
    machines: Option<Option<HostExpr>>,
    select: Option<Selector>,
}

impl Parser<'_> {
    fn file(mut self) -> Result<Vec<FileGroup>, Wrong> {
        let mut groups = Vec::new();
        let mut lines: BTreeMap<Name, usize> = BTreeMap::new();
        loop {
            match self.scanner.next()? {
                (_, Token::End) => return Ok(groups),
                (at, Token::Word(word)) if !word.quoted && word.text == "group" => {
                    if groups.len() >= limits::GROUPS {
                        return Err((at, format!("more than {} groups", limits::GROUPS)));
                    }
                    let (group, named) = self.group(at)?;
                    if let Some(first) = lines.insert(group.name.clone(), named) {
                        let line = self.scanner.line_of(first);
                        let reason = format!(
                            "the group {} is in this file twice: see line {line}",
                            group.name
                        );
                        return Err((named, reason));
                    }
                    groups.push(group);
                }
                (at, other) => {
                    return Err((
                        at,
                        format!("{other} stands where a group should begin: group {{ … }}"),
                    ));
                }
            }
        }
    }

    /// Reads a group after its first word; returns also where its name stands.
    fn group(&mut self, begun: usize) -> Result<(FileGroup, usize), Wrong> {
        self.expect(&Token::Open, "after group")?;
        let mut named = begun;
        let mut options = Options::default();
        loop {
            let (at, word) = match self.scanner.next()? {
                (_, Token::Close) => break,
                (at, Token::Word(word)) if !word.quoted => (at, word),
                (_, Token::End) => {
                    return Err((begun, "this group is never closed: a } is missing".to_owned()));
                }
                (at, other) => {
                    return Err((at, format!("{other} stands where an option should: {OPTIONS}")));
                }
            };
            if !KNOWN.contains(&word.text.as_str()) {
                return Err((at, format!("a group has no option {:?}: {OPTIONS}", word.text)));
            }
            self.expect(&Token::Equals, "after the option's name")?;
            let again = match word.text.as_str() {
                "name" => {
                    let (at, name) = self.value()?;
                    named = at;
                    options.name.replace(group_name(at, &name)?).is_some()
                }
                "description" => options.description.replace(self.description()?).is_some(),
                "machines" => options.machines.replace(self.machines()?).is_some(),
                _ => options.select.replace(self.select()?).is_some(),
            };
            if again {
                return Err((at, format!("{} is given twice in one group", word.text)));
            }
        }
        let name = options.name.ok_or_else(|| (begun, "this group has no name".to_owned()))?;
        let description = options.description.unwrap_or_default();
        let (hosts, select) = (options.machines.flatten(), options.select);
        Ok((FileGroup { name, description, hosts, select, comment: String::new() }, named))
    }

    fn expect(&mut self, want: &Token, place: &str) -> Result<(), Wrong> {
        match self.scanner.next()? {
            (_, token) if token == *want => Ok(()),
            (at, other) => Err((at, format!("{other} stands where {want} should, {place}"))),
        }
    }

    /// Reads the value of an option.
    fn value(&mut self) -> Result<(usize, Word), Wrong> {
        match self.scanner.next()? {
            (at, Token::Word(word)) => Ok((at, word)),
            (at, other) => Err((at, format!("{other} stands where a value should: \"…\""))),
        }
    }

    fn description(&mut self) -> Result<String, Wrong> {
        let (at, word) = self.value()?;
        if word.text.len() > limits::DESCRIPTION {
            return Err((at, format!("a description has at most {} bytes", limits::DESCRIPTION)));
        }
        Ok(word.text)
    }

    fn select(&mut self) -> Result<Selector, Wrong> {
        let (at, word) = self.value()?;
        let parsed = word.text.parse::<Selector>();
        parsed.map_err(|e| (word.place(at, e.at), format!("selector: {}", e.reason)))
    }

    /// Reads `{ host01, node[02-16], 10.0.0.1-12 }`.
    fn machines(&mut self) -> Result<Option<HostExpr>, Wrong> {
        let begun = self.scanner.place();
        self.expect(&Token::Open, "after machines =")?;
        let open = || (begun, "this list is never closed: a } is missing".to_owned());
        let mut text = String::new();
        loop {
            let (at, word) = match self.scanner.next()? {
                (_, Token::Close) => break,
                (at, Token::Word(word)) => (at, word),
                (_, Token::End) => return Err(open()),
                (at, other) => return Err((at, format!("{other} stands where a machine should"))),
            };
            let parsed = word.text.parse::<HostExpr>();
            parsed.map_err(|e| (word.place(at, e.at), format!("machines: {}", e.reason)))?;
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(word.text.trim());
            match self.scanner.next()? {
                (_, Token::Close) => break,
                (_, Token::Comma) => {}
                (_, Token::End) => return Err(open()),
                (at, other) => {
                    return Err((at, format!("{other} stands where a comma or a }} should")));
                }
            }
        }
        if text.is_empty() {
            return Ok(None);
        }
        let whole = text.parse::<HostExpr>();
        whole.map(Some).map_err(|e| (begun, format!("the machines together: {}", e.reason)))
    }
}

const KNOWN: [&str; 4] = ["name", "description", "machines", "select"];
const OPTIONS: &str = "name, description, machines or select";

fn group_name(at: usize, word: &Word) -> Result<Name, Wrong> {
    let name: Name = word.text.parse().map_err(|e: crate::name::NameError| {
        let within = match &e {
            crate::name::NameError::Character { bad, .. } => word.text.find(*bad),
            _ => None,
        };
        (word.place(at, within.unwrap_or_default()), e.to_string())
    })?;
    if name == Name::all() {
        return Err((at, "the group all is built in: every machine is in it".to_owned()));
    }
    Ok(name)
}

/// Writes a group file; [`parse`] reads the same groups from it.
#[must_use]
pub fn print(groups: &[FileGroup]) -> String {
    let mut text = String::new();
    // writing to a string does not fail
    match groups.iter().try_for_each(|group| write_group(&mut text, group)) {
        Ok(()) | Err(fmt::Error) => text,
    }
}

/// Characters of a line of machines, about.
const WIDTH: usize = 90;

fn write_group(out: &mut String, group: &FileGroup) -> fmt::Result {
    for line in group.comment.lines() {
        writeln!(out, "# {}", line.replace(char::is_control, " "))?;
    }
    writeln!(out, "group {{\n    name = {}", quoted(group.name.as_str()))?;
    writeln!(out, "    description = {}", quoted(&group.description))?;
    let terms: Vec<&str> = group.hosts.iter().flat_map(HostExpr::terms).collect();
    if terms.iter().map(|t| t.len() + 2).sum::<usize>() < WIDTH {
        writeln!(out, "    machines = {{{}}}", terms.join(", "))?;
    } else {
        writeln!(out, "    machines = {{")?;
        for (i, term) in (1..).zip(&terms) {
            let comma = if i == terms.len() { "" } else { "," };
            writeln!(out, "        {term}{comma}")?;
        }
        writeln!(out, "    }}")?;
    }
    if let Some(select) = &group.select {
        writeln!(out, "    select = {}", quoted(&select.to_string()))?;
    }
    writeln!(out, "}}")
}

/// A string in quotes. What would steer a terminal is written as its number.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || turns(c) => {
                out.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether a character turns the direction of a line around (Unicode UAX #9).
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests;
