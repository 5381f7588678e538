//! The GUID partition table (UEFI 2.10, chapter 5.3), both copies, checked.

use std::io;

use serde::{Deserialize, Serialize};

use super::guid::Guid;
use crate::image::source::{Numbers as _, ReadAt};

/// Entries are read up to this many; 128 are usual.
const ENTRIES: u32 = 1024;
/// The longest entry read; 128 bytes are usual.
const ENTRY: u32 = 1024;
/// All entries together: what 1024 usual ones take.
const ARRAY: u64 = 128 * 1024;

/// One partition of a GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) kind: Guid,
    pub(super) uuid: Guid,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) legacy_boot: bool,
    pub(super) name: String,
}

/// How the second copy of the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backup {
    /// In the last sector, and equal.
    Good,
    /// Whole, but not in the last sector: the disk is larger than the table knows.
    NotAtEnd,
    /// Whole, but of other partitions than the first.
    Differs,
    /// Not there, or damaged.
    Bad,
}

/// What was read.
#[derive(Debug, Clone)]
pub(super) struct Gpt {
    pub(super) sector: u64,
    pub(super) disk: Guid,
    pub(super) entries: Vec<Entry>,
    /// Whether the first copy was whole; what is here then comes from it.
    pub(super) primary: bool,
    pub(super) backup: Backup,
}

struct Copy {
    disk: Guid,
    alternate: u64,
    entries: Vec<Entry>,
}

/// Reads the table of a disk, if there is one.
pub(super) fn read<S: ReadAt + ?Sized>(disk: &S) -> io::Result<Option<Gpt>> {
    for sector in [512, 4096] {
        let last = (disk.len() / sector).saturating_sub(1);
        let primary = copy(disk, sector, 1)?;
        let at_end = if last > 1 { copy(disk, sector, last)? } else { None };
        let (first, backup) = match (primary, at_end) {
            (None, None) => continue,
            (None, Some(backup)) => {
                let Copy { disk, entries, .. } = backup;
                return Ok(Some(Gpt {
                    sector,
                    disk,
                    entries,
                    primary: false,
                    backup: Backup::Good,
                }));
            }
            (Some(first), Some(backup)) if same(&first, &backup) => (first, Backup::Good),
            (Some(first), Some(_)) => (first, Backup::Differs),
            (Some(first), None) => {
                let elsewhere = first.alternate > 1 && first.alternate < last;
                let elsewhere = elsewhere && copy(disk, sector, first.alternate)?.is_some();
                (first, if elsewhere { Backup::NotAtEnd } else { Backup::Bad })
            }
        };
        let Copy { disk, entries, .. } = first;
        return Ok(Some(Gpt { sector, disk, entries, primary: true, backup }));
    }
    Ok(None)
}

fn same(a: &Copy, b: &Copy) -> bool {
    a.disk == b.disk && a.entries == b.entries
}

/// The copy whose header is in sector `at`: nothing unless both checksums are right.
fn copy<S: ReadAt + ?Sized>(disk: &S, sector: u64, at: u64) -> io::Result<Option<Copy>> {
    let Some(offset) = at.checked_mul(sector) else { return Ok(None) };
    let Some(header) = disk.array::<512>(offset)? else { return Ok(None) };
    let Some(fields) = Header::parse(&header, at) else { return Ok(None) };
    let len = u64::from(fields.count) * u64::from(fields.entry);
    let (Some(start), true) = (fields.array.checked_mul(sector), len <= ARRAY) else {
        return Ok(None);
    };
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    if disk.read_at(start, &mut bytes)? != bytes.len() || crc32(&bytes) != fields.array_crc {
        return Ok(None);
    }
    let entry = usize::try_from(fields.entry).unwrap_or(usize::MAX).max(128);
    let entries = (1..).zip(bytes.chunks_exact(entry)).filter_map(|(n, e)| parse_entry(n, e));
    let entries = entries.collect();
    Ok(Some(Copy { disk: fields.disk, alternate: fields.alternate, entries }))
}

struct Header {
    alternate: u64,
    disk: Guid,
    array: u64,
    count: u32,
    entry: u32,
    array_crc: u32,
}

impl Header {
    fn parse(header: &[u8; 512], at: u64) -> Option<Self> {
        let size = usize::try_from(header.le32(12)?).ok()?;
        if !header.starts_with(b"EFI PART") || !(92..=512).contains(&size) {
            return None;
        }
        let mut checked = header.get(..size)?.to_vec();
        checked.get_mut(16..20)?.fill(0);
        let fields = Self {
            alternate: header.le64(32)?,
            disk: Guid(header.chunk(56)?),
            array: header.le64(72)?,
            count: header.le32(80)?,
            entry: header.le32(84)?,
            array_crc: header.le32(88)?,
        };
        let lawful = crc32(&checked) == header.le32(16)?
            && header.le64(24)? == at
            && fields.count <= ENTRIES
            && (128..=ENTRY).contains(&fields.entry);
        lawful.then_some(fields)
    }
}

fn parse_entry(number: u32, entry: &[u8]) -> Option<Entry> {
    let kind = Guid(entry.chunk(0)?);
    if kind == Guid::NONE {
        return None;
    }
    let units = entry.get(56..128)?.chunks_exact(2).filter_map(|pair| pair.le16(0));
    let units = units.take_while(|unit| *unit != 0);
    let name: String = char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect();
    Some(Entry {
        number,
        kind,
        uuid: Guid(entry.chunk(16)?),
        first: entry.le64(32)?,
        last: entry.le64(40)?,
        legacy_boot: entry.le64(48)? & 4 != 0,
        name: super::label(name.as_bytes()).unwrap_or_default(),
    })
}

/// The checksum of the table: CRC-32 as in IEEE 802.3, reflected.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let step = |mut crc: u32, byte: &u8| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
        crc
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
