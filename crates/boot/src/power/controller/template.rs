//! The command of a site: words with places for what differs between machines. Never a shell.

use std::fmt;

use super::Problem;

/// What is put into the places of a template.
#[derive(Debug, Clone, Copy)]
pub struct Filling<'a> {
    /// `{action}`: `on`, `off`, `soft-off`, `reset`, `status`, `boot-pxe`, `boot-uefi-http`, `boot-disk`, `boot-none`.
    pub action: &'a str,
    /// `{mac}`: the machine's first hardware address; empty when it has none.
    pub mac: &'a str,
    /// `{uuid}`: the machine's SMBIOS UUID; empty when it is not known.
    pub uuid: &'a str,
    /// `{name}`: the machine's name.
    pub name: &'a str,
}

const PLACES: [&str; 4] = ["{action}", "{mac}", "{uuid}", "{name}"];

/// A program's path and its arguments, with places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    words: Vec<String>,
}

impl Template {
    /// Reads words divided by spaces; a word in quotation marks may have spaces. The error's number is where it is in the text.
    pub(super) fn read(text: &str) -> Result<Self, (usize, Problem)> {
        let mut words = Vec::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..) {
            at += rest.len() - rest.trim_start_matches(' ').len();
            let Some(first) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
            let (word, next) = match first {
                '\'' | '"' => {
                    let inner = text.get(at + 1..).unwrap_or("");
                    let problem = Problem::Template("a quotation mark without its end");
                    let end = inner.find(first).ok_or((at, problem))?;
                    (inner.get(..end).unwrap_or(""), at + end + 2)
                }
                _ => {
                    let rest = text.get(at..).unwrap_or("");
                    let end = rest.find(' ').unwrap_or(rest.len());
                    (rest.get(..end).unwrap_or(""), at + end)
                }
            };
            if !text.get(next..).is_none_or(|rest| rest.is_empty() || rest.starts_with(' ')) {
                return Err((next, Problem::Template("a space is missing after a quotation mark")));
            }
            check(word).map_err(|problem| (at, problem))?;
            words.push(word.to_owned());
            at = next;
        }
        match words.first() {
            Some(program) if program.starts_with('/') && !program.contains('{') => {
                Ok(Self { words })
            }
            _ => Err((0, Problem::Template("a command begins with the whole path of a program"))),
        }
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The arguments, with everything in its place. What is put in is one argument or a part of one, whatever it has in it.
    #[must_use]
    pub fn arguments(&self, filling: &Filling<'_>) -> Vec<String> {
        self.words.iter().skip(1).map(|word| fill(word, filling)).collect()
    }
}

/// Places are filled from left to right, so that what is put in is not read again.
fn fill(word: &str, filling: &Filling<'_>) -> String {
    let mut filled = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('{') {
        let (place, after) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(before);
        filled.push_str(match place {
            "action" => filling.action,
            "mac" => filling.mac,
            "uuid" => filling.uuid,
            _ => filling.name,
        });
        rest = after;
    }
    filled + rest
}

fn check(word: &str) -> Result<(), Problem> {
    if word.contains('\'') && word.contains('"') {
        return Err(Problem::Template("a word cannot have both kinds of quotation marks"));
    }
    let bare = PLACES.iter().fold(word.to_owned(), |word, place| word.replace(place, ""));
    if bare.contains(['{', '}']) {
        return Err(Problem::Template("write {action}, {mac}, {uuid} or {name} in braces"));
    }
    Ok(())
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, word) in self.words.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            let mark = match word {
                word if word.contains('\'') => "\"",
                word if word.is_empty() || word.contains([' ', '"']) => "'",
                _ => "",
            };
            write!(f, "{space}{mark}{word}{mark}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_nothing_is_split() {
        let read = Template::read("/sbin/pdu  {action} 'of {name}' --mac={mac}{uuid}").unwrap();
        let filling = Filling { action: "on", mac: "aa", uuid: "{name}", name: "a b; rm" };
        assert_eq!(read.program(), "/sbin/pdu");
        assert_eq!(read.arguments(&filling), ["on", "of a b; rm", "--mac=aa{name}"]);
        assert_eq!(read.to_string(), "/sbin/pdu {action} 'of {name}' --mac={mac}{uuid}");
        assert!(Template::read("/sbin/pdu {action").is_err());
        assert!(Template::read("/sbin/{name} on").is_err());
        assert!(Template::read("").is_err());
        assert!(Template::read("/x 'a'b").is_err());
    }
}
