//! Texts as other languages write them: a word of the shell (POSIX.1-2017, XCU 2.2), a scalar of YAML 1.2.

use std::fmt::Write;

/// One word of the shell that stands for exactly this text.
pub(crate) fn sh(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"@%+=:,./_-".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// One word on one line which `printf %b` turns into this text: what has to pass through files of lines.
pub(crate) fn printf(text: &str) -> String {
    let mut word = String::with_capacity(text.len() + 8);
    word.push('\'');
    for c in text.chars() {
        match c {
            '\n' => word.push_str("\\n"),
            '\t' => word.push_str("\\t"),
            '\\' => word.push_str("\\\\"),
            // %b takes octal digits after a zero; inside of single quotes no other quote may stand
            '\'' => word.push_str("\\0047"),
            c if c.is_ascii_control() => push(&mut word, format_args!("\\0{:03o}", c as u32)),
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

/// A double-quoted scalar of YAML, on one line.
pub(crate) fn yaml(text: &str) -> String {
    let mut scalar = String::with_capacity(text.len() + 2);
    scalar.push('"');
    for c in text.chars() {
        match c {
            '"' => scalar.push_str("\\\""),
            '\\' => scalar.push_str("\\\\"),
            '\n' => scalar.push_str("\\n"),
            '\t' => scalar.push_str("\\t"),
            c if needs_escape(c) => push(&mut scalar, format_args!("\\u{:04X}", c as u32)),
            c => scalar.push(c),
        }
    }
    scalar.push('"');
    scalar
}

/// A value as YAML on one line: lists and maps in flow style, all texts quoted.
pub(crate) fn yaml_value(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => yaml(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(yaml_value).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let pair = |(k, v): (&String, &Value)| format!("{}: {}", yaml(k), yaml_value(v));
            let pairs: Vec<_> = map.iter().map(pair).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// What YAML does not count as printable, or takes for the end of a line. All of it has at most four hexadecimal digits.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}')
}

fn push(to: &mut String, what: std::fmt::Arguments<'_>) {
    // writing to a string does not fail
    let _ok = to.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use p2pinst_command::{ask, clean};
    use proptest::prelude::*;

    use super::*;

    fn shell(script: &str) -> Vec<u8> {
        let mut command = clean("sh");
        command.args(["-c", script]);
        let said = ask(command, 100_000).unwrap();
        assert!(said.success, "{}", said.stderr);
        said.stdout
    }

    #[test]
    fn yaml_has_one_line() {
        assert_eq!(yaml("a\"b\\c\nd\u{7f}\u{85}é😀"), r#""a\"b\\c\nd\u007F\u0085é😀""#);
        let value = serde_json::json!({"a": [1, true, null, "no"], "b: c": "#"});
        assert_eq!(yaml_value(&value), r##"{"a": [1, true, null, "no"], "b: c": "#"}"##);
    }

    #[test]
    fn words() {
        assert_eq!(sh("/usr/bin/x-1.0"), "/usr/bin/x-1.0");
        assert_eq!(sh(""), "''");
        assert_eq!(sh("a'b $c"), r"'a'\''b $c'");
        assert_eq!(printf("it's\n\\0\u{1}"), r"'it\0047s\n\\0\0001'");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_shell_reads_what_was_meant(text in "[^\0]{0,60}") {
            prop_assert_eq!(shell(&format!("printf %s {}", sh(&text))), text.as_bytes());
            let word = printf(&text);
            prop_assert!(!word.contains('\n'));
            prop_assert_eq!(shell(&format!("printf %b {word}")), text.as_bytes());
        }
    }
}
