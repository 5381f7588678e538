//! Which mirror sends which part of a file. Pure: the threads ask, and tell what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Mirrors in use at once; the others take the place of those that fail.
const AT_ONCE: usize = 4;
/// A mirror that fails so often in a row is used no more.
const FAILURES: usize = 3;

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
    /// Why it failed last.
    reason: Option<String>,
}

impl Mirror {
    fn is_out(&self) -> bool {
        self.in_a_row >= FAILURES
    }
}

/// A download under way.
#[derive(Debug)]
pub(super) struct Plan {
    len: u64,
    part_len: u64,
    todo: BTreeSet<usize>,
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
            todo: (0..parts).collect(),
            doing: BTreeMap::new(),
            mirrors: (0..mirrors).map(|_| Mirror::default()).collect(),
        }
    }

    /// The bytes of a part.
    pub(super) fn range(&self, part: usize) -> Range<u64> {
        let start = (part as u64).saturating_mul(self.part_len).min(self.len);
        start..(start + self.part_len).min(self.len)
    }

    /// What a mirror is to do next. Once every part is on its way, those that one mirror alone
    /// sends are asked of a second.
    pub(super) fn next(&mut self, mirror: usize) -> Next {
        if self.is_complete() || self.mirrors.get(mirror).is_none_or(Mirror::is_out) {
            return Next::Stop;
        }
        let better = self.mirrors.iter().take(mirror).filter(|m| !m.is_out()).count();
        if better >= AT_ONCE {
            return Next::Wait;
        }
        let part = self.todo.pop_first().or_else(|| {
            let alone = |(part, by): (&usize, &Vec<usize>)| {
                (by.len() == 1 && !by.contains(&mirror)).then_some(*part)
            };
            self.doing.iter().find_map(alone)
        });
        let Some(part) = part else { return Next::Wait };
        self.doing.entry(part).or_default().push(mirror);
        Next::Part(part)
    }

    /// A part is here. Whether it was not before.
    pub(super) fn done(&mut self, mirror: usize, part: usize) -> bool {
        let bytes = self.range(part);
        let new = self.doing.remove(&part).is_some();
        if let Some(mirror) = self.mirrors.get_mut(mirror) {
            mirror.in_a_row = 0;
            mirror.bytes += if new { bytes.end - bytes.start } else { 0 };
        }
        new
    }

    /// A mirror did not send a part, or not the right one.
    pub(super) fn failed(&mut self, mirror: usize, part: usize, reason: String) {
        if let Some(by) = self.doing.get_mut(&part) {
            by.retain(|m| *m != mirror);
            if by.is_empty() {
                self.doing.remove(&part);
                self.todo.insert(part);
            }
        }
        if let Some(mirror) = self.mirrors.get_mut(mirror) {
            mirror.in_a_row += 1;
            mirror.reason = Some(reason);
        }
    }

    /// A mirror is of no use at all.
    pub(super) fn refuse(&mut self, mirror: usize, reason: String) {
        if let Some(mirror) = self.mirrors.get_mut(mirror) {
            mirror.in_a_row = FAILURES;
            mirror.reason = Some(reason);
        }
    }

    /// Whether all is here.
    pub(super) fn is_complete(&self) -> bool {
        self.todo.is_empty() && self.doing.is_empty()
    }

    /// Whether a part that is asked of two has come from the other meanwhile.
    pub(super) fn is_here(&self, part: usize) -> bool {
        !self.todo.contains(&part) && !self.doing.contains_key(&part)
    }

    /// What each mirror gave, and why it failed last.
    pub(super) fn outcome(&self) -> Vec<(u64, Option<String>)> {
        self.mirrors.iter().map(|m| (m.bytes, m.reason.clone())).collect()
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
        let mut plan = Plan::new(8, 4, 2);
        assert_eq!((plan.next(0), plan.next(1)), (Next::Part(0), Next::Part(1)));
        assert!(plan.done(1, 1));
        assert_eq!(plan.next(1), Next::Part(0), "as well as the first");
        assert_eq!(plan.next(1), Next::Wait, "not three times");
        assert!(plan.done(1, 0) && plan.is_here(0));
        assert!(!plan.done(0, 0), "too late");
        assert_eq!((plan.next(0), plan.is_complete()), (Next::Stop, true));
        assert_eq!(plan.outcome(), [(0, None), (8, None)]);
    }

    #[test]
    fn who_fails_is_replaced_by_who_waits() {
        let mut plan = Plan::new(100, 1, 6);
        (0..4).for_each(|m| assert!(matches!(plan.next(m), Next::Part(_))));
        assert_eq!((plan.next(4), plan.next(5)), (Next::Wait, Next::Wait));
        plan.refuse(2, "gone".to_owned());
        assert_eq!((plan.next(2), plan.next(4)), (Next::Stop, Next::Part(4)));
        assert_eq!(plan.next(5), Next::Wait);
    }

    proptest! {
        /// Whatever fails, every part comes as long as one mirror works.
        #[test]
        fn all_comes_while_one_mirror_works(
            len in 0u64..200, part in 1u64..20, bad in proptest::collection::vec(any::<bool>(), 0..5),
            order in proptest::collection::vec(0usize..6, 0..50),
        ) {
            let mirrors = bad.len() + 1;
            let mut plan = Plan::new(len, part, mirrors);
            let mut here = vec![0u8; usize::try_from(len).unwrap()];
            let mut turns = order.into_iter().chain((0..).map(|n| n % 6)).map(|m| m % mirrors);
            for _ in 0..10_000 {
                if plan.is_complete() {
                    break;
                }
                let mirror = turns.next().unwrap();
                let Next::Part(part) = plan.next(mirror) else { continue };
                if bad.get(mirror) == Some(&true) {
                    plan.failed(mirror, part, "no".to_owned());
                } else if plan.done(mirror, part) {
                    plan.range(part).for_each(|at| here[usize::try_from(at).unwrap()] += 1);
                }
            }
            prop_assert!(plan.is_complete());
            prop_assert!(here.iter().all(|n| *n == 1));
            prop_assert_eq!(plan.outcome().iter().map(|(bytes, _)| bytes).sum::<u64>(), len);
        }
    }
}
