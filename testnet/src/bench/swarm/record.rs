//! What the runs gave, as it is kept: per method and run, and as a table.

use serde::{Deserialize, Serialize};

use super::bound::{Bound, Links};
use super::method::Method;
use super::outcome::Outcome;
use super::wire::{Count, Wire};
use crate::bench::{Table, greatest, median};

/// What was to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Case {
    /// Bytes of the file.
    pub bytes: u64,
    /// Hosts, the publisher among them.
    pub nodes: usize,
    /// The rate of each host's link both ways, in Mbit/s; none over loopback.
    pub mbit: Option<u32>,
    /// How many sites.
    pub sites: usize,
    /// The rate of each site's WAN link, in Mbit/s.
    pub wan_mbit: Option<u32>,
    /// Milliseconds from a site to the core.
    pub wan_ms: u64,
    /// What TCP got of the links when all sent and received, in bytes per second.
    pub goodput: Option<Links>,
    /// T* at that goodput.
    pub bound: Option<Bound>,
    /// T* at the rate of the links.
    pub line: Option<Bound>,
}

/// What one run of one method gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The method.
    pub method: Method,
    /// Which run, from 1.
    pub run: usize,
    /// Why there is no result.
    pub failed: Option<String>,
    /// What was measured.
    pub figures: Option<Figures>,
}

/// What was measured in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// Seconds until the last receiver had all.
    pub last: f64,
    /// Seconds until half of the receivers had all.
    pub median: f64,
    /// That of the last one, in T*.
    pub ratio: Option<f64>,
    /// Seconds until the first receiver began to fetch, if the method tells.
    pub first_fetch: Option<f64>,
    /// Copies of the file that left the publisher, headers aside.
    pub copies: Option<f64>,
    /// Copies that entered each site but the publisher's, headers aside.
    pub wan_copies: Vec<f64>,
    /// Bytes that receivers got beyond the file, headers aside, as a part of the file: what came
    /// twice, requests and all other talk.
    pub extra: Option<f64>,
    /// Bytes that receivers got twice by their own count, as a part of the file, if they tell.
    pub twice: Option<f64>,
    /// The link that carried most, and its bytes.
    pub busiest: Option<(String, u64)>,
    /// Bytes that left the hosts, with all headers.
    pub total: Option<u64>,
    /// Processor seconds of all processes of the method.
    pub cpu: f64,
    /// The same per GiB delivered.
    pub cpu_per_gib: f64,
    /// The same per Gbit delivered.
    pub cpu_per_gbit: f64,
    /// Processor seconds of the whole machine, with the kernel's and everybody else's.
    pub busy: f64,
    /// The most resident memory that one process had, in bytes.
    pub peak: u64,
    /// The counters of all links.
    pub wire: Option<Wire>,
}

/// A case with its runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Runs {
    /// What was to be done.
    pub case: Case,
    /// How it went.
    pub records: Vec<Record>,
}

impl Figures {
    pub(super) fn new(case: &Case, method: Method, outcome: Outcome) -> Self {
        let Outcome { times, first_fetch, twice, cpu, busy, peak, wire } = outcome;
        let receivers = case.nodes.saturating_sub(1).max(1);
        let file = case.bytes.max(1) as f64;
        let delivered = file * receivers as f64;
        let content =
            |counts: &[Count]| -> u64 { counts.iter().map(|c| c.content(method.header())).sum() };
        let copies = |counts: &[Count]| content(counts) as f64 / file;
        let one = |counts: &Vec<Count>| counts.first().copied().unwrap_or_default();
        let entered =
            |w: &Wire| -> Vec<f64> { w.wan_in.iter().skip(1).map(|c| copies(&[*c])).collect() };
        let last = greatest(&times);
        Self {
            last,
            median: median(&times),
            ratio: case.bound.as_ref().map(|b| last / b.seconds),
            first_fetch,
            copies: wire.as_ref().map(|w| copies(&[one(&w.up)])),
            wan_copies: wire.as_ref().map(entered).unwrap_or_default(),
            extra: wire
                .as_ref()
                .map(|w| copies(w.down.get(1..).unwrap_or_default()) / receivers as f64 - 1.0),
            twice: twice.map(|bytes| bytes as f64 / delivered),
            busiest: wire.as_ref().map(Wire::busiest),
            total: wire.as_ref().map(|w| w.up.iter().map(|c| c.bytes).sum()),
            cpu,
            cpu_per_gib: cpu / (delivered / f64::from(1 << 30)),
            cpu_per_gbit: cpu / (delivered * 8.0 / 1e9),
            busy,
            peak,
            wire,
        }
    }
}

/// The column that has the greatest value of the runs instead of the median.
const WORST: &str = "worst / T*";

/// What a column has to say of a run.
type Column = fn(&Case, &Figures) -> Option<f64>;

/// The columns of the first table, and what is in them.
const TIMES: [(&str, Column); 10] = [
    ("last s", |_, f| Some(f.last)),
    ("/ T*", |_, f| f.ratio),
    (WORST, |_, f| f.ratio),
    ("p50 s", |_, f| Some(f.median)),
    ("first fetch s", |_, f| f.first_fetch),
    ("MB/s each", |c, f| Some(c.bytes as f64 / 1e6 / f.last)),
    ("publisher copies", |_, f| f.copies),
    ("WAN copies, most", |_, f| (!f.wan_copies.is_empty()).then(|| greatest(&f.wan_copies))),
    ("extra bytes %", |_, f| f.extra.map(|e| e * 100.0)),
    ("twice by own count %", |_, f| f.twice.map(|t| t * 100.0)),
];

/// The columns of the second table.
const COSTS: [(&str, Column); 7] = [
    ("busiest link MB", |_, f| f.busiest.as_ref().map(|(_, b)| *b as f64 / 1e6)),
    ("all links MB", |_, f| f.total.map(|t| t as f64 / 1e6)),
    ("CPU s", |_, f| Some(f.cpu)),
    ("CPU s/GiB", |_, f| Some(f.cpu_per_gib)),
    ("CPU s/Gbit", |_, f| Some(f.cpu_per_gbit)),
    ("machine busy s", |_, f| Some(f.busy)),
    ("peak RSS MB", |_, f| Some(f.peak as f64 / 1e6)),
];

impl Case {
    /// What it is, in words.
    #[must_use]
    pub fn title(&self) -> String {
        let receivers = self.nodes.saturating_sub(1);
        let mut text = format!("{} to {receivers}", size(self.bytes));
        match self.mbit {
            Some(mbit) => text.push_str(&format!(" at {mbit} Mbit/s")),
            None => text.push_str(" over loopback"),
        }
        if self.sites > 1 {
            text.push_str(&format!(", {} sites", self.sites));
            if let Some(mbit) = self.wan_mbit {
                text.push_str(&format!(", WAN {mbit} Mbit/s, {} ms to the core", self.wan_ms));
            }
        }
        text
    }

    /// What all receivers take in together if they are done in T*, in bit/s.
    #[must_use]
    pub fn delivered(&self) -> Option<f64> {
        let receivers = self.nodes.saturating_sub(1) as f64;
        self.bound.as_ref().map(|b| receivers * self.bytes as f64 * 8.0 / b.seconds)
    }

    /// T*, and why.
    #[must_use]
    pub fn words(&self) -> String {
        let (Some(bound), Some(line), Some(links)) = (&self.bound, &self.line, &self.goodput)
        else {
            return format!("{} bytes.", self.bytes);
        };
        let mbit = |bytes: f64| bytes * 8.0 / 1e6;
        let wan = links.sites.first().map(|s| format!(", {:.2} of the WAN", mbit(s.wan_in)));
        let together = self.delivered().unwrap_or(0.0) / 1e6;
        format!(
            "{} bytes. T* = {:.2} s: {}, at the {:.2} Mbit/s that TCP gets of a link when all send and receive{} (at line rate {:.2} s). In T* all together take in {together:.0} Mbit/s.",
            self.bytes,
            bound.seconds,
            bound.term,
            mbit(links.up),
            wan.unwrap_or_default(),
            line.seconds,
        )
    }
}

impl Runs {
    /// The tables of what it took and what it cost: of each method the median over its runs, and its
    /// worst time.
    #[must_use]
    pub fn tables(&self) -> [Table; 2] {
        [self.table(&TIMES), self.table(&COSTS)]
    }

    fn table(&self, columns: &[(&str, Column)]) -> Table {
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let mut table = Table::new(self.case.title(), &names);
        for method in self.methods() {
            let good: Vec<&Figures> = self.figures(method).collect();
            let row: Vec<f64> = columns
                .iter()
                .map(|(name, of)| {
                    let all: Vec<f64> = good.iter().filter_map(|f| of(&self.case, f)).collect();
                    match all.as_slice() {
                        [] => f64::NAN,
                        all if *name == WORST => greatest(all),
                        all => median(all),
                    }
                })
                .collect();
            let name = match good.len() {
                0 => format!("{method}, failed"),
                1 => method.to_string(),
                runs => format!("{method}, {runs} runs"),
            };
            table.row(&name, &row);
        }
        table.without_empty_columns()
    }

    /// The methods, in the order in which they ran.
    #[must_use]
    pub fn methods(&self) -> Vec<Method> {
        let mut methods: Vec<Method> = self.records.iter().map(|r| r.method).collect();
        methods.sort();
        methods.dedup();
        methods
    }

    /// What the runs of a method gave.
    pub fn figures(&self, method: Method) -> impl Iterator<Item = &Figures> {
        self.records.iter().filter(move |r| r.method == method).filter_map(|r| r.figures.as_ref())
    }

    /// Table and words, for the documentation.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n{}\n\n", self.case.title(), self.case.words());
        for table in self.tables() {
            // The title is above it already.
            let table = table.markdown();
            text.push_str(table.split_once("\n\n").map_or(table.as_str(), |(_, rest)| rest));
            text.push('\n');
        }
        let failed = self.records.iter().filter_map(|r| Some((r, r.failed.as_ref()?)));
        let failed =
            failed.map(|(r, why)| format!("- {}, run {}: {}\n", r.method, r.run, flat(why)));
        let failed: String = failed.collect();
        if !failed.is_empty() {
            text.push_str(&format!("Without a result:\n\n{failed}"));
        }
        text
    }
}

/// One line, and not too long.
fn flat(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}

/// A number of bytes as people say it; what a package has besides its content is not said.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("MB", 1_000_000)];
    // A .deb is a few kB longer than what is in it.
    let near = |unit: u64| bytes >= unit && bytes % unit <= 32_768;
    let (name, unit) = units.into_iter().find(|(_, u)| near(*u)).unwrap_or(("bytes", 1));
    format!("{} {name}", bytes / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> Case {
        let links = Links { up: 1e6, down: 1e6, sites: Vec::new() };
        let bound = super::super::bound::bound(10_000_000, 2, &links);
        Case {
            bytes: 10_000_000,
            nodes: 3,
            mbit: Some(8),
            sites: 2,
            wan_mbit: Some(4),
            wan_ms: 5,
            goodput: Some(links),
            bound: Some(bound.clone()),
            line: Some(bound),
        }
    }

    #[test]
    fn figures_are_what_was_measured_in_the_units_of_the_file() {
        let full = |copies: u64| Count { bytes: copies * 10_000_000 + 66 * 100, packets: 100 };
        let wire = Wire {
            up: vec![full(1), full(1), Count::default()],
            down: vec![Count::default(), full(1), Count { bytes: 10_400_066, packets: 1 }],
            wan_in: vec![full(3), full(1)],
            wan_out: vec![full(1), full(0)],
        };
        let outcome = Outcome {
            times: vec![11.0, 20.0],
            first_fetch: Some(0.25),
            twice: Some(200_000),
            cpu: 4.0,
            busy: 5.0,
            peak: 7,
            wire: Some(wire),
        };
        let figures = Figures::new(&case(), Method::P2pinst, outcome);
        assert_eq!((figures.last, figures.median), (20.0, 20.0));
        assert_eq!(figures.ratio, Some(2.0));
        assert_eq!(figures.copies, Some(1.0));
        assert_eq!(figures.wan_copies, [1.0]);
        assert!((figures.extra.unwrap() - 0.02).abs() < 1e-9, "{figures:?}");
        assert_eq!(figures.twice, Some(0.01));
        assert_eq!(figures.busiest, Some(("WAN of s1 in".to_owned(), 30_006_600)));
        assert!((figures.cpu_per_gbit - 25.0).abs() < 1e-9);
        let record =
            Record { method: Method::P2pinst, run: 1, failed: None, figures: Some(figures) };
        let failed = Record {
            method: Method::Nginx,
            run: 1,
            failed: Some("no\nnginx".to_owned()),
            figures: None,
        };
        let runs = Runs { case: case(), records: vec![record, failed] };
        let again: Runs = serde_json::from_str(&serde_json::to_string(&runs).unwrap()).unwrap();
        let text = again.markdown();
        assert!(text.contains("|       p2pinst |   20.0 |"), "{text}");
        assert!(text.contains("- nginx, run 1: no nginx"), "{text}");
        assert!(text.contains("T* = 10.00 s"), "{text}");
    }

    #[test]
    fn sizes_are_said_as_they_were_asked_for() {
        assert_eq!(size((64 << 20) + 1_234), "64 MiB");
        assert_eq!(size(30_000_000 + 900), "30 MB");
        assert_eq!(size(1_000_000_000 + 900), "1000 MB");
        assert_eq!(size((1 << 30) + 900), "1 GiB");
        assert_eq!(size(1_500), "1500 bytes");
    }
}
