//! What a machine that introduces itself is told. Pure.

use dht_store::Views;
use dht_store::view::Assigned;
use p2pinst_trust::{ScoutHello, console};
use p2pinst_types::{AssignmentId, Mac, MachineId, Millis, NodeId};

/// Until a machine asks again that has nothing to do yet: soon enough for who waits at the keyboard.
const SOON: u16 = 5;
/// The same where a code is asked for: one that is typed meanwhile is said at once, and is not to be one call too many in a minute.
const ASKED: u16 = 8;
/// The same of one that may wait for long.
const LATER: u16 = 15;

/// What a machine that introduces itself is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is to ask again.
    Wait {
        /// Why.
        reason: String,
        /// After how many seconds.
        secs: u16,
        /// Where a code from its console would help: the salt of its key.
        code: Option<[u8; 16]>,
        /// Which machine it is, where that is known.
        machine: Option<MachineId>,
    },
    /// It has a system, and is to start that.
    Leave {
        /// Why.
        reason: String,
    },
    /// Nobody knows it.
    Stranger {
        /// The interface by which it may be adopted.
        mac: Mac,
    },
    /// Another machine says that it is this one, and is at work.
    Spoofed {
        /// The machine.
        machine: MachineId,
        /// The scout that is at work.
        scout: NodeId,
    },
    /// It becomes the scout of a machine.
    Certify {
        /// The machine.
        machine: MachineId,
        /// Its order, and no other.
        assignment: AssignmentId,
    },
}

fn wait(reason: impl Into<String>, secs: u16) -> Verdict {
    Verdict::Wait { reason: reason.into(), secs, code: None, machine: None }
}

impl Verdict {
    /// The same of a machine that is known.
    fn of(self, known: MachineId) -> Self {
        match self {
            Self::Wait { reason, secs, code, .. } => {
                Self::Wait { reason, secs, code, machine: Some(known) }
            }
            other => other,
        }
    }
}

/// Whether a machine's wave may begin, and why not.
pub(super) type Gate<'a> = &'a dyn Fn(&Assigned) -> Result<(), String>;

/// Judges what a machine says of itself, which was verified to be its own word. `heard`: the interface that it called from, as
/// this machine's kernel knows it; `is_alive`: whether a scout was heard of a moment ago; `gate`: whether its wave may begin.
#[must_use]
pub(super) fn judge(
    views: &Views,
    hello: &ScoutHello,
    heard: Option<Mac>,
    now: Millis,
    is_alive: &dyn Fn(&NodeId) -> bool,
    gate: Gate<'_>,
) -> Verdict {
    if let Some(mac) = heard.filter(|mac| !hello.macs.contains(mac)) {
        return wait(format!("it calls from {mac}, which is none of its interfaces"), LATER);
    }
    let listed = || hello.macs.iter().find_map(|mac| views.machine_with(mac));
    // the interface that it called over counts, where that is known: whoever likes can list those of others
    let machine = match heard {
        Some(mac) => views.machine_with(&mac),
        None => listed(),
    };
    let Some(machine) = machine else {
        if let (Some(mac), Some(other)) = (heard, listed()) {
            let name = views.known_as(&other).map(|(name, ..)| name.to_string());
            let name = name.unwrap_or_default();
            let reason =
                format!("it calls from {mac}, which is not known as an interface of {name}");
            return wait(format!("{reason}: adopt {name} with all its interfaces"), LATER);
        }
        let mut own = heard.into_iter().chain(hello.macs.iter().copied());
        return match own.find(|mac| !mac.is_group()) {
            Some(mac) => Verdict::Stranger { mac },
            None => wait("it has no interface that it could be known by", LATER),
        };
    };
    let Some(assigned) = views.current_assignment(&machine).filter(|a| a.is_armed(now)) else {
        let reason = "no order is in force for this machine (p2pinst deploy, p2pinst boot arm)";
        return match views.machines.contains_key(&machine) {
            true => Verdict::Leave { reason: reason.to_owned() },
            false => wait(reason, SOON),
        };
    };
    if let Some(verdict) = refuses(views, assigned, hello) {
        return verdict.of(machine);
    }
    if heard.is_none() && assigned.order.code.is_none() {
        let reason =
            "it calls from another segment, where anybody could say that it is this machine";
        return wait(format!("{reason}: order it with a code (p2pinst deploy --code)"), LATER);
    }
    if let Err(reason) = gate(assigned) {
        return wait(reason, LATER).of(machine);
    }
    let other = views.scouts().find(|s| {
        // who knows the code of this order is it, whoever was let in by an earlier one
        let is_earlier = assigned.order.code.is_some() && s.assignment != assigned.id;
        s.machine == machine
            && s.node.0 != hello.key
            && now <= s.not_after
            && !is_earlier
            && is_alive(&s.node)
    });
    match other {
        Some(scout) => Verdict::Spoofed { machine, scout: scout.node },
        None => Verdict::Certify { machine, assignment: assigned.id },
    }
}

/// Whether a code is wanted that was not given.
fn refuses(views: &Views, assigned: &Assigned, hello: &ScoutHello) -> Option<Verdict> {
    let order = &assigned.order;
    let Some(wanted) = order.code else {
        let to_be = (&order.name, &order.site, &order.labels);
        let group = views.asks_for_code(&assigned.machine, to_be)?;
        let reason = format!("the group {group} asks for a code, and the order has none");
        return Some(wait(format!("{reason}: order it with one (p2pinst deploy --code)"), LATER));
    };
    let met = |code| console::is_met(&wanted, &hello.cluster, &hello.key, code);
    if hello.code.as_ref().is_some_and(met) {
        return None;
    }
    let reason = match hello.code {
        Some(_) => "the code is wrong",
        None => "the order wants a code, typed at this machine's console",
    };
    let code = Some(wanted.salt);
    Some(Verdict::Wait { reason: reason.to_owned(), secs: ASKED, code, machine: None })
}
