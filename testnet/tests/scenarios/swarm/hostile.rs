//! Members that say they have everything, and send nonsense, or nothing.

use std::env;
use std::fs::File;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_api::DataDir;
use p2pinst_chunks::wire::{Direction, HEADER, Header, Refusal, ToDownloader, ToSource};
use p2pinst_chunks::{Bitmap, BlobStore};
use p2pinst_node::net::{NetEvent, NetStream, Protocol, Worth};
use p2pinst_testnet::Node;
use p2pinst_testnet::exec::Running;
use p2pinst_types::BlobRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{MIB, Swarm, logs};
use crate::harness::{SOON, cluster};
use crate::liar::{Member, member};

/// Names the data directory to the hostile process, the file that it claims to have, and its manner.
const ENV: [&str; 3] =
    ["P2PINST_TESTNET_HOSTILE", "P2PINST_TESTNET_HOSTILE_FILE", "P2PINST_TESTNET_HOSTILE_MANNER"];

/// What it does when it is asked for pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It sends wrong bytes.
    Garbage,
    /// It sends nothing, and keeps the stream open.
    Silence,
    /// It says that it is busy, each time.
    Busy,
}

const MANNERS: [(&str, Manner); 3] =
    [("garbage", Manner::Garbage), ("silence", Manner::Silence), ("busy", Manner::Busy)];

#[test]
fn eventually_all_finish_beside_a_member_that_sends_garbage_and_ban_it() {
    with_hostile("garbage", |swarm, n2| {
        let id = swarm.lab.node(1)?.roster()?.named(n2.name())?.id.clone();
        for n in [3, 4, 5] {
            logs(swarm.lab.node(n)?, SOON, ["wrong bytes", &id])?;
            logs(swarm.lab.node(n)?, SOON, ["banned", &id])?;
        }
        Ok(())
    });
}

#[test]
fn eventually_all_finish_beside_a_member_that_claims_all_and_sends_nothing() {
    with_hostile("silence", |_, _| Ok(()));
}

#[test]
fn eventually_all_finish_beside_a_member_that_is_always_busy() {
    with_hostile("busy", |_, _| Ok(()));
}

/// n2 is hostile; n3, n4 and n5 get what n1 publishes all the same.
fn with_hostile(manner: &'static str, check: impl FnOnce(&Swarm<'_>, &Node) -> Result<()>) {
    cluster(5, |lab| {
        let swarm = Swarm::new(lab, manner, 8 * MIB)?;
        let n2 = lab.node(2)?;
        n2.stop()?;
        let hostile = start(&swarm, n2, manner)?;
        for n in [1, 3, 4, 5] {
            lab.node(n)?.sees_up(5, SOON)?;
        }
        swarm.rate(&[1, 2, 3, 4, 5], "20mbit")?;
        swarm.publish()?;
        swarm.arrives(&[1, 3, 4, 5])?;
        check(&swarm, n2)?;
        for n in [1, 3, 4, 5] {
            let node = lab.node(n)?;
            ensure!(!node.log_text().contains("panicked"), "{} has panicked", node.name());
        }
        drop(hostile);
        Ok(())
    });
}

fn start(swarm: &Swarm<'_>, on: &Node, manner: &str) -> Result<Running> {
    let args = ["--exact", "swarm::hostile::helper_hostile", "--ignored", "--nocapture"];
    let exec = on.exec(env::current_exe()?).args(args).limit(Duration::from_secs(600));
    let values = [on.data().into_os_string(), swarm.file.clone().into_os_string(), manner.into()];
    ENV.iter().zip(values).fold(exec, |exec, (key, value)| exec.env(key, value)).start()
}

/// Not a test: a member that says it has everything.
#[test]
#[ignore = "the process that another test starts on one of its hosts"]
fn helper_hostile() {
    let [Some(dir), Some(file), Some(manner)] = ENV.map(env::var_os) else { return };
    let manner = MANNERS.iter().find(|(name, _)| manner == **name).expect("a manner").1;
    let dir = DataDir::new(dir);
    let blobs = BlobStore::open(&dir.blobs()).expect("a store");
    let mut file = File::open(file).expect("the file");
    let len = file.metadata().expect("its length").len();
    let blob = blobs.ingest(&mut file, len).expect("the blob");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(live(&dir, &blobs, blob, manner)).expect("a hostile life");
}

async fn live(dir: &DataDir, blobs: &BlobStore, blob: BlobRef, manner: Manner) -> Result<()> {
    let Member { net, mut events, mut tasks, .. } = member(dir).await?;
    while let Some(event) = events.recv().await {
        match event {
            NetEvent::Gossip { id, .. } => net.report(id, Worth::Ignore).await?,
            NetEvent::Inbound { protocol: Protocol::Exchange, stream, .. } => {
                let blobs = blobs.clone();
                tasks.spawn(async move { drop(answer(&blobs, blob, manner, stream).await) });
            }
            NetEvent::Inbound { .. } => {}
        }
    }
    Ok(())
}

async fn answer(
    blobs: &BlobStore,
    blob: BlobRef,
    manner: Manner,
    mut stream: NetStream,
) -> Result<()> {
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await?;
        let header = Header::parse(header, Direction::ToSource)?;
        let mut body = vec![0; header.body_len()];
        stream.read_exact(&mut body).await?;
        let mut out = Vec::new();
        match ToSource::decode(header, &body)? {
            ToSource::Direct => ToDownloader::Ticket(None).encode(&mut out),
            ToSource::Open { .. } => {
                let have = Bitmap::full(blob.pieces());
                ToDownloader::Opened { blob, seeding: false, have, recipe: None }.encode(&mut out);
            }
            ToSource::GetLayer { from } if manner == Manner::Garbage => {
                let layer = blobs.layer(&blob.root)?;
                ToDownloader::Layer { from, bytes: layer.page(from) }.encode(&mut out);
            }
            ToSource::Request { piece } if manner == Manner::Garbage => {
                let range = blob.range(piece).context("no such piece")?;
                let bytes = vec![0x5a; usize::try_from(range.end - range.start)?];
                ToDownloader::Piece { piece, bytes: &bytes }.encode(&mut out);
            }
            ToSource::Request { piece } if manner == Manner::Busy => {
                let reason = Refusal::Busy;
                ToDownloader::Refused { piece, reason, others: vec![] }.encode(&mut out);
            }
            ToSource::GetLayer { .. } | ToSource::Request { .. } | ToSource::Cancel { .. } => {}
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
    }
}
