//! Which mirror sends which part of a file. Pure: the threads ask, and tell what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Mirrors in use at once; the others take the place of those that fail.
pub(super) const AT_ONCE: usize = 4;
/// How long a mirror is left alone after its first failure in a row, and after its second; after the third it
/// is used no more.
pub(super) const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// A mirror that sent so many parts damaged is used no more.
const DAMAGED: usize = 3;

/// What a mirror is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send this part.
    Part(usize),
    /// Nothing now: others do it. It may be asked later.
    Wait,
    /// Nothing any more: all is here, or the mirror is out.
    Stop,
}

#[derive(Debug, Default)]
struct Mirror {
    bytes: u64,
    in_a_row: usize,
    /// Parts that were not what they should be.
    damaged: usize,
    /// It is left alone until then.
    until: Option<Instant>,
    is_out: bool,
    /// Why it failed last.
    reason: Option<String>,
}

impl Mirror {
    fn rests(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// What a mirror did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What it sent that was used.
    pub(super) bytes: u64,
    /// Why it failed last.
    pub(super) reason: Option<String>,
    /// Whether something that it sent was not what it should be.
    pub(super) damaged: bool,
}

/// A download under way.
#[derive(Debug)]
pub(super) struct Plan {
    len: u64,
    part_len: u64,
    parts: usize,
    /// The first part that was not begun, nor any after it.
    fresh: usize,
    /// Parts that were begun, and did not come.
    again: BTreeSet<usize>,
    /// Parts on their way, and the mirrors that send them.
    doing: BTreeMap<usize, Vec<usize>>,
    mirrors: Vec<Mirror>,
}

impl Plan {
    /// A file of `len` bytes in parts, from so many mirrors.
    pub(super) fn new(len: u64, part_len: u64, mirrors: usize) -> Self {
        let parts = usize::try_from(len.div_ceil(part_len.max(1))).unwrap_or(usize::MAX);
        Self {
            len,
            part_len: part_len.max(1),
            parts,
            fresh: 0,
            again: BTreeSet::new(),
            doing: BTreeMap::new(),
            mirrors: (0..mirrors).map(|_| Mirror::default()).collect(),
        }
    }

    /// The bytes of a part.
    pub(super) fn range(&self, part: usize) -> Range<u64> {
        let start = (part as u64).saturating_mul(self.part_len).min(self.len);
        start..start.saturating_add(self.part_len).min(self.len)
    }

    /// What a mirror is to do next. Once every part is on its way, those that one mirror alone
    /// sends are asked of a second.
    pub(super) fn next(&mut self, mirror: usize, now: Instant) -> Next {
        let Some(state) = self.mirrors.get(mirror).filter(|m| !m.is_out && !self.is_complete())
        else {
            return Next::Stop;
        };
        let better = self.mirrors.iter().take(mirror).filter(|m| !m.is_out).count();
        if better >= AT_ONCE || state.rests(now) {
            return Next::Wait;
        }
        let part = self.again.pop_first().or_else(|| self.begin()).or_else(|| {
            let alone = |(part, by): (&usize, &Vec<usize>)| {
                (by.len() == 1 && !by.contains(&mirror)).then_some(*part)
            };
            self.doing.iter().find_map(alone)
        });
        let Some(part) = part else { return Next::Wait };
        self.doing.entry(part).or_default().push(mirror);
        Next::Part(part)
    }

    fn begin(&mut self) -> Option<usize> {
        let part = (self.fresh < self.parts).then_some(self.fresh)?;
        self.fresh += 1;
        Some(part)
    }

    /// A part is here. Whether it was not before.
    pub(super) fn done(&mut self, mirror: usize, part: usize) -> bool {
        let bytes = self.range(part);
        let new = self.doing.remove(&part).is_some();
        if let Some(mirror) = self.mirrors.get_mut(mirror) {
            mirror.in_a_row = 0;
            mirror.until = None;
            mirror.bytes += if new { bytes.end - bytes.start } else { 0 };
        }
        new
    }

    /// A mirror did not send a part. What fails while it rests was on its way already, and does not count.
    pub(super) fn failed(&mut self, mirror: usize, part: usize, reason: String, now: Instant) {
        self.give_back(mirror, part);
        let Some(mirror) = self.mirrors.get_mut(mirror) else { return };
        mirror.reason = Some(reason);
        if !mirror.rests(now) {
            let pause = PAUSES.get(mirror.in_a_row);
            mirror.in_a_row += 1;
            mirror.until = pause.and_then(|pause| now.checked_add(*pause));
            mirror.is_out |= pause.is_none();
        }
    }

    /// A mirror sent a part that is not what it should be.
    pub(super) fn damaged(&mut self, mirror: usize, part: usize) {
        self.give_back(mirror, part);
        if let Some(mirror) = self.mirrors.get_mut(mirror) {
            mirror.damaged += 1;
            mirror.is_out |= mirror.damaged >= DAMAGED;
            mirror.reason = Some("what it sends is damaged".to_owned());
        }
    }

    fn give_back(&mut self, mirror: usize, part: usize) {
        if let Some(by) = self.doing.get_mut(&part) {
            by.retain(|m| *m != mirror);
            if by.is_empty() {
                self.doing.remove(&part);
                self.again.insert(part);
            }
        }
    }

    /// A mirror is of no use at all.
    pub(super) fn refuse(&mut self, mirror: usize, reason: String) {
        if let Some(mirror) = self.mirrors.get_mut(mirror) {
            mirror.is_out = true;
            mirror.reason = Some(reason);
        }
    }

    /// Whether all is here.
    pub(super) fn is_complete(&self) -> bool {
        self.fresh >= self.parts && self.again.is_empty() && self.doing.is_empty()
    }

    /// Whether a part that is asked of two has come from the other meanwhile.
    pub(super) fn is_here(&self, part: usize) -> bool {
        part < self.fresh && !self.again.contains(&part) && !self.doing.contains_key(&part)
    }

    /// What each mirror gave, and why it failed last.
    pub(super) fn outcome(&self) -> Vec<Outcome> {
        let outcome = |m: &Mirror| Outcome {
            bytes: m.bytes,
            reason: m.reason.clone(),
            damaged: m.damaged > 0,
        };
        self.mirrors.iter().map(outcome).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_part_is_shorter_and_an_empty_file_has_none() {
        let plan = Plan::new(10, 4, 1);
        assert_eq!([0, 1, 2].map(|p| plan.range(p)), [0..4, 4..8, 8..10]);
        assert!(Plan::new(0, 4, 1).is_complete());
    }

    #[test]
    fn a_slow_mirror_does_not_hold_up_the_end() {
        let (mut plan, now) = (Plan::new(8, 4, 2), Instant::now());
        assert_eq!((plan.next(0, now), plan.next(1, now)), (Next::Part(0), Next::Part(1)));
        assert!(plan.done(1, 1));
        assert_eq!(plan.next(1, now), Next::Part(0), "as well as the first");
        assert_eq!(plan.next(1, now), Next::Wait, "not three times");
        assert!(plan.done(1, 0) && plan.is_here(0));
        assert!(!plan.done(0, 0), "too late");
        assert_eq!((plan.next(0, now), plan.is_complete()), (Next::Stop, true));
        assert_eq!(plan.outcome().iter().map(|o| o.bytes).collect::<Vec<_>>(), [0, 8]);
    }

    #[test]
    fn a_mirror_that_fails_rests_and_is_out_after_the_third_time() {
        let (mut plan, mut now) = (Plan::new(8, 4, 1), Instant::now());
        for pause in PAUSES {
            assert_eq!((plan.next(0, now), plan.next(0, now)), (Next::Part(0), Next::Part(1)));
            // both connections fail, which is one failure
            plan.failed(0, 0, "503".to_owned(), now);
            plan.failed(0, 1, "503".to_owned(), now);
            assert_eq!(plan.next(0, now + pause - Duration::from_millis(1)), Next::Wait);
            now += pause;
        }
        assert_eq!(plan.next(0, now), Next::Part(0));
        plan.failed(0, 0, "503".to_owned(), now);
        assert_eq!((plan.next(0, now + PAUSES[1]), plan.is_complete()), (Next::Stop, false));
    }

    #[test]
    fn a_mirror_that_sends_damage_is_out_though_other_parts_are_right() {
        let (mut plan, now) = (Plan::new(100, 1, 1), Instant::now());
        for _ in 0..DAMAGED {
            let (Next::Part(good), Next::Part(bad)) = (plan.next(0, now), plan.next(0, now)) else {
                panic!("it is not out yet: {plan:?}")
            };
            plan.done(0, good);
            plan.damaged(0, bad);
        }
        assert_eq!(plan.next(0, now), Next::Stop);
        assert!(plan.outcome()[0].damaged);
    }

    #[test]
    fn a_file_of_countless_parts_takes_no_room() {
        let (mut plan, now) = (Plan::new(u64::MAX, 1, 1), Instant::now());
        assert_eq!((plan.next(0, now), plan.next(0, now)), (Next::Part(0), Next::Part(1)));
        assert!(plan.done(0, 1) && plan.is_here(1) && !plan.is_here(0) && !plan.is_here(2));
        plan.failed(0, 0, "no".to_owned(), now);
        assert_eq!(plan.next(0, now + PAUSES[0]), Next::Part(0));
        assert!(plan.again.len() + plan.doing.len() <= 2);
        assert_eq!(plan.range(usize::MAX), u64::MAX..u64::MAX);
    }

    #[test]
    fn who_fails_is_replaced_by_who_waits() {
        let (mut plan, now) = (Plan::new(100, 1, 6), Instant::now());
        (0..4).for_each(|m| assert!(matches!(plan.next(m, now), Next::Part(_))));
        assert_eq!((plan.next(4, now), plan.next(5, now)), (Next::Wait, Next::Wait));
        plan.refuse(2, "gone".to_owned());
        assert_eq!((plan.next(2, now), plan.next(4, now)), (Next::Stop, Next::Part(4)));
        assert_eq!(plan.next(5, now), Next::Wait);
    }

    proptest! {
        /// Whatever fails, every part comes as long as one mirror works.
        #[test]
        fn all_comes_while_one_mirror_works(
            len in 0u64..200, part in 1u64..20, bad in proptest::collection::vec(any::<bool>(), 0..5),
            order in proptest::collection::vec(0usize..6, 0..50),
        ) {
            let mirrors = bad.len() + 1;
            let (mut plan, mut now) = (Plan::new(len, part, mirrors), Instant::now());
            let mut here = vec![0u8; usize::try_from(len).unwrap()];
            let mut turns = order.into_iter().chain((0..).map(|n| n % 6)).map(|m| m % mirrors);
            for _ in 0..10_000 {
                now += Duration::from_millis(1);
                if plan.is_complete() {
                    break;
                }
                let mirror = turns.next().unwrap();
                let Next::Part(part) = plan.next(mirror, now) else { continue };
                if bad.get(mirror) == Some(&true) {
                    plan.failed(mirror, part, "no".to_owned(), now);
                } else if plan.done(mirror, part) {
                    plan.range(part).for_each(|at| here[usize::try_from(at).unwrap()] += 1);
                }
            }
            prop_assert!(plan.is_complete());
            prop_assert!(here.iter().all(|n| *n == 1));
            prop_assert_eq!(plan.outcome().iter().map(|o| o.bytes).sum::<u64>(), len);
        }
    }
}
