//! The files that a machine keeps, and those that it asks others for.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use p2pinst_api::ErrorKind;
use p2pinst_api::request::{ApiError, CheckBlob, CleanStore, PinBlob};
use p2pinst_api::store::{
    CheckView, CleanView, FetchView, PinView, ReleaseView, RemovedView, StoreView, StoredState,
    StoredView,
};
use p2pinst_types::record::{Deployment, Manager, PackageId, Release, Role};
use p2pinst_types::{BlobRef, Hash, Kind, Millis, NodeId, PublicKey};

use crate::fake::{Fake, State, machine, name};
use crate::online::{cluster, deb};
use crate::run::{Ended, p2pinst, run, temp};

const SIZE: u64 = 100_000;

pub(crate) fn blob(root: u8, pinned: bool) -> StoredView {
    StoredView {
        root: Hash([root; 32]),
        size: SIZE,
        state: StoredState::Complete,
        have: SIZE,
        pinned,
        orders: vec![],
        fetching: false,
        serving: false,
        fresh: false,
        used: Millis(0),
        releases: vec![],
    }
}

/// One blob a page.
pub(crate) fn page(blobs: &[StoredView], after: Option<Hash>) -> StoreView {
    let mut rest = blobs.iter().filter(|b| after.is_none_or(|a| b.root > a));
    let first = rest.next();
    StoreView {
        blobs: first.into_iter().cloned().collect(),
        next: first.filter(|_| rest.next().is_some()).map(|b| b.root),
        count: blobs.len(),
        bytes: SIZE * blobs.len() as u64,
        free: 1 << 30,
        high: 1 << 29,
        low: 1 << 28,
        quota: "80%".to_owned(),
    }
}

/// What is not pinned goes.
pub(crate) fn clean(blobs: &mut Vec<StoredView>, ask: &CleanStore) -> CleanView {
    let gone: Vec<StoredView> = blobs.iter().filter(|b| !b.pinned).cloned().collect();
    let before = SIZE * blobs.len() as u64;
    if !ask.dry_run {
        blobs.retain(|b| b.pinned);
    }
    let removed = gone.iter().map(|b| RemovedView {
        root: b.root,
        size: b.size,
        complete: true,
        used: b.used,
    });
    let after = before - SIZE * gone.len() as u64;
    let (high, low) = (1 << 29, 1 << 28);
    CleanView { removed: removed.collect(), count: gone.len(), before, after, high, low }
}

/// In two steps; the second finds a damaged piece of the blob of threes.
pub(crate) fn check(ask: CheckBlob) -> CheckView {
    let (next, damaged) = match ask.from {
        0 => (Some(1), 0),
        _ => (None, u64::from(ask.root == Hash([3; 32]))),
    };
    CheckView { root: ask.root, bytes: SIZE / 2, damaged, next, needed: true }
}

pub(crate) fn pin(blobs: &mut [StoredView], ask: &PinBlob) -> Result<PinView, ApiError> {
    let found = blobs.iter_mut().find(|b| b.root.to_string().starts_with(&ask.blob));
    let blob = found.ok_or_else(|| ApiError::new(ErrorKind::Invalid, "nothing is known of it"))?;
    let changed = std::mem::replace(&mut blob.pinned, ask.pin) != ask.pin;
    Ok(PinView { root: blob.root, pinned: ask.pin, changed })
}

pub(crate) fn find(state: &State, what: &str) -> Result<ReleaseView, ApiError> {
    let cell = state.cells.iter().find(|c| c.id.kind == Kind::RELEASE);
    match cell.filter(|_| what == "hello=1.0") {
        Some(cell) => Ok(ReleaseView {
            id: Release::id(cell.payload()),
            release: cell.record().unwrap(),
            holders: vec![NodeId(PublicKey([9; 32]))],
            groups: vec![],
        }),
        None => {
            let reason = format!("there is neither a file nor a release {what}");
            Err(ApiError::new(ErrorKind::Invalid, reason).hint("name a release"))
        }
    }
}

fn with_blobs(fake: &Fake) {
    fake.with(|s| s.blobs = vec![blob(1, true), blob(2, false), blob(3, false)]);
}

#[test]
fn files_are_listed_pinned_and_cleaned() {
    let dir = temp();
    let fake = cluster(dir.path());
    with_blobs(&fake);
    let listed = run(dir.path(), &["store", "ls"]);
    assert_eq!(listed.ok().lines().count(), 4, "every page: {}", listed.stdout);
    assert!(listed.stderr.contains("3 files take"), "{}", listed.stderr);
    let json = run(dir.path(), &["store", "ls", "--json"]).json();
    assert_eq!(json["blobs"].as_array().unwrap().len(), 3);
    assert_eq!(
        (json["blobs"][0]["pinned"].as_bool(), json["blobs"][0]["state"].as_str()),
        (Some(true), Some("complete"))
    );

    let pinned = run(dir.path(), &["store", "pin", "0202"]);
    assert_eq!(pinned.ok(), "");
    assert!(pinned.stderr.contains("is pinned."), "{}", pinned.stderr);
    assert_eq!(run(dir.path(), &["store", "pin", "0202", "--json"]).json()["changed"], false);
    assert!(run(dir.path(), &["store", "unpin", "9999"]).failed(1).contains("nothing is known"));

    let would = run(dir.path(), &["store", "gc", "--dry-run"]);
    assert!(would.ok().starts_with("0303") && would.stderr.contains("would be removed"));
    let gone = run(dir.path(), &["store", "gc", "--json"]).json();
    assert_eq!((gone["count"].as_u64(), gone["after"].as_u64()), (Some(1), Some(2 * SIZE)));
    assert_eq!(run(dir.path(), &["store", "gc"]).ok(), "");
}

#[test]
fn a_look_at_files_tells_what_is_damaged() {
    let dir = temp();
    let fake = cluster(dir.path());
    with_blobs(&fake);
    let well = run(dir.path(), &["store", "verify", "0101"]);
    assert_eq!(well.ok(), "");
    assert!(
        well.stderr.contains("1 file were read") || well.stderr.contains("1 file"),
        "{}",
        well.stderr
    );
    let bad = run(dir.path(), &["store", "verify"]);
    assert_eq!(bad.code, Some(1));
    assert!(
        bad.stdout.starts_with("0303") && bad.stdout.contains("fetched again"),
        "{}",
        bad.stdout
    );
    let json = run(dir.path(), &["store", "verify", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, document["damaged"].as_u64()), (Some(1), Some(1)));
    assert_eq!(document["bytes"].as_u64(), Some(3 * SIZE));
    assert!(run(dir.path(), &["store", "verify", "77777777"]).failed(1).contains("store ls"));
}

#[test]
fn a_file_is_seeded_without_any_signature() {
    let dir = temp();
    let fake = cluster(dir.path());
    fs::write(dir.path().join("file"), "hello").unwrap();
    let root = Hash::of(b"hello").to_string();
    let seeded = run(dir.path(), &["seed", "file"]);
    assert_eq!(seeded.ok(), format!("{root}\n"));
    assert!(seeded.stderr.contains(&format!("fetch {root}")), "{}", seeded.stderr);
    assert_eq!(run(dir.path(), &["seed", "file", "--json"]).json()["size"], 5);
    assert!(fake.with(|s| s.cells.is_empty()), "nothing was signed");
    assert!(run(dir.path(), &["seed", "none"]).failed(1).contains("No such file"));
}

/// Reads what a client asks, to the end of the head.
fn asked(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            return;
        }
        head.push(byte[0]);
    }
}

#[test]
fn a_metalink_can_be_seeded_as_what_it_describes_or_as_itself() {
    let dir = temp();
    let _fake = cluster(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/disk.img", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            asked(&mut stream);
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let text = format!("<metalink><file name=\"d\"><url>{url}</url></file></metalink>");
    fs::write(dir.path().join("d.meta4"), &text).unwrap();
    let temporary = dir.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let described = run(dir.path(), &["seed", "--temp", "temporary", "d.meta4"]);
    assert_eq!(described.ok(), format!("{}\n", Hash::of(b"hello")));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "nothing is left");
    let itself = run(dir.path(), &["seed", "--as-is", "d.meta4"]);
    assert_eq!(itself.ok(), format!("{}\n", Hash::of(text.as_bytes())));
}

#[test]
fn a_download_from_a_silent_mirror_can_be_interrupted() {
    let dir = temp();
    let _fake = cluster(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/disk.img", listener.local_addr().unwrap());
    let temporary = dir.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let seed = p2pinst(dir.path())
        .args(["seed", "--temp", "temporary", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // it is told what there is, and gets none of it
    let (mut stream, _) = listener.accept().unwrap();
    asked(&mut stream);
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let (mut silent, _) = listener.accept().unwrap();
    asked(&mut silent);
    silent.write_all(head.as_bytes()).unwrap();
    let pid = seed.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = Ended::of(&seed.wait_with_output().unwrap());
    assert!(ended.failed(1).contains("interrupted"));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_file_is_fetched_and_put_where_it_is_wanted() {
    let dir = temp();
    let fake = cluster(dir.path());
    let bytes = b"what others have";
    let root = Hash::of(bytes);
    let view = |have, complete| FetchView {
        root,
        size: Some(bytes.len() as u64),
        have,
        complete,
        failed: None,
        sources: if complete { 2 } else { 0 },
        received: if complete { 16 } else { 0 },
        local: if complete { 5 << 20 } else { 0 },
        zero: 0,
    };
    let looking = FetchView { size: None, ..view(0, false) };
    fake.with(|s| s.fetches = vec![looking, view(4, false), view(16, true)]);
    let blobs = dir.path().join("data/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{root}.blob")), bytes).unwrap();
    let fetched = run(dir.path(), &["fetch", "alice-42", "-o", "out"]);
    assert_eq!(fetched.ok(), format!("{root}\n"));
    assert!(fetched.stderr.contains("came from 2 nodes"), "{}", fetched.stderr);
    assert!(fetched.stderr.contains("5.0 MiB were here in older"), "{}", fetched.stderr);
    fake.with(|s| s.fetches = vec![view(16, true)]);
    let none = run(dir.path(), &["fetch", "alice-42", "--delta-from", "/dev/null"]);
    assert!(none.failed(1).contains("neither a file nor a disk"), "{}", none.stderr);
    let none = run(dir.path(), &["fetch", "alice-42", "--delta-from", "no-such"]);
    assert!(none.failed(1).contains("No such file"), "{}", none.stderr);
    assert_eq!(fs::read(dir.path().join("out")).unwrap(), bytes);
    let json = run(dir.path(), &["fetch", "alice-42", "--json"]).json();
    assert_eq!((json["size"].as_u64(), json["file"].is_null()), (Some(16), true));
    assert_eq!((json["local"].as_u64(), json["zero"].as_u64()), (Some(5 << 20), Some(0)));

    fs::write(blobs.join(format!("{root}.blob")), "something other").unwrap();
    let error = run(dir.path(), &["fetch", "alice-42", "-o", "out"]);
    assert!(error.failed(1).contains("store verify"), "{}", error.stderr);
    assert_eq!(fs::read(dir.path().join("out")).unwrap(), bytes, "what was there stays");
    let failed = FetchView { failed: Some("nobody has it".to_owned()), ..view(0, false) };
    fake.with(|s| s.fetches = vec![failed]);
    assert!(
        run(dir.path(), &["fetch", "x=1"]).failed(1).contains("cannot fetch x=1: nobody has it")
    );
}

#[test]
fn a_preheat_is_an_order_that_installs_nothing() {
    let dir = temp();
    let fake = cluster(dir.path());
    deb(dir.path());
    fake.with(|s| {
        s.holders = vec![vec![]];
        s.progress = vec![vec![machine("n1", "fetching")], vec![machine("n1", "verified")]];
    });
    let done = run(dir.path(), &["preheat", "hello.deb", "--group", "all", "--wait"]);
    assert!(done.ok().starts_with("alice-42 "), "{}", done.stderr);
    assert!(done.stderr.contains("1/1 verified"), "{}", done.stderr);
    let order: Deployment = fake.cells(Kind::DEPLOYMENT)[0].record().unwrap();
    assert!(order.preheat);

    // what was signed before needs no publisher any more, and is not signed again
    let again = run(dir.path(), &["preheat", "hello=1.0", "--group", "all", "--json"]).json();
    assert_eq!(again["preheat"], true);
    assert_eq!(fake.cells(Kind::RELEASE).len(), 1);
    let order: Deployment = fake.cells(Kind::DEPLOYMENT)[1].record().unwrap();
    assert_eq!(order.holders, [NodeId(PublicKey([9; 32]))]);
    assert!(
        run(dir.path(), &["preheat", "other=1", "--group", "all"])
            .failed(1)
            .contains("neither a file")
    );
}

#[test]
fn a_preheat_takes_the_power_of_a_publish() {
    let dir = temp();
    let fake = Fake::start(dir.path());
    let key = run(dir.path(), &["key", "new", "bob"]).ok().to_owned();
    fake.grant(&key, "bob", &[Role::Operator]);
    deb(dir.path());
    let refused = run(dir.path(), &["preheat", "hello.deb", "--group", "all"]);
    assert!(refused.failed(1).contains("publisher"), "{}", refused.stderr);
    assert!(fake.cells(Kind::DEPLOYMENT).is_empty());
    // a newer version that is ordered is no hindrance: nothing is replaced
    fake.grant(&key, "bob", &[Role::Operator, Role::Publisher]);
    fake.with(|s| {
        s.grants.remove(0);
        s.holders = vec![vec![]];
        let package = PackageId {
            manager: Manager::Dpkg,
            name: "hello".to_owned(),
            version: "2.0".to_owned(),
            architecture: "all".to_owned(),
        };
        let blob = BlobRef::new(Hash([1; 32]), 1).unwrap();
        let newer = Release { package, file: "x".to_owned(), blob };
        s.newer = Some((name("bob-1").to_string(), newer));
    });
    run(dir.path(), &["preheat", "hello.deb", "--group", "all"]).ok();
}
