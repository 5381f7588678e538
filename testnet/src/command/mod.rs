//! The subcommands of `testnet`, one file each.

mod bench;
mod bench_image;
mod bench_swarm;
mod delay_line;
mod down;
mod goodput;
mod ls;
mod machine_power;
mod node;
mod run;
mod sim;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use p2pinst_testnet::bench::Table;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring a cluster up that stays
    Up(up::Args),
    /// List the labs of this machine
    Ls,
    /// Take labs down
    Down(down::Args),
    /// Run a command as one of the nodes
    Run(run::Args),
    /// Start, stop, kill, freeze, cut or join a node
    Node(node::Args),
    /// Remove what killed runs left behind
    Sweep,
    /// Show the main job, end to end, on a cluster of seven
    Demo,
    /// Measure
    Bench(bench::Args),
    /// Simulate: virtual time, seeded
    Sim(sim::Args),
    /// Carry frames between two TAP devices, late: a part of labs with sites
    #[command(hide = true)]
    DelayLine(delay_line::Args),
    /// Send and take in as much as goes through: a part of the benchmarks
    #[command(hide = true)]
    Goodput(goodput::Args),
    /// Switch a machine: a part of its simulated controller
    #[command(hide = true)]
    MachinePower(machine_power::Args),
}

impl Command {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Up(args) => args.run(),
            Self::Ls => ls::run(),
            Self::Down(args) => args.run(),
            Self::Run(args) => args.run(),
            Self::Node(args) => args.run(),
            Self::Sweep => down::sweep(),
            Self::Demo => p2pinst_testnet::demo::run().map(|()| ExitCode::SUCCESS),
            Self::Bench(args) => args.run(),
            Self::Sim(args) => args.run(),
            Self::DelayLine(args) => args.run(),
            Self::Goodput(args) => args.run(),
            Self::MachinePower(args) => args.run(),
        }
    }
}

/// Prints what was measured: for people, and for programs unless only the table is wanted.
fn show(table: &Table, markdown: bool) -> ExitCode {
    print!("{}", table.markdown());
    if !markdown {
        println!("\n{}", table.json());
    }
    ExitCode::SUCCESS
}
