//! `testnet machine-power`: the chassis of a simulated controller, started by OpenIPMI's simulator.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use p2pinst_testnet::vm;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The machine's directory
    machine: PathBuf,
    /// What the simulator asks for
    #[arg(trailing_var_arg = true)]
    words: Vec<String>,
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        print!("{}", vm::hook(&self.machine, &self.words)?);
        Ok(ExitCode::SUCCESS)
    }
}
