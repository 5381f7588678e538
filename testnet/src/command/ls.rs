//! `testnet ls`: the labs of this machine.

use std::process::ExitCode;

use anyhow::Result;
use p2pinst_testnet::registry::labs;

pub(crate) fn run() -> Result<ExitCode> {
    for lab in labs()? {
        let how = if lab.kept { "stays" } else { "in use" };
        println!("{}  {} hosts  {how}  {}", lab.id, lab.hosts, lab.dir.display());
    }
    Ok(ExitCode::SUCCESS)
}
