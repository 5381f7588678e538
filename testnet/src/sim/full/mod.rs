//! The simulation of tens of nodes: the real store with the real admission, signatures and views on
//! disks in memory, and everything that can go wrong.

mod actors;
mod cast;
mod checks;
mod faults;
mod fixer;
mod liar;
mod node;
mod world;

use std::fmt;

use p2pinst_types::{Hash, Plane};

pub(crate) use self::actors::release;
use self::world::World;
use super::links::Accidents;
use super::queue::{Micros, SECOND};
use super::trace::Trace;

/// Time between two looks at what must always hold.
const LOOK: Micros = 5 * SECOND;
/// By then all must agree, counted from when nothing more goes wrong.
pub const REST: Micros = 120 * SECOND;

/// What is simulated. Two runs of equal options are equal in every message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// Machines at the beginning; at least eight.
    pub nodes: usize,
    /// Machines that join later.
    pub late: usize,
    /// Minutes in which things go wrong.
    pub minutes: u64,
    /// What happens to messages.
    pub accidents: Accidents,
    /// Whether the network falls apart.
    pub partitions: bool,
    /// Whether processes are killed, power fails and disks fill.
    pub crashes: bool,
    /// Machines that are gone for ever; fewer than a majority of the replicas.
    pub lost: usize,
    /// Whether clocks are wrong, by up to an hour.
    pub skew: bool,
    /// Whether an administrator signs two records of one number.
    pub equivocator: bool,
    /// Whether a member lies.
    pub liar: bool,
}

impl Options {
    /// Everything goes wrong that can.
    #[must_use]
    pub fn storm(seed: u64) -> Self {
        Self {
            seed,
            nodes: 14,
            late: 2,
            minutes: 5,
            accidents: Accidents::tenth(),
            partitions: true,
            crashes: true,
            lost: 2,
            skew: true,
            equivocator: true,
            liar: true,
        }
    }

    /// Nothing goes wrong.
    #[must_use]
    pub fn fair(seed: u64) -> Self {
        Self {
            accidents: Accidents::default(),
            partitions: false,
            crashes: false,
            lost: 0,
            skew: false,
            equivocator: false,
            liar: false,
            ..Self::storm(seed)
        }
    }
}

/// What a simulation found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// The options' seed.
    pub seed: u64,
    /// Hash of all that happened.
    pub trace: Hash,
    /// Lines of the trace.
    pub lines: u64,
    /// Seconds until all agreed, from when nothing more went wrong.
    pub agreed: f64,
    /// Control-plane cells of a node in the end.
    pub control_cells: f64,
    /// Data-plane cells of a node in the end.
    pub data_cells: f64,
    /// Bytes that a node sent for the control plane, gossip included.
    pub control_bytes: f64,
    /// Bytes that a node sent for the data plane.
    pub data_bytes: f64,
}

/// A check that did not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    /// With which it can be run again.
    pub options: Options,
    /// The check.
    pub check: &'static str,
    /// What was found.
    pub what: String,
    /// When, in virtual time.
    pub at: Micros,
    /// Hash of all that had happened.
    pub trace: Hash,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, check, what, at, trace } = self;
        let seconds = at / SECOND;
        writeln!(f, "seed {}: {check} does not hold at {seconds} s: {what}", options.seed)?;
        writeln!(f, "trace {trace}; {options:?}")?;
        write!(f, "the same again: testnet sim run --seed {} --trace FILE", options.seed)
    }
}

impl std::error::Error for Failure {}

/// Simulates.
///
/// # Errors
/// A check that does not hold.
pub fn run(options: Options, trace: Trace) -> Result<Report, Box<Failure>> {
    let mut world = World::new(options, trace);
    match through(&mut world) {
        Ok(agreed) => {
            let nodes = world.nodes.len() as f64;
            let sent = |f: &dyn Fn(&world::Traffic) -> u64| {
                world.traffic.iter().map(f).sum::<u64>() as f64 / nodes
            };
            let control_bytes = sent(&|t| t.control + t.gossip);
            let data_bytes = sent(&|t| t.data);
            let control_cells = checks::cells_per_node(&world, Plane::Control);
            let data_cells = checks::cells_per_node(&world, Plane::Data);
            let (trace, lines) = world.trace.finish();
            let seed = options.seed;
            Ok(Report {
                seed,
                trace,
                lines,
                agreed,
                control_cells,
                data_cells,
                control_bytes,
                data_bytes,
            })
        }
        Err((check, what)) => {
            let at = world.queue.now();
            let (trace, _) = world.trace.finish();
            Err(Box::new(Failure { options, check, what, at, trace }))
        }
    }
}

fn through(world: &mut World) -> Result<f64, checks::Broken> {
    let end = world.options.minutes * 60 * SECOND;
    world.plan(end);
    while world.queue.now() < end {
        world.run_until((world.queue.now() + LOOK).min(end));
        checks::anytime(world)?;
    }
    world.calm();
    loop {
        world.run_until(world.queue.now() + SECOND);
        checks::anytime(world)?;
        match checks::unrest(world) {
            None => break,
            Some(unrest) if world.queue.now() > end + REST => return Err(unrest),
            Some(_) => {}
        }
    }
    let agreed = (world.queue.now() - end) as f64 / SECOND as f64;
    // what is on its way to the last replicas
    world.run_until(world.queue.now() + REST);
    checks::anytime(world)?;
    checks::finally(world)?;
    Ok(agreed)
}
