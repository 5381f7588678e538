//! The PC's old partition table: four entries in the first sector, and a chain of further ones.

use std::io;

use crate::image::source::{Numbers as _, ReadAt};

/// Logical partitions are followed up to this many: a chain may be a circle.
const LOGICAL: u32 = 128;
/// The unit of its numbers, on nearly all disks.
pub(super) const SECTOR: u64 = 512;
/// The type that says: look at the GPT.
pub(super) const PROTECTIVE: u8 = 0xEE;

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) kind: u8,
    pub(super) active: bool,
    pub(super) start: u64,
    pub(super) sectors: u64,
}

impl Entry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0F | 0x85)
    }

    /// What partitions of this type are called.
    pub(super) fn type_name(&self) -> Option<&'static str> {
        Some(match self.kind {
            0x01 | 0x04 | 0x06 | 0x0B | 0x0C | 0x0E => "FAT",
            0x05 | 0x0F | 0x85 => "extended",
            0x07 => "NTFS",
            0x82 => "Linux swap",
            0x83 => "Linux",
            0x8E => "Linux LVM",
            0xEE => "GPT",
            0xEF => "EFI system",
            0xFD => "Linux RAID",
            _ => return None,
        })
    }
}

/// The table of a disk.
#[derive(Debug, Clone)]
pub(super) struct Mbr {
    /// Linux makes the partitions' UUIDs of it.
    pub(super) id: u32,
    pub(super) entries: Vec<Entry>,
    /// Whether there is anything that a BIOS could run.
    pub(super) has_code: bool,
}

/// Reads the first sector: nothing unless it is a table that makes sense on this disk.
pub(super) fn read<S: ReadAt + ?Sized>(disk: &S) -> io::Result<Option<Mbr>> {
    let Some(sector) = disk.array::<512>(0)? else { return Ok(None) };
    let Some(primary) = four(&sector) else { return Ok(None) };
    let mut entries: Vec<Entry> = (1..)
        .zip(primary)
        .filter(|(_, e)| e.kind != 0 && e.sectors != 0)
        .map(|(number, e)| Entry { number, ..e })
        .collect();
    let total = disk.len() / SECTOR;
    let sensible = |e: &Entry| e.start > 0 && (e.kind == PROTECTIVE || e.start < total);
    if entries.is_empty() || !entries.iter().all(sensible) || overlap(&entries) {
        return Ok(None);
    }
    if let Some(extended) = entries.iter().find(|e| e.is_extended()).copied() {
        logical(disk, extended.start, &mut entries)?;
    }
    let has_code = sector.get(..440).is_some_and(|code| code.iter().any(|byte| *byte != 0));
    Ok(Some(Mbr { id: sector.le32(440).unwrap_or(0), entries, has_code }))
}

/// A boot sector of a filesystem ends with the same two bytes, and has code where the entries would be.
fn four(sector: &[u8; 512]) -> Option<[Entry; 4]> {
    if sector.le16(510)? != 0xAA55 {
        return None;
    }
    let entry = |n: usize| {
        let bytes: [u8; 16] = sector.chunk(446 + 16 * n)?;
        let status = *bytes.first()?;
        matches!(status, 0 | 0x80).then_some(())?;
        Some(Entry {
            number: 0,
            kind: *bytes.get(4)?,
            active: status == 0x80,
            start: bytes.le32(8)?.into(),
            sectors: bytes.le32(12)?.into(),
        })
    };
    Some([entry(0)?, entry(1)?, entry(2)?, entry(3)?])
}

fn overlap(entries: &[Entry]) -> bool {
    entries.iter().enumerate().any(|(n, a)| {
        let meets = |b: &Entry| a.start < b.start + b.sectors && b.start < a.start + a.sectors;
        entries.iter().skip(n + 1).any(meets)
    })
}

fn logical<S: ReadAt + ?Sized>(disk: &S, base: u64, entries: &mut Vec<Entry>) -> io::Result<()> {
    let mut at = base;
    for number in 5..5 + LOGICAL {
        let Some(sector) = disk.array::<512>(at.saturating_mul(SECTOR))? else { return Ok(()) };
        let Some([partition, next, ..]) = four(&sector) else { return Ok(()) };
        if partition.kind != 0 && partition.sectors != 0 {
            entries.push(Entry { number, start: at.saturating_add(partition.start), ..partition });
        }
        if !next.is_extended() || next.start == 0 {
            return Ok(());
        }
        at = base.saturating_add(next.start);
    }
    Ok(())
}
