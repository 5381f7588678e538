//! Very many small packages at once.

use std::fs;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use p2pinst_api::request::{CellBytes, Info, ListStore, ReadHead, Status, Submit};
use p2pinst_api::{Client, DataDir};
use p2pinst_testnet::{Deb, Lab, Node, eventually};
use p2pinst_trust::{SecretKey, keytext};
use p2pinst_types::cell::Draft;
use p2pinst_types::record::{Deployment, Manager, Mode, PackageId, Release};
use p2pinst_types::{CellId, DeploymentId, Hlc, Kind, NodeId, Version, codec};

use crate::harness::{LATER, cluster};

/// Packages, unless [`COUNT`] says otherwise: enough to meet every bound of a node but its jobs.
const PACKAGES: usize = 200;
/// The environment's word for more.
const COUNT: &str = "P2PINST_TESTNET_PACKAGES";

fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn client(node: &Node) -> Result<Client> {
    Ok(Client::connect(&DataDir::new(node.data())).await?)
}

fn operator(node: &Node) -> Result<SecretKey> {
    let text = fs::read(DataDir::new(node.data()).keys().join("admin.key"))?;
    Ok(keytext::read(&text)?.1)
}

/// Builds small packages, four at a time: most of it is waiting for processes.
fn build(lab: &Lab, count: usize) -> Result<Vec<(String, Vec<u8>)>> {
    let part = |from: usize| -> Result<Vec<(String, Vec<u8>)>> {
        let numbers = (from..count).step_by(4);
        let one = |i: usize| {
            let name = format!("tiny{i}");
            let file = Deb::new(&name, "1.0").payload(2000).build(lab.dir())?;
            Ok((name, fs::read(file)?))
        };
        numbers.map(one).collect()
    };
    let parts: Vec<Result<Vec<_>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|i| scope.spawn(move || part(i))).collect();
        threads.into_iter().map(|t| t.join().expect("a thread of the test")).collect()
    });
    Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Hands a node files and orders for all, as many commands at once would: the orders come at once.
async fn order(
    node: &Node,
    key: &SecretKey,
    files: &[(String, Vec<u8>)],
) -> Result<Vec<DeploymentId>> {
    let mut client = client(node).await?;
    let info = client.call(Info {}).await?;
    let mut payloads = Vec::new();
    let mut ids = Vec::new();
    for (number, (name, bytes)) in files.iter().enumerate() {
        let len = bytes.len() as u64;
        let blob = client.put_blob(&mut bytes.as_slice(), len, |_| {}).await?;
        let package = PackageId {
            manager: Manager::Dpkg,
            name: name.clone(),
            version: "1.0".to_owned(),
            architecture: "all".to_owned(),
        };
        let manifest = codec::encode(&Release { package, file: format!("{name}.deb"), blob })?;
        let release = Release::id(&manifest);
        let order = codec::encode(&Deployment {
            number: number as u64 + 1,
            release,
            group: "all".parse()?,
            mode: Mode::Urgent,
            allow_downgrade: false,
            holders: vec![NodeId(info.id.0)],
            shards: 1,
            preheat: true,
            limit: None,
        })?;
        let id = Deployment::id(&key.public(), &order);
        payloads.push((Kind::RELEASE, release.0.as_bytes().to_vec(), manifest));
        payloads.push((Kind::DEPLOYMENT, id.as_bytes().to_vec(), order));
        ids.push(id);
    }
    let head = client.call(ReadHead { author: key.public() }).await?;
    let mut cells = Vec::new();
    for (i, (kind, subject, payload)) in (0u64..).zip(payloads) {
        let id = CellId { kind, subject, slot: Vec::new(), author: key.public() };
        let version = Version { seq: head.version.seq + 1 + i, ..head.version };
        let draft = Draft { id, version, hlc: Hlc(head.hlc.0 + i), payload };
        let cell = draft.sign(&info.cluster, |message| key.sign(message))?;
        cells.push(CellBytes(cell.bytes().to_vec()));
    }
    for some in cells.chunks(64) {
        client.call(Submit { cells: some.to_vec() }).await?;
    }
    Ok(ids)
}

#[test]
fn eventually_very_many_small_packages_at_once_are_everywhere() {
    let count = std::env::var(COUNT).ok().and_then(|n| n.parse().ok()).unwrap_or(PACKAGES);
    let patience = LATER + Duration::from_millis(300) * u32::try_from(count).unwrap_or(u32::MAX);
    cluster(4, |lab| {
        let n1 = lab.node(1)?;
        let files = build(lab, count)?;
        let key = operator(n1)?;
        let begun = Instant::now();
        let ids = wait(order(n1, &key, &files))?;
        let ordered = begun.elapsed();
        for node in lab.nodes() {
            eventually(patience, &format!("{} has all", node.name()), || {
                let held = wait(async {
                    Ok(client(node).await?.call(ListStore { after: None }).await?.count)
                })?;
                ensure!(held >= count, "{held} of {count}");
                Ok(())
            })?;
        }
        let fetched = begun.elapsed();
        eventually(patience, "every machine has said that it has each", || {
            wait(async {
                let mut client = client(n1).await?;
                for id in &ids {
                    let ask = Status {
                        deployment: Some(id.to_string()),
                        lines: None,
                        signed: false,
                        from: None,
                        report: false,
                    };
                    let view = client.call(ask).await?;
                    let one = view.deployments.first().context("a deployment")?;
                    let verified = one.counts.get("verified").copied().unwrap_or(0);
                    ensure!(verified == 4, "{}: {:?}", one.package, one.counts);
                }
                Ok(())
            })
        })?;
        println!(
            "{count} packages: ordered after {ordered:?}, held by all after {fetched:?}, told after {:?}",
            begun.elapsed()
        );
        for node in lab.nodes() {
            ensure!(node.ended()?.is_none(), "{} has ended", node.name());
            ensure!(!node.log_text().contains("panicked"), "{} has panicked", node.name());
        }
        Ok(())
    });
}
