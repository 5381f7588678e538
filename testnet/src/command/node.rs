//! `testnet node`: what can happen to a machine.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use p2pinst_testnet::Lab;
use p2pinst_testnet::bins::Bins;
use p2pinst_testnet::registry::find;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node's number
    node: usize,
    /// The lab, when there are several
    #[arg(long)]
    lab: Option<String>,
    #[command(subcommand)]
    event: Event,
}

#[derive(Debug, Subcommand)]
enum Event {
    /// Start the daemon
    Start,
    /// End the daemon (SIGTERM)
    Stop,
    /// Kill the daemon (SIGKILL)
    Kill,
    /// Make the daemon hang (SIGSTOP)
    Freeze,
    /// Let a frozen daemon go on
    Thaw,
    /// Pull the cable
    Cut,
    /// Plug the cable in again
    Restore,
    /// Limit the cable, both ways
    Limit {
        /// As tc writes it, such as 100mbit
        rate: String,
    },
    /// Join a spare host to the cluster, and start its daemon
    Join {
        /// What `p2pinst invite` printed
        token: String,
    },
    /// Print the daemon's log
    Log,
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let lab = Lab::attach(find(self.lab.as_deref())?, &Bins::find()?)?;
        let node = lab.node(self.node)?;
        match self.event {
            Event::Start => node.start()?,
            Event::Stop => node.stop()?,
            Event::Kill => node.kill()?,
            Event::Freeze => node.freeze()?,
            Event::Thaw => node.thaw()?,
            Event::Cut => lab.cut(self.node)?,
            Event::Restore => lab.restore(self.node)?,
            Event::Limit { rate } => lab.network().switch()?.limit(self.node, &rate)?,
            Event::Join { token } => node.join(&token)?,
            Event::Log => print!("{}", node.log_text()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
