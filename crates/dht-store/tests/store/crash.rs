//! A store whose process is killed at any moment: the child writes and says what was accepted, the
//! parent kills it and looks for all of it.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dht_store::{Outcome, Store};
use p2pinst_trust::fixture::Lab;
use p2pinst_types::{Cell, Hash, Kind};

use crate::world::LATER;

/// Where the child works, and how much the rounds before have written.
const DIR: &str = "P2PINST_STORE_CRASH_DIR";
const FROM: &str = "P2PINST_STORE_CRASH_FROM";
const ROUNDS: u64 = 12;
/// How much further every round begins than the one before: more than a round can write.
const STRIDE: u64 = 1_000_000;

/// The batch of a number: three cells, one of which replaces that of the batch before.
fn batch(lab: &mut Lab, n: u64) -> Vec<Cell> {
    let alice = lab.operator.clone();
    let mut cell = |seq: u64, place: &[u8]| {
        let version = p2pinst_types::Version { incarnation: 1, seq };
        let at = (version, lab.tick());
        lab.sign(&alice, (Kind(0x0300), place), at, n.to_be_bytes().to_vec())
    };
    let (a, b) = (n.to_be_bytes(), [n.to_be_bytes(), n.to_be_bytes()].concat());
    vec![cell(3 * n + 1, &a), cell(3 * n + 2, &b), cell(3 * n + 3, b"replaced")]
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

fn work(dir: &Path) -> ! {
    let mut lab = Lab::default();
    let mut store = Store::open(&dir.join("store.redb"), lab.roots.clone()).unwrap();
    store.apply(vec![lab.operator_grant.clone()], &[], LATER).unwrap();
    let from: u64 = std::env::var(FROM).unwrap().parse().unwrap();
    say("ready");
    for n in from.. {
        let cells = batch(&mut lab, n);
        let hashes: Vec<Hash> = cells.iter().map(Cell::hash).collect();
        let outcomes = store.apply(cells, &[], LATER).unwrap();
        assert!(outcomes.iter().all(|o| *o == Outcome::Accepted), "{outcomes:?}");
        say(&format!("{n} {} {}", hashes[0], hashes[1]));
    }
    unreachable!()
}

#[test]
fn anytime_killed_loses_nothing_accepted() {
    if let Some(dir) = std::env::var_os(DIR) {
        work(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::default();
    let mut accepted: Vec<(u64, Vec<String>)> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::anytime_killed_loses_nothing_accepted", "--nocapture"])
            .env(DIR, dir.path())
            .env(FROM, (round * STRIDE).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|l| l.unwrap());
        assert!(lines.any(|l| l.ends_with("@ready")), "the child did not start");
        // the moment is what is tested, not what is waited for
        std::thread::sleep(Duration::from_micros(round * round * 997));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            // the last line may be torn
            let words: Vec<_> =
                line.trim_start_matches('@').split(' ').map(str::to_owned).collect();
            if let [n, hashes @ ..] = words.as_slice()
                && let Ok(n) = n.parse()
                && hashes.len() == 2
                && hashes.iter().all(|h| h.len() == 64)
            {
                accepted.push((n, hashes.to_vec()));
            }
        }
        let store = Store::open(&dir.path().join("store.redb"), lab.roots.clone()).unwrap();
        let author = lab.operator.public();
        for (n, hashes) in &accepted {
            let place = |subject: Vec<u8>| p2pinst_types::CellId {
                kind: Kind(0x0300),
                subject,
                slot: vec![],
                author,
            };
            let small = n.to_be_bytes();
            for (id, hash) in
                [place(small.to_vec()), place([small, small].concat())].iter().zip(hashes)
            {
                let held = store.control(id).map(|c| c.hash().to_string());
                assert_eq!(held.as_ref(), Some(hash), "round {round}, batch {n}");
            }
            let covered = store.log(&author, 1).unwrap();
            assert!((3 * n + 1..=3 * n + 3).all(|seq| covered.contains(seq)));
        }
        // a batch is there or is not: its replaced cell is as new as its others
        let last = store.head(&author).seq;
        assert!(last.is_multiple_of(3), "half a batch: {last}");
    }
    assert!(accepted.len() > 3, "only {} batches in all rounds", accepted.len());
}
