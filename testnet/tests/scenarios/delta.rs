//! Second versions of images: only what has changed comes, however it has changed.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::image::Disk;
use p2pinst_testnet::{Lab, Node, eventually, image};
use serde_json::Value;

use crate::harness::{LATER, SOON, cluster};
use crate::storage::blobs;

const MIB: u64 = 1 << 20;
/// The images here.
const SIZE: u64 = 32 * MIB;
/// One transfer on a busy machine.
const LONG: Duration = Duration::from_secs(240);

/// Seeds a file on the first node.
fn seed(lab: &Lab, file: &Path, args: &[&str]) -> Result<String> {
    let seeded = lab.node(1)?.cli(["seed"]).arg(file).args(args).limit(LONG).run()?.ok()?;
    Ok(seeded.stdout.trim().to_owned())
}

/// Fetches it elsewhere, and looks whether it is the same: what the command says, and the bytes that came by
/// the cable.
fn fetch(lab: &Lab, node: &Node, file: &Path, args: &[&str]) -> Result<(Value, u64)> {
    fetch_root(lab, node, file, &seed(lab, file, &[])?, args)
}

fn fetch_root(
    lab: &Lab,
    node: &Node,
    file: &Path,
    root: &str,
    args: &[&str],
) -> Result<(Value, u64)> {
    let copy = lab.dir().join("copy");
    let before = node.received()?;
    let fetch = node.cli(["fetch", root, "--json", "-o"]).arg(&copy).args(args).limit(LONG);
    let said: Value = fetch.run()?.ok()?.json()?;
    let came = node.received()? - before;
    ensure!(fs::read(file)? == fs::read(&copy)?, "{} is something else", file.display());
    fs::remove_file(copy)?;
    Ok((said, came))
}

fn number(said: &Value, name: &str) -> Result<u64> {
    said[name].as_u64().with_context(|| format!("no {name} in {said}"))
}

#[test]
fn eventually_a_second_version_costs_what_has_changed() {
    cluster(3, |lab| {
        let [old, new, more] = ["old", "new", "more"].map(|name| lab.dir().join(name));
        let [n2, n3] = [lab.node(2)?, lab.node(3)?];
        image::noise(&old, SIZE, 1)?;
        let (said, came) = fetch(lab, n2, &old, &[])?;
        ensure!(came > SIZE && number(&said, "local")? == 0, "{came} bytes came: {said}");
        fs::copy(&old, &new)?;
        image::change(&new, 5, 2)?;
        let (said, came) = fetch(lab, n2, &new, &[])?;
        ensure!(came <= SIZE * 10 / 100, "{came} of {SIZE} bytes came: {said}");
        ensure!(number(&said, "local")? > SIZE * 80 / 100, "{said}");
        // what is put in moves all that is behind it
        image::insert(&new, &more, 10_000_000, 4321, 3)?;
        let (said, came) = fetch(lab, n2, &more, &[])?;
        ensure!(came <= SIZE * 5 / 100, "{came} of {SIZE} bytes came: {said}");
        // n3 has nothing in its store, but the old image on a disk
        let disk = Disk::of(&old)?;
        let (said, came) = fetch(lab, n3, &new, &["--delta-from", &disk.path().to_string_lossy()])?;
        drop(disk);
        ensure!(came <= SIZE * 10 / 100, "{came} of {SIZE} bytes came: {said}");
        // recipes are no files of their own once they are the node's own, and go with theirs
        let three = || {
            let listed = blobs(n2)?.len();
            ensure!(listed == 3, "{listed} blobs are listed");
            Ok(())
        };
        eventually(SOON, "recipes are no files of their own", three)?;
        let held =
            |node: &Node| Ok::<_, anyhow::Error>(fs::read_dir(node.data().join("blobs"))?.count());
        n2.stop()?;
        n2.start()?;
        eventually(SOON, "nor after a restart", three)?;
        let files = held(n2)?;
        eventually(LATER, "what nobody needs goes", || {
            n2.ok(["store", "gc", "--all"])?;
            ensure!(blobs(n2)?.is_empty());
            Ok(())
        })?;
        ensure!(held(n2)? == 1, "of {files} files {} are left", held(n2)?);
        Ok(())
    });
}

#[test]
fn eventually_a_sparse_file_is_sparse_everywhere_and_its_holes_do_not_travel() {
    cluster(2, |lab| {
        let file = lab.dir().join("sparse");
        image::sparse(&file, 4 * SIZE, &[0, SIZE + 5000, 3 * SIZE], 4)?;
        let n2 = lab.node(2)?;
        let (said, came) = fetch(lab, n2, &file, &[])?;
        ensure!(came < 6 * MIB, "{came} bytes came: {said}");
        ensure!(number(&said, "zero")? > 4 * SIZE - 8 * MIB, "{said}");
        let root = said["root"].as_str().context("no root")?;
        for n in [1, 2] {
            let blob = lab.node(n)?.data().join("blobs").join(format!("{root}.blob"));
            let taken = fs::metadata(blob)?.blocks() * 512;
            ensure!(taken < 6 * MIB, "{taken} bytes are taken at n{n}");
        }
        Ok(())
    });
}

#[test]
fn eventually_compressed_versions_share_what_is_equal() {
    cluster(2, |lab| {
        let [noise, old, new] = ["noise", "old", "new"].map(|name| lab.dir().join(name));
        let n2 = lab.node(2)?;
        image::noise(&noise, SIZE / 2, 5)?;
        // four bits in each byte
        let half: Vec<u8> = fs::read(&noise)?.iter().flat_map(|b| [b >> 4, b & 15]).collect();
        fs::write(&old, half)?;
        fs::copy(&old, &new)?;
        image::change(&new, 5, 6)?;
        let fetch = |file: &Path| {
            let root = seed(lab, file, &["--zstd"])?;
            fetch_root(lab, n2, file, &root, &["--unpack"])
        };
        let (said, came) = fetch(&old)?;
        ensure!((SIZE * 4 / 10..SIZE * 6 / 10).contains(&came), "{came} bytes came: {said}");
        let (said, came) = fetch(&new)?;
        ensure!(came <= SIZE / 2 * 20 / 100, "{came} of {SIZE} bytes came: {said}");
        ensure!(number(&said, "local")? > SIZE / 2 * 75 / 100, "{said}");
        // a disk of which most is empty: holes again where it is unpacked
        let (sparse, root) = (lab.dir().join("sparse"), |file: &Path| seed(lab, file, &["--zstd"]));
        let places: Vec<u64> = (0..10).map(|n| n * SIZE + n).collect();
        image::sparse(&sparse, 16 * SIZE, &places, 7)?;
        fetch_root(lab, n2, &sparse, &root(&sparse)?, &["--unpack"])?;
        fs::OpenOptions::new().write(true).open(&sparse)?.write_at(b"one more", 14 * SIZE)?;
        let (said, came) = fetch_root(lab, n2, &sparse, &root(&sparse)?, &["--unpack"])?;
        ensure!(came < 3 * MIB && number(&said, "local")? > 7 * MIB, "{came} bytes came: {said}");
        // what is not compressed is not unpacked, and nothing is put anywhere
        let root = seed(lab, &old, &[])?;
        let copy = lab.dir().join("copy");
        let fetch = n2.cli(["fetch", &root, "--unpack", "-o"]).arg(&copy).limit(LONG).run()?;
        let said = fetch.fails_with(1)?.stderr;
        ensure!(said.contains("no compressed image") && !copy.exists(), "it says: {said}");
        Ok(())
    });
}
