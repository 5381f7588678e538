//! What the fake says of bare metal: folded from the cells that it was given, as a real node does.

use std::collections::BTreeSet;

use p2pinst_api::boot::{
    BootLogView, DeployLine, DeployPlan, DeployView, ImageView, InventoryView, MachineView,
    OrderView, SetupView, SightingView,
};
use p2pinst_api::power::{PowerPlan, PowerTarget};
use p2pinst_api::request::{BootLog, Deploys, Machines, PreparePower};
use p2pinst_types::record::{
    Adoption, Assignment, Disarmament, Ended, Image, ImageRemoval, Role, Setup, Task,
};
use p2pinst_types::{AssignmentId, Cell, ImageId, Kind, Mac, MachineId, Millis, Name, SetupId};

use crate::fake::{NOW, State, name};

fn cells(state: &State, kind: Kind) -> impl Iterator<Item = &Cell> {
    state.cells.iter().filter(move |c| c.id.kind == kind)
}

fn id(cell: &Cell) -> MachineId {
    MachineId::from_slice(&cell.id.subject).unwrap()
}

fn setup_name(state: &State, task: &Task) -> Option<Name> {
    let Task::Install { setup: wanted, .. } = task else { return None };
    setup(state, *wanted).setup.map(|s| s.name)
}

fn orders(state: &State) -> Vec<(MachineId, OrderView)> {
    let one = |cell: &Cell| {
        let assignment: Assignment = cell.record().unwrap();
        assert_eq!(cell.id.slot, cell.hlc.0.to_be_bytes(), "told apart by its time");
        let machine = id(cell);
        let id = Assignment::id(&cell.id.author, &machine, cell.hlc, cell.payload());
        let ended = cells(state, Kind::DISARMAMENT).map(|c| c.record::<Disarmament>().unwrap());
        let ended = ended.into_iter().find(|d| d.assignment == id);
        let cancelled = ended.as_ref().is_some_and(|d| d.ended == Ended::Cancelled);
        let order = OrderView {
            id,
            name: format!("alice-{}", assignment.number),
            author: cell.id.author,
            at: cell.hlc.millis(),
            setup: setup_name(state, &assignment.task),
            assignment,
            armed: ended.is_none(),
            ended,
            state: if cancelled { "cancelled" } else { "armed" }.to_owned(),
            since: NOW,
            done: (0, 0),
            detail: "waits until somebody starts it over the network".to_owned(),
            late: false,
        };
        (machine, order)
    };
    cells(state, Kind::ASSIGNMENT).map(one).collect()
}

/// A group that asks for a code, of everybody.
pub(crate) fn asking(state: &State) -> Option<Name> {
    state.groups.iter().find(|g| g.console_code).map(|g| g.name.clone())
}

/// One machine a page.
pub(crate) fn machines(state: &State, ask: &Machines) -> Vec<MachineView> {
    let mut all: Vec<MachineView> = Vec::new();
    let view = |id, known: Adoption, member| {
        let inventory = state.made.get(&known.name).filter(|_| ask.inventory).cloned();
        let last = orders(state).into_iter().rev().find(|(machine, _)| *machine == id);
        MachineView {
            id,
            adopted: !known.macs.is_empty(),
            groups: BTreeSet::from([Name::all()]),
            asks_for_code: asking(state),
            known,
            member,
            up: member.is_some(),
            order: last.map(|(_, order)| order),
            inventory: inventory.map(|inventory| InventoryView { at: Millis(0), inventory }),
            power: state.on.get(&id).copied().filter(|_| ask.power),
        }
    };
    for node in &state.nodes {
        let known = Adoption {
            name: node.name.clone(),
            macs: vec![],
            site: node.site.clone(),
            labels: node.labels.clone(),
            removed: false,
        };
        all.push(view(node.machine, known, Some(node.id)));
    }
    for cell in cells(state, Kind::ADOPTION) {
        let known: Adoption = cell.record().unwrap();
        let before = all.iter().position(|m| m.id == id(cell));
        let member = before.and_then(|at| all.remove(at).member);
        if !known.removed {
            all.push(view(id(cell), known, member));
        }
    }
    all.retain(|m| ask.hosts.as_ref().is_none_or(|h| h.contains(m.known.name.as_str(), &[])));
    all.retain(|m| ask.after.is_none_or(|after| m.id > after));
    all.sort_by_key(|m| m.id);
    all.truncate(1);
    all
}

pub(crate) fn sightings(state: &State, after: Option<Mac>) -> Vec<SightingView> {
    let later = state.seen.iter().filter(|s| after.is_none_or(|after| s.mac > after));
    later.cloned().collect()
}

pub(crate) fn images(state: &State, after: Option<ImageId>) -> Vec<ImageView> {
    let view = |cell: &Cell| {
        let image: Image = cell.record().unwrap();
        let id = Image::id(cell.payload());
        assert_eq!(cell.id.subject, id.0.0);
        let size = image.files.values().map(p2pinst_types::BlobRef::len).sum();
        let author = Some(name("alice"));
        ImageView { id, image, author, replaced: false, size, here: true }
    };
    let mut all: Vec<ImageView> = cells(state, Kind::IMAGE).map(view).collect();
    let removed: Vec<ImageRemoval> =
        cells(state, Kind::IMAGE_REMOVAL).map(|c| c.record().unwrap()).collect();
    all.retain(|i| removed.iter().all(|r| r.image != i.id));
    all.sort_by_key(|i| i.id);
    all.retain(|i| after.is_none_or(|after| i.id > after));
    all.truncate(1);
    all
}

pub(crate) fn setup(state: &State, id: SetupId) -> SetupView {
    let mut known = cells(state, Kind::SETUP).filter(|c| Setup::id(c.payload()) == id);
    SetupView { id, setup: known.next().map(|c| c.record().unwrap()) }
}

pub(crate) fn plan(state: &State) -> DeployPlan {
    let last = orders(state).iter().map(|(_, o)| o.assignment.number).max();
    let with = |role| {
        let able = state.grants.iter().filter(|(g, _)| g.roles.contains(&role));
        able.map(|(g, _)| g.name.clone()).collect()
    };
    DeployPlan {
        number: last.map_or(42, |n| n + 1),
        boot: with(Role::Boot),
        power: with(Role::Power),
    }
}

/// Names alone are known, and who has the power role.
pub(crate) fn power_plan(state: &State, ask: &PreparePower) -> PowerPlan {
    let mut machines: Vec<PowerTarget> = Vec::new();
    let mut after = None;
    let everything =
        |after| Machines { after, hosts: None, group: None, inventory: false, power: false };
    while let [one] = self::machines(state, &everything(after)).as_slice() {
        after = Some(one.id);
        let (name, machine) = (one.known.name.clone(), one.id);
        if ask.hosts.contains(name.as_str(), &[]) {
            machines.push(PowerTarget { name, machine, controller: None });
        }
    }
    let known = |term: &&str| machines.iter().any(|m| m.name.as_str() == *term);
    let unknown = ask.hosts.terms().filter(|t| !known(t)).map(str::to_owned).collect();
    let able = state.grants.iter().filter(|(g, _)| g.roles.contains(&Role::Power));
    let nodes = able.map(|(g, _)| g.key).collect();
    PowerPlan { machines, unknown, nodes, number: 1 }
}

pub(crate) fn deploys(state: &State, ask: &Deploys) -> Vec<DeployView> {
    let all = orders(state);
    let mut names: Vec<String> = all.iter().map(|(_, o)| o.name.clone()).collect();
    names.dedup();
    names.retain(|n| ask.name.as_ref().is_none_or(|name| n == name));
    let view = |name: String| {
        let of = all.iter().filter(|(_, o)| o.name == name);
        let line = |(machine, order): &(MachineId, OrderView)| DeployLine {
            name: order.assignment.name.clone(),
            machine: *machine,
            order: order.clone(),
        };
        let mut lines: Vec<DeployLine> = of.map(line).collect();
        lines.sort_by(|a, b| a.name.cmp(&b.name));
        let machines = lines.len();
        let later = |l: &DeployLine| ask.after.as_ref().is_none_or(|after| l.name > *after);
        lines.retain(later);
        // one machine a page
        let next = (lines.len() > 1).then(|| lines[0].name.clone());
        lines.truncate(1);
        let what = lines.first().and_then(|l| l.order.setup.clone());
        DeployView {
            name,
            author: Some(name_of_alice()),
            at: NOW,
            what: what.map_or_else(|| "inspect".to_owned(), |n| n.to_string()),
            images: vec![],
            machines,
            lines: if ask.name.is_some() { lines } else { vec![] },
            next: next.filter(|_| ask.name.is_some()),
        }
    };
    names.into_iter().map(view).collect()
}

fn name_of_alice() -> Name {
    name("alice")
}

pub(crate) fn log(state: &State, ask: &BootLog) -> BootLogView {
    let later = state.events.iter().filter(|e| ask.after.is_none_or(|after| e.number > after));
    let about =
        later.filter(|e| ask.macs.is_empty() || e.mac.is_some_and(|m| ask.macs.contains(&m)));
    BootLogView {
        events: about.take(1).cloned().collect(),
        interfaces: vec!["br0 (10.0.0.1)".to_owned()],
        http_port: 8069,
        http: vec!["10.0.0.1:8069".parse().unwrap()],
    }
}

/// The assignments that were signed, with what they are called.
pub(crate) fn assignments(state: &State) -> Vec<(AssignmentId, Assignment)> {
    orders(state).into_iter().map(|(_, o)| (o.id, o.assignment)).collect()
}
