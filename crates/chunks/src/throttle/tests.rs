//! Bounds, fairness and order of the throttle, in virtual time.

use proptest::prelude::*;

use super::*;

/// What buckets may be called here: the uplink, the way to other sites, deployments.
const UP: u8 = 0;
const WAN: u8 = 1;
const ONE: u8 = 2;

fn rate(bytes: u64) -> Rate {
    Rate::new(bytes).unwrap()
}

/// What was let through, by time.
#[derive(Debug, Default)]
struct Log(Vec<(Duration, Vec<u8>, u64)>);

impl Log {
    /// In every interval a bucket lets through its rate, its burst and one request.
    fn check(&self, key: u8, rate: Rate, largest: u64) {
        let of: Vec<_> = self.0.iter().filter(|(_, keys, _)| keys.contains(&key)).collect();
        let burst = BURST_MIN.max(rate.bytes() / 20);
        for (i, (from, ..)) in of.iter().enumerate() {
            let mut sum = 0;
            for (to, _, bytes) in &of[i..] {
                sum += bytes;
                let allowed = (*to - *from).as_secs_f64() * rate.bytes() as f64;
                let most = allowed as u64 + burst + largest + 16;
                assert!(sum <= most, "{sum} of {most} bytes from {from:?} to {to:?}");
            }
        }
    }
}

/// Peers that each move one chunk after the other, for so long. Returns the bytes of each.
fn run(
    throttle: &mut Throttle<u8>,
    peers: &[(&[u8], bool)],
    time: Duration,
    log: &mut Log,
) -> Vec<u64> {
    let (mut now, mut moved) = (Duration::ZERO, vec![0; peers.len()]);
    let mut asked = BTreeMap::new();
    let ask = |throttle: &mut Throttle<u8>, peer: usize| {
        let (keys, urgent) = peers[peer];
        let bytes = chunk_under(throttle.least(keys));
        (throttle.ask(keys, bytes, urgent), (peer, bytes as u64))
    };
    asked.extend((0..peers.len()).map(|p| ask(throttle, p)));
    while now < time {
        let mut through = Vec::new();
        let next = throttle.step(now, &mut through);
        for ticket in &through {
            let (peer, bytes) = asked.remove(ticket).unwrap();
            moved[peer] += bytes;
            log.0.push((now, peers[peer].0.to_vec(), bytes));
            asked.extend([ask(throttle, peer)]);
        }
        if through.is_empty() {
            // a timer is late by up to a millisecond
            now = next.expect("somebody waits").max(now) + Duration::from_micros(700);
        }
    }
    moved
}

#[test]
fn peers_share_evenly_and_the_rate_is_used() {
    let mut throttle = Throttle::default();
    throttle.set(UP, Some(rate(1_000_000)));
    let mut log = Log::default();
    let peers: [(&[u8], bool); 4] = [(&[UP], false); 4];
    let moved = run(&mut throttle, &peers, Duration::from_secs(10), &mut log);
    log.check(UP, rate(1_000_000), 50_000);
    let all: u64 = moved.iter().sum();
    assert!((9_900_000..=10_200_000).contains(&all), "{all}");
    assert!(moved.iter().max().unwrap() - moved.iter().min().unwrap() <= 50_000, "{moved:?}");
}

#[test]
fn a_slow_way_holds_up_nobody_else_and_starves_not() {
    let mut throttle = Throttle::default();
    for (key, bytes) in [(UP, 10_000_000), (WAN, 200_000), (ONE, 100_000), (3, 100_000)] {
        throttle.set(key, Some(rate(bytes)));
    }
    let peers: [(&[u8], bool); 6] = [
        (&[UP], false),
        (&[UP, WAN, ONE], false),
        (&[UP, ONE], false),
        (&[UP, WAN, 3], false),
        (&[UP, WAN], false),
        (&[UP, 3], false),
    ];
    let mut log = Log::default();
    let moved = run(&mut throttle, &peers, Duration::from_secs(20), &mut log);
    for (key, bytes) in [(UP, 10_000_000), (WAN, 200_000), (ONE, 100_000), (3, 100_000)] {
        log.check(key, rate(bytes), CHUNK as u64);
    }
    assert!(moved[0] > 180_000_000, "who needs no slow bucket has the rest: {moved:?}");
    assert!(moved.iter().all(|m| *m > 400_000), "nobody starves: {moved:?}");
    let wan = moved[1] + moved[3] + moved[4];
    assert!(wan > 3_200_000, "the slow way is used: {moved:?}");
}

#[test]
fn urgent_bytes_go_first() {
    let mut throttle = Throttle::default();
    throttle.set(UP, Some(rate(1_000_000)));
    let peers: [(&[u8], bool); 3] = [(&[UP], false), (&[UP], true), (&[UP], false)];
    let moved = run(&mut throttle, &peers, Duration::from_secs(5), &mut Log::default());
    assert!(moved[1] > 4_900_000, "{moved:?}");
}

#[test]
fn a_megabit_flows_and_does_not_come_in_lumps() {
    let mut throttle = Throttle::default();
    let limit: Rate = "1Mbit/s".parse().unwrap();
    throttle.set(UP, Some(limit));
    let mut log = Log::default();
    let peers: [(&[u8], bool); 3] = [(&[UP], false); 3];
    run(&mut throttle, &peers, Duration::from_secs(5), &mut log);
    for second in 1..5 {
        let (from, to) = (Duration::from_secs(second), Duration::from_secs(second + 1));
        let within = log.0.iter().filter(|(at, ..)| (from..to).contains(at));
        let bytes: u64 = within.map(|(_, _, b)| b).sum();
        assert!((110_000..140_000).contains(&bytes), "{bytes} in second {second}");
    }
}

#[test]
fn what_is_not_limited_passes_and_what_is_taken_back_waits_no_more() {
    let mut throttle = Throttle::default();
    assert!(throttle.is_open());
    let free = throttle.ask(&[UP], CHUNK, false);
    let mut through = Vec::new();
    assert_eq!(throttle.step(Duration::ZERO, &mut through), None);
    assert_eq!(through, [free]);
    throttle.set(UP, Some(Rate::MIN));
    let now = Duration::from_secs(100);
    let tickets: Vec<_> = (0..5).map(|_| throttle.ask(&[UP], CHUNK, false)).collect();
    through.clear();
    assert!(throttle.step(now, &mut through).is_some_and(|next| next > now));
    assert!(through.len() < 5);
    tickets.iter().for_each(|t| throttle.cancel(*t));
    assert_eq!((throttle.waiting(), throttle.step(now, &mut through)), (0, None));
    let last = throttle.ask(&[UP], CHUNK, false);
    throttle.set(UP, None);
    through.clear();
    throttle.step(now, &mut through);
    assert_eq!(through, [last]);
}

proptest! {
    #[test]
    fn no_interval_has_too_much_and_all_pass_in_the_time_that_the_bytes_take(
        rates in prop::collection::vec(16_000u64..50_000_000, 4),
        asks in prop::collection::vec(
            (0u64..40, prop::collection::btree_set(0u8..4, 0..4), 1usize..=CHUNK, any::<bool>()),
            1..60,
        ),
    ) {
        let mut throttle = Throttle::default();
        for (key, bytes) in rates.iter().enumerate() {
            throttle.set(key as u8, Some(rate(*bytes)));
        }
        let (mut log, mut asked, mut through) = (Log::default(), BTreeMap::new(), Vec::new());
        let (mut now, mut arrival, mut needed) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut asks = asks.into_iter();
        let mut coming = asks.next();
        loop {
            while let Some((_, keys, bytes, urgent)) = coming.take_if(|_| arrival <= now) {
                let keys: Vec<u8> = keys.into_iter().collect();
                for key in &keys {
                    needed += Duration::from_secs_f64(bytes as f64 / rates[usize::from(*key)] as f64);
                }
                asked.insert(throttle.ask(&keys, bytes, urgent), (keys, bytes as u64));
                coming = asks.next();
                arrival += Duration::from_millis(coming.as_ref().map_or(0, |c| c.0));
            }
            let next = throttle.step(now, &mut through);
            for ticket in through.drain(..) {
                let (keys, bytes) = asked.remove(&ticket).expect("it waits");
                log.0.push((now, keys, bytes));
            }
            prop_assert_eq!(next.is_none(), asked.is_empty(), "who waits is told until when");
            prop_assert!(next.is_none_or(|n| n > now));
            now = match (&coming, next) {
                (Some(_), Some(next)) => next.min(arrival),
                (Some(_), None) => arrival,
                (None, Some(next)) => next,
                (None, None) => break,
            };
        }
        // one bucket or the other is always at work for somebody
        prop_assert!(now <= arrival + needed + Duration::from_millis(1), "{now:?}, {needed:?}");
        for (key, bytes) in rates.iter().enumerate() {
            log.check(key as u8, rate(*bytes), CHUNK as u64);
        }
    }
}
