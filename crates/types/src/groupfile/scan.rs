//! The words of a group file.

use std::fmt;

use super::Wrong;

/// A word or a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) quoted: bool,
    /// Bytes of the file that each byte of the text took, where it was not one: after which byte
    /// of the text how many more.
    escapes: Vec<(usize, usize)>,
}

impl Word {
    /// Where a byte of the text stands in the file, for a word that begins at `at`.
    pub(super) fn place(&self, at: usize, byte: usize) -> usize {
        let more = self.escapes.iter().filter(|(i, _)| *i < byte).map(|(_, n)| n);
        at + usize::from(self.quoted) + byte + more.sum::<usize>()
    }
}

/// What a file is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Open,
    Close,
    Equals,
    Comma,
    Word(Word),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("a {"),
            Self::Close => f.write_str("a }"),
            Self::Equals => f.write_str("a ="),
            Self::Comma => f.write_str("a comma"),
            Self::Word(word) => {
                let short: String = word.text.chars().take(40).collect();
                write!(f, "{short:?}")
            }
            Self::End => f.write_str("the end of the file"),
        }
    }
}

/// Reads token after token.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        // some editors begin a file with a byte order mark
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, at }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The line of a byte, from 1.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.text.get(..at).unwrap_or_default().matches('\n').count() + 1
    }

    /// Where the next token begins, as far as that can be told.
    pub(super) fn place(&mut self) -> usize {
        // what is wrong with a comment is told when the token is read
        drop(self.skip());
        self.at
    }

    /// Skips white space and comments.
    fn skip(&mut self) -> Result<(), Wrong> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            if blank > 0 {
                self.at += blank;
            } else if rest.starts_with('#') || rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let end = comment.find("*/");
                let end =
                    end.ok_or_else(|| (self.at, "this comment is never closed".to_owned()))?;
                self.at += end + 4;
            } else {
                return Ok(());
            }
        }
    }

    /// The next token and where it begins.
    pub(super) fn next(&mut self) -> Result<(usize, Token), Wrong> {
        self.skip()?;
        let at = self.at;
        let token = match self.rest().chars().next() {
            None => return Ok((at, Token::End)),
            Some('{') => Token::Open,
            Some('}') => Token::Close,
            Some('=') => Token::Equals,
            Some(',') => Token::Comma,
            Some('"') => return self.string().map(|word| (at, Token::Word(word))),
            Some(_) => return self.word().map(|word| (at, Token::Word(word))),
        };
        self.at += 1;
        Ok((at, token))
    }

    /// A word without quotes. Commas within brackets are its own: `node[1,3]`.
    fn word(&mut self) -> Result<Word, Wrong> {
        let rest = self.rest();
        let mut open = false;
        let mut end = rest.len();
        for (i, c) in rest.char_indices() {
            let tail = rest.get(i..).unwrap_or_default();
            let comment = c == '#' || tail.starts_with("//") || tail.starts_with("/*");
            if c.is_whitespace()
                || comment
                || matches!(c, '{' | '}' | '=' | '"')
                || (c == ',' && !open)
            {
                end = i;
                break;
            }
            open = (open || c == '[') && c != ']';
        }
        self.at += end;
        let text = rest.get(..end).unwrap_or_default().to_owned();
        Ok(Word { text, quoted: false, escapes: Vec::new() })
    }

    /// A string in double quotes, on one line.
    fn string(&mut self) -> Result<Word, Wrong> {
        let begun = self.at;
        let open = || (begun, "this string is never closed: a \" is missing".to_owned());
        let mut word = Word { text: String::new(), quoted: true, escapes: Vec::new() };
        let rest = self.rest();
        let mut chars = rest.char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(word);
                }
                '\n' => return Err(open()),
                '\\' => {
                    let tail = rest.get(i + 1..).unwrap_or_default();
                    let (c, len) = escape(tail).map_err(|why| (begun + i, why))?;
                    word.text.push(c);
                    word.escapes.push((word.text.len() - 1, 1 + len - c.len_utf8()));
                    // the rest of the escape, character by character
                    let more = tail.get(..len).unwrap_or_default().chars().count();
                    chars.by_ref().take(more).for_each(drop);
                }
                c => word.text.push(c),
            }
        }
        Err(open())
    }
}

/// What stands after a backslash: the character that it means, and its bytes.
fn escape(tail: &str) -> Result<(char, usize), String> {
    let wrong = || "after a \\ in a string stands \", \\, n, t or u{…}".to_owned();
    match tail.chars().next() {
        Some(c @ ('"' | '\\')) => Ok((c, 1)),
        Some('n') => Ok(('\n', 1)),
        Some('t') => Ok(('\t', 1)),
        Some('u') => {
            let digits = tail.strip_prefix("u{").and_then(|t| t.split_once('}')).map(|(d, _)| d);
            let digits = digits.filter(|d| d.len() <= 6).ok_or_else(wrong)?;
            let code = u32::from_str_radix(digits, 16).map_err(|_| wrong())?;
            let c = char::from_u32(code).ok_or_else(wrong)?;
            Ok((c, digits.len() + 3))
        }
        _ => Err(wrong()),
    }
}
