//! What the second version of an image costs a node that has the first.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Table;
use crate::cluster::Invite;
use crate::image;
use crate::lab::{Lab, LabOptions};
use crate::node::Node;

/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(900);
const MIB: f64 = 1_048_576.0;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of the image.
    pub size: u64,
    /// Hundredths of it that the second version has changed in place.
    pub changed: u64,
    /// The rate of each link, both ways, in Mbit/s; `None`: what the machine gives.
    pub mbit: Option<u32>,
}

/// One node seeds an image, then a version of it changed in place, one with bytes put in, and a file that is mostly holes; the
/// other fetches each in turn.
///
/// # Errors
/// When a fetch fails, or brings other bytes.
pub fn measure(options: &Options) -> Result<Table> {
    let Options { size, changed, mbit } = *options;
    let rate = mbit.map(|mbit| format!("{mbit}mbit"));
    let lab = Lab::create(&LabOptions::hosts(2).rate(rate))?;
    lab.form(2, &Invite::default())?;
    let at = mbit.map_or_else(|| "unshaped".to_owned(), |mbit| format!("{mbit} Mbit/s"));
    let title = format!(
        "delta: {:.0} MiB, {changed} % changed in place, two nodes, {at}; seconds from the start of the command",
        size as f64 / MIB
    );
    let columns =
        ["seed s", "fetch s", "came MiB", "on the wire MiB", "wire/size %", "local %", "zero %"];
    let mut table = Table::new(title, &columns);
    let [first, second, third, holes] =
        ["first.img", "second.img", "third.img", "sparse.img"].map(|name| lab.dir().join(name));
    image::noise(&first, size, 1)?;
    table.row("first version", &bring(&lab, &first)?);
    fs::copy(&first, &second)?;
    image::change(&second, changed, 2)?;
    fs::remove_file(&first)?;
    table.row(&format!("{changed} % changed in place"), &bring(&lab, &second)?);
    image::insert(&second, &third, usize::try_from(size / 2)?, 4321, 3)?;
    fs::remove_file(&second)?;
    table.row("4321 bytes put in", &bring(&lab, &third)?);
    fs::remove_file(&third)?;
    image::sparse(&holes, size, &[0, size / 3, size / 2], 4)?;
    table.row("3 MiB and holes", &bring(&lab, &holes)?);
    lab.destroy()?;
    Ok(table)
}

fn bring(lab: &Lab, file: &Path) -> Result<[f64; 7]> {
    let (from, to) = (lab.node(1)?, lab.node(2)?);
    let begun = Instant::now();
    let root = from.cli(["seed"]).arg(file).limit(PATIENCE).run()?.ok()?.stdout;
    let seeded = begun.elapsed().as_secs_f64();
    let before = to.received()?;
    let begun = Instant::now();
    let fetch = to.cli(["fetch", root.trim(), "--json"]).limit(PATIENCE);
    let fetched: Value = fetch.run()?.ok()?.json()?;
    let took = begun.elapsed().as_secs_f64();
    let wire = (to.received()? - before) as f64;
    is_the_same(to, root.trim(), file)?;
    let number = |name: &str| fetched.get(name).and_then(Value::as_f64).context("a number");
    let size = number("size")?;
    Ok([
        seeded,
        took,
        number("received")? / MIB,
        wire / MIB,
        wire * 100.0 / size,
        number("local")? * 100.0 / size,
        number("zero")? * 100.0 / size,
    ])
}

/// The blob at the node has the bytes of the file.
fn is_the_same(node: &Node, root: &str, file: &Path) -> Result<()> {
    let blob = node.data().join("blobs").join(format!("{root}.blob"));
    let hash = |path: &Path| -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(path)?)?;
        Ok(hasher.finalize())
    };
    ensure!(hash(&blob)? == hash(file)?, "{} is not {}", blob.display(), file.display());
    Ok(())
}
