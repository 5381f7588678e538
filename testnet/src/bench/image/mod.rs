//! One disk image from one node to many blank machines, and then its second version.
//!
//! The machines are namespaces of a lab in which nothing runs but the scout (`p2pinstd scout`), each with a loop device for its
//! disk. The only member of the cluster publishes the image, orders the installation, and certifies the scouts. The scouts
//! start when all is ordered, as machines do that are switched on then.
//!
//! A machine's time runs from the certificate of the first of all scouts to the moment at which this one has the image on its disk:
//! every piece verified and written, the first MiB last, all of it synced, a sample read back from the disk, and the order's step
//! noted there; by the scouts' own logs. So joining, finding each other, looking at the disk and planning are within it;
//! publishing, ordering and the start of the programs are not.
//!
//! The second version differs in some stretches, and goes onto the same disks, by scouts that know nothing of the first ones. What is
//! counted is all that came to a machine by its cable from the start of its scout to its end.

mod install;
mod rack;
mod report;

use std::path::PathBuf;

use anyhow::{Result, ensure};

pub use report::{Case, Install, Machine, Report, Run, Second};

use super::swarm::bound::bound;
use super::swarm::{about, goodput};
use crate::image;
use crate::lab::{Lab, LabOptions};
use install::{Site, install};
use rack::Rack;

/// Stretches in which the second version differs.
const STRETCHES: u64 = 4;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes of the image.
    pub size: u64,
    /// How many machines are installed; each of these in turn.
    pub machines: Vec<usize>,
    /// The rate of each link, both ways, in Mbit/s.
    pub mbit: u32,
    /// How often.
    pub runs: usize,
    /// Hundredths of the image that the second version has changed; none: there is no second version.
    pub changed: u64,
    /// Where the lab's files are, those that stand for the disks among them; the system's temporary directory otherwise.
    pub below: Option<PathBuf>,
}

/// Runs everything, in turn, each run in a lab of its own.
///
/// # Errors
/// When a machine is not installed in time, or its disk is not the image.
pub fn measure(options: &Options) -> Result<Report> {
    ensure!(!options.machines.is_empty() && options.runs > 0, "nothing is to be measured");
    ensure!(
        !options.machines.contains(&0),
        "no machine at all is installed at once: ask for 1 or more"
    );
    let mut report = Report { about: about(), cases: Vec::new() };
    for machines in &options.machines {
        let mut case = Case::new(options, *machines);
        for number in 1..=options.runs {
            eprint!("{}, run {number} of {} ... ", case.title(), options.runs);
            let run = once(options, *machines, number)?;
            eprintln!("{}", run.words());
            case.runs.push(run);
        }
        report.cases.push(case);
    }
    Ok(report)
}

fn once(options: &Options, machines: usize, number: usize) -> Result<Run> {
    let mut lab = LabOptions::hosts(machines + 1).rate(Some(format!("{}mbit", options.mbit)));
    lab.below.clone_from(&options.below);
    let lab = Lab::create(&lab)?;
    let links = goodput::measure(&lab)?;
    let bound = bound(options.size, machines, &links);
    // without the machines' devices before the lab goes
    let run = {
        let site = Site::new(&lab)?;
        // other noise each time: nothing of an earlier run helps
        let seed = (machines as u64) << 16 | (number as u64) << 8;
        let image = lab.dir().join("bench.raw");
        image::disk(&image, options.size, seed)?;
        let rack = Rack::new(&site, options.size)?;
        let first = install(&site, &rack, "first", &image, bound.seconds)?;
        let mut second = None;
        if options.changed > 0 {
            image::change_spread(&image, options.changed, STRETCHES, seed + 1)?;
            second = Some(install(&site, &rack, "second", &image, bound.seconds)?);
        }
        Run::new(options.size, links, bound, first, second)
    };
    lab.destroy()?;
    Ok(run)
}
