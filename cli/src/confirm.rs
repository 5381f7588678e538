//! Asking before something is done that cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::error::CliError;

/// Asks on the terminal. `unasked`: what to say where there is none; `refused`: what to say after a no.
pub(crate) fn ask(question: &str, unasked: &str, refused: &str) -> Result<(), CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::usage(unasked).hint("say so with --yes"));
    }
    // a closed stderr is no reason to go on unasked: the answer is still read
    drop(io::stderr().write_all(format!("{question} [y/N] ").as_bytes()));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|e| CliError::failed(format!("cannot read the answer: {e}")))?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(CliError::failed(refused))
}
