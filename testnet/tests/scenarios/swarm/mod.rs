//! One package to many, while members die, lie, crawl and vanish.
//!
//! All cables have a rate, so that there is a middle in which things can happen; what has come is
//! read from the files of the blob stores.

mod deaths;
mod hostile;
mod links;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_api::DataDir;
use p2pinst_chunks::Bitmap;
use p2pinst_testnet::exec::run;
use p2pinst_testnet::root::expect_whole;
use p2pinst_testnet::{Deb, Lab, Node, eventually};
use p2pinst_types::{BlobRef, Hash};

use crate::harness::LATER;

const MIB: u64 = 1 << 20;
/// Of the bitmap in a `.have` file: magic, root, number of pieces before it; a checksum after it.
const HAVE: (usize, usize) = (8 + 32 + 4, 32);

/// A package of random bytes, on its way to all nodes of a lab.
struct Swarm<'a> {
    lab: &'a Lab,
    name: &'static str,
    file: PathBuf,
    blob: BlobRef,
    /// The file in it, and what it contains.
    payload: (String, Vec<u8>),
}

impl<'a> Swarm<'a> {
    /// Builds the package.
    fn new(lab: &'a Lab, name: &'static str, payload: u64) -> Result<Self> {
        let file = Deb::new(name, "1.0").payload(payload).build(lab.dir())?;
        let bytes = fs::read(&file).context("cannot read the package")?;
        let blob = BlobRef::new(Hash::of(&bytes), bytes.len() as u64)?;
        let tree = lab.dir().join("unpacked");
        run("dpkg-deb", ["-x".as_ref(), file.as_os_str(), tree.as_os_str()])?;
        let path = format!("usr/share/{name}/payload");
        let content = fs::read(tree.join(&path)).context("cannot read what is in it")?;
        Ok(Self { lab, name, file, blob, payload: (path, content) })
    }

    /// Sets the rate of the cables of these nodes.
    fn rate(&self, nodes: &[usize], rate: &str) -> Result<()> {
        nodes.iter().try_for_each(|n| self.lab.network().switch()?.limit(*n, rate))
    }

    /// n1 publishes it to all; the deployment's name.
    fn publish(&self) -> Result<String> {
        let n1 = self.lab.node(1)?;
        Ok(n1.publish(&self.file, &["--group", "all", "--urgent"])?.name)
    }

    /// The pieces that a node has durably: what it would have after a power cut.
    fn held(&self, node: &Node) -> Result<Bitmap> {
        let (dir, pieces) = (DataDir::new(node.data()).blobs(), self.blob.pieces());
        let file = |ext: &str| dir.join(format!("{}.{ext}", self.blob.root));
        if file("blob").exists() {
            return Ok(Bitmap::full(pieces));
        }
        let Ok(bytes) = fs::read(file("have")) else { return Ok(Bitmap::new(pieces)) };
        let end = bytes.len().checked_sub(HAVE.1);
        let bits = end.and_then(|end| bytes.get(HAVE.0..end)).context("a short `.have` file")?;
        Ok(Bitmap::decode(pieces, bits)?)
    }

    /// How many of a hundred pieces a node has.
    fn percent(&self, node: usize) -> Result<u32> {
        Ok(self.held(self.lab.node(node)?)?.count() * 100 / self.blob.pieces())
    }

    /// Waits until a node has so much of it, but not all.
    fn halfway(&self, node: usize, percent: u32) -> Result<()> {
        let has = eventually(LATER, &format!("n{node} has {percent} % of the pieces"), || {
            let has = self.percent(node)?;
            ensure!(has >= percent, "it has {has} %");
            Ok(has)
        })?;
        ensure!(has < 100, "n{node} was too fast for this test");
        Ok(())
    }

    /// Whether these nodes have every piece among them.
    fn whole_among(&self, nodes: &[usize]) -> Result<bool> {
        let mut union = Bitmap::new(self.blob.pieces());
        for node in nodes {
            for piece in self.held(self.lab.node(*node)?)?.iter() {
                union.set(piece);
            }
        }
        Ok(union.is_full())
    }

    /// Waits until these nodes have installed it, and all of them the same bytes.
    fn arrives(&self, nodes: &[usize]) -> Result<()> {
        let (path, want) = &self.payload;
        for node in nodes {
            let node = self.lab.node(*node)?;
            node.installs(self.name, "1.0", LATER)?;
            expect_whole(&node.root())?;
            let got = fs::read(node.root().join(path))?;
            ensure!(got == *want, "{} installed other bytes than were published", node.name());
        }
        Ok(())
    }

    /// Bytes of the pieces that a node does not have.
    fn missing(&self, node: usize) -> Result<u64> {
        let held = self.held(self.lab.node(node)?)?;
        Ok(held.missing().filter_map(|p| self.blob.range(p)).map(|r| r.end - r.start).sum())
    }
}

/// Bytes that have come in by the cable of a node, whether its daemon runs or not.
fn received(node: &Node) -> Result<u64> {
    node.received()
}

/// Waits until somebody's log has a line with both words.
fn logs(node: &Node, within: Duration, words: [&str; 2]) -> Result<()> {
    eventually(within, &format!("{} says so", node.name()), || {
        let log = node.log_text();
        let said = log.lines().any(|l| words.iter().all(|w| l.contains(w)));
        ensure!(said, "no line of its log has {words:?}");
        Ok(())
    })
}
