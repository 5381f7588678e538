//! A member that speaks the store protocol, and whose records are malformed, oversized, forged,
//! replayed and of two tongues.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dht_store::wire::{CellBytes, Request, Response};
use p2pinst_api::DataDir;
use p2pinst_node::net::{NetEvent, NetStream, Protocol, Worth};
use p2pinst_node::rpc;
use p2pinst_node::store::StoreHandle;
use p2pinst_testnet::eventually;
use p2pinst_trust::SecretKey;
use p2pinst_types::cell::Draft;
use p2pinst_types::{Cell, CellId, Hlc, Kind, PublicKey, Signature, Version};
use serde_json::Value;

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all};
use crate::member::{Member, member};

/// Names the data directory to the process that poisons.
const DIR: &str = "P2PINST_TESTNET_POISONER";

#[test]
fn anytime_bad_records_of_a_member_spoil_nothing() {
    cluster(4, |lab| {
        let [n1, n2, n3, n4] = [lab.node(1)?, lab.node(2)?, lab.node(3)?, lab.node(4)?];
        publish_to_all(n1, &deb(lab, "first", "1.0")?, &["--wait"]).run()?.ok()?;
        let before: Value = n1.json(["history", "n3"])?;
        n2.stop()?;
        let poison = ["--exact", "poison::helper_poisoner", "--ignored", "--nocapture"];
        let poisoner = n2.exec(env::current_exe()?).args(poison).env(DIR, n2.data());
        let poisoner = poisoner.limit(Duration::from_secs(600)).start()?;
        for node in [n1, n3, n4] {
            eventually(LATER, "it knows whose key signs twice", || {
                let checks: Vec<Value> = node.json(["doctor"]).or_else(|_| doctor(node))?;
                let twins = checks.iter().find(|c| c["name"] == "twins").context("no check")?;
                let message = twins["message"].as_str().unwrap_or_default();
                ensure!(message.contains("n2"), "{message}");
                Ok(())
            })?;
        }
        // what n2 holds of n3's history is forged: the others' copies count
        let after: Value = n1.json(["history", "n3"])?;
        ensure!(after["checksum"] == before["checksum"], "before {before}, after {after}");
        n1.publish(&deb(lab, "second", "1.0")?, &["--group", "all", "--urgent"])?;
        for node in [n1, n3, n4] {
            node.installs("second", "1.0", SOON)?;
            ensure!(node.ended()?.is_none(), "{} has ended", node.name());
            ensure!(!node.log_text().contains("panicked"), "{} has panicked", node.name());
        }
        eventually(LATER, "the history goes on", || {
            let after: Value = n4.json(["history", "n3"])?;
            let entries = after["entries"].as_array().map_or(0, Vec::len);
            ensure!(entries == 2, "{after}");
            Ok(())
        })?;
        drop(poisoner);
        Ok(())
    });
}

/// `doctor` ends with 1 when something is wrong, and tells all the same.
fn doctor(node: &p2pinst_testnet::Node) -> Result<Vec<Value>> {
    let done = node.cli(["doctor", "--json"]).run()?;
    let all: Value = serde_json::from_str(&done.stdout)?;
    let checks = all.get("checks").unwrap_or(&all);
    checks.as_array().cloned().context("no list of checks")
}

/// Not a test: a member whose records are bad in every way.
#[test]
#[ignore = "the process that another test starts on one of its hosts"]
fn helper_poisoner() {
    let Some(dir) = env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(poison(&DataDir::new(dir))).expect("a life of poison");
}

async fn poison(dir: &DataDir) -> Result<()> {
    let Member { net, mut events, store, key, mut tasks } = member(dir).await?;
    let key = Arc::new(key);
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = tick.tick() => {
                for peer in net.peers().connected() {
                    for request in gifts(&store, &key) {
                        let net = net.clone();
                        tasks.spawn(async move { drop(rpc::ask(&net, peer, &[], &request).await) });
                    }
                }
            }
            Some(_) = tasks.join_next() => {}
            event = events.recv() => match event {
                Some(NetEvent::Gossip { id, .. }) => net.report(id, Worth::Ignore).await?,
                Some(NetEvent::Inbound { protocol: Protocol::Store, stream, .. }) => {
                    let store = store.clone();
                    tasks.spawn(async move { drop(answer(&store, stream).await) });
                }
                Some(NetEvent::Inbound { .. }) => {}
                None => return Ok(()),
            }
        }
    }
}

fn draft(kind: Kind, subject: &[u8], slot: &[u8], author: PublicKey, seq: u64) -> Draft {
    let id = CellId { kind, subject: subject.to_vec(), slot: slot.to_vec(), author };
    let version = Version { incarnation: u64::MAX - 1, seq };
    Draft { id, version, hlc: Hlc(1), payload: vec![0xf6] }
}

/// A cell in another's name that is newer than all, and that nobody has signed.
fn forged(store: &StoreHandle, kind: Kind, subject: &[u8], slot: &[u8]) -> Vec<CellBytes> {
    let views = store.views();
    let cluster = *views.roots.cluster();
    let forge =
        |author| draft(kind, subject, slot, author, 1).sign(&cluster, |_| Signature([9; 64]));
    let cells = views.machines.values().filter_map(|m| forge(m.node.0).ok());
    cells.map(|c| CellBytes::of(&c)).collect()
}

/// Two different cells of one number, signed by this member.
fn twins(store: &StoreHandle, key: &SecretKey) -> Vec<CellBytes> {
    let cluster = *store.views().roots.cluster();
    let sign = |subject: &[u8]| {
        let draft = draft(Kind(0x0300), subject, &[], key.public(), 7);
        draft.sign(&cluster, |m| key.sign(m)).ok()
    };
    [b"one", b"two"].into_iter().filter_map(|s| sign(s)).map(|c| CellBytes::of(&c)).collect()
}

fn gifts(store: &StoreHandle, key: &SecretKey) -> Vec<Request> {
    let views = store.views();
    let own: Vec<CellBytes> = views.machines.values().map(|m| CellBytes::of(&m.cell)).collect();
    let subjects = views.machines.keys().map(|m| m.as_bytes().to_vec());
    let mut cells: Vec<CellBytes> =
        subjects.flat_map(|s| forged(store, Kind::HISTORY, &s, &0u64.to_be_bytes())).collect();
    cells.push(CellBytes(vec![0xff; 100])); // malformed
    cells.push(CellBytes(vec![])); // nothing
    cells.push(CellBytes([&[0xc1, 1, 0x80, 2][..], &[0xff; 60][..], &[0; 20_000][..]].concat())); // oversized
    let mut control = forged(store, Kind::GROUP, b"all-of-them", &[]);
    control.extend(forged(store, Kind::REVOCATION, key.public().as_bytes(), &[]));
    control.extend(own); // replayed
    control.extend(twins(store, key));
    vec![
        Request::Put { cells },
        Request::Push { cells: control, covered: Vec::new() },
        Request::List { buckets: vec![7; 100_000] },
        Request::Get { kind: Kind(0xffff), subject: vec![1; 5000], after: None },
    ]
}

async fn answer(store: &StoreHandle, mut stream: NetStream) -> Result<()> {
    let response = match rpc::read_request(&mut stream).await? {
        Request::Get { kind, subject, .. } => {
            let mut cells: Vec<CellBytes> =
                (0..4u64).flat_map(|n| forged(store, kind, &subject, &n.to_be_bytes())).collect();
            let parsed = |c: &CellBytes| {
                Cell::parse(c.0.clone()).map(|c| (c.id.slot.clone(), c.id.author)).ok()
            };
            cells.sort_by_key(parsed);
            // of histories one forged page; of all else the same page, round and round
            Response::Data { cells, more: kind != Kind::HISTORY }
        }
        Request::Heads { .. } => Response::Cells { cells: Vec::new(), covered: Vec::new() },
        _ => Response::Refused("no".to_owned()),
    };
    rpc::write_response(&mut stream, &response).await?;
    Ok(())
}
