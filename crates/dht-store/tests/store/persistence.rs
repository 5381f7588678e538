//! What is on disk: read back alike, refused when it is another cluster's or damaged; a failed
//! transaction leaves memory as it was.

use std::path::Path;
use std::process::Command;

use dht_store::store::Write;
use dht_store::{Store, StoreError};
use p2pinst_trust::fixture::{LIFE, Lab};
use p2pinst_types::{Cell, Kind};

use crate::world::{LATER, apply, cells, seen};

#[test]
fn everything_is_read_back() {
    let (lab, all) = cells();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut store = Store::open(&path, lab.roots.clone()).unwrap();
    let node = all.iter().find(|c| c.id.kind == Kind(0x0123)).unwrap().id.author;
    apply(&mut store, &all);
    let before = (store.digest(), store.heads(), seen(&store), store.head(&node));
    let clock = store.next_hlc(lab.clock);
    drop(store);
    let store = Store::open(&path, lab.roots.clone()).unwrap();
    assert_eq!((store.digest(), store.heads(), seen(&store), store.head(&node)), before);
    assert_eq!(store.next_hlc(lab.clock), clock, "what is written next is dated later still");
    drop(store);
    let other = Store::open(&path, Lab::new(1).roots);
    assert!(matches!(other, Err(StoreError::WrongCluster)), "{other:?}");
}

#[test]
fn own_records_and_the_outbox_survive() {
    let (lab, all) = cells();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut store = Store::open(&path, lab.roots.clone()).unwrap();
    apply(&mut store, &all);
    let views = store.views();
    let machine = views.machines.values().next().unwrap();
    let key = (100..210).map(p2pinst_trust::fixture::key).find(|k| k.public() == machine.node.0);
    let key = key.unwrap();
    let write = Write {
        kind: Kind::HISTORY,
        subject: machine.id.as_bytes(),
        slot: &0u64.to_be_bytes(),
        incarnation: LIFE,
    };
    let first = store.write(&key, write, &1u8, LATER).unwrap();
    let second = store.write(&key, write, &2u8, LATER).unwrap();
    assert_eq!((first.version.seq, second.version.seq), (1, 2));
    let newer = Write { incarnation: LIFE + 1, ..write };
    let third = store.write(&key, newer, &3u8, LATER).unwrap();
    assert_eq!(third.version.seq, 1, "a new life counts from one");
    assert!(store.write(&key, write, &4u8, LATER).is_err(), "the old life is over");
    drop(store);
    let store = Store::open(&path, lab.roots.clone()).unwrap();
    assert_eq!(store.unsettled(&key.public()).unwrap(), std::slice::from_ref(&third));
    store.settle(std::slice::from_ref(&second)).unwrap();
    assert_eq!(store.unsettled(&key.public()).unwrap().len(), 1, "an old version was acknowledged");
    store.settle(std::slice::from_ref(&third)).unwrap();
    drop(store);
    let store = Store::open(&path, lab.roots.clone()).unwrap();
    assert!(store.unsettled(&key.public()).unwrap().is_empty());
    assert_eq!(store.written_by(Kind::HISTORY, &key.public()).unwrap(), [third]);
}

/// The name of the test that a child runs to open a file; its end is the answer.
const OPEN: &str = "P2PINST_STORE_OPEN";

#[test]
fn a_damaged_file_is_an_error() {
    let (lab, all) = cells();
    if let Some(path) = std::env::var_os(OPEN) {
        let opened = Store::open(Path::new(&path), lab.roots.clone());
        println!(
            "@{}",
            opened.map_or_else(
                |e| if e.is_damage() { format!("damage: {e}") } else { e.to_string() },
                |s| s.views().machines.len().to_string()
            )
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut store = Store::open(&path, lab.roots.clone()).unwrap();
    apply(&mut store, &all);
    drop(store);
    let good = std::fs::read(&path).unwrap();
    let cell = all[5].bytes();
    let at = good.windows(cell.len()).position(|w| w == cell).unwrap();
    let mut flipped = good.clone();
    flipped[at + cell.len() - 70] ^= 1;
    let mut changed_kind = good.clone();
    changed_kind[at] = 0;
    let mut head = good.clone();
    head[..64].fill(0xee);
    let cases = [
        ("empty of words", vec![b'x'; 5000], true),
        ("short", good[..100].to_vec(), true),
        ("half", good[..good.len() / 2].to_vec(), true),
        ("cut by a page", good[..good.len() - 4096].to_vec(), true),
        ("no head", head, true),
        ("a bit of a signature or payload", flipped, true),
        ("no cell", changed_kind, true),
        ("whole", good, false),
    ];
    for (what, bytes, bad) in cases {
        std::fs::write(&path, bytes).unwrap();
        // in a process of its own: an abort is not an answer
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "persistence::a_damaged_file_is_an_error", "--nocapture"])
            .env(OPEN, &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        let line =
            said.lines().find_map(|l| l.split_once('@')).map(|(_, l)| l).unwrap_or_else(|| {
                panic!("{what}: no answer but\n{}", String::from_utf8_lossy(&out.stderr))
            });
        assert_eq!(line.contains("damage: "), bad, "{what}: {line}");
    }
}

/// A file system of two megabytes; `None` where that takes rights that we have not.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(dir.path())
            .output();
        mounted.is_ok_and(|o| o.status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).output());
    }
}

#[test]
fn a_full_disk_leaves_memory_as_it_was() {
    let Some(disk) = SmallDisk::new() else {
        eprintln!("SKIPPED: no right to mount a small file system");
        return;
    };
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let path = disk.0.path().join("store.redb");
    let mut store = Store::open(&path, lab.roots.clone()).unwrap();
    apply(&mut store, &[lab.operator_grant.clone()]);
    let group = |lab: &mut Lab, n: u32| -> Vec<Cell> {
        let at = (lab.next(&alice.public()), lab.tick());
        let filler = vec![7; 8000];
        let opaque = lab.sign(&alice, (Kind(0x0300), format!("f{n}").as_bytes()), at, filler);
        vec![lab.group(&alice, "gpu", &format!("n{n}")), opaque]
    };
    let mut n = 0;
    let before = loop {
        let before = (store.digest(), store.heads(), seen(&store));
        n += 1;
        assert!(n < 1000, "two megabytes hold more than they can");
        let cells = group(&mut lab, n);
        if store.apply(cells, &[], LATER).is_err() {
            break before;
        }
    };
    assert!(n > 3, "{n}");
    assert_eq!((store.digest(), store.heads(), seen(&store)), before, "memory says more than disk");
    // what failed comes again, and works when there is room: in the same store, without a restart
    let remounted =
        Command::new("mount").args(["-o", "remount,size=16m"]).arg(disk.0.path()).status().unwrap();
    assert!(remounted.success());
    let cells = group(&mut lab, n + 1);
    assert!(
        store.apply(cells, &[], LATER).unwrap().iter().all(|o| *o == dht_store::Outcome::Accepted)
    );
    let after = (store.digest(), store.heads(), seen(&store));
    assert_ne!(after.0, before.0);
    drop(store);
    let store = Store::open(&path, lab.roots.clone()).unwrap();
    assert_eq!((store.digest(), store.heads(), seen(&store)), after, "disk says less than memory");
}
