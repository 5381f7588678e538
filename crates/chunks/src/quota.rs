//! Which blobs go when there is no room. Pure: who holds the store says what there is, what of it is
//! needed, and how much room there is; nothing here touches a disk.
//!
//! Above the high water blobs that nobody needs are removed, those used the longest ago first, until
//! the low water is reached: in between nothing is removed, so that a store that is nearly full does
//! not lose a blob with each that comes. What is needed is never removed.

use std::fmt;
use std::str::FromStr;

use p2pinst_types::{Hash, Millis};
use thiserror::Error;

/// A number of bytes, or a part of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths, at most 100.
    Percent(u8),
}

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no size: write 20GB, 512MiB, a number of bytes, or 80%")]
pub struct SizeError(String);

/// Units by powers of 1000 and of 1024; longer names before those that end like them.
const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

impl FromStr for Size {
    type Err = SizeError;

    /// `20GB`, `512 MiB`, `1048576`, `80%`.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let wrong = || SizeError(text.chars().take(40).collect());
        let lower = text.trim().to_ascii_lowercase();
        if let Some(percent) = lower.strip_suffix('%') {
            let percent = percent.trim().parse().ok().filter(|p| *p <= 100);
            return percent.map(Self::Percent).ok_or_else(wrong);
        }
        let unit =
            UNITS.into_iter().find_map(|(name, unit)| Some((lower.strip_suffix(name)?, unit)));
        let (number, unit) = unit.unwrap_or((&lower, 1));
        let number: u64 = number.trim_end().parse().map_err(|_| wrong())?;
        number.checked_mul(unit).map(Self::Bytes).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => {
                let fits = |(_, unit): &(&str, u64)| *bytes > 0 && bytes.is_multiple_of(*unit);
                let best = UNITS.into_iter().filter(fits).max_by_key(|(_, unit)| *unit);
                match best {
                    Some((name, unit)) if unit > 1 => {
                        let name = name.to_ascii_uppercase().replace("IB", "iB");
                        write!(f, "{}{name}", bytes / unit)
                    }
                    _ => write!(f, "{bytes}"),
                }
            }
        }
    }
}

impl Size {
    /// In bytes; a part of `whole`.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let part = u128::from(whole) * u128::from(percent) / 100;
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }
}

/// What a store may take of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The most that its blobs take, of what they have and what is free: the high water.
    pub most: Size,
    /// Down to what it is emptied, of the high water.
    pub low: Size,
    /// What stays free, of what the blobs have and what is free.
    pub free: Size,
}

impl Default for Quota {
    /// 80 % of the room; down to 90 % of that; 10 % of the room stay free.
    fn default() -> Self {
        Self { most: Size::Percent(80), low: Size::Percent(90), free: Size::Percent(10) }
    }
}

/// A quota on a disk as it is now, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Above this blobs are removed.
    pub high: u64,
    /// Down to this.
    pub low: u64,
}

impl Quota {
    /// The limits where the blobs take `own` bytes and `free` are free on their disk. Others that use
    /// the same disk make the room smaller.
    #[must_use]
    pub fn limits(&self, own: u64, free: u64) -> Limits {
        let room = own.saturating_add(free);
        let high = self.most.of(room).min(room.saturating_sub(self.free.of(room)));
        Limits { high, low: self.low.of(high).min(high) }
    }
}

/// Whether a blob may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Somebody needs it: it stays.
    Needed,
    /// Whole, and nobody needs it.
    Spare,
    /// A part that nobody needs, and that nobody can install or ask for as a whole.
    Scrap,
}

/// A blob in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its root.
    pub root: Hash,
    /// Its length in bytes; a part has its whole room, too.
    pub bytes: u64,
    /// When it was used last.
    pub used: Millis,
    /// Whether it may go.
    pub hold: Hold,
}

/// What is to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// These blobs, in this order.
    pub remove: Vec<Item>,
    /// Bytes of all blobs before.
    pub before: u64,
    /// Bytes of all blobs afterwards.
    pub after: u64,
}

/// Plans what goes so that there is room for `coming` more bytes. Scrap that was used last before
/// `stale` goes in any case.
#[must_use]
pub fn plan(items: &[Item], coming: u64, limits: Limits, stale: Millis) -> Plan {
    let before = items.iter().fold(0u64, |sum, item| sum.saturating_add(item.bytes));
    let mut plan = Plan { remove: Vec::new(), before, after: before };
    let (old, mut rest): (Vec<Item>, Vec<Item>) = items
        .iter()
        .filter(|item| item.hold != Hold::Needed)
        .partition(|item| item.hold == Hold::Scrap && item.used < stale);
    for item in old {
        plan.take(item);
    }
    if plan.after.saturating_add(coming) <= limits.high {
        return plan;
    }
    // for what is larger than the low water the high water must do
    let goal = if coming > limits.low { limits.high } else { limits.low };
    rest.sort_by_key(|item| (item.hold == Hold::Spare, item.used, item.root));
    for item in rest {
        if plan.after.saturating_add(coming) <= goal {
            break;
        }
        plan.take(item);
    }
    plan
}

impl Plan {
    fn take(&mut self, item: Item) {
        self.after = self.after.saturating_sub(item.bytes);
        self.remove.push(item);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, want) in [
            ("20GB", Size::Bytes(20_000_000_000)),
            ("512 MiB", Size::Bytes(512 << 20)),
            ("1gib", Size::Bytes(1 << 30)),
            ("17", Size::Bytes(17)),
            ("17 b", Size::Bytes(17)),
            (" 80 % ", Size::Percent(80)),
        ] {
            assert_eq!(text.parse(), Ok(want), "{text}");
            assert_eq!(want.to_string().parse(), Ok(want), "{want}");
        }
        assert_eq!(Size::Bytes(512 << 20).to_string(), "512MiB");
        for bad in ["", "GB", "-1", "1.5GB", "101%", "20 GBB", "99999999999TB", "é"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_follow_the_disk() {
        let quota = Quota::default();
        assert_eq!(quota.limits(0, 1000), Limits { high: 800, low: 720 });
        assert_eq!(quota.limits(500, 500), Limits { high: 800, low: 720 });
        // others have filled the disk: the blobs have to give way
        assert_eq!(quota.limits(500, 0), Limits { high: 400, low: 360 });
        let bytes = Quota { most: Size::Bytes(600), ..quota };
        assert_eq!(bytes.limits(0, 1000).high, 600);
        assert_eq!(bytes.limits(0, 100).high, 90, "what is to stay free stays free");
        assert_eq!(quota.limits(u64::MAX, u64::MAX).high, u64::MAX / 100 * 80 + 12);
    }

    fn item(root: u8, bytes: u64, used: u64, hold: Hold) -> Item {
        Item { root: Hash([root; 32]), bytes, used: Millis(used), hold }
    }

    fn roots(plan: &Plan) -> Vec<u8> {
        plan.remove.iter().map(|i| i.root.0[0]).collect()
    }

    #[test]
    fn the_longest_unused_goes_first_and_scrap_before_it() {
        let items = [
            item(1, 100, 1, Hold::Needed),
            item(2, 100, 30, Hold::Spare),
            item(3, 100, 20, Hold::Spare),
            item(4, 100, 40, Hold::Scrap),
            item(5, 100, 10, Hold::Spare),
        ];
        let limits = Limits { high: 500, low: 300 };
        assert_eq!(roots(&plan(&items, 0, limits, Millis(0))), [0u8; 0]);
        assert_eq!(roots(&plan(&items, 1, limits, Millis(0))), [4, 5, 3]);
        assert_eq!(roots(&plan(&items, 0, limits, Millis(41))), [4], "scrap that is stale goes");
        assert_eq!(roots(&plan(&items, 350, limits, Millis(0))), [4, 5, 3, 2]);
        let none = Limits { high: 0, low: 0 };
        assert_eq!(roots(&plan(&items, 0, none, Millis(0))), [4, 5, 3, 2], "the needed stays");
    }

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let hold = prop::sample::select(vec![Hold::Needed, Hold::Spare, Hold::Scrap]);
        prop::collection::btree_map(any::<u8>(), (0u64..50, 0u64..20, hold), 0..20).prop_map(
            |map| {
                map.into_iter()
                    .map(|(root, (bytes, used, hold))| item(root, bytes, used, hold))
                    .collect()
            },
        )
    }

    proptest! {
        #[test]
        fn plans_keep_their_promises(
            items in items(),
            coming in 0u64..400,
            high in 0u64..600,
            low in 0u64..600,
            stale in 0u64..20,
        ) {
            let limits = Limits { high, low: low.min(high) };
            let stale = Millis(stale);
            let done = plan(&items, coming, limits, stale);
            let gone = |item: &Item| done.remove.contains(item);
            let left: Vec<Item> = items.iter().copied().filter(|i| !gone(i)).collect();
            // nothing that is needed, nothing twice, and the sums are right
            prop_assert!(done.remove.iter().all(|i| i.hold != Hold::Needed));
            prop_assert_eq!(left.len() + done.remove.len(), items.len());
            prop_assert_eq!(done.before, items.iter().map(|i| i.bytes).sum::<u64>());
            prop_assert_eq!(done.after, left.iter().map(|i| i.bytes).sum::<u64>());
            // scrap that is stale never stays
            prop_assert!(left.iter().all(|i| i.hold != Hold::Scrap || i.used >= stale));
            // with room nothing else goes; without room all goes that may, or there is room
            let forced: u64 = items.iter().filter(|i| i.hold == Hold::Scrap && i.used < stale).map(|i| i.bytes).sum();
            if done.before - forced + coming <= high {
                prop_assert_eq!(done.before - done.after, forced);
            } else {
                let goal = if coming > limits.low { high } else { limits.low };
                let room = done.after + coming <= goal;
                prop_assert!(room || left.iter().all(|i| i.hold == Hold::Needed));
                // not more than has to go
                if let Some(last) = done.remove.last() {
                    let was_forced = last.hold == Hold::Scrap && last.used < stale;
                    prop_assert!(was_forced || done.after + last.bytes + coming > goal);
                }
            }
            // whole blobs in the order of their use
            let key = |i: &Item| (i.used, i.root);
            let spare = |i: &&Item| i.hold == Hold::Spare;
            let newest = done.remove.iter().filter(spare).map(key).max();
            let oldest = left.iter().filter(spare).map(key).min();
            prop_assert!(newest.is_none() || oldest.is_none() || newest < oldest);
            // once is enough
            prop_assert_eq!(plan(&left, coming, limits, stale).remove, vec![]);
        }
    }
}
