//! The power of machines, for the command line.

use std::collections::BTreeMap;

use dht_store::Views;
use dht_store::wire::{Request, Response};
use futures::future::join_all;
use p2pinst_api::power::{MACHINES, PowerPlan, PowerTarget, PowerView};
use p2pinst_api::request::{ApiError, ErrorKind, Power, PreparePower};
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::{PowerCause, PowerStatus};
use p2pinst_types::{Cell, Hlc, Kind, MachineId, Millis, Name, NodeId, PublicKey};

use super::{Api, Reply};
use crate::power::able;
use crate::rpc;

/// Nodes that are asked for the state of one machine.
const ASKED: usize = 3;

/// The machines that an expression stands for, by name.
fn matching(views: &Views, hosts: &HostExpr) -> BTreeMap<Name, MachineId> {
    let members = views.machines.values().filter(|m| {
        let addresses: Vec<_> = m.ipv4().collect();
        hosts.contains(m.name.as_str(), &addresses)
    });
    let bare = views.bare().into_iter().filter(|(name, _)| hosts.contains(name.as_str(), &[]));
    let bare = bare.map(|(name, id)| (name.clone(), id));
    // of a name that both have, the machine of the roster is meant
    bare.chain(members.map(|m| (m.name.clone(), m.id))).collect()
}

impl Api {
    /// What is to be known before a key orders something of machines' power.
    pub(super) fn prepare_power(&self, request: &PreparePower) -> PowerPlan {
        let (views, now) = (self.store.views(), self.store.clock().now());
        let nobody = |term: &&str| {
            let term = term.parse::<HostExpr>();
            term.is_ok_and(|term| matching(&views, &term).is_empty())
        };
        let unknown = request.hosts.terms().filter(nobody).map(str::to_owned).collect();
        let target = |(name, machine): (Name, MachineId)| {
            let controller = views.controller_of(&machine).map(|c| c.controller.line.clone());
            PowerTarget { name, machine, controller }
        };
        let machines = matching(&views, &request.hosts).into_iter().map(target).collect();
        let own = views.power_orders.values().filter(|o| o.author == request.author);
        let number = own.map(|o| o.order.number).max().unwrap_or(0).saturating_add(1);
        PowerPlan { machines, unknown, nodes: views.power_nodes(Hlc::at(now)), number }
    }

    /// How the power of machines is.
    pub(super) async fn machine_power(&self, request: &Power) -> Reply<Vec<PowerView>> {
        if request.machines.len() > MACHINES {
            let reason = format!("more than {MACHINES} machines in one request");
            return Err(ApiError::new(ErrorKind::Invalid, reason).into());
        }
        let all = request.machines.iter().map(|machine| self.one_power(*machine, request.live));
        join_all(all).await.into_iter().collect()
    }

    async fn one_power(&self, machine: MachineId, live: bool) -> Reply<PowerView> {
        let cells = self.power.said(&machine).await?;
        let (views, now) = (self.store.views(), self.store.clock().now());
        let said = counting(&views, &machine, &cells, now);
        let mut view = view(&views, machine, &said, now);
        if live && view.controller.is_some() {
            let asked = self.ask_power(&views, &machine, now).await;
            match asked {
                Ok(on) => (view.on, view.error) = (on, None),
                Err(error) => view.error = Some(error),
            }
        }
        Ok(view)
    }

    /// Whether machines were on when somebody spoke of their power last. No controller is asked.
    pub(super) async fn last_power(&self, machines: &[MachineId]) -> BTreeMap<MachineId, bool> {
        let views = self.store.views();
        let switched = machines.iter().filter(|id| views.controller_of(id).is_some());
        let subjects = switched.map(|id| id.as_bytes().to_vec()).collect();
        let mut cells: BTreeMap<MachineId, Vec<Cell>> = BTreeMap::new();
        for cell in self.read_all(Kind::POWER_STATUS, subjects).await {
            if let Some(id) = MachineId::from_slice(&cell.id.subject) {
                cells.entry(id).or_default().push(cell);
            }
        }
        let now = self.store.clock().now();
        let last = |(id, cells): (MachineId, Vec<Cell>)| {
            Some((id, last(&counting(&views, &id, &cells, now))?))
        };
        cells.into_iter().filter_map(last).collect()
    }

    /// Asks a node that can reach the controller for the state of now.
    async fn ask_power(
        &self,
        views: &Views,
        machine: &MachineId,
        now: Millis,
    ) -> Result<Option<bool>, String> {
        let own = self.own.node;
        let line = views.controller_of(machine).map(|c| c.controller.line.parse());
        let controller = line.ok_or("the machine has no controller")?;
        let controller =
            controller.map_err(|e: p2pinst_boot::power::controller::ControllerError| e.to_string());
        let mut nodes: Vec<_> = able(views, machine, &controller, Hlc::at(now))
            .into_iter()
            .map(NodeId)
            .filter(|node| *node == own || self.net.peers().is_up(node))
            .collect();
        nodes.sort_by_key(|node| *node != own);
        let mut last = "no node that can ask the controller is up: grant nodes the power role \
                        (p2pinst grant KEY --role power)"
            .to_owned();
        for node in nodes.into_iter().take(ASKED) {
            if node == own {
                match self.power.look(*machine).await {
                    Ok(on) => return Ok(on),
                    Err(error) => last = error,
                }
                continue;
            }
            let addrs = self.net.peers().addrs_of(&node);
            match rpc::ask(&self.net, node, &addrs, &Request::Power { machine: *machine }).await {
                Ok(Response::Power(Ok(on))) => return Ok(on),
                Ok(Response::Power(Err(error)) | Response::Refused(error)) => last = error,
                Ok(_) => last = "a node has not understood the question".to_owned(),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }
}

/// What was said of a machine's power by those who can switch it.
fn counting(
    views: &Views,
    machine: &MachineId,
    cells: &[Cell],
    now: Millis,
) -> Vec<(PublicKey, PowerStatus)> {
    let able = views.controller_of(machine).map_or_else(Vec::new, |controlled| {
        let controller = controlled.controller.line.parse().map_err(|_| String::new());
        able(views, machine, &controller, Hlc::at(now))
    });
    let said = cells.iter().filter(|cell| able.contains(&cell.id.author));
    said.filter_map(|cell| Some((cell.id.author, cell.record().ok()?))).collect()
}

/// Whether it was on, by the newest word about that.
fn last(said: &[(PublicKey, PowerStatus)]) -> Option<bool> {
    let newest = said.iter().filter(|(_, s)| s.on.is_some()).max_by_key(|(by, s)| (s.at, *by));
    newest.and_then(|(_, s)| s.on)
}

/// What counts of what was said: of the newest order how it ended, or what is being done; else the newest word.
fn view(
    views: &Views,
    machine: MachineId,
    said: &[(PublicKey, PowerStatus)],
    now: Millis,
) -> PowerView {
    let order = views.power_orders.get(&machine);
    let cause = order.map(|o| PowerCause::Order(o.id));
    let weight = |status: &PowerStatus| {
        let ours = status.cause.is_some() && status.cause == cause;
        (ours, ours && status.outcome.is_some(), status.at)
    };
    let newest = said.iter().max_by_key(|(by, status)| (weight(status), *by));
    let status = newest.map(|(_, status)| status);
    let name = |key: &PublicKey| views.machine_of(key).map(|m| m.name.clone());
    PowerView {
        machine,
        name: views.known_as(&machine).map(|(name, ..)| name.clone()),
        controller: views.controller_of(&machine).map(|c| c.controller.line.clone()),
        on: last(said),
        error: None,
        order: order.filter(|o| o.is_open(now)).map(|o| o.id),
        working: said.iter().any(|(_, s)| s.lease.is_some_and(|until| until > now)),
        cause: status.and_then(|s| s.cause),
        attempt: status.map_or(0, |s| s.attempt),
        outcome: status.and_then(|s| s.outcome),
        detail: status.map(|s| s.detail.clone()).unwrap_or_default(),
        at: status.map(|s| s.at),
        by: newest.and_then(|(by, _)| name(by)),
    }
}
