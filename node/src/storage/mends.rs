//! Fetching again what the disk damaged, and what is pinned and not whole. Nobody waits for it: a mend
//! has places of its own, gives way to whatever else comes in, and is not tried again at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use p2pinst_types::{BlobRef, Hash};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Coming, Storage};
use crate::exchange::Wish;

/// Blobs that are mended at once.
const PLACES: usize = 2;
/// How long a blob is left alone after the first try; twice as long after each other one.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest pause. Who has had to give way for so long gives way no more, and what was not
/// wanted for so long is forgotten.
const MOST: Duration = Duration::from_secs(3600);
/// How often a mend looks whether it has to give way.
const LOOK: Duration = Duration::from_secs(1);

/// A blob that is or was mended.
#[derive(Debug)]
struct Mend {
    running: bool,
    /// Since when it waits for its turn.
    since: Instant,
    /// When it may be tried next.
    next: Instant,
    /// How long it is left alone after that.
    pause: Duration,
}

/// How a mend has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is whole, or nobody was found who has the rest.
    Tried,
    /// It gave way.
    GaveWay,
}

/// Which blobs are mended when.
#[derive(Debug, Default)]
pub(super) struct Mends(BTreeMap<Hash, Mend>);

impl Mends {
    /// Those of the blobs that it is time for, and that there is a place for; `others`: something
    /// else comes in. Each is to be told of by [`Mends::ended`].
    fn begin(&mut self, wanted: Vec<BlobRef>, others: bool, now: Instant) -> Vec<BlobRef> {
        self.0.retain(|root, m| {
            let wanted = wanted.iter().any(|b| b.root == *root);
            m.running || wanted || now < m.next + MOST
        });
        let mut places = PLACES.saturating_sub(self.0.values().filter(|m| m.running).count());
        let mut due: Vec<(Instant, BlobRef)> = Vec::new();
        for blob in wanted {
            let mend = self.0.entry(blob.root).or_insert(Mend {
                running: false,
                since: now,
                next: now,
                pause: PAUSE,
            });
            let turn = !others || now >= mend.since + MOST;
            if !mend.running && turn && now >= mend.next {
                due.push((mend.since, blob));
            }
        }
        due.sort_by_key(|(since, blob)| (*since, blob.root)); // who has waited longest
        let mut begun = Vec::new();
        for (_, blob) in due {
            if places > 0
                && let Some(mend) = self.0.get_mut(&blob.root)
            {
                places -= 1;
                mend.running = true;
                begun.push(blob);
            }
        }
        begun
    }

    /// Whether a mend that runs has to give way when something else comes in.
    fn gives_way(&self, root: &Hash, now: Instant) -> bool {
        self.0.get(root).is_none_or(|m| now < m.since + MOST)
    }

    fn ended(&mut self, root: &Hash, end: End, now: Instant) {
        let Some(mend) = self.0.get_mut(root) else { return };
        mend.running = false;
        if end == End::Tried {
            mend.next = now + mend.pause;
            mend.since = mend.next;
            mend.pause = (mend.pause * 2).min(MOST);
        }
    }
}

impl Storage {
    /// The blobs whose mending is to begin now; each is to be [run](Storage::run_mend).
    pub(super) fn mends_due(&self) -> Vec<BlobRef> {
        let stored = self.blobs().stored().into_iter().filter(|s| !s.status.complete);
        let lacking: Vec<_> = stored.collect();
        let mut table = self.table();
        let needed = |root: &Hash, damaged: bool| {
            let ordered = table.needs.as_ref().is_some_and(|n| n.contains_key(root));
            table.is_pinned(root) || (damaged && ordered)
        };
        let wanted = lacking.iter().map(|s| (s.status.blob, s.damaged));
        let wanted = wanted.filter(|(b, damaged)| needed(&b.root, *damaged)).map(|(b, _)| b);
        let wanted = wanted.collect();
        let others = table.others_come();
        table.mends.begin(wanted, others, Instant::now())
    }

    /// Fetches what is lacking of a blob that is here in part; gives way to others.
    pub(super) async fn run_mend(self, blob: BlobRef) {
        let root = blob.root;
        let claim = self.claim(Coming { root: Some(root), bytes: blob.len(), mends: true });
        let nobody = Arc::default();
        let end = tokio::select! {
            fetched = self.fetch_from_all(blob, &nobody, Wish::default()) => {
                match fetched {
                    Ok(_) => info!(blob = %root.short(), "a blob was mended"),
                    Err(reason) => debug!(blob = %root.short(), %reason, "a blob was not mended"),
                }
                End::Tried
            }
            () = self.others_first(root) => End::GaveWay,
        };
        drop(claim);
        self.table().mends.ended(&root, end, Instant::now());
    }

    /// Ends when a mend has to give way.
    async fn others_first(&self, root: Hash) {
        let first = || {
            let table = self.table();
            table.others_come() && table.mends.gives_way(&root, Instant::now())
        };
        while !first() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(n: u8) -> BlobRef {
        BlobRef::new(Hash([n; 32]), 1_000_000).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// What is begun now, in short.
    fn begin(mends: &mut Mends, wanted: &[u8], others: bool, now: Instant) -> Vec<u8> {
        let wanted = wanted.iter().map(|n| blob(*n)).collect();
        mends.begin(wanted, others, now).into_iter().map(|b| b.root.0[0]).collect()
    }

    #[test]
    fn two_are_mended_at_once_and_each_once() {
        let (mut mends, now) = (Mends::default(), Instant::now());
        assert_eq!(begin(&mut mends, &[1, 2, 3], false, now), [1, 2]);
        assert!(begin(&mut mends, &[1, 2, 3], false, now + SECOND).is_empty());
        mends.ended(&blob(1).root, End::Tried, now + SECOND);
        // the one that was tried waits, and the others do not wait for it
        assert_eq!(begin(&mut mends, &[1, 2, 3, 4], false, now + SECOND), [3]);
    }

    #[test]
    fn what_cannot_be_mended_is_left_alone_for_longer_and_longer() {
        let (mut mends, start) = (Mends::default(), Instant::now());
        let (mut now, mut tries) = (start, Vec::new());
        while now < start + 4 * MOST {
            if !begin(&mut mends, &[1], false, now).is_empty() {
                tries.push((now - start).as_secs() / 60);
                mends.ended(&blob(1).root, End::Tried, now);
            }
            now += 5 * SECOND;
        }
        assert_eq!(tries, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        // what was whole for long begins anew
        now += 3 * MOST;
        assert!(begin(&mut mends, &[], false, now).is_empty());
        assert!(mends.0.is_empty());
    }

    #[test]
    fn mends_give_way_but_not_for_ever() {
        let (mut mends, now) = (Mends::default(), Instant::now());
        assert!(begin(&mut mends, &[1], true, now).is_empty());
        assert_eq!(begin(&mut mends, &[1], false, now + SECOND), [1]);
        assert!(mends.gives_way(&blob(1).root, now + 2 * SECOND));
        mends.ended(&blob(1).root, End::GaveWay, now + 2 * SECOND);
        // it was not its fault: it goes on as soon as there is nothing else
        assert!(begin(&mut mends, &[1], true, now + 3 * SECOND).is_empty());
        assert_eq!(begin(&mut mends, &[1], false, now + 4 * SECOND), [1]);
        mends.ended(&blob(1).root, End::GaveWay, now + 5 * SECOND);
        assert_eq!(begin(&mut mends, &[1], true, now + MOST), [1], "it has waited long enough");
        assert!(!mends.gives_way(&blob(1).root, now + MOST));
    }
}
