//! `testnet run`: a command on a node, on the terminal.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
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
    /// The command; `p2pinst` is on its path and speaks to that node
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let bins = Bins::find()?;
        let lab = Lab::attach(find(self.lab.as_deref())?, &bins)?;
        let node = lab.node(self.node)?;
        let (program, args) = self.command.split_first().context("no command was given")?;
        let mut path = bins.dir.into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let exec = node
            .exec(program)
            .args(args)
            .env("PATH", path)
            .env("P2PINST_DATA_DIR", node.data())
            .env("TESTNET_ROOT", node.root());
        let shown = exec.shown();
        let status = exec.command()?.status().with_context(|| format!("cannot run `{shown}`"))?;
        let code = status.code().and_then(|c| u8::try_from(c).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}
