//! Which part of each author's log a node has: ranges of sequence numbers, per life of the author.
//!
//! A number is *covered* when its cell is held, or is known to have been replaced by a later cell
//! of the same place. So heads and gaps say what is missing although replaced cells are gone.
//! The second is hearsay: see [`crate::store`] for how far it counts.

use serde::{Deserialize, Serialize};

/// Most ranges one log may have on the wire: more are a log with more holes than it can have.
pub const MAX_RANGES: usize = 4096;

/// A set of numbers, as sorted, disjoint, not touching, inclusive ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges(Vec<(u64, u64)>);

impl TryFrom<Vec<(u64, u64)>> for Ranges {
    type Error = &'static str;

    fn try_from(raw: Vec<(u64, u64)>) -> Result<Self, Self::Error> {
        if raw.len() > MAX_RANGES {
            return Err("too many ranges");
        }
        let mut ranges = Self::default();
        for (low, high) in raw {
            if low > high || low == 0 {
                return Err("a range ends before it begins, or begins at zero");
            }
            ranges.add(low, high);
        }
        Ok(ranges)
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0
    }
}

impl Ranges {
    /// All numbers from 1 to `high`.
    #[must_use]
    pub fn up_to(high: u64) -> Self {
        let mut ranges = Self::default();
        if high > 0 {
            ranges.add(1, high);
        }
        ranges
    }

    /// Adds `low..=high`.
    pub fn add(&mut self, low: u64, high: u64) {
        let (mut low, mut high) = (low, high);
        // first range that touches or lies behind; first range that lies behind without touching
        let from = self.0.partition_point(|(_, end)| end.saturating_add(1) < low);
        let to = self.0.partition_point(|(start, _)| *start <= high.saturating_add(1));
        if let Some(touched) = self.0.get(from..to) {
            for (start, end) in touched {
                low = low.min(*start);
                high = high.max(*end);
            }
        }
        let to = to.max(from);
        self.0.splice(from..to, [(low, high)]);
    }

    /// Whether `n` is in the set.
    #[must_use]
    pub fn contains(&self, n: u64) -> bool {
        let at = self.0.partition_point(|(_, end)| *end < n);
        self.0.get(at).is_some_and(|(start, _)| *start <= n)
    }

    /// Adds all of another set.
    pub fn add_all(&mut self, other: &Self) {
        for (low, high) in &other.0 {
            self.add(*low, *high);
        }
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut out = Vec::new();
        for &(low, high) in &self.0 {
            // what is left of the range; nothing once a range of `other` reaches beyond it
            let mut left = Some(low);
            let first = other.0.partition_point(|(_, end)| *end < low);
            for &(start, end) in other.0.iter().skip(first) {
                let Some(low) = left.filter(|low| start <= high && *low <= high) else { break };
                if start > low {
                    out.push((low, start - 1));
                }
                left = end.checked_add(1).map(|next| next.max(low));
            }
            out.extend(left.filter(|low| *low <= high).map(|low| (low, high)));
        }
        Self(out)
    }

    /// What is here and not above `last`.
    #[must_use]
    pub fn up_to_last(&self, last: u64) -> Self {
        let whole = self.0.iter().take_while(|(low, _)| *low <= last);
        Self(whole.map(|(low, high)| (*low, (*high).min(last))).collect())
    }

    /// The first `n` ranges.
    #[must_use]
    pub fn first(mut self, n: usize) -> Self {
        self.0.truncate(n);
        self
    }

    /// How many ranges there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The greatest number; 0 when empty.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.0.last().map_or(0, |(_, high)| *high)
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(pairs: &[(u64, u64)]) -> BTreeSet<u64> {
        pairs.iter().flat_map(|(a, n)| *a..=a + n).collect()
    }

    fn ranges(pairs: &[(u64, u64)]) -> Ranges {
        let mut r = Ranges::default();
        pairs.iter().for_each(|(a, n)| r.add(*a, a + n));
        r
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(a in proptest::collection::vec((1u64..40, 0u64..6), 0..8),
                            b in proptest::collection::vec((1u64..40, 0u64..6), 0..8)) {
            let (ra, rb) = (ranges(&a), ranges(&b));
            let (sa, sb) = (set(&a), set(&b));
            for n in 1..50 {
                prop_assert_eq!(ra.contains(n), sa.contains(&n));
                prop_assert_eq!(ra.minus(&rb).contains(n), sa.contains(&n) && !sb.contains(&n));
                prop_assert_eq!(ra.up_to_last(n).max(), sa.range(..=n).last().copied().unwrap_or(0));
            }
            prop_assert_eq!(ra.max(), sa.last().copied().unwrap_or(0));
            // canonical: equal sets are equal values, also after a trip through the wire
            let again: Ranges = Vec::from(ra.clone()).try_into().unwrap();
            prop_assert_eq!(&again, &ra);
            let mut reversed = a.clone();
            reversed.reverse();
            prop_assert_eq!(ranges(&reversed), ra);
        }
    }

    #[test]
    fn edges() {
        let mut r = Ranges::default();
        r.add(u64::MAX, u64::MAX);
        r.add(1, u64::MAX - 1);
        assert_eq!(r.iter().collect::<Vec<_>>(), [(1, u64::MAX)]);
        assert!(r.minus(&r).is_empty());
        let mut tail = Ranges::default();
        tail.add(61, u64::MAX);
        assert_eq!(r.minus(&tail), Ranges::up_to(60));
        assert_eq!(r.minus(&Ranges::up_to(60)), tail);
        assert!(Ranges::try_from(vec![(3, 2)]).is_err());
        assert!(Ranges::try_from(vec![(0, 2)]).is_err());
    }
}
