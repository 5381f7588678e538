//! What of a disk is copied how: its partitions, and what lies between them.

use crate::image::layout::{Content, FilesystemKind, Layout, Partition};

/// A gap up to this is copied as it is: bootloaders, tables and their backups live there. Of longer ones this much at
/// both ends together; the rest is not partitioned.
const GAP: u64 = 64 << 20;

/// A range of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Between partitions, or behind a filesystem.
    Gap,
    /// A partition, or the whole.
    Part { partition: Option<u32>, filesystem: Option<FilesystemKind> },
}

/// The segments of a disk, in order, without overlap. What is in none is free.
pub(super) fn of(layout: &Layout) -> Vec<Segment> {
    let mut plan = Plan { segments: Vec::new(), at: 0 };
    match &layout.content {
        Content::Disk(disk) => {
            let holds_data = |p: &&Partition| {
                !matches!(p.type_name.as_deref(), Some("extended" | "GPT"))
                    && p.start.checked_add(p.len).is_some_and(|end| end <= layout.len)
                    && p.len > 0
            };
            let mut partitions: Vec<_> = disk.partitions.iter().filter(holds_data).collect();
            partitions.sort_by_key(|p| (p.start, p.len));
            for p in partitions {
                let known = p.filesystem.as_ref();
                plan.part(p.start, p.start + p.len, Some(p.number), known.map(|f| (f.kind, f.len)));
            }
        }
        Content::Partition(f) => plan.part(0, layout.len, None, Some((f.kind, f.len))),
        Content::Rootfs(_) => {}
    }
    plan.gap(layout.len);
    plan.segments
}

struct Plan {
    segments: Vec<Segment>,
    at: u64,
}

impl Plan {
    fn part(
        &mut self,
        start: u64,
        end: u64,
        partition: Option<u32>,
        known: Option<(FilesystemKind, Option<u64>)>,
    ) {
        // of partitions that overlap nothing is known but their bytes
        if start < self.at {
            self.push(end, What::Part { partition, filesystem: None });
            return;
        }
        self.gap(start);
        let len = known.and_then(|(_, len)| len).unwrap_or(u64::MAX);
        let stop = end.min(start.saturating_add(len));
        // one that says it is longer than its place is not trusted to tell its blocks
        let filesystem = known.filter(|_| len == u64::MAX || start.saturating_add(len) <= end);
        let filesystem = filesystem.map(|(kind, _)| kind);
        self.push(stop, What::Part { partition, filesystem });
        self.gap(end);
    }

    fn gap(&mut self, end: u64) {
        if end.saturating_sub(self.at) > GAP {
            self.push(self.at.saturating_add(GAP / 2), What::Gap);
            self.at = end.saturating_sub(GAP / 2);
        }
        self.push(end, What::Gap);
    }

    fn push(&mut self, end: u64, what: What) {
        if end > self.at {
            self.segments.push(Segment { start: self.at, end, what });
            self.at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::layout::{Disk, Filesystem, Table};

    fn disk(len: u64, partitions: &[(u64, u64, Option<u64>)]) -> Layout {
        let partition = |(n, (start, len, fs)): (usize, &(u64, u64, Option<u64>))| Partition {
            number: u32::try_from(n).unwrap(),
            start: *start,
            len: *len,
            type_id: String::new(),
            type_name: None,
            name: None,
            uuid: String::new(),
            bootable: false,
            filesystem: fs.map(|len| Filesystem {
                kind: FilesystemKind::Ext4,
                label: None,
                uuid: None,
                len: Some(len),
                clean: true,
            }),
        };
        let partitions = partitions.iter().enumerate().map(partition).collect();
        let disk = Disk { table: Table::Mbr, id: String::new(), boot_code: false, partitions };
        Layout { len, content: Content::Disk(disk), warnings: Vec::new() }
    }

    #[test]
    fn gaps_are_taken_and_large_ones_are_free() {
        const M: u64 = 1 << 20;
        let plan = of(&disk(1000 * M, &[(M, 10 * M, Some(9 * M)), (20 * M, 10 * M, None)]));
        let ends: Vec<_> = plan.iter().map(|s| (s.start / M, s.end / M)).collect();
        assert_eq!(
            ends,
            [(0, 1), (1, 10), (10, 11), (11, 20), (20, 30), (30, 62), (968, 1000)],
            "a gap, a filesystem, what is behind it, a gap, a partition, both ends of a large gap"
        );
    }

    proptest! {
        #[test]
        fn segments_are_in_order_and_inside(
            len in 0u64..1 << 34,
            partitions in prop::collection::vec((0u64..1 << 34, 0u64..1 << 33, prop::option::of(any::<u64>())), 0..6),
        ) {
            let mut at = 0;
            for segment in of(&disk(len, &partitions)) {
                prop_assert!(segment.start >= at && segment.end > segment.start, "{segment:?}");
                at = segment.end;
            }
            prop_assert!(at <= len);
            // no byte of a partition is lost
            let plan = of(&disk(len, &partitions));
            for (start, size, _) in partitions.iter().filter(|(s, l, _)| s + l <= len && *l > 0) {
                for byte in [*start, start + size - 1] {
                    let is_taken = plan.iter().any(|s| (s.start..s.end).contains(&byte));
                    let is_behind = partitions.iter().any(|(s, l, f)| f.is_some_and(|f| {
                        (s.saturating_add(f).max(*s)..s + l).contains(&byte)
                    }));
                    prop_assert!(is_taken || is_behind, "{byte}");
                }
            }
        }
    }
}
