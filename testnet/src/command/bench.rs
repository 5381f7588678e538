//! `testnet bench`: measurements, as tables and JSON.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use p2pinst_chunks::quota::Size;
use p2pinst_testnet::bench::{Table, back, delta, join, publish, rest, sync};

use super::{bench_image, bench_swarm};

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
    /// From publish to the last node, for a small package
    Publish {
        /// How many nodes
        #[arg(long, default_value_t = 20)]
        nodes: usize,
        /// Bytes of the package's content
        #[arg(long, default_value_t = 20_000)]
        size: u64,
        /// How often
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// One file to all, beside the rivals, over links with a rate
    Swarm(bench_swarm::Args),
    /// All distributions that p2pinst is judged by: one document
    AllSwarm(bench_swarm::AllArgs),
    /// One disk image onto many blank machines, then its second version
    Image(bench_image::Args),
    /// What a node costs when nothing happens
    Rest {
        /// How many nodes
        #[arg(long, default_value_t = 20)]
        nodes: usize,
        /// Seconds before the measurement
        #[arg(long, default_value_t = 60)]
        settle: u64,
        /// Seconds of the measurement
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
    /// A starting node, until it knows what was published while it was off
    Sync {
        /// How many nodes; half of them are off
        #[arg(long, default_value_t = 20)]
        nodes: usize,
        /// Packages published meanwhile
        #[arg(long, default_value_t = 223)]
        publications: usize,
    },
    /// A node that was away, until it has installed what was published meanwhile
    Back {
        /// How many nodes
        #[arg(long, default_value_t = 5)]
        nodes: usize,
        /// The rate of each link, both ways, in Mbit/s
        #[arg(long, default_value_t = 100)]
        mbit: u32,
        /// Packages
        #[arg(long, default_value_t = 3)]
        packages: usize,
        /// Bytes of all packages together
        #[arg(long, default_value_t = 48_000_000)]
        size: u64,
        /// How often
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// What the second version of an image costs a node that has the first
    Delta {
        /// Bytes of the image, as 64MiB, 1GiB or a number
        #[arg(long, default_value = "1GiB")]
        size: Size,
        /// Hundredths that are changed in place
        #[arg(long, default_value_t = 5)]
        changed: u64,
        /// The rate of each link, both ways, in Mbit/s [default: what the machine gives]
        #[arg(long)]
        mbit: Option<u32>,
    },
    /// How long it takes to become a member, and to come back
    Join {
        /// How many nodes
        #[arg(long, default_value_t = 8)]
        nodes: usize,
    },
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let table = match self.what {
            What::Swarm(args) => return args.run(self.markdown),
            What::AllSwarm(args) => return args.run(),
            What::Image(args) => return args.run(self.markdown),
            other => other.measure()?,
        };
        Ok(super::show(&table, self.markdown))
    }
}

impl What {
    fn measure(self) -> Result<Table> {
        match self {
            Self::Publish { nodes, size, runs } => {
                publish::measure(&publish::Options { nodes, size, runs })
            }
            Self::Rest { nodes, settle, seconds } => {
                let (settle, time) = (Duration::from_secs(settle), Duration::from_secs(seconds));
                rest::measure(&rest::Options { nodes, settle, time })
            }
            Self::Sync { nodes, publications } => {
                sync::measure(&sync::Options { nodes, publications })
            }
            Self::Back { nodes, mbit, packages, size, runs } => {
                back::measure(&back::Options { nodes, mbit, packages, size, runs })
            }
            Self::Delta { size, changed, mbit } => {
                delta::measure(&delta::Options { size: size.of(0), changed, mbit })
            }
            Self::Join { nodes } => join::measure(nodes),
            Self::Swarm(_) | Self::AllSwarm(_) | Self::Image(_) => {
                bail!("it prints no single table")
            }
        }
    }
}
