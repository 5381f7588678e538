//! What was measured: as a document, and as JSON.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::super::swarm::bound::{Bound, Links};
use super::install::Installed;
use super::{Options, STRETCHES};
use crate::bench::{Table, greatest, median};

/// From this part of the processors' time on they may be what is measured.
const BUSY: f64 = 0.9;
const MIB: f64 = 1_048_576.0;

/// All that was measured, and on what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The machine and the versions, in words.
    pub about: Vec<String>,
    /// One for each number of machines.
    pub cases: Vec<Case>,
}

/// So many machines, in all runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Case {
    /// Bytes of the image.
    pub bytes: u64,
    /// How many machines are installed.
    pub machines: usize,
    /// The rate of each link, both ways, in Mbit/s.
    pub mbit: u32,
    /// Hundredths that the second version has changed.
    pub changed: u64,
    /// How it went.
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// What TCP got of the links when all sent and received, in bytes per second.
    pub goodput: Links,
    /// T* at that goodput.
    pub bound: Bound,
    /// Onto blank disks.
    pub first: Install,
    /// T* of that, by the time of the last machine: 1 is the best that there can be.
    pub efficiency: f64,
    /// The second version.
    pub second: Option<Second>,
}

/// All machines, once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Install {
    /// Seconds until the last machine was done.
    pub last: f64,
    /// Seconds until half of them were.
    pub median: f64,
    /// Copies of the image that left the publisher, headers aside.
    pub copies: f64,
    /// Processor seconds of the publisher and of all scouts, with all that they started.
    pub cpu: f64,
    /// How busy all processors were from the start of the scouts to the last machine, by whomever: 1 is all the time.
    pub busy: f64,
    /// The most resident memory that a scout had, in bytes.
    pub peak: u64,
    /// Each machine.
    pub machines: Vec<Machine>,
}

/// The second version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Second {
    /// How it went.
    pub install: Install,
    /// Bytes that came to a machine by its cable, with all headers, as a part of the image: of the machine to which most came.
    pub most: f64,
    /// The same, the mean of all machines.
    pub mean: f64,
}

/// One machine. Times are seconds since the first scout was certified.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// When its own scout was certified.
    pub certified: f64,
    /// When it had every piece.
    pub fetched: f64,
    /// When all was on the disk, and looked at.
    pub done: f64,
    /// Bytes that came by its cable, with all headers.
    pub wire: u64,
    /// Bytes of pieces that came.
    pub received: u64,
    /// Bytes of those that were here already.
    pub duplicate: u64,
    /// Bytes that were on the disk.
    pub local: u64,
    /// Nodes that gave it something.
    pub sources: u64,
}

impl Install {
    fn new(bytes: u64, installed: Installed) -> Self {
        let Installed { machines, published, cpu, busy, peak } = installed;
        let done: Vec<f64> = machines.iter().map(|m| m.done).collect();
        Self {
            last: greatest(&done),
            median: median(&done),
            copies: published as f64 / bytes.max(1) as f64,
            cpu,
            busy,
            peak,
            machines,
        }
    }
}

impl Run {
    pub(super) fn new(
        bytes: u64,
        goodput: Links,
        bound: Bound,
        first: Installed,
        second: Option<Installed>,
    ) -> Self {
        let first = Install::new(bytes, first);
        let second = second.map(|installed| {
            let install = Install::new(bytes, installed);
            let part = |m: &Machine| m.wire as f64 / bytes.max(1) as f64;
            let parts: Vec<f64> = install.machines.iter().map(part).collect();
            let mean = parts.iter().sum::<f64>() / parts.len().max(1) as f64;
            Second { install, most: greatest(&parts), mean }
        });
        Self { efficiency: bound.seconds / first.last, goodput, bound, first, second }
    }

    /// In a line.
    #[must_use]
    pub fn words(&self) -> String {
        let mut text = format!(
            "{:.2} s, efficiency {:.3}, processors {:.0} % busy",
            self.first.last,
            self.efficiency,
            self.first.busy * 100.0
        );
        if let Some(second) = &self.second {
            let (most, last) = (second.most * 100.0, second.install.last);
            write!(text, "; the second version: {most:.2} % came, {last:.2} s").ok();
        }
        text
    }
}

/// What a column has to say of a run.
type Column = fn(&Case, &Run) -> Option<f64>;

/// The columns of the table of first versions.
const FIRST: [(&str, Column); 11] = [
    ("T* s", |_, r| Some(r.bound.seconds)),
    ("last s", |_, r| Some(r.first.last)),
    ("efficiency", |_, r| Some(r.efficiency)),
    (WORST, |_, r| Some(r.efficiency)),
    ("p50 s", |_, r| Some(r.first.median)),
    ("last fetched s", |_, r| Some(of(&r.first, |m| m.fetched))),
    ("publisher copies", |_, r| Some(r.first.copies)),
    ("CPU s", |_, r| Some(r.first.cpu)),
    ("CPU s/Gbit", |c, r| Some(r.first.cpu / (c.bytes as f64 * c.machines as f64 * 8e-9))),
    ("processors busy %", |_, r| Some(r.first.busy * 100.0)),
    ("peak RSS MB", |_, r| Some(r.first.peak as f64 / 1e6)),
];

/// The columns of the table of second versions.
const SECOND: [(&str, Column); 5] = [
    (MOST, |_, r| Some(r.second.as_ref()?.most * 100.0)),
    ("came to each %", |_, r| Some(r.second.as_ref()?.mean * 100.0)),
    ("last s", |_, r| Some(r.second.as_ref()?.install.last)),
    ("CPU s", |_, r| Some(r.second.as_ref()?.install.cpu)),
    ("processors busy %", |_, r| Some(r.second.as_ref()?.install.busy * 100.0)),
];

/// The column that has the smallest value of the runs instead of the median, and that which has the greatest.
const WORST: &str = "worst";
const MOST: &str = "most came to one %";

fn of(install: &Install, what: impl Fn(&Machine) -> f64) -> f64 {
    greatest(&install.machines.iter().map(what).collect::<Vec<_>>())
}

impl Case {
    pub(super) fn new(options: &Options, machines: usize) -> Self {
        let Options { size, mbit, changed, .. } = *options;
        Self { bytes: size, machines, mbit, changed, runs: Vec::new() }
    }

    /// What it is, in words.
    #[must_use]
    pub fn title(&self) -> String {
        let mib = self.bytes as f64 / MIB;
        format!("{mib:.0} MiB onto {} machines at {} Mbit/s", self.machines, self.mbit)
    }

    /// Seconds until the last machine is done: the median of the runs.
    #[must_use]
    pub fn last(&self) -> f64 {
        median(&self.runs.iter().map(|r| r.first.last).collect::<Vec<_>>())
    }

    fn row(&self, columns: &[(&str, Column)]) -> Vec<f64> {
        let column = |(name, of): &(&str, Column)| {
            let all: Vec<f64> = self.runs.iter().filter_map(|run| of(self, run)).collect();
            match *name {
                _ if all.is_empty() => f64::NAN,
                WORST => all.iter().copied().fold(f64::INFINITY, f64::min),
                MOST => greatest(&all),
                _ => median(&all),
            }
        };
        columns.iter().map(column).collect()
    }

    /// When each machine was done, run by run.
    fn each(&self) -> String {
        let run = |run: &Run| {
            let mut done: Vec<f64> = run.first.machines.iter().map(|m| m.done).collect();
            done.sort_by(f64::total_cmp);
            done.iter().map(|s| format!("{s:.2}")).collect::<Vec<_>>().join(" ")
        };
        let runs: Vec<String> = self.runs.iter().map(run).collect();
        format!("- {}: {}\n", self.machines, runs.join("; "))
    }

    /// Whether it may be the processors that were measured.
    fn is_busy(&self) -> bool {
        median(&self.runs.iter().map(|r| r.first.busy).collect::<Vec<_>>()) >= BUSY
    }
}

impl Report {
    /// How many times as long the most machines take as the fewest.
    #[must_use]
    pub fn flatness(&self) -> Option<f64> {
        let few = self.cases.iter().min_by_key(|c| c.machines)?;
        let many = self.cases.iter().max_by_key(|c| c.machines)?;
        (few.machines < many.machines).then(|| many.last() / few.last())
    }

    fn table(&self, title: String, columns: &[(&str, Column)]) -> String {
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let mut table = Table::new(title, &names);
        for case in &self.cases {
            let name = match case.runs.len() {
                1 => format!("{}", case.machines),
                runs => format!("{}, {runs} runs", case.machines),
            };
            table.row(&name, &case.row(columns));
        }
        table.markdown()
    }

    /// The document.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("{}.\n\n", self.about.join("; "));
        let Some(case) = self.cases.first() else { return text };
        let (mib, mbit, changed) = (case.bytes as f64 / MIB, case.mbit, case.changed);
        let title = format!("An image of {mib:.0} MiB onto blank machines, links of {mbit} Mbit/s");
        text.push_str(&self.table(title, &FIRST));
        text.push_str("\nSeconds until each machine was done:\n\n");
        text.extend(self.cases.iter().map(Case::each));
        if let Some(flatness) = self.flatness() {
            write!(text, "\nThe most machines take {flatness:.3} times as long as the fewest.\n")
                .ok();
        }
        for case in self.cases.iter().filter(|c| c.is_busy()) {
            let machines = case.machines;
            write!(text, "\nWith {machines} machines the processors had no time left: they may be what was measured.\n").ok();
        }
        if changed > 0 {
            let title = format!(
                "A second version, of which {changed} % have changed in {STRETCHES} stretches, onto the same disks"
            );
            text.push('\n');
            text.push_str(&self.table(title, &SECOND));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(done: f64, wire: u64) -> Machine {
        let (certified, fetched) = (0.0, done - 0.5);
        let (received, duplicate, local, sources) = (wire, 0, 0, 2);
        Machine { certified, fetched, done, wire, received, duplicate, local, sources }
    }

    fn run(done: &[f64], wire: &[u64]) -> Run {
        let installed = |wire: &[u64]| Installed {
            machines: done.iter().zip(wire).map(|(d, w)| machine(*d, *w)).collect(),
            published: 1_100_000,
            cpu: 2.0,
            busy: 0.95,
            peak: 5_000_000,
        };
        let bound = Bound { seconds: 9.0, term: "a receiver's link".to_owned() };
        Run::new(1_000_000, Links::default(), bound, installed(wire), Some(installed(wire)))
    }

    fn report() -> Report {
        let options = Options {
            size: 1_000_000,
            machines: vec![1, 2],
            mbit: 1,
            runs: 2,
            changed: 5,
            below: None,
        };
        let mut cases = [1, 2].map(|machines| Case::new(&options, machines));
        cases[0].runs = vec![run(&[10.0], &[60_000]), run(&[10.0], &[70_000])];
        cases[1].runs = vec![run(&[9.5, 12.0], &[50_000, 90_000]); 2];
        Report { about: vec!["here".to_owned()], cases: cases.into() }
    }

    #[test]
    fn efficiency_is_of_the_last_and_shares_are_of_the_image() {
        let report = report();
        let two = &report.cases[1].runs[0];
        assert!((two.efficiency - 0.75).abs() < 1e-9);
        assert!((two.first.copies - 1.1).abs() < 1e-9);
        let second = two.second.as_ref().unwrap();
        assert!((second.most - 0.09).abs() < 1e-9 && (second.mean - 0.07).abs() < 1e-9);
        assert!((report.flatness().unwrap() - 1.2).abs() < 1e-9);
        assert_eq!(Report { cases: vec![report.cases[0].clone()], ..report }.flatness(), None);
    }

    #[test]
    fn a_report_says_what_matters_and_can_be_kept() {
        let report = report();
        let kept = serde_json::to_string(&report).unwrap();
        let again: Report = serde_json::from_str(&kept).unwrap();
        let text = again.markdown();
        assert!(text.contains("- 2: 9.50 12.00; 9.50 12.00"), "{text}");
        assert!(text.contains("1.200 times as long"), "{text}");
        assert!(text.contains("With 2 machines the processors had no time left"), "{text}");
        assert!(text.contains("5 % have changed in 4 stretches"), "{text}");
        let first = text.lines().find(|l| l.contains("2 runs")).unwrap();
        assert!(first.contains("10.0") && first.contains("0.900"), "{first}");
    }
}
