//! Virtual time: what happens next is what was planned for the earliest moment; of equals, what
//! was planned first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Microseconds since the beginning of a simulation.
pub type Micros = u64;

/// One second of virtual time.
pub const SECOND: Micros = 1_000_000;

#[derive(Debug)]
struct Planned<E> {
    at: Micros,
    turn: u64,
    event: E,
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.turn) == (other.at, other.turn)
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.turn).cmp(&(other.at, other.turn))
    }
}

/// Events in the order of virtual time.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Planned<E>>>,
    now: Micros,
    turns: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), now: 0, turns: 0 }
    }
}

impl<E> Queue<E> {
    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Plans an event, so long from now.
    pub fn after(&mut self, delay: Micros, event: E) {
        self.at(self.now.saturating_add(delay), event);
    }

    /// Plans an event for a moment; the present one when that has passed.
    pub fn at(&mut self, at: Micros, event: E) {
        self.turns += 1;
        self.heap.push(Reverse(Planned { at: at.max(self.now), turn: self.turns, event }));
    }

    /// The next event, unless it is later than `until`: then time stands at `until`. When nothing is
    /// planned, and `until` is the end of all time, it stands where it is.
    pub fn next(&mut self, until: Micros) -> Option<E> {
        if until == Micros::MAX && self.heap.is_empty() {
            return None;
        }
        if self.heap.peek().is_none_or(|p| p.0.at > until) {
            self.now = self.now.max(until);
            return None;
        }
        let Reverse(planned) = self.heap.pop()?;
        self.now = planned.at;
        Some(planned.event)
    }

    /// How many events are planned.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing is planned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_of_equals_the_first_planned() {
        let mut queue = Queue::default();
        for (at, name) in [(20, 'c'), (10, 'a'), (20, 'd'), (10, 'b')] {
            queue.at(at, name);
        }
        let order: Vec<char> = std::iter::from_fn(|| queue.next(15)).collect();
        assert_eq!((order, queue.now()), (vec!['a', 'b'], 15));
        queue.at(3, 'x');
        let order: Vec<char> = std::iter::from_fn(|| queue.next(100)).collect();
        assert_eq!((order, queue.now()), (vec!['x', 'c', 'd'], 100), "the past is now");
        assert!(queue.is_empty());
    }
}
