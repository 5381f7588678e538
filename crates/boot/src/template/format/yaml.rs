//! Fragments of YAML: the top level of a map, put together from several nodes.
//!
//! Readers of YAML take the last of two equal keys, or the first, and say nothing. So fragments are looked at line by line,
//! as far as their keys go, and nobody's settings vanish.

use std::collections::BTreeMap;

use p2pinst_types::name::Name;

use super::{Clash, Part, line_ended};

/// A map that is put together.
#[derive(Debug)]
pub(super) struct Map {
    indent: &'static str,
    keys: BTreeMap<String, Option<Name>>,
    out: String,
}

impl Map {
    /// A map whose own keys are these, with fragments indented by so much.
    pub(super) fn new(indent: &'static str, ours: &[&str]) -> Self {
        let keys = ours.iter().map(|key| ((*key).to_owned(), None)).collect();
        Self { indent, keys, out: String::new() }
    }

    /// Adds a node's fragment.
    pub(super) fn add(
        &mut self,
        part: &Part,
        section: &'static str,
        text: &str,
    ) -> Result<(), Clash> {
        let refuse = |reason: String| part.clash(section, reason);
        for key in top_keys(text).map_err(refuse)? {
            match self.keys.insert(key.clone(), Some(part.node.clone())) {
                None => {}
                Some(None) => {
                    let reason = format!(
                        "it has the key {key}, which is written from sections: use packages, pre, post, files or partitioning"
                    );
                    return Err(refuse(reason));
                }
                Some(Some(other)) => {
                    let reason = format!("it has the key {key}, which node {other} has too");
                    return Err(refuse(reason));
                }
            }
        }
        self.out += &format!("{}# {}: {section}\n", self.indent, part.node);
        for line in line_ended(text).lines() {
            let indent = if line.is_empty() { "" } else { self.indent };
            self.out += &format!("{indent}{line}\n");
        }
        Ok(())
    }

    /// All fragments.
    pub(super) fn finish(self) -> String {
        self.out
    }
}

/// The keys of a block map at the left margin.
fn top_keys(text: &str) -> Result<Vec<String>, String> {
    let mut keys = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let wrong = |what: &str| Err(format!("line {}: {what}", i + 1));
        let trimmed = line.trim_start_matches(' ');
        if trimmed.starts_with('\t') {
            return wrong("YAML is indented by spaces, not by tabs");
        }
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if trimmed.len() < line.len() {
            if keys.is_empty() {
                return wrong("the first key must be at the left margin");
            }
            continue;
        }
        // a list may stand at the margin of its key
        if (line == "-" || line.starts_with("- ")) && !keys.is_empty() {
            continue;
        }
        let Some(key) = key_of(line) else {
            return wrong("expected \"key:\" at the left margin (indent what belongs to a key)");
        };
        keys.push(key);
    }
    Ok(keys)
}

fn key_of(line: &str) -> Option<String> {
    let (key, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
            line.split_at(line.find(|c| !plain(c))?)
        }
    };
    let rest = rest.trim_start_matches(' ').strip_prefix(':')?;
    let is_key = !key.is_empty() && (rest.is_empty() || rest.starts_with(' '));
    is_key.then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_at_the_margin() {
        let text = "# c\na: 1\nb:\n- x\n- y\n\nc-d: |\n  e: f\n\"g h\": {}\nk :\n  - 1\n";
        assert_eq!(top_keys(text).unwrap(), ["a", "b", "c-d", "g h", "k"]);
        for (bad, said) in [
            ("---\na: 1", "line 1: expected"),
            ("a: [\n]", "line 2: expected"),
            ("- a", "line 1: expected"),
            ("  a: 1", "line 1: the first key"),
            ("a:\n\tb: 1", "line 2: YAML is indented"),
            ("{a: 1}", "line 1: expected"),
            ("a:1", "line 1: expected"),
            ("%YAML 1.2", "line 1: expected"),
            ("a: b\n...", "line 2: expected"),
        ] {
            let reason = top_keys(bad).unwrap_err();
            assert!(reason.starts_with(said), "{bad:?}: {reason}");
        }
    }
}
