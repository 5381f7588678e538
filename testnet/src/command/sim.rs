//! `testnet sim`: the simulator.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use p2pinst_testnet::bench::Table;
use p2pinst_testnet::sim::full::{Options, run};
use p2pinst_testnet::sim::light::{Death, Lost, Scale, lose, measure};
use p2pinst_testnet::sim::swarm::{COLUMNS, Plan, Share};
use p2pinst_testnet::sim::trace::Trace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// Only the table, for the documentation
    #[arg(long, global = true)]
    markdown: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Tens of nodes with real stores, in all that can go wrong
    Run {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// Nothing goes wrong
        #[arg(long)]
        fair: bool,
        /// Machines at the beginning
        #[arg(long, default_value_t = 14)]
        nodes: usize,
        /// Minutes of virtual time in which things go wrong
        #[arg(long, default_value_t = 5)]
        minutes: u64,
        /// Write down what happens: the last seed's course of events
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
    },
    /// Thousands of nodes: bytes, keys and times
    Scale {
        /// Where all chance comes from
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Machines
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// Publications: a release and an order each
        #[arg(long, default_value_t = 100)]
        publications: usize,
        /// Publications of which every machine reports, message by message
        #[arg(long, default_value_t = 10)]
        reported: usize,
        /// Members that have admitted the others
        #[arg(long, default_value_t = 16)]
        admitters: usize,
    },
    /// One file to many nodes: how near the exchange comes to the bound
    Swarm(Swarm),
    /// What is lost when machines die at once, for ever
    Loss {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// Machines
        #[arg(long, default_value_t = 100)]
        nodes: usize,
        /// Records that each has written
        #[arg(long, default_value_t = 20)]
        records: usize,
        /// Machines that die, in percent
        #[arg(long, default_value_t = 30)]
        percent: usize,
    },
}

#[derive(Debug, clap::Args)]
struct Swarm {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Downloaders
    #[arg(long, default_value_t = 1000)]
    nodes: u32,
    /// Pieces of the file
    #[arg(long, default_value_t = 1000)]
    pieces: u32,
    /// KiB of a piece: a power of two from 32 to 4096
    #[arg(long, default_value_t = 64)]
    piece: u64,
    /// Sources of a downloader at its own site
    #[arg(long, default_value_t = 16)]
    degree: usize,
    /// Sites; the publisher is at the first, the downloaders in turn at each
    #[arg(long, default_value_t = 1)]
    sites: u8,
    /// Mbit/s of each host, up and down
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Mbit/s of each site's link to the others
    #[arg(long, default_value_t = 20.0)]
    wan: f64,
    /// Milliseconds one way within a site
    #[arg(long, default_value_t = 0.2)]
    lan_delay: f64,
    /// Milliseconds one way between sites
    #[arg(long, default_value_t = 25.0)]
    wan_delay: f64,
    /// Milliseconds that a message waits behind the pieces of a busy up-link
    #[arg(long, default_value_t = 5.0)]
    queue: f64,
    /// Milliseconds in which the downloaders begin
    #[arg(long, default_value_t = 50.0)]
    start: f64,
    /// Pieces that a host sends at a time
    #[arg(long, default_value_t = 3)]
    slots: usize,
    /// Downloaders that the publisher takes
    #[arg(long, default_value_t = 64)]
    accept: usize,
    /// How the flows of one up-link share it
    #[arg(long, value_enum, default_value_t = Share::Fair)]
    share: Share,
}

impl Swarm {
    fn measure(self) -> Result<Table> {
        let title = format!(
            "simulated: {} pieces of {} KiB to {} nodes at {} sites, {} Mbit/s, {} sources each",
            self.pieces, self.piece, self.nodes, self.sites, self.rate, self.degree
        );
        let mut table = Table::new(title, &COLUMNS);
        for seed in self.seed..self.seed.saturating_add(self.seeds.max(1)) {
            let plan = Plan {
                piece_len: self.piece << 10,
                degree: self.degree,
                sites: self.sites.max(1),
                rate: (self.rate, self.rate),
                wan: self.wan,
                delay: (self.lan_delay, self.wan_delay),
                queue: self.queue,
                start: self.start,
                slots: self.slots,
                accept: self.accept,
                share: self.share,
                ..Plan::new(self.nodes, self.pieces, seed)
            };
            let began = Instant::now();
            let report = plan.run()?;
            eprintln!(
                "seed {seed}: {} steps, at most {:.0} per piece, in {:.1} s; first copy out after {:.2} s; refused {}, starved {}, replaced {}",
                report.steps,
                report.most_steps,
                began.elapsed().as_secs_f64(),
                report.first_copy,
                report.refused,
                report.starved,
                report.dropped,
            );
            table.row(&format!("seed {seed}"), &report.row());
        }
        Ok(table)
    }
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let table = self.what.measure()?;
        Ok(super::show(&table, self.markdown))
    }
}

impl What {
    fn measure(self) -> Result<Table> {
        match self {
            Self::Run { seed, seeds, fair, nodes, minutes, trace } => {
                let title = format!("simulated: {nodes} nodes, {minutes} minutes");
                let columns = ["agreed s", "events", "cells", "data cells", "control B", "data B"];
                let mut table = Table::new(title, &columns);
                for seed in seed..seed.saturating_add(seeds.max(1)) {
                    let options = if fair { Options::fair(seed) } else { Options::storm(seed) };
                    let written = trace.as_deref().map(Trace::to_file).transpose()?;
                    let report =
                        run(Options { nodes, minutes, ..options }, written.unwrap_or_default())?;
                    eprintln!("seed {seed}: trace {}", report.trace);
                    let numbers = [
                        report.agreed,
                        report.lines as f64,
                        report.control_cells,
                        report.data_cells,
                        report.control_bytes,
                        report.data_bytes,
                    ];
                    table.row(&seed.to_string(), &numbers);
                }
                Ok(table)
            }
            Self::Scale { seed, nodes, publications, reported, admitters } => {
                let scale = Scale { seed, reported, admitters, ..Scale::of(nodes, publications) };
                measure(&scale, |what| eprintln!("{what}")).context("too many nodes")
            }
            Self::Swarm(swarm) => swarm.measure(),
            Self::Loss { seed, seeds, nodes, records, percent } => {
                let title = format!(
                    "simulated: {nodes} nodes with {records} records each, {percent} % die at once; {seeds} seeds"
                );
                let columns =
                    ["cells", "lost", "of a million", "bound for drained", "lost too early"];
                let mut table = Table::new(title, &columns);
                for (what, drained) in [("outboxes drained", true), ("a majority has each", false)]
                {
                    let mut all = Lost::default();
                    for seed in seed..seed.saturating_add(seeds) {
                        let lost = lose(&Death { seed, nodes, records, percent, drained });
                        all.cells += lost.cells;
                        all.lost += lost.lost;
                        all.too_early += lost.too_early;
                    }
                    let fraction = all.lost as f64 / all.cells.max(1) as f64;
                    let bound = (percent as f64 / 100.0).powi(9);
                    let numbers = [
                        all.cells as f64,
                        all.lost as f64,
                        fraction * 1e6,
                        bound * 1e6,
                        all.too_early as f64,
                    ];
                    table.row(what, &numbers);
                    ensure!(all.too_early == 0, "lost although a majority of the replicas lived");
                }
                Ok(table)
            }
        }
    }
}
