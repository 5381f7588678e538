//! What a whole measurement gave: as a document, as JSON, and as pictures.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::method::Method;
use super::plot::{Curve, Plot};
use super::record::Runs;
use super::{Options, bound};
use crate::bench::median;
use crate::exec::{Exec, run};

/// All that was measured, and on what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The machine and the versions, in words.
    pub about: Vec<String>,
    /// The cases, in the order in which they ran.
    pub cases: Vec<Runs>,
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        let mut about = about();
        about.extend(options.rivals.iter().filter_map(|m| m.version()));
        Self { about, cases: Vec::new() }
    }

    pub(super) fn add(&mut self, runs: Runs) {
        self.cases.push(runs);
    }

    /// The methods of all cases.
    fn methods(&self) -> Vec<Method> {
        let mut methods: Vec<Method> = self.cases.iter().flat_map(Runs::methods).collect();
        methods.sort();
        methods.dedup();
        methods
    }

    /// The document.
    #[must_use]
    pub fn markdown(&self) -> String {
        let cases: Vec<String> = self.cases.iter().map(Runs::markdown).collect();
        format!("{}.\n\n{}", self.about.join("; "), cases.join("\n"))
    }

    /// The pictures: a name for each, and the picture.
    #[must_use]
    pub fn plots(&self) -> Vec<(String, String)> {
        let mut plots = Vec::new();
        let mut sizes: BTreeMap<u64, Vec<&Runs>> = BTreeMap::new();
        let mut nodes: BTreeMap<usize, Vec<&Runs>> = BTreeMap::new();
        for runs in &self.cases {
            // Packages of one size differ by a few bytes.
            sizes.entry(runs.case.bytes >> 16).or_default().push(runs);
            nodes.entry(runs.case.nodes).or_default().push(runs);
        }
        let sizes = sizes.into_values().filter(|r| r.len() > 1);
        for (number, runs) in sizes.enumerate() {
            let x = |r: &Runs| r.case.nodes.saturating_sub(1) as f64;
            let title = runs.first().map(|r| size_words(r)).unwrap_or_default();
            plots.push((format!("nodes-{}", number + 1), self.plot(&title, "receivers", &runs, x)));
        }
        let nodes = nodes.into_iter().filter(|(_, r)| r.len() > 1);
        for (number, (count, runs)) in nodes.enumerate() {
            let x = |r: &Runs| r.case.bytes as f64 / 1e6;
            let title = format!("to {} receivers", count.saturating_sub(1));
            plots.push((format!("size-{}", number + 1), self.plot(&title, "MB", &runs, x)));
        }
        plots
    }

    fn plot(&self, title: &str, axis: &str, runs: &[&Runs], x: impl Fn(&Runs) -> f64) -> String {
        let mut runs = runs.to_vec();
        runs.sort_by(|a, b| x(a).total_cmp(&x(b)));
        let of = |method: Method| {
            let point = |r: &&Runs| {
                let times: Vec<f64> = r.figures(method).map(|f| f.last).collect();
                (!times.is_empty()).then(|| (x(r), median(&times)))
            };
            Curve {
                name: method.to_string(),
                points: runs.iter().filter_map(point).collect(),
                bound: false,
            }
        };
        let mut curves: Vec<Curve> = self.methods().into_iter().map(of).collect();
        curves.retain(|c| !c.points.is_empty());
        let bound =
            |r: &&Runs| Some((x(r), r.case.bound.as_ref().map(|b: &bound::Bound| b.seconds)?));
        let bounds: Vec<(f64, f64)> = runs.iter().filter_map(bound).collect();
        if !bounds.is_empty() {
            curves.push(Curve { name: "T* (bound)".to_owned(), points: bounds, bound: true });
        }
        Plot {
            title: format!("Seconds to the last receiver, {title}"),
            x: axis.to_owned(),
            y: "s".to_owned(),
            curves,
        }
        .svg()
    }

    /// Writes all of it into a directory.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let write = |file: String, text: &str| {
            let path = dir.join(file);
            let temp = path.with_extension("tmp");
            fs::write(&temp, text)
                .and_then(|()| fs::rename(&temp, &path))
                .with_context(|| format!("cannot write {}", path.display()))
        };
        for (plot, svg) in self.plots() {
            write(format!("{name}-{plot}.svg"), &svg)?;
        }
        write(format!("{name}.md"), &self.markdown())?;
        let json = serde_json::to_string_pretty(self).context("cannot encode the results")?;
        write(format!("{name}.json"), &(json + "\n"))
    }
}

/// The machine, the time and the version, in words.
pub(in crate::bench) fn about() -> Vec<String> {
    let words = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut about = vec![
        format!(
            "Linux {}, {cores} processors, congestion control {}, load average before {}",
            words("/proc/sys/kernel/osrelease").trim(),
            words("/proc/sys/net/ipv4/tcp_congestion_control").trim(),
            words("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        ),
        run("date", ["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default().trim().to_owned(),
    ];
    let own = crate::bins::Bins::find().ok().and_then(|bins| {
        Some(Exec::new(bins.cli).arg("--version").run().ok()?.stdout.trim().to_owned())
    });
    about.extend(own);
    about
}

fn size_words(runs: &Runs) -> String {
    let mut case = runs.case.clone();
    case.nodes = 1;
    case.title().replace(" to 0", "")
}

/// Reads a size: a number of bytes, or one with kB, MB, GB, KiB, MiB or GiB.
///
/// # Errors
/// When it is none, or zero.
pub fn size(text: &str) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => bail!("`{other}` is no unit: write kB, MB, GB, KiB, MiB or GiB"),
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    bytes.filter(|b| *b > 0).with_context(|| format!("`{text}` is no size: write it as in 64MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(size("64MiB").unwrap(), 64 << 20);
        assert_eq!(size("30MB").unwrap(), 30_000_000);
        assert_eq!(size("7").unwrap(), 7);
        for wrong in ["", "0", "MiB", "3 miles", "99999999999GiB", "-1"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
