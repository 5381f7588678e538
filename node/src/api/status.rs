//! How far deployments are.
//!
//! The machines are those of the roster. What they do is told by the summaries of the shards, one
//! for each 64 machines; cells are read where summaries do not tell enough: of few machines all, of
//! many those that were asked for, and wherever replicas disagree.

use std::collections::BTreeMap;
use std::time::Duration;

use dht_store::shelf::Subject;
use dht_store::view::{Machine, Order};
use dht_store::{Summary, Views};
use p2pinst_api::request::{ApiError, ErrorKind, Status as StatusRequest, Watch as WatchRequest};
use p2pinst_api::swarm::TransferView;
use p2pinst_api::view::{DeploymentView, FEW, Lines, MachineStatus, StatusView};
use p2pinst_types::record::{State, Status};
use p2pinst_types::{Cell, Hlc, Kind, MachineId, Name, NodeId, shard};
use tokio::task::JoinSet;

use super::{Api, Reply};
use crate::gather::{self, Look};
use crate::replicate::read_from;
use crate::report::{Report, distribution};
use crate::summaries::{self, AT_ONCE, PATIENCE};

/// Deployments that one answer shows when none is named: the latest.
const LATEST: usize = 50;
/// Machines that one answer shows, in bytes: leaves room in a frame for the rest.
const LINES: usize = 600 * 1024;
/// Bytes of a machine's line, besides its texts.
const LINE: usize = 200;
/// What is shown of a state that could not be read.
const UNKNOWN: &str = "unknown";

/// A shard with machines of the group.
struct Shard<'a> {
    /// Which of the orders it belongs to.
    order: usize,
    /// Where its machines are done when all went well.
    goal: State,
    subject: Vec<u8>,
    machines: Vec<&'a Machine>,
    found: Found,
}

/// What is known of a shard.
enum Found {
    Nothing,
    Summary(Summary),
    /// The latest status of each machine that has one.
    Cells(BTreeMap<MachineId, (Hlc, Status)>),
}

impl Shard<'_> {
    fn ids(&self) -> impl Iterator<Item = &MachineId> {
        self.machines.iter().map(|m| &m.id)
    }

    /// Whether there may be machines that these lines show.
    fn has(&self, lines: &Lines, summary: &Summary) -> bool {
        let shown = |s: &State| lines.shows(Some(*s), self.goal) && summary.count(*s) > 0;
        State::ALL.iter().any(shown)
            || (lines.missing && summary.cells() < self.machines.len())
            || summary.unread > 0
    }
}

/// What is to be read of a shard.
enum Source {
    /// One replica has all.
    One(NodeId),
    /// What all replicas have, merged.
    All,
}

fn of_status(subject: &[u8]) -> Subject {
    Subject { kind: Kind::STATUS, id: subject.to_vec() }
}

/// The latest status of each machine: of a machine that was given a new key there may be two.
fn latest(cells: Vec<Cell>) -> BTreeMap<MachineId, (Hlc, Status)> {
    let mut latest: BTreeMap<MachineId, (Hlc, Status)> = BTreeMap::new();
    for cell in cells {
        let (Some(id), Ok(status)) = (MachineId::from_slice(&cell.id.slot), cell.record()) else {
            continue;
        };
        if latest.get(&id).is_none_or(|(hlc, _)| *hlc < cell.hlc) {
            latest.insert(id, (cell.hlc, status));
        }
    }
    latest
}

impl Api {
    pub(super) async fn status(&self, ask: &StatusRequest) -> Reply<StatusView> {
        let views = self.store.views();
        let orders = named(&views, ask.deployment.as_deref())?;
        let mut shards = Vec::new();
        let mut sizes = Vec::new();
        for (at, order) in orders.iter().enumerate() {
            let before = shards.len();
            shards.extend(divide(&views, order, at));
            let machines = shards.iter().skip(before).map(|s: &Shard<'_>| s.machines.len()).sum();
            sizes.push(machines);
        }
        let few = |order: usize| sizes.get(order).is_some_and(|n: &usize| *n <= FEW);
        let exact = |s: &Shard<'_>| ask.signed || (ask.lines.is_none() && few(s.order));
        // reports are in the cells: wherever somebody has reported, they are read
        let read = if ask.report { Some(Lines::ALL) } else { ask.lines };
        let reads = self.sum_up(&mut shards, exact, read.as_ref()).await;
        self.read_shards(&mut shards, reads).await?;
        let mut room = LINES;
        let mut deployments = Vec::new();
        for (at, order) in orders.iter().enumerate() {
            let own: Vec<&Shard<'_>> = shards.iter().filter(|s| s.order == at).collect();
            let lines = ask.lines.or_else(|| few(at).then_some(Lines::ALL)).unwrap_or_default();
            let mut view = self.deployment(&views, order, &own);
            view.signed = own.iter().all(|s| exact(s));
            if ask.report || few(at) {
                view.transfer = transfer(&views, order, &own);
            }
            self.show(&mut view, &own, lines, ask.from.as_ref(), &mut room);
            deployments.push(view);
        }
        let needs = match ask.deployment {
            None => self.needs(&views).await,
            Some(_) => Vec::new(),
        };
        Ok(StatusView { deployments, needs })
    }

    /// Waits until a status may have changed.
    pub(super) async fn watch_status(&self, ask: &WatchRequest) -> Reply<u64> {
        let which = ask.deployment.as_deref();
        named(&self.store.views(), which)?; // who names nothing is told so
        let subjects = || {
            let views = self.store.views();
            let orders = named(&views, which).unwrap_or_default();
            let shards = orders.iter().flat_map(|o| divide(&views, o, 0));
            shards.map(|s| s.subject).collect()
        };
        let wait = Duration::from_millis(ask.wait_ms);
        Ok(self.watch.changed(subjects, ask.after, wait).await)
    }

    /// Asks for the summaries of the shards where they are enough; says which cells are to be read
    /// besides.
    async fn sum_up(
        &self,
        shards: &mut [Shard<'_>],
        exact: impl Fn(&Shard<'_>) -> bool,
        lines: Option<&Lines>,
    ) -> Vec<(usize, Source)> {
        let mut reads = Vec::new();
        let (mut asked, mut wanted) = (Vec::new(), Vec::new());
        for (at, shard) in shards.iter().enumerate() {
            if exact(shard) {
                reads.push((at, Source::All));
                continue;
            }
            asked.push(at);
            wanted.push(gather::Shard {
                subject: shard.subject.clone(),
                machines: shard.machines.len(),
                sum: Summary::sum_of(shard.ids()),
                replicas: self.replicas.of(&of_status(&shard.subject)),
            });
        }
        let looks = summaries::gather(&self.net, &self.store, self.own.node, wanted).await;
        for (at, look) in asked.into_iter().zip(looks) {
            let Some(shard) = shards.get_mut(at) else { continue };
            match look {
                Look::Counted(summary) if lines.is_some_and(|l| shard.has(l, &summary)) => {
                    reads.push((at, Source::All));
                }
                Look::Counted(summary) => shard.found = Found::Summary(summary),
                Look::One(peer) => reads.push((at, Source::One(peer))),
                Look::Merge => reads.push((at, Source::All)),
                Look::Silent => {}
            }
        }
        reads
    }

    /// Reads the cells of shards, some at a time.
    async fn read_shards(
        &self,
        shards: &mut [Shard<'_>],
        reads: Vec<(usize, Source)>,
    ) -> Reply<()> {
        let mut under_way = JoinSet::new();
        let mut reads = reads.into_iter();
        loop {
            while under_way.len() < AT_ONCE
                && let Some((at, source)) = reads.next()
            {
                let Some(shard) = shards.get(at) else { continue };
                let (api, subject) = (self.clone(), shard.subject.clone());
                under_way.spawn(async move { (at, api.read_shard(subject, source).await) });
            }
            let Some(done) = under_way.join_next().await else { return Ok(()) };
            let Ok((at, Some(cells))) = done else { continue };
            if let Some(shard) = shards.get_mut(at) {
                shard.found = Found::Cells(latest(cells));
            }
        }
    }

    /// The cells of a shard; `None`: nobody who holds it has answered, and nothing is here.
    async fn read_shard(&self, subject: Vec<u8>, source: Source) -> Option<Vec<Cell>> {
        if let Source::One(peer) = source
            && let Some(cells) = self.read_one(peer, &subject).await
        {
            return Some(cells);
        }
        let read = self.replicas.read(Kind::STATUS, subject).await.ok()?;
        (read.answered > 0 || !read.cells.is_empty()).then_some(read.cells)
    }

    async fn read_one(&self, peer: NodeId, subject: &[u8]) -> Option<Vec<Cell>> {
        let wanted = subject.to_vec();
        if peer == self.own.node {
            return self.store.run(move |s| s.data(Kind::STATUS, &wanted)).await.ok()?.ok();
        }
        let subject = of_status(subject);
        let read = read_from(&self.net, peer, &subject);
        let cells = tokio::time::timeout(PATIENCE, read).await.ok()??;
        let now = self.store.clock().now();
        self.store.run(move |s| s.vet(cells, now)).await.ok()
    }

    /// A deployment and its counts, without any machine's line.
    fn deployment(&self, views: &Views, order: &Order, shards: &[&Shard<'_>]) -> DeploymentView {
        let mut tally = Tally::default();
        shards.iter().for_each(|s| tally.add(s));
        let author = views.key_name(&order.author).cloned();
        DeploymentView {
            id: order.id,
            name: views.order_name(order),
            author: author.unwrap_or_else(Name::all),
            at: order.hlc.millis(),
            release: order.deployment.release,
            package: order.release.package.clone(),
            size: order.release.blob.len(),
            group: order.deployment.group.clone(),
            mode: order.deployment.mode,
            preheat: order.deployment.preheat,
            limit: order.deployment.limit.map(p2pinst_types::Rate::bytes),
            ordered: shards.iter().map(|s| s.machines.len()).sum(),
            counts: tally.counts,
            signed: false,
            oldest: tally.oldest.map(Hlc::millis),
            newest: tally.newest.map(Hlc::millis),
            shards: shards.len(),
            silent: tally.silent,
            transfer: None,
            machines: Vec::new(),
            next: None,
        }
    }

    /// Adds the lines of the machines that are asked for, as far as there is room.
    fn show(
        &self,
        view: &mut DeploymentView,
        shards: &[&Shard<'_>],
        lines: Lines,
        from: Option<&Name>,
        room: &mut usize,
    ) {
        let mut machines: Vec<(&Machine, Option<&Status>)> = Vec::new();
        for shard in shards {
            for machine in &shard.machines {
                let status = match &shard.found {
                    Found::Cells(cells) => cells.get(&machine.id).map(|(_, status)| status),
                    // where nothing was to be shown nothing was read; where nobody has reported
                    // there is nothing to read
                    Found::Summary(summary) if summary.cells() > 0 => continue,
                    Found::Summary(_) | Found::Nothing => None,
                };
                let shown = lines.shows(status.map(|s| s.state), shard.goal);
                if shown && from.is_none_or(|f| machine.name > *f) {
                    machines.push((machine, status));
                }
            }
        }
        machines.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        let wanted = machines.len();
        for (machine, status) in machines {
            let line = self.machine_status(machine, status.cloned());
            let left = room.checked_sub(LINE + line.detail.len());
            let Some(left) = left else { break };
            *room = left;
            view.machines.push(line);
        }
        if view.machines.len() < wanted {
            // when not even one has room, from where this page began
            let last = view.machines.last().map(|m| m.name.clone());
            view.next = last.or_else(|| from.cloned());
        }
    }

    pub(super) fn machine_status(
        &self,
        machine: &Machine,
        status: Option<Status>,
    ) -> MachineStatus {
        let peer = self.net.peers().get(&machine.node);
        let now = self.store.clock().now();
        let since = peer.since.unwrap_or(machine.admitted.millis());
        let (state, detail, attempt, reached, transfer) = match status {
            Some(s) => (s.state.as_str(), s.detail, s.attempt, s.reached, s.transfer),
            None => (UNKNOWN, String::new(), 0, Vec::new(), None),
        };
        MachineStatus {
            name: machine.name.clone(),
            state: state.to_owned(),
            detail,
            attempt,
            reached,
            transfer,
            up: machine.node == self.own.node || peer.up,
            since_ms: u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What the shards of a deployment come to.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<String, usize>,
    oldest: Option<Hlc>,
    newest: Option<Hlc>,
    silent: usize,
}

impl Tally {
    fn add(&mut self, shard: &Shard<'_>) {
        let machines = shard.machines.len();
        match &shard.found {
            Found::Nothing => {
                self.silent += 1;
                self.count(UNKNOWN, machines);
            }
            Found::Summary(summary) => {
                for state in State::ALL {
                    self.count(state.as_str(), summary.count(state));
                }
                self.count(UNKNOWN, machines.saturating_sub(summary.cells()));
                if summary.cells() > 0 {
                    self.reported(summary.oldest);
                    self.reported(summary.newest);
                }
            }
            Found::Cells(cells) => {
                for id in shard.ids() {
                    match cells.get(id) {
                        Some((hlc, status)) => {
                            self.count(status.state.as_str(), 1);
                            self.reported(*hlc);
                        }
                        None => self.count(UNKNOWN, 1),
                    }
                }
            }
        }
    }

    fn count(&mut self, state: &str, machines: usize) {
        if machines > 0 {
            *self.counts.entry(state.to_owned()).or_default() += machines;
        }
    }

    fn reported(&mut self, at: Hlc) {
        self.oldest = Some(self.oldest.map_or(at, |o| o.min(at)));
        self.newest = Some(self.newest.map_or(at, |n| n.max(at)));
    }
}

/// How the file of an order came to the machines whose statuses were read.
fn transfer(views: &Views, order: &Order, shards: &[&Shard<'_>]) -> Option<TransferView> {
    let mut reports = Vec::new();
    for shard in shards {
        let Found::Cells(cells) = &shard.found else { continue };
        for machine in &shard.machines {
            let transfer = cells.get(&machine.id).and_then(|(_, status)| status.transfer.as_ref());
            let (name, site) = (&machine.name, &machine.site);
            reports.extend(transfer.map(|transfer| Report { name, site, transfer }));
        }
    }
    let home = order.deployment.holders.first().and_then(|n| views.machine_of(&n.0));
    distribution(&reports, home.map(|m| (&m.name, &m.site)))
}

/// The shards of an order that have machines of its group.
fn divide<'a>(views: &'a Views, order: &'a Order, at: usize) -> Vec<Shard<'a>> {
    let mut shards: BTreeMap<u16, Vec<&Machine>> = BTreeMap::new();
    for machine in views.members(&order.deployment.group) {
        let number = shard::shard_of(&order.id, &machine.id, order.deployment.shards);
        shards.entry(number).or_default().push(machine);
    }
    let shard = |(number, machines)| {
        let subject = shard::status_subject(&order.id, number);
        let goal = order.deployment.goal();
        Shard { order: at, goal, subject, machines, found: Found::Nothing }
    };
    shards.into_iter().map(shard).collect()
}

/// The order of that name, or the latest.
fn named(views: &Views, which: Option<&str>) -> Result<Vec<Order>, ApiError> {
    match which {
        Some(text) => Ok(vec![find(views, text)?]),
        None => {
            let from = views.orders.len().saturating_sub(LATEST);
            Ok(views.orders.iter().skip(from).cloned().collect())
        }
    }
}

/// An order by its name (`alice-42`) or the beginning of its id.
pub(super) fn find(views: &Views, text: &str) -> Result<Order, ApiError> {
    let by_name: Vec<&Order> =
        views.orders.iter().filter(|o| views.order_name(o) == text).collect();
    let by_id = || -> Vec<&Order> {
        views.orders.iter().filter(|o| o.id.to_string().starts_with(text)).collect()
    };
    let found = if by_name.is_empty() && text.len() >= 4 { by_id() } else { by_name };
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(ApiError::new(ErrorKind::Invalid, format!("there is no deployment {text}"))
            .hint("p2pinst status shows the deployments")),
        [_, ..] => {
            let ids: Vec<String> = found.iter().map(|o| o.id.short()).collect();
            let reason = format!("{text} names several deployments: {}", ids.join(", "));
            Err(ApiError::new(ErrorKind::Invalid, reason).hint("name one by its id"))
        }
    }
}
