//! p2pinst: the command line.
//!
//! Thin: every command is one file in [`commands`], talks to the node on this machine over its
//! control socket, signs with the administrator's keys (which the node never opens), prints data
//! on stdout and words on stderr. Exit codes: 0 done, 1 failed, 2 not understood, 3 the node or
//! the cluster is out of reach, 255 a mistake in p2pinst.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use p2pinst_boot::template::confined;

use crate::commands::Command;
use crate::context::{Context, Global};
use crate::error::{CliError, Kind};

mod args;
mod bare;
mod choose;
mod commands;
mod confirm;
mod context;
mod error;
mod follow;
mod format;
mod founding;
mod handover;
mod keystore;
mod mirror;
mod packed;
mod planning;
mod progress;
mod rootkeys;
mod screen;
mod signer;
mod spread;

/// Installs packages on a cluster of machines, with no server at all
#[derive(Debug, Parser)]
#[command(name = "p2pinst", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let report = "please report it, with the command that you ran";
        drop(writeln!(io::stderr(), "error: p2pinst made a mistake: {info}\n\nhint: {report}"));
        std::process::exit(255);
    }));
    // before there are other threads: memory is given up by all of a process
    if std::env::args_os().nth(1).is_some_and(|arg| arg == confined::SUBCOMMAND) {
        return match confined::serve(io::stdin(), io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => CliError::failed(error).report(false),
        };
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return not_understood(&e),
    };
    let context = Context::new(&cli.global);
    match run(&context, cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => e.report(context.json),
    }
}

fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| CliError::failed(format!("cannot start: {e}")))?;
    let outcome = runtime.block_on(command.run(context));
    // whatever still waits (for a key on the terminal, say) is not waited for
    runtime.shutdown_background();
    outcome
}

/// Shows help, the version, or what was wrong with the command.
fn not_understood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // nobody reads it: nothing to do
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    if !std::env::args_os().any(|a| a == OsStr::new("--json")) {
        drop(error.print());
        return ExitCode::from(2);
    }
    let text = error.render().to_string();
    let text = text.trim().strip_prefix("error: ").unwrap_or(text.trim()).to_owned();
    CliError::new(Kind::Usage, text).report(true)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
