//! A clock that is an hour wrong: the machine works, and says so.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::{Invite, Node, eventually};

use crate::harness::{SOON, deb, publish_to_all, scenario, skipped};

/// Where Debian puts the library behind `faketime`.
pub(crate) fn library() -> Option<String> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let file = format!("/usr/lib/{triple}/faketime/libfaketimeMT.so.1");
    Path::new(&file).exists().then_some(file)
}

/// Sets the clock of a machine wrong, and leaves the passing of time alone.
pub(crate) fn set_wrong(node: &Node, by: &str) -> Result<()> {
    node.set_env("LD_PRELOAD", &library().context("faketime is not installed")?);
    node.set_env("FAKETIME", by);
    node.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    node.set_env("DONT_FAKE_MONOTONIC", "1");
    Ok(())
}

/// One node's clock is wrong from the start; everybody publishes in turn.
fn wrong_clock(number: usize, by: &str) {
    if library().is_none() {
        return skipped("`faketime` is missing: apt-get install faketime");
    }
    scenario(4, |lab| {
        let [n1, wrong] = [lab.node(1)?, lab.node(number)?];
        set_wrong(wrong, by)?;
        lab.form(4, &Invite::default())?;
        let other = lab.node(if number == 1 { 2 } else { number })?;
        n1.share_power(other)?;
        for (version, publisher) in [("1.0", n1), ("1.1", other), ("1.2", n1)] {
            let file = deb(lab, "timely", version)?;
            publish_to_all(publisher, &file, &["--wait"]).run()?.ok()?;
            for node in lab.nodes() {
                node.installs("timely", version, SOON)?;
            }
        }
        eventually(SOON, "the machine says that its clock is wrong", || {
            let log = wrong.log_text().to_lowercase();
            ensure!(log.lines().any(|l| l.contains("clock")), "no word on the clock in its log");
            Ok(())
        })
    });
}

#[test]
fn anytime_a_clock_an_hour_ahead_does_no_harm() {
    wrong_clock(3, "+1h");
}

#[test]
fn anytime_a_clock_an_hour_behind_does_no_harm() {
    wrong_clock(3, "-1h");
}

#[test]
fn anytime_the_first_clock_an_hour_ahead_does_no_harm() {
    wrong_clock(1, "+1h");
}

#[test]
fn anytime_the_first_clock_an_hour_behind_does_no_harm() {
    wrong_clock(1, "-1h");
}
