//! Bare metal, as the node shows it: machines, images, orders and how far they are, the log of the boot service.

mod course;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use dht_store::Views;
use dht_store::store::Wanted;
use dht_store::view::Assigned;
use p2pinst_api::boot::{
    BootEvent, BootLogView, DeployLine, DeployPlan, DeployView, ImageView, InventoryView,
    MachineView, OrderView, SetupView, SightingView,
};
use p2pinst_api::request::{ApiError, BootLog, Deploys, ErrorKind, Machines};
use p2pinst_types::record::{
    Adoption, BootState, BootStatus, Image, Inventory, Role, Sighting, Task,
};
use p2pinst_types::{Hlc, ImageId, Kind, Mac, MachineId, Millis, Name, PublicKey, SetupId, limits};

use self::course::{System, course};
use super::show::fitting;
use super::{Api, Reply};
use crate::boot::{may_begin, never_begins};

/// Machines of one answer: whose records are read for it.
const MACHINES: usize = 500;
/// Nodes with a role that are named.
const ABLE: usize = 64;
/// Orders that one answer shows when none is named: the latest.
const LATEST: usize = 20;

/// The latest word of each machine that has one.
type Latest<T> = BTreeMap<MachineId, (Hlc, T)>;

impl Api {
    pub(super) async fn machines(&self, ask: &Machines) -> Reply<Vec<MachineView>> {
        let views = self.store.views();
        if let Some(group) = ask.group.as_ref().filter(|group| !views.has_group(group)) {
            let reason = format!("there is no group {group}");
            let hint = "see them all: p2pinst group ls";
            return Err(ApiError::new(ErrorKind::Invalid, reason).hint(hint).into());
        }
        let ids = views.machines.keys().chain(views.adopted.keys()).copied();
        let mut page: Vec<MachineId> =
            ids.filter(|id| ask.after.is_none_or(|after| *id > after)).collect();
        page.sort_unstable();
        page.dedup();
        page.retain(|id| is_wanted(&views, id, ask));
        page.truncate(MACHINES);
        let statuses: Latest<BootStatus> =
            self.latest(Kind::BOOT_STATUS, ordered(&views, &page)).await;
        let wanted = if ask.inventory { page.clone() } else { Vec::new() };
        let mut inventories: Latest<Inventory> = self.latest(Kind::INVENTORY, wanted).await;
        if ask.inventory {
            self.add_seen(&views, &page, &mut inventories).await;
        }
        let power = if ask.power { self.last_power(&page).await } else { BTreeMap::new() };
        let machines = page.iter().filter_map(|id| {
            let inventory = inventories.get(id).map(|(hlc, inventory)| InventoryView {
                at: hlc.millis(),
                inventory: inventory.clone(),
            });
            let machine = self.machine(&views, id, &statuses)?;
            Some(MachineView { inventory, power: power.get(id).copied(), ..machine })
        });
        Ok(fitting(machines))
    }

    fn machine(
        &self,
        views: &Views,
        id: &MachineId,
        statuses: &Latest<BootStatus>,
    ) -> Option<MachineView> {
        let adopted = views.adopted.get(id);
        let (name, site, labels) = views.known_as(id)?;
        let member = views.machines.get(id).map(|m| m.node);
        let up = |node| node == self.own.node || self.net.peers().get(&node).up;
        let order = views.current_assignment(id);
        Some(MachineView {
            id: *id,
            known: Adoption {
                name: name.clone(),
                macs: adopted.map(|a| a.adoption.macs.clone()).unwrap_or_default(),
                site: site.clone(),
                labels: labels.clone(),
                removed: false,
            },
            adopted: adopted.is_some(),
            groups: views.groups_of(id),
            asks_for_code: views.asks_for_code(id, (name, site, labels)).cloned(),
            member,
            up: member.is_some_and(up),
            order: order.map(|o| self.order(views, o, statuses)),
            inventory: None,
            power: None,
        })
    }

    fn order(
        &self,
        views: &Views,
        assigned: &Assigned,
        statuses: &Latest<BootStatus>,
    ) -> OrderView {
        let now = self.store.clock().now();
        let status = statuses.get(&assigned.machine);
        let system = views.machines.get(&assigned.machine).map(|m| System {
            admitted: m.admitted,
            up: m.node == self.own.node || self.net.peers().get(&m.node).up,
        });
        // of machines whose state was not asked for it is not known here whether they have failed
        let failed = |other: &Assigned| {
            let said = statuses.get(&other.machine).map(|(_, status)| status);
            said.is_some_and(|s| s.assignment == other.id && s.state == BootState::Failed)
        };
        let waits = may_begin(views, assigned).err();
        let waits = waits.map(|why| never_begins(views, assigned, now, &failed).unwrap_or(why));
        let course = course(assigned, status, system, waits, now);
        let setup = match &assigned.order.task {
            Task::Install { setup, .. } => views.setups.get(setup).map(|s| s.name.clone()),
            Task::Inspect => None,
        };
        OrderView {
            id: assigned.id,
            name: order_name(views, &assigned.author, assigned.order.number),
            author: assigned.author,
            at: assigned.hlc.millis(),
            assignment: assigned.order.clone(),
            setup,
            armed: assigned.is_armed(now),
            ended: assigned.ended.as_ref().map(|(_, over)| over.clone()),
            state: course.state,
            since: course.since,
            done: course.done,
            detail: course.detail,
            late: course.late,
        }
    }

    /// The newest cell of each of these machines, read from its replicas; what cannot be read is left out.
    async fn latest<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        machines: Vec<MachineId>,
    ) -> Latest<T> {
        let subjects = machines.iter().map(|id| id.as_bytes().to_vec()).collect();
        let mut latest: Latest<T> = BTreeMap::new();
        for cell in self.read_all(kind, subjects).await {
            let (Some(id), Ok(record)) = (MachineId::from_slice(&cell.id.subject), cell.record())
            else {
                continue;
            };
            if latest.get(&id).is_none_or(|(hlc, _)| *hlc < cell.hlc) {
                latest.insert(id, (cell.hlc, record));
            }
        }
        latest
    }

    /// What machines are made of that were seen before they were adopted, and have not told since.
    async fn add_seen(&self, views: &Views, page: &[MachineId], known: &mut Latest<Inventory>) {
        let wanted = Wanted {
            kind: Some(Kind::SIGHTING),
            limit: usize::from(limits::SIGHTINGS),
            bytes: usize::MAX,
            ..Wanted::default()
        };
        let mut from = Vec::new();
        loop {
            let look = Wanted { from, ..wanted.clone() };
            let Ok(Ok(cells)) = self.store.run(move |s| s.look(&look)).await else { return };
            for cell in cells.cells.iter().filter(|c| views.authorised(c, &[Role::Boot])) {
                let Ok(Sighting { mac, inventory: Some(inventory), .. }) = cell.record() else {
                    continue;
                };
                let Some(id) = views.machine_with(&mac).filter(|id| page.contains(id)) else {
                    continue;
                };
                if known.get(&id).is_none_or(|(hlc, _)| *hlc < cell.hlc) {
                    known.insert(id, (cell.hlc, inventory));
                }
            }
            match cells.next {
                Some(next) => from = next,
                None => return,
            }
        }
    }

    pub(super) fn sightings(&self, after: Option<Mac>) -> Vec<SightingView> {
        let views = self.store.views();
        let later =
            views.sightings.iter().filter(|(mac, _)| after.is_none_or(|after| **mac > after));
        let later = later.map(|(_, seen)| seen);
        fitting(later.map(|seen| SightingView {
            mac: seen.sighting.mac,
            at: seen.sighting.at,
            site: views.machine_of(&seen.by).map(|m| m.site.clone()),
            inventory: seen.sighting.inventory.clone(),
        }))
    }

    pub(super) fn images(&self, after: Option<ImageId>) -> Vec<ImageView> {
        let views = self.store.views();
        let later = views.images.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        fitting(later.map(|(id, published)| ImageView {
            id: *id,
            author: views.key_name(&published.author).cloned(),
            replaced:
                views.image_named(&published.image.name).is_some_and(|(newest, _)| newest != id),
            size: size(&published.image),
            here:
                published.image.files.values().all(|blob| {
                    self.exchange.blobs().status(&blob.root).is_some_and(|s| s.complete)
                }),
            image: published.image.clone(),
        }))
    }

    pub(super) fn one_setup(&self, id: SetupId) -> SetupView {
        SetupView { id, setup: self.store.views().setups.get(&id).cloned() }
    }

    pub(super) fn prepare_deploy(&self, author: PublicKey) -> DeployPlan {
        let views = self.store.views();
        let now = Hlc::at(self.store.clock().now());
        let with = |role: Role| {
            let able =
                views.machines.values().filter(|m| views.roles(&m.node.0, now).contains(&role));
            able.map(|m| m.name.clone()).take(ABLE).collect()
        };
        DeployPlan {
            number: next_number(&views, &author),
            boot: with(Role::Boot),
            power: with(Role::Power),
        }
    }

    pub(super) async fn deploys(&self, ask: &Deploys) -> Reply<Vec<DeployView>> {
        let views = self.store.views();
        let mut orders: BTreeMap<(PublicKey, u64), Vec<&Assigned>> = BTreeMap::new();
        for assigned in views.assignments.values() {
            orders.entry((assigned.author, assigned.order.number)).or_default().push(assigned);
        }
        let mut orders: Vec<_> = orders.into_iter().collect();
        if let Some(name) = &ask.name {
            orders.retain(|((author, number), _)| order_name(&views, author, *number) == *name);
        }
        orders.sort_by_key(|(_, all)| std::cmp::Reverse(all.iter().map(|a| a.hlc).min()));
        orders.truncate(LATEST);
        let mut shown = Vec::new();
        for ((author, number), mut all) in orders {
            all.sort_by(|a, b| a.order.name.cmp(&b.order.name));
            let machines = all.len();
            let (at, what, images) = (
                all.iter().map(|a| a.hlc.millis()).min().unwrap_or(Millis(0)),
                all.first().map_or_else(String::new, |a| what(&views, a)),
                all.first().map(|a| images(a)).unwrap_or_default(),
            );
            if ask.name.is_none() {
                all.clear();
            }
            all.retain(|a| ask.after.as_ref().is_none_or(|after| a.order.name > *after));
            let rest = all.len();
            all.truncate(MACHINES);
            let lines = self.deploy_lines(&views, &all).await;
            let last = lines.last().map(|l: &DeployLine| l.name.clone());
            shown.push(DeployView {
                name: order_name(&views, &author, number),
                author: views.key_name(&author).cloned(),
                at,
                what,
                images,
                machines,
                next: last.filter(|_| lines.len() < rest),
                lines,
            });
        }
        Ok(shown)
    }

    async fn deploy_lines(&self, views: &Views, all: &[&Assigned]) -> Vec<DeployLine> {
        let ids = all.iter().map(|a| a.machine).collect();
        let statuses: Latest<BootStatus> = self.latest(Kind::BOOT_STATUS, ids).await;
        fitting(all.iter().map(|assigned| DeployLine {
            name: assigned.order.name.clone(),
            machine: assigned.machine,
            order: self.order(views, assigned, &statuses),
        }))
    }

    pub(super) fn boot_log(&self, ask: &BootLog) -> BootLogView {
        let entries = self.boot_log.after(ask.after);
        let about =
            |mac: Option<Mac>| ask.macs.is_empty() || mac.is_some_and(|m| ask.macs.contains(&m));
        let events = entries.into_iter().filter(|(_, e)| about(e.mac));
        let events =
            events.map(|(number, e)| BootEvent { number, at: e.at, mac: e.mac, what: e.what });
        let ready = self.boot_log.ready();
        let port = ready.as_ref().and_then(|r| r.http);
        let addrs = ready.iter().flat_map(|r| &r.interfaces).map(|(_, addr)| *addr);
        BootLogView {
            events: fitting(events),
            http: addrs
                .zip(port.into_iter().cycle())
                .map(|(addr, port)| SocketAddrV4::new(addr, port))
                .collect(),
            interfaces: ready
                .iter()
                .flat_map(|r| &r.interfaces)
                .map(|(name, addr)| format!("{name} ({addr})"))
                .collect(),
            http_port: ready.and_then(|r| r.http).unwrap_or(0),
        }
    }
}

/// The number that an author's next order gets, of packages or of machines.
pub(super) fn next_number(views: &Views, author: &PublicKey) -> u64 {
    let packages = views.orders.iter().chain(&views.over).filter(|o| o.author == *author);
    let machines = views.assignments.values().filter(|a| a.author == *author);
    let numbers = packages.map(|o| o.deployment.number).chain(machines.map(|a| a.order.number));
    numbers.max().unwrap_or(0).saturating_add(1)
}

fn order_name(views: &Views, author: &PublicKey, number: u64) -> String {
    let author = views.key_name(author).map_or_else(|| author.short(), ToString::to_string);
    format!("{author}-{number}")
}

fn is_wanted(views: &Views, id: &MachineId, ask: &Machines) -> bool {
    let (member, adopted) = (views.machines.get(id), views.adopted.get(id));
    let addresses: Vec<_> = member.iter().flat_map(|m| m.ipv4()).collect();
    let named = |hosts: &p2pinst_types::hostexpr::HostExpr| {
        views.known_as(id).is_some_and(|(name, ..)| hosts.contains(name.as_str(), &addresses))
    };
    let grouped = |group: &Name| match (member, adopted) {
        (Some(member), _) => views.is_member(member, group),
        (None, Some(adopted)) => views.is_bare_member(&adopted.adoption, group),
        (None, None) => false,
    };
    ask.hosts.as_ref().is_none_or(named) && ask.group.as_ref().is_none_or(grouped)
}

/// Those of which there is an order: nobody says how far the others are.
fn ordered(views: &Views, machines: &[MachineId]) -> Vec<MachineId> {
    machines.iter().filter(|id| views.current_assignment(id).is_some()).copied().collect()
}

fn size(image: &Image) -> u64 {
    image.files.values().map(p2pinst_types::BlobRef::len).fold(0, u64::saturating_add)
}

fn what(views: &Views, assigned: &Assigned) -> String {
    match &assigned.order.task {
        Task::Inspect => "inspect".to_owned(),
        Task::Install { setup, .. } => {
            views.setups.get(setup).map_or_else(|| setup.0.short(), |s| s.name.to_string())
        }
    }
}

fn images(assigned: &Assigned) -> Vec<Name> {
    match &assigned.order.task {
        Task::Install { images, .. } => images.keys().cloned().collect(),
        Task::Inspect => Vec::new(),
    }
}
