//! The store's behaviour, and what it makes of every state that a crash or a bad disk may leave.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::FileExt;

use p2pinst_types::PieceIndex;
use tempfile::TempDir;

use super::*;
use crate::layer::LayerBuilder;

const PIECE: usize = 32_768;

fn data(len: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

fn layer_of(bytes: &[u8]) -> PieceLayer {
    let mut builder = LayerBuilder::new(bytes.len() as u64).unwrap();
    builder.update(bytes);
    builder.finish().unwrap()
}

fn open() -> (TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, store)
}

/// Forgets what is in memory, as a crash does.
fn reopen(dir: &TempDir, store: BlobStore) -> BlobStore {
    drop(store);
    BlobStore::open(dir.path()).unwrap()
}

fn piece<'a>(layer: &PieceLayer, bytes: &'a [u8], index: u32) -> &'a [u8] {
    let range = layer.blob().range(PieceIndex(index)).unwrap();
    &bytes[range.start as usize..range.end as usize]
}

fn put(store: &BlobStore, layer: &PieceLayer, bytes: &[u8], index: u32) -> Put {
    let root = layer.blob().root;
    store.put_piece(&root, PieceIndex(index), piece(layer, bytes, index)).unwrap()
}

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n != "lock")
        .map(|n| n.split_once('.').unwrap().1.to_owned())
        .collect();
    names.sort();
    names
}

fn path(dir: &TempDir, kind: Kind, layer: &PieceLayer) -> PathBuf {
    kind.path(dir.path(), &layer.blob().root)
}

/// Every piece can be read and is right, as often as the status says.
fn assert_serves(store: &BlobStore, bytes: &[u8], expect: usize) {
    let layer = layer_of(bytes);
    let root = layer.blob().root;
    let status = store.status(&root).unwrap();
    assert_eq!(status.have.count() as usize, expect);
    let mut out = Vec::new();
    for index in layer.blob().indices() {
        let read = store.read_piece(&root, index, &mut out);
        if status.have.get(index) {
            read.unwrap();
            assert_eq!(out, piece(&layer, bytes, index.0));
        } else {
            assert!(matches!(read, Err(ReadError::Missing { .. })));
            assert!(out.is_empty());
        }
    }
}

#[test]
fn ingest_is_idempotent_and_survives() {
    let (dir, store) = open();
    for len in [0, 1, PIECE, PIECE + 1, 5 * PIECE] {
        let bytes = data(len, 1);
        let blob = store.ingest(&mut Cursor::new(&bytes), len as u64).unwrap();
        assert_eq!(blob.root, Hash::of(&bytes));
        assert_eq!(store.ingest(&mut Cursor::new(&bytes), len as u64).unwrap(), blob);
        assert_eq!(fs::read(store.path(&blob.root).unwrap()).unwrap(), bytes);
        assert_serves(&store, &bytes, blob.pieces() as usize);
    }
    let store = reopen(&dir, store);
    assert_eq!(store.list().len(), 5);
    assert!(store.list().iter().all(|s| s.complete));
    let bytes = data(5 * PIECE, 1);
    assert_serves(&store, &bytes, 5);
    assert!(store.remove(&Hash::of(&bytes)).unwrap());
    assert!(!store.remove(&Hash::of(&bytes)).unwrap());
    assert_eq!(reopen(&dir, store).list().len(), 4);
}

struct Fails;

impl Read for Fails {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("gone"))
    }
}

#[test]
fn bad_input_leaves_nothing_behind() {
    let (dir, store) = open();
    let bytes = data(100_000, 2);
    let ingest = |len| store.ingest(&mut Cursor::new(&bytes), len);
    assert!(matches!(ingest(100_001), Err(IngestError::Length(e)) if e.got == 100_000));
    assert!(matches!(ingest(99_999), Err(IngestError::Length(_))));
    assert!(matches!(ingest(u64::MAX), Err(IngestError::TooLong(_))));
    assert!(matches!(ingest(1 << 43), Err(IngestError::NoSpace(e)) if e.needed == 1 << 43));
    assert!(matches!(store.ingest(&mut Fails, 5), Err(IngestError::Input(_))));
    assert_eq!(names(&dir), [""; 0]);
    assert!(store.list().is_empty());
}

#[test]
fn one_process_at_a_time() {
    let (dir, store) = open();
    assert!(matches!(BlobStore::open(dir.path()), Err(StoreError::InUse { .. })));
    drop(store);
    assert!(BlobStore::open(dir.path()).is_ok());
}

#[test]
fn what_is_handed_over_is_cut_as_it_is_published() {
    let (dir, store) = open();
    let bytes = data(100_000, 3);
    let root = Hash::of(&bytes);
    let old = BlobRef::with_piece_log2(root, 100_000, 17).unwrap();
    let layer = PieceLayer::new(old, root.0.to_vec()).unwrap();
    store.begin(&layer).unwrap();
    put(&store, &layer, &bytes, 0);
    assert!(store.status(&root).unwrap().have.is_full());
    let new = store.ingest(&mut Cursor::new(&bytes), 100_000).unwrap();
    assert_ne!(new, old);
    let store = reopen(&dir, store);
    assert_eq!(store.status(&root).unwrap().blob, new);
    assert_serves(&store, &bytes, 4);
}

#[test]
fn a_blob_grows_piece_by_piece() {
    let (dir, store) = open();
    let bytes = data(4 * PIECE + 9, 3);
    let layer = layer_of(&bytes);
    let root = layer.blob().root;
    assert!(matches!(
        store.put_piece(&root, PieceIndex(0), piece(&layer, &bytes, 0)),
        Err(PutError::Unknown { .. })
    ));
    store.begin(&layer).unwrap();
    store.begin(&layer).unwrap();
    assert_serves(&store, &bytes, 0);
    assert!(matches!(
        store.put_piece(&root, PieceIndex(0), piece(&layer, &bytes, 1)),
        Err(PutError::Bad(_))
    ));
    assert!(matches!(store.put_piece(&root, PieceIndex(5), b""), Err(PutError::Bad(_))));
    for index in [4, 0, 2, 3] {
        assert_eq!(put(&store, &layer, &bytes, index), Put::New);
        assert_eq!(put(&store, &layer, &bytes, index), Put::Duplicate);
    }
    assert_serves(&store, &bytes, 4);
    assert_eq!(store.path(&root), None);
    assert_eq!(put(&store, &layer, &bytes, 1), Put::Completed);
    assert_eq!(put(&store, &layer, &bytes, 1), Put::Duplicate);
    assert_serves(&store, &bytes, 5);
    assert_eq!(fs::read(store.path(&root).unwrap()).unwrap(), bytes);
    assert_eq!(names(&dir), ["blob", "layer"]);
    assert_serves(&reopen(&dir, store), &bytes, 5);
}

#[test]
fn the_empty_blob_can_be_fetched() {
    let (dir, store) = open();
    let layer = layer_of(b"");
    store.begin(&layer).unwrap();
    assert_eq!(put(&store, &layer, b"", 0), Put::Completed);
    assert_serves(&reopen(&dir, store), b"", 1);
}

#[test]
fn only_synced_pieces_count_after_a_crash() {
    let (dir, store) = open();
    let bytes = data(6 * PIECE, 4);
    let layer = layer_of(&bytes);
    let root = layer.blob().root;
    store.begin(&layer).unwrap();
    store.sync(&root).unwrap();
    put(&store, &layer, &bytes, 5);
    let store = reopen(&dir, store);
    assert_serves(&store, &bytes, 0);
    put(&store, &layer, &bytes, 1);
    put(&store, &layer, &bytes, 2);
    store.sync(&root).unwrap();
    put(&store, &layer, &bytes, 3);
    assert_serves(&store, &bytes, 3);
    let store = reopen(&dir, store);
    assert_serves(&store, &bytes, 2);
    assert!(matches!(store.sync(&Hash::of(b"?")), Err(SyncError::Unknown { .. })));
    for index in [0, 3, 4, 5] {
        put(&store, &layer, &bytes, index);
    }
    assert_eq!(fs::read(store.path(&root).unwrap()).unwrap(), bytes);
}

/// A partial blob with pieces 0 and 2 of 4 durable.
fn half_done() -> (TempDir, Vec<u8>, PieceLayer) {
    let (dir, store) = open();
    let bytes = data(4 * PIECE, 5);
    let layer = layer_of(&bytes);
    store.begin(&layer).unwrap();
    put(&store, &layer, &bytes, 0);
    put(&store, &layer, &bytes, 2);
    store.sync(&layer.blob().root).unwrap();
    drop(store);
    (dir, bytes, layer)
}

#[test]
fn anytime_a_torn_record_of_pieces_claims_nothing() {
    for cut in [0, 20, 70, 76] {
        let (dir, bytes, layer) = half_done();
        let have = path(&dir, Kind::Have, &layer);
        let whole = fs::read(&have).unwrap();
        fs::write(&have, &whole[..cut]).unwrap();
        assert_serves(&BlobStore::open(dir.path()).unwrap(), &bytes, 0);
        let mut flipped = whole;
        flipped[44] = 0xf;
        fs::write(&have, &flipped).unwrap();
        assert_serves(&BlobStore::open(dir.path()).unwrap(), &bytes, 0);
    }
}

#[test]
fn anytime_orphans_are_tidied_up() {
    type Harm = fn(&TempDir, &PieceLayer);
    let harms: [(Harm, usize); 5] = [
        (|d, l| fs::remove_file(path(d, Kind::Part, l)).unwrap(), 0),
        (|d, l| fs::remove_file(path(d, Kind::Layer, l)).unwrap(), 0),
        (|d, l| fs::write(path(d, Kind::Layer, l), b"p2p").unwrap(), 0),
        (
            |d, l| {
                File::options()
                    .write(true)
                    .open(path(d, Kind::Part, l))
                    .unwrap()
                    .set_len(9)
                    .unwrap()
            },
            0,
        ),
        (|d, _| fs::write(d.path().join(".tmp-abc"), b"half").unwrap(), 3),
    ];
    for (harm, left) in harms {
        let (dir, _, layer) = half_done();
        harm(&dir, &layer);
        drop(BlobStore::open(dir.path()).unwrap());
        assert_eq!(names(&dir).len(), left);
    }
}

#[test]
fn anytime_a_stale_record_never_speaks_for_a_new_partial() {
    let (dir, bytes, layer) = half_done();
    fs::remove_file(path(&dir, Kind::Part, &layer)).unwrap();
    let have = path(&dir, Kind::Have, &layer);
    let record = fs::read(&have).unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    fs::write(&have, record).unwrap();
    store.begin(&layer).unwrap();
    assert_serves(&reopen(&dir, store), &bytes, 0);
}

#[test]
fn anytime_completion_is_finished_after_a_crash() {
    // all pieces durable, the rename still to come
    let (dir, bytes, layer) = half_done();
    let store = BlobStore::open(dir.path()).unwrap();
    put(&store, &layer, &bytes, 1);
    put(&store, &layer, &bytes, 3);
    drop(store);
    let (part, have) = (path(&dir, Kind::Part, &layer), path(&dir, Kind::Have, &layer));
    fs::rename(path(&dir, Kind::Blob, &layer), &part).unwrap();
    fs::write(&have, disk::encode_have(&layer.blob().root, &Bitmap::full(4))).unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    assert_serves(&store, &bytes, 4);
    assert_eq!(names(&dir), ["blob", "layer"]);
    // renamed, the record still there
    drop(store);
    fs::write(&have, disk::encode_have(&layer.blob().root, &Bitmap::new(4))).unwrap();
    assert_serves(&BlobStore::open(dir.path()).unwrap(), &bytes, 4);
    assert_eq!(names(&dir), ["blob", "layer"]);
}

#[test]
fn anytime_a_damaged_layer_is_made_anew_from_the_blob() {
    for damage in [&b""[..], b"p2pilyr\x01 torn"] {
        let (dir, store) = open();
        let bytes = data(4 * PIECE, 6);
        let layer = layer_of(&bytes);
        store.ingest(&mut Cursor::new(&bytes), bytes.len() as u64).unwrap();
        drop(store);
        let file = path(&dir, Kind::Layer, &layer);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, damage).unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        assert_serves(&store, &bytes, 4);
        assert_eq!(fs::read(&file).unwrap(), whole);
        // a flipped bit behind the header is only seen when the layer is used
        drop(store);
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&file, flipped).unwrap();
        assert_serves(&BlobStore::open(dir.path()).unwrap(), &bytes, 4);
        assert_eq!(fs::read(&file).unwrap(), whole);
        // and when the blob is not that blob either, it is not served
        let mut other = bytes.clone();
        other[7] ^= 1;
        fs::write(path(&dir, Kind::Blob, &layer), other).unwrap();
        fs::write(&file, damage).unwrap();
        assert!(BlobStore::open(dir.path()).unwrap().list().is_empty());
        assert_eq!(names(&dir), [""; 0]);
    }
}

#[test]
fn anytime_damage_on_disk_is_never_served() {
    let (dir, store) = open();
    let bytes = data(5 * PIECE, 7);
    let layer = layer_of(&bytes);
    let root = layer.blob().root;
    store.ingest(&mut Cursor::new(&bytes), bytes.len() as u64).unwrap();
    let file = fs::OpenOptions::new().write(true).open(store.path(&root).unwrap()).unwrap();
    file.write_all_at(b"rot", 2 * PIECE as u64 + 5).unwrap();
    file.write_all_at(b"rot", 4 * PIECE as u64 + 5).unwrap();
    let mut out = Vec::new();
    store.read_piece(&root, PieceIndex(1), &mut out).unwrap();
    let error = store.read_piece(&root, PieceIndex(2), &mut out).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { piece: PieceIndex(2), .. }), "{error}");
    assert!(out.is_empty());
    assert_eq!(store.path(&root), None);
    // both bad pieces are given up, also after a restart, and can be fetched again
    assert_serves(&store, &bytes, 3);
    let store = reopen(&dir, store);
    assert_serves(&store, &bytes, 3);
    put(&store, &layer, &bytes, 4);
    assert_eq!(put(&store, &layer, &bytes, 2), Put::Completed);
    assert_serves(&store, &bytes, 5);
    assert_eq!(store.check(&root).unwrap(), []);
    // a truncated file, while open and before opening
    let file = fs::OpenOptions::new().write(true).open(store.path(&root).unwrap()).unwrap();
    file.set_len(3 * PIECE as u64 + 1).unwrap();
    assert_eq!(store.check(&root).unwrap(), [PieceIndex(3), PieceIndex(4)]);
    assert_serves(&store, &bytes, 3);
    put(&store, &layer, &bytes, 3);
    put(&store, &layer, &bytes, 4);
    file.set_len(PIECE as u64).unwrap();
    let store = reopen(&dir, store);
    assert_serves(&store, &bytes, 1);
    for index in 1..5 {
        put(&store, &layer, &bytes, index);
    }
    assert_serves(&store, &bytes, 5);
}

#[test]
fn anytime_a_damaged_partial_gives_up_the_piece() {
    let (dir, bytes, layer) = half_done();
    let store = BlobStore::open(dir.path()).unwrap();
    let root = layer.blob().root;
    let file = fs::OpenOptions::new().write(true).open(path(&dir, Kind::Part, &layer)).unwrap();
    file.write_all_at(b"rot", 5).unwrap();
    let read = store.read_piece(&root, PieceIndex(0), &mut Vec::new());
    assert!(matches!(read, Err(ReadError::Damaged { .. })));
    assert_serves(&store, &bytes, 1);
    assert_serves(&reopen(&dir, store), &bytes, 1);
}

#[test]
fn a_blob_that_cannot_fit_is_refused_at_once() {
    let (dir, store) = open();
    // 8 TiB of zeros, whose layer merges without reading them: all chaining values invented
    let mut blob = BlobRef::new(Hash([0; 32]), 8 << 40).unwrap();
    let values = vec![3; blob.pieces() as usize * 32];
    blob.root = crate::layer::merge(&values).unwrap();
    let layer = PieceLayer::new(blob, values).unwrap();
    match store.begin(&layer) {
        Err(BeginError::NoSpace(e)) => assert!(e.needed == 8 << 40 && e.free < e.needed),
        other => panic!("{other:?}"),
    }
    assert_eq!(names(&dir), [""; 0]);
}

#[test]
fn the_same_root_in_other_pieces_is_refused() {
    let (_dir, store) = open();
    let bytes = data(100_000, 8);
    let blob = store.ingest(&mut Cursor::new(&bytes), 100_000).unwrap();
    let other = BlobRef::with_piece_log2(blob.root, 100_000, 17).unwrap();
    let layer = PieceLayer::new(other, blob.root.0.to_vec()).unwrap();
    assert!(matches!(store.begin(&layer), Err(BeginError::OtherShape { .. })));
}

#[test]
fn ingest_completes_a_partial() {
    let (dir, bytes, _) = half_done();
    let store = BlobStore::open(dir.path()).unwrap();
    store.ingest(&mut Cursor::new(&bytes), bytes.len() as u64).unwrap();
    assert_serves(&store, &bytes, 4);
    assert_eq!(names(&dir), ["blob", "layer"]);
    assert_serves(&reopen(&dir, store), &bytes, 4);
}

#[test]
fn open_files_are_bounded() {
    let (_dir, store) = open();
    let mut out = Vec::new();
    for round in 0..2 {
        for i in 0..entry::MAX_FILES as u32 + 40 {
            let bytes = i.to_le_bytes();
            if round == 0 {
                store.ingest(&mut Cursor::new(&bytes), 4).unwrap();
            }
            store.read_piece(&Hash::of(&bytes), PieceIndex(0), &mut out).unwrap();
            assert_eq!(out, bytes);
        }
    }
    assert_eq!(store.inner.cache.open_files(), entry::MAX_FILES);
    let hot = store.inner.all().iter().filter(|e| e.hot().is_some()).count();
    assert_eq!(hot, entry::MAX_FILES);
}

#[test]
fn many_threads_complete_a_blob_once() {
    let (_dir, store) = open();
    let bytes = data(40 * PIECE + 3, 9);
    let layer = layer_of(&bytes);
    let root = layer.blob().root;
    store.begin(&layer).unwrap();
    let completed: usize = std::thread::scope(|scope| {
        let work: Vec<_> = (0..4)
            .map(|t| {
                let (store, layer, bytes) = (store.clone(), &layer, &bytes);
                scope.spawn(move || {
                    let order = layer.blob().indices().map(|p| (p.0 * 7 + t * 11) % 41);
                    let mut out = Vec::new();
                    order
                        .filter(|i| {
                            let done = put(&store, layer, bytes, *i) == Put::Completed;
                            store.read_piece(&root, PieceIndex(*i), &mut out).unwrap();
                            store.sync(&root).unwrap();
                            done
                        })
                        .count()
                })
            })
            .collect();
        work.into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert_eq!(completed, 1);
    assert_serves(&store, &bytes, 41);
}

#[test]
fn the_last_use_is_known_after_a_restart() {
    let (dir, store) = open();
    let bytes = data(PIECE * 2, 1);
    let root = store.ingest(&mut Cursor::new(&bytes), bytes.len() as u64).unwrap().root;
    let layer = dir.path().join(format!("{root}.layer"));
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    File::options().write(true).open(&layer).unwrap().set_modified(old).unwrap();
    let store = reopen(&dir, store);
    let [stored] = &store.stored()[..] else { panic!("one blob") };
    assert_eq!((stored.used.0, stored.damaged), (1_000_000_000, false));
    store.read_piece(&root, PieceIndex(0), &mut Vec::new()).unwrap();
    let used = store.stored()[0].used;
    assert!(used.0 > 1_000_000_000);
    let store = reopen(&dir, store);
    let again = store.stored()[0].used;
    assert!(again.0.abs_diff(used.0) < 60_000, "{} {}", again.0, used.0);
}

#[test]
fn a_blob_can_be_checked_in_steps() {
    let (dir, store) = open();
    let bytes = data(PIECE * 5 + 7, 2);
    let layer = layer_of(&bytes);
    let root = store.ingest(&mut Cursor::new(&bytes), bytes.len() as u64).unwrap().root;
    let file = File::options().write(true).open(path(&dir, Kind::Blob, &layer)).unwrap();
    file.write_all_at(&[!bytes[PIECE * 3 + 9]], PIECE as u64 * 3 + 9).unwrap();
    let mut from = Some(PieceIndex(0));
    let (mut steps, mut read, mut bad) = (0, 0, Vec::new());
    while let Some(at) = from {
        let checked = store.check_some(&root, at, PIECE as u64 * 2).unwrap();
        (steps, read, from) = (steps + 1, read + checked.bytes, checked.next);
        bad.extend(checked.damaged);
    }
    assert_eq!((steps, read, bad), (3, bytes.len() as u64, vec![PieceIndex(3)]));
    assert!(store.stored()[0].damaged && !store.stored()[0].status.complete);
    // what comes again makes it whole again
    assert_eq!(put(&store, &layer, &bytes, 3), Put::Completed);
    assert!(!store.stored()[0].damaged);
    assert_serves(&store, &bytes, 6);
}

#[test]
fn pieces_whose_record_finds_no_room_stay() {
    let (dir, store) = open();
    let bytes = data(PIECE * 3, 3);
    let layer = layer_of(&bytes);
    store.begin(&layer).unwrap();
    put(&store, &layer, &bytes, 0);
    // a directory in its place stands for a disk that is full
    let record = path(&dir, Kind::Have, &layer);
    fs::create_dir(&record).unwrap();
    assert!(store.sync(&layer.blob().root).is_err());
    assert_serves(&store, &bytes, 1);
    fs::remove_dir(&record).unwrap();
    store.sync(&layer.blob().root).unwrap();
    let store = reopen(&dir, store);
    assert_serves(&store, &bytes, 1);
}

#[test]
fn a_blob_whose_file_was_deleted_is_gone() {
    for in_use in [false, true] {
        let (dir, store) = open();
        let bytes = data(PIECE * 3, 4);
        let layer = layer_of(&bytes);
        let root = store.ingest(&mut Cursor::new(&bytes), bytes.len() as u64).unwrap().root;
        if in_use {
            assert_serves(&store, &bytes, 3);
        }
        fs::remove_file(path(&dir, Kind::Blob, &layer)).unwrap();
        assert!(matches!(
            store.check(&root),
            Err(ReadError::Layer(LayerReadError::Unknown { .. }))
        ));
        assert!(store.status(&root).is_none());
        // it can come again
        store.begin(&layer).unwrap();
        for index in 0..3 {
            put(&store, &layer, &bytes, index);
        }
        assert_serves(&store, &bytes, 3);
        assert_serves(&reopen(&dir, store), &bytes, 3);
    }
}
