//! Limits on rates: who may move bytes now, and who waits for how long.
//!
//! Sans-IO and pure; time is a parameter. A [`Throttle`] has token buckets, one for each thing that
//! is limited (the node's uplink, the way to other sites, one deployment's bytes). Bytes may fall
//! under several at once: they are let through when *all* of these have room, and taken from all at
//! that moment.
//!
//! Who comes first goes first, so peers that ask for a chunk each in turn share evenly. Whoever waits
//! for a slow bucket does not hold up those who do not need it: these go ahead as long as that does
//! not make the first wait longer than it has to (as batch schedulers fill gaps). So nobody starves, and
//! no bucket idles without need. Urgent bytes go before all others.
//!
//! A bucket lets through, in any interval, no more than its rate times the interval, its burst, and one
//! request. A crash loses the state: buckets are full again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use p2pinst_types::Rate;

/// A bucket holds what its rate gives in this time: timers are late by milliseconds, and what was not
/// used meanwhile is not lost.
const BURST: Duration = Duration::from_millis(50);
/// Bytes that every bucket holds.
const BURST_MIN: u64 = 16 << 10;
/// Most bytes to ask for at a time: what is moved in one go.
pub const CHUNK: usize = 64 << 10;

/// How many bytes to ask for at a time under such a limit: what it gives in about 50 ms, so that the
/// bytes flow and do not come in lumps.
#[must_use]
pub fn chunk_under(rate: Option<Rate>) -> usize {
    let part = rate.map_or(u64::MAX, |r| r.bytes() / 20);
    usize::try_from(part).unwrap_or(usize::MAX).clamp(4 << 10, CHUNK)
}

/// A token bucket: counts by the time at which what was taken will have been earned.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    free_at: Duration,
}

impl Bucket {
    fn time_for(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.bytes());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The state after so many bytes were taken at `now`.
    fn after(&self, now: Duration, bytes: u64) -> Duration {
        let hold = BURST.max(self.time_for(BURST_MIN));
        self.free_at.max(now.saturating_sub(hold)).saturating_add(self.time_for(bytes))
    }
}

/// Names one request that waits.
pub type Ticket = u64;

#[derive(Debug)]
struct Waiting<K> {
    ticket: Ticket,
    keys: Vec<K>,
    bytes: u64,
}

/// See the module. `K` names the buckets.
#[derive(Debug)]
pub struct Throttle<K> {
    buckets: BTreeMap<K, Bucket>,
    urgent: VecDeque<Waiting<K>>,
    others: VecDeque<Waiting<K>>,
    last: Ticket,
}

impl<K: Ord + Copy> Default for Throttle<K> {
    fn default() -> Self {
        let (urgent, others) = (VecDeque::new(), VecDeque::new());
        Self { buckets: BTreeMap::new(), urgent, others, last: 0 }
    }
}

impl<K: Ord + Copy> Throttle<K> {
    /// Limits, or with `None` does not limit, a bucket from now on. What was taken at another rate
    /// counts at that rate.
    pub fn set(&mut self, key: K, rate: Option<Rate>) {
        match (rate, self.buckets.get_mut(&key)) {
            (Some(rate), Some(bucket)) => bucket.rate = rate,
            (Some(rate), None) => {
                self.buckets.insert(key, Bucket { rate, free_at: Duration::ZERO });
            }
            (None, _) => drop(self.buckets.remove(&key)),
        }
    }

    /// Takes away the buckets that are not to stay.
    pub fn retain(&mut self, mut stays: impl FnMut(&K) -> bool) {
        self.buckets.retain(|k, _| stays(k));
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.urgent.len() + self.others.len()
    }

    /// The least rate of these buckets; `None` when none of them is limited.
    #[must_use]
    pub fn least(&self, keys: &[K]) -> Option<Rate> {
        keys.iter().filter_map(|k| self.buckets.get(k)).map(|b| b.rate).min()
    }

    /// Asks to move bytes that fall under these buckets. [`Throttle::step`] tells when they may.
    pub fn ask(&mut self, keys: &[K], bytes: usize, urgent: bool) -> Ticket {
        self.last += 1;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let waiting = Waiting { ticket: self.last, keys: keys.to_vec(), bytes };
        let queue = if urgent { &mut self.urgent } else { &mut self.others };
        queue.push_back(waiting);
        self.last
    }

    /// Takes a request back; without effect once it was let through.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.urgent.retain(|w| w.ticket != ticket);
        self.others.retain(|w| w.ticket != ticket);
    }

    /// Lets through who may at `now`. Returns when to step again, if anybody waits.
    pub fn step(&mut self, now: Duration, through: &mut Vec<Ticket>) -> Option<Duration> {
        // until when a bucket must be free again for somebody who waits already
        let mut promised: BTreeMap<K, Duration> = BTreeMap::new();
        let mut next = None;
        let Self { buckets, urgent, others, .. } = self;
        for queue in [urgent, others] {
            queue.retain(|waiting| {
                let of = || waiting.keys.iter().filter_map(|k| Some((*k, *buckets.get(k)?)));
                let ready = of().map(|(_, b)| b.free_at).max().unwrap_or_default();
                // whom this one would keep waiting begins first
                let before = of().filter_map(|(k, b)| {
                    let promise = promised.get(&k)?;
                    (b.after(now, waiting.bytes) > *promise).then_some(*promise)
                });
                let begins = before.max().map(|p| p.max(ready));
                if ready <= now && begins.is_none() {
                    for key in &waiting.keys {
                        if let Some(bucket) = buckets.get_mut(key) {
                            bucket.free_at = bucket.after(now, waiting.bytes);
                        }
                    }
                    through.push(waiting.ticket);
                    return false;
                }
                let begins = begins.unwrap_or(ready);
                for (key, _) in of() {
                    let promise = promised.entry(key).or_insert(begins);
                    *promise = begins.min(*promise);
                }
                if begins > now {
                    next = Some(next.map_or(begins, |n: Duration| n.min(begins)));
                }
                true
            });
        }
        next
    }
}

#[cfg(test)]
mod tests;
