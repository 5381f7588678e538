//! A member whose key and certificate are good, and whose bytes are not: it says that it has all of
//! each blob in its store, and answers requests in one of several manners.

use std::env;
use std::time::Duration;

use anyhow::{Context as _, Result};
use p2pinst_api::DataDir;
use p2pinst_chunks::BlobStore;
use p2pinst_chunks::wire::{Direction, HEADER, Header, Refusal, ToDownloader, ToSource};
use p2pinst_node::net::{NetEvent, NetStream, Protocol, Worth};
use p2pinst_testnet::Node;
use p2pinst_testnet::exec::Running;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::member::{Member, member};

/// Name the data directory to the hostile process, and its manner.
const ENV: [&str; 2] = ["P2PINST_TESTNET_HOSTILE", "P2PINST_TESTNET_HOSTILE_MANNER"];

/// What it does when it is asked for pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It sends wrong bytes.
    Garbage,
    /// It sends nothing, and keeps the stream open.
    Silence,
    /// It says that it is busy, each time.
    Busy,
}

const MANNERS: [(&str, Manner); 3] =
    [("garbage", Manner::Garbage), ("silence", Manner::Silence), ("busy", Manner::Busy)];

/// Starts it on the host of a node that does not run, until it is dropped.
pub(crate) fn start(on: &Node, manner: Manner) -> Result<Running> {
    let args = ["--exact", "hostile::helper_hostile", "--ignored", "--nocapture"];
    let name = MANNERS.iter().find(|(_, m)| *m == manner).context("a manner without a name")?.0;
    let exec = on.exec(env::current_exe()?).args(args).limit(Duration::from_secs(600));
    exec.env(ENV[0], on.data()).env(ENV[1], name).start()
}

/// Not a test: a member that says it has everything.
#[test]
#[ignore = "the process that other tests start on one of their hosts"]
fn helper_hostile() {
    let [Some(dir), Some(manner)] = ENV.map(env::var_os) else { return };
    let manner = MANNERS.iter().find(|(name, _)| manner == **name).expect("a manner").1;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(live(&DataDir::new(dir), manner)).expect("a hostile life");
}

async fn live(dir: &DataDir, manner: Manner) -> Result<()> {
    let blobs = BlobStore::open(&dir.blobs())?;
    let Member { net, mut events, mut tasks, .. } = member(dir).await?;
    while let Some(event) = events.recv().await {
        match event {
            NetEvent::Gossip { id, .. } => net.report(id, Worth::Ignore).await?,
            NetEvent::Inbound { protocol: Protocol::Exchange, stream, .. } => {
                let blobs = blobs.clone();
                tasks.spawn(async move { drop(answer(&blobs, manner, stream).await) });
            }
            NetEvent::Inbound { .. } => {}
        }
    }
    Ok(())
}

async fn answer(blobs: &BlobStore, manner: Manner, mut stream: NetStream) -> Result<()> {
    let mut open = None;
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await?;
        let header = Header::parse(header, Direction::ToSource)?;
        let mut body = vec![0; header.body_len()];
        stream.read_exact(&mut body).await?;
        let mut out = Vec::new();
        match ToSource::decode(header, &body)? {
            ToSource::Direct => ToDownloader::Ticket(None).encode(&mut out),
            ToSource::Open { root } => {
                let status = blobs.status(&root).context("nothing to lie about")?;
                open = Some(status.blob);
                let (blob, have) = (status.blob, status.have);
                ToDownloader::Opened { blob, seeding: false, have, recipe: None }.encode(&mut out);
            }
            ToSource::GetLayer { from } if manner == Manner::Garbage => {
                let layer = blobs.layer(&open.context("not opened")?.root)?;
                ToDownloader::Layer { from, bytes: layer.page(from) }.encode(&mut out);
            }
            ToSource::Request { piece } if manner == Manner::Garbage => {
                let range = open.and_then(|b| b.range(piece)).context("no such piece")?;
                let bytes = vec![0x5a; usize::try_from(range.end - range.start)?];
                ToDownloader::Piece { piece, bytes: &bytes }.encode(&mut out);
            }
            ToSource::Request { piece } if manner == Manner::Busy => {
                let reason = Refusal::Busy;
                ToDownloader::Refused { piece, reason, others: vec![] }.encode(&mut out);
            }
            ToSource::GetLayer { .. }
            | ToSource::Request { .. }
            | ToSource::RequestParts { .. }
            | ToSource::Held { .. }
            | ToSource::Cancel { .. } => {}
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
    }
}
