//! Reading a document, with errors that say where and what to do.

use std::fmt;

use thiserror::Error;

use super::check::Problem;
use super::{Setup, TEXT_MAX};

/// Why a text is no document of a host setup.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SetupError {
    /// It does not fit into a cell.
    #[error(
        "cannot read the setup: it has {len} bytes, at most {TEXT_MAX} are possible; move long files into templates"
    )]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// It is not TOML, or has other keys or values than a setup.
    #[error("cannot read the setup: line {line}: {reason}{hint}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
        /// What may have been meant; empty where nothing comes to mind.
        hint: Hint,
    },
    /// It contradicts itself.
    #[error("the setup cannot be used: {}", list(.0))]
    Wrong(Vec<Problem>),
}

/// What to do about an error of syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint(Option<String>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}

impl Setup {
    /// Reads a document and checks that it does not contradict itself.
    ///
    /// # Errors
    /// When it is too long, is no TOML, has other keys or values than a setup, or contradicts itself (then with
    /// everything that is wrong).
    pub fn parse(text: &str) -> Result<Self, SetupError> {
        if text.len() > TEXT_MAX {
            return Err(SetupError::TooLong { len: text.len() });
        }
        let setup: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|b| *b == b'\n').count() + 1;
            let reason = p2pinst_command::text(error.message().as_bytes());
            let hint = Hint(hint(&reason));
            SetupError::Syntax { line, reason, hint }
        })?;
        let problems = setup.check();
        if problems.is_empty() { Ok(setup) } else { Err(SetupError::Wrong(problems)) }
    }
}

/// What may have been meant.
fn hint(reason: &str) -> Option<String> {
    let mut quoted = reason.split('`').skip(1).step_by(2);
    let first = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    if reason.starts_with("unknown field") || reason.starts_with("unknown variant") {
        if ["name", "hostname", "agent"].contains(&first) {
            return Some(format!("`{first}` is written at the top, before the first ["));
        }
        let near = known.iter().min_by_key(|word| distance(first, word))?;
        return (distance(first, near) <= 2).then(|| format!("did you mean `{near}`?"));
    }
    if reason.starts_with("missing field") {
        return match first {
            "match" => Some("every [[disk]] says which one it is: match = { serial = \"…\" }, or match = {} for any".into()),
            "size" => Some("write size = \"20GB\", \"25%\" or \"rest\"".into()),
            _ => Some(format!("add {first} = \"…\"")),
        };
    }
    None
}

/// Levenshtein's distance of two words.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(40).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, c) in one.chars().take(40).enumerate() {
        let mut next = vec![i + 1];
        for ((j, o), pair) in other.iter().enumerate().zip(row.windows(2)) {
            let [diagonal, above] = pair else { continue };
            let left = next.get(j).copied().unwrap_or(usize::MAX - 1);
            next.push((diagonal + usize::from(c != *o)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Setup::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_say_where_and_what_to_do() {
        let wrong = error("name = \"a\"\n[[disk]]\nmatch = {}\nwype = \"never\"\n");
        assert!(wrong.contains("line 4") && wrong.contains("did you mean `wipe`?"), "{wrong}");
        let variant = error("name = \"a\"\n[[disk]]\nmatch = {}\nwipe = \"nevr\"\n");
        assert!(variant.contains("line 4") && variant.contains("`never`?"), "{variant}");
        let missing = error("name = \"a\"\n[[disk]]\nwipe = \"never\"\n");
        assert!(missing.contains("match = {"), "{missing}");
        let late = error("name = \"a\"\n[boot]\nnext = \"disk\"\nagent = true\n");
        assert!(late.contains("line 4") && late.contains("at the top"), "{late}");
        let size = error("name = \"a\"\n[[disk]]\nmatch = { min_size = \"big\" }\n");
        assert!(size.contains("line 3") && size.contains("20GB"), "{size}");
        assert!(error("name = \"a\n").contains("line 1"));
        assert!(error(&"#".repeat(TEXT_MAX + 1)).contains("at most 7168"));
        assert!(error("name = \"../x\"").contains("is not a name"));
    }

    #[test]
    fn the_example_is_read_and_hashed() {
        let docs = include_str!("mod.rs");
        let example: String = docs
            .lines()
            .skip_while(|line| *line != "//! ```toml")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n")
            .collect();
        let setup = Setup::parse(&example).unwrap();
        assert_eq!(setup.disk[0].partition.len(), 2);
        let spaced = Setup::parse(&example.replace(" = ", "=")).unwrap();
        assert_eq!(setup.hash(), spaced.hash());
        let other = Setup::parse(&example.replace("512MiB", "513MiB")).unwrap();
        assert_ne!(setup.hash(), other.hash());
        let cbor = p2pinst_types::codec::encode(&setup).unwrap();
        assert_eq!(p2pinst_types::codec::decode::<Setup>(&cbor).unwrap(), setup);
        assert_eq!(Setup::parse(&toml::to_string(&setup).unwrap()).unwrap(), setup);
    }
}
