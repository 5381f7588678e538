//! How long a node that was away takes to install what was published meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Table, greatest, median};
use crate::cluster::Invite;
use crate::deb::Deb;
use crate::lab::{Lab, LabOptions};

/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(180);

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nodes of the cluster; the last one is away.
    pub nodes: usize,
    /// The rate of each link, both ways, in Mbit/s.
    pub mbit: u32,
    /// Packages.
    pub packages: usize,
    /// Bytes of all packages together.
    pub size: u64,
    /// How often.
    pub runs: usize,
}

/// Kills a node, publishes, starts it again, and waits until it has installed everything.
///
/// # Errors
/// When it does not.
pub fn measure(options: &Options) -> Result<Table> {
    let Options { nodes, mbit, packages, size, runs } = *options;
    let lab = Lab::create(&LabOptions::hosts(nodes).rate(Some(format!("{mbit}mbit"))))?;
    lab.form(nodes, &Invite::default())?;
    let (first, away) = (lab.node(1)?, lab.node(nodes)?);
    let title = format!(
        "back: {packages} packages of {size} bytes together at {mbit} Mbit/s, from the start of the daemon to the last one installed"
    );
    let columns = ["installed s", "T* s", "dpkg s", "rest s"];
    let mut table = Table::new(title, &columns);
    for run in 1..=runs {
        away.kill()?;
        let version = format!("1.{run}");
        let mut last = None;
        for n in 0..packages {
            let payload = size / packages.max(1) as u64;
            let deb = Deb::new(&format!("b{n}"), &version).payload(payload).build(lab.dir())?;
            last = Some(first.publish(&deb, &["--group", "all", "--urgent"])?);
        }
        let last = last.context("no package")?;
        let others: Vec<&str> = lab.nodes().iter().take(nodes - 1).map(crate::Node::name).collect();
        for name in others {
            first.sees_state(&last.deployment, name, "installed", PATIENCE)?;
        }
        let begun = Instant::now();
        away.start_daemon()?;
        for n in 0..packages {
            away.installs(&format!("b{n}"), &version, PATIENCE)?;
        }
        let whole = begun.elapsed().as_secs_f64();
        let bound = size as f64 * 8.0 / (f64::from(mbit) * 1e6);
        first.sees_state(&last.deployment, away.name(), "installed", PATIENCE)?;
        let history: Value = first.json(["history", away.name()])?;
        let entries = history.get("entries").and_then(Value::as_array).cloned().unwrap_or_default();
        let millis = entries.iter().rev().take(packages).filter_map(|e| e.get("millis")?.as_f64());
        let dpkg = millis.sum::<f64>() / 1000.0;
        table.row(&run.to_string(), &[whole, bound, dpkg, whole - bound - dpkg]);
    }
    table.summary("median", median);
    table.summary("most", greatest);
    lab.destroy()?;
    Ok(table)
}
