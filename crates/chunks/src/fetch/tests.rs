//! The rules of the scheduler, one by one, and its invariants under any sequence of events.

use p2pinst_types::Hash;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const PIECE: u64 = 64 << 10;

struct Bench {
    fetch: Fetch<u8>,
    rng: StdRng,
    now: Duration,
}

impl Bench {
    fn new(pieces: u32) -> Self {
        let blob = BlobRef::with_piece_log2(Hash([0; 32]), u64::from(pieces) * PIECE, 16).unwrap();
        assert_eq!(blob.pieces(), pieces);
        let fetch = Fetch::new(blob, Bitmap::new(pieces), Limits::default());
        Self { fetch, rng: StdRng::seed_from_u64(1), now: Duration::from_secs(1) }
    }

    fn step(&mut self, input: Input<u8>) -> Vec<Output<u8>> {
        let mut out = Vec::new();
        self.fetch.step(self.now, &mut self.rng, input, &mut out);
        self.check();
        out
    }

    fn join(&mut self, peer: u8, have: &[u32]) -> Vec<Output<u8>> {
        let mut map = Bitmap::new(self.fetch.have.pieces());
        have.iter().for_each(|i| assert!(map.set(PieceIndex(*i))));
        self.step(Input::Joined { peer, place: Place::Site, seeding: false, have: map })
    }

    fn join_as(&mut self, peer: u8, place: Place, seeding: bool, have: &[u32]) -> Vec<Output<u8>> {
        let mut map = Bitmap::new(self.fetch.have.pieces());
        have.iter().for_each(|i| assert!(map.set(PieceIndex(*i))));
        self.step(Input::Joined { peer, place, seeding, have: map })
    }

    fn offer(&mut self, peer: u8, pieces: &[u32]) -> Vec<Output<u8>> {
        let pieces = pieces.iter().map(|i| PieceIndex(*i)).collect();
        self.step(Input::Offered { peer, pieces })
    }

    fn tick(&mut self, millis: u64) -> Vec<Output<u8>> {
        self.now += Duration::from_millis(millis);
        self.step(Input::Tick)
    }

    fn verified(&mut self, peer: u8, piece: u32) -> Vec<Output<u8>> {
        self.now += Duration::from_millis(5);
        self.step(Input::Verified { peer, piece: PieceIndex(piece) })
    }

    fn refused(&mut self, peer: u8, piece: u32, reason: Refusal) -> Vec<Output<u8>> {
        self.step(Input::Refused { peer, piece: PieceIndex(piece), reason })
    }

    /// What is counted is what is.
    fn check(&self) {
        let f = &self.fetch;
        let mut in_flight = 0;
        for (peer, state) in &f.peers {
            assert_eq!(state.useful, f.picker.useful(state.askable()), "peer {peer}");
            let asked = f.flights.iter().filter(|(_, a)| a.contains(peer)).count();
            assert_eq!(state.asked as usize, asked, "peer {peer}");
            assert!(!f.banned.contains(peer));
            in_flight += asked;
        }
        let seeding = f.peers.values().filter(|s| s.offered.is_some()).count();
        let far = f.peers.values().filter(|s| !s.place.is_near()).count();
        assert_eq!((f.seeding, f.far), (seeding, far));
        assert_eq!(f.flights.asks() as usize, in_flight);
        assert!(in_flight <= 1 || in_flight as u64 * PIECE <= f.limits.in_flight);
        for (piece, asks) in f.flights.iter() {
            assert!(matches!(asks.as_slice(), [_]) || matches!(asks.as_slice(), [a, b] if a != b));
            assert!(!f.have.get(piece) && !f.picker.wants(piece));
        }
        let pieces = f.have.count() + f.picker.wanted() + f.flights.pieces();
        assert_eq!(pieces, f.have.pieces(), "no piece is forgotten");
    }
}

fn requests(out: &[Output<u8>]) -> Vec<(u8, u32)> {
    out.iter()
        .filter_map(|o| match o {
            Output::Request { peer, piece } => Some((*peer, piece.0)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_new_peer_is_asked_for_little() {
    let mut b = Bench::new(1000);
    let all: Vec<u32> = (0..1000).collect();
    let one = requests(&b.join(1, &all));
    let two = requests(&b.join(2, &all));
    assert_eq!((one.len(), two.len()), (2, 2));
    assert!(one.iter().all(|(p, i)| *p == 1 && !two.contains(&(2, *i))));
    assert_eq!(b.tick(100), []);
}

#[test]
fn what_is_complete_says_so_once() {
    let mut b = Bench::new(2);
    b.join(1, &[0, 1]);
    assert_eq!(b.verified(1, 1), []);
    assert_eq!(b.verified(1, 0), [Output::Complete]);
    assert_eq!(b.verified(1, 0), []);
    assert_eq!(b.tick(100), []);
}

#[test]
fn the_rarest_come_first_after_the_first_four() {
    let mut b = Bench::new(64);
    (0..4).for_each(|i| drop(b.verified(9, i)));
    let common: Vec<u32> = (0..60).collect();
    (2..5).for_each(|p| drop(b.join(p, &common)));
    let all: Vec<u32> = (0..64).collect();
    let asked: Vec<_> = requests(&b.join(1, &all)).into_iter().map(|(_, i)| i).collect();
    assert!(asked.len() == 2 && asked.iter().all(|i| *i >= 60), "{asked:?}");
}

#[test]
fn who_has_fewer_pieces_than_others_asks_for_more_at_a_time() {
    // this node has the first hundred pieces, and twenty peers have so many of the last
    let asked = |held: u32| {
        let mut b = Bench::new(1000);
        (0..100).for_each(|i| drop(b.verified(99, i)));
        let have: Vec<u32> = (1000 - held..1000).collect();
        (0..20).map(|p| requests(&b.join(p, &have)).len()).sum::<usize>()
    };
    assert_eq!([100, 140, 500, 92, 20].map(asked), [8, 18, 24, 6, 4]);
}

#[test]
fn a_peer_with_one_bad_piece_is_out() {
    let mut b = Bench::new(4);
    b.join(1, &[0, 1, 2, 3]);
    let out = b.step(Input::Bad { peer: 1, piece: PieceIndex(0) });
    assert_eq!(out, [Output::Ban { peer: 1, reason: BanReason::BadPiece }, Output::Starved]);
    assert_eq!(b.join(1, &[0, 1, 2, 3]), []);
    assert_eq!(requests(&b.join(2, &[0, 1, 2, 3])).len(), 2);
    let past = b.step(Input::Has { peer: 2, pieces: vec![PieceIndex(4)] });
    assert_eq!(past[0], Output::Ban { peer: 2, reason: BanReason::NoSuchPiece });
    let odd =
        b.step(Input::Joined { peer: 3, place: Place::Site, seeding: false, have: Bitmap::new(5) });
    assert_eq!(odd, [Output::Ban { peer: 3, reason: BanReason::NoSuchPiece }]);
}

#[test]
fn who_leaves_owes_nothing() {
    let mut b = Bench::new(2);
    assert_eq!(requests(&b.join(1, &[0, 1])).len(), 2);
    assert_eq!(b.join(2, &[0, 1]), []);
    let out = b.step(Input::Left { peer: 1 });
    assert_eq!(requests(&out).len(), 2);
    assert_eq!(b.step(Input::Left { peer: 2 }), [Output::Starved]);
    assert_eq!(b.tick(100), []);
    assert_eq!(requests(&b.join(2, &[1])), [(2, 1)]);
    assert_eq!(b.verified(2, 1), [Output::Starved]);
}

#[test]
fn a_busy_peer_is_left_alone_for_a_while() {
    let mut b = Bench::new(1);
    b.join(1, &[0]);
    assert_eq!(b.refused(1, 0, Refusal::Busy), []);
    assert_eq!(b.tick(100), []);
    assert_eq!(requests(&b.tick(160)), [(1, 0)]);
    b.refused(1, 0, Refusal::Busy);
    assert_eq!(b.tick(260), []);
    assert_eq!(requests(&b.tick(250)), [(1, 0)]);
}

#[test]
fn what_is_missing_is_not_asked_for_again() {
    let mut b = Bench::new(1);
    b.join(1, &[0]);
    assert_eq!(b.refused(1, 0, Refusal::Missing), [Output::Starved]);
    assert_eq!(b.tick(60_000), []);
    let out = b.step(Input::Has { peer: 1, pieces: vec![PieceIndex(0)] });
    assert_eq!(requests(&out), [(1, 0)]);
}

#[test]
fn of_a_seed_only_what_it_offers_is_asked_for() {
    let mut b = Bench::new(8);
    let all: Vec<u32> = (0..8).collect();
    assert_eq!(b.join_as(1, Place::Site, true, &all), []);
    assert_eq!(requests(&b.offer(1, &[3, 5])).len(), 2);
    b.join(2, &[6]);
    // what is on its way, or here, is declined
    let declined = Output::Cancel { peer: 1, piece: PieceIndex(6) };
    assert_eq!(b.offer(1, &[6]), [declined]);
    b.verified(1, 3);
    assert_eq!(b.offer(1, &[3]), [Output::Cancel { peer: 1, piece: PieceIndex(3) }]);
    b.verified(1, 5);
    b.verified(2, 6);
    // offered, but it comes from elsewhere
    b.step(Input::Refused { peer: 1, piece: PieceIndex(5), reason: Refusal::Busy });
    b.offer(1, &[7]);
    let out = b.verified(2, 7);
    assert_eq!(out[0], Output::Cancel { peer: 1, piece: PieceIndex(7) });
    let past = b.offer(1, &[8]);
    assert_eq!(past[0], Output::Ban { peer: 1, reason: BanReason::NoSuchPiece });
}

#[test]
fn a_seed_that_offers_nothing_is_asked_all_the_same_and_then_freely() {
    let mut b = Bench::new(8);
    let all: Vec<u32> = (0..8).collect();
    assert_eq!(b.join_as(1, Place::Site, true, &all), []);
    b.now += Duration::from_millis(400);
    assert_eq!(requests(&b.tick(200)).len(), 1, "one at a time");
    assert_eq!(b.tick(100), []);
    let out = b.step(Input::Free { peer: 1 });
    assert_eq!(requests(&out).len(), 1, "two are in flight");
}

const FAR: Place = Place::Far(SiteTag(1));
const FARTHER: Place = Place::Far(SiteTag(2));

#[test]
fn of_another_site_what_nobody_here_has_and_no_other_site() {
    let mut b = Bench::new(12);
    b.join_as(1, Place::Site, false, &[0]);
    assert_eq!(requests(&b.join_as(2, FARTHER, false, &[1, 2])).len(), 2);
    let out = requests(&b.join_as(3, FAR, false, &[0, 3, 4]));
    assert!(out.len() == 2 && out.iter().all(|r| *r == (3, 3) || *r == (3, 4)), "{out:?}");
    // both have 5; only one has 6
    for piece in [5, 6] {
        b.step(Input::Has { peer: 3, pieces: vec![PieceIndex(piece)] });
    }
    b.step(Input::Has { peer: 2, pieces: vec![PieceIndex(5)] });
    assert_eq!(requests(&b.verified(3, 3))[0], (3, 6));
}

#[test]
fn of_another_site_what_the_lease_is_for() {
    let pieces: Vec<u32> = (0..64).collect();
    let mut asked = BTreeSet::new();
    for own in [1, 2, 3] {
        let mut b = Bench::new(64);
        let others = (1..=3).filter(|t| *t != own).map(|t| (t as u8 + 100, t)).collect();
        b.step(Input::Members { own, others });
        let mut out = requests(&b.join_as(1, FAR, false, &pieces));
        while let Some((_, piece)) = out.pop() {
            assert!(asked.insert(piece), "piece {piece} is asked for by two");
            out.extend(requests(&b.verified(1, piece)));
        }
        assert!(b.fetch.have.count() > 8);
    }
    assert_eq!(asked.len(), 64, "all are asked for by somebody");
}

#[test]
fn the_last_pieces_of_another_site_are_asked_of_a_second_peer_when_they_are_late() {
    // one that claims all and answers nothing, and an honest one; nobody else at this site
    let mut b = Bench::new(4);
    let silent = requests(&b.join_as(1, FAR, false, &[0, 1, 2, 3]));
    let mut honest = requests(&b.join_as(2, FARTHER, false, &[0, 1, 2, 3]));
    assert_eq!((silent.len(), honest.len()), (2, 2));
    let mut ticks = 0;
    while !b.fetch.have.is_full() {
        while let Some((peer, piece)) = honest.pop() {
            assert_eq!(peer, 2);
            honest.extend(requests(&b.verified(2, piece)));
        }
        ticks += 1;
        assert!(ticks < 60, "{} pieces are here", b.fetch.have.count());
        honest = requests(&b.tick(100));
    }
    assert!(ticks > 49, "a piece of another site is not late before 5 s: {ticks}");
}

#[test]
fn a_lease_passes_on_when_nothing_comes_through_its_holder() {
    let pieces: Vec<u32> = (0..64).collect();
    let mut b = Bench::new(64);
    b.step(Input::Members { own: 1, others: vec![(7, 2)] });
    let mut out = requests(&b.join_as(1, FAR, false, &pieces));
    let mut ticks = 0;
    while b.fetch.have.count() < 64 {
        while let Some((_, piece)) = out.pop() {
            out.extend(requests(&b.verified(1, piece)));
        }
        ticks += 1;
        assert!(ticks < 60);
        out = requests(&b.tick(100));
    }
    assert!(ticks > 19, "not before two seconds have passed: {ticks}");
}

#[test]
fn while_a_site_seeds_its_others_are_not_asked() {
    let mut b = Bench::new(8);
    b.join_as(1, FAR, true, &[0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(b.join_as(2, FAR, false, &[0, 1]), []);
    assert_eq!(requests(&b.offer(1, &[1])), [(1, 1)]);
    assert_eq!(requests(&b.join_as(3, FARTHER, false, &[0])), [(3, 0)]);
    let left = b.step(Input::Left { peer: 1 });
    assert_eq!(requests(&left), [(2, 1)]);
}

#[test]
fn who_stays_far_behind_is_replaced_if_there_is_somebody() {
    let run = |spare: usize| {
        let mut b = Bench::new(900);
        b.step(Input::Spare { peers: spare });
        let all: Vec<u32> = (0..900).collect();
        (1..=5).for_each(|p| drop(b.join(p, &all)));
        let mut dropped = Vec::new();
        for _ in 0..250 {
            let mut out = b.tick(100);
            let flights: Vec<_> = b.fetch.flights.iter().collect();
            for peer in 2..=5 {
                if let Some((piece, _)) = flights.iter().find(|(_, a)| a == &[peer]) {
                    out.extend(b.verified(peer, piece.0));
                }
            }
            dropped.extend(out.into_iter().filter(|o| matches!(o, Output::Drop { .. })));
        }
        dropped
    };
    assert_eq!(run(3), [Output::Drop { peer: 1 }]);
    assert_eq!(run(0), []);
}

#[test]
fn not_all_that_peers_have_room_for_is_asked_for() {
    let mut b = Bench::new(900);
    let all: Vec<u32> = (0..900).collect();
    (0..20).for_each(|p| drop(b.join(p, &all)));
    assert_eq!(b.fetch.flights.asks(), 8);
}

#[test]
fn a_late_piece_is_asked_of_one_other_and_the_loser_is_cancelled() {
    let mut b = Bench::new(6);
    b.join(1, &[0]);
    b.join(2, &[1, 2, 3, 4]);
    (1..5).for_each(|i| drop(b.verified(2, i)));
    // piece 5 is still wanted, so this is not the endgame
    b.step(Input::Has { peer: 2, pieces: vec![PieceIndex(0)] });
    assert_eq!(b.tick(1500), []);
    assert_eq!(requests(&b.tick(600)), [(2, 0)]);
    b.join(3, &[0]);
    assert_eq!(b.tick(10_000), []);
    let out = b.verified(2, 0);
    assert_eq!(out[0], Output::Cancel { peer: 1, piece: PieceIndex(0) });
    // silent for long: one request at a time from now on
    let more = b.step(Input::Has { peer: 1, pieces: vec![PieceIndex(5)] });
    assert_eq!(requests(&more), [(1, 5)]);
}

#[test]
fn the_last_pieces_are_asked_of_two() {
    let mut b = Bench::new(12);
    let all: Vec<u32> = (0..12).collect();
    b.join(1, &all);
    let mut out: Vec<_> = b.fetch.flights.iter().map(|(p, _)| p.0).collect();
    while let Some(piece) = out.pop() {
        if b.fetch.have.count() == 10 {
            out.push(piece);
            break;
        }
        out.extend(requests(&b.verified(1, piece)).into_iter().map(|(_, i)| i));
    }
    assert_eq!(b.fetch.flights.pieces(), 2);
    b.join(2, &all);
    b.join(3, &all);
    let twice = requests(&b.tick(200));
    assert_eq!(twice.len(), 2);
    assert!(twice.iter().all(|(p, _)| *p != 1));
    assert_eq!(b.tick(200), []);
}

#[test]
fn the_pipeline_follows_the_path_and_is_bounded() {
    // 10 ms to answer, then a piece each millisecond: the path holds about ten
    let mut b = Bench::new(60_000 / 64);
    let all: Vec<u32> = (0..b.fetch.have.pieces()).collect();
    let mut queue: Vec<_> = requests(&b.join(1, &all)).into_iter().map(|r| (b.now, r.1)).collect();
    let mut deepest = 0;
    let mut last = b.now;
    for _ in 0..600 {
        let (since, piece) = queue.remove(0);
        b.now = (since + Duration::from_millis(10)).max(last + Duration::from_millis(1));
        last = b.now;
        let out = b.step(Input::Verified { peer: 1, piece: PieceIndex(piece) });
        queue.extend(requests(&out).into_iter().map(|r| (last, r.1)));
        deepest = deepest.max(queue.len());
    }
    assert!((18..=24).contains(&deepest), "{deepest}");
    b.fetch.limits.in_flight = 4 * PIECE;
    while queue.len() > 4 {
        let (_, piece) = queue.remove(0);
        let mut out = Vec::new();
        let input = Input::Verified { peer: 1, piece: PieceIndex(piece) };
        b.fetch.step(b.now, &mut b.rng, input, &mut out);
        assert_eq!(requests(&out).len(), usize::from(queue.len() < 4));
    }
}

#[derive(Debug, Clone)]
enum Act {
    Join(u8, Vec<u32>),
    Has(u8, u32),
    Left(u8),
    Deliver(usize),
    Bad(usize),
    Refuse(usize, Refusal),
    Stray(u8, u32),
    Seed(u8, bool),
    Offer(u8, u32),
    Free(u8),
    Far(u8, u32),
    Members(u64),
    Tick(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let peer = || 0u8..6;
    let reason = prop_oneof![Just(Refusal::Busy), Just(Refusal::Missing)];
    prop_oneof![
        3 => (peer(), prop::collection::btree_set(0u32..70, 0..70))
            .prop_map(|(p, s)| Act::Join(p, s.into_iter().collect())),
        3 => (peer(), 0u32..70).prop_map(|(p, i)| Act::Has(p, i)),
        1 => peer().prop_map(Act::Left),
        12 => any::<usize>().prop_map(Act::Deliver),
        1 => any::<usize>().prop_map(Act::Bad),
        4 => (any::<usize>(), reason).prop_map(|(n, r)| Act::Refuse(n, r)),
        1 => (peer(), 0u32..75).prop_map(|(p, i)| Act::Stray(p, i)),
        4 => (0u64..4000).prop_map(Act::Tick),
        1 => (peer(), any::<bool>()).prop_map(|(p, far)| Act::Seed(p, far)),
        3 => (peer(), 0u32..70).prop_map(|(p, i)| Act::Offer(p, i)),
        1 => peer().prop_map(Act::Free),
        2 => (peer(), 0u32..70).prop_map(|(p, i)| Act::Far(p, i)),
        1 => any::<u64>().prop_map(Act::Members),
    ]
}

#[test]
fn a_fetch_that_is_held_asks_for_nothing_and_goes_on_where_it_was() {
    let mut bench = Bench::new(40);
    let all: Vec<u32> = (0..40).collect();
    bench.fetch.set_in_flight(0);
    assert_eq!(bench.join(1, &all), []);
    assert_eq!(bench.tick(10_000), [], "it does not say that it starves either");
    bench.fetch.set_in_flight(PIECE / 2);
    let asked = bench.tick(100);
    assert_eq!(asked.len(), 1, "a single piece always may be: {asked:?}");
    let Output::Request { piece, .. } = asked[0] else { panic!("{asked:?}") };
    bench.fetch.set_in_flight(0);
    assert_eq!(bench.verified(1, piece.0), []);
    assert_eq!(bench.tick(100), []);
    bench.fetch.set_in_flight(Limits::default().in_flight);
    assert!(bench.tick(100).len() > 1);
}

proptest! {
    #[test]
    fn any_events_keep_the_invariants_and_a_good_peer_completes(
        acts in prop::collection::vec(act(), 0..120),
    ) {
        let mut b = Bench::new(70);
        let mut asked: Vec<(u8, u32)> = Vec::new();
        let mut acts = acts.into_iter();
        // in the end a peer joins that has everything and never fails
        let good = 200u8;
        let mut rounds = 0;
        while !b.fetch.have.is_full() {
            let out = match acts.next() {
                Some(Act::Join(p, have)) => b.join(p, &have),
                Some(Act::Has(p, i)) => b.step(Input::Has { peer: p, pieces: vec![PieceIndex(i)] }),
                Some(Act::Left(p)) => b.step(Input::Left { peer: p }),
                Some(Act::Deliver(n)) if !asked.is_empty() => {
                    let (p, i) = asked.swap_remove(n % asked.len());
                    b.verified(p, i)
                }
                Some(Act::Bad(n)) if !asked.is_empty() => {
                    let (p, i) = asked.swap_remove(n % asked.len());
                    b.step(Input::Bad { peer: p, piece: PieceIndex(i) })
                }
                Some(Act::Refuse(n, r)) if !asked.is_empty() => {
                    let (p, i) = asked.swap_remove(n % asked.len());
                    b.refused(p, i, r)
                }
                Some(Act::Stray(p, i)) if i < 70 => b.verified(p, i),
                Some(Act::Tick(t)) => b.tick(t),
                Some(Act::Seed(p, far)) => {
                    let place = if far { FAR } else { Place::Rack };
                    b.join_as(p, place, true, &(0..70).collect::<Vec<_>>())
                }
                Some(Act::Offer(p, i)) => b.offer(p, &[i]),
                Some(Act::Free(p)) => b.step(Input::Free { peer: p }),
                Some(Act::Far(p, i)) => b.join_as(p, FARTHER, false, &[i]),
                Some(Act::Members(own)) => {
                    b.step(Input::Members { own, others: vec![(9, own / 2), (10, !own)] })
                }
                Some(_) => continue,
                None if rounds == 0 => {
                    (0..6).for_each(|p| drop(b.step(Input::Left { peer: p })));
                    asked.clear();
                    rounds = 1;
                    b.join(good, &(0..70).collect::<Vec<_>>())
                }
                None => {
                    rounds += 1;
                    prop_assert!(rounds < 500, "never completes");
                    match asked.pop() {
                        Some((p, i)) => b.verified(p, i),
                        None => b.tick(1000),
                    }
                }
            };
            for o in out {
                match o {
                    Output::Request { peer, piece } => {
                        prop_assert!(b.fetch.peers[&peer].have.get(piece));
                        asked.push((peer, piece.0));
                    }
                    Output::Cancel { peer, piece } => {
                        // of what is on its way, an offer is declined
                        let known = b.fetch.have.get(piece) || b.fetch.flights.contains(piece);
                        prop_assert!(known);
                        asked.retain(|a| *a != (peer, piece.0));
                    }
                    Output::Ban { peer, .. } => {
                        prop_assert!(peer != good);
                        asked.retain(|a| a.0 != peer);
                    }
                    Output::Complete => prop_assert!(b.fetch.have.is_full()),
                    Output::Starved => {}
                    Output::Drop { .. } => prop_assert!(false, "there is nobody to use instead"),
                }
            }
        }
    }
}

/// 64 GiB in pieces of 4 MiB from 20 peers, all of them partial: a step stays cheap.
#[test]
fn a_large_image_is_scheduled_fast() {
    let pieces = 16_384;
    let blob = BlobRef::new(Hash([0; 32]), 64 << 30).unwrap();
    assert_eq!(blob.pieces(), pieces);
    let limits = Limits { in_flight: 1 << 30, ..Limits::default() };
    let mut fetch = Fetch::new(blob, Bitmap::new(pieces), limits);
    let mut rng = StdRng::seed_from_u64(3);
    let mut out = Vec::new();
    for peer in 0..20u32 {
        let mut have = Bitmap::new(pieces);
        (0..pieces).filter(|i| peer == 0 || (i * 7 + peer) % 3 != 0).for_each(|i| {
            have.set(PieceIndex(i));
        });
        fetch.step(
            Duration::ZERO,
            &mut rng,
            Input::Joined { peer, place: Place::Site, seeding: false, have },
            &mut out,
        );
    }
    let began = std::time::Instant::now();
    let (mut queue, mut now, mut steps) = (std::collections::VecDeque::new(), 0, 0);
    while !fetch.have().is_full() {
        queue.extend(out.drain(..));
        now += 100;
        let input = match queue.pop_front() {
            Some(Output::Request { peer, piece }) => Input::Verified { peer, piece },
            _ => Input::Tick,
        };
        fetch.step(Duration::from_micros(now), &mut rng, input, &mut out);
        steps += 1;
    }
    let each = began.elapsed() / steps;
    println!("{steps} steps, {each:?} each");
    assert!(each < Duration::from_micros(500), "{each:?} per step");
}
