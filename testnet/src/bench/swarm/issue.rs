//! The whole set: every distribution that p2pinst is judged by, in one run of one command.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::method::Method;
use super::report::Report;
use super::{Between, Options, WanLinks, measure};

const MIB: u64 = 1 << 20;
const MB: u64 = 1_000_000;

/// A part of the set.
#[derive(Debug, Clone)]
struct Part {
    name: &'static str,
    title: &'static str,
    sizes: &'static [u64],
    nodes: &'static [usize],
    between: Between,
    runs: usize,
    rivals: &'static [Method],
}

const ALL: &[Method] = &super::RIVALS;

fn links(mbit: u32) -> Between {
    Between::Links { mbit, wan: None }
}

fn parts() -> Vec<Part> {
    vec![
        Part {
            name: "lan",
            title: "8 hosts at 100 Mbit/s",
            sizes: &[16 * MIB, 64 * MIB, 256 * MIB],
            nodes: &[8],
            between: links(100),
            runs: 3,
            rivals: ALL,
        },
        Part {
            name: "big",
            title: "16 hosts at 50 Mbit/s, a large file",
            sizes: &[1000 * MB],
            nodes: &[16],
            between: links(50),
            runs: 1,
            rivals: ALL,
        },
        Part {
            name: "many",
            title: "More and more hosts at 10 Mbit/s",
            sizes: &[30 * MB],
            nodes: &[2, 11, 21, 41, 61],
            between: links(10),
            runs: 1,
            rivals: ALL,
        },
        Part {
            name: "sites",
            title: "4 sites of 6 hosts",
            sizes: &[64 * MB],
            nodes: &[24],
            between: Between::Links {
                mbit: 100,
                wan: Some(WanLinks { sites: 4, mbit: 20, ms: 25 }),
            },
            runs: 1,
            rivals: ALL,
        },
        Part {
            name: "loopback",
            title: "Two nodes over loopback: what it costs",
            sizes: &[1024 * MIB],
            nodes: &[2],
            between: Between::Loopback,
            runs: 3,
            rivals: &[Method::Rsync, Method::Aria2, Method::Libtorrent],
        },
        Part {
            name: "memory",
            title: "Memory: three nodes over loopback, larger and larger files",
            sizes: &[256 * MIB, 1024 * MIB, 4096 * MIB],
            nodes: &[3],
            between: Between::Loopback,
            runs: 1,
            rivals: &[],
        },
    ]
}

/// The names of the parts.
#[must_use]
pub fn names() -> Vec<&'static str> {
    parts().iter().map(|p| p.name).collect()
}

/// What of the set to run.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Only these parts; those that have no result yet, if none is named.
    pub only: Vec<String>,
    /// Where the results are, and the document will be.
    pub out: PathBuf,
    /// Where the hosts keep their files; the system's temporary directory otherwise.
    pub below: Option<PathBuf>,
    /// No run may take longer.
    pub limit: Duration,
}

/// Runs parts of the set, each written down as soon as it is done, and makes one document of all
/// results that there are. Returns the document.
///
/// # Errors
/// When a part is unknown, there can be no lab, or a file cannot be written.
pub fn run(choice: &Choice) -> Result<String> {
    let known = names();
    for name in &choice.only {
        ensure!(known.contains(&name.as_str()), "`{name}` is none of {}", known.join(", "));
    }
    let mut document = "# The swarm beside its rivals\n\n".to_owned();
    for part in parts() {
        let wanted = match choice.only.as_slice() {
            [] => !file(&choice.out, part.name).exists(),
            only => only.iter().any(|n| n == part.name),
        };
        if wanted {
            eprintln!("== {}: {}", part.name, part.title);
            measure(&part.options(choice))?.save(&choice.out, part.name)?;
        }
        if let Some(report) = read(&choice.out, part.name)? {
            document.push_str(&section(&part, &report));
        }
    }
    let to = choice.out.join("swarm.md");
    fs::write(&to, &document).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(document)
}

impl Part {
    fn options(&self, choice: &Choice) -> Options {
        Options {
            sizes: self.sizes.to_vec(),
            nodes: self.nodes.to_vec(),
            between: self.between.clone(),
            runs: self.runs,
            rivals: self.rivals.to_vec(),
            limit: choice.limit,
            below: choice.below.clone(),
        }
    }
}

fn section(part: &Part, report: &Report) -> String {
    let picture = |(plot, _): &(String, String)| {
        format!("![{}](plots/{}-{plot}.svg)\n\n", part.title, part.name)
    };
    let pictures: String = report.plots().iter().map(picture).collect();
    let command = format!("    testnet bench all-swarm --only {}\n", part.name);
    format!("## {}\n\n{command}\n{}\n{pictures}", part.title, report.markdown())
}

fn file(out: &Path, name: &str) -> PathBuf {
    out.join(format!("{name}.json"))
}

fn read(out: &Path, name: &str) -> Result<Option<Report>> {
    let file = file(out, name);
    if !file.exists() {
        return Ok(None);
    }
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let report = serde_json::from_slice(&text);
    report.map(Some).with_context(|| {
        format!(
            "{} is no result of this version: remove it, or name its part with --only",
            file.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_part_is_named_and_nothing_runs() {
        let choice = Choice {
            only: vec!["lan".to_owned(), "wan".to_owned()],
            out: PathBuf::from("/nowhere"),
            below: None,
            limit: Duration::from_secs(1),
        };
        let why = run(&choice).unwrap_err().to_string();
        assert!(why.contains("`wan` is none of lan, big"), "{why}");
    }

    #[test]
    fn what_is_measured_leaves_the_processors_room() {
        for part in parts() {
            let most = part.nodes.iter().max().copied().unwrap_or(0) as u64;
            match part.between {
                Between::Links { mbit, wan: None } => {
                    let rate = f64::from(mbit) * 1e6 * (most - 1) as f64;
                    assert!(rate <= crate::bench::swarm::PROCESSORS, "{}", part.name);
                }
                _ => assert!(most <= 24, "{}", part.name),
            }
        }
    }
}
