//! What happened on this node's segments, for people: the last of it, in memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2pinst_boot::service::Ready;
use p2pinst_types::{Mac, Millis};

/// Events that are remembered.
const KEPT: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When, in cluster time.
    pub at: Millis,
    /// What.
    pub what: String,
    /// To which machine, where it is about one.
    pub mac: Option<Mac>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    /// Events that are remembered no more.
    forgotten: u64,
    ready: Option<Ready>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Log(Mutex<Inner>);

impl Log {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened.
    pub fn note(&self, at: Millis, what: String, mac: Option<Mac>) {
        let mut inner = self.inner();
        if inner.entries.len() >= KEPT {
            inner.entries.pop_front();
            inner.forgotten += 1;
        }
        inner.entries.push_back(Entry { at, what, mac });
    }

    /// What the boot service listens on.
    pub fn set_ready(&self, ready: Ready) {
        self.inner().ready = Some(ready);
    }

    /// What the boot service listens on; `None`: it has not begun.
    #[must_use]
    pub fn ready(&self) -> Option<Ready> {
        self.inner().ready.clone()
    }

    /// What happened behind an event, oldest first: each event has a number, from 1.
    #[must_use]
    pub fn after(&self, known: Option<u64>) -> Vec<(u64, Entry)> {
        let inner = self.inner();
        let numbered = (inner.forgotten + 1..).zip(&inner.entries);
        let later = numbered.filter(|(number, _)| known.is_none_or(|known| *number > known));
        later.map(|(number, entry)| (number, entry.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_numbers_when_others_are_forgotten() {
        let log = Log::default();
        for i in 0..=KEPT {
            log.note(Millis(i as u64), format!("event {}", i + 1), None);
        }
        let all = log.after(None);
        assert_eq!((all.len(), all[0].0, all[0].1.what.as_str()), (KEPT, 2, "event 2"));
        let last = log.after(Some(KEPT as u64));
        assert_eq!((last.len(), last[0].1.what.as_str()), (1, "event 1025"));
        assert!(log.after(Some(KEPT as u64 + 1)).is_empty());
    }
}
