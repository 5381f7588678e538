//! Files that stand for images, and their second versions.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::exec::run;

const MIB: u64 = 1 << 20;
/// The shortest and the longest stretch that is changed at once, in bytes.
const RUNS: (u64, u64) = (64 << 10, 4 << 20);

/// A disk that holds an image, to be read only, as long as this lives.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Makes a loop device of a file. Its length is to be a multiple of 512 bytes.
    ///
    /// # Errors
    /// When there is none left.
    pub fn of(file: &Path) -> Result<Self> {
        let args = ["--find", "--show", "--read-only"].map(OsStr::new);
        let printed = run("losetup", args.into_iter().chain([file.as_os_str()]))?;
        Ok(Self(printed.trim().into()))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("losetup", [OsStr::new("--detach"), self.0.as_os_str()]).ok();
    }
}

/// Writes a file of noise, the same for the same seed.
///
/// # Errors
/// When the file cannot be written.
pub fn noise(path: &Path, len: u64, seed: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut left = len;
    while left > 0 {
        let block = block(&mut rng, left.min(MIB))?;
        file.write_all(&block)?;
        left -= block.len() as u64;
    }
    Ok(())
}

/// Changes so many hundredths of a file in place, in stretches of 64 KiB to 4 MiB anywhere.
///
/// # Errors
/// When the file cannot be written.
pub fn change(path: &Path, percent: u64, seed: u64) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let len = file.metadata()?.len();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut left = len * percent / 100;
    while left > 0 {
        let run = rng.random_range(RUNS.0..=RUNS.1).min(left).min(len);
        let at = rng.random_range(0..=len - run);
        let bytes = block(&mut rng, run)?;
        file.write_all_at(&bytes, at)?;
        left -= run;
    }
    Ok(())
}

/// Writes a copy of a file with so many bytes of noise put in at a place.
///
/// # Errors
/// When a file cannot be read or written.
pub fn insert(from: &Path, to: &Path, at: usize, bytes: u64, seed: u64) -> Result<()> {
    let old = fs::read(from)?;
    let (head, tail) = old.split_at_checked(at).context("the file is too short")?;
    let new = block(&mut StdRng::seed_from_u64(seed), bytes)?;
    let mut file = File::create(to)?;
    [head, &new, tail].iter().try_for_each(|part| file.write_all(part))?;
    Ok(())
}

/// Makes a file of that length with holes, and noise in a MiB here and there.
///
/// # Errors
/// When the file cannot be written.
pub fn sparse(path: &Path, len: u64, places: &[u64], seed: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(len)?;
    let mut rng = StdRng::seed_from_u64(seed);
    for place in places {
        file.write_all_at(&block(&mut rng, MIB)?, *place)?;
    }
    Ok(())
}

fn block(rng: &mut StdRng, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len)?];
    rng.fill_bytes(&mut bytes);
    Ok(bytes)
}
