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
        let blob = BlobRef::new(Hash([0; 32]), u64::from(pieces) * PIECE).unwrap();
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
        self.step(Input::Joined { peer, place: Place::Site, have: map })
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
            assert_eq!(state.useful, f.picker.useful(&state.have));
            let asked = f.flights.iter().filter(|(_, a)| a.contains(peer)).count();
            assert_eq!(state.asked as usize, asked, "peer {peer}");
            assert!(!f.banned.contains(peer));
            in_flight += asked;
        }
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
fn a_peer_with_one_bad_piece_is_out() {
    let mut b = Bench::new(4);
    b.join(1, &[0, 1, 2, 3]);
    let out = b.step(Input::Bad { peer: 1, piece: PieceIndex(0) });
    assert_eq!(out, [Output::Ban { peer: 1, reason: BanReason::BadPiece }, Output::Starved]);
    assert_eq!(b.join(1, &[0, 1, 2, 3]), []);
    assert_eq!(requests(&b.join(2, &[0, 1, 2, 3])).len(), 2);
    let past = b.step(Input::Has { peer: 2, pieces: vec![PieceIndex(4)] });
    assert_eq!(past[0], Output::Ban { peer: 2, reason: BanReason::NoSuchPiece });
    let odd = b.step(Input::Joined { peer: 3, place: Place::Site, have: Bitmap::new(5) });
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
fn what_was_given_away_is_asked_for_again_when_nothing_else_is_left() {
    let mut b = Bench::new(4);
    let out = requests(&b.join(1, &[0, 1, 2, 3]));
    let piece = out[0].1;
    let next = requests(&b.refused(1, piece, Refusal::GivenAway));
    assert!(next.len() == 1 && next[0].1 != piece);
    assert_eq!(b.tick(600), []);
    for (_, piece) in out.into_iter().skip(1).chain(next) {
        b.verified(1, piece);
    }
    let last = b.fetch.flights.iter().next().unwrap().0;
    b.verified(1, last.0);
    assert_eq!(requests(&b.tick(600)), [(1, piece)]);
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
    Tick(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let peer = || 0u8..6;
    let reason = prop_oneof![Just(Refusal::Busy), Just(Refusal::Missing), Just(Refusal::GivenAway)];
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
    ]
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
                        prop_assert!(b.fetch.have.get(piece));
                        asked.retain(|a| *a != (peer, piece.0));
                    }
                    Output::Ban { peer, .. } => {
                        prop_assert!(peer != good);
                        asked.retain(|a| a.0 != peer);
                    }
                    Output::Complete => prop_assert!(b.fetch.have.is_full()),
                    Output::Starved => {}
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
            Input::Joined { peer, place: Place::Site, have },
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
