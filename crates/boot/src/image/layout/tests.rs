use proptest::prelude::*;

use super::*;

const MIB: usize = 1 << 20;

/// A GPT by the specification, written here a second time.
fn gpt_disk(len: usize, sector: usize, entries: &[(Guid, u64, u64, &str)]) -> Vec<u8> {
    let mut disk = vec![0; len];
    let last = len / sector - 1;
    let mut array = vec![0; 128 * 128];
    for (n, (kind, first, end, name)) in entries.iter().enumerate() {
        let entry = &mut array[128 * n..128 * (n + 1)];
        entry[..16].copy_from_slice(&kind.0);
        entry[16..32].fill(u8::try_from(n + 1).unwrap());
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&end.to_le_bytes());
        for (k, unit) in name.encode_utf16().enumerate() {
            entry[56 + 2 * k..58 + 2 * k].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let sectors = array.len() / sector;
    for (at, other, place) in [(1, last, 2), (last, 1, last - sectors)] {
        let mut header = [0; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(other as u64).to_le_bytes());
        header[56..72].fill(7);
        header[72..80].copy_from_slice(&(place as u64).to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&gpt::crc32(&array).to_le_bytes());
        let crc = gpt::crc32(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        disk[at * sector..at * sector + 512].copy_from_slice(&header);
        disk[place * sector..place * sector + array.len()].copy_from_slice(&array);
    }
    disk
}

fn usual(sector: usize) -> Vec<u8> {
    let unit = (MIB / sector) as u64;
    gpt_disk(
        8 * MIB,
        sector,
        &[(Guid::ESP, unit, 2 * unit - 1, "ESP"), (Guid::LINUX, 2 * unit, 7 * unit - 1, "würzel")],
    )
}

fn layout(bytes: &[u8]) -> Layout {
    read(bytes).unwrap().unwrap()
}

fn disk(layout: &Layout) -> &Disk {
    let Content::Disk(disk) = &layout.content else { panic!("{layout:?}") };
    disk
}

#[test]
fn both_sector_sizes_are_read() {
    for sector in [512, 4096] {
        let found = layout(&usual(sector));
        let disk = disk(&found);
        assert_eq!(disk.table, Table::Gpt { sector: sector as u64, backup: Backup::Good });
        let [esp, root] = &disk.partitions[..] else { panic!("{disk:?}") };
        assert_eq!((esp.start, esp.len, esp.number), (MIB as u64, MIB as u64, 1));
        assert_eq!((root.start, root.len), (2 * MIB as u64, 5 * MIB as u64));
        assert_eq!(root.name.as_deref(), Some("würzel"));
        assert_eq!(found.warnings, [Warning::NoBootloader], "the ESP is empty");
    }
}

#[test]
fn damage_is_said_and_the_backup_is_read() {
    let whole = usual(512);
    let mut no_primary = whole.clone();
    no_primary[600] ^= 1;
    let found = layout(&no_primary);
    assert!(found.warnings.contains(&Warning::GptPrimaryBad), "{found:?}");
    assert_eq!(disk(&found).partitions, disk(&layout(&whole)).partitions);

    let mut no_backup = whole.clone();
    let end = no_backup.len() - 512;
    no_backup[end] = 0;
    assert!(layout(&no_backup).warnings.contains(&Warning::GptBackupBad));

    let mut longer = whole.clone();
    longer.resize(9 * MIB, 0);
    assert!(layout(&longer).warnings.contains(&Warning::GptBackupNotAtEnd));

    let shorter = &whole[..6 * MIB];
    let found = layout(shorter);
    assert!(found.warnings.contains(&Warning::GptBackupBad), "{found:?}");
    assert!(found.warnings.contains(&Warning::Outside { partition: 2 }), "{found:?}");

    let mut other = whole.clone();
    let from = gpt_disk(8 * MIB, 512, &[(Guid::ESP, 2048, 4095, "other")]);
    let backup = other.len() - 33 * 512;
    other[backup..].copy_from_slice(&from[backup..]);
    assert!(layout(&other).warnings.contains(&Warning::GptBackupDiffers));
}

#[test]
fn a_chain_that_is_a_circle_ends() {
    let mut disk = vec![0; 2 * MIB];
    let entry = |disk: &mut [u8], at: usize, kind: u8, start: u32, sectors: u32| {
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    };
    for base in [0, 512 * 100] {
        disk[base + 510..base + 512].copy_from_slice(&[0x55, 0xAA]);
    }
    entry(&mut disk, 446, 0x83, 10, 50);
    entry(&mut disk, 462, 0x05, 100, 2000);
    entry(&mut disk, 512 * 100 + 446, 0x83, 10, 20);
    // relative to the first of the chain: itself
    entry(&mut disk, 512 * 100 + 462, 0x05, 0, 2000);
    let found = layout(&disk);
    let partitions = &self::disk(&found).partitions;
    assert_eq!(partitions.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 2, 5]);
    assert_eq!(partitions[2].start, 110 * 512);
    entry(&mut disk, 512 * 100 + 462, 0x05, 1, 2000);
    disk.copy_within(512 * 100..512 * 101, 512 * 101);
    assert_eq!(self::disk(&layout(&disk)).partitions.len(), 2 + 128, "bounded");
}

#[test]
fn the_fuzzers_corpus_is_read() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/layout");
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        fuzz_layout(&bytes);
        assert!(read(&bytes[..]).unwrap().is_some(), "{}", path.display());
    }
}

#[test]
fn nothing_is_no_disk() {
    assert!(read(&[][..]).unwrap().is_none());
    assert!(read(&vec![0; MIB][..]).unwrap().is_none());
    assert!(read(&[0xFF; 70000][..]).unwrap().is_none());
}

proptest! {
    #[test]
    fn no_bytes_are_too_much(mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
                             at in 0usize..8 * MIB, four_k in any::<bool>(), cut in 0usize..8 * MIB) {
        fuzz_layout(&bytes);
        let mut disk = usual(if four_k { 4096 } else { 512 });
        bytes.truncate(disk.len() - at);
        disk[at..at + bytes.len()].copy_from_slice(&bytes);
        fuzz_layout(&disk);
        fuzz_layout(&disk[..cut]);
    }

    #[test]
    fn any_superblock_is_read(kind in 0usize..12, noise in prop::collection::vec(any::<u8>(), 2048)) {
        let magics: [(usize, &[u8]); 12] = [
            (1080, b"\x53\xEF"), (0, b"XFSB\0\0\x10\0"), (0x10040, b"_BHRfS_M"), (4086, b"SWAPSPACE2"),
            (32769, b"CD001"), (0, b"hsqs"), (1024, b"\xE2\xE1\xF5\xE0"), (512, b"LABELONE"),
            (0, b"LUKS\xba\xbe"), (3, b"NTFS    "), (54, b"FAT"), (82, b"FAT32"),
        ];
        let mut bytes = vec![0; 80_000];
        let (at, magic) = magics[kind];
        let from = at.saturating_sub(1024);
        bytes[from..from + 2048].copy_from_slice(&noise);
        bytes[at..at + magic.len()].copy_from_slice(magic);
        fuzz_layout(&bytes);
    }
}
