//! Where the data of sparse files lie: the four ways in which GNU tar has written it down.

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::pax;

/// Parts with data of one file: 16 bytes each.
pub(super) const PARTS: usize = 1 << 20;

/// A map, while it is put together.
pub(super) type Map = Vec<(u64, u64)>;

/// The parts in an old GNU header; whether more headers follow.
pub(super) fn of_header(header: &Header) -> Option<(Map, u64, bool)> {
    let gnu = header.as_gnu()?;
    let mut map = Map::new();
    take(&gnu.sparse, &mut map)?;
    Some((map, gnu.real_size().ok()?, gnu.is_extended()))
}

/// The parts in a header that follows an old GNU one; whether more follow.
pub(super) fn of_extension(block: &[u8; super::BLOCK], map: &mut Map) -> Option<bool> {
    let mut header = GnuExtSparseHeader::new();
    header.as_mut_bytes().copy_from_slice(block);
    take(&header.sparse, map)?;
    Some(header.is_extended())
}

fn take(fields: &[GnuSparseHeader], map: &mut Map) -> Option<()> {
    for field in fields.iter().filter(|field| !field.is_empty()) {
        if map.len() >= PARTS {
            return None;
        }
        map.push((field.offset().ok()?, field.length().ok()?));
    }
    Some(())
}

/// What pax records say of a sparse file.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// The true path; the header has one for those who know of no sparse files.
    pub(super) name: Option<Vec<u8>>,
    /// The file's length.
    pub(super) len: Option<u64>,
    /// Versions 0.0 and 0.1: the map itself. In version 1.0 it comes before the data.
    pub(super) map: Option<Map>,
    /// Whether it is version 1.0.
    pub(super) in_data: bool,
    offset: Option<u64>,
}

impl Records {
    /// Whether there was any.
    pub(super) fn is_some(&self) -> bool {
        self.in_data || self.map.is_some() || self.len.is_some()
    }

    /// Takes the record `GNU.sparse.{key}`; nothing when it makes no sense.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.in_data = pax::number(value)? == 1,
            b"minor" | b"numblocks" => {
                pax::number(value)?;
            }
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.len = Some(pax::number(value)?),
            b"offset" => self.offset = Some(pax::number(value)?),
            b"numbytes" => {
                let part = (self.offset.take()?, pax::number(value)?);
                self.map.get_or_insert_default().push(part);
            }
            b"map" => {
                let numbers: Option<Vec<u64>> =
                    value.split(|byte| *byte == b',').map(pax::number).collect();
                let numbers = numbers?;
                let pairs = numbers.as_chunks::<2>();
                pairs.1.is_empty().then_some(())?;
                self.map = Some(pairs.0.iter().map(|[offset, len]| (*offset, *len)).collect());
            }
            _ => return None,
        }
        Some(())
    }
}

/// A file's map is lawful when its parts lie in order, inside, and are as long as the data.
pub(super) fn is_lawful(map: &[(u64, u64)], len: u64, data: u64) -> bool {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for (offset, part) in map {
        let Some(next) = offset.checked_add(*part).filter(|next| *next <= len) else {
            return false;
        };
        if *offset < end {
            return false;
        }
        end = next;
        sum = sum.saturating_add(*part);
    }
    sum == data
}

/// Reads the numbers of a version 1.0 map from the blocks at the beginning of the data.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    digits: Vec<u8>,
    numbers: Vec<u64>,
    count: Option<usize>,
}

impl MapReader {
    /// Takes a block: whether more are needed, nothing when it makes no sense.
    pub(super) fn take(&mut self, block: &[u8; super::BLOCK]) -> Option<bool> {
        for byte in block {
            if self.is_whole() {
                return Some(false);
            }
            match byte {
                b'0'..=b'9' if self.digits.len() < 20 => self.digits.push(*byte),
                b'\n' => {
                    let number = pax::number(&self.digits)?;
                    self.digits.clear();
                    if self.count.is_none() {
                        let count = usize::try_from(number).ok().filter(|n| *n <= PARTS)?;
                        self.count = Some(count);
                    } else {
                        self.numbers.push(number);
                    }
                }
                _ => return None,
            }
        }
        Some(!self.is_whole())
    }

    fn is_whole(&self) -> bool {
        self.count.is_some_and(|count| self.numbers.len() >= 2 * count)
    }

    pub(super) fn map(self) -> Map {
        self.numbers.as_chunks::<2>().0.iter().map(|[offset, len]| (*offset, *len)).collect()
    }
}

/// The map as version 1.0 has it, filled up to whole blocks.
pub(super) fn write(map: &[(u64, u64)]) -> Vec<u8> {
    let mut out = format!("{}\n", map.len()).into_bytes();
    for (offset, len) in map {
        out.extend_from_slice(format!("{offset}\n{len}\n").as_bytes());
    }
    out.resize(out.len().next_multiple_of(super::BLOCK), 0);
    out
}
