//! Who may come in: connections and calls to `/hello`, in all and of one address. Pure; time is passed in.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::Limits;

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

/// Counts what is open and what was called.
#[derive(Debug, Default)]
pub(super) struct Gate {
    connections: BTreeMap<Ipv4Addr, usize>,
    waiting: BTreeMap<Ipv4Addr, usize>,
    /// Calls of the last minute, the oldest first; at most [`Limits::hellos`].
    calls: VecDeque<(Duration, Ipv4Addr)>,
}

fn sum(counts: &BTreeMap<Ipv4Addr, usize>) -> usize {
    counts.values().sum()
}

fn leave(counts: &mut BTreeMap<Ipv4Addr, usize>, from: Ipv4Addr) {
    if let Some(count) = counts.get_mut(&from) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&from);
        }
    }
}

impl Gate {
    /// Lets a connection in; it must leave by [`Gate::close`].
    pub(super) fn open(&mut self, from: Ipv4Addr, limits: &Limits) -> bool {
        let of_client = self.connections.get(&from).copied().unwrap_or_default();
        let fits = sum(&self.connections) < limits.connections && of_client < limits.per_client;
        if fits {
            self.connections.insert(from, of_client + 1);
        }
        fits
    }

    /// A connection has ended.
    pub(super) fn close(&mut self, from: Ipv4Addr) {
        leave(&mut self.connections, from);
    }

    /// Lets a call in; it must leave by [`Gate::answered`].
    pub(super) fn call(
        &mut self,
        now: Duration,
        from: Ipv4Addr,
        limits: &Limits,
    ) -> Result<(), Refused> {
        while self.calls.front().is_some_and(|(at, _)| *at + MINUTE <= now) {
            self.calls.pop_front();
        }
        let own = self.calls.iter().filter(|(_, of)| *of == from).count();
        if own >= limits.hellos_per_client || self.waiting.contains_key(&from) {
            return Err(Refused::Own);
        }
        if self.calls.len() >= limits.hellos || sum(&self.waiting) >= limits.waiting {
            return Err(Refused::All);
        }
        self.calls.push_back((now, from));
        self.waiting.insert(from, 1);
        Ok(())
    }

    /// A call has ended.
    pub(super) fn answered(&mut self, from: Ipv4Addr) {
        leave(&mut self.waiting, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    #[test]
    fn connections_are_counted_in_all_and_by_address() {
        let limits = Limits { connections: 3, per_client: 2, ..Limits::default() };
        let mut gate = Gate::default();
        assert!(gate.open(host(1), &limits) && gate.open(host(1), &limits));
        assert!(!gate.open(host(1), &limits));
        assert!(gate.open(host(2), &limits));
        assert!(!gate.open(host(3), &limits));
        gate.close(host(1));
        assert!(gate.open(host(3), &limits));
        for of in [1, 2, 3, 3, 9] {
            gate.close(host(of));
        }
        assert!(gate.connections.is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn calls_are_counted_by_the_minute_and_by_who_waits() {
        let limits = Limits { waiting: 2, hellos: 4, hellos_per_client: 2, ..Limits::default() };
        let mut gate = Gate::default();
        let at = Duration::from_secs;
        assert_eq!(gate.call(at(0), host(1), &limits), Ok(()));
        assert_eq!(gate.call(at(0), host(1), &limits), Err(Refused::Own), "it waits already");
        assert_eq!(gate.call(at(0), host(2), &limits), Ok(()));
        assert_eq!(gate.call(at(0), host(3), &limits), Err(Refused::All), "two wait");
        gate.answered(host(1));
        assert_eq!(gate.call(at(1), host(1), &limits), Ok(()));
        gate.answered(host(1));
        assert_eq!(gate.call(at(2), host(1), &limits), Err(Refused::Own), "two in a minute");
        assert_eq!(gate.call(at(2), host(3), &limits), Ok(()));
        gate.answered(host(3));
        assert_eq!(gate.call(at(2), host(4), &limits), Err(Refused::All), "four in a minute");
        assert_eq!(gate.call(at(61), host(1), &limits), Ok(()), "and one more");
        assert!(gate.calls.len() <= 4);
    }
}
