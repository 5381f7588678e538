//! Text for people: tables, ages, sizes. Nothing that came from elsewhere reaches the terminal
//! with control characters in it.

use std::time::Duration;

use p2pinst_types::{Labels, Millis};

/// A table with aligned columns.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// A table without headings.
    pub(crate) fn bare() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|c| clean(&c)).collect());
    }

    /// The table as lines, each indented and cut to a width.
    pub(crate) fn text_within(&self, indent: &str, width: Option<usize>) -> String {
        let text = self.text(indent);
        let Some(width) = width else { return text };
        let mut within = String::new();
        for line in text.lines() {
            within.push_str(&cut(line, width));
            within.push('\n');
        }
        within
    }

    /// The table as lines, each indented.
    pub(crate) fn text(&self, indent: &str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(i));
            cells.map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(format!("{indent}{line}").trim_end());
            text.push('\n');
        }
        text
    }
}

/// One line without control characters: what a package's script printed must not steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    let text = text.trim();
    text.chars().map(|c| if c == '\n' || c == '\t' { ' ' } else { harmless(c) }).collect()
}

/// The first line of a text, for a table: what the package manager said stands below it.
pub(crate) fn brief(text: &str) -> String {
    /// Two lines of a common terminal, where none is asked for its width.
    const MOST: usize = 160;
    cut(text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default(), MOST)
}

fn cut(line: &str, most: usize) -> String {
    if line.chars().count() <= most {
        return line.to_owned();
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The columns of the terminal on stdout; `None`: it is none.
pub(crate) fn width() -> Option<usize> {
    use std::io::IsTerminal;
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns >= 20)
}

/// Lines without control characters.
pub(crate) fn clean_lines(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { harmless(c) }).collect()
}

fn harmless(c: char) -> char {
    // besides the controls: what turns the direction of a line around (Unicode UAX #9)
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns { '?' } else { c }
}

/// `17s`, `3m`, `5h`, `12d`
pub(crate) fn age(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// `17 B`, `20.1 KiB`, `64.0 MiB`
pub(crate) fn size(bytes: u64) -> String {
    let mut rest = bytes;
    let mut unit = "B";
    let mut tenths = 0;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if rest < 1024 {
            break;
        }
        tenths = rest % 1024 * 10 / 1024;
        rest /= 1024;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{rest}.{tenths} {unit}") }
}

/// `250 ms`, `3.2 s`, `5m`
pub(crate) fn took(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..60_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        _ => age(Duration::from_millis(millis)),
    }
}

/// `arch=arm64,gpu=true`
pub(crate) fn labels(labels: &Labels) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// The names, up to a number of them.
pub(crate) fn names<T: ToString>(names: &[T], most: usize) -> String {
    let mut shown: Vec<String> = names.iter().take(most).map(T::to_string).collect();
    if names.len() > most {
        shown.push(format!("and {} more", names.len() - most));
    }
    shown.join(", ")
}

/// `1 machine`, `2 machines`
pub(crate) fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// `up 3m`, `down 5h`, `never seen`
pub(crate) fn liveness(up: bool, since: Option<Millis>, now: Millis) -> String {
    match (up, since) {
        (true, Some(since)) => format!("up {}", age(now.since(since))),
        (true, None) => "up".to_owned(),
        (false, Some(since)) => format!("down {}", age(now.since(since))),
        (false, None) => "never seen".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "SITE", "DETAIL"]);
        table.row(["n1".to_owned(), "default".to_owned(), String::new()]);
        table.row(["näme10".to_owned(), "x".to_owned(), "a\nb\x1b[2J".to_owned()]);
        let want = "NAME    SITE     DETAIL\nn1      default\nnäme10  x        a b?[2J\n";
        assert_eq!(table.text(""), want);
        assert_eq!(Table::bare().text("  "), "");
    }

    #[test]
    fn ages_and_sizes() {
        let ages =
            [(0, "0s"), (59, "59s"), (60, "1m"), (3600, "1h"), (86_400, "24h"), (172_800, "2d")];
        for (secs, want) in ages {
            assert_eq!(age(Duration::from_secs(secs)), want);
        }
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (20_582, "20.0 KiB"),
            (67_108_864, "64.0 MiB"),
        ];
        for (bytes, want) in sizes {
            assert_eq!(size(bytes), want);
        }
        assert!(size(u64::MAX).ends_with(" TiB"));
        assert_eq!(
            (took(999), took(3_250), took(61_000)),
            ("999 ms".into(), "3.2 s".into(), "1m".into())
        );
    }

    #[test]
    fn lists_are_cut() {
        assert_eq!(brief(&"é".repeat(160)), "é".repeat(160));
        assert_eq!(brief(&"é".repeat(161)).chars().count(), 160);
        assert_eq!(
            brief("\n dpkg failed\nSelecting previously unselected package x.\n"),
            "dpkg failed"
        );
        let mut table = Table::bare();
        table.row(["n1".to_owned(), "waits for others".to_owned()]);
        assert_eq!(table.text_within(" ", Some(10)), " n1  wait…\n");
        assert_eq!(table.text_within(" ", None), table.text(" "));
        assert_eq!(names(&["a", "b", "c"], 2), "a, b, and 1 more");
        assert_eq!(
            (count(1, "machine"), count(0, "machine")),
            ("1 machine".into(), "0 machines".into())
        );
    }
}
