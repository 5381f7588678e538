//! The one error of the command line: what kind, what happened, what to do about it.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use p2pinst_api::{ApiError, ClientError, ErrorKind};
use p2pinst_files::FileError;
use serde::Serialize;

/// What kind of failure; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// What was asked is not possible, was refused, or went wrong.
    Failed,
    /// The command was not understood.
    Usage,
    /// The node on this machine, or the part of the cluster that is needed, does not answer.
    Unreachable,
    /// A mistake in p2pinst itself.
    Bug,
    /// Nobody reads our output any more (`p2pinst status | head -1`). Not a failure.
    NoReader,
}

impl Kind {
    fn exit_code(self) -> u8 {
        match self {
            Self::NoReader => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Bug => 255,
        }
    }
}

/// An error as it is shown to people.
#[derive(Debug)]
pub(crate) struct CliError {
    /// What kind of failure.
    pub(crate) kind: Kind,
    /// What was attempted, on what, and why it failed.
    pub(crate) error: String,
    /// What to do.
    pub(crate) hints: Vec<String>,
}

/// The form of an error with `--json`.
#[derive(Serialize)]
struct Document<'a> {
    error: &'a str,
    kind: Kind,
    hint: Option<String>,
}

impl CliError {
    /// An error of any kind, without a hint.
    pub(crate) fn new(kind: Kind, error: impl Display) -> Self {
        Self { kind, error: error.to_string(), hints: Vec::new() }
    }

    /// What was asked is not possible.
    pub(crate) fn failed(error: impl Display) -> Self {
        Self::new(Kind::Failed, error)
    }

    /// The command was not understood.
    pub(crate) fn usage(error: impl Display) -> Self {
        Self::new(Kind::Usage, error)
    }

    /// Adds what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds what to do, if anything is known.
    #[must_use]
    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hints.extend(hint);
        self
    }

    /// An error that a part of the node reported.
    pub(crate) fn of_node(kind: ErrorKind, error: impl Display, hint: Option<String>) -> Self {
        let kind = match kind {
            ErrorKind::Unavailable => Kind::Unreachable,
            ErrorKind::Invalid | ErrorKind::Refused | ErrorKind::Internal => Kind::Failed,
        };
        Self::new(kind, error).maybe_hint(hint)
    }

    /// Shows the error on stderr and says how the program ends.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if self.kind != Kind::NoReader {
            // when stderr is closed too, the exit code is all that is left to say
            drop(writeln!(io::stderr(), "{}", self.text(json)));
        }
        ExitCode::from(self.kind.exit_code())
    }

    fn text(&self, json: bool) -> String {
        if json {
            let hint = (!self.hints.is_empty()).then(|| self.hints.join("\n"));
            let document = Document { error: &self.error, kind: self.kind, hint };
            return serde_json::to_string(&document).unwrap_or_else(|e| e.to_string());
        }
        let mut text = format!("error: {}", crate::format::clean_lines(&self.error));
        if !self.hints.is_empty() {
            text.push('\n');
        }
        for hint in &self.hints {
            text.push_str("\nhint: ");
            text.push_str(&crate::format::clean_lines(hint));
        }
        text
    }
}

impl From<ApiError> for CliError {
    fn from(e: ApiError) -> Self {
        Self::of_node(e.kind, e.message, e.hint)
    }
}

impl From<ClientError> for CliError {
    fn from(e: ClientError) -> Self {
        match e {
            ClientError::Api(api) => api.into(),
            ClientError::NotRunning { .. } | ClientError::Broken(_) => {
                Self::new(Kind::Unreachable, e)
            }
            ClientError::Protocol(_) | ClientError::Source(_) => Self::failed(e),
        }
    }
}

/// Errors that say all by themselves.
macro_rules! plain {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for CliError {
            fn from(e: $error) -> Self {
                Self::failed(e)
            }
        })*
    };
}

plain!(
    FileError,
    p2pinst_trust::key::NoRandomness,
    p2pinst_trust::root::RootError,
    p2pinst_trust::seal::SealError,
    p2pinst_types::CellError,
    p2pinst_types::codec::CodecError,
    p2pinst_types::piece::GeometryError,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people_and_for_programs() {
        let error = CliError::failed("no group gpu\x1b[31m").hint("make it").hint("or not");
        assert_eq!(error.text(false), "error: no group gpu?[31m\n\nhint: make it\nhint: or not");
        let json: serde_json::Value = serde_json::from_str(&error.text(true)).unwrap();
        assert_eq!(json["kind"], "failed");
        assert_eq!(json["hint"], "make it\nor not");
        assert_eq!(CliError::usage("x").text(false), "error: x");
    }

    #[test]
    fn the_kind_decides_the_exit_code() {
        let of = |kind| CliError::from(ApiError::new(kind, "x")).kind.exit_code();
        assert_eq!(of(ErrorKind::Refused), 1);
        assert_eq!(of(ErrorKind::Internal), 1);
        assert_eq!(of(ErrorKind::Unavailable), 3);
    }
}
