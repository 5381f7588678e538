//! How far a deployment is, judged from its status. Pure.

use std::time::Duration;

use p2pinst_api::view::{DeploymentView, MachineStatus};
use p2pinst_types::record::State;

/// A machine that has been down this long is not waited for any more: the time in which a node
/// that restarts is back.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(10);

/// The machines of a deployment, by what is to be expected of them.
#[derive(Debug, Default)]
pub(crate) struct Tally<'a> {
    /// Machines that have it, or where nothing was to be done.
    pub(crate) done: usize,
    /// Did not work.
    pub(crate) failed: Vec<&'a MachineStatus>,
    /// Not finished, and down for so long that waiting is idle.
    pub(crate) unreachable: Vec<&'a MachineStatus>,
    /// Not finished, and expected to go on.
    pub(crate) open: Vec<&'a MachineStatus>,
}

impl<'a> Tally<'a> {
    /// Judges a deployment that has been waited for this long. Of many machines the view shows at
    /// least those that are not done.
    pub(crate) fn of(view: &'a DeploymentView, waited: Duration) -> Self {
        let done = [view.goal(), State::Skipped];
        let mut tally =
            Self { done: done.into_iter().map(|s| count(view, s)).sum(), ..Self::default() };
        for machine in &view.machines {
            let gone = !machine.up && Duration::from_millis(machine.since_ms) >= GIVE_UP;
            let list = if machine.state == State::Failed.as_str() {
                &mut tally.failed
            } else if view.is_final(machine) {
                continue;
            } else if gone && waited >= GIVE_UP {
                &mut tally.unreachable
            } else {
                &mut tally.open
            };
            list.push(machine);
        }
        tally
    }

    /// Whether there is nothing more to wait for.
    pub(crate) fn is_finished(&self) -> bool {
        self.open.is_empty()
    }
}

/// Whether nothing more will happen on any machine by itself.
pub(crate) fn all_final(view: &DeploymentView) -> bool {
    let last = State::ALL.into_iter().filter(|s| s.is_final() || *s == view.goal());
    last.map(|s| count(view, s)).sum::<usize>() >= view.ordered
}

fn count(view: &DeploymentView, state: State) -> usize {
    view.counts.get(state.as_str()).copied().unwrap_or(0)
}

/// `4/6 installed, 1 fetching, 1 unknown`; `verified` where nothing is to be installed.
pub(crate) fn line(view: &DeploymentView) -> String {
    let goal = view.goal().as_str();
    let count = |state: &str| view.counts.get(state).copied().unwrap_or(0);
    let mut parts = vec![format!("{}/{} {goal}", count(goal), view.ordered)];
    let known = State::ALL.map(State::as_str);
    let others = view.counts.keys().map(String::as_str).filter(|s| !known.contains(s));
    for state in known.into_iter().rev().chain(others) {
        if state != goal && count(state) > 0 {
            parts.push(format!("{} {state}", count(state)));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use p2pinst_types::record::{Manager, Mode, PackageId};
    use p2pinst_types::{DeploymentId, Hash, Millis, ReleaseId};

    use super::*;

    pub(crate) fn machine(name: &str, state: &str, up: bool, since_ms: u64) -> MachineStatus {
        let (name, state) = (name.parse().unwrap(), state.to_owned());
        let detail = format!("{state} it is");
        MachineStatus {
            name,
            state,
            detail,
            attempt: 1,
            reached: vec![],
            transfer: None,
            up,
            since_ms,
        }
    }

    pub(crate) fn deployment(machines: Vec<MachineStatus>) -> DeploymentView {
        let mut counts = std::collections::BTreeMap::new();
        for machine in &machines {
            *counts.entry(machine.state.clone()).or_default() += 1;
        }
        let package = PackageId {
            manager: Manager::Dpkg,
            name: "hello".to_owned(),
            version: "1.0".to_owned(),
            architecture: "all".to_owned(),
        };
        DeploymentView {
            id: DeploymentId([0xab; 16]),
            name: "alice-1".to_owned(),
            author: "alice".parse().unwrap(),
            at: Millis(0),
            release: ReleaseId(Hash([1; 32])),
            package,
            size: 20_582,
            group: "gpu".parse().unwrap(),
            mode: Mode::Urgent,
            preheat: false,
            limit: None,
            ordered: machines.len(),
            counts,
            signed: true,
            oldest: None,
            newest: None,
            shards: 1,
            silent: 0,
            transfer: None,
            machines,
            next: None,
        }
    }

    #[test]
    fn machines_that_are_down_are_given_up_after_a_while() {
        let view = deployment(vec![
            machine("n1", "installed", true, 0),
            machine("n2", "skipped", false, 99_000),
            machine("n3", "failed", true, 0),
            machine("n4", "fetching", false, 9_999),
            machine("n5", "unknown", false, 10_000),
        ]);
        let early = Tally::of(&view, Duration::from_secs(9));
        assert_eq!((early.done, early.failed.len(), early.open.len()), (2, 1, 2));
        let late = Tally::of(&view, GIVE_UP);
        assert_eq!((late.unreachable.len(), late.open.len()), (1, 1));
        assert!(!late.is_finished() && !all_final(&view));
        let empty = deployment(vec![]);
        assert!(Tally::of(&empty, Duration::ZERO).is_finished() && all_final(&empty));
    }

    #[test]
    fn where_nothing_is_installed_verified_is_the_end() {
        let machines = vec![machine("n1", "verified", true, 0), machine("n2", "fetching", true, 0)];
        let mut view = deployment(machines);
        assert_eq!(Tally::of(&view, Duration::ZERO).open.len(), 2);
        view.preheat = true;
        let tally = Tally::of(&view, Duration::ZERO);
        assert_eq!((tally.done, tally.open.len()), (1, 1));
        assert_eq!(line(&view), "1/2 verified, 1 fetching");
        view.machines.pop();
        (view.counts, view.ordered) = ([("verified".to_owned(), 1)].into(), 1);
        assert!(all_final(&view) && Tally::of(&view, Duration::ZERO).is_finished());
    }

    #[test]
    fn the_line_counts_every_state() {
        let view = deployment(vec![
            machine("n1", "installed", true, 0),
            machine("n2", "unknown", true, 0),
            machine("n3", "pending", true, 0),
            machine("n4", "failed", true, 0),
        ]);
        assert_eq!(line(&view), "1/4 installed, 1 failed, 1 pending, 1 unknown");
        assert_eq!(line(&deployment(vec![])), "0/0 installed");
    }
}
