//! A cluster in which somebody already runs a newer version.

use std::fs;
use std::future::Future;

use anyhow::{Context as _, Result, ensure};
use p2pinst_api::request::{CellBytes, Info, ReadHead, Submit};
use p2pinst_api::{Client, DataDir};
use p2pinst_testnet::{Node, eventually};
use p2pinst_trust::{SecretKey, keytext};
use p2pinst_types::cell::Draft;
use p2pinst_types::{CellId, Kind, Version};

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
