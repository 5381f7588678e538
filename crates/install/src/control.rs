//! Stanzas of Debian control files (`deb822(5)`): a package's fields, and those of the status
//! database. Pure and without copies: a status database has megabytes.

/// One stanza: fields in their order, values as written, continuation lines included.
#[derive(Debug)]
pub(crate) struct Stanza<'a> {
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Stanza<'a> {
    /// The field's value, trimmed; the last one when it is given twice, as dpkg takes it.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().rev().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    }
}

/// The stanzas of a text. Lines that are no field are passed over: dpkg itself has judged the
/// syntax before.
pub(crate) fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut fields = Vec::new();
        while let Some((line, after)) = field(rest) {
            rest = after;
            if line.trim().is_empty() {
                if !fields.is_empty() {
                    break;
                }
            } else if let Some(pair) = line.split_once(':') {
                fields.push(pair);
            }
        }
        (!fields.is_empty()).then_some(Stanza { fields })
    })
}

/// Splits off the next field with its continuation lines, or the next blank line.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut end = text.find('\n').map_or(text.len(), |i| i + 1);
    if end == 0 {
        return None;
    }
    while text.get(end..).is_some_and(continues) {
        let line = text.get(end..).unwrap_or("");
        end += line.find('\n').map_or(line.len(), |i| i + 1);
    }
    text.split_at_checked(end)
}

/// Whether a line continues the field before: it begins with a blank, and has more than blanks.
fn continues(text: &str) -> bool {
    text.starts_with([' ', '\t']) && !text.lines().next().unwrap_or("").trim().is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_and_continuations() {
        let text = "\n\nPackage: a\nDepends: b,\n c\nDescription: x\n .\n y: z\n \n\npackage:d\n";
        let all: Vec<_> = stanzas(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("package"), Some("a"));
        assert_eq!(all[0].get("Depends"), Some("b,\n c"));
        assert_eq!(all[0].get("y"), None);
        assert_eq!(all[1].get("Package"), Some("d"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a: \t\n.é]{0,60}") {
            for stanza in stanzas(&text) {
                prop_assert!(stanza.get("missing").is_none());
            }
        }

        #[test]
        fn reads_what_was_written(values in prop::collection::vec("[a-z]{1,5}(\n [a-z]{1,5})?", 1..5)) {
            let text: String = values.iter().map(|v| format!("F: {v}\n\n")).collect();
            let read: Vec<_> = stanzas(&text).map(|s| s.get("F").unwrap().to_owned()).collect();
            prop_assert_eq!(read, values);
        }
    }
}
