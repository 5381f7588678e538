//! A cluster in which somebody already runs a newer version.

use std::fs;
use std::future::Future;

use anyhow::{Context as _, Result, ensure};
use p2pinst_api::request::{CellBytes, Info, ReadHead, Submit};
use p2pinst_api::{Client, DataDir};
use p2pinst_testnet::root::dpkg_status;
use p2pinst_testnet::{Node, eventually};
use p2pinst_trust::{SecretKey, keytext};
use p2pinst_types::cell::Draft;
use p2pinst_types::record::{Deployment, Mode};
use p2pinst_types::{Cell, CellId, Hash, Kind, ReleaseId, Version, codec};
use serde::Serialize;
use serde_json::Value;

use crate::harness::{SOON, cluster, deb, publish_to_all};

fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn client(node: &Node) -> Result<Client> {
    Ok(Client::connect(&DataDir::new(node.data())).await?)
}

/// The key of the operator who made the cluster.
fn operator(node: &Node) -> Result<SecretKey> {
    let file = DataDir::new(node.data()).keys().join("admin.key");
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(keytext::read(&text)?.1)
}

/// Hands a node a cell of a format that no version of today knows.
async fn submit_newer(
    node: &Node,
    key: &SecretKey,
    kind: Kind,
    subject: &[u8],
    needs: &str,
) -> Result<()> {
    let payload = codec::encode(&Convention { needs, beside: 7 })?;
    submit(node, key, kind, subject, payload, 2).await
}

/// What every record of a newer version has in common.
#[derive(Serialize)]
struct Convention<'a> {
    needs: &'a str,
    beside: u8,
}

async fn submit(
    node: &Node,
    key: &SecretKey,
    kind: Kind,
    subject: &[u8],
    payload: Vec<u8>,
    format: u8,
) -> Result<()> {
    let mut client = client(node).await?;
    let cluster = client.call(Info {}).await?.cluster;
    let head = client.call(ReadHead { author: key.public() }).await?;
    let id = CellId { kind, subject: subject.to_vec(), slot: Vec::new(), author: key.public() };
    let version = Version { seq: head.version.seq + 1, ..head.version };
    let draft = Draft { id, version, hlc: head.hlc, payload };
    let cell = draft.sign(&cluster, |message| key.sign(message))?;
    let mut bytes = cell.bytes().to_vec();
    bytes[1] = format;
    let changed = Cell::parse(bytes.clone())?;
    bytes.truncate(bytes.len() - 64);
    bytes.extend_from_slice(key.sign(&changed.signed_message(&cluster)).as_bytes());
    client.call(Submit { cells: vec![CellBytes(bytes)] }).await?;
    Ok(())
}

/// Hands a node a cell of the control plane whose kind no version of today knows.
async fn submit_unknown(node: &Node, key: &SecretKey, subject: &[u8]) -> Result<()> {
    let mut client = client(node).await?;
    let cluster = client.call(Info {}).await?.cluster;
    let head = client.call(ReadHead { author: key.public() }).await?;
    let id = CellId {
        kind: Kind(0x7001),
        subject: subject.to_vec(),
        slot: Vec::new(),
        author: key.public(),
    };
    let version = Version { seq: head.version.seq + 1, ..head.version };
    let draft = Draft { id, version, hlc: head.hlc, payload: b"of another time".to_vec() };
    let cell = draft.sign(&cluster, |message| key.sign(message))?;
    client.call(Submit { cells: vec![CellBytes(cell.bytes().to_vec())] }).await?;
    Ok(())
}

fn knows_of(node: &Node, unknown: usize) -> Result<()> {
    eventually(SOON, &format!("{} keeps {unknown} cells for later", node.name()), || {
        let info = wait(async { Ok(client(node).await?.call(Info {}).await?) })?;
        ensure!(info.unknown_cells == unknown, "it has {}", info.unknown_cells);
        Ok(())
    })
}

#[test]
fn eventually_a_cell_of_an_unknown_kind_is_everywhere_and_in_nobodys_way() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        let key = operator(n1)?;
        n3.kill()?;
        wait(submit_unknown(n1, &key, b"first"))?;
        knows_of(n1, 1)?;
        knows_of(n2, 1)?;
        // Who does not understand it passes it on nonetheless: n1 is not there to tell n3.
        n1.kill()?;
        n3.start()?;
        knows_of(n3, 1)?;
        n2.kill()?;
        n2.start()?;
        knows_of(n2, 1)?;
        // What the same author writes afterwards counts as ever.
        n1.start()?;
        lab.meet(3)?;
        publish_to_all(n1, &deb(lab, "today", "1.0")?, &["--wait"]).run()?.ok()?;
        lab.nodes().iter().try_for_each(|n| n.installs("today", "1.0", SOON))
    });
}

#[test]
fn eventually_who_depends_on_a_newer_record_waits_and_says_so_and_others_go_on() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        let key = operator(n1)?;
        n1.ok(["group", "create", "some", "--hosts", "n2"])?;
        // Of another operator: a later definition by the same one would take its place.
        n1.share_power(n2)?;
        n2.ok(["group", "create", "odd", "--hosts", "n3"])?;
        // A release of a later format, ordered for n2; n3's group, defined anew by a later version;
        // an order that cannot be read at all.
        let release = ReleaseId(Hash([7; 32]));
        let order = Deployment {
            number: 1,
            release,
            group: "some".parse()?,
            mode: Mode::Urgent,
            allow_downgrade: false,
            holders: vec![],
            shards: 1,
            preheat: false,
            limit: None,
        };
        let payload = codec::encode(&order)?;
        let id = Deployment::id(&key.public(), &payload);
        wait(async {
            submit_newer(n1, &key, Kind::RELEASE, &[7; 32], "9.1").await?;
            submit(n1, &key, Kind::DEPLOYMENT, id.as_bytes(), payload, 1).await?;
            submit_newer(n1, &key, Kind::GROUP, b"odd", "9.2").await?;
            submit_newer(n1, &key, Kind::DEPLOYMENT, &[8; 16], "9.3").await
        })?;
        let file = deb(lab, "odd", "1.0")?;
        let odd = n1.publish(&file, &["--group", "odd", "--urgent"])?;
        // Everybody else is as ever, and so are those two with other orders.
        publish_to_all(n1, &deb(lab, "today", "1.0")?, &["--wait"]).run()?.ok()?;
        eventually(SOON, "who depends on it says so", || {
            let nodes: Value = n1.json(["node", "ls"])?;
            let needs: Vec<&str> = nodes["nodes"]
                .as_array()
                .context("nodes")?
                .iter()
                .map(|n| n["needs"].as_str().unwrap_or("-"))
                .collect();
            ensure!(needs == ["-", "9.1", "9.2"], "they need {needs:?}");
            let seen = n1.deployment(&odd.deployment)?;
            let n3 = seen.machine("n3")?;
            let waits = n3.state == "waiting" && n3.detail == "needs version 9.2";
            ensure!(waits, "n3 is {}", seen.line());
            let status: Value = n1.json(["status"])?;
            let unread = |what: &str, needs: &str| {
                let all = status["needs"].as_array().into_iter().flatten();
                all.filter(|n| n["what"] == what && n["needs"] == needs).count()
            };
            ensure!(unread("release", "9.1") == 1, "{}", status["needs"]);
            ensure!(unread("group", "9.2") == 1, "{}", status["needs"]);
            ensure!(unread("deployment", "9.3") == 1, "{}", status["needs"]);
            let release = &status["needs"].as_array().context("needs")?[0];
            ensure!(release["name"] == "admin-1", "{release}");
            ensure!(release["machines"][0]["name"] == "n2", "{release}");
            ensure!(release["machines"][0]["detail"] == "needs version 9.1", "{release}");
            Ok(())
        })?;
        ensure!(dpkg_status(&n3.root(), "odd").is_err(), "it was installed all the same");
        let shown = n2.ok(["status"])?;
        ensure!(shown.contains("needs version 9.1"), "{shown}");
        ensure!(n2.ok(["node", "ls"])?.contains("needs version 9.2"));
        Ok(())
    });
}
