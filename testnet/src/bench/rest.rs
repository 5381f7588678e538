//! What a node costs when nothing happens.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Table, greatest, median};
use crate::cluster::Invite;
use crate::lab::{Lab, LabOptions};
use crate::stats::Sample;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// How long the cluster is left alone before.
    pub settle: Duration,
    /// How long is measured.
    pub time: Duration,
}

/// Forms a cluster, leaves it alone, and looks at every daemon twice.
///
/// # Errors
/// When the cluster cannot be formed, or a daemon ends.
pub fn measure(options: &Options) -> Result<Table> {
    let lab = Lab::create(&LabOptions::hosts(options.nodes))?;
    lab.form(options.nodes, &Invite::default())?;
    thread::sleep(options.settle);
    let looks = || lab.nodes().iter().map(|n| Sample::of(n.pid()?)).collect::<Result<Vec<_>>>();
    let before = looks()?;
    thread::sleep(options.time);
    let after = looks()?;
    let title = format!(
        "rest: {} nodes, over {} s after {} s of rest",
        options.nodes,
        options.time.as_secs(),
        options.settle.as_secs()
    );
    let columns = ["RSS MB", "PSS MB", "CPU % of a core", "in B/s", "out B/s"];
    let mut table = Table::new(title, &columns);
    for ((node, then), now) in lab.nodes().iter().zip(&before).zip(&after) {
        let (received, sent) = now.rates_since(then);
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let cpu = now.cores_since(then) * 100.0;
        table.row(node.name(), &[mb(now.rss), mb(now.pss), cpu, received, sent]);
    }
    table.summary("median", median);
    table.summary("most", greatest);
    lab.destroy()?;
    Ok(table)
}
