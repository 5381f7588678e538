//! `testnet down`: takes labs down; `testnet sweep`: only those that nobody would take down.

use std::process::ExitCode;

use anyhow::Result;
use p2pinst_testnet::registry::{find, labs, sweep as sweep_orphans};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The lab, when there are several
    lab: Option<String>,
    /// Every lab, also those that a running test uses
    #[arg(long, conflicts_with = "lab")]
    all: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        sweep()?;
        let doomed = if self.all { labs()? } else { vec![find(self.lab.as_deref())?] };
        for lab in doomed {
            lab.destroy()?;
            eprintln!("{} is gone", lab.id);
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(crate) fn sweep() -> Result<ExitCode> {
    for lab in sweep_orphans()? {
        eprintln!("{lab}, left behind by a killed run, is gone");
    }
    Ok(ExitCode::SUCCESS)
}
