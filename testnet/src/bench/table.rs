//! What a measurement found: for people as a table, for programs as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Named columns of numbers; not a number is none.
#[derive(Debug, Clone)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<f64>)>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(title: String, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        Self { title, columns, rows: Vec::new() }
    }

    /// Adds a row: what it is, and a number for each column.
    pub fn row(&mut self, what: &str, numbers: &[f64]) {
        self.rows.push((what.to_owned(), numbers.to_vec()));
    }

    /// Adds a row that has the result of `f` over each column.
    pub fn summary(&mut self, what: &str, f: impl Fn(&[f64]) -> f64) {
        let column = |i| self.rows.iter().filter_map(|(_, r)| r.get(i).copied()).collect();
        let columns: Vec<Vec<f64>> = (0..self.columns.len()).map(column).collect();
        let numbers = columns.iter().map(|c| f(c)).collect();
        self.rows.push((what.to_owned(), numbers));
    }

    /// The same without the columns that have no number in any row.
    #[must_use]
    pub fn without_empty_columns(mut self) -> Self {
        let has = |i: usize| self.rows.iter().any(|(_, r)| r.get(i).is_some_and(|n| !n.is_nan()));
        let kept: Vec<bool> = (0..self.columns.len()).map(has).collect();
        let mut keep = kept.iter();
        self.columns.retain(|_| keep.next().copied().unwrap_or(true));
        for (_, numbers) in &mut self.rows {
            let mut keep = kept.iter();
            numbers.retain(|_| keep.next().copied().unwrap_or(true));
        }
        self
    }

    /// The table as a program reads it.
    #[must_use]
    pub fn json(&self) -> Value {
        let row = |(what, numbers): &(String, Vec<f64>)| {
            let mut object = serde_json::Map::new();
            object.insert("row".to_owned(), json!(what));
            for (column, number) in self.columns.iter().zip(numbers) {
                object.insert(column.clone(), json!((number * 1000.0).round() / 1000.0));
            }
            Value::Object(object)
        };
        json!({ "title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }

    /// The table as Markdown, which also reads well as it is.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut lines: Vec<Vec<String>> = vec![vec![String::new()]];
        if let Some(head) = lines.first_mut() {
            head.extend(self.columns.iter().cloned());
        }
        for (what, numbers) in &self.rows {
            let mut line = vec![what.clone()];
            line.extend(numbers.iter().map(|n| shown(*n)));
            lines.push(line);
        }
        let width = |i| {
            lines
                .iter()
                .filter_map(|l| l.get(i))
                .map(|l: &String| l.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..=self.columns.len()).map(width).collect();
        let mut text = format!("{}\n\n", self.title);
        for (number, line) in lines.iter().enumerate() {
            for (cell, width) in line.iter().zip(&widths) {
                write!(text, "| {cell:>width$} ").ok();
            }
            text.push_str("|\n");
            if number == 0 {
                for width in &widths {
                    write!(text, "|{}:", "-".repeat(width.saturating_add(1))).ok();
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

/// Three digits that matter.
fn shown(number: f64) -> String {
    match number.abs() {
        n if n.is_nan() => "–".to_owned(),
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        n if n >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_the_same_in_both_forms() {
        let mut table = Table::new("Two runs".to_owned(), &["s", "MB"]);
        table.row("1", &[0.5, 120.0]);
        table.row("2", &[1.25, 80.0]);
        table.summary("most", |c| c.iter().copied().fold(0.0, f64::max));
        assert_eq!(table.json()["rows"][2]["MB"], 120.0);
        let text = table.markdown();
        assert!(text.contains("| most |  1.25 |  120 |"), "{text}");
        assert!(text.contains("|-----:|------:|-----:|"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_no_number_and_no_column() {
        let mut table = Table::new("A run".to_owned(), &["s", "never", "MB"]);
        table.row("1", &[0.5, f64::NAN, f64::NAN]);
        table.row("2", &[1.0, f64::NAN, 7.0]);
        let table = table.without_empty_columns();
        assert!(!table.markdown().contains("never"));
        assert!(table.markdown().contains("| 1 | 0.500 |    – |"), "{}", table.markdown());
        assert!(table.json()["rows"][0]["MB"].is_null());
    }
}
