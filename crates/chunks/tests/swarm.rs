//! Whole swarms in virtual time: how close to the bound, and what faults do to them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test outside of #[test] functions"
)]

mod sim;

use std::time::Duration;

use sim::{Plan, Report, Sim};

fn show(name: &str, plan: &Plan, report: &Report) -> f64 {
    let last = report.done.values().copied().fold(0.0, f64::max);
    let ratio = last / plan.bound();
    println!(
        "{name} seed {}: last {last:.2} s, ratio {ratio:.3}, copies from source {:.3}, duplicates {:.4}, refused {}, deepest {}, steps {}, starved {}",
        plan.seed,
        report.copies_from_source,
        report.duplicates as f64 / report.pieces as f64,
        report.refused,
        report.deepest,
        report.steps,
        report.starved,
    );
    ratio
}

/// Runs a plan with a few seeds; nothing may be lost, and the last node must be in time.
fn check(name: &str, most: f64, plan: impl Fn(u64) -> Plan) {
    for seed in 1..=3 {
        let plan = plan(seed);
        let report = Sim::new(plan.clone()).run();
        let ratio = show(name, &plan, &report);
        assert!(ratio <= most, "{name}, seed {seed}: {ratio:.3} times the bound");
        let wasted = report.duplicates as f64 / report.pieces as f64;
        assert!(wasted <= 0.03, "{name}, seed {seed}: {wasted:.3} duplicates");
    }
}

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

#[test]
fn seven_peers() {
    check("7 peers", 1.1, |seed| Plan::lan(7, seed));
}

#[test]
fn nineteen_peers() {
    check("19 peers", 1.15, |seed| Plan::lan(19, seed));
}

#[test]
fn seven_peers_on_unfair_links() {
    check("7 peers, unfair", 1.15, |seed| Plan { fair: false, ..Plan::lan(7, seed) });
}

#[test]
fn seven_peers_with_late_word_of_pieces() {
    check("7 peers, 200 ms", 1.2, |seed| Plan { have_delay: secs(0.2), ..Plan::lan(7, seed) });
}

#[test]
fn seven_peers_on_fast_and_slow_links() {
    check("7 peers, 1 Gbit/s", 1.35, |seed| Plan { rate: 1e9 / 8.0, ..Plan::lan(7, seed) });
    check("7 peers, 10 Mbit/s", 1.1, |seed| Plan { rate: 1e7 / 8.0, ..Plan::lan(7, seed) });
    check("7 peers, 1 Mbit/s, 4 MiB", 1.35, |seed| Plan {
        rate: 1e6 / 8.0,
        len: 4 << 20,
        ..Plan::lan(7, seed)
    });
}

#[test]
fn seven_peers_over_a_wan() {
    check("7 peers, 40 ms", 1.25, |seed| Plan { latency: secs(0.02), ..Plan::lan(7, seed) });
}

#[test]
fn seven_peers_of_a_plain_source() {
    check("7 peers, not seeded", 1.3, |seed| Plan { super_seed: false, ..Plan::lan(7, seed) });
}

#[test]
fn small_packages() {
    // one piece: everybody asks the source at once, and that is soonest
    check("20 KB to 19 peers", 25.0, |seed| Plan { len: 20_000, ..Plan::lan(19, seed) });
    check("4 MB to 7 peers", 1.35, |seed| Plan { len: 4_000_000, ..Plan::lan(7, seed) });
}

#[test]
fn anytime_peers_killed() {
    check("7 peers, 2 killed", 1.35, |seed| Plan {
        kills: vec![(2, secs(1.5)), (5, secs(3.0))],
        ..Plan::lan(7, seed)
    });
    check("19 peers, 5 killed", 1.35, |seed| Plan {
        kills: (1..6).map(|n| (n, secs(n as f64 * 0.8))).collect(),
        ..Plan::lan(19, seed)
    });
}

#[test]
fn anytime_peers_frozen() {
    check("7 peers, 1 frozen", 1.35, |seed| Plan {
        freezes: vec![(3, secs(2.0))],
        ..Plan::lan(7, seed)
    });
}

#[test]
fn anytime_a_peer_sends_bad_bytes() {
    check("7 peers, 1 liar", 1.35, |seed| Plan { liars: vec![4], ..Plan::lan(7, seed) });
    let report = Sim::new(Plan { liars: vec![4], ..Plan::lan(7, 1) }).run();
    assert_eq!(report.bans.len(), 6, "everybody else bans it: {:?}", report.bans);
}

#[test]
fn eventually_a_late_peer_catches_up() {
    // it cannot be faster than its own link: 4.5 s and the bound
    check("7 peers, one late", 1.9, |seed| Plan {
        late: vec![(7, secs(4.5))],
        ..Plan::lan(7, seed)
    });
}

#[test]
fn finally_a_late_peer_is_served_by_peers_alone() {
    check("the source is gone", 2.6, |seed| Plan {
        kills: vec![(0, secs(7.0))],
        late: vec![(7, secs(8.0))],
        ..Plan::lan(7, seed)
    });
}
