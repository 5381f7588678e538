//! What two nodes must exchange so that both hold the same control plane: heads and gaps.
//!
//! The asking node drives: it sends its digest; if the other's differs it gets the other's heads,
//! compares them with its own, pulls what it lacks and pushes what the other lacks. When two logs
//! cover the same numbers but differ in content (somebody withheld a cell from one of the two
//! nodes while claiming to have sent it), the whole log of that author is exchanged.

mod session;

use std::collections::BTreeMap;

use p2pinst_types::{Hash, PublicKey, codec};
use serde::{Deserialize, Serialize};

pub use session::{Given, Moved, Session, Violation, Want};

use crate::coverage::Ranges;

/// The state of one author's log: what is covered, in each of its lives, and a digest of the
/// cells that are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// Whose log.
    pub author: PublicKey,
    /// Covered numbers, by incarnation.
    pub lives: BTreeMap<u64, Ranges>,
    /// XOR of the hashes of the cells held.
    pub digest: Hash,
}

/// A part of an author's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Whose log.
    pub author: PublicKey,
    /// Which life.
    pub incarnation: u64,
    /// Which numbers.
    pub ranges: Ranges,
}

/// What one node should get from the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// What we lack.
    pub pull: Vec<Part>,
    /// What they lack.
    pub push: Vec<Part>,
}

/// Logs beyond this number are compared by buckets first.
pub const FEW: usize = 256;

/// The bucket of an author's log.
#[must_use]
pub fn bucket_of(author: &PublicKey) -> u8 {
    author.0.first().copied().unwrap_or(0)
}

/// A digest of each bucket that is not empty, in order: where they are equal, so are the logs.
#[must_use]
pub fn buckets(logs: &[LogState]) -> Vec<(u8, u64)> {
    let mut digests: BTreeMap<u8, u64> = BTreeMap::new();
    for log in logs {
        let hash = Hash::of(&codec::encode(log).unwrap_or_default());
        let (first, _) = hash.0.split_at(8);
        let short = first.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        *digests.entry(bucket_of(&log.author)).or_default() ^= short;
    }
    digests.into_iter().collect()
}

/// Compares two nodes' logs.
#[must_use]
pub fn compare(ours: &[LogState], theirs: &[LogState]) -> Difference {
    let by_author = |logs: &[LogState]| -> BTreeMap<PublicKey, LogState> {
        logs.iter().map(|l| (l.author, l.clone())).collect()
    };
    let (ours, theirs) = (by_author(ours), by_author(theirs));
    let mut out = Difference::default();
    for (author, log) in &theirs {
        out.pull.extend(lacking(log, ours.get(author)));
    }
    for (author, log) in &ours {
        out.push.extend(lacking(log, theirs.get(author)));
        let Some(other) = theirs.get(author) else { continue };
        if log.lives == other.lives && log.digest != other.digest {
            let whole = |incarnation: &u64| Part {
                author: *author,
                incarnation: *incarnation,
                ranges: Ranges::up_to(u64::MAX),
            };
            out.pull.extend(log.lives.keys().map(whole));
            out.push.extend(log.lives.keys().map(whole));
        }
    }
    out
}

/// What is still to be asked for after an answer: an answer holds as much as a message may, and
/// says how far it went. Nothing when the answer brought no step forward.
#[must_use]
pub fn rest(asked: &[Part], covered: &[Part]) -> Vec<Part> {
    let done = |part: &Part| {
        let same = |c: &&Part| c.author == part.author && c.incarnation == part.incarnation;
        covered.iter().filter(same).fold(Ranges::default(), |mut all, c| {
            all.add_all(&c.ranges);
            all
        })
    };
    // the last part that was answered may be cut off; those before it are complete
    let Some(at) = asked.iter().rposition(|p| !done(p).is_empty()) else { return Vec::new() };
    let mut rest: Vec<Part> = asked.get(at..).unwrap_or_default().to_vec();
    if let Some(first) = rest.first_mut() {
        let end = done(first).max();
        first.ranges = first.ranges.minus(&Ranges::up_to(end));
    }
    rest.retain(|p| !p.ranges.is_empty());
    rest
}

/// What `having` covers and `other` does not.
fn lacking<'a>(
    having: &'a LogState,
    other: Option<&'a LogState>,
) -> impl Iterator<Item = Part> + use<'a> {
    having.lives.iter().filter_map(move |(incarnation, ranges)| {
        let known = other.and_then(|o| o.lives.get(incarnation));
        let ranges = known.map_or_else(|| ranges.clone(), |known| ranges.minus(known));
        (!ranges.is_empty()).then_some(Part {
            author: having.author,
            incarnation: *incarnation,
            ranges,
        })
    })
}
