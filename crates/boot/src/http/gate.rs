//! Who may come in: connections and calls to `/hello`, in all and of one address. Pure; time is passed in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Caller, Limits};

/// Over which time calls to `/hello` are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// Why somebody has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// This address has had its share.
    Own,
    /// All together have had theirs.
    All,
}

/// Counts what is open and what was called: of machines that are expected, and apart from that of all others, so that no flood of
/// addresses keeps a machine out that has an order.
#[derive(Debug, Default)]
pub(super) struct Gate {
    connections: BTreeMap<Caller, usize>,
    waiting: BTreeSet<Caller>,
    /// Calls of the last minute, the oldest first; of either kind of callers at most [`Limits::hellos`].
    calls: VecDeque<(Duration, Caller)>,
}

impl Gate {
    /// Lets a connection in; it must leave by [`Gate::close`].
    pub(super) fn open(&mut self, from: Caller, limits: &Limits) -> Result<(), Refused> {
        let own = self.connections.get(&from).copied().unwrap_or_default();
        if own >= limits.per_client {
            return Err(Refused::Own);
        }
        let alike = |(of, _): &(&Caller, &usize)| of.is_expected() == from.is_expected();
        let all: usize = self.connections.iter().filter(alike).map(|(_, count)| count).sum();
        if all >= limits.connections {
            return Err(Refused::All);
        }
        self.connections.insert(from, own + 1);
        Ok(())
    }

    /// A connection has ended.
    pub(super) fn close(&mut self, from: Caller) {
        if let Some(count) = self.connections.get_mut(&from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.connections.remove(&from);
            }
        }
    }

    /// Lets a call in; it must leave by [`Gate::answered`].
    pub(super) fn call(
        &mut self,
        now: Duration,
        from: Caller,
        limits: &Limits,
    ) -> Result<(), Refused> {
        while self.calls.front().is_some_and(|(at, _)| *at + MINUTE <= now) {
            self.calls.pop_front();
        }
        let own = self.calls.iter().filter(|(_, of)| *of == from).count();
        if own >= limits.hellos_per_client || self.waiting.contains(&from) {
            return Err(Refused::Own);
        }
        let alike = |of: &&Caller| of.is_expected() == from.is_expected();
        let calls = self.calls.iter().map(|(_, of)| of).filter(alike).count();
        let waiting = self.waiting.iter().filter(alike).count();
        if calls >= limits.hellos || waiting >= limits.waiting {
            return Err(Refused::All);
        }
        self.calls.push_back((now, from));
        self.waiting.insert(from);
        Ok(())
    }

    /// A call has ended.
    pub(super) fn answered(&mut self, from: Caller) {
        self.waiting.remove(&from);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use p2pinst_types::Mac;

    use super::*;

    fn other(last: u8) -> Caller {
        Caller::Other(Ipv4Addr::new(192, 0, 2, last))
    }

    #[test]
    fn connections_are_counted_in_all_and_by_address() {
        let limits = Limits { connections: 3, per_client: 2, ..Limits::default() };
        let mut gate = Gate::default();
        assert_eq!(gate.open(other(1), &limits), Ok(()));
        assert_eq!(gate.open(other(1), &limits), Ok(()));
        assert_eq!(gate.open(other(1), &limits), Err(Refused::Own));
        assert_eq!(gate.open(other(2), &limits), Ok(()));
        assert_eq!(gate.open(other(3), &limits), Err(Refused::All));
        let expected = Caller::Expected(Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(gate.open(expected, &limits), Ok(()), "they do not count against it");
        gate.close(expected);
        gate.close(other(1));
        assert_eq!(gate.open(other(3), &limits), Ok(()));
        for of in [1, 2, 3, 3, 9] {
            gate.close(other(of));
        }
        assert!(gate.connections.is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn calls_are_counted_by_the_minute_and_by_who_waits() {
        let limits = Limits { waiting: 2, hellos: 4, hellos_per_client: 2, ..Limits::default() };
        let mut gate = Gate::default();
        let at = Duration::from_secs;
        assert_eq!(gate.call(at(0), other(1), &limits), Ok(()));
        assert_eq!(gate.call(at(0), other(1), &limits), Err(Refused::Own), "it waits already");
        assert_eq!(gate.call(at(0), other(2), &limits), Ok(()));
        assert_eq!(gate.call(at(0), other(3), &limits), Err(Refused::All), "two wait");
        gate.answered(other(1));
        assert_eq!(gate.call(at(1), other(1), &limits), Ok(()));
        gate.answered(other(1));
        assert_eq!(gate.call(at(2), other(1), &limits), Err(Refused::Own), "two in a minute");
        assert_eq!(gate.call(at(2), other(3), &limits), Ok(()));
        gate.answered(other(3));
        assert_eq!(gate.call(at(2), other(4), &limits), Err(Refused::All), "four in a minute");
        assert_eq!(gate.call(at(61), other(1), &limits), Ok(()), "and one more");
        assert!(gate.calls.len() <= 4);
    }

    #[test]
    fn a_flood_of_addresses_keeps_no_expected_machine_out() {
        let limits = Limits { waiting: 3, hellos: 4, hellos_per_client: 2, ..Limits::default() };
        let mut gate = Gate::default();
        let refused = (0..50).filter(|n| gate.call(Duration::ZERO, other(*n), &limits).is_err());
        assert_eq!(refused.count(), 47);
        let expected = |n| Caller::Expected(Mac([2, 0, 0, 0, 0, n]));
        // one that floods in the name of one machine keeps out that one at most
        assert_eq!(gate.call(Duration::ZERO, expected(1), &limits), Ok(()));
        assert_eq!(gate.call(Duration::ZERO, expected(1), &limits), Err(Refused::Own));
        assert_eq!(gate.call(Duration::ZERO, expected(2), &limits), Ok(()));
        assert_eq!(gate.call(Duration::ZERO, expected(3), &limits), Ok(()));
        assert_eq!(gate.call(Duration::ZERO, expected(4), &limits), Err(Refused::All));
        assert!(gate.calls.len() <= 2 * limits.hellos);
    }
}
