use std::io::Cursor;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

fn header(path: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_cksum();
    header
}

fn link(path: &str, kind: EntryType, to: &str) -> Header {
    let mut header = header(path, kind, 0);
    header.as_old_mut().linkname[..to.len()].copy_from_slice(to.as_bytes());
    header.set_cksum();
    header
}

fn archive(headers: &[Header]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for header in headers {
        let size = usize::try_from(header.size().unwrap()).unwrap();
        builder.append(header, &vec![b'x'; size][..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn walk(bytes: &[u8]) -> Result<Vec<Entry>, ArchiveError> {
    let limits = Limits { entries: 1000, bytes: 1 << 40 };
    let mut walker = Walker::new(bytes, limits);
    let mut entries = Vec::new();
    while let Some(entry) = walker.next_entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn refused(headers: &[Header]) -> String {
    walk(&archive(headers)).unwrap_err().to_string()
}

#[test]
fn places_are_inside() {
    for (path, place) in
        [("./a//b/./c/", "a/b/c"), (".", ""), ("./", ""), ("-x", "-x"), ("...", "...")]
    {
        assert_eq!(Place::parse(path.as_bytes()).unwrap().as_bytes(), place.as_bytes());
    }
    for path in ["", "/etc", "a/../b", "..", "a/..", "a\0b"] {
        assert!(Place::parse(path.as_bytes()).is_err(), "{path}");
    }
    assert!(Place::parse(&[b'a'; 256]).is_err() && Place::parse(&[b'a'; 255]).is_ok());
    assert!(Place::parse("a/".repeat(40_000).as_bytes()).is_err());
}

#[test]
fn nothing_goes_through_a_link() {
    let dir = header("d/", EntryType::Directory, 0);
    let link_out = link("d/l", EntryType::Symlink, "/etc");
    let through = header("d/l/passwd", EntryType::Regular, 3);
    assert!(
        refused(&[dir.clone(), link_out.clone(), through.clone()]).contains("goes through \"d/l\"")
    );
    // another name of the link, and a link that was replaced
    let other = link("e", EntryType::Link, "d/l");
    let below = header("e/passwd", EntryType::Regular, 3);
    assert!(refused(&[link_out.clone(), other, below]).contains("goes through \"e\""));
    let replaced = header("d/l", EntryType::Directory, 0);
    assert!(refused(&[link_out.clone(), replaced]).contains("in the place of a symbolic link"));
    assert!(refused(&[link_out.clone(), through]).contains("goes through"));
    let hard = link("x", EntryType::Link, "d/l/passwd");
    assert!(refused(&[link_out.clone(), hard]).contains("goes through"));
    assert!(walk(&archive(&[dir, link_out])).is_ok(), "links may lead anywhere");
}

#[test]
fn what_is_not_lawful_is_refused() {
    for (name, said) in [("/etc/x", "is absolute"), ("a/../../x", "has .. in it")] {
        assert!(refused(&[header(name, EntryType::Regular, 0)]).contains(said), "{name}");
        assert!(refused(&[link("x", EntryType::Link, name)]).contains(said), "{name}");
    }
    assert!(refused(&[header(".", EntryType::Regular, 0)]).contains("target itself"));
    assert!(refused(&[link("x", EntryType::Link, "./")]).contains("target itself"));
    assert!(refused(&[header("x", EntryType::Directory, 5)]).contains("has data"));
    assert!(refused(&[header("x", EntryType::new(b'M'), 0)]).contains("another volume"));
    assert!(refused(&[header("x", EntryType::new(b'Q'), 0)]).contains("unknown type"));
    let many = vec![header("x", EntryType::Regular, 0); 1001];
    assert!(refused(&many).contains("more than 1000 entries"));
    let mut huge = header("x", EntryType::Regular, 0);
    huge.set_size(1 << 41);
    huge.set_cksum();
    let error = walk(huge.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("bytes of files"), "{error}");
}

#[test]
fn the_fuzzers_corpus_is_understood() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/archive");
    for file in std::fs::read_dir(dir).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        fuzz_archive(&bytes);
        assert!(!walk(&bytes).unwrap().is_empty());
    }
}

#[test]
fn the_end_is_marked() {
    let whole = archive(&[header("x", EntryType::Regular, 700)]);
    assert_eq!(walk(&whole).unwrap().len(), 1);
    for cut in [100, 512, 1000, 512 + 700, 512 + 1024] {
        assert!(matches!(walk(&whole[..cut]), Err(ArchiveError::Cut { .. })), "{cut}");
    }
    let mut flipped = whole.clone();
    flipped[0] ^= 1;
    assert!(walk(&flipped).unwrap_err().to_string().contains("no tar"));
}

#[test]
fn long_names_and_headers_are_bounded() {
    let long = |len: u64, kind: u8| {
        let mut bytes = header("././@LongLink", EntryType::new(kind), len).as_bytes().to_vec();
        bytes.resize(bytes.len() + usize::try_from(len).unwrap().next_multiple_of(512), b'a');
        bytes.extend(archive(&[header("short", EntryType::Regular, 0)]));
        bytes
    };
    let name = |len| walk(&long(len, b'L'));
    assert_eq!(name(200).unwrap()[0].place.as_bytes().len(), 200);
    assert!(name(65536).unwrap_err().to_string().contains("longer than 4095"));
    assert!(name(1 << 20).unwrap_err().to_string().contains("bytes of a name"));
    let error = walk(&long((1 << 20) + 1, b'x')).unwrap_err().to_string();
    assert!(error.contains("bytes of attributes"), "{error}");
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.extend_from_slice(header("g", EntryType::XGlobalHeader, 0).as_bytes());
    }
    assert!(walk(&flood).unwrap_err().to_string().contains("too many headers"));
}

fn entry(place: &str, what: What, data: u64) -> Entry {
    let place = Place::parse(place.as_bytes()).unwrap();
    Entry {
        place,
        what,
        mode: 0o4755,
        uid: 70_000,
        gid: 3_000_000,
        mtime: "123.5".into(),
        xattrs: vec![(b"user.x".to_vec(), b"a\nb=\0".to_vec())],
        acls: Acls { access: Some(b"user::rwx".to_vec()), default: None },
        data,
    }
}

fn some_entry() -> impl Strategy<Value = Entry> {
    let path = "[a-zé]{1,60}(/[a-z .-]{1,70}x){0,4}";
    let what = prop_oneof![
        Just(What::File),
        Just(What::Dir),
        Just(What::Fifo),
        path.prop_map(|p: String| What::HardLink(Place::parse(p.as_bytes()).unwrap())),
        "[^\0]{1,150}".prop_map(|p: String| What::Symlink(p.into_bytes())),
        (any::<bool>(), 0u32..4096, 0u32..2_000_000)
            .prop_map(|(block, major, minor)| What::Device { block, major, minor }),
        prop::collection::vec((0u64..1 << 33, 1u64..700), 0..80).prop_map(|parts| {
            let mut end = 0;
            let place = |(gap, len): (u64, u64)| {
                let at = end + gap % 9_000_000;
                end = at + len;
                (at, len)
            };
            let map: Vec<_> = parts.into_iter().map(place).collect();
            What::Sparse { map, len: end + 7 }
        }),
    ];
    (path, what, 0u32..0o10000, any::<u32>(), "-?[0-9]{1,12}(\\.[0-9]{1,9})?").prop_map(
        |(path, what, mode, id, mtime)| {
            let data = match &what {
                What::File => u64::from(id % 3000),
                What::Sparse { map, .. } => map.iter().map(|(_, len)| len).sum(),
                _ => 0,
            };
            let id = id.min(u32::MAX - 1);
            Entry { mode, uid: id, gid: id / 3, mtime, ..entry(&path, what, data) }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_walked(entries in prop::collection::vec(some_entry(), 0..6)) {
        let mut writer = Writer::new(Vec::new());
        for entry in &entries {
            writer.begin(entry).unwrap();
            let data = vec![b'd'; usize::try_from(entry.data).unwrap()];
            for part in data.chunks(997) {
                writer.data(part).unwrap();
            }
        }
        let bytes = writer.finish().unwrap();
        prop_assert_eq!(bytes.len() % BLOCK, 0);
        match walk(&bytes) {
            Ok(walked) => {
                let plain = |e: &Entry| {
                    let mtime: String = e.mtime.parse::<u64>().map_or(e.mtime.clone(), |n| n.to_string());
                    Entry { mtime, ..e.clone() }
                };
                let expected: Vec<_> = entries.iter().map(plain).collect();
                prop_assert_eq!(walked.iter().map(plain).collect::<Vec<_>>(), expected);
            }
            Err(ArchiveError::ThroughLink { .. } | ArchiveError::TooMuch { .. }) => {}
            Err(ArchiveError::Unsupported { kind, .. }) if kind.contains("symbolic link") => {}
            Err(e) => prop_assert!(false, "{e}"),
        }
    }

    #[test]
    fn any_bytes_are_walked(mut bytes in prop::collection::vec(any::<u8>(), 0..5000), kind in any::<u8>(),
                            size in 0u64..3000, fix in any::<bool>()) {
        if fix && bytes.len() >= BLOCK {
            let mut header = header("n", EntryType::new(kind), size);
            header.set_cksum();
            bytes[..BLOCK].copy_from_slice(header.as_bytes());
        }
        fuzz_archive(&bytes);
        let mut walker = Walker::new(Cursor::new(&bytes), Limits::default());
        let _entry = walker.next_entry();
        let _data = walker.data(&mut [0; 100]);
    }
}
