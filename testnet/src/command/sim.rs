//! `testnet sim`: the simulator.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use p2pinst_testnet::bench::Table;
use p2pinst_testnet::sim::full::{Options, run};
use p2pinst_testnet::sim::trace::Trace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// Only the table, for the documentation
    #[arg(long, global = true)]
    markdown: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Tens of nodes with real stores, in all that can go wrong
    Run {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// Nothing goes wrong
        #[arg(long)]
        fair: bool,
        /// Machines at the beginning
        #[arg(long, default_value_t = 14)]
        nodes: usize,
        /// Minutes of virtual time in which things go wrong
        #[arg(long, default_value_t = 5)]
        minutes: u64,
        /// Write down what happens: the last seed's course of events
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
    },
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let table = self.what.measure()?;
        print!("{}", table.markdown());
        if !self.markdown {
            println!("\n{}", table.json());
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl What {
    fn measure(self) -> Result<Table> {
        match self {
            Self::Run { seed, seeds, fair, nodes, minutes, trace } => {
                let title = format!("simulated: {nodes} nodes, {minutes} minutes");
                let columns = ["agreed s", "events", "cells", "data cells", "control B", "data B"];
                let mut table = Table::new(title, &columns);
                for seed in seed..seed.saturating_add(seeds.max(1)) {
                    let options = if fair { Options::fair(seed) } else { Options::storm(seed) };
                    let written = trace.as_deref().map(Trace::to_file).transpose()?;
                    let report =
                        run(Options { nodes, minutes, ..options }, written.unwrap_or_default())?;
                    eprintln!("seed {seed}: trace {}", report.trace);
                    let numbers = [
                        report.agreed,
                        report.lines as f64,
                        report.control_cells,
                        report.data_cells,
                        report.control_bytes,
                        report.data_bytes,
                    ];
                    table.row(&seed.to_string(), &numbers);
                }
                Ok(table)
            }
        }
    }
}
