//! The programs that work on disks, with what they say when they fail.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use super::ApplyError;

/// How long a program may work on a disk: making a filesystem on a large slow one takes minutes.
const LIMIT: Duration = Duration::from_secs(1800);
/// What a program may say.
const SAID_MAX: u64 = 1 << 20;

/// A program that is to be run for a purpose.
#[derive(Debug)]
pub(super) struct Tool {
    program: &'static str,
    what: String,
    command: Command,
    input: Vec<u8>,
}

impl Tool {
    /// To do `what`.
    pub(super) fn new(program: &'static str, what: impl Into<String>) -> Self {
        let command = p2pinst_command::clean(program);
        Self { program, what: what.into(), command, input: Vec::new() }
    }

    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(super) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Runs it; what it said to its standard output.
    pub(super) fn run(self) -> Result<String, ApplyError> {
        let Self { program, what, command, input } = self;
        let said = match p2pinst_command::ask_within(command, &input, SAID_MAX, LIMIT) {
            Ok(said) => said,
            Err(source) => return Err(ApplyError::Start { what, program, source }),
        };
        let text = p2pinst_command::text(&said.stdout);
        if said.success {
            return Ok(text);
        }
        let said = if said.stderr.is_empty() { text } else { said.stderr };
        Err(ApplyError::Tool { what, program, said: said.chars().take(2000).collect() })
    }

    /// Whether it can be run and ends well; what it says does not matter.
    pub(super) fn succeeds(self) -> bool {
        self.run().is_ok()
    }
}
