//! Which life of the node this is: every start of the daemon begins a new one.
//!
//! What a node signs is numbered (life, number), so a data directory that was put back to an older
//! copy, or copied to another machine, never signs a second record of a number: its next start is
//! another life. A life is written down before it is used. It is the time in milliseconds, and
//! always above the lives that the directory knows of, whatever the clock says. Where the clock
//! does not decide, a random step does, so that two copies with dead clocks differ too.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use p2pinst_api::DataDir;
use p2pinst_files::Access;
use p2pinst_trust::key::random_u64;
use p2pinst_types::Millis;
use tracing::{error, info, warn};

/// What the file begins with; the life follows, as decimal digits.
const HEAD: &str = "p2pinst-life-1 ";
/// Longest file, in bytes.
const MAX: u64 = 64;
/// The largest step above a life that is known: a minute, where lives are counted in milliseconds.
const STEP: u64 = 1 << 16;

/// See the module.
#[derive(Debug)]
pub struct Life {
    /// Where it is written down; `None`: nowhere, it ends with the process.
    file: Option<PathBuf>,
    /// The life in which the process began.
    first: u64,
    now: Mutex<u64>,
}

/// A life above `known` and not before `now`.
fn above(known: u64, now: Millis, random: u64) -> u64 {
    let least = known.saturating_add(1);
    if now.0 >= least { now.0 } else { least.saturating_add(random % STEP) }
}

/// The life that a file tells of.
fn parse(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.strip_prefix(HEAD)?.trim_end().parse().ok()
}

fn random() -> u64 {
    random_u64().unwrap_or_else(|error| {
        warn!(%error, "no random numbers: a copy of this data directory may not be told apart");
        0
    })
}

impl Life {
    /// Begins a new life in a data directory. `now`: the time; `head`: the newest life of the node
    /// that its store knows of. Blocking.
    ///
    /// When the life cannot be written down (a full disk), it begins all the same: the store, which
    /// is on that disk too, tells the next start of all that was written in it.
    #[must_use]
    pub fn begin(dir: &DataDir, now: Millis, head: u64) -> Self {
        let file = dir.life();
        let written = match p2pinst_files::read(&file, MAX) {
            Ok(text) => parse(&text).unwrap_or_else(|| {
                warn!(file = %file.display(), "the file of the node's lives is damaged; begun anew");
                0
            }),
            Err(_) => 0, // the first start
        };
        let life = above(written.max(head), now, random());
        let life = Self { file: Some(file), first: life, now: Mutex::new(life) };
        if let Err(error) = life.write_down(life.first) {
            warn!(%error, "cannot write down that a new life of the node has begun");
        }
        life
    }

    /// A life that is written down nowhere.
    #[must_use]
    pub fn fixed(life: u64) -> Self {
        Self { file: None, first: life, now: Mutex::new(life) }
    }

    fn write_down(&self, life: u64) -> Result<(), p2pinst_files::FileError> {
        let Some(file) = &self.file else { return Ok(()) };
        p2pinst_files::write(file, format!("{HEAD}{life}\n").as_bytes(), Access::Public)
    }

    /// The life that counts now: what is written next is written in it.
    #[must_use]
    pub fn now(&self) -> u64 {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life in which this process began: it tells one process from another with the same key.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Begins a newer life than `theirs`, unless this one is newer already; returns the life that
    /// counts then: the old one when the new one cannot be written down. Blocking.
    pub fn begin_after(&self, theirs: u64, now: Millis) -> u64 {
        let mut current = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if *current > theirs {
            return *current;
        }
        let next = above(theirs, now, random());
        match self.write_down(next) {
            Ok(()) => {
                info!(before = *current, life = next, "the node begins a new life");
                *current = next;
            }
            Err(error) => error!(%error, "cannot begin a new life of the node"),
        }
        *current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path());
        (temp, dir)
    }

    #[test]
    fn every_start_is_a_newer_life_whatever_the_clock_says() {
        let (_temp, dir) = dir();
        let hour = 3_600_000;
        let mut last = 0;
        // right, right, an hour behind, dead, right again, at the same millisecond
        for now in [10 * hour, 10 * hour + 5, 9 * hour, 0, 0, 11 * hour, 11 * hour] {
            let life = Life::begin(&dir, Millis(now), 0);
            assert!(life.now() > last && life.now() >= now, "{} after {last}", life.now());
            assert_eq!(life.now(), life.first());
            last = life.now();
        }
        assert!(last < 11 * hour + 10 * STEP);
    }

    #[test]
    fn the_store_knows_of_lives_that_the_file_does_not() {
        let (_temp, dir) = dir();
        assert!(Life::begin(&dir, Millis(5), 700).now() > 700);
        std::fs::write(dir.life(), "nonsense").unwrap();
        assert!(Life::begin(&dir, Millis(5), 900).now() > 900);
        assert_eq!(std::fs::read_to_string(dir.life()).unwrap().lines().count(), 1);
    }

    #[test]
    fn copies_with_dead_clocks_differ() {
        let lives: std::collections::BTreeSet<u64> = (0..8)
            .map(|_| {
                let (_temp, dir) = dir();
                std::fs::write(dir.life(), format!("{HEAD}1000\n")).unwrap();
                Life::begin(&dir, Millis(0), 0).now()
            })
            .collect();
        assert!(lives.len() > 1, "{lives:?}");
    }

    #[test]
    fn a_newer_life_begins_at_run_time_and_is_remembered() {
        let (_temp, dir) = dir();
        let life = Life::begin(&dir, Millis(1000), 0);
        assert_eq!(life.begin_after(999, Millis(2000)), 1000, "it is newer already");
        let next = life.begin_after(5000, Millis(2000));
        assert!(next > 5000);
        assert_eq!((life.now(), life.first()), (next, 1000));
        assert!(Life::begin(&dir, Millis(0), 0).now() > next);
    }

    #[test]
    fn golden_file() {
        let (_temp, dir) = dir();
        let life = Life::begin(&dir, Millis(1_800_000_000_123), 0);
        assert_eq!(life.now(), 1_800_000_000_123);
        assert_eq!(std::fs::read(dir.life()).unwrap(), b"p2pinst-life-1 1800000000123\n");
    }
}
