//! Second versions, sparse files, and recipes that lie, over real connections.

use std::os::unix::fs::MetadataExt;

use p2pinst_chunks::recipe::{Chunk, Cutter, Kind, Named, Recipe};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

use super::super::{Fetched, Wish};
use super::*;

const MIB: usize = 1 << 20;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut out);
    out
}

/// Two versions of 16 MiB: the second has a MiB of its own, in three places.
fn versions() -> (Vec<u8>, Vec<u8>) {
    let old = noise(16 * MIB, 1);
    let mut new = old.clone();
    for (at, len) in [(MIB + 5, 300_000), (7 * MIB, 600_000), (15 * MIB + 77, 100_000)] {
        new[at..at + len].copy_from_slice(&noise(len, at as u64));
    }
    (old, new)
}

fn ingest(store: &BlobStore, mut bytes: &[u8]) -> BlobRef {
    let len = bytes.len() as u64;
    store.ingest(&mut bytes, len).unwrap()
}

/// Fetches a blob into a store from these hosts.
async fn fetch(into: &BlobStore, blob: BlobRef, from: &[&Host], wish: Wish) -> Fetched {
    let reader = host().await;
    for other in from {
        reader.net.dial(Some(other.id), std::slice::from_ref(&other.addr)).await.unwrap();
    }
    let exchange = Exchange::new(reader.net.clone(), into.clone());
    let (own, nodes) = (reader.id, from.iter().map(|h| h.id).collect::<Vec<_>>());
    let fetch = exchange.fetch_as(blob, Box::new(move || near(own, &nodes)), wish);
    tokio::time::timeout(Duration::from_secs(60), fetch).await.unwrap().unwrap()
}

fn is_whole(store: &BlobStore, blob: &BlobRef, bytes: &[u8]) -> bool {
    std::fs::read(store.path(&blob.root).unwrap()).unwrap() == bytes
}

/// A store that has the old version, as it was fetched, and one that has both.
async fn with_old() -> (BlobRef, Vec<u8>, (TempDir, BlobStore), Host, (TempDir, BlobStore)) {
    let (old, new) = versions();
    let ((d1, full), (d2, here)) = (store(), store());
    let first = ingest(&full, &old);
    let second = ingest(&full, &new);
    let source = honest(&full).await;
    let fetched = fetch(&here, first, &[&source], Wish::default()).await;
    assert_eq!((fetched.local, fetched.zero), (0, 0));
    assert_eq!(here.recipe(&first.root), None, "nobody waits for what is of no use now");
    assert_eq!(here.make_recipe(&first.root, &|| true).unwrap(), full.recipe(&first.root));
    (second, new, (d1, full), source, (d2, here))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_second_version_comes_what_is_new() {
    let (blob, new, _full, source, (_dir, here)) = with_old().await;
    let fetched = fetch(&here, blob, &[&source], Wish::default()).await;
    assert!(is_whole(&here, &blob, &new));
    // each of the three changes is in up to two chunks more
    assert!(fetched.received < 5 * MIB as u64 / 2, "{fetched:?}");
    let all = fetched.local + fetched.received - fetched.duplicate;
    assert_eq!(
        (all, fetched.zero),
        (blob.len(), 0),
        "not a byte comes of what is here: {fetched:?}"
    );
    // others get both from it
    let next = honest(&here).await;
    let ((_dir, third), (old, _)) = (store(), versions());
    ingest(&third, &old);
    let fetched = fetch(&third, blob, &[&next], Wish::default()).await;
    assert!(is_whole(&third, &blob, &new) && fetched.local > 12 * MIB as u64, "{fetched:?}");
    assert_eq!(
        third.make_recipe(&blob.root, &|| true).unwrap(),
        here.make_recipe(&blob.root, &|| true).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn zeros_do_not_travel_and_take_no_room() {
    let mut bytes = vec![0; 48 * MIB];
    bytes[20 * MIB..21 * MIB].copy_from_slice(&noise(MIB, 3));
    let ((_d1, full), (_d2, here)) = (store(), store());
    let blob = ingest(&full, &bytes);
    let source = honest(&full).await;
    let fetched = fetch(&here, blob, &[&source], Wish::default()).await;
    assert!(is_whole(&here, &blob, &bytes));
    assert!(fetched.received < 2 * MIB as u64 && fetched.zero >= 46 * MIB as u64, "{fetched:?}");
    let taken = std::fs::metadata(here.path(&blob.root).unwrap()).unwrap().blocks() * 512;
    assert!(taken < 3 * MIB as u64, "{taken} bytes are taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_named_gives_what_it_has() {
    let (old, new) = versions();
    let ((_d1, full), (dir, here)) = (store(), store());
    let blob = ingest(&full, &new);
    let source = honest(&full).await;
    let older = dir.path().join("older.img");
    // inserted bytes move the rest
    std::fs::write(&older, [&noise(12_345, 9), old.as_slice()].concat()).unwrap();
    let wish = Wish { delta: true, delta_from: vec![dir.path().join("none"), older], onto: None };
    let fetched = fetch(&here, blob, &[&source], wish).await;
    assert!(is_whole(&here, &blob, &new));
    assert!(fetched.local > 12 * MIB as u64 && fetched.received < 4 * MIB as u64, "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_named_gives_what_its_files_have() {
    let (old, new) = versions();
    let ((_d1, full), (dir, here)) = (store(), store());
    let blob = ingest(&full, &new);
    let source = honest(&full).await;
    // as if the image had been unpacked: two files, and one that has nothing to do with it
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("deep")).unwrap();
    let (first, second) = old.split_at(old.len() / 2);
    std::fs::write(tree.join("first"), first).unwrap();
    std::fs::write(tree.join("deep/second"), second).unwrap();
    std::fs::write(tree.join("other"), noise(9 * MIB, 8)).unwrap();
    let wish = Wish { delta: true, delta_from: vec![tree], onto: None };
    let fetched = fetch(&here, blob, &[&source], wish).await;
    assert!(is_whole(&here, &blob, &new));
    assert!(fetched.local > 11 * MIB as u64 && fetched.received < 5 * MIB as u64, "{fetched:?}");
}

/// Fetches a blob onto a disk, and finishes it.
async fn onto(disk: &std::path::Path, blob: BlobRef, from: &[&Host]) -> Fetched {
    let (_dir, here) = store();
    let wish = Wish { onto: Some(disk.to_owned()), ..Wish::default() };
    let fetched = fetch(&here, blob, from, wish).await;
    assert_eq!(here.path(&blob.root), None);
    here.finish_target(&blob.root, disk).unwrap();
    fetched
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_fetched_onto_a_disk_and_only_what_is_not_there() {
    let (old, new) = versions();
    let ((_d1, full), (dir, _)) = (store(), store());
    let (first, second) = (ingest(&full, &old), ingest(&full, &new));
    let source = honest(&full).await;
    let disk = dir.path().join("disk");
    std::fs::write(&disk, noise(17 * MIB, 5)).unwrap();
    let fetched = onto(&disk, first, &[&source]).await;
    assert_eq!((fetched.local, fetched.received), (0, old.len() as u64));
    assert!(std::fs::read(&disk).unwrap()[..old.len()] == old);
    // the second version over the first: what was held back comes anew, and what changed
    let fetched = onto(&disk, second, &[&source]).await;
    assert!(std::fs::read(&disk).unwrap()[..new.len()] == new);
    assert!(fetched.received < 4 * MIB as u64, "{fetched:?}");
    // once more, after the power failed before the end: nothing but what was held back
    let fetched = onto(&disk, second, &[&source]).await;
    assert!(std::fs::read(&disk).unwrap()[..new.len()] == new);
    assert!(fetched.received <= MIB as u64, "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_lies_costs_nothing_but_work() {
    let (blob, new, (_d, full), source, (_dir, here)) = with_old().await;
    let (old, _) = versions();
    // it says that the new version is the old one, and partly zeros, and hashes of nothing
    let mut cutter = Cutter::default();
    cutter.push(&old);
    let mut chunks = cutter.finish();
    chunks[2].kind = Kind::Zero;
    chunks[5].kind = Kind::Data(Hash([9; 32]));
    full.put_recipe(&Recipe::new(&blob, chunks).unwrap()).unwrap();
    let fetched = fetch(&here, blob, &[&source], Wish::default()).await;
    assert!(is_whole(&here, &blob, &new));
    assert!(fetched.received < blob.len(), "what was true of it counts: {fetched:?}");
    assert_eq!(here.recipe(&blob.root), None, "it is not given on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_with_other_cuts_is_of_no_use_and_no_harm() {
    let (blob, new, (_d, full), source, (_dir, here)) = with_old().await;
    let len = u32::try_from(new.len() / 32).unwrap();
    let chunk = |n: u8| Chunk { len, kind: Kind::Data(Hash([n; 32])) };
    full.put_recipe(&Recipe::new(&blob, (0..32).map(chunk).collect()).unwrap()).unwrap();
    let fetched = fetch(&here, blob, &[&source], Wish::default()).await;
    assert!(is_whole(&here, &blob, &new));
    assert_eq!((fetched.local, fetched.received - fetched.duplicate), (0, blob.len()));
    // what it makes of the blob itself is true
    here.make_recipe(&blob.root, &|| true).unwrap();
    let mut cutter = Cutter::default();
    cutter.push(&new);
    assert_eq!(here.load_recipe(&blob.root).unwrap().chunks(), cutter.finish());
}

/// A host that has nothing of the blob, and names a recipe of it.
async fn naming(blob: BlobRef, named: Named) -> Host {
    let mut host = host().await;
    let (_gone, none) = mpsc::channel(1);
    let mut events = std::mem::replace(&mut host.events, none);
    host.tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Some(event) = events.recv().await {
            let NetEvent::Inbound { stream, .. } = event else { continue };
            streams.spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                let (mut body, count) = (Vec::new(), AtomicU64::new(0));
                while let Ok(Some(header)) =
                    wire::read(&mut reader, Direction::ToSource, &mut body, &count, None).await
                {
                    let mut out = Vec::new();
                    match ToSource::decode(header, wire::taken(header, &body)).unwrap() {
                        ToSource::Direct => ToDownloader::Ticket(None).encode(&mut out),
                        ToSource::Open { root } if root == blob.root => {
                            let have = Bitmap::new(blob.pieces());
                            let recipe = Some(named);
                            ToDownloader::Opened { blob, seeding: false, have, recipe }
                                .encode(&mut out);
                        }
                        ToSource::Open { root } => {
                            ToDownloader::NotFound { root }.encode(&mut out);
                        }
                        _ => continue,
                    }
                    if wire::write(&mut writer, &[&out]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn recipes_that_are_none_hold_nobody_up() {
    let (blob, new, (_d, full), source, (_dir, here)) = with_old().await;
    let other = ingest(&here, &noise(5000, 7));
    let of_other = ingest(&full, &noise(9 * MIB, 8));
    let other_recipe = full.recipe(&of_other.root).unwrap();
    let own = full.recipe(&blob.root).unwrap();
    assert!(full.remove(&own.blob.root).unwrap());
    let huge = BlobRef::new(Hash([5; 32]), 1 << 40).unwrap();
    let nowhere = BlobRef::new(Hash([6; 32]), 600).unwrap();
    let lies = [
        Named { blob: other, zeros: 5 },
        other_recipe,
        Named { blob: huge, zeros: 5 },
        Named { blob: nowhere, zeros: 5 },
        Named { blob, zeros: 5 },
    ];
    for named in lies {
        let liar = naming(blob, named).await;
        let both = [&liar, &source];
        let fetched = fetch(&here, blob, &both, Wish::default()).await;
        assert!(is_whole(&here, &blob, &new));
        assert_eq!((fetched.local, fetched.received - fetched.duplicate), (0, blob.len()));
        assert_eq!(here.recipe(&blob.root), None);
        assert!(here.status(&other.root).is_some_and(|s| s.complete), "what was here stays");
        assert!(here.remove(&blob.root).unwrap());
    }
}
