//! A big package over links with a rate, against the bound that no protocol beats.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::publish::{finished, seconds};
use super::{Table, daemons_cpu, median, now_ms};
use crate::cluster::Invite;
use crate::deb::Deb;
use crate::lab::{Lab, LabOptions};

/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(600);
/// What TCP gets of a link's rate, with full frames over IPv4 (measured with one flow).
const GOODPUT: f64 = 0.9564;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nodes of the cluster, the publisher among them.
    pub nodes: usize,
    /// The rate of each link, both ways, in Mbit/s.
    pub mbit: u32,
    /// Bytes of the package's content.
    pub size: u64,
    /// How often.
    pub runs: usize,
}

/// Publishes a big package to all nodes, several times, each time with other bytes.
///
/// # Errors
/// When a node does not install it.
pub fn measure(options: &Options) -> Result<Table> {
    let rate = format!("{}mbit", options.mbit);
    let lab = Lab::create(&LabOptions::hosts(options.nodes).rate(Some(rate)))?;
    lab.form(options.nodes, &Invite::default())?;
    let title = format!(
        "swarm: {} nodes on {} Mbit/s links, {} bytes, urgent; from the start of the command to \
         the last node; T* is the time that the publisher's link needs for one copy",
        options.nodes, options.mbit, options.size
    );
    let columns = ["verified s", "T* s", "/ T*", "/ T* (goodput)", "installed s", "daemons CPU s"];
    let mut table = Table::new(title, &columns);
    for run in 1..=options.runs {
        let deb = Deb::new("bench", &format!("1.{run}")).payload(options.size).build(lab.dir())?;
        let bytes = fs::metadata(&deb).context("cannot read the package")?.len();
        let bound = bytes as f64 * 8.0 / (f64::from(options.mbit) * 1e6);
        let cpu = daemons_cpu(&lab)?;
        let begun = now_ms()?;
        let published = lab.node(1)?.publish(&deb, &["--group", "all", "--urgent"])?;
        let done = finished(&lab, &published.deployment, PATIENCE)?;
        let at = |state| done.last_reached(state).context("a node never got so far");
        let verified = seconds(begun, at("verified")?);
        let numbers = [
            verified,
            bound,
            verified / bound,
            verified / (bound / GOODPUT),
            seconds(begun, at("installed")?),
            daemons_cpu(&lab)? - cpu,
        ];
        table.row(&run.to_string(), &numbers);
    }
    table.summary("median", median);
    lab.destroy()?;
    Ok(table)
}
