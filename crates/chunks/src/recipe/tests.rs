//! Recipes: what is cut where, bytes and bounds, plans against what they stand for, and assembling
//! beside seeds that lie and disks that fail.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use p2pinst_types::PieceIndex;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::store::{BlobStore, Put};
use crate::{LayerBuilder, PieceLayer};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn cut(bytes: &[u8]) -> Vec<Chunk> {
    let mut cutter = Cutter::default();
    cutter.push(bytes);
    cutter.finish()
}

fn layer_of(bytes: &[u8]) -> PieceLayer {
    let mut builder = LayerBuilder::new(bytes.len() as u64).unwrap();
    builder.update(bytes);
    builder.finish().unwrap()
}

fn recipe_of(bytes: &[u8]) -> Recipe {
    Recipe::new(layer_of(bytes).blob(), cut(bytes)).unwrap()
}

fn open() -> (TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, store)
}

fn ingest(store: &BlobStore, mut bytes: &[u8]) -> BlobRef {
    let len = bytes.len() as u64;
    store.ingest(&mut bytes, len).unwrap()
}

/// Changes about `percent` of the content in place, in runs of 64 KiB to 4 MiB.
fn changed(bytes: &[u8], percent: usize, seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut out = bytes.to_vec();
    let mut left = bytes.len() * percent / 100;
    while left > 0 {
        let len = rng.random_range(64 * KIB..=4 * MIB).min(left).min(bytes.len());
        let at = rng.random_range(0..=bytes.len() - len);
        out[at..at + len].copy_from_slice(&noise(len, rng.random()));
        left -= len;
    }
    out
}

/// Plans a blob with the seeds of a store.
fn plan_from(store: &BlobStore, blob: BlobRef, recipe: Recipe) -> (Plan, Vec<Seed>) {
    let mut plan = Plan::new(blob, recipe).unwrap();
    let mut seeds = Vec::new();
    for seed in store.seeds(16) {
        plan.offer(seeds.len(), 0, store.load_recipe(&seed.root).unwrap().chunks());
        seeds.push(store.open_seed(&seed.root).unwrap());
    }
    (plan, seeds)
}

fn run(store: &BlobStore, plan: &Plan, seeds: &[Seed]) -> Assembled {
    assemble(store, plan, seeds, &mut |_| true).unwrap()
}

/// Gives a store what it still lacks, parts first, and looks whether all is right.
fn complete(store: &BlobStore, bytes: &[u8], done: &Assembled) {
    let layer = layer_of(bytes);
    let root = layer.blob().root;
    for piece in layer.blob().indices() {
        let range = layer.blob().range(piece).unwrap();
        let whole = &bytes[range.start as usize..range.end as usize];
        if store.has(&root, piece) {
            assert!(!done.partial.contains_key(&piece));
            let mut back = Vec::new();
            store.read_piece(&root, piece, &mut back).unwrap();
            assert!(back == whole, "piece {}", piece.0);
        } else if let Some(missing) = done.partial.get(&piece) {
            let part = |r: &std::ops::Range<u32>| &whole[r.start as usize..r.end as usize];
            let parts: Vec<_> = missing.iter().map(|r| (r.start, part(r))).collect();
            store.put_parts(&root, piece, &parts).unwrap();
        } else {
            store.put_piece(&root, piece, whole).unwrap();
        }
    }
    assert!(fs::read(store.path(&root).unwrap()).unwrap() == bytes);
}

#[test]
fn cuts_do_not_depend_on_how_content_is_handed_over() {
    let mut bytes = noise(3 * MIB, 1);
    bytes[MIB + 17..MIB + 17 + 200 * KIB].fill(0);
    bytes[100..200].fill(0);
    bytes.extend(vec![0; 70 * KIB]);
    let whole = cut(&bytes);
    assert_eq!(whole.iter().map(|c| c.len as usize).sum::<usize>(), bytes.len());
    for step in [1, 7, 4095, 4097, 100_000, MIB + 1] {
        let mut cutter = Cutter::default();
        let mut chunks = Vec::new();
        for part in bytes.chunks(step) {
            cutter.push(part);
            chunks.extend(cutter.take());
        }
        chunks.extend(cutter.finish());
        assert_eq!(chunks, whole, "in steps of {step}");
    }
    let zeros: Vec<_> = whole.iter().filter(|c| c.kind == Kind::Zero).collect();
    assert_eq!(zeros.iter().map(|c| c.len as usize).collect::<Vec<_>>(), [200 * KIB, 70 * KIB]);
    let mut at = 0;
    for chunk in &whole {
        let part = &bytes[at..at + chunk.len as usize];
        match chunk.kind {
            Kind::Zero => assert!(part.iter().all(|b| *b == 0)),
            Kind::Data(hash) => assert_eq!(hash, Hash::of(part)),
        }
        assert!(part.len() <= CHUNK_MAX);
        at += part.len();
    }
}

#[test]
fn a_hole_is_cut_like_the_zeros_that_it_reads_as() {
    let (head, tail) = (noise(300_000, 1), noise(300_000, 2));
    let mut cutter = Cutter::default();
    cutter.push(&head);
    cutter.push(&[0; 5]);
    cutter.push_zeros(5 << 30);
    cutter.push(&tail);
    let chunks = cutter.finish();
    let zeros: Vec<u64> =
        chunks.iter().filter(|c| c.kind == Kind::Zero).map(|c| c.len.into()).collect();
    assert_eq!(zeros.iter().sum::<u64>(), (5 << 30) + 5);
    assert_eq!(zeros.len(), 3, "no longer than a length may be");
    assert_eq!(chunks[0], cut(&head)[0]);
    assert_eq!(chunks.last(), cut(&tail).last());
}

#[test]
fn inserted_bytes_change_the_chunks_around_them_only() {
    let old = noise(16 * MIB, 3);
    let mut new = old.clone();
    new.splice(5_000_000..5_000_000, noise(1000, 9));
    let (old, new) = (cut(&old), cut(&new));
    let fresh = new.iter().filter(|c| !old.contains(c)).count();
    assert!((1..=3).contains(&fresh), "{fresh} of {} chunks are new", new.len());
}

#[test]
fn golden_recipe() {
    let blob = BlobRef::new(Hash([0xab; 32]), 70_000).unwrap();
    let chunks = vec![
        Chunk { len: 66_000, kind: Kind::Zero },
        Chunk { len: 4_000, kind: Kind::Data(Hash([0xcd; 32])) },
    ];
    let recipe = Recipe::new(&blob, chunks).unwrap();
    let bytes = recipe.encode();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let golden = [
        "7032706972637001", // magic, version
        &"ab".repeat(32),   // root of the blob
        "7011010000000000", // its length
        "02000000",         // chunks
        "d0010180",         // 66,000 zeros
        "a00f0000",         // 4,000 bytes
        &"cd".repeat(32),   // their hash
    ];
    assert_eq!(hex, golden.concat());
    assert_eq!(Recipe::decode(&blob, &bytes).unwrap(), recipe);
    assert_eq!(recipe.zeros(), 66_000);
    let other = BlobRef::new(Hash([0xac; 32]), 70_000).unwrap();
    assert!(matches!(Recipe::decode(&other, &bytes), Err(RecipeError::OtherBlob { .. })));
    let longer = BlobRef::new(blob.root, 70_001).unwrap();
    assert!(matches!(Recipe::decode(&longer, &bytes), Err(RecipeError::OtherBlob { .. })));
    for at in 0..bytes.len() {
        assert!(Recipe::decode(&blob, &bytes[..at]).is_err(), "cut at {at}");
    }
    let mut more = bytes.clone();
    more.push(0);
    assert!(Recipe::decode(&blob, &more).is_err());
    let mut many = bytes;
    many[48..52].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Recipe::decode(&blob, &many), Err(RecipeError::TooMany { .. })));
}

#[test]
fn impossible_chunks_are_refused() {
    let blob = BlobRef::new(Hash([1; 32]), 10 << 20).unwrap();
    let data = |len| Chunk { len, kind: Kind::Data(Hash([2; 32])) };
    let zero = |len| Chunk { len, kind: Kind::Zero };
    let new = |chunks| Recipe::new(&blob, chunks);
    assert!(new(vec![zero(10 << 20)]).is_ok());
    assert!(matches!(new(vec![zero(0), zero(10 << 20)]), Err(RecipeError::Chunk { len: 0 })));
    assert!(matches!(new(vec![data(10 << 20)]), Err(RecipeError::Chunk { .. })));
    assert!(matches!(new(vec![zero(9 << 20)]), Err(RecipeError::Length { .. })));
    assert!(matches!(new(vec![zero(10 << 20), zero(1)]), Err(RecipeError::Length { .. })));
    // more bytes of hashes than a blob of that length may cost
    let tiny = vec![data(16); (10 << 20) / 16];
    assert!(matches!(new(tiny), Err(RecipeError::TooMany { .. })));
}

#[test]
fn archives_have_no_recipe_and_small_files_neither() {
    let (_dir, store) = open();
    let mut bytes = noise(9 * MIB, 1);
    assert!(store.recipe(&ingest(&store, &bytes).root).is_some());
    bytes[..8].copy_from_slice(b"!<arch>\n");
    assert!(store.recipe(&ingest(&store, &bytes).root).is_none());
    bytes[..2].copy_from_slice(b"\x1f\x8b");
    assert!(store.recipe(&ingest(&store, &bytes).root).is_none());
    assert!(store.recipe(&ingest(&store, &noise(7 * MIB, 1)).root).is_none());
    assert!(store.without_recipe().is_empty());
    let archive = ingest(&store, &bytes);
    assert_eq!(store.make_recipe(&archive.root, &|| true).unwrap(), None);
}

#[test]
fn a_recipe_comes_and_goes_with_its_blob() {
    let (dir, store) = open();
    let bytes = noise(9 * MIB, 1);
    let blob = ingest(&store, &bytes);
    let named = store.recipe(&blob.root).unwrap();
    assert_eq!(store.load_recipe(&blob.root).unwrap(), recipe_of(&bytes));
    assert_eq!(store.recipe_of(&named.blob.root), Some(blob.root));
    let owners = |s: &BlobStore| -> Vec<_> { s.stored().iter().map(|s| s.recipe_of).collect() };
    assert!(owners(&store).contains(&Some(blob.root)) && owners(&store).contains(&None));
    drop(store);
    let store = BlobStore::open(dir.path()).unwrap();
    assert_eq!(store.recipe(&blob.root), Some(named));
    assert_eq!(ingest(&store, &bytes), blob, "the same again");
    assert_eq!(store.list().len(), 2);
    assert!(store.remove(&blob.root).unwrap());
    assert!(store.list().is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the lock is left");
    // it is lost, or its name is damaged: it is made again
    let blob = ingest(&store, &bytes);
    store.remove(&named.blob.root).unwrap();
    assert_eq!((store.recipe(&blob.root), store.list().len()), (None, 1));
    assert_eq!(store.without_recipe(), [blob.root]);
    assert_eq!(store.make_recipe(&blob.root, &|| true).unwrap(), Some(named));
    assert_eq!((store.without_recipe(), store.list().len()), (Vec::new(), 2));
    let path = dir.path().join(format!("{}.recipe", blob.root));
    drop(store);
    fs::write(&path, "nonsense").unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    assert_eq!(store.recipe(&blob.root), None);
    assert!(!path.exists());
    assert!(store.status(&blob.root).unwrap().complete);
    assert_eq!(store.make_recipe(&blob.root, &|| true).unwrap(), Some(named));
}

#[test]
fn what_peers_say_is_a_hint_until_the_blob_is_whole() {
    let ((_d1, full), (dir, store)) = (open(), open());
    let bytes = noise(9 * MIB, 1);
    let blob = ingest(&full, &bytes);
    let lie = Recipe::new(&blob, vec![Chunk { len: 9 << 20, kind: Kind::Zero }]).unwrap();
    let named = ingest(&store, &lie.encode());
    let layer = layer_of(&bytes);
    store.begin(&layer).unwrap();
    assert_eq!(store.adopt_recipe(&blob, &named).unwrap(), lie);
    assert_eq!(store.recipe(&blob.root).unwrap().blob, named, "it is given on");
    assert!(store.seeds(9).is_empty() && store.recipe_of(&named.root).is_none());
    for (piece, part) in blob.indices().zip(bytes.chunks(32_768)) {
        store.put_piece(&blob.root, piece, part).unwrap();
    }
    assert_eq!(store.without_recipe(), [blob.root]);
    assert_eq!(store.make_recipe(&blob.root, &|| true).unwrap(), full.recipe(&blob.root));
    assert_eq!(store.load_recipe(&blob.root).unwrap(), recipe_of(&bytes));
    assert_eq!(store.seeds(9), [blob]);
    // the lie is a blob like any other, and stays when the blob goes
    store.remove(&blob.root).unwrap();
    assert!(store.status(&named.root).unwrap().complete);
    drop(dir);
}

#[test]
fn no_other_blob_becomes_a_recipe() {
    let (_dir, store) = open();
    let (one, two) = (ingest(&store, &noise(MIB, 1)), ingest(&store, &noise(9 * MIB, 2)));
    let small = ingest(&store, &noise(4000, 3));
    let own = store.recipe(&two.root).unwrap();
    for other in [one, small, own.blob] {
        store.adopt_recipe(&one, &other).unwrap_err();
        assert_eq!(store.recipe(&one.root), None);
    }
    store.adopt_recipe(&two, &small).unwrap_err();
    assert_eq!(store.recipe(&two.root), Some(own));
    store.remove(&two.root).unwrap();
    assert!(store.status(&small.root).unwrap().complete && store.status(&one.root).is_some());
}

#[test]
fn a_second_version_lacks_little_more_than_what_has_changed() {
    let (_dir, store) = open();
    let old = noise(64 * MIB, 1);
    let new = changed(&old, 5, 7);
    ingest(&store, &old);
    let layer = layer_of(&new);
    store.begin(&layer).unwrap();
    let (plan, seeds) = plan_from(&store, *layer.blob(), recipe_of(&new));
    let done = run(&store, &plan, &seeds);
    let lacks = |done: &Assembled| -> u64 {
        let pieces = layer.blob().indices().filter(|p| !store.has(&layer.blob().root, *p));
        let of = |p: PieceIndex| match done.partial.get(&p) {
            Some(missing) => missing.iter().map(|r| u64::from(r.end - r.start)).sum(),
            None => layer.blob().range(p).map_or(0, |r| r.end - r.start),
        };
        pieces.map(of).sum()
    };
    let share = lacks(&done) * 1000 / new.len() as u64;
    assert!((30..=80).contains(&share), "{share} in a thousand are missing");
    assert_eq!((done.wrong, done.zero, done.complete), (0, 0, false));
    complete(&store, &new, &done);
}

/// Gives a few bytes at a time.
struct Odd<'a>(&'a [u8]);

impl std::io::Read for Odd<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let len = out.len().min(37_777);
        self.0.read(&mut out[..len])
    }
}

#[test]
fn zeros_come_from_nowhere_and_take_no_room() {
    let (dir, store) = open();
    let mut bytes = vec![0; 40 * MIB];
    bytes[3 * MIB..4 * MIB].copy_from_slice(&noise(MIB, 1));
    bytes[39 * MIB..].copy_from_slice(&noise(MIB, 2));
    let layer = layer_of(&bytes);
    store.begin(&layer).unwrap();
    let (plan, seeds) = plan_from(&store, *layer.blob(), recipe_of(&bytes));
    let done = run(&store, &plan, &seeds);
    assert_eq!((done.zero, done.local), (38 * MIB as u64, 0));
    complete(&store, &bytes, &done);
    let taken = |name: String| fs::metadata(dir.path().join(name)).unwrap().blocks() * 512;
    let root = layer.blob().root;
    assert!(taken(format!("{root}.blob")) <= 3 * MIB as u64);
    // as well where it was taken in, however it is handed over
    let (dir, store) = open();
    let mut odd = Odd(&bytes);
    store.ingest(&mut odd, bytes.len() as u64).unwrap();
    let file = dir.path().join(format!("{root}.blob"));
    assert!(fs::metadata(file).unwrap().blocks() * 512 <= 3 * MIB as u64);
    assert_eq!(store.check(&root).unwrap(), []);
}

#[test]
fn a_second_version_of_a_compressed_image_lacks_little_more_than_its_new_frames() {
    let (_dir, store) = open();
    let mut old = noise(12 * MIB, 1);
    old.extend(b"0123456789".iter().copied().cycle().take(6 * MIB));
    old.extend(noise(4 * MIB, 2));
    let image = |content: &[u8]| {
        let mut out = Vec::new();
        crate::seekable::write(&mut &content[..], &mut out, 3).unwrap();
        out
    };
    let (first, second) = (image(&old), image(&changed(&old, 5, 3)));
    assert!(first.len() < 17 * MIB);
    ingest(&store, &first);
    let (_other, full) = open();
    let blob = ingest(&full, &second);
    let recipe = full.load_recipe(&blob.root).unwrap();
    assert!(recipe.chunks().len() > 40, "a chunk for each frame");
    store.begin(&full.layer(&blob.root).unwrap()).unwrap();
    let (plan, seeds) = plan_from(&store, blob, recipe);
    let missing = plan.chunks().filter(|(.., place)| *place == Place::Missing);
    let missing: u64 = missing.map(|(range, ..)| range.end - range.start).sum();
    assert!(missing < second.len() as u64 / 5, "{missing} of {}", second.len());
    let done = run(&store, &plan, &seeds);
    assert_eq!(done.wrong, 0);
    complete(&store, &second, &done);
    // what others compressed without a table has no recipe
    let plain = zstd::bulk::compress(&old, 1).unwrap();
    assert!(store.recipe(&ingest(&store, &plain).root).is_none());
}

#[test]
fn a_file_that_holds_an_older_version_is_a_seed() {
    let (dir, store) = open();
    let mut old = noise(20 * MIB, 1);
    old[8 * MIB..12 * MIB].fill(0);
    let path = dir.path().join("old.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(old.len() as u64 + 500).unwrap();
    file.write_all_at(&old[..8 * MIB], 500).unwrap();
    file.write_all_at(&old[12 * MIB..], 500 + 12 * MIB as u64).unwrap();
    let new = changed(&old, 5, 3);
    let layer = layer_of(&new);
    store.begin(&layer).unwrap();
    let mut plan = Plan::new(*layer.blob(), recipe_of(&new)).unwrap();
    let mut seed = Seed::open(&path).unwrap();
    seed.scan(0, &mut plan, &mut || true).unwrap();
    let done = run(&store, &plan, &[seed]);
    assert!(done.local > 11 * MIB as u64, "{done:?}");
    complete(&store, &new, &done);
    // it has nothing, or is nothing
    assert!(Seed::open(&dir.path().join("none")).is_err());
    let error = Seed::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("neither a file nor a disk"), "{error}");
}

#[test]
fn a_lying_recipe_costs_nothing_but_work() {
    let (_dir, store) = open();
    let old = noise(16 * MIB, 1);
    let new = changed(&old, 20, 5);
    ingest(&store, &old);
    let layer = layer_of(&new);
    store.begin(&layer).unwrap();
    // it says that the new is the old, and partly zeros
    let mut chunks = cut(&old);
    chunks[3].kind = Kind::Zero;
    let lie = Recipe::new(layer.blob(), chunks).unwrap();
    let (plan, seeds) = plan_from(&store, *layer.blob(), lie);
    let done = run(&store, &plan, &seeds);
    assert!(done.wrong > 0, "{done:?}");
    complete(&store, &new, &done);
}

#[test]
fn what_a_partial_piece_has_of_a_lie_never_counts() {
    let (_dir, store) = open();
    let old = noise(16 * MIB, 1);
    ingest(&store, &old);
    let mut new = old.clone();
    new[5 * MIB + 1..5 * MIB + 300].copy_from_slice(&noise(299, 4));
    let layer = layer_of(&new);
    let (blob, root) = (*layer.blob(), layer.blob().root);
    store.begin(&layer).unwrap();
    let piece = PieceIndex(u32::try_from(5 * MIB as u64 / blob.piece_len()).unwrap());
    let range = blob.range(piece).unwrap();
    let whole = &new[range.start as usize..range.end as usize];
    let missing = vec![std::ops::Range { start: 0, end: 1 }];
    // said to be here but for its first bytes: the change is not among those
    store
        .put_unverified(&root, piece, &old[range.start as usize..range.end as usize], &missing)
        .unwrap();
    assert!(!store.has(&root, piece));
    let error = store.put_parts(&root, piece, &[(0, &whole[..1])]).unwrap_err();
    assert!(matches!(error, crate::store::PutError::Bad(_)), "{error}");
    assert!(!store.has(&root, piece));
    assert_eq!(store.put_piece(&root, piece, whole).unwrap(), Put::New);
    // what is here is not written over
    store.put_unverified(&root, piece, &vec![7; whole.len()], &[]).unwrap();
    let mut back = Vec::new();
    store.read_piece(&root, piece, &mut back).unwrap();
    assert_eq!(back, whole);
    assert_eq!(store.put_parts(&root, piece, &[(5, b"xyz")]).unwrap(), Put::Duplicate);
}

#[test]
fn a_damaged_seed_gives_what_is_good_of_it() {
    let (dir, store) = open();
    let old = noise(16 * MIB, 1);
    let new = changed(&old, 5, 6);
    let seed = ingest(&store, &old);
    let file = fs::File::options()
        .write(true)
        .open(dir.path().join(format!("{}.blob", seed.root)))
        .unwrap();
    file.write_all_at(b"damage", 3_000_000).unwrap();
    file.set_len(12 * MIB as u64).unwrap();
    let layer = layer_of(&new);
    store.begin(&layer).unwrap();
    let (plan, seeds) = plan_from(&store, *layer.blob(), recipe_of(&new));
    let done = run(&store, &plan, &seeds);
    assert!(done.local > 5 * MIB as u64 && done.local < 12 * MIB as u64, "{done:?}");
    assert_eq!(done.wrong, 0);
    complete(&store, &new, &done);
}

#[test]
fn anytime_power_is_lost_while_it_assembles_nothing_unverified_counts() {
    let old = noise(16 * MIB, 1);
    let new = changed(&old, 10, 8);
    let layer = layer_of(&new);
    for stop_after in [0, 1, 7, 60] {
        let (dir, store) = open();
        ingest(&store, &old);
        store.begin(&layer).unwrap();
        let (plan, seeds) = plan_from(&store, *layer.blob(), recipe_of(&new));
        let mut left = stop_after;
        assemble(&store, &plan, &seeds, &mut |piece| {
            left -= i32::from(piece.is_some());
            left >= 0
        })
        .unwrap();
        if stop_after % 2 == 1 {
            store.sync(&layer.blob().root).unwrap();
        }
        drop((store, seeds));
        let store = BlobStore::open(dir.path()).unwrap();
        store.begin(&layer).unwrap();
        let (plan, seeds) = plan_from(&store, *layer.blob(), recipe_of(&new));
        let done = run(&store, &plan, &seeds);
        complete(&store, &new, &done);
    }
}

#[test]
fn what_is_here_already_is_not_built_again() {
    let (_dir, store) = open();
    let old = noise(16 * MIB, 1);
    ingest(&store, &old);
    let new = changed(&old, 5, 6);
    let layer = layer_of(&new);
    store.begin(&layer).unwrap();
    let (plan, seeds) = plan_from(&store, *layer.blob(), recipe_of(&new));
    let first = run(&store, &plan, &seeds);
    let again = run(&store, &plan, &seeds);
    assert!(first.pieces > 0);
    assert_eq!((again.pieces, again.local), (0, 0));
    assert_eq!(again.partial, first.partial);
    complete(&store, &new, &again);
}

/// Chunks of few kinds, so that they match, and what a store of them has.
fn any_chunks() -> impl Strategy<Value = Vec<Chunk>> {
    let one = (1u32..200_000, 0u8..8).prop_map(|(len, kind)| match kind {
        0 => Chunk { len, kind: Kind::Zero },
        // equal hashes have equal lengths, but for lies
        n => Chunk {
            len: if n == 7 { len } else { u32::from(n) * 30_000 },
            kind: Kind::Data(Hash([n; 32])),
        },
    });
    prop::collection::vec(one, 1..40)
}

proptest! {
    #[test]
    fn recipes_read_back_and_other_bytes_do_not_panic(
        chunks in any_chunks(),
        junk in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
    ) {
        let len = chunks.iter().map(|c| u64::from(c.len)).sum();
        let blob = BlobRef::new(Hash([9; 32]), len).unwrap();
        let Ok(recipe) = Recipe::new(&blob, chunks) else { return Ok(()) };
        let mut bytes = recipe.encode();
        prop_assert!(bytes.len() as u64 <= most_bytes(len));
        prop_assert_eq!(&Recipe::decode(&blob, &bytes).unwrap(), &recipe);
        drop(Recipe::decode(&blob, &junk));
        let at = at.index(bytes.len());
        bytes[at] ^= 1;
        if let Ok(other) = Recipe::decode(&blob, &bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }

    #[test]
    fn a_plan_covers_the_blob_exactly(chunks in any_chunks(), here in any_chunks(), log2 in 16u8..20) {
        let len: u64 = chunks.iter().map(|c| u64::from(c.len)).sum();
        let blob = BlobRef::with_piece_log2(Hash([9; 32]), len, log2).unwrap();
        let Ok(recipe) = Recipe::new(&blob, chunks.clone()) else { return Ok(()) };
        let mut plan = Plan::new(blob, recipe).unwrap();
        let end = plan.offer(3, 1000, &here);
        prop_assert_eq!(end, 1000 + here.iter().map(|c| u64::from(c.len)).sum::<u64>());
        let mut at = 0;
        for ((range, chunk, place), expected) in plan.chunks().zip(&chunks) {
            prop_assert_eq!((range.start, range.end), (at, at + u64::from(expected.len)));
            at = range.end;
            prop_assert_eq!(&chunk, expected);
            match place {
                Place::Zero => prop_assert_eq!(chunk.kind, Kind::Zero),
                Place::Missing => prop_assert!(!here.contains(&chunk)),
                Place::Local(local) => {
                    let mut at = 1000;
                    let there = here.iter().find(|c| {
                        let found = at == local.offset;
                        at += u64::from(c.len);
                        found
                    });
                    prop_assert_eq!(there, Some(&chunk));
                    prop_assert_eq!(local.seed, 3);
                }
            }
        }
        prop_assert_eq!(at, len);
    }
}
