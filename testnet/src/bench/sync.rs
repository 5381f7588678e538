//! How long a starting node takes until it knows what was published while it was off.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::log::stamp;
use super::{Table, greatest, median, now_ms};
use crate::cluster::Invite;
use crate::deb::Deb;
use crate::lab::{Lab, LabOptions};
use crate::node::Node;

/// A node that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the log is looked at: no part of what is measured, which is in the log's own times.
const LOOK: Duration = Duration::from_millis(20);

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nodes of the cluster; half of them are off while the others publish.
    pub nodes: usize,
    /// Packages that are published meanwhile; each is a release and an order.
    pub publications: usize,
}

/// Publishes while half of the nodes are off, then starts these one after the other.
///
/// # Errors
/// When a node does not catch up.
pub fn measure(options: &Options) -> Result<Table> {
    let Options { nodes, publications } = *options;
    ensure!(nodes >= 4, "half of fewer than four nodes tells nothing");
    let lab = Lab::create(&LabOptions::hosts(nodes))?;
    lab.form(nodes, &Invite::default())?;
    let (first, half) = (lab.node(1)?, nodes / 2);
    // for a machine that stays off: nothing is to be installed here
    first.ok(["group", "create", "away", "--hosts", lab.node(nodes)?.name()])?;
    let late = lab.nodes().get(half..).unwrap_or_default();
    late.iter().try_for_each(Node::kill)?;
    for n in 0..publications {
        let deb = Deb::new(&format!("p{n}"), "1.0").build(lab.dir())?;
        first.publish(&deb, &["--group", "away", "--urgent"])?;
    }
    let title = format!("sync: {nodes} nodes, {publications} publications known to {half} of them");
    let columns = ["started to in sync s", "of that, the sync itself s"];
    let mut table = Table::new(title, &columns);
    for node in late.iter().take(late.len() - 1) {
        let skip = node.log_text().len();
        let begun = now_ms()?;
        node.start_daemon()?;
        let (running, synced) = in_sync(node, skip, 2 * publications)?;
        let whole = (synced - begun as f64) / 1000.0;
        table.row(node.name(), &[whole, (synced - running) / 1000.0]);
    }
    table.summary("mean", |n| n.iter().sum::<f64>() / n.len().max(1) as f64);
    table.summary("median", median);
    table.summary("most", greatest);
    lab.destroy()?;
    Ok(table)
}

/// Waits until a node's log says that so many records were pulled; returns when it ran and when
/// it had them, in milliseconds since 1970.
fn in_sync(node: &Node, skip: usize, records: usize) -> Result<(f64, f64)> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let log = node.log_text();
        let (mut running, mut pulled) = (None, 0);
        for line in log.get(skip..).unwrap_or_default().lines() {
            if line.contains("the node is running") {
                running = stamp(line);
            }
            // it asks, or a peer that has asked gives
            for what in ["pulled=", "taken="] {
                let number = line.split_once(what).map(|(_, rest)| rest);
                let digits = number.and_then(|r| r.split(' ').next()).and_then(|d| d.parse().ok());
                pulled += digits.unwrap_or(0);
            }
            if let (true, Some(from), Some(at)) = (pulled >= records, running, stamp(line)) {
                return Ok((from, at));
            }
        }
        std::thread::sleep(LOOK);
    }
    bail!("{} did not catch up:\n{}", node.name(), node.log_tail(20))
}
