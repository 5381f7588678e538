//! One file to many nodes: how near the bound, and what faults do. `testnet sim swarm` has the same at
//! full size.

use p2pinst_testnet::sim::swarm::{Bad, Fault, Plan, Report, Share};

/// Runs it; a failure tells the seed.
fn run(plan: &Plan) -> Report {
    let report = plan.run().unwrap_or_else(|failure| panic!("{failure:#}"));
    println!(
        "seed {}: last {:.3} of the bound, p50 {:.3}, publisher {:.3}, wan {:.3?}, wasted {:.4}, refused {}, starved {}, replaced {}",
        plan.seed,
        report.ratio(1.0),
        report.ratio(0.5),
        report.publisher,
        report.wan,
        report.wasted(),
        report.refused,
        report.starved,
        report.dropped,
    );
    report
}

fn check(plan: &Plan, most: f64) -> Report {
    let report = run(plan);
    let (seed, ratio, wasted) = (plan.seed, report.ratio(1.0), report.wasted());
    assert!(ratio <= most, "seed {seed}: {ratio:.3} times the bound");
    assert!(wasted <= 0.01, "seed {seed}: {wasted:.4} duplicates");
    // no busy loop: a few steps for each piece and source
    let steps = report.most_steps;
    assert!(steps <= 100.0, "seed {seed}: {steps:.0} steps for each piece");
    report
}

#[test]
fn one_to_seven() {
    for share in [Share::Fair, Share::Fifo, Share::Unfair] {
        for seed in 1..=2 {
            let report = check(&Plan { share, ..Plan::new(7, 1024, seed) }, 1.05);
            assert!(report.publisher <= 1.1, "seed {seed}: {} copies", report.publisher);
        }
    }
}

#[test]
fn one_to_sixty_on_slow_links() {
    let plan = Plan { rate: (10.0, 10.0), start: 300.0, ..Plan::new(60, 458, 3) };
    let report = check(&plan, 1.15);
    assert!(report.publisher <= 1.15, "{} copies", report.publisher);
}

#[test]
fn one_to_one_takes_no_longer_than_the_link() {
    check(&Plan::new(1, 300, 1), 1.05);
    // far away: the pipeline has to fill the path
    check(&Plan { delay: (25.0, 25.0), queue: 0.0, ..Plan::new(1, 1000, 1) }, 1.15);
}

#[test]
fn one_seed_is_one_course_of_events() {
    let plan = Plan { share: Share::Unfair, ..Plan::new(12, 100, 5) };
    assert_eq!(run(&plan), run(&plan));
    assert_ne!(run(&plan).done, run(&Plan { seed: 6, ..plan }).done);
}

#[test]
fn one_copy_to_each_site() {
    for seed in 1..=2 {
        let report = check(&Plan { sites: 4, ..Plan::new(23, 512, seed) }, 1.15);
        let most = report.most_wan();
        assert!(most <= 1.05, "seed {seed}: {most:.3} copies over one WAN");
        assert_eq!(report.wan[0], 0.0, "nothing comes back to the publisher's site");
    }
}

/// The WAN links of the runs in which a piece takes many seconds, and is not to be taken for lost.
fn slow_wan(sites: u8, nodes: u32, copies: f64, go: impl Fn(&Plan) -> Report) {
    for wan in [1.0, 2.0, 5.0] {
        for seed in 1..=3 {
            let most = go(&Plan { sites, wan, ..Plan::new(nodes, 128, seed) }).most_wan();
            assert!(most <= copies, "{wan} Mbit/s, seed {seed}: {most:.3} copies over one WAN");
        }
    }
}

#[test]
fn about_one_copy_to_each_site_on_slow_wan_links() {
    slow_wan(4, 11, 1.15, |plan| check(plan, 1.25));
}

#[test]
fn not_much_more_than_one_copy_to_each_large_site_on_slow_wan_links() {
    slow_wan(3, 59, 1.35, |plan| {
        let report = run(plan);
        assert!(report.time(1.0) <= 1.5 * report.bound, "{:?}", report.done);
        report
    });
}

#[test]
fn anytime_the_holders_of_leases_die() {
    let faults = vec![(4.0, Fault::KillGateways { site: 1, but: 2 })];
    let report = check(&Plan { sites: 4, faults, ..Plan::new(23, 512, 1) }, 1.5);
    // what they had brought and not yet passed on comes once more
    assert!(report.most_wan() <= 1.2, "{:?}", report.wan);
}

/// The last of so many sites is cut off for six seconds, in so many courses of events.
fn cut_off(sites: u8, nodes: u32, seeds: u64) {
    let site = sites - 1;
    let faults = vec![(3.0, Fault::Cut(site)), (9.0, Fault::Heal(site))];
    for seed in 1..=seeds {
        let faults = faults.clone();
        let report = run(&Plan { sites, faults, ..Plan::new(nodes, 256, seed) });
        assert!(report.time(1.0) <= 9.0 + 2.0 * report.bound, "seed {seed}: {:?}", report.done);
        // what was asked for before the cut comes after it, and has been asked of others meanwhile
        assert!(report.most_wan() <= 1.1, "seed {seed}: {:?}", report.wan);
    }
}

#[test]
fn finally_a_site_that_was_cut_off_has_all() {
    cut_off(3, 17, 6);
}

#[test]
fn finally_a_large_site_that_was_cut_off_has_all() {
    // more members than gateways
    cut_off(2, 49, 3);
}

#[test]
fn anytime_half_of_the_nodes_die() {
    let faults = vec![(1.5, Fault::KillPart(0.5))];
    let report = run(&Plan { faults, ..Plan::new(20, 512, 2) });
    assert_eq!(report.done.len(), 10);
    assert!(report.ratio(1.0) <= 2.6, "{:.3}", report.ratio(1.0));
}

#[test]
fn finally_all_have_it_although_the_publisher_dies() {
    let faults = vec![(0.0, Fault::KillPublisherAfterFirstCopy)];
    let report = run(&Plan { faults, ..Plan::new(12, 300, 4) });
    assert!(report.ratio(1.0) <= 2.0, "{:.3}", report.ratio(1.0));
}

#[test]
fn anytime_peers_misbehave() {
    for (bad, most) in [(Bad::Silent, 3.5), (Bad::Garbage, 1.5), (Bad::Busy, 1.5), (Bad::Slow, 3.5)]
    {
        let report = run(&Plan { bad: vec![(3, bad)], ..Plan::new(12, 512, 1) });
        assert_eq!(report.done.len(), if bad == Bad::Slow { report.done.len() } else { 11 });
        assert!(report.ratio(1.0) <= most, "{bad:?}: {:.3}", report.ratio(1.0));
        assert!(report.wasted() <= 0.03, "{bad:?}: {:.4}", report.wasted());
    }
}

#[test]
fn finally_a_late_node_catches_up() {
    let late = vec![(7, 3.0)];
    let report = run(&Plan { late, ..Plan::new(7, 512, 1) });
    assert!(report.time(1.0) <= 3.0 + 1.3 * report.bound, "{:?}", report.done);
    // and when the publisher is gone before it begins
    let (late, faults) = (vec![(7, 8.0)], vec![(6.0, Fault::Kill(0))]);
    let report = run(&Plan { late, faults, ..Plan::new(7, 512, 1) });
    assert!(report.time(1.0) <= 8.0 + 1.3 * report.bound, "{:?}", report.done);
}
