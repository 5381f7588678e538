//! A store whose process is killed at any moment: the child of this test works, the parent kills
//! it, opens the store again, and looks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test outside of #[test] functions"
)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use p2pinst_chunks::{BlobStore, LayerBuilder, PieceLayer, Put};
use p2pinst_types::PieceIndex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Where the child works.
const DIR: &str = "P2PINST_CHUNKS_CRASH_DIR";
const PIECE: usize = 32 << 10;
const ROUNDS: u64 = 24;

/// The blobs that the child fetches, and one that it takes in: the same in every round.
fn blobs() -> Vec<(Vec<u8>, PieceLayer)> {
    (0..4u8)
        .map(|n| {
            let mut bytes = vec![0; PIECE * 12 + usize::from(n)];
            blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut bytes);
            let mut builder = LayerBuilder::new(bytes.len() as u64).unwrap();
            builder.update(&bytes);
            (bytes, builder.finish().unwrap())
        })
        .collect()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

/// Fetches, takes in and removes, over and over, and says what is durable or gone.
fn work(dir: &Path) -> ! {
    let store = BlobStore::open(dir).unwrap();
    let blobs = blobs();
    let mut rng = StdRng::seed_from_u64(u64::from(std::process::id()));
    say("ready");
    loop {
        let n = rng.random_range(0..blobs.len());
        let (bytes, layer) = &blobs[n];
        let root = layer.blob().root;
        match rng.random_range(0..40) {
            0 => {
                say(&format!("- {n}"));
                store.remove(&root).unwrap();
            }
            1 => {
                store.ingest(&mut Cursor::new(bytes), bytes.len() as u64).unwrap();
                layer.blob().indices().for_each(|i| say(&format!("+ {n} {}", i.0)));
            }
            2..8 if store.status(&root).is_some() => {
                store.sync(&root).unwrap();
                let have = store.status(&root).unwrap().have;
                have.iter().for_each(|i| say(&format!("+ {n} {}", i.0)));
            }
            _ => {
                store.begin(layer).unwrap();
                let piece = PieceIndex(rng.random_range(0..layer.blob().pieces()));
                let range = layer.blob().range(piece).unwrap();
                let part = &bytes[range.start as usize..range.end as usize];
                if store.put_piece(&root, piece, part).unwrap() == Put::Completed {
                    layer.blob().indices().for_each(|i| say(&format!("+ {n} {}", i.0)));
                }
            }
        }
    }
}

#[test]
fn anytime_killed_loses_nothing_durable() {
    if let Some(dir) = std::env::var_os(DIR) {
        work(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs();
    let mut durable: BTreeSet<(usize, u32)> = BTreeSet::new();
    let mut rng = StdRng::seed_from_u64(7);
    let mut completed = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "anytime_killed_loses_nothing_durable", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|l| l.unwrap());
        assert!(lines.any(|l| l.ends_with("@ready")), "the child did not start");
        std::thread::sleep(Duration::from_micros(rng.random_range(0..120_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            // the last line may be torn
            let Some(line) = line.strip_prefix('@') else { continue };
            let words: Vec<_> = line.split(' ').collect();
            match words.as_slice() {
                ["+", n, i] => drop(durable.insert((n.parse().unwrap(), i.parse().unwrap()))),
                ["-", n] => {
                    let n: usize = n.parse().unwrap();
                    durable.retain(|(m, _)| *m != n);
                }
                _ => {}
            }
        }
        let store = BlobStore::open(dir.path()).unwrap();
        let mut out = Vec::new();
        for (n, (bytes, layer)) in blobs.iter().enumerate() {
            let root = layer.blob().root;
            let status = store.status(&root);
            for piece in layer.blob().indices() {
                let there = status.as_ref().is_some_and(|s| s.have.get(piece));
                assert!(there || !durable.contains(&(n, piece.0)), "round {round}: {n} {piece:?}");
                if there {
                    store.read_piece(&root, piece, &mut out).unwrap();
                }
            }
            if status.is_some_and(|s| s.complete) {
                completed += 1;
                assert_eq!(&std::fs::read(store.path(&root).unwrap()).unwrap(), bytes);
            }
        }
        let temps = std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
        assert_eq!(temps.count(), 0, "round {round}");
    }
    assert!(completed > 0 && !durable.is_empty(), "nothing was put to the test");
}
