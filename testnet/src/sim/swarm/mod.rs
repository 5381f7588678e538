//! One blob to many nodes, in virtual time: how near the exchange comes to the bound.
//!
//! The scheduler and the server are the node's own (`p2pinst-chunks`); links, delays, neighbours and
//! faults are simulated. What is left out: TCP's start and loss, disks, hashing, the processor.

mod links;
mod report;
mod world;

use anyhow::Result;
use p2pinst_chunks::serve::ServeLimits;

pub use self::links::Share;
pub use self::report::{COLUMNS, Report};
use self::world::World;

/// Megabits per second, in bytes per microsecond.
const MBIT: f64 = 1e6 / 8.0 / 1e6;

/// A node that does not do as it should. Nobody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Says that it has all, and answers nothing.
    Silent,
    /// Says that it has all, and sends something else.
    Garbage,
    /// Says that it has all, and is busy for ever.
    Busy,
    /// Has a hundredth of the rate of the others, both ways.
    Slow,
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// A part of the downloaders dies, from 0 to 1: those with the highest numbers.
    KillPart(f64),
    /// A node dies; 0 is the publisher.
    Kill(u32),
    /// The publisher dies when each piece has left it once.
    KillPublisherAfterFirstCopy,
    /// The gateways of a site die, all but so many.
    KillGateways {
        /// Which site.
        site: u8,
        /// How many are left.
        but: usize,
    },
    /// A site is cut off from the others.
    Cut(u8),
    /// A site is no longer cut off.
    Heal(u8),
}

/// What to simulate. Node 0, at site 0, publishes; the others are downloaders, in turn at each site.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where all chance comes from.
    pub seed: u64,
    /// Downloaders.
    pub nodes: u32,
    /// Pieces of the blob.
    pub pieces: u32,
    /// Bytes of a piece: a power of two from 32 KiB to 4 MiB.
    pub piece_len: u64,
    /// Sources of a downloader at its own site.
    pub degree: usize,
    /// Sites.
    pub sites: u8,
    /// Mbit/s of each host, up and down.
    pub rate: (f64, f64),
    /// Mbit/s of each site's link to the others, each way.
    pub wan: f64,
    /// Milliseconds one way, within a site and between sites.
    pub delay: (f64, f64),
    /// Milliseconds that a message waits behind the pieces of a busy up-link.
    pub queue: f64,
    /// Milliseconds in which the downloaders begin.
    pub start: f64,
    /// How flows share an up-link.
    pub share: Share,
    /// Pieces that a host sends at a time.
    pub slots: usize,
    /// Downloaders that the publisher takes.
    pub accept: usize,
    /// Nodes that do not do as they should.
    pub bad: Vec<(u32, Bad)>,
    /// Nodes that begin later, after so many seconds.
    pub late: Vec<(u32, f64)>,
    /// What happens when, in seconds.
    pub faults: Vec<(f64, Fault)>,
    /// Seconds after which a run that has not ended has failed.
    pub patience: f64,
}

impl Plan {
    /// So many downloaders and pieces of 64 KiB at one site, on links of 100 Mbit/s.
    #[must_use]
    pub fn new(nodes: u32, pieces: u32, seed: u64) -> Self {
        Self {
            seed,
            nodes,
            pieces,
            piece_len: 64 << 10,
            degree: 16,
            sites: 1,
            rate: (100.0, 100.0),
            wan: 20.0,
            delay: (0.2, 25.0),
            queue: 5.0,
            start: 50.0,
            share: Share::Fair,
            slots: ServeLimits::default().slots,
            accept: 64,
            bad: Vec::new(),
            late: Vec::new(),
            faults: Vec::new(),
            patience: 3600.0,
        }
    }

    /// The site of a node.
    #[must_use]
    pub fn site(&self, node: u32) -> u8 {
        u8::try_from(node % u32::from(self.sites.max(1))).unwrap_or(0)
    }

    /// The fluid bound T*, in seconds.
    #[must_use]
    pub fn bound(&self) -> f64 {
        let mbit = self.pieces as f64 * self.piece_len as f64 * 8.0 / 1e6;
        let ((up, down), n) = (self.rate, f64::from(self.nodes));
        let mut bound = (mbit / up).max(mbit / down).max(n * mbit / (up * (n + 1.0)));
        if self.sites > 1 {
            let others = f64::from(self.sites - 1);
            bound = bound.max(mbit / self.wan).max(others * mbit / (self.wan * (others + 1.0)));
            for site in 0..self.sites {
                let here = (1..=self.nodes).filter(|n| self.site(*n) == site).count() as f64;
                let own = if site == 0 { up } else { 0.0 };
                bound = bound.max(here * mbit / (self.wan + own + here * up));
            }
        }
        bound
    }

    /// Runs it.
    ///
    /// # Errors
    /// When it does not end, or a peer that does nothing wrong is banned: with the seed.
    pub fn run(&self) -> Result<Report> {
        World::new(self.clone())?.run()
    }
}
