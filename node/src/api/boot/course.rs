//! How far a machine is with an order, put together from what is signed about it. Pure.

use std::time::Duration;

use dht_store::view::Assigned;
use p2pinst_types::record::{BootState, BootStatus, Ended};
use p2pinst_types::{Hlc, Millis};

/// What is known of a machine's own system.
#[derive(Debug, Clone, Copy)]
pub(super) struct System {
    /// When it was admitted.
    pub(super) admitted: Hlc,
    /// Whether it is up.
    pub(super) up: bool,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Course {
    pub(super) state: String,
    pub(super) since: Millis,
    pub(super) done: (u64, u64),
    pub(super) detail: String,
    pub(super) late: bool,
}

/// How long a machine may be in a state before somebody should look; the slowest server takes eight minutes to its boot loader.
const fn patience(state: BootState) -> Option<Duration> {
    let minutes = match state {
        BootState::Powering => 5,
        BootState::Booting | BootState::Scouting => 15,
        BootState::Finishing | BootState::Rebooting => 30,
        // writing is judged by its reports; the others wait for people, or for nothing
        BootState::Writing | BootState::Armed | BootState::Healthy | BootState::Failed => {
            return None;
        }
    };
    Some(Duration::from_secs(minutes * 60))
}

/// A scout that writes says so at least this often.
const SILENT: Duration = Duration::from_secs(300);

/// How far a machine is with an order. `waits`: why its turn has not come.
pub(super) fn course(
    assigned: &Assigned,
    status: Option<&(Hlc, BootStatus)>,
    system: Option<System>,
    waits: Option<String>,
    now: Millis,
) -> Course {
    let plain = |state: &str, since: Millis, detail: &str| Course {
        state: state.to_owned(),
        since,
        done: (0, 0),
        detail: detail.to_owned(),
        late: false,
    };
    let system = system.filter(|s| s.admitted > assigned.hlc);
    let status = status.filter(|(_, s)| s.assignment == assigned.id);
    match (&assigned.ended, system) {
        (Some((at, over)), _) if over.ended == Ended::Cancelled => {
            let reason = Some(over.reason.as_str()).filter(|r| !r.is_empty());
            return plain("cancelled", at.millis(), reason.unwrap_or("it was taken back"));
        }
        (_, Some(system)) if system.up => {
            return plain("healthy", system.admitted.millis(), "its own system is up");
        }
        (_, Some(system)) => {
            let detail = "its own system has checked in, and is down now";
            return lateness(plain("rebooting", system.admitted.millis(), detail), now);
        }
        (Some((at, over)), None) => {
            let told = status.filter(|(_, s)| s.state >= BootState::Rebooting);
            if let Some((hlc, status)) = told {
                return said(*hlc, status, now);
            }
            return lateness(plain("rebooting", at.millis(), &over.reason), now);
        }
        (None, None) => {}
    }
    if let Some(then) = assigned.superseded {
        return plain("superseded", then.millis(), "a newer order took its place");
    }
    if now > assigned.order.not_after {
        return plain("expired", assigned.order.not_after, "its time is over: order it anew");
    }
    match (status, waits) {
        // it was seen, and is kept waiting
        (Some((hlc, status)), Some(reason)) if status.state <= BootState::Booting => {
            Course { detail: reason, late: false, ..said(*hlc, status, now) }
        }
        (Some((hlc, status)), _) => said(*hlc, status, now),
        (None, Some(reason)) => plain("armed", assigned.hlc.millis(), &reason),
        (None, None) => {
            let detail = match assigned.order.power {
                true => "its power is to be switched",
                false => "waits until somebody starts it over the network",
            };
            plain("armed", assigned.hlc.millis(), detail)
        }
    }
}

fn lateness(mut course: Course, now: Millis) -> Course {
    let patience = patience(BootState::Rebooting);
    course.late = patience.is_some_and(|most| now.since(course.since) > most);
    course
}

/// What it said itself, or who saw it.
fn said(hlc: Hlc, status: &BootStatus, now: Millis) -> Course {
    let late = match status.state {
        BootState::Writing => now.since(hlc.millis()) > SILENT,
        state => patience(state).is_some_and(|most| now.since(status.since) > most),
    };
    Course {
        state: status.state.as_str().to_owned(),
        since: status.since,
        done: status.done,
        detail: status.detail.clone(),
        late,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use p2pinst_types::record::{Assignment, Disarmament, Task};
    use p2pinst_types::{AssignmentId, MachineId, PublicKey};

    use super::*;

    const MINUTE: u64 = 60_000;

    fn at(minutes: u64) -> Hlc {
        Hlc::at(Millis(minutes * MINUTE))
    }

    fn assigned() -> Assigned {
        let order = Assignment {
            number: 42,
            task: Task::Inspect,
            name: "n1".parse().unwrap(),
            site: "pisa".parse().unwrap(),
            labels: BTreeMap::new(),
            macs: vec![],
            power: false,
            wave: 0,
            gate: 0,
            code: None,
            not_after: Millis(1000 * MINUTE),
        };
        Assigned {
            id: AssignmentId([7; 16]),
            machine: MachineId([1; 16]),
            order,
            author: PublicKey([9; 32]),
            hlc: at(10),
            ended: None,
            superseded: None,
            joined: None,
        }
    }

    fn told(state: BootState, minute: u64) -> (Hlc, BootStatus) {
        let (assignment, since) = (AssignmentId([7; 16]), at(minute).millis());
        let detail = "so it is".to_owned();
        (at(minute), BootStatus { assignment, state, since, done: (3, 9), detail })
    }

    fn ended(ended: Ended) -> (Hlc, Disarmament) {
        (at(20), Disarmament { assignment: AssignmentId([7; 16]), ended, reason: "why".to_owned() })
    }

    fn state(
        assigned: &Assigned,
        status: Option<&(Hlc, BootStatus)>,
        system: Option<System>,
        minute: u64,
    ) -> (String, bool) {
        let course = course(assigned, status, system, None, at(minute).millis());
        (course.state, course.late)
    }

    #[test]
    fn what_is_said_last_counts() {
        let order = assigned();
        let of = |status, minute| state(&order, Some(&status), None, minute);
        assert_eq!(state(&order, None, None, 11), ("armed".into(), false));
        assert_eq!(of(told(BootState::Writing, 12), 16), ("writing".into(), false));
        assert_eq!(of(told(BootState::Writing, 12), 18), ("writing".into(), true));
        assert_eq!(of(told(BootState::Booting, 12), 28), ("booting".into(), true));
        assert_eq!(of(told(BootState::Failed, 12), 999), ("failed".into(), false));
        assert_eq!(state(&order, None, None, 1001), ("expired".into(), false));
        let mut other = told(BootState::Writing, 12);
        other.1.assignment = AssignmentId([8; 16]);
        assert_eq!(of(other, 13), ("armed".into(), false));
        let waits = course(&order, None, None, Some("wave 2 waits".into()), at(11).millis());
        assert_eq!(waits.detail, "wave 2 waits");
        let booting = told(BootState::Booting, 12);
        let of = |waits: Option<String>| {
            let course = course(&order, Some(&booting), None, waits, at(40).millis());
            (course.state, course.detail, course.late)
        };
        assert_eq!(
            of(Some("wave 2 waits".into())),
            ("booting".into(), "wave 2 waits".into(), false)
        );
        assert_eq!(of(None), ("booting".into(), "so it is".into(), true));
    }

    #[test]
    fn it_is_healthy_when_its_own_system_came_after_the_order() {
        let mut order = assigned();
        let system = |minute, up| Some(System { admitted: at(minute), up });
        assert_eq!(state(&order, None, system(5, true), 11), ("armed".into(), false));
        order.ended = Some(ended(Ended::Installed));
        assert_eq!(state(&order, None, system(5, true), 21), ("rebooting".into(), false));
        assert_eq!(state(&order, None, None, 51), ("rebooting".into(), true));
        assert_eq!(state(&order, None, system(22, true), 23), ("healthy".into(), false));
        assert_eq!(state(&order, None, system(22, false), 23), ("rebooting".into(), false));
        let writing = told(BootState::Writing, 15);
        assert_eq!(state(&order, Some(&writing), None, 21).0, "rebooting");
        order.ended = Some(ended(Ended::Cancelled));
        assert_eq!(state(&order, Some(&writing), system(22, true), 23).0, "cancelled");
        order.ended = None;
        order.superseded = Some(at(20));
        assert_eq!(state(&order, Some(&writing), None, 21).0, "superseded");
    }
}
