//! One file from one host to all others: p2pinst and its rivals, in turn, on the same links,
//! against the bound that no protocol beats.
//!
//! The clock runs from the start of `publish` until the last node has verified and synced the last
//! byte, by the nodes' own records; for the rivals from the start of the clients, with servers, seeds
//! and trackers up before, until the last client is done.

pub mod bound;
pub(in crate::bench) mod crew;
pub mod goodput;
pub mod issue;
mod method;
mod nginx;
mod ours;
pub(in crate::bench) mod outcome;
mod plot;
mod race;
mod record;
mod report;
mod rsync;
mod torrent;
mod udpcast;
pub(in crate::bench) mod wire;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

pub use method::{Method, RIVALS, rivals};
pub use record::{Case, Figures, Record, Runs};
pub(in crate::bench) use report::about;
pub use report::{Report, size};

use crate::deb::{Deb, native_arch};
use crate::lab::{Lab, LabOptions};
use crate::net::{Sites, Wan};
use bound::{Links, SiteLinks, bound};
use outcome::Outcome;

/// More delivered than this, in bit/s of all hosts together, and two processors are what is measured.
const PROCESSORS: f64 = 800e6;
/// A run that takes that many T* has failed...
const PATIENCE: f64 = 10.0;
/// ... but not before this time.
const LEAST: Duration = Duration::from_secs(120);

/// What is between the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Between {
    /// The loopback interface, without a limit.
    Loopback,
    /// Links with a rate, perhaps in several sites.
    Links {
        /// The rate of each host's link, both ways, in Mbit/s.
        mbit: u32,
        /// The sites, if there are several.
        wan: Option<WanLinks>,
    },
}

/// Several sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WanLinks {
    /// How many.
    pub sites: usize,
    /// The rate of each site's link, both ways, in Mbit/s.
    pub mbit: u32,
    /// Milliseconds from a site to the core.
    pub ms: u64,
}

/// What to measure: each size with each number of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes of the file's content.
    pub sizes: Vec<u64>,
    /// Hosts, the publisher among them.
    pub nodes: Vec<usize>,
    /// What is between them.
    pub between: Between,
    /// How often; those whose time is the publisher's link times the receivers, once.
    pub runs: usize,
    /// The rivals.
    pub rivals: Vec<Method>,
    /// No run may take longer; what certainly would is not begun.
    pub limit: Duration,
    /// Where the hosts keep their files; the system's temporary directory otherwise.
    pub below: Option<PathBuf>,
}

/// Runs everything, in turn. What fails is told in the result.
///
/// # Errors
/// When there can be no lab, or no file.
pub fn measure(options: &Options) -> Result<Report> {
    let mut report = Report::new(options);
    for nodes in &options.nodes {
        ensure!(*nodes >= 2, "one node alone distributes nothing: ask for 2 or more");
        let lab = lab(options, *nodes)?;
        let goodput = match options.between {
            Between::Loopback => None,
            Between::Links { .. } => Some(goodput::measure(&lab)?),
        };
        for size in &options.sizes {
            report.add(of_size(options, &lab, *size, goodput.as_ref())?);
        }
        lab.destroy()?;
    }
    Ok(report)
}

fn lab(options: &Options, nodes: usize) -> Result<Lab> {
    let mut lab = LabOptions::hosts(nodes);
    lab.below.clone_from(&options.below);
    match &options.between {
        Between::Loopback => lab = lab.loopback(),
        Between::Links { mbit, wan } => {
            let sites = wan.map(|w| Sites {
                count: w.sites,
                wan: Wan {
                    rate: Some(format!("{}mbit", w.mbit)),
                    delay: Duration::from_millis(w.ms),
                },
            });
            lab = lab.rate(Some(format!("{mbit}mbit"))).sites(sites);
        }
    }
    Lab::create(&lab)
}

/// All runs with one size on one lab.
fn of_size(options: &Options, lab: &Lab, size: u64, goodput: Option<&Links>) -> Result<Runs> {
    let mut runs: Option<Runs> = None;
    for run in 1..=options.runs {
        // For another architecture: it is fetched and verified, and then no dpkg disturbs the rest.
        let arch = if native_arch()? == "s390x" { "riscv64" } else { "s390x" };
        let deb = Deb::new("bench", &format!("1.{run}")).arch(arch).payload(size);
        let source = deb.build(lab.dir())?;
        let hash = hash(&source)?;
        let bytes = fs::metadata(&source).context("cannot read the package")?.len();
        let runs = runs.get_or_insert_with(|| Runs {
            case: case(options, lab, bytes, goodput),
            records: Vec::new(),
        });
        if run == 1 && runs.case.delivered().is_some_and(|d| d > PROCESSORS) {
            eprintln!(
                "warning: {}: all hosts together take in more than {} Mbit/s: two processors are what is measured",
                runs.case.title(),
                PROCESSORS / 1e6
            );
        }
        for method in [Method::P2pinst].iter().chain(&options.rivals) {
            if run > 1 && method.is_one_by_one() {
                continue;
            }
            eprint!("{}: {method}, run {run} of {} ... ", runs.case.title(), options.runs);
            let limit = match permitted(options, &runs.case, *method) {
                Ok(limit) => limit,
                Err(why) => {
                    eprintln!("{why}");
                    runs.records.push(Record {
                        method: *method,
                        run,
                        failed: Some(why),
                        figures: None,
                    });
                    continue;
                }
            };
            let outcome = match method {
                Method::P2pinst => ours::run(lab, &source, &hash, limit),
                rival => race::run(lab, *rival, &source, &hash, limit),
            };
            runs.records.push(record(&runs.case, *method, run, outcome));
        }
        fs::remove_file(&source).with_context(|| format!("cannot remove {}", source.display()))?;
    }
    runs.context("nothing was to be run")
}

fn record(case: &Case, method: Method, run: usize, outcome: Result<Outcome>) -> Record {
    match outcome.map(|o| Figures::new(case, method, o)) {
        Ok(figures) => {
            let ratio = figures.ratio.map(|r| format!(", {r:.3} T*")).unwrap_or_default();
            eprintln!("{:.2} s{ratio}, {:.2} CPU s/Gbit", figures.last, figures.cpu_per_gbit);
            Record { method, run, failed: None, figures: Some(figures) }
        }
        Err(why) => {
            eprintln!("failed: {why:#}");
            Record { method, run, failed: Some(format!("{why:#}")), figures: None }
        }
    }
}

/// How long a run may take, or why it is not begun.
fn permitted(options: &Options, case: &Case, method: Method) -> Result<Duration, String> {
    if let Some(why) = method.missing() {
        return Err(why);
    }
    if method == Method::Udpcast && options.between == Between::Loopback {
        return Err("multicast needs an interface for each host".to_owned());
    }
    let Some(bound) = &case.bound else { return Ok(options.limit) };
    let receivers = case.nodes.saturating_sub(1) as f64;
    let least = match &case.goodput {
        Some(links) if method.is_one_by_one() => links.one_by_one(case.bytes, receivers),
        _ => 0.0,
    };
    let least = bound.seconds.max(least);
    if least > options.limit.as_secs_f64() {
        let limit = options.limit.as_secs();
        return Err(format!(
            "not run: its {receivers:.0} copies need {least:.0} s of one link, and a run may take {limit} s"
        ));
    }
    Ok(Duration::from_secs_f64(least * PATIENCE).max(LEAST).min(options.limit.max(LEAST)))
}

fn case(options: &Options, lab: &Lab, bytes: u64, goodput: Option<&Links>) -> Case {
    let hosts = lab.network().hosts();
    let receivers = hosts.len().saturating_sub(1);
    let (mbit, wan) = match &options.between {
        Between::Loopback => (None, None),
        Between::Links { mbit, wan } => (Some(*mbit), *wan),
    };
    let line = mbit.map(|mbit| {
        let rate = |mbit: u32| f64::from(mbit) * 1e6 / 8.0;
        let site = |s: &SiteLinks| {
            let wan = wan.map_or(0.0, |w| rate(w.mbit));
            SiteLinks { receivers: s.receivers, wan_in: wan, wan_out: wan }
        };
        let sites = goodput.map(|g| g.sites.iter().map(site).collect()).unwrap_or_default();
        bound(bytes, receivers, &Links { up: rate(mbit), down: rate(mbit), sites })
    });
    Case {
        bytes,
        nodes: hosts.len(),
        mbit,
        sites: wan.map_or(1, |w| w.sites),
        wan_mbit: wan.map(|w| w.mbit),
        wan_ms: wan.map_or(0, |w| w.ms),
        goodput: goodput.cloned(),
        bound: goodput.map(|links| bound(bytes, receivers, links)),
        line,
    }
}

fn hash(file: &Path) -> Result<blake3::Hash> {
    let open = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(open).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(hasher.finalize())
}

/// Makes sure that a copy is what was sent.
fn check(copy: &Path, wanted: &blake3::Hash) -> Result<()> {
    ensure!(hash(copy)? == *wanted, "{} is not what was sent", copy.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(limit: u64) -> Options {
        Options {
            sizes: Vec::new(),
            nodes: Vec::new(),
            between: Between::Links { mbit: 8, wan: None },
            runs: 1,
            rivals: Vec::new(),
            limit: Duration::from_secs(limit),
            below: None,
        }
    }

    #[test]
    fn what_would_take_too_long_is_not_begun() {
        let links = Links { up: 1e6, down: 1e6, sites: Vec::new() };
        let case = Case {
            bytes: 30_000_000,
            nodes: 11,
            mbit: Some(8),
            sites: 1,
            wan_mbit: None,
            wan_ms: 0,
            bound: Some(bound(30_000_000, 10, &links)),
            line: None,
            goodput: Some(links.clone()),
        };
        let ours = |limit| permitted(&options(limit), &case, Method::P2pinst);
        assert_eq!(ours(400), Ok(Duration::from_secs(300)));
        assert_eq!(ours(200), Ok(Duration::from_secs(200)));
        assert!(ours(20).unwrap_err().contains("not run"));
        // A server sends ten copies: 300 s.
        if Method::Rsync.missing().is_none() {
            let one_by_one = |limit| permitted(&options(limit), &case, Method::Rsync);
            assert!(one_by_one(200).unwrap_err().contains("10 copies need 300 s"));
            assert_eq!(one_by_one(400), Ok(Duration::from_secs(400)));
            // six of them leave the site: 360 s
            let site = |receivers| SiteLinks { receivers, wan_in: 5e5, wan_out: 5e5 };
            let links = Links { sites: vec![site(4), site(6)], ..links };
            let case = Case { goodput: Some(links), ..case.clone() };
            let apart = permitted(&options(320), &case, Method::Rsync);
            assert!(apart.unwrap_err().contains("10 copies need 360 s"));
        }
        let over = Options { between: Between::Loopback, ..options(400) };
        let alone = Case { bound: None, ..case };
        assert_eq!(permitted(&over, &alone, Method::P2pinst), Ok(Duration::from_secs(400)));
        assert!(permitted(&over, &alone, Method::Udpcast).is_err());
    }

    #[test]
    fn a_copy_that_differs_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let (one, other) = (temp.path().join("one"), temp.path().join("other"));
        fs::write(&one, "some bytes").unwrap();
        fs::write(&other, "same bytes").unwrap();
        let wanted = hash(&one).unwrap();
        check(&one, &wanted).unwrap();
        assert!(check(&other, &wanted).is_err());
    }
}
