//! What every scenario needs: a lab of its own, a turn, and a report when it fails.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use p2pinst_testnet::exec::Exec;
use p2pinst_testnet::ready::{why_no_namespaces, why_not_installed};
use p2pinst_testnet::{Deb, Invite, Lab, LabOptions, Node, registry};

/// What happens at once on an idle machine has this long on a busy one.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// What needs retries, time-outs of peers or slow links has this long.
pub(crate) const LATER: Duration = Duration::from_secs(90);

/// Plays a scenario on a lab with that many hosts.
pub(crate) fn scenario(hosts: usize, play: impl FnOnce(&Lab) -> Result<()>) {
    scenario_in(&LabOptions::hosts(hosts), play);
}

/// The same in such a lab.
pub(crate) fn scenario_in(options: &LabOptions, play: impl FnOnce(&Lab) -> Result<()>) {
    if let Some(why) = why_no_namespaces() {
        return skipped(&why);
    }
    let turn = Turn::take().expect("a turn");
    let lab = Lab::create(options).expect("a lab");
    if let Err(why) = play(&lab) {
        let logs = lab.log_tails(60);
        drop(lab);
        panic!("{why:#}\n{logs}");
    }
    lab.destroy().expect("nothing is left over");
    drop(turn);
}

/// Plays a scenario on a cluster of that many nodes, all of which see each other.
pub(crate) fn cluster(nodes: usize, play: impl FnOnce(&Lab) -> Result<()>) {
    scenario(nodes, |lab| {
        lab.form(nodes, &Invite::default())?;
        play(lab)
    });
}

/// Whether a program is missing, which is said.
pub(crate) fn lacks(program: &str, package: &str) -> bool {
    let why = why_not_installed(program, package);
    if let Some(why) = &why {
        skipped(why);
    }
    why.is_some()
}

/// Says that a test was skipped, past the test runner, which hides what passing tests print.
pub(crate) fn skipped(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    writeln!(io::stderr(), "SKIPPED {test}: {why}").ok();
}

/// A small package in the lab's directory.
pub(crate) fn deb(lab: &Lab, name: &str, version: &str) -> Result<PathBuf> {
    Deb::new(name, version).build(lab.dir())
}

/// `publish FILE --group all --urgent` with more arguments.
pub(crate) fn publish_to_all(node: &Node, file: &Path, args: &[&str]) -> Exec {
    let limit = Duration::from_secs(120);
    node.cli(["publish"]).arg(file).args(["--group", "all", "--urgent"]).args(args).limit(limit)
}

/// Several tests run at once, and so may several runs: no more labs than processors.
pub(crate) struct Turn(#[expect(dead_code, reason = "held for its lock")] File);

impl Turn {
    pub(crate) fn take() -> Result<Self> {
        let dir = registry::dir()?.join("turns");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let turns = thread::available_parallelism().map_or(2, |n| n.get().max(2));
        let files = (0..turns)
            .map(|i| File::create(dir.join(i.to_string())))
            .collect::<io::Result<Vec<_>>>()
            .with_context(|| format!("cannot write into {}", dir.display()))?;
        loop {
            for file in &files {
                if file.try_lock().is_ok() {
                    return Ok(Self(file.try_clone()?));
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
