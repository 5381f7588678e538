//! `testnet goodput`: one end of the measurement of the links, started on every host by the benchmark.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use p2pinst_testnet::bench::swarm::goodput::{Task, play};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    listen: SocketAddr,
    /// Whom to send to
    to: SocketAddr,
    /// By how many connections
    flows: usize,
    /// When to begin to count, in milliseconds since 1970
    from: u64,
    /// When to end
    until: u64,
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { listen, to, flows, from, until } = self;
        let seen = play(Task { listen, to, flows, from, until })?;
        println!("{}", serde_json::to_string(&seen).context("cannot encode the result")?);
        Ok(ExitCode::SUCCESS)
    }
}
