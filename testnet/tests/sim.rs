//! The simulator: what must hold whatever happens. A failure prints the seed; `testnet sim run
//! --seed N` is the same again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed, which is what it is for"
)]

use p2pinst_testnet::sim::full::{Options, Report, run};
use p2pinst_testnet::sim::trace::Trace;

fn must(options: Options) -> Report {
    run(options, Trace::default()).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn fixed_seeds() {
    for seed in 1..=4 {
        must(Options::storm(seed));
    }
}

/// Another seed each time: it is printed, and told with a failure.
#[test]
fn a_fresh_seed() {
    let seed = p2pinst_trust::key::random_u64().unwrap() >> 16;
    println!("seed {seed}");
    must(Options::storm(seed));
}

#[test]
fn one_seed_is_one_course_of_events() {
    let first = must(Options::storm(7));
    assert_eq!(must(Options::storm(7)), first);
    assert_ne!(must(Options::storm(8)).trace, first.trace);
}

#[test]
fn in_fair_weather_all_agree_at_once() {
    let report = must(Options::fair(1));
    assert!(report.agreed <= 1.0, "{report:?}");
}
