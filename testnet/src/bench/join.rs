//! How long it takes to become a member, and to come back.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Table, greatest, median};
use crate::cluster::Invite;
use crate::lab::{Lab, LabOptions};

/// A step that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Joins machines one after the other; then kills and restarts each.
///
/// # Errors
/// When a machine does not join or come back.
pub fn measure(nodes: usize) -> Result<Table> {
    let lab = Lab::create(&LabOptions::hosts(nodes))?;
    let first = lab.node(1)?;
    first.init()?;
    let token = first.invite(&Invite::default().uses(nodes))?;
    let title = format!("join: {nodes} machines, one after the other; restart: SIGKILL, start");
    let columns = ["join s", "start s", "all see it s", "restart s", "sees all s"];
    let mut table = Table::new(title, &columns);
    let mut joins = Vec::new();
    for (count, node) in lab.nodes().iter().enumerate().skip(1) {
        let begun = Instant::now();
        node.join_with(&token).run()?.ok()?;
        let joined = begun.elapsed();
        node.prepare_root()?;
        let begun = Instant::now();
        node.start()?;
        let started = begun.elapsed();
        lab.meet(count + 1)?;
        joins.push((node, joined, started, begun.elapsed()));
    }
    for (node, joined, started, seen) in joins {
        node.kill()?;
        let begun = Instant::now();
        node.start()?;
        let back = begun.elapsed();
        node.sees_up(nodes, PATIENCE)?;
        let times = [joined, started, seen, back, begun.elapsed()];
        table.row(node.name(), &times.map(|t| t.as_secs_f64()));
    }
    table.summary("median", median);
    table.summary("most", greatest);
    lab.destroy()?;
    Ok(table)
}
