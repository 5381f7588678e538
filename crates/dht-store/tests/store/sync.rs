//! Two stores that exchange heads, gaps and cells end alike: over a lossy line, with small
//! messages, from any beginnings, with a liar between them.

use dht_store::Store;
use dht_store::answer::{Asked, answer};
use dht_store::coverage::Ranges;
use dht_store::placement::Ring;
use dht_store::sync::{Given, Moved, Part, Session, Want, compare, rest};
use dht_store::wire::{Request, Response};
use p2pinst_trust::fixture::{LIFE, Lab};
use p2pinst_types::{Cell, Kind, Version};
use proptest::prelude::*;

use crate::world::{LATER, apply, cells, seen, store};

/// `to` asks `from` for some parts. `lost` says for each message whether it is.
fn pull(
    to: &mut Store,
    from: &Store,
    parts: Vec<Part>,
    budget: usize,
    lost: &mut impl FnMut() -> bool,
) {
    let mut asked = parts;
    for messages in 0.. {
        assert!(messages < 1000, "no end of {asked:?}");
        if asked.is_empty() {
            return;
        }
        let (cells, covered) = from.select(&asked, budget);
        assert!(cells.len() < 2 || cells.iter().map(|c| c.bytes().len()).sum::<usize>() <= budget);
        if lost() {
            return;
        }
        to.apply(cells, &covered, LATER).unwrap();
        asked = rest(&asked, &covered);
    }
}

/// One sync, as the node does it: `a` begins it, `b` answers. Returns what it moved.
fn session(a: &mut Store, b: &mut Store) -> Moved {
    let ring = Ring::new(*a.views().roots.cluster(), []);
    let key = p2pinst_trust::fixture::key(1).public();
    let mut session = Session::default();
    let mut given = Given::Nothing;
    for steps in 0.. {
        assert!(steps < 1000, "no end");
        given = match session.step(given).unwrap() {
            Want::State => Given::State {
                digest: a.digest(),
                roots: a.views().roots.signed().len() as u64,
                logs: a.heads(),
                clock: LATER,
            },
            Want::Ask(Request::Push { cells, covered }) => {
                let cells = cells.into_iter().map(|c| Cell::parse(c.0).unwrap()).collect();
                Given::Answer(Response::Outcomes(b.apply(cells, &covered, LATER).unwrap()))
            }
            Want::Ask(request) => {
                let asked = Asked { own: key, peer: key, ring: &ring, clock: LATER };
                Given::Answer(answer(b, request, asked).unwrap().unwrap())
            }
            Want::Apply { cells, covered } => {
                Given::Applied(a.apply(cells, &covered, LATER).unwrap())
            }
            Want::Select(parts) => {
                let (cells, covered) = a.select(&parts, 4000);
                Given::Selected(cells, covered)
            }
            Want::Extend(roots) => {
                a.extend_roots(&roots).unwrap();
                Given::Extended
            }
            Want::Nothing => break,
        };
    }
    session.moved()
}

/// One exchange over a line that may lose messages; says whether the two are the same.
fn sync(a: &mut Store, b: &mut Store, budget: usize, lost: &mut impl FnMut() -> bool) -> bool {
    if a.digest() == b.digest() {
        return true;
    }
    let difference = compare(&a.heads(), &b.heads());
    pull(a, b, difference.pull, budget, lost);
    pull(b, a, difference.push, budget, lost);
    a.digest() == b.digest()
}

pub(crate) fn converge(
    a: &mut Store,
    b: &mut Store,
    budget: usize,
    mut lost: impl FnMut() -> bool,
) {
    for _ in 0..400 {
        if sync(a, b, budget, &mut lost) {
            return;
        }
    }
    panic!("they do not converge: {:#?}", compare(&a.heads(), &b.heads()));
}

pub(crate) fn never() -> bool {
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_two_stores_converge(
        left in prop::sample::subsequence(cells().1, 0..=30),
        right in prop::sample::subsequence(cells().1, 0..=30),
        budget in 200usize..4000,
        seed in any::<u64>(),
    ) {
        let (lab, all) = cells();
        let ((_d1, mut a), (_d2, mut b)) = (store(&lab), store(&lab));
        apply(&mut a, &left);
        apply(&mut b, &right);
        let ((_d3, mut c), (_d4, mut d)) = (store(&lab), store(&lab));
        apply(&mut c, &left);
        apply(&mut d, &right);
        session(&mut c, &mut d);
        prop_assert_eq!(c.digest(), d.digest(), "one session is enough when nothing is lost");
        prop_assert_eq!(session(&mut d, &mut c), Moved::default());
        let mut chance = seed;
        converge(&mut a, &mut b, budget, || {
            // Knuth's MMIX; a third of the messages is lost
            chance = chance.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (chance >> 33).is_multiple_of(3)
        });
        prop_assert_eq!(seen(&a), seen(&b));
        // and what neither had comes to both by either
        apply(&mut a, &all);
        converge(&mut a, &mut b, budget, never);
        prop_assert_eq!(seen(&a), seen(&b));
        prop_assert_eq!(b.held(), 0);
    }
}

/// Numbers of replaced cells are not asked for again and again.
#[test]
fn replaced_cells_leave_no_gap() {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let ((_d1, mut a), (_d2, mut b)) = (store(&lab), store(&lab));
    apply(&mut a, &[lab.operator_grant.clone()]);
    for n in 1..100 {
        apply(&mut a, &[lab.group(&alice, "gpu", &format!("n{n}"))]);
    }
    converge(&mut a, &mut b, 1 << 20, never);
    assert_eq!(b.log(&alice.public(), LIFE), Some(&Ranges::up_to(99)));
    assert_eq!(compare(&a.heads(), &b.heads()), Default::default());
}

fn claim(lab: &Lab, low: u64, high: u64) -> Part {
    let mut ranges = Ranges::default();
    ranges.add(low, high);
    Part { author: lab.operator.public(), incarnation: LIFE, ranges }
}

/// A peer that says "you have it all" without giving a cell hides it until an honest one is met:
/// equal coverage with different digests is looked into, however long the log is.
#[test]
fn a_lie_about_coverage_does_not_hide_a_cell_for_ever() {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let ((_d1, mut honest), (_d2, mut victim)) = (store(&lab), store(&lab));
    let mut all = vec![lab.operator_grant.clone()];
    for n in 0..60 {
        all.push(lab.group(&alice, &format!("g{n}"), "n1"));
    }
    apply(&mut honest, &all);
    let kept: Vec<Cell> = all.iter().filter(|c| c.version.seq != 50).cloned().collect();
    victim.apply(kept, &[claim(&lab, 1, 60)], LATER).unwrap();
    assert_eq!(victim.log(&alice.public(), LIFE), Some(&Ranges::up_to(60)));
    assert_eq!(victim.views().groups.len(), 59);
    // small messages: the hidden cell is far behind the first
    assert!(sync(&mut victim, &mut honest, 600, &mut never), "one sync finds it");
    assert_eq!(victim.views().groups.len(), 60);
}

/// Claims count only below the last number that is held: nobody can put a number in an author's
/// log that it has not reached, and so stop it from writing, or hide what it will write.
#[test]
fn r4_claims_beyond_the_head_are_ignored() {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let (_dir, mut store) = store(&lab);
    let group = lab.group(&alice, "gpu", "n1");
    let newer = Part { incarnation: u64::MAX, ..claim(&lab, 1, u64::MAX) };
    let older = Part { incarnation: 1, ..claim(&lab, 1, u64::MAX) };
    let lies = [claim(&lab, 1, u64::MAX), newer, older];
    store.apply(vec![lab.operator_grant.clone(), group.clone()], &lies, LATER).unwrap();
    store.apply(vec![], &lies, LATER).unwrap();
    assert_eq!(store.head(&alice.public()), Version { incarnation: LIFE, seq: 1 });
    assert_eq!(store.log(&alice.public(), LIFE), Some(&Ranges::up_to(1)));
    let state = store.heads().into_iter().find(|l| l.author == alice.public()).unwrap();
    assert_eq!(state.lives, [(LIFE, Ranges::up_to(1))].into());
    // a later number is asked for, although "known"
    let next = claim(&lab, 2, 2);
    assert_ne!(store.select(std::slice::from_ref(&next), 1000).1, [next]);
}

/// Coverage of authors that nobody knows takes no memory, and does not show.
#[test]
fn claims_for_unknown_authors_are_ignored() {
    let (lab, all) = cells();
    let (_dir, mut store) = store(&lab);
    apply(&mut store, &all);
    let (digest, heads) = (store.digest(), store.heads().len());
    let lies: Vec<Part> = (0..2000)
        .map(|n| Part {
            author: p2pinst_trust::fixture::key(5000 + n).public(),
            ..claim(&lab, 1, 9)
        })
        .collect();
    store.apply(vec![], &lies, LATER).unwrap();
    assert_eq!((store.digest(), store.heads().len()), (digest, heads));
}

/// Beyond 256 authors the logs are compared by buckets, and only those that differ travel.
#[test]
fn many_authors_are_compared_by_buckets() {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let ((_d1, mut a), (_d2, mut b)) = (store(&lab), store(&lab));
    let invite = lab.invite(100, 400);
    let mut all = vec![lab.operator_grant.clone(), invite.cell.clone()];
    let nodes: Vec<_> = (0..300).map(|n| lab.node(&invite, 200 + n, &format!("n{n}"))).collect();
    all.push(lab.admit(&alice, &nodes[0]));
    for pair in nodes.windows(2) {
        all.push(lab.admit(&pair[0].key, &pair[1]));
    }
    apply(&mut a, &all);
    assert!(a.heads().len() > 256);
    let moved = session(&mut b, &mut a);
    assert_eq!((moved.pulled, moved.pushed), (all.len(), 0));
    assert_eq!(a.digest(), b.digest());
    let group = lab.group(&alice, "gpu", "n1");
    apply(&mut b, &[group]);
    assert_eq!(session(&mut b, &mut a), Moved { pulled: 0, pushed: 1 });
    assert_eq!(a.digest(), b.digest());
    assert_eq!(seen(&a), seen(&b));
}

/// A member that writes with holes, or in very many lives, does not blow up what is told of it.
#[test]
fn the_heads_of_an_odd_author_are_bounded() {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let ((_d1, mut a), (_d2, mut b)) = (store(&lab), store(&lab));
    let mut all = vec![lab.operator_grant.clone()];
    for n in 1..=300u64 {
        for version in
            [Version { incarnation: 1, seq: 2 * n }, Version { incarnation: 10 + n, seq: 1 }]
        {
            let subject = format!("{}-{}", version.incarnation, version.seq);
            let at = (version, lab.tick());
            all.push(lab.sign(&alice, (Kind(0x0300), subject.as_bytes()), at, vec![]));
        }
    }
    apply(&mut a, &all);
    let state = a.heads().into_iter().find(|l| l.author == alice.public()).unwrap();
    assert!(state.lives.values().all(|r| r.count() <= 64));
    assert!(state.lives.values().map(Ranges::count).sum::<usize>() <= 1024);
    apply(&mut b, &all);
    assert_eq!(a.digest(), b.digest());
}
