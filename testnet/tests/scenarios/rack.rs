//! Blank machines at once: a scout on each, as `testnet bench image` runs them, small.

use p2pinst_testnet::bench::image::{Options, measure};
use p2pinst_testnet::ready::why_no_namespaces;

use crate::harness::{Turn, lacks, skipped};

const SIZE: u64 = 16 << 20;

#[test]
fn eventually_blank_machines_have_an_image_and_then_its_second_version() {
    if let Some(why) = why_no_namespaces() {
        return skipped(&why);
    }
    if lacks("losetup", "mount") || lacks("sfdisk", "fdisk") {
        return;
    }
    let _turn = Turn::take().expect("a turn");
    // that the disks are what was published is looked at within
    let report = measure(&Options {
        size: SIZE,
        machines: vec![2],
        mbit: 100,
        runs: 1,
        changed: 5,
        below: None,
    });
    let report = report.expect("all machines are installed, twice");
    let run = &report.cases[0].runs[0];
    assert_eq!(run.first.machines.len(), 2, "{run:?}");
    for machine in &run.first.machines {
        assert_eq!(machine.received - machine.duplicate, SIZE, "nothing was there: {machine:?}");
    }
    let second = run.second.as_ref().expect("a second version");
    for machine in &second.install.machines {
        assert!(machine.local >= SIZE * 85 / 100, "{machine:?}");
    }
    // of so small an image the first MiB, which always comes, is 6 %
    assert!(second.most <= 0.2, "{second:?}");
}
