//! From `publish` to the last node: a small package to everybody, urgently.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Table, daemons_cpu, greatest, median, now_ms};
use crate::cluster::Invite;
use crate::deb::Deb;
use crate::lab::{Lab, LabOptions};
use crate::view::Deployment;
use crate::wait::eventually;

/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nodes of the cluster, the publisher among them.
    pub nodes: usize,
    /// Bytes of the package's content.
    pub size: u64,
    /// How often.
    pub runs: usize,
}

/// Publishes a package to all nodes, several times, each time a newer version.
///
/// # Errors
/// When a node does not install it.
pub fn measure(options: &Options) -> Result<Table> {
    let lab = Lab::create(&LabOptions::hosts(options.nodes))?;
    lab.form(options.nodes, &Invite::default())?;
    let title = format!(
        "publish: {} nodes, {} bytes, urgent; from the start of the command to the last node",
        options.nodes, options.size
    );
    let columns = ["publish returned s", "verified s", "installed s", "daemons CPU s"];
    let mut table = Table::new(title, &columns);
    for run in 1..=options.runs {
        let deb = Deb::new("bench", &format!("1.{run}")).payload(options.size).build(lab.dir())?;
        let cpu = daemons_cpu(&lab)?;
        let begun = now_ms()?;
        let published = lab.node(1)?.publish(&deb, &["--group", "all", "--urgent"])?;
        let returned = now_ms()?;
        let done = finished(&lab, &published.deployment, PATIENCE)?;
        let numbers = [
            seconds(begun, returned),
            seconds(begun, done.last_reached("verified").context("a node never verified")?),
            seconds(begun, done.last_reached("installed").context("a node never installed")?),
            daemons_cpu(&lab)? - cpu,
        ];
        table.row(&run.to_string(), &numbers);
    }
    table.summary("median", median);
    table.summary("most", greatest);
    lab.destroy()?;
    Ok(table)
}

/// Waits until every machine has installed.
pub(super) fn finished(lab: &Lab, deployment: &str, within: Duration) -> Result<Deployment> {
    let done = eventually(within, "every machine has installed", || {
        let seen = lab.node(1)?.deployment(deployment)?;
        ensure!(seen.count("installed") == seen.ordered, "the status is: {}", seen.line());
        Ok(seen)
    });
    done.with_context(|| lab.log_tails(10))
}

/// Seconds between two moments in milliseconds.
pub(super) fn seconds(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1000.0
}
