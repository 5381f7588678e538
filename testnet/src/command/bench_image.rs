//! `testnet bench image`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use p2pinst_chunks::quota::Size;
use p2pinst_testnet::bench::image::{Options, measure};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bytes of the image, as 64MiB, 1GiB or a number
    #[arg(long, default_value = "256MiB")]
    size: Size,
    /// How many machines; several with commas
    #[arg(long, value_delimiter = ',', default_value = "2,4,8")]
    nodes: Vec<usize>,
    /// The rate of each link, both ways, in Mbit/s
    #[arg(long, default_value_t = 100)]
    mbit: u32,
    /// How often
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Hundredths that the second version has changed; 0: no second version
    #[arg(long, default_value_t = 5)]
    changed: u64,
    /// Where the disks and all other files are, such as a tmpfs
    #[arg(long, value_name = "DIR")]
    below: Option<PathBuf>,
    /// Only JSON, for programs
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, markdown: bool) -> Result<ExitCode> {
        let Self { size, nodes, mbit, runs, changed, below, json } = self;
        let report =
            measure(&Options { size: size.of(0), machines: nodes, mbit, runs, changed, below })?;
        if !json {
            print!("{}", report.markdown());
        }
        if !markdown {
            println!("{}", serde_json::to_string(&report).context("cannot encode the results")?);
        }
        Ok(ExitCode::SUCCESS)
    }
}
