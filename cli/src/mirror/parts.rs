//! A download in parts, from several mirrors at once.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::http::{self, Http};
use super::plan::{AT_ONCE, Next, Plan};
use super::{Gave, Job, Sum, interrupted, usable};
use crate::error::CliError;

/// Connections to each mirror.
const CONNECTIONS: usize = 2;
/// Asked for at a time, where there are no sums of pieces.
pub(super) const PART: u64 = 4 << 20;
/// Shorter pieces are asked for several at a time.
const SHORTEST: u64 = 64 << 10;
/// How long a mirror waits that has nothing to do now.
const PAUSE: Duration = Duration::from_millis(50);

/// How a download in parts ended.
pub(super) struct Parts {
    /// Whether all is there.
    pub(super) complete: bool,
    /// Mirrors that sent damaged parts.
    pub(super) damaged: BTreeSet<usize>,
}

/// Why a part did not come.
enum Failure {
    /// It came from another meanwhile, or it was told to stop.
    GivenUp,
    /// It is not what it should be.
    Damaged,
    Other(String),
}

/// What the connections share.
struct Run<'a> {
    job: &'a Job<'a>,
    http: &'a Http<'a>,
    file: &'a File,
    len: u64,
    plan: Mutex<Plan>,
    /// Why the file could not be written.
    disk: Mutex<Option<CliError>>,
}

impl Job<'_> {
    /// Downloads a file of `len` bytes from the mirrors that send parts of it, and says what each gave.
    pub(super) fn in_parts(
        &self,
        len: u64,
        file: &File,
        gave: &mut [Gave],
    ) -> Result<Parts, CliError> {
        let part = self.pieces.map_or(PART, |p| at_a_time(p.length));
        let mut plan = Plan::new(len, part, self.offers.len());
        for (mirror, offer) in self.offers.iter().enumerate() {
            match usable(offer, Some(len)) {
                Ok(offer) if offer.ranges => {}
                Ok(_) => plan.refuse(mirror, "it sends no parts".to_owned()),
                Err(reason) => plan.refuse(mirror, reason),
            }
        }
        let least = self.least.shared((AT_ONCE * CONNECTIONS) as u64);
        let plan = http::with(least, self.stop, |http| {
            let (plan, disk) = (Mutex::new(plan), Mutex::default());
            let run = Run { job: self, http, file, len, plan, disk };
            run.all();
            match lock(&run.disk).take() {
                Some(error) => Err(error),
                None => Ok(run.plan.into_inner().unwrap_or_else(PoisonError::into_inner)),
            }
        })?;
        let complete = plan.is_complete();
        if !complete && self.is_stopped() {
            return Err(interrupted());
        }
        let mut damaged = BTreeSet::new();
        for (mirror, (gave, outcome)) in gave.iter_mut().zip(plan.outcome()).enumerate() {
            (gave.bytes, gave.failed) = (outcome.bytes, outcome.reason);
            if outcome.damaged {
                damaged.insert(mirror);
            }
        }
        Ok(Parts { complete, damaged })
    }
}

impl Run<'_> {
    fn all(&self) {
        std::thread::scope(|scope| {
            for (mirror, url) in self.job.wanted.urls.iter().enumerate() {
                for _ in 0..CONNECTIONS {
                    scope.spawn(move || {
                        if let Err(error) = self.serve(mirror, url) {
                            lock(&self.disk).get_or_insert(error);
                            self.job.stop.store(true, Ordering::Relaxed);
                        }
                    });
                }
            }
        });
    }

    /// One connection of a mirror.
    fn serve(&self, mirror: usize, url: &str) -> Result<(), CliError> {
        while !self.job.is_stopped() {
            let next = lock(&self.plan).next(mirror, Instant::now());
            let part = match next {
                Next::Part(part) => part,
                Next::Wait => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Next::Stop => break,
            };
            let range = lock(&self.plan).range(part);
            let fetched = self.fetch(mirror, url, part, range.clone());
            let mut plan = lock(&self.plan);
            if plan.is_here(part) {
                continue; // the other was faster
            }
            match fetched {
                Err(Failure::GivenUp) => {}
                Err(Failure::Damaged) => plan.damaged(mirror, part),
                Err(Failure::Other(reason)) => plan.failed(mirror, part, reason, Instant::now()),
                Ok(bytes) => {
                    drop(plan);
                    let written = self.file.write_all_at(&bytes, range.start);
                    written.map_err(|e| self.job.unwritten(&e))?;
                    let mut plan = lock(&self.plan);
                    if plan.done(mirror, part) {
                        self.job.bar.inc(bytes.len() as u64);
                    }
                    if plan.is_complete() {
                        // nobody waits for those that still send what is here
                        self.http.end();
                    }
                }
            }
        }
        Ok(())
    }

    fn fetch(
        &self,
        mirror: usize,
        url: &str,
        part: usize,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Failure> {
        let offer = self.job.offers.get(mirror).and_then(|o| o.as_ref().ok());
        let tag = offer.and_then(|o| o.tag.as_deref());
        let is_here = || lock(&self.plan).is_here(part);
        let fetched = self.http.range(url, tag, range.clone(), self.len, is_here);
        // what fails because it was broken off says nothing of the mirror
        let bytes = match fetched {
            Err(_) if self.job.is_stopped() => return Err(Failure::GivenUp),
            Err(reason) => return Err(Failure::Other(reason)),
            Ok(None) => return Err(Failure::GivenUp),
            Ok(Some(bytes)) => bytes,
        };
        if self.is_right(range.start, &bytes) { Ok(bytes) } else { Err(Failure::Damaged) }
    }

    /// Whether each piece has the sum that it should have.
    fn is_right(&self, start: u64, bytes: &[u8]) -> bool {
        let Some(pieces) = self.job.pieces else { return true };
        let (Ok(first), Ok(length)) =
            (usize::try_from(start / pieces.length), usize::try_from(pieces.length))
        else {
            return false;
        };
        let mut sums = pieces.hashes.iter().skip(first);
        bytes.chunks(length).all(|piece| sums.next().is_some_and(|sum| Sum::of(piece) == *sum))
    }
}

/// How much is asked for at a time when pieces have that length: whole pieces.
fn at_a_time(length: u64) -> u64 {
    SHORTEST.div_ceil(length.max(1)).saturating_mul(length)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_pieces_come_several_at_a_time() {
        assert_eq!(
            [1, 60_000, SHORTEST, 1 << 20].map(at_a_time),
            [SHORTEST, 120_000, SHORTEST, 1 << 20]
        );
    }
}
