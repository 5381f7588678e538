//! Templates in the language of Jinja, with nothing in reach but the graph's own.
//!
//! What is undefined is an error, and so is writing `none`. Instructions and output are counted over all templates of one
//! file. Nothing is escaped by itself: the filters `yaml` and `sh` quote values where they stand.

use std::error::Error as _;
use std::io::{self, Write};
use std::ops::Range;

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use thiserror::Error;

use super::quote;

/// Instructions that all templates of one file may take: far more than an honest graph needs, and done within a second.
pub(crate) const FUEL: u64 = 1_000_000;
/// Bytes that all templates of one file may give.
pub(crate) const OUTPUT: usize = 4 * 1024 * 1024;
/// Templates within templates.
const DEPTH: usize = 64;

/// A template, and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// What it is known by: a file below `templates/`, or a section of a node.
    pub(crate) name: String,
    /// The file that it is in.
    pub(crate) file: String,
    /// The line of that file on which it begins.
    pub(crate) line: usize,
    /// Its text.
    pub(crate) source: String,
}

/// What is wrong with a template, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}:{line}: {reason}")]
pub struct TemplateError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// What is wrong with templates as such, whatever is filled in.
pub(crate) fn check<'a>(templates: impl Iterator<Item = &'a Template>) -> Vec<TemplateError> {
    let mut env = environment();
    let errors = templates.filter_map(|template| {
        let error = env.add_template(&template.name, &template.source).err()?;
        Some(explain(&error, template))
    });
    errors.collect()
}

fn environment<'a>() -> Environment<'a> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_keep_trailing_newline(true);
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_recursion_limit(DEPTH);
    env.set_formatter(|out, state, value| {
        if value.is_none() {
            let reason = "the value is none: say what else to write (default)";
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
        minijinja::escape_formatter(out, state, value)
    });
    // shows everything that templates see, which belongs into no installer's file
    env.remove_global("debug");
    env.add_filter("yaml", yaml);
    env.add_filter("sh", sh);
    env
}

/// A value quoted for YAML; lists and maps in flow style.
fn yaml(value: &Value) -> Result<String, Error> {
    defined(value)?;
    let json = serde_json::to_value(value).map_err(|e| {
        Error::new(ErrorKind::BadSerialization, "this is no value of YAML").with_source(e)
    })?;
    Ok(quote::yaml_value(&json))
}

/// A value as one word of the shell; a list as several.
fn sh(value: &Value) -> Result<String, Error> {
    defined(value)?;
    let word = |value: &Value| {
        let text = value.to_string();
        if text.contains('\0') {
            let reason = "a word of the shell cannot hold a zero byte";
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
        Ok(quote::sh(&text))
    };
    if value.kind() == minijinja::value::ValueKind::Seq {
        let words: Result<Vec<_>, _> = value.try_iter()?.map(|v| word(&v)).collect();
        return words.map(|w| w.join(" "));
    }
    word(value)
}

fn defined(value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    if value.is_none() {
        let reason = "the value is none: say what else to write (default)";
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    Ok(())
}

/// The templates of a graph, and what is left of their bounds.
#[derive(Debug)]
pub(crate) struct Engine<'g> {
    env: Environment<'g>,
    templates: Vec<&'g Template>,
    context: Value,
    fuel: u64,
    room: usize,
}

impl<'g> Engine<'g> {
    /// Takes the templates of a checked graph.
    ///
    /// # Errors
    /// When one is wrong.
    pub(crate) fn new(
        templates: impl Iterator<Item = &'g Template>,
        context: Value,
    ) -> Result<Self, TemplateError> {
        let templates: Vec<_> = templates.collect();
        let mut env = environment();
        for template in &templates {
            env.add_template(&template.name, &template.source)
                .map_err(|error| explain(&error, template))?;
        }
        Ok(Self { env, templates, context, fuel: FUEL, room: OUTPUT })
    }

    /// Fills in one template.
    ///
    /// # Errors
    /// When it asks for something undefined, fails otherwise, or goes beyond the bounds.
    pub(crate) fn render(&mut self, name: &str) -> Result<String, TemplateError> {
        self.env.set_fuel(Some(self.fuel));
        let mut sink = Sink { text: Vec::new(), room: self.room };
        let rendered = self.env.get_template(name).and_then(|t| {
            let captured = t.render_captured_to(&self.context, &mut sink)?;
            Ok(captured.state().fuel_levels().map_or(FUEL, |(used, _)| used))
        });
        let used = rendered.map_err(|error| self.explain(&error, name))?;
        // a template of plain text takes no instruction, but still some time
        self.fuel = self.fuel.saturating_sub(used.max(1)).max(1);
        self.room = self.room.saturating_sub(sink.text.len());
        String::from_utf8(sink.text).map_err(|_| TemplateError {
            file: name.to_owned(),
            line: 1,
            reason: "the output is no UTF-8 text".to_owned(),
        })
    }

    fn explain(&self, error: &Error, rendered: &str) -> TemplateError {
        let find = |name: &str| self.templates.iter().find(|t| t.name == name).copied();
        // an include that fails is told by the template that it includes
        let mut inner = error;
        while let Some(source) = inner.source().and_then(|s| s.downcast_ref::<Error>()) {
            if source.name().is_none() {
                break;
            }
            inner = source;
        }
        match (inner.name().and_then(find), find(rendered)) {
            (Some(within), _) | (None, Some(within)) => explain(inner, within),
            (None, None) => TemplateError {
                file: rendered.to_owned(),
                line: 1,
                reason: p2pinst_command::text(inner.to_string().as_bytes()),
            },
        }
    }
}

/// Output, up to a bound.
struct Sink {
    text: Vec<u8>,
    room: usize,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len().saturating_add(bytes.len()) > self.room {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn explain(error: &Error, template: &Template) -> TemplateError {
    let expression = error
        .range()
        .and_then(|range| expression(&template.source, range))
        .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|text| !text.is_empty())
        .map(|text| text.chars().take(80).collect::<String>());
    let detail = || error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let reason = match (error.kind(), expression) {
        (ErrorKind::OutOfFuel, _) => format!("the templates take more than {FUEL} steps"),
        (ErrorKind::WriteFailure, _) => format!("the templates give more than {OUTPUT} bytes"),
        (ErrorKind::UndefinedError, Some(expression)) => format!("{expression} is undefined"),
        (_, Some(expression)) => format!("{} (in {expression})", detail()),
        (_, None) => detail(),
    };
    let line = template.line + error.line().unwrap_or(1).saturating_sub(1);
    let reason = p2pinst_command::text(reason.as_bytes());
    TemplateError { file: template.file.clone(), line, reason }
}

/// What an error is about; where that is a filter, what was filtered.
fn expression(source: &str, range: Range<usize>) -> Option<&str> {
    let Some(filtered) = source.get(..range.start)?.trim_end().strip_suffix('|') else {
        return source.get(range);
    };
    let begins = filtered.rfind(['{', '%', '(', ',', '|']).map_or(0, |at| at + 1);
    filtered.get(begins..)
}
