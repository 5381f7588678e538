//! Files that stand for images, and their second versions.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::exec::run;

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// The shortest and the longest stretch that is changed at once, in bytes.
const RUNS: (u64, u64) = (64 << 10, 4 << 20);

/// A loop device, as long as this lives.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Makes a loop device of a file, to be read only. The file's length is to be a multiple of 512 bytes.
    ///
    /// # Errors
    /// When there is none left.
    pub fn of(file: &Path) -> Result<Self> {
        Self::attach(&["--read-only"], file)
    }

    /// Makes a blank disk of so many bytes, a multiple of 512, whose content will be in this file.
    ///
    /// # Errors
    /// When the file cannot be made, or there is no loop device left.
    pub fn blank(file: &Path, len: u64) -> Result<Self> {
        let made = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
        made.set_len(len).with_context(|| format!("cannot make {} long", file.display()))?;
        Self::attach(&[], file)
    }

    fn attach(how: &[&str], file: &Path) -> Result<Self> {
        let args = ["--find", "--show"].iter().chain(how).map(OsStr::new);
        let printed = run("losetup", args.chain([file.as_os_str()]))?;
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

/// Writes a disk of noise, the same for the same seed: a partition table of the PC's old kind names one partition, from the second
/// MiB to the end. Nothing starts from it.
///
/// # Errors
/// When the file cannot be written, or it would be shorter than 2 MiB.
pub fn disk(path: &Path, len: u64, seed: u64) -> Result<()> {
    let whole = len.is_multiple_of(SECTOR);
    ensure!(whole && len >= 2 * MIB, "a disk has whole sectors, and 2 MiB at least");
    noise(path, len, seed)?;
    let (begin, sectors) = (u32::try_from(MIB / SECTOR)?, u32::try_from((len - MIB) / SECTOR)?);
    let id = u32::try_from(seed & 0xffff_ffff)?.to_le_bytes();
    let linux = [0, 0, 0, 0, 0x83, 0, 0, 0];
    let entry = [linux.as_slice(), &begin.to_le_bytes(), &sectors.to_le_bytes()].concat();
    let sector = [&[0; 440][..], &id, &[0; 2], &entry, &[0; 48], &[0x55, 0xaa]].concat();
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&sector, 0).with_context(|| format!("cannot write {}", path.display()))
}

/// Changes so many hundredths of a disk in place, in so many stretches of one length, spread over it; not its first MiB.
///
/// # Errors
/// When the file cannot be written, or the stretches do not fit.
pub fn change_spread(path: &Path, percent: u64, stretches: u64, seed: u64) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let len = file.metadata()?.len();
    let (run, room) = (len * percent / 100 / stretches, (len - MIB) / stretches);
    ensure!(run <= room, "{percent} % of {} are too much", path.display());
    let mut rng = StdRng::seed_from_u64(seed);
    for stretch in 0..stretches {
        let at = MIB + stretch * room + rng.random_range(0..=room - run);
        file.write_all_at(&block(&mut rng, run)?, at)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_version_differs_by_what_was_asked_for() {
        let temp = tempfile::tempdir().unwrap();
        let (old, new) = (temp.path().join("old"), temp.path().join("new"));
        disk(&old, 16 * MIB, 1).unwrap();
        fs::copy(&old, &new).unwrap();
        change_spread(&new, 5, 4, 2).unwrap();
        let (old, new) = (fs::read(&old).unwrap(), fs::read(&new).unwrap());
        assert_eq!(old[510..512], [0x55, 0xaa]);
        assert_eq!(old[450], 0x83);
        assert_eq!(old[..1 << 20], new[..1 << 20]);
        let changed = old.iter().zip(&new).filter(|(a, b)| a != b).count() as u64;
        // one in 256 bytes of noise is what it was
        let wanted = 16 * MIB * 5 / 100;
        assert!(changed <= wanted && changed > wanted * 98 / 100, "{changed} of {wanted}");
        assert!(change_spread(&temp.path().join("old"), 99, 4, 2).is_err());
    }
}
