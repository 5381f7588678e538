//! Whole swarms in virtual time: how close to the bound, and what faults do to them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test outside of #[test] functions"
)]

mod sim;

use sim::{Plan, Report, Sim};

fn show(name: &str, plan: &Plan, report: &Report) -> f64 {
    let last = report.done.values().copied().fold(0.0, f64::max);
    let ratio = last / plan.bound();
    println!(
        "{name} seed {}: last {last:.2} s, ratio {ratio:.3}, copies from source {:.3}, duplicates {:.4}, refused {}, deepest {}, steps {}",
        plan.seed,
        report.copies_from_source,
        report.duplicates as f64 / report.pieces as f64,
        report.refused,
        report.deepest,
        report.steps,
    );
    ratio
}

#[test]
fn explore() {
    for peers in [7, 19] {
        for (factor, seeded, slots, delay, fair) in [
            (2.0, true, 8, 20, true),
            (2.0, false, 8, 20, true),
            (1.0, true, 8, 20, true),
            (4.0, true, 8, 20, true),
            (2.0, true, 2, 20, true),
            (2.0, true, 32, 20, true),
            (2.0, true, 8, 100, true),
            (2.0, true, 8, 20, false),
        ] {
            for seed in 1..3 {
                let mut plan = Plan::lan(peers, seed);
                plan.limits.path_factor = factor;
                plan.super_seed = seeded;
                plan.slots = slots;
                plan.fair = fair;
                plan.have_delay = std::time::Duration::from_millis(delay);
                let report = Sim::new(plan.clone()).run();
                show(
                    &format!("{peers} f{factor} ss{seeded} slots{slots} have{delay} fair{fair}"),
                    &plan,
                    &report,
                );
            }
        }
    }
}
