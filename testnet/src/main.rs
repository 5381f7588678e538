//! `testnet`: clusters of real nodes on one machine.

mod command;

use std::process::ExitCode;

use clap::Parser;

use command::Command;

/// Clusters of real p2pinst nodes on one machine, in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "testnet", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Args::parse().command.run() {
        Ok(code) => code,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}
