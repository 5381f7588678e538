use std::sync::atomic::Ordering;
use std::time::Duration;

use p2pinst_chunks::fetch::place::{Place, SiteTag};
use p2pinst_types::PublicKey;
use p2pinst_types::record::{ByDistance, Speed};

use super::blob::PEERS;
use super::*;

fn node(n: u8) -> NodeId {
    NodeId(PublicKey([n; 32]))
}

fn blob(n: u8) -> BlobRef {
    BlobRef::new(Hash([n; 32]), 1_000_000).unwrap()
}

/// Odd nodes are at another site.
fn meter() -> Meter {
    let far = Place::Far(SiteTag(1));
    Meter::new(Places::from_fn(move |n| if n.0.0[0] % 2 == 1 { far } else { Place::Rack }))
}

#[test]
fn bytes_are_counted_by_peer_and_distance() {
    let (meter, blob) = (meter(), blob(1));
    meter.begin(blob, 7);
    meter.stored(&blob.root, node(1), 100, true);
    meter.stored(&blob.root, node(1), 100, false);
    meter.stored(&blob.root, node(2), 50, true);
    meter.bad(&blob.root, node(2), 30);
    meter.banned(&blob.root, node(2));
    meter.refused(&blob.root, node(1), Refusal::Missing);
    meter.sent(&blob.root, node(3), 40);
    let report = meter.transfer(blob, &[node(1)]);
    let received = ByDistance { rack: 80, site: 0, wan: 200 };
    assert_eq!((report.received, report.sent.wan, report.before), (received, 40, 7));
    assert_eq!((report.duplicate, report.bad, report.from_holders), (100, 30, 200));
    assert_eq!(report.sources, 2);
    let seen = meter.picture(&blob.root).unwrap();
    assert!(seen.fetching && seen.ended.is_none());
    assert_eq!((seen.sources, seen.takers, seen.banned), (2, 1, 1));
    assert_eq!(seen.counts.refused, [0, 1]);
    let peers = meter.peers(&blob.root);
    let of = |n| peers.iter().find(|(p, _)| *p == node(n)).unwrap().1;
    assert_eq!((of(1).counts.verified, of(1).distance), (100, Distance::Wan));
    assert!(of(2).counts.banned && !of(1).counts.banned);
    meter.end(&blob.root);
    assert!(!meter.picture(&blob.root).unwrap().fetching);
}

#[test]
fn rates_follow_and_the_highest_is_over_a_second() {
    let (meter, blob) = (meter(), blob(1));
    meter.begin(blob, 0);
    let tap = meter.tap(&blob.root, node(1));
    let start = Instant::now();
    meter.sample(start, None);
    // 1 MB/s for 5 s, all from another site; then a burst that is shorter than the window
    for step in 1..=20_u32 {
        tap.fetch_add(250_000, Ordering::Relaxed);
        meter.sample(start + Duration::from_millis(250) * step, None);
    }
    let rate = meter.picture(&blob.root).unwrap().rate_in;
    assert!((850_000..=1_000_000).contains(&rate), "{rate}");
    let one = Some(Speed { rate: 1_000_000, known: false });
    let speeds = meter.speeds();
    assert_eq!((speeds.down, speeds.wan_in, speeds.up), (one, one, None));
    // what the interface says of itself counts, unless it carried more
    meter.knows(Some(9), Some(2_000_000));
    let known = |rate| Some(Speed { rate, known: true });
    assert_eq!((meter.speeds().down, meter.speeds().up), (known(2_000_000), known(9)));
    meter.knows(None, Some(900_000));
    assert_eq!(meter.speeds().down, one);
}

#[test]
fn the_interface_is_believed_when_the_traffic_goes_there() {
    for (share, want) in [(1, 1_100_000), (100, 1_000_000)] {
        let (meter, blob) = (meter(), blob(1));
        meter.begin(blob, 0);
        let tap = meter.tap(&blob.root, node(2));
        let start = Instant::now();
        for step in 0..=8_u32 {
            let sent = u64::from(step) * 275_000 / share;
            let carried = Carried { received: sent, sent };
            meter.sample(start + Duration::from_millis(250) * step, Some(carried));
            tap.fetch_add(250_000, Ordering::Relaxed);
        }
        let down = meter.speeds().down.unwrap().rate;
        assert!(down.abs_diff(want) <= want / 100, "{down}");
    }
}

#[test]
fn a_disk_is_judged_by_what_it_took_to_be_durable() {
    let meter = meter();
    meter.synced(1 << 20, Duration::from_millis(500));
    assert_eq!(meter.speeds().disk, None, "that little says nothing");
    meter.synced(3 << 20, Duration::from_millis(1500));
    assert_eq!(meter.speeds().disk, Some(Speed { rate: 2 << 20, known: false }));
}

#[test]
fn blobs_and_peers_are_bounded_and_the_sums_count_all() {
    let meter = meter();
    meter.begin(blob(255), 0);
    for n in 0..200 {
        meter.sent(&Hash([n; 32]), node(2), 1);
    }
    let table = meter.table();
    assert_eq!(table.blobs.len(), BLOBS);
    assert!(table.blobs.contains_key(&blob(255).root), "what is fetched stays");
    assert!(
        table.blobs.contains_key(&Hash([199; 32])) && !table.blobs.contains_key(&Hash([0; 32]))
    );
    drop(table);
    let root = Hash([199; 32]);
    for n in 0..300_u32 {
        let mut key = [2; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        meter.sent(&root, NodeId(PublicKey(key)), 10);
    }
    assert_eq!(meter.peers(&root).len(), PEERS);
    assert_eq!(meter.picture(&root).unwrap().sent.total(), 3_001);
    assert!(meter.settled().is_empty(), "it is not quiet yet");
    assert_eq!(meter.at_work(3).len(), 3);
}
