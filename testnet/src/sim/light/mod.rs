//! The simulation of thousands of nodes: the same machines over compact stores; signatures are not
//! verified, and time is spent on links only (and on storing before passing on).

mod control;
mod data;
mod library;
mod records;

use std::collections::BTreeSet;

use p2pinst_types::Kind;
use p2pinst_types::record::State;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use self::control::{Control, seconds};
use self::data::Data;
pub use self::data::Lost;
use super::queue::{Micros, Queue, SECOND};
use crate::bench::Table;

/// Machines of a shard of statuses.
const SHARD: usize = 64;
/// Round trips to open a stream and be answered.
const ASK: u64 = 2;
/// Round trips to connect before: TCP, the choice of Noise, Noise and the certificates, of yamux.
const CONNECT: u64 = 5;

/// How large, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Where all chance comes from.
    pub seed: u64,
    /// Machines.
    pub nodes: usize,
    /// Publications: a release and an order each.
    pub publications: usize,
    /// Publications of which every machine reports, message by message.
    pub reported: usize,
    /// Members that have admitted the others.
    pub admitters: usize,
    /// One way, between any two.
    pub link: Micros,
    /// Time between two publications.
    pub every: Micros,
}

impl Scale {
    /// So many nodes and publications, on links of 50 ms.
    #[must_use]
    pub fn of(nodes: usize, publications: usize) -> Self {
        let (link, every) = (50_000, 2 * SECOND);
        Self { seed: 1, nodes, publications, reported: 10, admitters: 16, link, every }
    }
}

/// Times, sorted, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    /// Of those that came to an end.
    pub delays: Vec<f64>,
    /// How many did not.
    pub missing: usize,
}

impl Spread {
    /// The time that so many percent do not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let at = (self.delays.len() * percent / 100).min(self.delays.len().saturating_sub(1));
        self.delays.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Measures a large cluster. `tell` hears what is under way.
#[must_use]
pub fn measure(scale: &Scale, tell: impl Fn(&str)) -> Option<Table> {
    let title = format!(
        "simulated: {} nodes, {} publications, links of {} ms one way",
        scale.nodes,
        scale.publications,
        scale.link / 1000
    );
    let mut table = Table::new(title, &["value"]);
    tell("control plane: at rest");
    let mut control = Control::new(scale)?;
    control.rest(120 * SECOND);
    control.sent();
    control.rest(600 * SECOND);
    let rest = control.sent();
    table.row("control plane at rest, B/s sent per node", &[(rest.gossip + rest.sync) / 600.0]);
    tell("control plane: publications");
    let spread = control.publish(scale.publications, scale.every);
    let sent = control.sent();
    let per = scale.publications.max(1) as f64;
    table.row("publish, s to the last node: median", &[spread.percentile(50)]);
    table.row("publish, s to the last node: 99 of 100", &[spread.percentile(99)]);
    table.row("publish, s to the last node: most", &[spread.percentile(100)]);
    table.row("publications that did not reach all", &[spread.missing as f64]);
    table.row("gossip, B sent per node and publication", &[sent.gossip / per]);
    table.row("syncs, B sent per node and publication", &[sent.sync / per]);
    table.row("control plane, MB sent by the busiest node", &[sent.most / 1e6]);
    tell("control plane: a partition of an hour");
    let healed = control.partition(3600 * SECOND, (scale.publications / 10).max(2));
    let sent = control.sent();
    table.row("partition of an hour heals, s until all have all", &[healed.unwrap_or(f64::NAN)]);
    table.row(
        "control plane, MB sent per node in that hour and after",
        &[(sent.gossip + sent.sync) / 1e6],
    );
    let (cells, bytes) = control.size();
    table.row("control plane, cells on every node", &[cells as f64]);
    table.row("control plane, MB on every node", &[bytes as f64 / 1e6]);
    table.row("control plane, published cells", &[control.published() as f64]);
    table.row("events simulated, millions", &[control.messages as f64 / 1e6]);
    drop(control);
    tell("data plane");
    measure_data(scale, &mut table);
    tell("status");
    for (what, trips) in [("connected", ASK), ("not yet connected", ASK + CONNECT)] {
        for in_flight in [16, 64, 128] {
            let time = status(scale, trips, in_flight);
            table.row(&format!("status of all, s: {in_flight} in flight, {what}"), &[time]);
        }
    }
    Some(table)
}

/// The shards of a deployment to all nodes.
fn shards(nodes: usize) -> usize {
    nodes.div_ceil(SHARD).next_power_of_two()
}

fn subject(deployment: u64, shard: usize) -> Vec<u8> {
    let mut subject = records::deployment_id(deployment).0.to_vec();
    subject.extend(u16::try_from(shard).unwrap_or(u16::MAX).to_be_bytes());
    subject
}

fn machine(n: usize) -> Vec<u8> {
    library::node_key(n).0.split_at(16).0.to_vec()
}

fn shard_of(n: usize, shards: usize) -> usize {
    let [high, low, ..] = library::node_key(n).0;
    usize::from(u16::from_be_bytes([high, low])) % shards.max(1)
}

/// Every machine reports on some publications, message by message; what all of them would leave on
/// each node follows from where it is placed.
fn measure_data(scale: &Scale, table: &mut Table) {
    let mut rng = StdRng::seed_from_u64(scale.seed);
    let mut data = Data::new(scale.nodes, scale.link, 0.0, scale.seed);
    let shards = shards(scale.nodes);
    let states = [State::Pending, State::Verified, State::Installed];
    let (first, entries) = (records::segment(12), records::segment(13));
    for n in 0..scale.nodes {
        let place = (Kind::HISTORY, machine(n), 0u64.to_be_bytes().to_vec());
        data.write_after(rng.random_range(0..10 * SECOND), n, place, first.clone());
    }
    data.run(false);
    let before = data.sent();
    for p in 0..scale.reported as u64 {
        for n in 0..scale.nodes {
            let mut at = rng.random_range(0..60 * SECOND);
            for done in 1..=states.len() {
                let place = (Kind::STATUS, subject(p, shard_of(n, shards)), machine(n));
                let payload = records::status(states.split_at(done).0);
                data.write_after(at, n, place, payload);
                at += rng.random_range(SECOND..4 * SECOND);
            }
            let place = (Kind::HISTORY, machine(n), 0u64.to_be_bytes().to_vec());
            data.write_after(at, n, place, entries.clone());
        }
        data.run(false);
    }
    let per = (data.sent() - before) / scale.reported.max(1) as f64;
    table.row("data plane, B sent per node and publication", &[per]);
    let [keys, most, ..] = data.held();
    table.row("data plane, keys per node after those reported", &[keys]);
    table.row("data plane, keys on the fullest node after those", &[most]);
    // what all publications leave, by placement alone
    let mut held = vec![(0u64, 0u64); scale.nodes];
    let members: Vec<usize> = (0..scale.nodes).map(|n| shard_of(n, shards)).collect();
    let mut of_shard = vec![0u64; shards];
    members.iter().filter_map(|s| of_shard.get_mut(*s).map(|n| *n += 1)).for_each(drop);
    for p in 0..scale.publications as u64 {
        for (shard, members) in of_shard.iter().enumerate() {
            for n in data.replicas(Kind::STATUS, subject(p, shard)) {
                if let Some((keys, cells)) = held.get_mut(n) {
                    *keys += 1;
                    *cells += members;
                }
            }
        }
    }
    let average = |f: &dyn Fn(&(u64, u64)) -> u64| {
        held.iter().map(f).sum::<u64>() as f64 / scale.nodes.max(1) as f64
    };
    let bytes = (records::status(&states).len() + 64 + 18 + 16 + 64) as f64;
    table.row("status keys per node after all, by placement", &[average(&|h| h.0)]);
    let most = held.iter().map(|h| h.0).max().unwrap_or(0);
    table.row("status keys on the fullest node, by placement", &[most as f64]);
    table.row("status cells per node after all, by placement", &[average(&|h| h.1)]);
    table.row("status MB per node after all, by placement", &[average(&|h| h.1) * bytes / 1e6]);
    table.row("data-plane events simulated, millions", &[data.messages as f64 / 1e6]);
}

/// One question per shard to one of its replicas, so many in flight.
fn status(scale: &Scale, trips: u64, in_flight: usize) -> f64 {
    let mut rng = StdRng::seed_from_u64(scale.seed);
    let mut queue = Queue::default();
    let mut left = scale.nodes.div_ceil(SHARD);
    let mut ask = |queue: &mut Queue<()>| {
        let one_way = |rng: &mut StdRng| scale.link + rng.random_range(0..=scale.link / 5);
        let time: Micros = (0..2 * trips).map(|_| one_way(&mut rng)).sum();
        queue.after(time, ());
    };
    for _ in 0..in_flight.min(left) {
        ask(&mut queue);
        left -= 1;
    }
    while queue.next(u64::MAX).is_some() {
        if left > 0 {
            left -= 1;
            ask(&mut queue);
        }
    }
    seconds(queue.now())
}

/// What is killed, and when.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    /// Where all chance comes from.
    pub seed: u64,
    /// Machines.
    pub nodes: usize,
    /// Records that each writes.
    pub records: usize,
    /// Machines that die, in percent.
    pub percent: usize,
    /// Whether the outboxes are drained before; otherwise each record has a majority only, on links
    /// that lose a third of all messages.
    pub drained: bool,
}

/// Every node writes; then some die at once, for ever.
#[must_use]
pub fn lose(death: &Death) -> Lost {
    let loss = if death.drained { 0.0 } else { 1.0 / 3.0 };
    let mut data = Data::new(death.nodes, 500, loss, death.seed);
    let mut rng = StdRng::seed_from_u64(death.seed);
    let shards = shards(death.nodes);
    for n in 0..death.nodes {
        for p in 0..death.records as u64 {
            // other subjects with each seed, so that other replicas hold them
            let deployment = death.seed.wrapping_mul(1_000_003).wrapping_add(p * 1_000 + n as u64);
            let place = (Kind::STATUS, subject(deployment, shard_of(n, shards)), machine(n));
            let at = rng.random_range(0..SECOND);
            data.write_after(at, n, place, records::status(&[State::Installed]));
        }
    }
    data.run(!death.drained);
    let mut dead = BTreeSet::new();
    while dead.len() < death.nodes * death.percent / 100 {
        dead.insert(rng.random_range(0..death.nodes));
    }
    data.lost_without(&dead)
}
