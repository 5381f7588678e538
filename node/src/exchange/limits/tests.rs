use p2pinst_chunks::fetch::place::{Place, SiteTag};
use p2pinst_types::{Limit, NodeId, PublicKey};
use tokio::task::JoinSet;

use super::*;

fn node(n: u8) -> NodeId {
    NodeId(PublicKey([n; 32]))
}

fn rate(bytes: u64) -> Rate {
    Rate::new(bytes).unwrap()
}

fn up(bytes: u64) -> Rates {
    Rates { up: Some(Limit::At(rate(bytes))), ..Rates::default() }
}

const ROOT: Hash = Hash([1; 32]);
const OTHER: Hash = Hash([2; 32]);

fn limits(config: LimitsConfig) -> (Limits, JoinSet<()>) {
    let far = Place::Far(SiteTag(1));
    let places = Places::from_fn(move |n| if *n == node(9) { far } else { Place::Site });
    let limits = Limits::new(config, places);
    let mut tasks = JoinSet::new();
    tasks.spawn(limits.clone().keep_time());
    (limits, tasks)
}

/// How long it takes until so many bytes have passed.
async fn time_of(flow: &Flow, bytes: usize) -> f64 {
    let begun = Instant::now();
    let mut rest = bytes;
    while rest > 0 {
        let now = rest.min(flow.chunk());
        flow.pass(now).await;
        rest -= now;
    }
    begun.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_limited_does_not_wait() {
    let (limits, _tasks) = limits(LimitsConfig::default());
    let flow = limits.flow(Way::Up, node(1), ROOT);
    assert!(flow.is_open());
    assert!(time_of(&flow, 1 << 30).await < 0.001);
    assert_eq!(limits.ahead(&ROOT, 77), 77);
}

#[tokio::test(start_paused = true)]
async fn each_limit_counts_what_falls_under_it() {
    let (limits, _tasks) = limits(LimitsConfig::default());
    limits.set(Rates { wan_up: up(500_000).up, ..up(2_000_000) }, None).unwrap();
    let ordered = Ordered { urgent: false, limit: Some(rate(100_000)) };
    limits.set_orders([(OTHER, ordered)].into());
    let of = |way, peer, root| limits.flow(way, node(peer), root);
    let near = of(Way::Up, 1, ROOT);
    let far = of(Way::Up, 9, ROOT);
    let limited = of(Way::Up, 1, OTHER);
    let down = of(Way::Down, 1, OTHER);
    // a twentieth is left for headers
    let times = tokio::join!(
        time_of(&near, 10_000_000),
        time_of(&far, 2_500_000),
        time_of(&limited, 500_000),
        time_of(&down, 500_000),
    );
    for (time, least, most) in [
        (times.0, 6.0, 8.5), // what the others leave
        (times.1, 5.0, 5.6),
        (times.2, 5.0, 5.6),
        (times.3, 5.0, 5.6),
    ] {
        assert!((least..most).contains(&time), "{times:?}");
    }
    assert_eq!(limits.ahead(&OTHER, 1 << 20), 100_000);
    assert_eq!(limits.ahead(&ROOT, 1 << 20), 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn limits_change_while_bytes_wait_and_who_leaves_waits_no_more() {
    let (limits, _tasks) = limits(LimitsConfig { up: up(16_000).up, ..LimitsConfig::default() });
    let flow = limits.flow(Way::Up, node(1), ROOT);
    let gone = tokio::time::timeout(Duration::from_secs(1), time_of(&flow, 1 << 20)).await;
    assert!(gone.is_err());
    assert_eq!(limits.state().throttle.waiting(), 0);
    assert!(limits.state().waiting.is_empty());
    let (slow, ()) = tokio::join!(time_of(&flow, 1 << 20), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        limits.set(Rates { up: Some(Limit::None), ..Rates::default() }, None).unwrap();
    });
    assert!((9.0..10.5).contains(&slow), "{slow}");
    assert!(flow.is_open());
}

#[tokio::test(start_paused = true)]
async fn what_is_set_for_a_while_covers_the_rest_for_that_long() {
    let (limits, _tasks) = limits(LimitsConfig { up: up(1_000_000).up, ..LimitsConfig::default() });
    let now = || limits.in_force().rates.up.and_then(Limit::rate).map(Rate::bytes);
    let after = |secs| Some(Instant::now() + Duration::from_secs(secs));
    limits.set(up(2_000_000), after(100)).unwrap();
    limits.set(up(3_000_000), None).unwrap();
    assert_eq!(now(), Some(2_000_000));
    assert!(limits.depends_on_time());
    tokio::time::sleep(Duration::from_secs(101)).await;
    limits.refresh();
    assert_eq!(now(), Some(3_000_000));
    assert!(!limits.depends_on_time());
    limits.set(up(4_000_000), None).unwrap();
    assert_eq!((now(), limits.in_force().settings.len()), (Some(4_000_000), 1));
    limits.keep(up(5_000_000));
    assert_eq!((now(), limits.in_force().settings.len()), (Some(5_000_000), 0));
    limits.set(up(6_000_000), after(9)).unwrap();
    limits.reset();
    assert_eq!(now(), Some(5_000_000));
    let all = (0..99).map(|_| limits.set(up(6_000_000), after(9)));
    assert!(all.collect::<Result<Vec<_>, _>>().is_err(), "bounded");
}

#[tokio::test(start_paused = true)]
async fn a_busy_node_throttles_what_is_not_urgent() {
    let (limits, _tasks) = limits(LimitsConfig::default());
    limits.set_orders([(ROOT, Ordered { urgent: true, limit: None })].into());
    let (urgent, other) =
        (limits.flow(Way::Up, node(1), ROOT), limits.flow(Way::Up, node(1), OTHER));
    limits.set_busy(true);
    assert_eq!(limits.serving(), (Slots { near: 4, far: 16 }, true));
    assert!(time_of(&urgent, 100_000_000).await < 0.01);
    let time = time_of(&other, 5_000_000).await;
    assert!((5.0..5.5).contains(&time), "{time}");
    limits.sent(80_000_000);
    assert_eq!(limits.measure(0), 80_000_000);
    limits.refresh();
    assert_eq!(limits.in_force().busy_up, Some(rate(10_000_000)));
    limits.set_busy(false);
    assert!(other.is_open() && !limits.serving().1);
}

#[tokio::test(start_paused = true)]
async fn urgent_blobs_that_come_let_others_wait() {
    let (limits, _tasks) = limits(LimitsConfig::default());
    limits.set_orders([(ROOT, Ordered { urgent: true, limit: None })].into());
    assert_eq!(limits.ahead(&OTHER, 99), 99);
    limits.urgent_came();
    assert_eq!((limits.ahead(&OTHER, 99), limits.ahead(&ROOT, 99)), (0, 99));
    tokio::time::sleep(LATELY).await;
    assert_eq!(limits.ahead(&OTHER, 99), 99, "one that gets nothing holds up nobody");
}
