//! `testnet delay-line`: the WAN link of a site, started by the lab in the namespace of its bridges.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use p2pinst_testnet::net::line;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One TAP device
    left: String,
    /// The other
    right: String,
    /// How late each frame is, in microseconds
    #[arg(long)]
    micros: u64,
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        line::carry(&self.left, &self.right, Duration::from_micros(self.micros))?;
        Ok(ExitCode::SUCCESS)
    }
}
