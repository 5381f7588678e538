//! What keeps firmware from starting the image of a whole disk that is not ready.
//!
//! The image's table must be there while its last partition is enlarged and its system is made the machine's own. So the
//! two things that firmware starts are put aside until then: the code in the first sector (a BIOS), and the first sectors of
//! FAT filesystems (UEFI, which looks into all of them). What was put aside is in memory only: after a power cut the image is
//! verified and written anew, which finds all of it but this on the disk.

use std::io;
use std::path::Path;

use super::ApplyError;
use super::disk::put;
use super::error::IoContext;
use crate::image::layout::{self, Content, FilesystemKind, Partition, Table};
use crate::image::{ReadAt, Source};
use crate::setup::found::VEILED;

/// The code in the first sector; an identifier and the table come after it.
const CODE: usize = 440;
/// The first sector of a filesystem.
const SECTOR: usize = 512;
/// What a disk writes at once, at most.
const AT_ONCE: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Veil {
    id: String,
    /// The beginning of the image.
    head: Vec<u8>,
    /// What is put aside, and where it belongs; what lets the disk start last.
    aside: Vec<(u64, Vec<u8>)>,
}

impl Veil {
    /// Of an image that is on a device but for its beginning.
    pub(super) fn new(device: &Path, head: Vec<u8>) -> Result<Self, ApplyError> {
        let disk = Source::open(device).on("read", device)?;
        let whole = Whole { head: &head, disk: &disk };
        let layout = layout::read(&whole).on("read", device)?;
        let (mut id, mut aside) = (String::new(), Vec::new());
        if let Some(Content::Disk(found)) = layout.map(|layout| layout.content) {
            id = match found.table {
                Table::Gpt { .. } => found.id.to_ascii_lowercase(),
                Table::Mbr => format!("0x{}", found.id.to_ascii_lowercase()),
            };
            for part in found.partitions.iter().filter(|part| is_started(part)) {
                if let Some(sector) = whole.array::<SECTOR>(part.start).on("read", device)? {
                    aside.push((part.start, sector.to_vec()));
                }
            }
        }
        aside.push((0, head.get(..CODE).unwrap_or(&head).to_vec()));
        Ok(Self { id, head, aside })
    }

    /// The identifier of the image's table, as sfdisk shows it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Writes the beginning of the image, so that all of it is on the disk but for what is put aside.
    pub(super) fn lower(&self, device: &Path) -> Result<(), ApplyError> {
        let mut head = self.head.clone();
        for (at, bytes) in &self.aside {
            let start = usize::try_from(*at).unwrap_or(usize::MAX);
            match head.get_mut(start..start.saturating_add(bytes.len())) {
                Some(place) => place.fill(0),
                None => put(device, *at, &vec![0; bytes.len()])?,
            }
        }
        if let Some(code) = head.get_mut(..VEILED.len()) {
            code.copy_from_slice(VEILED);
        }
        // the first sector says where everything is: it is the last
        let (first, rest) = head.split_at_checked(AT_ONCE).unwrap_or((&head, &[]));
        put(device, AT_ONCE as u64, rest)?;
        put(device, 0, first)
    }

    /// Puts everything into its place. The table stays as it is by now.
    pub(super) fn lift(&self, device: &Path) -> Result<(), ApplyError> {
        self.aside.iter().try_for_each(|(at, bytes)| put(device, *at, bytes))
    }
}

/// Whether UEFI looks into a partition for something to start.
fn is_started(part: &Partition) -> bool {
    let is_fat = part.filesystem.as_ref().is_some_and(|fs| fs.kind == FilesystemKind::Vfat);
    is_fat || part.type_name.as_deref() == Some("EFI system")
}

/// An image of which the beginning is in memory and the rest on a disk.
struct Whole<'a> {
    head: &'a [u8],
    disk: &'a Source,
}

impl ReadAt for Whole<'_> {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.disk.read_at(offset, buffer)?;
        let place = buffer.get_mut(..read).unwrap_or_default();
        let _of_head = self.head.read_at(offset, place)?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::setup::apply::tool::Tool;

    const MIB: usize = 1 << 20;

    /// A FAT and its neighbours: a disk with a table in its first sector, at `start` a FAT.
    fn image(start: usize) -> Vec<u8> {
        let mut image: Vec<u8> = (0..3 * MIB).map(|i| (i % 251) as u8).collect();
        image[446..512].fill(0);
        image[440..444].copy_from_slice(&0x0102_0304_u32.to_le_bytes());
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        image[450] = 0xef;
        let sectors = |bytes: usize| u32::try_from(bytes / 512).unwrap().to_le_bytes();
        image[454..458].copy_from_slice(&sectors(start));
        image[458..462].copy_from_slice(&sectors(MIB / 2));
        image
    }

    #[test]
    fn what_firmware_starts_is_put_aside_until_all_is_ready() {
        // a partition within what is held back, and one behind it
        for start in [63 * 512, 2 * MIB] {
            let image = image(start);
            let disk = tempfile::NamedTempFile::new().unwrap();
            let mut content = image.clone();
            content[..MIB].fill(0);
            fs::write(disk.path(), &content).unwrap();
            let veil = Veil::new(disk.path(), image[..MIB].to_vec()).unwrap();
            assert_eq!(veil.id(), "0x01020304");
            veil.lower(disk.path()).unwrap();
            let lowered = fs::read(disk.path()).unwrap();
            assert!(lowered.starts_with(VEILED));
            assert!(lowered[VEILED.len()..CODE].iter().all(|byte| *byte == 0));
            assert!(lowered[start..start + SECTOR].iter().all(|byte| *byte == 0), "{start}");
            assert!(lowered[CODE..512] == image[CODE..512], "the table is there");
            let differs = lowered.iter().zip(&image).filter(|(a, b)| a != b).count();
            assert!(differs <= CODE + SECTOR, "{differs}");
            // the table is changed meanwhile
            let mut changed = lowered;
            changed[460] ^= 1;
            fs::write(disk.path(), &changed).unwrap();
            veil.lift(disk.path()).unwrap();
            let mut expected = image;
            expected[460] ^= 1;
            assert!(fs::read(disk.path()).unwrap() == expected);
        }
    }

    /// What a stamp says of an image before the image's table is on the disk must be what sfdisk says of it then.
    #[test]
    fn tables_are_called_as_sfdisk_calls_them() {
        for script in ["label: gpt\nsize=1MiB\n", "label: dos\nlabel-id: 0x00c0ffee\nsize=1MiB\n"] {
            let disk = tempfile::NamedTempFile::new().unwrap();
            disk.as_file().set_len(8 << 20).unwrap();
            let run = |args: &[&str], input: &str| {
                Tool::new("sfdisk", "make a table").args(args).arg(disk.path()).input(input).run()
            };
            run(&["-q"], script).unwrap();
            let dump = run(&["-J"], "").unwrap();
            let head = fs::read(disk.path()).unwrap()[..MIB].to_vec();
            let veil = Veil::new(disk.path(), head).unwrap();
            assert!(!veil.id().is_empty());
            let said = dump.to_lowercase();
            assert!(
                said.contains(&format!("\"id\": \"{}\"", veil.id()))
                    || said.contains(&format!("\"id\":\"{}\"", veil.id())),
                "{} {dump}",
                veil.id()
            );
        }
    }
}
