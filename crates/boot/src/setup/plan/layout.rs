//! Where partitions lie on a disk.

use super::Refusal;
use crate::setup::document::{PartitionSetup, TableKind};
use crate::setup::found::{MIB, Stamp};
use crate::setup::size::Extent;

/// Where a partition lies, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) size: u64,
}

/// A partition that wants a place: how much it asks for, and the least that will do.
#[derive(Debug, Clone)]
pub(super) struct Wish<'a> {
    pub(super) setup: &'a PartitionSetup,
    pub(super) least: u64,
}

/// The disk that is laid out, for refusals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room<'a> {
    pub(super) number: usize,
    pub(super) which: &'a str,
    pub(super) size: u64,
    pub(super) sector: u32,
    pub(super) table: TableKind,
}

/// Lays partitions out one after the other from the first MiB to the stamp; all begin and end at whole MiB.
pub(super) fn lay_out(room: Room<'_>, wishes: &[Wish<'_>]) -> Result<Vec<Span>, Vec<Refusal>> {
    let mut end = Stamp::place(room.size);
    if room.table == TableKind::Dos {
        // its numbers of sectors have 32 bits
        end = end.min((u64::from(u32::MAX) * u64::from(room.sector)) / MIB * MIB);
    }
    let usable = end.saturating_sub(MIB);
    let too_small = |what: String, needs: u64, has: u64| Refusal::TooSmall {
        disk: room.number,
        which: room.which.to_owned(),
        what,
        needs,
        has,
    };
    let fixed = |wish: &Wish<'_>| match wish.setup.size {
        Extent::Bytes(bytes) => Some(bytes.0.div_ceil(MIB).saturating_mul(MIB)),
        Extent::Percent(percent) => {
            let part = u128::from(usable) * u128::from(percent) / 100;
            Some(u64::try_from(part).unwrap_or(u64::MAX) / MIB * MIB)
        }
        Extent::Rest => None,
    };
    let taken: u64 = wishes.iter().filter_map(fixed).fold(0, u64::saturating_add);
    let rest = usable.saturating_sub(taken);
    let sizes: Vec<u64> = wishes.iter().map(|wish| fixed(wish).unwrap_or(rest)).collect();
    // what the rest needs at least belongs to the sum
    let least_rest = wishes.iter().filter(|wish| fixed(wish).is_none());
    let needs = least_rest
        .map(|wish| wish.least.div_ceil(MIB).saturating_mul(MIB))
        .fold(taken, u64::saturating_add);
    if needs > usable {
        return Err(vec![too_small(
            "the setup".to_owned(),
            needs.saturating_add(2 * MIB),
            room.size,
        )]);
    }
    let short = wishes.iter().zip(&sizes).filter(|(wish, size)| **size < wish.least.max(MIB));
    let problems: Vec<Refusal> = short
        .map(|(wish, size)| {
            too_small(format!("the partition {}", wish.setup.label), wish.least.max(MIB), *size)
        })
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut start = MIB;
    let spans = sizes.into_iter().map(|size| {
        let span = Span { start, size };
        start = start.saturating_add(size);
        span
    });
    Ok(spans.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::setup::size::Bytes;

    fn wish(size: Extent) -> PartitionSetup {
        let label = "a".parse().unwrap();
        PartitionSetup {
            label,
            kind: None,
            size,
            filesystem: None,
            mount: None,
            options: None,
            image: None,
        }
    }

    fn room(size: u64, table: TableKind) -> Room<'static> {
        Room { number: 1, which: "sda", size, sector: 512, table }
    }

    #[test]
    fn the_rest_is_what_the_others_leave() {
        let setups = [wish(Extent::Bytes(Bytes(1))), wish(Extent::Rest), wish(Extent::Percent(25))];
        let wishes: Vec<Wish<'_>> = setups.iter().map(|setup| Wish { setup, least: 0 }).collect();
        let spans = lay_out(room(102 * MIB, TableKind::Gpt), &wishes).unwrap();
        let sizes: Vec<u64> = spans.iter().map(|span| span.size / MIB).collect();
        assert_eq!(sizes, [1, 74, 25]);
        let tight = lay_out(room(3 * MIB, TableKind::Gpt), &wishes).unwrap_err();
        assert!(tight[0].to_string().contains("too small"), "{tight:?}");
    }

    fn extents() -> impl Strategy<Value = Extent> {
        prop_oneof![
            any::<u64>().prop_map(|n| Extent::Bytes(Bytes(n))),
            (0..400 * MIB).prop_map(|n| Extent::Bytes(Bytes(n))),
            (1..=100u8).prop_map(Extent::Percent),
            Just(Extent::Rest),
        ]
    }

    proptest! {
        #[test]
        fn partitions_are_aligned_apart_and_inside(
            size in prop_oneof![0..1000 * MIB, any::<u64>()],
            extents in proptest::collection::vec((extents(), 0..50 * MIB), 1..6),
            dos: bool,
        ) {
            let table = if dos { TableKind::Dos } else { TableKind::Gpt };
            let setups: Vec<_> = extents.iter().map(|(extent, _)| wish(*extent)).collect();
            let wishes: Vec<_> = setups.iter().zip(&extents).map(|(setup, (_, least))| Wish { setup, least: *least }).collect();
            prop_assume!(extents.iter().filter(|(e, _)| *e == Extent::Rest).count() <= 1);
            if let Ok(spans) = lay_out(room(size, table), &wishes) {
                let mut end = MIB;
                for (span, wish) in spans.iter().zip(&wishes) {
                    prop_assert!(span.start.is_multiple_of(MIB) && span.size.is_multiple_of(MIB) && span.size >= wish.least.max(MIB));
                    prop_assert_eq!(span.start, end);
                    end = span.start + span.size;
                }
                prop_assert!(end <= Stamp::place(size));
            }
        }
    }
}
