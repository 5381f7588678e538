//! Whose turn it is to switch a machine's power. Pure: the time and what was reported come in.
//!
//! There is no election. The nodes that can do it are ranked by a hash of machine, node and cause; the first acts at once, each
//! further one a while later, if nothing was reported by then. Who acts holds a lease, which others see in its power status. The
//! lease is soft: two that did not see each other may both act. What they do is read, compared and then done, so that
//! the second finds the machine as it is to be, except for a restart.

use std::time::Duration;

use p2pinst_types::record::{PowerCause, PowerOutcome, PowerStatus};
use p2pinst_types::{Hash, MachineId, Millis, PublicKey};

/// How long a lease holds: who was killed is followed after this at the latest.
pub(super) const LEASE: Duration = Duration::from_secs(20);
/// How often it is renewed: two renewals may be lost.
pub(super) const RENEW: Duration = Duration::from_secs(6);
/// How long a lease takes to be seen by others.
pub(super) const SETTLE: Duration = Duration::from_secs(1);
/// How much later than the one before each further node acts.
pub(super) const STAGGER: Duration = Duration::from_secs(15);

/// What a node said of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// The node.
    pub(super) by: PublicKey,
    /// What.
    pub(super) status: PowerStatus,
}

/// What this node does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing any more: it is done, or has failed for good.
    Over,
    /// It looks again then.
    Wait(Millis),
    /// It takes the lease, for the attempt of this number.
    Act(u32),
    /// It has restarted its own machine, and runs again.
    Returned(u32),
}

/// A machine whose power is to be switched, and who can do it.
#[derive(Debug, Clone)]
pub(super) struct Case<'a> {
    /// The machine.
    pub(super) machine: &'a MachineId,
    /// Why.
    pub(super) cause: PowerCause,
    /// Since when that is known.
    pub(super) since: Millis,
    /// How often it is tried, each with more patience: an order once, an assignment more often.
    pub(super) attempts: u32,
    /// Whether the machine switches itself: then whoever is asked is not there to see it.
    pub(super) in_band: bool,
    /// Since when nothing is heard of a machine that had begun: what was done before did not last.
    pub(super) still: Option<Millis>,
    /// The nodes that can do it and are up, this one among them.
    pub(super) able: &'a [PublicKey],
    /// This node.
    pub(super) own: &'a PublicKey,
}

/// A node's place in the order of those that can act: lower acts earlier.
pub(super) fn rank(machine: &MachineId, node: &PublicKey, cause: &PowerCause) -> Hash {
    let parts: [&[u8]; 3] = [machine.as_bytes(), node.as_bytes(), cause.as_bytes()];
    Hash::of_parts("p2pinst/power-rank/1", &parts)
}

/// Until the next attempt, after so many.
fn pause(attempts: u32) -> Duration {
    Duration::from_secs(30).saturating_mul(attempts)
}

impl Case<'_> {
    fn rank(&self, node: &PublicKey) -> Hash {
        rank(self.machine, node, &self.cause)
    }

    fn of_cause<'s>(&self, said: &'s [Said]) -> impl Iterator<Item = &'s Said> {
        let cause = self.cause;
        said.iter().filter(move |s| s.status.cause == Some(cause))
    }

    /// The number of the last attempt.
    fn attempt(&self, said: &[Said]) -> u32 {
        self.of_cause(said).map(|s| s.status.attempt).max().unwrap_or(0)
    }

    /// Those that can act and have not given up in the present attempt, this node among them or not, by rank.
    fn left(&self, said: &[Said]) -> Vec<PublicKey> {
        let last = self.attempt(said);
        let gave_up = |node: &PublicKey| {
            self.of_cause(said).any(|s| {
                let status = &s.status;
                s.by == *node
                    && status.attempt == last
                    && last > 0
                    && status.lease.is_none()
                    && status.outcome.is_none()
            })
        };
        let mut left: Vec<_> = self.able.iter().copied().filter(|n| !gave_up(n)).collect();
        left.sort_by_key(|node| self.rank(node));
        left
    }

    /// Whether another node might still manage what this one cannot.
    pub(super) fn has_others(&self, said: &[Said]) -> bool {
        self.left(said).iter().any(|node| node != self.own)
    }

    /// What this node does now, by what was reported of the machine.
    pub(super) fn turn(&self, said: &[Said], now: Millis) -> Turn {
        let attempt = self.attempt(said);
        let ended = |outcome| {
            self.of_cause(said)
                .filter(move |s| s.status.outcome == Some(outcome))
                .map(|s| (s.status.attempt, s.status.at))
                .max()
        };
        let mut failed = ended(PowerOutcome::Failed);
        if let Some(done) = ended(PowerOutcome::Done).max(ended(PowerOutcome::Unknown)) {
            if self.still.is_none() {
                return Turn::Over;
            }
            // whose machine was seen, and then no more, has not done it after all
            failed = failed.max(Some(done));
        }
        if failed.is_some_and(|(last, _)| last >= self.attempts) {
            return Turn::Over;
        }
        if self.in_band && attempt > 0 && failed.is_none() {
            return Turn::Returned(attempt);
        }
        let others = said.iter().filter(|s| s.by != *self.own);
        // also one for another cause: two never switch one machine
        let leased = others.filter_map(|s| s.status.lease).filter(|until| *until > now).max();
        if let Some(until) = leased {
            return Turn::Wait(until);
        }
        let (next, begun) = match failed {
            Some((last, at)) if last == attempt => (attempt + 1, at.after(pause(last))),
            _ => (attempt.max(1), self.begun(said)),
        };
        let left = match next > attempt {
            true => self.left(&[]),
            false => self.left(said),
        };
        let Some(place) = left.iter().position(|node| node == self.own) else {
            return Turn::Wait(now.after(STAGGER));
        };
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let due = begun.after(STAGGER.saturating_mul(place));
        if now >= due { Turn::Act(next) } else { Turn::Wait(due) }
    }

    /// Since when nobody is at it: since it is known, or since the last lease ended, or was given back.
    fn begun(&self, said: &[Said]) -> Millis {
        let ends = self.of_cause(said).map(|s| s.status.lease.unwrap_or(s.status.at));
        ends.chain([self.since]).max().unwrap_or(self.since)
    }

    /// Who keeps the lease that this node has taken at a time, by what is read a moment later. `Err`: until when another has it.
    pub(super) fn contest(&self, said: &[Said], taken: Millis, now: Millis) -> Result<(), Millis> {
        let own = self.rank(self.own);
        let wins = |s: &Said| {
            // who took it long before has looked before this node wrote, and acts
            let earlier = s.status.at.after(SETTLE) < taken;
            let later = taken.after(SETTLE) < s.status.at;
            earlier || (!later && self.rank(&s.by) < own)
        };
        let rivals = said.iter().filter(|s| s.by != *self.own);
        let live = rivals.filter(|s| s.status.lease.is_some_and(|until| until > now));
        let winners = live.filter(|s| wins(s)).filter_map(|s| s.status.lease);
        winners.max().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::PowerOrderId;

    use super::*;

    const MACHINE: MachineId = MachineId([5; 16]);
    const CAUSE: PowerCause = PowerCause::Order(PowerOrderId([6; 16]));
    const SINCE: Millis = Millis(1_000_000);

    fn secs(n: u64) -> Millis {
        SINCE.after(Duration::from_secs(n))
    }

    /// Three nodes by rank.
    fn nodes() -> Vec<PublicKey> {
        let mut nodes: Vec<_> = (1..=3).map(|n| PublicKey([n; 32])).collect();
        nodes.sort_by_key(|node| rank(&MACHINE, node, &CAUSE));
        nodes
    }

    fn case<'a>(able: &'a [PublicKey], own: &'a PublicKey) -> Case<'a> {
        Case {
            machine: &MACHINE,
            cause: CAUSE,
            since: SINCE,
            attempts: 1,
            in_band: false,
            still: None,
            able,
            own,
        }
    }

    fn said(by: PublicKey, attempt: u32, at: Millis) -> Said {
        let status = PowerStatus {
            cause: Some(CAUSE),
            attempt,
            lease: None,
            outcome: None,
            on: None,
            detail: String::new(),
            at,
        };
        Said { by, status }
    }

    fn leased(by: PublicKey, at: Millis) -> Said {
        let mut said = said(by, 1, at);
        said.status.lease = Some(at.after(LEASE));
        said
    }

    fn ended(by: PublicKey, attempt: u32, outcome: PowerOutcome, at: Millis) -> Said {
        let mut said = said(by, attempt, at);
        said.status.outcome = Some(outcome);
        said
    }

    #[test]
    fn the_first_acts_at_once_and_others_later() {
        let nodes = nodes();
        for (place, node) in nodes.iter().enumerate() {
            let due = secs(15 * place as u64);
            assert_eq!(case(&nodes, node).turn(&[], due), Turn::Act(1));
            if place > 0 {
                assert_eq!(case(&nodes, node).turn(&[], SINCE), Turn::Wait(due));
            }
        }
        // those that are down are not waited for
        assert_eq!(case(&nodes[1..], &nodes[1]).turn(&[], SINCE), Turn::Act(1));
        let stranger = PublicKey([9; 32]);
        assert!(matches!(case(&nodes, &stranger).turn(&[], secs(100)), Turn::Wait(_)));
    }

    #[test]
    fn a_lease_is_waited_for_and_followed() {
        let nodes = nodes();
        let said = [leased(nodes[0], secs(1))];
        let second = case(&nodes, &nodes[1]);
        assert_eq!(second.turn(&said, secs(2)), Turn::Wait(secs(21)));
        assert_eq!(second.turn(&said, secs(20)), Turn::Wait(secs(21)));
        // it has ended; while its holder seems to be up, it has the first turn again
        assert_eq!(second.turn(&said, secs(21)), Turn::Wait(secs(36)));
        assert_eq!(second.turn(&said, secs(36)), Turn::Act(1));
        // once it is known to be down, nobody waits for it
        assert_eq!(case(&nodes[1..], &nodes[1]).turn(&said, secs(21)), Turn::Act(1));
        // who was started again does not wait for itself
        assert_eq!(case(&nodes, &nodes[0]).turn(&said, secs(21)), Turn::Act(1));
        // a lease for something else counts too
        let mut other = leased(nodes[2], secs(1));
        other.status.cause = Some(PowerCause::Order(PowerOrderId([7; 16])));
        assert_eq!(case(&nodes, &nodes[0]).turn(&[other], secs(2)), Turn::Wait(secs(21)));
    }

    #[test]
    fn an_outcome_ends_it() {
        let nodes = nodes();
        for outcome in [PowerOutcome::Done, PowerOutcome::Failed, PowerOutcome::Unknown] {
            let said = [ended(nodes[2], 1, outcome, secs(5))];
            assert_eq!(case(&nodes, &nodes[0]).turn(&said, secs(6)), Turn::Over);
        }
        // that of an earlier order does not
        let mut earlier = ended(nodes[2], 1, PowerOutcome::Done, secs(0));
        earlier.status.cause = Some(PowerCause::Order(PowerOrderId([7; 16])));
        assert_eq!(case(&nodes, &nodes[0]).turn(&[earlier], secs(6)), Turn::Act(1));
    }

    #[test]
    fn who_cannot_hands_over_to_the_next() {
        let nodes = nodes();
        let mut all = vec![said(nodes[0], 1, secs(3))];
        assert!(matches!(case(&nodes, &nodes[0]).turn(&all, secs(60)), Turn::Wait(_)));
        assert_eq!(case(&nodes, &nodes[1]).turn(&all, secs(3)), Turn::Act(1));
        assert_eq!(case(&nodes, &nodes[2]).turn(&all, secs(3)), Turn::Wait(secs(18)));
        assert!(case(&nodes, &nodes[1]).has_others(&all));
        all.push(said(nodes[2], 1, secs(4)));
        assert!(!case(&nodes, &nodes[1]).has_others(&all), "the last one reports the failure");
    }

    #[test]
    fn an_assignment_is_tried_again_by_all() {
        let nodes = nodes();
        let mut case = case(&nodes, &nodes[0]);
        case.attempts = 2;
        let mut all =
            vec![said(nodes[0], 1, secs(3)), ended(nodes[1], 1, PowerOutcome::Failed, secs(10))];
        assert_eq!(case.turn(&all, secs(11)), Turn::Wait(secs(40)));
        assert_eq!(case.turn(&all, secs(40)), Turn::Act(2));
        all.push(ended(nodes[2], 2, PowerOutcome::Failed, secs(50)));
        assert_eq!(case.turn(&all, secs(100)), Turn::Over);
    }

    #[test]
    fn what_did_not_last_is_done_again() {
        let nodes = nodes();
        let mut case = case(&nodes, &nodes[0]);
        case.attempts = 3;
        let said = [ended(nodes[1], 1, PowerOutcome::Done, secs(10))];
        assert_eq!(case.turn(&said, secs(400)), Turn::Over);
        case.still = Some(secs(60));
        assert_eq!(case.turn(&said, secs(400)), Turn::Act(2));
        let said = [&said[..], &[ended(nodes[2], 3, PowerOutcome::Done, secs(500))]].concat();
        assert_eq!(case.turn(&said, secs(900)), Turn::Over, "it was tried often enough");
    }

    #[test]
    fn a_machine_that_restarts_itself_does_so_once() {
        let nodes = nodes();
        let mut case = case(&nodes[..1], &nodes[0]);
        case.in_band = true;
        assert_eq!(case.turn(&[], secs(0)), Turn::Act(1));
        assert_eq!(case.turn(&[leased(nodes[0], secs(0))], secs(5)), Turn::Returned(1));
    }

    #[test]
    fn of_two_leases_one_counts() {
        let nodes = nodes();
        let (first, second) = (case(&nodes, &nodes[0]), case(&nodes, &nodes[1]));
        let both = [leased(nodes[0], secs(5)), leased(nodes[1], secs(5))];
        assert_eq!(first.contest(&both, secs(5), secs(6)), Ok(()));
        assert_eq!(second.contest(&both, secs(5), secs(6)), Err(secs(25)));
        // who had it long before keeps it, whatever the ranks
        let late = [leased(nodes[0], secs(8)), leased(nodes[1], secs(5))];
        assert_eq!(first.contest(&late, secs(8), secs(9)), Err(secs(25)));
        assert_eq!(second.contest(&late, secs(5), secs(9)), Ok(()));
        // one that has ended does not count
        assert_eq!(second.contest(&both, secs(5), secs(26)), Ok(()));
    }
}
