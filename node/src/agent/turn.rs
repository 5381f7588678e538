//! The one package manager: who is ready waits for a turn, and the oldest order has the next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pinst_types::{DeploymentId, Hlc};
use tokio::sync::oneshot;

/// Urgent ones before the others, then in the order of time (C10).
pub(super) type Rank = (bool, Hlc, DeploymentId);

/// A handle; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    busy: bool,
    waiting: BTreeMap<Rank, oneshot::Sender<Turn>>,
}

/// The package manager is at this holder's disposal; given on when dropped.
#[derive(Debug)]
pub(crate) struct Turn(Turns);

impl Turns {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub(crate) async fn take(&self, rank: Rank) -> Option<Turn> {
        let turn = {
            let mut queue = self.queue();
            if !queue.busy {
                queue.busy = true;
                return Some(Turn(self.clone()));
            }
            let (give, turn) = oneshot::channel();
            queue.waiting.insert(rank, give);
            turn
        };
        turn.await.ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut queue = self.0.queue();
            let next = queue.waiting.pop_first();
            queue.busy = next.is_some();
            next
        };
        if let Some((_, give)) = next {
            // who has gone away gives it on: what is not taken is dropped
            drop(give.send(Self(self.0.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::Millis;

    use super::*;

    fn rank(later: bool, at: u64) -> Rank {
        (later, Hlc::at(Millis(at)), DeploymentId([u8::try_from(at).unwrap(); 16]))
    }

    #[tokio::test]
    async fn the_oldest_has_the_next_turn_and_who_left_is_passed_over() {
        let turns = Turns::default();
        let first = turns.take(rank(false, 9)).await.unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for (later, at) in [(true, 1), (false, 7), (false, 3), (false, 5)] {
            let (turns, done) = (turns.clone(), Arc::clone(&done));
            tasks.spawn(async move {
                let turn = turns.take(rank(later, at)).await.unwrap();
                done.lock().unwrap().push(at);
                drop(turn);
            });
        }
        let mut gone = tokio::task::JoinSet::new();
        let leaving = turns.clone();
        gone.spawn(async move { drop(leaving.take(rank(false, 4)).await) });
        while turns.queue().waiting.len() < 5 {
            tokio::task::yield_now().await;
        }
        gone.shutdown().await;
        drop(first);
        tasks.join_all().await;
        assert_eq!(*done.lock().unwrap(), [3, 5, 7, 1]);
        assert!(!turns.queue().busy);
    }
}
