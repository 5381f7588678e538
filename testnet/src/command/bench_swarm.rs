//! `testnet bench swarm` and `testnet bench all-swarm`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use p2pinst_testnet::bench::swarm::{
    Between, Method, Options, WanLinks, issue, measure, rivals, size,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bytes of the file: 64MiB, 30MB; several with commas
    #[arg(long, value_parser = size, value_delimiter = ',', default_value = "64MiB")]
    size: Vec<u64>,
    /// How many nodes, the publisher among them; several with commas
    #[arg(long, value_delimiter = ',', default_value = "8")]
    nodes: Vec<usize>,
    /// The rate of each link, both ways, in Mbit/s
    #[arg(long, default_value_t = 100)]
    mbit: u32,
    /// On loopback addresses, without a limit
    #[arg(long, conflicts_with_all = ["mbit", "sites"])]
    loopback: bool,
    /// Divide the nodes into so many sites
    #[arg(long)]
    sites: Option<usize>,
    /// The rate of each site's WAN link, both ways, in Mbit/s
    #[arg(long, default_value_t = 20, requires = "sites")]
    wan_mbit: u32,
    /// Milliseconds from a site to the core; between two sites the round trip is four times that
    #[arg(long, default_value_t = 25, requires = "sites")]
    wan_ms: u64,
    /// How often; nginx and rsync once
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// nginx, rsync, aria2, libtorrent, udpcast with commas; or all, or none
    #[arg(long, default_value = "none")]
    rivals: String,
    /// Seconds that one run may take; what certainly takes longer is not begun
    #[arg(long, default_value_t = 900)]
    limit: u64,
    /// Where the nodes keep their files, such as a tmpfs
    #[arg(long, value_name = "DIR")]
    below: Option<PathBuf>,
    /// Also write tables, JSON and plots into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AllArgs {
    /// Only this part, even if it has a result; may be given several times
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Where the results are kept: what has one is not run again
    #[arg(long, value_name = "DIR", default_value = "target/swarm")]
    out: PathBuf,
    /// Seconds that one run may take; what certainly takes longer is not begun
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// Where the nodes keep their files, such as a tmpfs
    #[arg(long, value_name = "DIR")]
    below: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self, markdown: bool) -> Result<ExitCode> {
        let rivals: Vec<Method> = rivals(&self.rivals)?;
        let (mbit, ms) = (self.wan_mbit, self.wan_ms);
        let wan = self.sites.map(|sites| WanLinks { sites, mbit, ms });
        let between =
            if self.loopback { Between::Loopback } else { Between::Links { mbit: self.mbit, wan } };
        let report = measure(&Options {
            sizes: self.size,
            nodes: self.nodes,
            between,
            runs: self.runs,
            rivals,
            limit: Duration::from_secs(self.limit),
            below: self.below,
        })?;
        print!("{}", report.markdown());
        if !markdown {
            println!("\n{}", serde_json::to_string(&report).context("cannot encode the results")?);
        }
        if let Some(out) = self.out {
            report.save(&out, "swarm")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl AllArgs {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { only, out, limit, below } = self;
        let limit = Duration::from_secs(limit);
        print!("{}", issue::run(&issue::Choice { only, out, below, limit })?);
        Ok(ExitCode::SUCCESS)
    }
}
