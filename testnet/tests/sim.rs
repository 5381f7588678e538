//! The simulator: what must hold whatever happens. A failure prints the seed; `testnet sim run
//! --seed N` is the same again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, which is what it is for"
)]

#[path = "sim/swarm.rs"]
mod swarm;

use p2pinst_testnet::sim::full::{Options, Report, run};
use p2pinst_testnet::sim::light::{Death, Scale, lose, measure};
use p2pinst_testnet::sim::trace::Trace;

fn must(options: Options) -> Report {
    run(options, Trace::default()).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Everything goes wrong that can. 14: a disk that fails while it syncs, and has kept what it failed
/// to confirm. 106: all replicas of a record change while its writer is down.
#[test]
fn fixed_seeds() {
    for seed in [1, 2, 3, 14, 106] {
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

/// A failure tells the check, the seed, and how to see it again.
#[test]
fn a_failure_can_be_seen_again() {
    // three machines are left: no record finds a majority of eight any more
    let fair = Options::fair(1).accidents;
    let hopeless = |seed| Options { lost: 13, accidents: fair, ..Options::storm(seed) };
    let failure = (1..=5).find_map(|seed| run(hopeless(seed), Trace::default()).err());
    let failure = failure.expect("all but three machines are gone, and nothing is missed");
    let told = failure.to_string();
    assert!(told.contains(failure.check) && told.contains("sim run --seed"), "{told}");
    let again = run(failure.options, Trace::default()).expect_err("it fails again");
    assert_eq!((again.trace, again.at), (failure.trace, failure.at));
}

/// 30 % die at once: of what was written and handed on nothing is lost that a majority could keep.
#[test]
fn anytime_nothing_is_lost_while_a_majority_lives() {
    for seed in 1..=3 {
        for drained in [true, false] {
            let lost = lose(&Death { seed, nodes: 100, records: 10, percent: 30, drained });
            assert_eq!((lost.cells, lost.too_early), (1000, 0), "seed {seed}: {lost:?}");
        }
        // the other side: that the loss is seen when it must come
        let lost = lose(&Death { seed, nodes: 20, records: 5, percent: 95, drained: true });
        assert!(lost.lost > 0, "seed {seed}: {lost:?}");
    }
}

#[test]
fn a_large_cluster_is_measured_and_the_same_again() {
    let scale = Scale { reported: 1, ..Scale::of(150, 5) };
    let (first, second) = (measure(&scale, |_| {}).unwrap(), measure(&scale, |_| {}).unwrap());
    assert_eq!(first.json(), second.json());
    let rows = first.json()["rows"].clone();
    let value = |what: &str| {
        let row = rows.as_array().unwrap().iter().find(|r| r["row"].as_str() == Some(what));
        row.and_then(|r| r["value"].as_f64()).unwrap_or_else(|| panic!("no row {what:?}"))
    };
    assert!(value("publish, s to the last node: most") <= 5.0, "{rows}");
    assert!(value("partition of an hour heals, s until all have all") <= 60.0, "{rows}");
    assert_eq!(value("publications that did not reach all"), 0.0);
}
