//! What is on the disks of a machine: partition tables, filesystems, and the stamp that a setup leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use p2pinst_types::{Hash, MachineId};
use serde::{Deserialize, Serialize};

use super::plan::Epoch;
use super::size::Bytes;

/// One MiB: partitions begin and end at whole ones, whatever the disk's sectors.
pub const MIB: u64 = 1 << 20;

/// What is on the machine's disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The disks by their device's name.
    pub disks: BTreeMap<String, FoundDisk>,
    /// The volume groups by name, with the names of their volumes.
    pub groups: BTreeMap<String, BTreeSet<String>>,
}

/// What is on a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundDisk {
    /// The length of its logical sectors in bytes.
    pub sector: u32,
    /// Its partition table.
    pub table: Option<FoundTable>,
    /// A filesystem, or what else blkid knows, on the whole of it.
    pub content: Option<String>,
    /// Who uses it now: where it is mounted, say. Such a disk is not touched.
    pub users: Vec<String>,
    /// What a setup did to it.
    pub stamp: Option<Stamp>,
    /// Whether the table is in the stamp only ([`Stamp::held`]).
    pub held: bool,
    /// Whether what firmware starts of an image was put aside, and not into its place again.
    pub veiled: bool,
}

/// What is in the place of boot code until there is some: `int 0x18`, by which a BIOS goes on to what it would start from next;
/// where that comes back, the processor halts.
pub(super) const PASS_ON: &[u8] = &[0xcd, 0x18, 0xf4, 0xeb, 0xfd];
/// The same on a disk whose image is not ready.
pub(super) const VEILED: &[u8] = b"\xcd\x18\xf4\xeb\xfdp2pinst: not ready";

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundTable {
    /// `gpt`, `dos`, or what else sfdisk calls it.
    pub kind: String,
    /// Its identifier, in lower case: a GUID, or `0x` and eight digits.
    pub id: String,
    /// Its partitions, in the order of the table.
    pub partitions: Vec<FoundPartition>,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPartition {
    /// Its number, from 1.
    pub number: u32,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its type, in lower case: a GUID, or hexadecimal digits.
    pub kind: String,
    /// Its name; empty where the table has none.
    pub name: String,
    /// Its GUID in lower case; empty where the table has none.
    pub uuid: String,
    /// The filesystem, or what else is on it, as blkid calls it.
    pub content: Option<String>,
    /// The identifier of that filesystem.
    pub content_uuid: Option<String>,
}

impl FoundDisk {
    /// Whether the image of a whole disk was coming onto it, and nothing has ever started from it: it is nobody's data.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.veiled && self.valid_stamp().is_some_and(Stamp::is_begun)
    }

    /// Whether nothing is on it.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.table.is_none() && self.content.is_none()
    }

    /// The stamp, where it belongs to the table that is there now: who has partitioned the disk anew since then has
    /// undone what it tells.
    #[must_use]
    pub fn valid_stamp(&self) -> Option<&Stamp> {
        let id = self.table.as_ref().map_or("", |table| table.id.as_str());
        self.stamp.as_ref().filter(|stamp| stamp.table == id && !self.is_blank())
    }
}

impl fmt::Display for FoundDisk {
    /// What is on it, for people: `a gpt partition table with root (ext4, 20 GiB) and …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(table) = &self.table else {
            return match &self.content {
                Some(content) => write!(f, "{content} on the whole disk"),
                None => f.write_str("nothing"),
            };
        };
        write!(f, "a {} partition table", table.kind)?;
        let shown = 8;
        for (i, part) in table.partitions.iter().take(shown).enumerate() {
            f.write_str(if i == 0 { " with " } else { ", " })?;
            write!(f, "{}", part.number)?;
            if !part.name.is_empty() {
                write!(f, " {:?}", part.name)?;
            }
            let content = part.content.as_deref().unwrap_or("empty");
            write!(f, " ({content}, {})", Bytes(part.size).rounded())?;
        }
        match table.partitions.len().saturating_sub(shown) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What a setup has done to a disk. It lies in the last whole MiB before the end of the disk that a plan leaves free
/// ([`Stamp::place`]), before the copy of the GPT; neither partitions that a plan makes nor the image of a smaller disk come there.
///
/// It is believed only while the partition table has the identifier that it had then ([`FoundDisk::valid_stamp`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Whose disk it was.
    pub machine: MachineId,
    /// By which assignment.
    pub epoch: Epoch,
    /// By which document.
    pub setup: Hash,
    /// The identifier of the partition table; empty where the disk has none.
    pub table: String,
    /// The steps that were done, by [`crate::setup::plan::Step::key`].
    pub done: BTreeSet<String>,
    /// The partition table, until the new system is ready: only then is it written to its place. Of a disk without one no
    /// firmware starts anything, and no other program finds what is on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<FoundTable>,
}

/// A stamp's word for the image of a whole disk that is being written, or has been and is not ready to be started.
const BEGUN: &str = "begun";

/// The beginning of a stamp, with the number of its format.
const MAGIC: &[u8; 16] = b"p2pinst setup 1\n";
/// Magic, length and hash.
const HEADER: usize = 16 + 4 + 32;

impl Stamp {
    /// The image of a whole disk begins to come onto it: what is there is neither the image nor anybody's data, until
    /// [`Stamp::end`].
    pub(super) fn begin(&mut self) {
        self.done.insert(BEGUN.to_owned());
    }

    /// The disk is ready to be started from.
    pub(super) fn end(&mut self) {
        self.done.remove(BEGUN);
        self.held = None;
    }

    /// Whether the image of a whole disk has begun to come onto it, and is not ready to be started.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.done.contains(BEGUN)
    }

    /// Bytes that a stamp takes, at most: 100 steps with names of 63 characters are 10 KiB, and 128 partitions 20 KiB.
    pub const LEN: usize = 64 << 10;

    /// Where the stamp of a disk of this size is.
    #[must_use]
    pub fn place(size: u64) -> u64 {
        (size / MIB).saturating_sub(1) * MIB
    }

    /// As it is written: magic, length, hash, CBOR, zeros. `None` when it is too long.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let body = p2pinst_types::codec::encode(self).ok()?;
        let len = u32::try_from(body.len()).ok()?.to_be_bytes();
        let hash = Hash::of(&body);
        let mut bytes = [MAGIC.as_slice(), &len, hash.as_bytes(), &body].concat();
        if bytes.len() > Self::LEN {
            return None;
        }
        bytes.resize(Self::LEN, 0);
        Some(bytes)
    }

    /// What [`Stamp::encode`] made; `None` of anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let (magic, header) = header.split_at_checked(MAGIC.len())?;
        let (len, hash) = header.split_at_checked(4)?;
        let len = usize::try_from(u32::from_be_bytes(len.try_into().ok()?)).ok()?;
        let body = rest.get(..len)?;
        let whole = magic == MAGIC && Hash::of(body).as_bytes() == hash;
        whole.then(|| p2pinst_types::codec::decode(body).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            machine: MachineId([1; 16]),
            epoch: Epoch(7),
            setup: Hash::of(b"x"),
            table: "id".into(),
            done: ["table".to_owned(), "format root".to_owned()].into(),
            held: None,
        }
    }

    #[test]
    fn stamps_are_read_as_they_were_written() {
        let bytes = stamp().encode().unwrap();
        assert_eq!((bytes.len(), Stamp::decode(&bytes)), (Stamp::LEN, Some(stamp())));
        let mut long = stamp();
        long.done = (0..2000).map(|i| format!("{i:064}")).collect();
        assert_eq!(long.encode(), None);
        for size in [3 * MIB, 3 * MIB + 512, 1_000_204_886_016] {
            let place = Stamp::place(size);
            assert!(
                place.is_multiple_of(MIB) && (MIB..2 * MIB).contains(&(size - place)),
                "{size}"
            );
        }
        assert_eq!(Stamp::place(0), 0);
    }

    #[test]
    fn a_stamp_ends_with_its_table() {
        let mut disk = FoundDisk { stamp: Some(stamp()), ..FoundDisk::default() };
        assert_eq!(disk.valid_stamp(), None, "the disk is blank");
        let table = |id: &str| FoundTable { kind: "gpt".into(), id: id.into(), partitions: vec![] };
        disk.table = Some(table("id"));
        assert!(disk.valid_stamp().is_some());
        disk.table = Some(table("other"));
        assert_eq!(disk.valid_stamp(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_trusted(flip in 0usize..400, to: u8, noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = stamp().encode().unwrap();
            let was = std::mem::replace(&mut bytes[flip], to);
            let read = Stamp::decode(&bytes);
            prop_assert!(read.is_none() || read == Some(stamp()) && (was == to || flip > 150));
            prop_assert_eq!(Stamp::decode(&noise), None);
        }
    }
}
