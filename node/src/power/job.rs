//! What is to be done about the power of machines, and who can do it, as the cluster says. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use dht_store::Views;
use dht_store::view::{Assigned, Controlled};
use p2pinst_boot::power::action::{Boot, BootDevice, Desired, Span};
use p2pinst_boot::power::controller::Controller;
use p2pinst_types::record::{
    BootFrom, BootState, BootStatus, Firmware, PowerAction, PowerCause, PowerOrder,
};
use p2pinst_types::{Cell, Hlc, MachineId, Millis, PublicKey};

use crate::boot::waves;

/// How often a machine is started for its assignment, in attempts of several starts.
const ATTEMPTS: u32 = 4;
/// So old may a scout's word be that it writes its machine's disk.
const WRITING: u64 = 60;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    /// What somebody ordered.
    Order(PowerOrder),
    /// That the machine starts over the network, for its assignment.
    Netboot(Box<Assigned>),
}

/// A machine whose power is to be switched.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// The machine.
    pub(super) machine: MachineId,
    /// Why.
    pub(super) cause: PowerCause,
    /// What is wanted.
    pub(super) want: Want,
    /// Since when.
    pub(super) since: Millis,
    /// Until when.
    pub(super) until: Millis,
    /// By what.
    pub(super) controlled: Controlled,
    /// The same, understood; or why not.
    pub(super) controller: Result<Controller, String>,
    /// The nodes that can do it, if they are up.
    pub(super) able: Vec<PublicKey>,
}

impl Job {
    /// How often it is tried.
    pub(super) fn attempts(&self) -> u32 {
        match self.want {
            Want::Order(_) => 1,
            Want::Netboot(_) => ATTEMPTS,
        }
    }

    /// Whether the machine switches itself.
    pub(super) fn in_band(&self) -> bool {
        self.controller == Ok(Controller::InBand)
    }

    /// What the power shall be.
    pub(super) fn desired(&self) -> Option<Desired> {
        match &self.want {
            Want::Netboot(_) => Some(Desired::Cycle),
            Want::Order(order) => order.action.map(|action| match action {
                PowerAction::On => Desired::On,
                PowerAction::Off => Desired::Off,
                PowerAction::Soft => Desired::SoftOff,
                PowerAction::Cycle => Desired::Cycle,
                PowerAction::Reset => Desired::Reset,
            }),
        }
    }

    /// What the machine starts from; one whose firmware is not known is taken for one with UEFI, as all new ones have.
    pub(super) fn boot(&self, attempt: u32, firmware: Option<Firmware>) -> Option<Boot> {
        let firmware = firmware.unwrap_or(Firmware::Uefi);
        let device = match &self.want {
            Want::Order(order) => match order.boot? {
                BootFrom::Pxe => BootDevice::Pxe,
                BootFrom::UefiHttp => BootDevice::UefiHttp,
                BootFrom::Disk => BootDevice::Disk,
            },
            // what nearly every firmware has comes first
            Want::Netboot(_) if attempt.is_multiple_of(2) && firmware == Firmware::Uefi => {
                BootDevice::UefiHttp
            }
            Want::Netboot(_) => BootDevice::Pxe,
        };
        Some(Boot { device, firmware, span: Span::Once })
    }

    /// How long after each start, and each sign of it, the machine may say nothing; `None`: its controller's word is enough.
    /// `patience` is for the first attempt, and twice that for later ones.
    pub(super) fn expect(&self, attempt: u32, patience: Duration) -> Option<Duration> {
        matches!(self.want, Want::Netboot(_)).then(|| patience.saturating_mul(attempt.min(2)))
    }

    /// Whether it is done also while a scout is writing.
    pub(super) fn forced(&self) -> bool {
        matches!(&self.want, Want::Order(order) if order.forced)
    }

    /// Whether it is still wanted.
    pub(super) fn is_wanted(&self, views: &Views, now: Millis) -> bool {
        if now > self.until {
            return false;
        }
        match (&self.want, self.cause) {
            (Want::Netboot(assigned), _) => {
                let current = views.current_assignment(&self.machine);
                current.is_some_and(|a| a.id == assigned.id && a.is_armed(now))
            }
            (Want::Order(_), PowerCause::Order(id)) => {
                views.power_orders.get(&self.machine).is_some_and(|o| o.id == id)
            }
            (Want::Order(_), PowerCause::Assignment(_)) => false,
        }
    }
}

/// The nodes that can switch a machine's power, if they are up.
pub(crate) fn able(
    views: &Views,
    machine: &MachineId,
    controller: &Result<Controller, String>,
    now: Hlc,
) -> Vec<PublicKey> {
    let nodes = views.power_nodes(now);
    match controller {
        Ok(Controller::InBand) => {
            views.machines.get(machine).map(|m| m.node.0).into_iter().collect()
        }
        // a magic packet does not leave its segment
        Ok(Controller::Wol(_)) => {
            let site = views.known_as(machine).map(|(_, site, _)| site);
            let near = |node: &PublicKey| views.place_of(node).map(|(place, _)| place) == site;
            nodes.into_iter().filter(near).collect()
        }
        _ => nodes.into_iter().collect(),
    }
}

/// What this node can do now, of what is to be done.
pub(super) fn open(views: &Views, own: &PublicKey, now: Millis) -> Vec<Job> {
    let job = |machine: &MachineId, cause, want, since, until| {
        let controlled = views.controller_of(machine)?.clone();
        let controller: Result<Controller, _> = controlled.controller.line.parse();
        let controller = controller.map_err(|e| e.to_string());
        let able = able(views, machine, &controller, Hlc::at(now));
        let machine = *machine;
        let job = Job { machine, cause, want, since, until, controlled, controller, able };
        job.able.contains(own).then_some(job)
    };
    let orders = views.power_orders.iter().filter(|(_, o)| o.is_open(now)).filter_map(|(m, o)| {
        let want = Want::Order(o.order.clone());
        job(m, PowerCause::Order(o.id), want, o.hlc.millis(), o.order.not_after)
    });
    // what holds for a wave is found out once
    let mut waves = BTreeMap::new();
    let netboots = views.controllers.keys().filter_map(|machine| {
        let assigned = views.current_assignment(machine)?;
        let order = &assigned.order;
        if !order.power || !assigned.is_armed(now) {
            return None;
        }
        let wave = (assigned.author, order.number, order.wave, order.gate);
        let begun = *waves.entry(wave).or_insert_with(|| begins(views, assigned));
        let want = Want::Netboot(Box::new(assigned.clone()));
        let cause = PowerCause::Assignment(assigned.id);
        job(machine, cause, want, begun?.max(assigned.hlc).millis(), order.not_after)
    });
    orders.chain(netboots).collect()
}

/// Since when a machine's wave may begin; `None`: it may not.
fn begins(views: &Views, assigned: &Assigned) -> Option<Hlc> {
    waves::may_begin(views, assigned).ok()?;
    let same = |a: &&Assigned| {
        a.author == assigned.author
            && a.order.number == assigned.order.number
            && a.order.wave < assigned.order.wave
    };
    let before = views.assignments.values().filter(same);
    let ends = before.filter_map(|a| a.ended.as_ref().map(|(then, _)| *then));
    Some(ends.max().unwrap_or_default())
}

/// What machines and those who boot them say of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// Its scout is writing its disk.
    pub(super) writing: bool,
    /// When it was last seen to start over the network for its assignment.
    pub(super) booted: Option<Millis>,
    /// When its scout was admitted.
    pub(super) arrived: Option<Millis>,
    /// What its scout said last, and when.
    pub(super) said: Option<(BootState, Millis)>,
}

/// Whether a machine that is to be installed comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing was seen of it yet.
    NotBegun,
    /// It comes along, or waits for people; to be looked at again then.
    Goes(Millis),
    /// Nothing was heard of it since then, and for too long: it hangs, or has no power.
    Still(Millis),
}

impl Observed {
    /// Whether it comes along, when it may say nothing for so long.
    pub(super) fn standing(&self, patience: Duration, now: Millis) -> Standing {
        let heard = [self.booted, self.arrived, self.said.map(|(_, then)| then)];
        let Some(last) = heard.into_iter().flatten().max() else { return Standing::NotBegun };
        let talks = matches!(self.said, None | Some((BootState::Scouting | BootState::Writing, _)));
        match last.after(patience) {
            until if now < until => Standing::Goes(until),
            // who failed, or is done, says nothing more
            _ if !talks => Standing::Goes(now.after(patience)),
            _ => Standing::Still(last),
        }
    }
}

/// What the boot statuses of a machine say, at a time, and its scout's admission.
pub(super) fn observe(
    cells: &[Cell],
    cause: PowerCause,
    scout: Option<(PublicKey, Millis)>,
    now: Millis,
) -> Observed {
    let read = |cell: &Cell| cell.record::<BootStatus>().ok().map(|status| (cell.hlc, status));
    let all: Vec<_> = cells.iter().filter_map(read).collect();
    // by whoever says so: what somebody else sees on the segment later may be another machine's doing
    let writing = all.iter().any(|(hlc, status)| {
        status.state == BootState::Writing && now.since(hlc.millis()).as_secs() < WRITING
    });
    let of_this = |status: &BootStatus| cause == PowerCause::Assignment(status.assignment);
    let seen = all.iter().filter(|(_, s)| of_this(s) && s.state == BootState::Booting);
    let by_scout = cells.iter().filter(|cell| scout.is_some_and(|(key, _)| key == cell.id.author));
    let said = by_scout.filter_map(read).filter(|(_, s)| of_this(s)).max_by_key(|(hlc, _)| *hlc);
    Observed {
        writing,
        booted: seen.map(|(hlc, _)| hlc.millis()).max(),
        arrived: scout.map(|(_, admitted)| admitted),
        said: said.map(|(hlc, status)| (status.state, hlc.millis())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use p2pinst_trust::fixture::{Lab, Node, key};
    use p2pinst_types::record::{Controller as Line, Role};
    use p2pinst_types::{AssignmentId, Kind};

    use super::*;

    fn status(lab: &mut Lab, by: &Node, state: BootState, assignment: AssignmentId) -> Cell {
        let since = lab.clock;
        let detail = String::new();
        let record = BootStatus { assignment, state, since, done: (0, 0), detail };
        lab.write(&by.key, Kind::BOOT_STATUS, &[7; 16], &record)
    }

    #[test]
    fn a_machine_is_seen_by_what_is_said_of_its_own_order() {
        let mut lab = Lab::default();
        let invited = lab.invite(100, 5);
        let nodes: Vec<_> = (1..3).map(|n| lab.node(&invited, 100 + n, &format!("n{n}"))).collect();
        let (this, other) = (AssignmentId([1; 16]), AssignmentId([2; 16]));
        let cause = PowerCause::Assignment(this);
        let mut cells = vec![status(&mut lab, &nodes[0], BootState::Booting, other)];
        cells.push(status(&mut lab, &nodes[1], BootState::Powering, this));
        let now = lab.clock;
        let observe = |cells: &[Cell], cause, now| observe(cells, cause, None, now);
        assert_eq!(observe(&cells, cause, now), Observed::default());
        cells.push(status(&mut lab, &nodes[0], BootState::Booting, this));
        let at = cells[2].hlc.millis();
        assert_eq!(observe(&cells, cause, now).booted, Some(at));
        cells.push(status(&mut lab, &nodes[1], BootState::Writing, this));
        let now = lab.clock;
        assert!(observe(&cells, cause, now).writing);
        assert!(!observe(&cells, cause, now.after(Duration::from_secs(61))).writing);
        // whatever was heard of another that says it is this machine
        cells.push(status(&mut lab, &nodes[0], BootState::Booting, this));
        assert!(observe(&cells, cause, now).writing);
        // also while it is ordered otherwise
        assert!(observe(&cells, PowerCause::Assignment(other), now).writing);
    }

    #[test]
    fn a_machine_that_says_nothing_stands_still() {
        let mut lab = Lab::default();
        let invited = lab.invite(100, 5);
        let nodes: Vec<_> = (1..3).map(|n| lab.node(&invited, 100 + n, &format!("n{n}"))).collect();
        let this = AssignmentId([1; 16]);
        let cause = PowerCause::Assignment(this);
        let patience = Duration::from_secs(300);
        let late = |now: Millis| now.after(Duration::from_secs(301));
        let mut cells = Vec::new();
        let at =
            |cells: &[Cell], scout, now| observe(cells, cause, scout, now).standing(patience, now);
        assert_eq!(at(&cells, None, lab.clock), Standing::NotBegun);
        cells.push(status(&mut lab, &nodes[0], BootState::Booting, this));
        let booted = cells[0].hlc.millis();
        assert_eq!(at(&cells, None, booted), Standing::Goes(booted.after(patience)));
        assert_eq!(at(&cells, None, late(booted)), Standing::Still(booted));
        // its scout was admitted, and said nothing yet
        let admitted = booted.after(Duration::from_secs(20));
        let scout = Some((nodes[1].id(), admitted));
        assert_eq!(at(&cells, scout, late(booted)), Standing::Goes(admitted.after(patience)));
        assert_eq!(at(&cells, scout, late(admitted)), Standing::Still(admitted));
        for (state, talks) in [
            (BootState::Scouting, true),
            (BootState::Writing, true),
            (BootState::Failed, false),
            (BootState::Finishing, false),
        ] {
            cells.truncate(1);
            cells.push(status(&mut lab, &nodes[1], state, this));
            let said = cells[1].hlc.millis().max(admitted);
            let now = late(said);
            let still = matches!(at(&cells, scout, now), Standing::Still(last) if last == said);
            assert_eq!(still, talks, "{state}");
            assert_eq!(at(&cells, scout, said), Standing::Goes(said.after(patience)));
        }
    }

    #[test]
    fn who_can_reach_a_controller_is_a_matter_of_its_kind() {
        let mut lab = Lab::default();
        let alice = lab.operator.clone();
        let invited = lab.invite(100, 5);
        let nodes: Vec<_> = (1..4).map(|n| lab.node(&invited, 100 + n, &format!("n{n}"))).collect();
        let mut cells = vec![lab.operator_grant.clone(), invited.cell.clone()];
        cells.extend(nodes.iter().map(|node| lab.admit(&alice, node)));
        for (node, named) in nodes.iter().zip(["n1", "n2"]) {
            cells.push(lab.grant(node.id(), named, &[Role::Power]));
        }
        // a key that is no node switches nothing
        cells.push(lab.grant(key(77).public(), "tool", &[Role::Power]));
        let machine = nodes[2].machine();
        let order = PowerOrder {
            number: 1,
            action: Some(PowerAction::Cycle),
            boot: None,
            forced: false,
            not_after: lab.clock.after(Duration::from_secs(600)),
        };
        for (line, able) in [("ipmi://h", vec![0, 1]), ("inband:", vec![2]), ("wol://", vec![0, 1])]
        {
            let record = Line { line: line.to_owned(), sealed: None };
            let mut all = cells.clone();
            all.push(lab.write(&alice, Kind::CONTROLLER, machine.as_bytes(), &record));
            all.push(lab.write(&alice, Kind::POWER_ORDER, machine.as_bytes(), &order));
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            let mut store = dht_store::Store::open(&path, lab.roots.clone()).unwrap();
            let now = lab.clock.after(Duration::from_secs(1));
            store.apply(all, &[], now).unwrap();
            let views = store.views();
            let can: Vec<usize> =
                (0..3).filter(|n| !open(&views, &nodes[*n].id(), now).is_empty()).collect();
            assert_eq!(can, able, "{line}");
            let later = now.after(Duration::from_secs(700));
            assert!(open(&views, &nodes[able[0]].id(), later).is_empty(), "the order is over");
        }
    }
}
