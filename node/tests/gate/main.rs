//! The gate over real connections on loopback: whole nodes inside, and outside all who should not
//! get in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests, and helpers outside of #[test] functions"
)]

mod cluster;
mod outsider;

use std::io::{Read, Write};
use std::time::Duration;

use p2pinst_api::ErrorKind;
use p2pinst_api::request::{Info, Nodes};
use p2pinst_node::join::JoinError;
use p2pinst_trust::{Refusal, SecretKey};
use p2pinst_types::record::Revocation;
use p2pinst_types::{Kind, limits};

use cluster::{Cluster, logged, until};
use outsider::Outsider;

/// Members of another cluster, and people with a key and no cluster at all, are told one byte and
/// see nothing of the node, not even its certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_nothing_but_a_byte() {
    let ours = Cluster::found("ours").await;
    let theirs = Cluster::found("theirs").await;
    let (ours_shown, shown) = (ours.first().identity(), theirs.first().identity());
    let their_key = theirs.first().key();

    let honest = Outsider::showing(&shown, &their_key);
    assert_eq!(honest.dial(ours.first()).await, Err(Refusal::WrongCluster));
    // our root is no secret: it shows that, and its own chain below it
    let mut forged = shown.clone();
    forged.roots = ours_shown.roots.clone();
    let forged = Outsider::showing(&forged, &their_key);
    assert_eq!(forged.dial(ours.first()).await, Err(Refusal::NotCertified));
    // the certificate of a member, and another key
    let thief = Outsider::showing(&ours_shown, &SecretKey::generate().unwrap());
    assert_eq!(thief.dial(ours.first()).await, Err(Refusal::NotCertified));
    for bytes in [vec![], vec![0x81; 5000], vec![0xff; limits::HELLO], vec![7; limits::HELLO + 1]] {
        let junk = Outsider::saying(bytes, &their_key);
        assert_eq!(junk.dial(ours.first()).await, Err(Refusal::Malformed));
        assert!(!junk.has_seen_anything());
    }
    for outsider in [honest, forged, thief] {
        assert!(!outsider.has_seen_anything(), "the node showed itself to a stranger");
    }
    let own = logged("refused here: it belongs to another cluster");
    let other = logged("refused by the other side: it belongs to another cluster");
    assert!(own && other, "both logs tell the reason");
    assert_eq!(ours.first().ask(Info {}).await.unwrap().peers, 0);
    ours.stop().await;
    theirs.stop().await;
}

/// Bytes that are no handshake end the connection at once and harm nobody.
#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_port_is_closed() {
    let mut cluster = Cluster::found("lab").await;
    cluster.join("n2").await.unwrap();
    cluster.connected().await;
    let socket = cluster.first().socket();
    let closed = move || {
        for junk in [
            &b"GET / HTTP/1.0\r\n\r\n"[..],
            &[0xff; 4096],
            &[0; 64],
            b"\x13/multistream/1.0.0\n\x05/x\n\n",
        ] {
            let mut stream = std::net::TcpStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            // the node may have hung up before the last byte
            drop(stream.write_all(junk));
            drop(stream.shutdown(std::net::Shutdown::Write));
            let mut answer = Vec::new();
            match stream.take(10_000).read_to_end(&mut answer) {
                Ok(_) => {}
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
            }
            assert!(answer.len() < 200, "{answer:?}");
        }
        // and some that say nothing at all and stay
        (0..50).map(|_| std::net::TcpStream::connect(socket).unwrap()).collect::<Vec<_>>()
    };
    let silent = tokio::task::spawn_blocking(closed).await.unwrap();
    cluster.join("n3").await.unwrap();
    cluster.connected().await;
    drop(silent);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_for_its_time_and_its_uses() {
    let mut cluster = Cluster::found("lab").await;
    let refused = |error: JoinError, expected: Refusal| {
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.hint().is_some());
        match error {
            JoinError::Refused { refusal, .. } => assert_eq!(refusal, expected),
            other => panic!("{other}"),
        }
    };
    let expired = cluster.token(1, -3_600_000).await;
    refused(cluster.enter("n2", expired).await.unwrap_err(), Refusal::Expired);
    let once = cluster.token(1, 3_600_000).await;
    cluster.enter("n2", once.clone()).await.unwrap();
    refused(cluster.enter("n3", once).await.unwrap_err(), Refusal::UsedUp);
    let more = cluster.token(5, 3_600_000).await;
    refused(cluster.enter("n2", more.clone()).await.unwrap_err(), Refusal::NameTaken);
    cluster.enter("n3", more).await.unwrap();
    assert_eq!(cluster.first().ask(Nodes { after: None, records: true }).await.unwrap().len(), 3);
    cluster.stop().await;
}

/// A join that was cut off after the machine was admitted has used up its name and its invite: it
/// is taken up again with the key that was kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_was_cut_off_is_taken_up_again() {
    let mut cluster = Cluster::found("lab").await;
    let token = cluster.token(1, 3_600_000).await;
    cluster.enter_twice("n2", &token).await.unwrap();
    assert_eq!(cluster.first().ask(Nodes { after: None, records: true }).await.unwrap().len(), 2);
    cluster.stop().await;
}

/// R16: who is revoked loses its connections at once, and does not get in again.
#[tokio::test(flavor = "multi_thread")]
async fn r16_a_revoked_node_loses_the_mesh() {
    let mut cluster = Cluster::found("lab").await;
    cluster.join("n2").await.unwrap();
    cluster.join("n3").await.unwrap();
    cluster.connected().await;
    let gone = cluster.node("n3");
    let (identity, key) = (gone.identity(), gone.key());
    let record = Revocation { key: key.public(), last_good: None, reason: "sold".to_owned() };
    cluster.submit(Kind::REVOCATION, key.public().as_bytes(), &record).await.unwrap();
    for name in ["n1", "n2"] {
        until("the others are among themselves", async || {
            let names = cluster.node(name).ask(Nodes { after: None, records: true }).await.unwrap();
            let info = cluster.node(name).ask(Info {}).await.unwrap();
            names.len() == 2 && info.peers == 1
        })
        .await;
    }
    until("it is alone", async || cluster.node("n3").ask(Info {}).await.unwrap().peers == 0).await;
    cluster.halt("n3").await;
    for name in ["n1", "n2"] {
        let again = Outsider::showing(&identity, &key);
        assert_eq!(again.dial(cluster.node(name)).await, Err(Refusal::Revoked));
        assert!(!again.has_seen_anything());
    }
    assert!(logged("refused here: its certificate is revoked"));
    assert!(logged("refused by the other side: its certificate is revoked"));
    cluster.stop().await;
}

/// A copy of a member's disk that comes up while the member runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_disk_is_refused() {
    let mut cluster = Cluster::found("lab").await;
    cluster.join("n2").await.unwrap();
    cluster.connected().await;
    let member = cluster.node("n2");
    let (identity, key) = (member.identity(), member.key());
    // the outsider shows another life of the same key
    let clone = Outsider::showing(&identity, &key);
    assert_eq!(clone.dial(cluster.first()).await, Err(Refusal::Cloned));
    assert!(logged("two machines use one key"));
    let named = cluster.first().ask(Nodes { after: None, records: true }).await.unwrap();
    let named: Vec<_> = named.iter().filter(|n| n.cloned.is_some()).collect();
    assert!(named.len() == 1 && named[0].name.as_str() == "n2", "{named:?}");
    assert_eq!(named[0].cloned.as_ref().unwrap().first, member.addrs());
    // the member is not disturbed
    assert_eq!(cluster.first().ask(Info {}).await.unwrap().peers, 1);
    // a copy of a node, at the node itself
    let copy = Outsider::showing(&cluster.first().identity(), &cluster.first().key());
    assert_eq!(copy.dial(cluster.first()).await, Err(Refusal::Cloned));
    // when the member is gone, the other is as good as it
    cluster.halt("n2").await;
    until("n2 is down", async || cluster.first().ask(Info {}).await.unwrap().peers == 0).await;
    assert_eq!(clone.dial(cluster.first()).await, Ok(()));
    cluster.stop().await;
}

/// What a newer version writes goes through nodes that do not understand it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_tomorrow_passes_through() {
    let mut cluster = Cluster::found("lab").await;
    cluster.submit(Kind(0x0777), b"before", &"what n2 finds when it joins").await.unwrap();
    cluster.join("n2").await.unwrap();
    cluster.connected().await;
    cluster.submit(Kind(0x0778), b"after", &"what n2 hears").await.unwrap();
    until("n2 has both", async || {
        cluster.node("n2").ask(Info {}).await.unwrap().unknown_cells == 2
    })
    .await;
    // the first node is gone: n2 passes them on
    cluster.join_through("n3", "n2").await.unwrap();
    cluster.halt("n1").await;
    until("n3 has both", async || {
        cluster.node("n3").ask(Info {}).await.unwrap().unknown_cells == 2
    })
    .await;
    cluster.stop().await;
}
