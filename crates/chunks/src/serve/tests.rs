//! Turns, bounds, and what a seed offers to whom.

use proptest::prelude::*;

use super::*;
use crate::fetch::SiteTag;

const ROOT: Hash = Hash([1; 32]);
const FAR: Place = Place::Far(SiteTag(1));
const T0: Duration = Duration::ZERO;

fn limits() -> ServeLimits {
    ServeLimits { queue: 64, peers: 256, slots: 16, far: 16 }
}

fn job(serve: &mut Serve<u8>) -> Option<(u8, u32)> {
    serve.next_job().map(|j| (j.peer, j.piece.0))
}

fn ask(serve: &mut Serve<u8>, peer: u8, piece: u32) -> Result<(), Refusal> {
    serve.request(peer, ROOT, PieceIndex(piece))
}

/// All offers that are due.
fn offers(serve: &mut Serve<u8>, now: Duration) -> Vec<(u8, Vec<u32>)> {
    let all = std::iter::from_fn(|| serve.next_offer(now));
    all.map(|(peer, offer)| match offer {
        Offer::Pieces(pieces) => (peer, pieces.iter().map(|p| p.0).collect()),
        Offer::All => (peer, vec![u32::MAX]),
    })
    .collect()
}

#[test]
fn peers_take_turns() {
    let mut serve = Serve::new(limits());
    for (peer, piece) in [(1, 0), (1, 1), (1, 1), (2, 5), (3, 6), (3, 7)] {
        ask(&mut serve, peer, piece).unwrap();
    }
    assert_eq!(serve.waiting(), 5);
    assert_eq!(job(&mut serve), Some((1, 0)));
    assert_eq!(job(&mut serve), Some((2, 5)));
    serve.done(1);
    assert_eq!(job(&mut serve), Some((3, 6)));
    assert_eq!(job(&mut serve), Some((1, 1)));
    assert_eq!(job(&mut serve), None);
    serve.done(3);
    serve.cancel(3, ROOT, PieceIndex(7));
    assert_eq!(job(&mut serve), None);
    assert_eq!(serve.waiting(), 0);
}

#[test]
fn queues_are_bounded() {
    let mut serve = Serve::new(ServeLimits { queue: 2, peers: 2, slots: 1, far: 1 });
    ask(&mut serve, 1, 0).unwrap();
    ask(&mut serve, 1, 1).unwrap();
    assert_eq!(ask(&mut serve, 1, 2), Err(Refusal::Busy));
    assert_eq!(ask(&mut serve, 1, 1), Ok(()));
    ask(&mut serve, 2, 0).unwrap();
    assert_eq!(ask(&mut serve, 3, 0), Err(Refusal::Busy));
    assert_eq!(job(&mut serve), Some((1, 0)));
    assert_eq!(job(&mut serve), None);
    serve.left(1);
    assert_eq!(job(&mut serve), Some((2, 0)));
    ask(&mut serve, 3, 0).unwrap();
}

#[test]
fn members_with_many_streams_leave_places_to_others() {
    let mut serve = Serve::new(limits());
    let mut ask = |peer: u16, member| {
        let root = Hash([peer.to_be_bytes()[1]; 32]);
        serve.open(peer, root, Place::Site);
        serve.belongs(peer, member);
        serve.request(peer, root, PieceIndex(0)).is_ok()
    };
    let mut got = Vec::new();
    for member in 0..8 {
        let first = 32 * member as u16;
        got.push((first..first + 32).filter(|s| ask(*s, member)).count());
    }
    assert_eq!(got.first(), Some(&MEMBER), "{got:?}");
    // as many members again, each of which wants one
    assert!((300..400).all(|s| ask(s, u64::from(s))), "{got:?}");
    // what is being sent counts too, however slowly it goes
    let root = Hash([1; 32]);
    let mut serve = Serve::new(ServeLimits { slots: 99, ..limits() });
    for peer in 0..MEMBER as u16 {
        serve.open(peer, root, Place::Site);
        serve.belongs(peer, 1);
        serve.request(peer, root, PieceIndex(0)).unwrap();
        let job = serve.next_job().unwrap();
        serve.is_slow(job.peer);
    }
    serve.open(99, root, Place::Site);
    serve.belongs(99, 1);
    assert_eq!(serve.request(99, root, PieceIndex(0)), Err(Refusal::Busy));
    assert_eq!(serve.request(5, root, PieceIndex(1)), Ok(()), "its streams go on");
    serve.done(3);
    assert_eq!(serve.request(99, root, PieceIndex(0)), Ok(()));
}

#[test]
fn a_slow_piece_does_not_put_its_member_last_nor_is_who_is_unknown_first() {
    let mut serve = Serve::new(limits());
    for (peer, member) in [(1, 1), (2, 1), (3, 2)] {
        serve.open(peer, ROOT, Place::Site);
        serve.belongs(peer, member);
    }
    ask(&mut serve, 1, 0).unwrap();
    assert_eq!(job(&mut serve), Some((1, 0)));
    serve.is_slow(1);
    // the other member's turn was last
    ask(&mut serve, 3, 0).unwrap();
    assert_eq!(job(&mut serve), Some((3, 0)));
    serve.done(3);
    for peer in [0, 2, 3] {
        ask(&mut serve, peer, 1).unwrap();
    }
    assert_eq!(job(&mut serve), Some((2, 1)));
    assert_eq!(job(&mut serve), Some((3, 1)));
    assert_eq!(job(&mut serve), Some((0, 1)));
}

#[test]
fn other_sites_come_first_and_have_slots_of_their_own() {
    let mut serve = Serve::new(ServeLimits { slots: 1, far: 1, ..limits() });
    for (peer, place) in [(1, Place::Rack), (2, Place::Site), (3, FAR), (4, FAR)] {
        assert!(!serve.open(peer, ROOT, place));
        ask(&mut serve, peer, 0).unwrap();
    }
    assert_eq!(job(&mut serve), Some((3, 0)));
    assert_eq!(job(&mut serve), Some((1, 0)), "a full WAN does not hold up the site");
    assert_eq!(job(&mut serve), None);
    serve.done(1);
    assert_eq!(job(&mut serve), Some((2, 0)));
}

#[test]
fn a_peer_that_takes_nothing_does_not_keep_its_slot() {
    let mut serve = Serve::new(ServeLimits { slots: 1, ..limits() });
    ask(&mut serve, 1, 0).unwrap();
    ask(&mut serve, 2, 0).unwrap();
    assert_eq!(job(&mut serve), Some((1, 0)));
    assert_eq!(job(&mut serve), None);
    // with a second slot others go on, and the first is not counted any more
    let mut serve = Serve::new(ServeLimits { slots: 2, ..limits() });
    ask(&mut serve, 1, 0).unwrap();
    assert_eq!(job(&mut serve), Some((1, 0)));
    for piece in 0..16 {
        ask(&mut serve, 2, piece).unwrap();
        assert_eq!(job(&mut serve), Some((2, piece)));
        serve.done(2);
    }
    ask(&mut serve, 2, 99).unwrap();
    ask(&mut serve, 3, 99).unwrap();
    assert!(job(&mut serve).is_some() && job(&mut serve).is_some());
}

#[test]
fn those_that_take_nothing_at_all_stop_nobody() {
    let mut serve = Serve::new(ServeLimits { slots: 2, ..limits() });
    for peer in 1..=3 {
        ask(&mut serve, peer, 0).unwrap();
    }
    assert!(job(&mut serve) == Some((1, 0)) && job(&mut serve) == Some((2, 0)));
    assert_eq!(job(&mut serve), None);
    serve.is_slow(1);
    serve.is_slow(9);
    assert_eq!(job(&mut serve), Some((3, 0)));
    ask(&mut serve, 1, 5).unwrap();
    assert_eq!(job(&mut serve), None, "nothing more for the slow one");
}

#[test]
fn what_a_downloader_has_from_elsewhere_is_offered_to_nobody_at_its_site() {
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 6);
    assert!(serve.open(1, ROOT, Place::Site) && serve.open(2, ROOT, Place::Site));
    let mut held = Bitmap::new(6);
    [0, 1, 2, 4].into_iter().for_each(|p| assert!(held.set(PieceIndex(p))));
    serve.holds(9, ROOT, &held);
    serve.holds(2, ROOT, &held);
    let offered = offers(&mut serve, T0);
    let mut pieces: Vec<u32> = offered.iter().flat_map(|(_, p)| p).copied().collect();
    pieces.sort_unstable();
    assert_eq!(pieces, [3, 5], "{offered:?}");
    serve.holds(1, ROOT, &Bitmap::full(6));
    assert_eq!(offers(&mut serve, T0), [(1, vec![u32::MAX]), (2, vec![u32::MAX])]);
}

#[test]
fn a_seed_offers_each_piece_to_one_and_then_all_to_all() {
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 6);
    assert!(serve.open(1, ROOT, Place::Site) && serve.open(2, ROOT, Place::Site));
    let offered = offers(&mut serve, T0);
    let mut pieces: Vec<u32> = offered.iter().flat_map(|(_, p)| p).copied().collect();
    pieces.sort_unstable();
    assert_eq!(pieces, [0, 1, 2, 3, 4, 5], "{offered:?}");
    assert_eq!(offers(&mut serve, T0), []);
    for (peer, pieces) in offered {
        for piece in pieces {
            ask(&mut serve, peer, piece).unwrap();
            assert_eq!(offers(&mut serve, T0), []);
            assert_eq!(job(&mut serve), Some((peer, piece)));
            serve.done(peer);
        }
    }
    assert_eq!(offers(&mut serve, T0), [(1, vec![u32::MAX]), (2, vec![u32::MAX])]);
    assert!(!serve.open(3, ROOT, Place::Site), "it is seeded no more");
}

#[test]
fn who_comes_first_leaves_something_to_the_others() {
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 128);
    assert!(serve.open(1, ROOT, Place::Site));
    // it asks for one at a time, and the socket takes each at once: the link seems idle after each
    let mut offered: Vec<u32> = Vec::new();
    for piece in 0..12 {
        offered.extend(offers(&mut serve, T0).into_iter().flat_map(|(_, pieces)| pieces));
        ask(&mut serve, 1, offered[piece]).unwrap();
        assert_eq!(job(&mut serve), Some((1, offered[piece])));
        serve.done(1);
    }
    assert!(offered.len() <= 32, "{}", offered.len());
    assert!(serve.open(2, ROOT, Place::Site) && serve.open(3, ROOT, Place::Site));
    let others: Vec<u8> = offers(&mut serve, T0).into_iter().map(|(peer, _)| peer).collect();
    assert!(others.contains(&2) && others.contains(&3), "{others:?}");
    // one that asks for all it may is offered more and more: it may be far away
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 128);
    assert!(serve.open(1, ROOT, FAR));
    let mut most = 0;
    for _ in 0..5 {
        let batch: Vec<u32> = offers(&mut serve, T0).into_iter().flat_map(|(_, p)| p).collect();
        most = most.max(batch.len());
        batch.iter().for_each(|piece| ask(&mut serve, 1, *piece).unwrap());
        while let Some((peer, _)) = job(&mut serve) {
            serve.done(peer);
        }
    }
    assert!(most >= 32, "{most}");
}

#[test]
fn what_was_not_offered_is_served_when_nothing_else_waits() {
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 40);
    assert!(serve.open(1, ROOT, Place::Site) && serve.open(2, ROOT, Place::Site));
    let offered = offers(&mut serve, T0);
    let of = |peer| offered.iter().find(|o| o.0 == peer).unwrap().1[0];
    ask(&mut serve, 1, of(2)).unwrap();
    ask(&mut serve, 2, of(2)).unwrap();
    assert_eq!(job(&mut serve), Some((2, of(2))));
    assert_eq!(job(&mut serve), None);
    serve.done(2);
    assert_eq!(job(&mut serve), Some((1, of(2))));
}

#[test]
fn what_is_declined_or_stale_is_offered_to_others_or_nobody() {
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 3);
    assert!(serve.open(1, ROOT, Place::Site));
    assert_eq!(offers(&mut serve, T0), [(1, vec![0, 1, 2])]);
    assert!(serve.open(2, ROOT, Place::Site));
    serve.cancel(1, ROOT, PieceIndex(0));
    assert_eq!(offers(&mut serve, Duration::from_secs(1)), []);
    // it asks for nothing: somebody else may have them
    assert_eq!(offers(&mut serve, Duration::from_secs(3)), [(2, vec![2, 1])]);
    // who is gone takes nothing any more
    ask(&mut serve, 2, 1).unwrap();
    assert_eq!(job(&mut serve), Some((2, 1)));
    serve.left(2);
    serve.left(1);
    assert!(serve.open(3, ROOT, Place::Site));
    let mut again = offers(&mut serve, Duration::from_secs(3)).remove(0).1;
    again.sort_unstable();
    assert_eq!(again, [1, 2], "the declined one is there already");
}

#[test]
fn each_other_site_gets_other_pieces_apart_from_the_own_site() {
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 8);
    let other = Place::Far(SiteTag(2));
    for (peer, place) in [(1, Place::Site), (2, FAR), (3, other), (4, other)] {
        assert!(serve.open(peer, ROOT, place));
    }
    let offered = offers(&mut serve, T0);
    let of = |peers: &[u8]| {
        let all = offered.iter().filter(|(p, _)| peers.contains(p));
        let mut all: Vec<u32> = all.flat_map(|(_, p)| p).copied().collect();
        all.sort_unstable();
        all
    };
    assert_eq!(of(&[2, 3, 4]), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(of(&[1]), [0, 1, 2, 3]);
    let (one, two) = (of(&[2]).len(), of(&[3, 4]).len());
    assert!(one.abs_diff(two) <= 4, "{offered:?}");
}

#[test]
fn who_comes_when_there_are_enough_takers_is_sent_away() {
    let mut serve = Serve::new(ServeLimits { peers: 2, ..limits() });
    serve.seed(ROOT, 8);
    assert!(serve.open(1, ROOT, Place::Site) && serve.open(2, ROOT, Place::Site));
    assert!(!serve.open(3, ROOT, Place::Site));
    assert_eq!(ask(&mut serve, 3, 0), Err(Refusal::Busy));
    serve.unseed(&ROOT);
    assert_eq!(ask(&mut serve, 3, 0), Ok(()));
}

#[test]
fn a_seed_that_is_over_is_forgotten_and_may_begin_again() {
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 2);
    assert!(serve.open(1, ROOT, Place::Site));
    serve.left(1);
    assert_eq!(serve.seeds.len(), 1, "nothing has left yet");
    assert!(serve.open(2, ROOT, Place::Site));
    for piece in offers(&mut serve, T0).remove(0).1 {
        ask(&mut serve, 2, piece).unwrap();
        assert_eq!(job(&mut serve), Some((2, piece)));
        serve.done(2);
    }
    assert_eq!(offers(&mut serve, T0), [(2, vec![u32::MAX])]);
    assert_eq!(serve.seeds.len(), 1, "somebody takes from it");
    serve.left(2);
    assert!(serve.seeds.is_empty());
    // removed while somebody takes it, and published again
    serve.seed(ROOT, 2);
    assert!(serve.open(3, ROOT, Place::Site));
    serve.unseed(&ROOT);
    assert_eq!(offers(&mut serve, T0), [(3, vec![u32::MAX])]);
    serve.seed(ROOT, 2);
    assert!(serve.open(4, ROOT, Place::Site), "it is seeded again");
    assert_eq!(offers(&mut serve, T0), [(4, vec![0, 1])]);
    // removed when nobody takes it
    serve.left(3);
    serve.left(4);
    serve.unseed(&ROOT);
    assert!(serve.seeds.is_empty());
}

/// Sends what is offered to somebody until it is offered no more.
fn take_all(serve: &mut Serve<u8>, peer: u8, pieces: usize) {
    for piece in (0..pieces).map(|p| p as u32) {
        offers(serve, T0);
        ask(serve, peer, piece).unwrap();
        assert_eq!(job(serve), Some((peer, piece)));
        serve.done(peer);
    }
}

#[test]
fn a_seed_waits_for_a_side_whose_takers_are_gone_for_a_while() {
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 4);
    assert!(serve.open(1, ROOT, Place::Site) && serve.open(2, ROOT, FAR));
    take_all(&mut serve, 1, 4);
    serve.left(1);
    serve.left(2);
    assert_eq!(serve.seeds.len(), 1, "nothing has left to the other site");
    assert!(serve.open(3, ROOT, FAR));
    assert!(serve.open_instead(3, 4, ROOT, FAR), "it comes back");
    take_all(&mut serve, 4, 4);
    serve.left(4);
    assert!(serve.seeds.is_empty());
}

#[test]
fn a_blob_that_is_removed_and_published_again_is_seeded_again_also_to_old_takers() {
    let mut serve = Serve::new(limits());
    serve.seed(ROOT, 2);
    assert!(serve.open(1, ROOT, Place::Site));
    take_all(&mut serve, 1, 1);
    serve.unseed(&ROOT);
    // nobody was told that it is seeded no more
    serve.seed(ROOT, 2);
    assert_eq!(offers(&mut serve, T0), [(1, vec![0, 1])]);
    assert!(serve.open(2, ROOT, Place::Site), "it is seeded");
    // one that was told is served like others, and one that is there stays
    serve.unseed(&ROOT);
    assert_eq!(offers(&mut serve, T0).len(), 2);
    serve.seed(ROOT, 2);
    assert!(offers(&mut serve, T0).is_empty());
    assert!(serve.open(3, ROOT, Place::Site));
    assert_eq!(offers(&mut serve, T0), [(3, vec![0, 1])]);
    assert_eq!(ask(&mut serve, 1, 1), Ok(()));
}

#[test]
fn seeds_are_bounded_and_the_oldest_ends_first() {
    let mut serve = Serve::new(limits());
    let root = |n: usize| Hash([n as u8; 32]);
    (0..SEEDS).for_each(|n| serve.seed(root(n), 4));
    assert!(serve.open(1, root(0), Place::Site), "somebody takes the oldest");
    serve.seed(root(SEEDS), 4);
    assert_eq!(serve.seeds.len(), SEEDS);
    assert!(!serve.open(2, root(1), Place::Site));
    assert!(serve.open(3, root(0), Place::Site) && serve.open(4, root(SEEDS), Place::Site));
}

const LATER: Hash = Hash([2; 32]);

#[test]
fn urgent_blobs_come_first_and_find_a_slot() {
    let mut serve = Serve::new(ServeLimits { slots: 2, ..limits() });
    for peer in 1..=6 {
        serve.request(peer, LATER, PieceIndex(0)).unwrap();
    }
    assert_eq!((job(&mut serve), job(&mut serve)), (Some((1, 0)), Some((2, 0))));
    assert_eq!(job(&mut serve), None);
    // no order was known yet when these were asked for
    for peer in [7, 8, 9] {
        ask(&mut serve, peer, 1).unwrap();
    }
    serve.set_urgent([ROOT].into());
    assert_eq!((job(&mut serve), job(&mut serve)), (Some((7, 1)), Some((8, 1))));
    assert_eq!(job(&mut serve), None, "no more slots than for the others");
    serve.done(1);
    serve.done(2);
    // slow takers of urgent pieces do not stop the others altogether
    assert_eq!((job(&mut serve), job(&mut serve)), (Some((3, 0)), None));
    serve.done(7);
    assert_eq!((job(&mut serve), job(&mut serve)), (Some((9, 1)), None));
    serve.done(8);
    serve.done(9);
    assert_eq!((job(&mut serve), job(&mut serve)), (Some((4, 0)), None));
    serve.set_slots(Slots { near: 4, far: 4 });
    assert_eq!((job(&mut serve), job(&mut serve)), (Some((5, 0)), Some((6, 0))));
}

#[test]
fn one_peer_gets_the_urgent_piece_first() {
    let mut serve = Serve::new(ServeLimits { slots: 1, ..limits() });
    serve.set_urgent([ROOT].into());
    serve.request(1, LATER, PieceIndex(0)).unwrap();
    ask(&mut serve, 1, 5).unwrap();
    assert_eq!(job(&mut serve), Some((1, 5)));
    serve.done(1);
    assert_eq!(job(&mut serve), Some((1, 0)));
}

#[test]
fn a_throttled_source_sends_others_elsewhere_but_not_for_urgent_blobs() {
    let mut serve = Serve::new(limits());
    serve.set_urgent([ROOT].into());
    serve.throttle(Some(2));
    for piece in 0..20 {
        ask(&mut serve, 1, piece).unwrap();
    }
    serve.request(2, LATER, PieceIndex(0)).unwrap();
    serve.request(3, LATER, PieceIndex(0)).unwrap();
    assert_eq!(serve.request(4, LATER, PieceIndex(0)), Err(Refusal::Busy));
    serve.throttle(None);
    serve.request(4, LATER, PieceIndex(0)).unwrap();
}

#[test]
fn what_a_throttled_source_is_sending_counts_as_well() {
    let mut serve = Serve::new(limits());
    serve.throttle(Some(2));
    for peer in [1, 2] {
        serve.request(peer, LATER, PieceIndex(0)).unwrap();
        assert!(serve.next_job().is_some(), "{peer}");
    }
    assert_eq!(serve.request(3, LATER, PieceIndex(0)), Err(Refusal::Busy));
    serve.done(1);
    serve.request(3, LATER, PieceIndex(0)).unwrap();
    assert_eq!(serve.request(4, LATER, PieceIndex(0)), Err(Refusal::Busy));
    serve.is_slow(2);
    serve.request(4, LATER, PieceIndex(0)).unwrap();
}

proptest! {
    #[test]
    fn every_accepted_request_is_answered_once(
        seeded in any::<bool>(),
        asks in prop::collection::vec((0u8..5, 0u32..12), 0..150),
    ) {
        let mut serve = Serve::new(ServeLimits { queue: 6, peers: 4, slots: 2, far: 2 });
        if seeded {
            serve.seed(ROOT, 12);
        }
        for peer in 0..5 {
            serve.open(peer, ROOT, if peer < 2 { Place::Site } else { FAR });
        }
        let (mut accepted, mut sent) = (0, 0);
        for (n, (peer, piece)) in asks.into_iter().enumerate() {
            let before = serve.waiting();
            if ask(&mut serve, peer, piece).is_ok() {
                accepted += serve.waiting() - before;
            }
            prop_assert!(serve.waiting() <= 24);
            offers(&mut serve, Duration::from_millis(n as u64 * 100));
            if n % 3 == 0 && let Some((peer, _)) = job(&mut serve) {
                sent += 1;
                serve.done(peer);
            }
        }
        while let Some((peer, _)) = job(&mut serve) {
            sent += 1;
            serve.done(peer);
        }
        prop_assert_eq!(accepted, sent);
    }

    /// Takers ask for what they are offered, decline it, or are gone: in the end each piece has left
    /// once, and none twice unless its taker was gone.
    #[test]
    fn a_seed_gives_each_piece_once(acts in prop::collection::vec((0u8..6, 0u8..10), 0..200)) {
        const PIECES: u32 = 30;
        let mut serve = Serve::new(limits());
        serve.seed(ROOT, PIECES);
        let mut offered: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
        let (mut given, mut gone) = (vec![0; PIECES as usize], 0);
        let mut acts = acts.into_iter();
        let mut now = Duration::ZERO;
        for round in 0.. {
            prop_assert!(round < 1000, "it never ends");
            let (peer, act) = acts.next().unwrap_or((round as u8 % 6, 0));
            if let std::collections::btree_map::Entry::Vacant(e) = offered.entry(peer) {
                if !serve.open(peer, ROOT, Place::Site) {
                    break;
                }
                e.insert(Vec::new());
            }
            for (peer, pieces) in offers(&mut serve, now) {
                offered.entry(peer).or_default().extend(pieces);
            }
            if offered.values().flatten().any(|p| *p == u32::MAX) {
                break;
            }
            let next = offered.get_mut(&peer).and_then(Vec::pop);
            match (act, next) {
                (9, _) => {
                    serve.left(peer);
                    offered.remove(&peer);
                    gone += 1;
                }
                (8, Some(piece)) => {
                    serve.cancel(peer, ROOT, PieceIndex(piece));
                    given[piece as usize] += 1;
                }
                (_, Some(piece)) => {
                    ask(&mut serve, peer, piece).unwrap();
                    let (to, sent) = job(&mut serve).unwrap();
                    prop_assert_eq!((to, sent), (peer, piece));
                    serve.done(peer);
                    given[piece as usize] += 1;
                }
                _ => {}
            }
            now += Duration::from_millis(1);
        }
        prop_assert!(given.iter().all(|n| *n >= 1), "{:?}", given);
        prop_assert!(gone > 0 || given.iter().all(|n| *n == 1), "{:?}", given);
    }
}
