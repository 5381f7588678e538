//! The loop of a fetch, told by hand what links say; and whole fetches on loopback.

use p2pinst_chunks::recipe::Named;
use p2pinst_chunks::wire::{Refusal, ToSource};
use p2pinst_chunks::{BlobStore, Put};
use p2pinst_types::{PieceIndex, PublicKey};

use super::super::sources::Source;
use super::super::tests::{NOBODY, content, honest, host, limited, near, rates, store};
use super::super::{Limits, lock, takers};
use super::*;

const PEER: NodeId = NodeId(PublicKey([1; 32]));

/// A blob of five pieces, here but for the last two, and the last two.
fn begun() -> (tempfile::TempDir, BlobStore, BlobRef, [Vec<u8>; 2]) {
    let data = content(150_000);
    let ((_d1, full), (d2, empty)) = (store(), store());
    let blob = full.ingest(&mut data.as_slice(), data.len() as u64).unwrap();
    empty.begin(&full.layer(&blob.root).unwrap()).unwrap();
    let mut all: Vec<Vec<u8>> = Vec::new();
    for piece in blob.indices() {
        let mut bytes = Vec::new();
        full.read_piece(&blob.root, piece, &mut bytes).unwrap();
        if all.len() < 3 {
            empty.put_piece(&blob.root, piece, &bytes).unwrap();
        }
        all.push(bytes);
    }
    (d2, empty, blob, all.split_off(3).try_into().unwrap())
}

fn nobody() -> Sources {
    Box::new(|| near(NOBODY, &[]))
}

fn open(running: &mut Running<'_>) -> Origin {
    running.open(Source { node: PEER, place: Place::Site });
    Origin { peer: PEER, link: running.opened }
}

#[tokio::test]
async fn what_a_dropped_link_says_ends_no_other_but_what_it_stored_counts() {
    let (_dir, empty, blob, rest) = begun();
    let host = host().await;
    let exchange = Exchange::new(host.net.clone(), empty.clone());
    let (tx, _events) = mpsc::channel(EVENTS);
    let mut running = Running::new(&exchange, blob, nobody(), Wish::default(), tx).unwrap();
    running.resume().await.unwrap();
    let old = open(&mut running);
    running.give_up(PEER, "a test");
    let new = open(&mut running);
    assert_ne!(old, new);
    let have = Bitmap::full(blob.pieces());
    for event in [
        Event::Opened { blob, seeding: false, have: have.clone(), recipe: None },
        Event::Have(vec![PieceIndex(9999)]),
        Event::NotFound,
        Event::Closed("late".to_owned()),
    ] {
        assert!(!running.on_event(old, event).await.unwrap());
    }
    assert!(running.links.contains_key(&PEER) && running.have.is_empty());
    running
        .on_event(new, Event::Opened { blob, seeding: false, have, recipe: None })
        .await
        .unwrap();
    for (piece, bytes, last) in [(3, &rest[0], false), (4, &rest[1], true)] {
        let piece = PieceIndex(piece);
        let put = empty.put_piece(&blob.root, piece, bytes).unwrap();
        let complete = running.on_event(old, Event::Stored { piece, put }).await.unwrap();
        assert_eq!(complete, last);
    }
    assert_eq!(running.done.received, rest.iter().map(|b| b.len() as u64).sum::<u64>());
    // R10, also by a link that was dropped
    running.on_event(old, Event::Bad { piece: PieceIndex(0) }).await.unwrap();
    assert!(running.banned.contains(&PEER) && running.links.is_empty());
}

#[tokio::test]
async fn a_recipe_that_is_named_before_the_layer_is_here_waits_for_it() {
    let (_dir, empty) = store();
    let host = host().await;
    let exchange = Exchange::new(host.net.clone(), empty);
    let blob = BlobRef::new(Hash([3; 32]), 9 << 20).unwrap();
    let (tx, _events) = mpsc::channel(EVENTS);
    let mut running = Running::new(&exchange, blob, nobody(), Wish::default(), tx).unwrap();
    running.resume().await.unwrap();
    open(&mut running);
    let recipe = BlobRef::new(Hash([4; 32]), 5000).unwrap();
    running.hear_recipe(Some(Named { blob: recipe, zeros: 9 << 20 }));
    assert!(!running.consider() && matches!(running.stage, Stage::Layer { .. }));
    assert!(running.delta.is_open() && !running.delta.is_at_work());
    running.stage = Stage::Seeds;
    assert!(!running.consider());
    assert!(running.delta.is_at_work(), "it is fetched now");
}

#[tokio::test]
async fn who_is_asked_twice_for_the_layer_may_answer_twice() {
    let (_dir, empty) = store();
    let host = host().await;
    let exchange = Exchange::new(host.net.clone(), empty);
    let blob = BlobRef::with_piece_log2(Hash([3; 32]), 5000 << 16, 16).unwrap();
    let (tx, _events) = mpsc::channel(EVENTS);
    let mut running = Running::new(&exchange, blob, nobody(), Wish::default(), tx).unwrap();
    running.resume().await.unwrap();
    let origin = open(&mut running);
    let have = Bitmap::full(blob.pieces());
    let opened = Event::Opened { blob, seeding: false, have, recipe: None };
    running.on_event(origin, opened).await.unwrap();
    // silent for long, and the only one
    let Stage::Layer { from, .. } = &mut running.stage else { panic!("no layer is wanted") };
    *from = None;
    running.replace_layer_source();
    assert_eq!(running.links[&PEER].pages, 2);
    let page = |from| Event::Layer { from: PieceIndex(from), bytes: vec![7; 2048 * 32] };
    for answer in [0, 0, 2048] {
        running.on_event(origin, page(answer)).await.unwrap();
        assert!(running.banned.is_empty(), "{answer}");
    }
    assert_eq!(running.links[&PEER].pages, 1, "for the third page");
    running.on_event(origin, page(0)).await.unwrap();
    assert!(running.banned.contains(&PEER), "nobody has asked for that");
}

#[test]
fn a_slow_disk_holds_up_nothing_but_the_end() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (_dir, empty, blob, rest) = begun();
        let host = host().await;
        let exchange = Exchange::new(host.net.clone(), empty.clone());
        exchange.begin_progress(blob.root);
        let mut progress = exchange.progress(&blob.root).unwrap();
        let (tx, events) = mpsc::channel(EVENTS);
        let mut running =
            Running::new(&exchange, blob, nobody(), Wish::default(), tx.clone()).unwrap();
        running.resume().await.unwrap();
        let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
        let busy = tokio::task::spawn_blocking(move || released.recv());
        let stored = async |piece: u32, bytes: &[u8]| {
            let piece = PieceIndex(piece);
            let put = empty.put_piece(&blob.root, piece, bytes).unwrap();
            let from = Origin { peer: PEER, link: 9 };
            tx.send((from, Event::Stored { piece, put })).await.unwrap();
        };
        let story = async {
            // what is here is to be made durable, and cannot yet
            tokio::time::sleep(SYNC * 2).await;
            stored(3, &rest[0]).await;
            progress.changed().await.unwrap();
            stored(4, &rest[1]).await;
            progress.changed().await.unwrap();
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
            std::future::pending::<()>().await;
        };
        let both = async {
            tokio::select! {
                ended = running.run(events) => ended.unwrap(),
                () = story => {}
            }
        };
        tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
        assert!(empty.status(&blob.root).unwrap().complete);
    });
}

#[tokio::test]
async fn a_source_that_lives_is_waited_for_but_not_for_ever() {
    let (_dir, empty, blob, _) = begun();
    let host = host().await;
    let exchange = Exchange::new(host.net.clone(), empty);
    let (tx, _events) = mpsc::channel(EVENTS);
    tokio::time::pause();
    let mut running = Running::new(&exchange, blob, nobody(), Wish::default(), tx).unwrap();
    running.resume().await.unwrap();
    let after = async |running: &mut Running<'_>, secs| {
        tokio::time::advance(Duration::from_secs(secs)).await;
        running.is_starved()
    };
    assert!(!after(&mut running, 19).await);
    assert!(after(&mut running, 2).await, "there is nobody");
    // one that owes what was asked of it
    let from = open(&mut running);
    let have = Bitmap::full(blob.pieces());
    running
        .on_event(from, Event::Opened { blob, seeding: false, have, recipe: None })
        .await
        .unwrap();
    running.fed = Instant::now();
    assert!(running.links.get(&PEER).is_some_and(Link::owes));
    assert!(!after(&mut running, 100).await);
    // bytes that were asked for and are not here yet count, others do not
    running.useful.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    running
        .exchange
        .meter
        .tap(&blob.root, PEER)
        .fetch_add(99, std::sync::atomic::Ordering::Relaxed);
    assert!(!after(&mut running, 100).await);
    running
        .exchange
        .meter
        .tap(&blob.root, PEER)
        .fetch_add(99, std::sync::atomic::Ordering::Relaxed);
    assert!(!after(&mut running, 170).await);
    assert!(after(&mut running, 11).await);
    // one that says that it is busy
    running.fed = Instant::now();
    for piece in blob.indices() {
        let refused = Event::Refused { piece, reason: Refusal::Busy, others: Vec::new() };
        running.on_event(from, refused).await.unwrap();
        running.links.get(&PEER).unwrap().send(ToSource::Cancel { piece });
    }
    assert!(!after(&mut running, 19).await);
    assert!(after(&mut running, 2).await);
    let refused =
        Event::Refused { piece: PieceIndex(0), reason: Refusal::Busy, others: Vec::new() };
    running.on_event(from, refused).await.unwrap();
    assert!(!running.is_starved());
    // duplicates are no life
    let put = Put::Duplicate;
    assert!(after(&mut running, 21).await);
    running.on_event(from, Event::Stored { piece: PieceIndex(0), put }).await.unwrap();
    assert!(running.is_starved());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_takers_enough_names_others() {
    let data = content(3_000_000);
    let ((_d1, one), (_d2, two), (_d3, empty)) = (store(), store(), store());
    let blob = one.ingest(&mut data.as_slice(), data.len() as u64).unwrap();
    two.ingest(&mut data.as_slice(), data.len() as u64).unwrap();
    let (full, exchange) = limited(&one, Limits::default()).await;
    let (other, reader) = (honest(&two).await, host().await);
    let mut turns = Vec::new();
    for n in 0..takers::NEAR {
        let (tx, rx) = mpsc::channel(1);
        let node = NodeId(PublicKey([n as u8; 32]));
        let id = u64::MAX - n as u64;
        lock(&exchange.shared.uploads).admit(id, (node, Place::Site), blob.root, tx).unwrap();
        turns.push(rx);
    }
    exchange.shared.holders.note(blob.root, other.id);
    for known in [&full, &other] {
        reader.net.dial(Some(known.id), std::slice::from_ref(&known.addr)).await.unwrap();
    }
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let fetch = exchange.fetch(blob, Box::new(move || near(NOBODY, &[full.id])));
    let fetched = tokio::time::timeout(Duration::from_secs(30), fetch).await.unwrap().unwrap();
    assert_eq!((fetched.sources, fetched.received), (1, blob.len()));
    assert_eq!(exchange.shared.holders.some(&blob.root, &full.id, 8), [other.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_takes_long_is_sent_from_the_disk() {
    let data = content(130_000);
    let ((_d1, full), (_d2, empty)) = (store(), store());
    let blob = full.ingest(&mut data.as_slice(), data.len() as u64).unwrap();
    let limits = Limits::default();
    limits.set(rates("up=30KB/s"), None).unwrap();
    let (source, serving) = limited(&full, limits).await;
    let reader = host().await;
    reader.net.dial(Some(source.id), std::slice::from_ref(&source.addr)).await.unwrap();
    let exchange = Exchange::new(reader.net.clone(), empty.clone());
    let source = source.id;
    let fetch = exchange.fetch(blob, Box::new(move || near(NOBODY, &[source])));
    let mut seen = false;
    let look = async {
        loop {
            // somebody is being served, and no memory is in use for it
            let busy = lock(&serving.shared.uploads).serve.in_use().contains(&blob.root);
            seen |= busy && serving.shared.buffers.is_idle();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(Duration::from_secs(60), fetch) => drop(ended.unwrap().unwrap()),
        () = look => {}
    }
    assert_eq!(std::fs::read(empty.path(&blob.root).unwrap()).unwrap(), data);
    assert!(seen);
}
