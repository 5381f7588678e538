//! What people and machines do meanwhile: publish, define groups, report, join; and what those do
//! who are up to no good.

use p2pinst_trust::SecretKey;
use p2pinst_trust::fixture::name;
use p2pinst_trust::policy::machine_id;
use p2pinst_types::record::{
    Action, Admission, Deployment, Group, HistoryEntry, HistorySegment, Manager, Mode, PackageId,
    Release, State, Status,
};
use p2pinst_types::{BlobRef, Cell, Hash, Kind, Millis, Version, codec, limits};
use rand::RngExt as _;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use serde::Serialize;

use super::liar;
use super::world::World;

/// The life in which the simulated administrators write.
const LIFE: u64 = 7;
/// Groups that they define again and again.
const GROUPS: [&str; 4] = ["gpu", "login", "storage", "edge"];

/// Something that is done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// An administrator publishes, and orders.
    Publish(usize),
    /// An administrator defines a group anew.
    Regroup(usize),
    /// A node reports on a deployment, and writes its history.
    Report(usize),
    /// Two different records of one number are given to two nodes.
    Equivocate,
    /// A machine joins.
    Join(usize),
    /// A member says what it likes to another.
    Lie,
}

impl World {
    /// The machine at which an administrator works.
    pub(crate) fn home(&self, operator: usize) -> usize {
        if operator == 0 { 0 } else { self.options.nodes.saturating_sub(operator) }
    }

    pub(crate) fn on_act(&mut self, act: Act) {
        match act {
            Act::Publish(operator) => self.publish(operator),
            Act::Regroup(operator) => self.regroup(operator),
            Act::Report(i) => self.report(i),
            Act::Equivocate => self.equivocate(),
            Act::Join(i) => self.join(i),
            Act::Lie => self.lie(),
        }
    }

    /// Signs the next record of a key at a node, as the command line does.
    fn sign_at<T: Serialize>(
        &self,
        home: usize,
        by: &SecretKey,
        (kind, subject): (Kind, &[u8]),
        record: &T,
    ) -> Option<Cell> {
        let world = self.millis();
        let node = self.node(home)?;
        let store = node.store.as_ref()?;
        let seq = store.head(&by.public()).seq + 1;
        let at = (Version { incarnation: LIFE, seq }, store.next_hlc(node.now(world)));
        Some(self.cast.lab.sign(by, (kind, subject), at, codec::encode(record).ok()?))
    }

    /// Gives a cell to a node: what it takes must never be lost.
    fn submit(&mut self, home: usize, cell: Cell) {
        let world = self.millis();
        let Some(node) = self.nodes.get_mut(home) else { return };
        let (taken, effects) = node.submit(cell.clone(), world);
        self.note(format_args!("n{home} submit {} {} {taken}", cell.id.kind, cell.hash().short()));
        if taken {
            self.ledger.versions.entry(cell.id.clone()).or_default().push(cell.clone());
            self.ledger.acknowledged.push((home, cell));
        }
        self.carry_out(home, effects);
        self.pump(home);
    }

    fn publish(&mut self, operator: usize) {
        let home = self.home(operator);
        let Some(by) = self.cast.operators.get(operator).cloned() else { return };
        let version = format!("1.{}", self.ledger.acknowledged.len());
        let Some(release) = release("hello", &version) else { return };
        let Ok(manifest) = codec::encode(&release) else { return };
        let id = Release::id(&manifest);
        let Some(cell) = self.sign_at(home, &by, (Kind::RELEASE, id.0.as_bytes()), &release) else {
            return; // it is down
        };
        self.submit(home, cell);
        let group = GROUPS.choose(&mut self.rng).copied().unwrap_or("all");
        let order = Deployment {
            number: self.ledger.acknowledged.len() as u64,
            release: id,
            group: name(group),
            mode: Mode::Urgent,
            allow_downgrade: false,
            holders: Vec::new(),
            shards: 1,
            preheat: false,
            limit: None,
        };
        let Ok(payload) = codec::encode(&order) else { return };
        let id = Deployment::id(&by.public(), &payload);
        if let Some(cell) = self.sign_at(home, &by, (Kind::DEPLOYMENT, id.as_bytes()), &order) {
            self.submit(home, cell);
        }
    }

    fn regroup(&mut self, operator: usize) {
        let home = self.home(operator);
        let Some(by) = self.cast.operators.get(operator).cloned() else { return };
        let called = GROUPS.choose(&mut self.rng).copied().unwrap_or("gpu");
        let Some(group) = self.group() else { return };
        if let Some(cell) = self.sign_at(home, &by, (Kind::GROUP, called.as_bytes()), &group) {
            self.submit(home, cell);
        }
    }

    fn group(&mut self) -> Option<Group> {
        let (low, width) = (self.rng.random_range(0..20), self.rng.random_range(0..20));
        let hosts = format!("n[{low}-{}]", low + width).parse().ok()?;
        Some(Group::new(String::new(), Some(hosts), None))
    }

    fn report(&mut self, i: usize) {
        let (at, world) = (self.queue.now(), self.millis());
        let Some(node) = self.nodes.get_mut(i).filter(|n| n.is_honest()) else { return };
        let (now, machine) = (node.now(world), node.machine);
        let Some(views) = node.views() else { return };
        let Some(order) = views.orders.iter().choose(&mut self.rng) else { return };
        let state = State::ALL.choose(&mut self.rng).copied().unwrap_or(State::Pending);
        let attempt = self.rng.random_range(1..5);
        let status = Status {
            state,
            attempt,
            detail: String::new(),
            reached: vec![(state, now)],
            transfer: None,
        };
        let place = (Kind::STATUS, order.id.as_bytes().as_slice(), machine.as_bytes().as_slice());
        let written = node.write(place, &status, (at, world));
        let entry = HistoryEntry {
            at: now,
            deployment: order.id,
            release: order.deployment.release,
            package: order.release.package.clone(),
            action: Action::Install,
            old_version: None,
            outcome: state,
            exit_code: Some(0),
            millis: 1200,
            log: "Setting up hello".repeat(self.rng.random_range(1..80)),
        };
        let history =
            node.store.as_ref().and_then(|s| s.data(Kind::HISTORY, machine.as_bytes()).ok());
        let (slot, segment) = append(history.unwrap_or_default(), entry);
        let place = (Kind::HISTORY, machine.as_bytes().as_slice(), slot.as_slice());
        let appended = node.write(place, &segment, (at, world));
        for cell in written.into_iter().chain(appended) {
            self.note(format_args!("n{i} writes {} {}", cell.id.kind, cell.hash().short()));
            self.ledger.versions.entry(cell.id.clone()).or_default().push(cell.clone());
            self.ledger.written.insert(cell.id.clone(), (i, cell));
        }
        self.pump(i);
    }

    fn equivocate(&mut self) {
        let Some(eve) = self.cast.operators.last().cloned() else { return };
        let homes: Vec<usize> = self.honest();
        let (Some(a), Some(b)) = (homes.first().copied(), homes.last().copied()) else { return };
        let [Some(one), Some(two)] = [self.group(), self.group()] else { return };
        let first = self.sign_at(a, &eve, (Kind::GROUP, b"eve"), &one);
        let Some(first) = first else { return };
        let other = if self.rng.random_bool(0.5) { b"eve".as_slice() } else { b"evelyn" };
        let at = (first.version, first.hlc);
        let Ok(payload) = codec::encode(&two) else { return };
        let second = self.cast.lab.sign(&eve, (Kind::GROUP, other), at, payload);
        for (home, cell) in [(a, first), (b, second)] {
            let Some(node) = self.nodes.get_mut(home) else { continue };
            let world =
                super::cast::BEGIN.after(std::time::Duration::from_micros(self.queue.now()));
            let (taken, effects) = node.submit(cell, world);
            self.note(format_args!("n{home} takes one of two: {taken}"));
            self.carry_out(home, effects);
            self.pump(home);
        }
    }

    /// The first member that a machine meets admits it.
    fn join(&mut self, i: usize) {
        let Some((machine, _)) = self.cast.machines.get(i).cloned() else { return };
        let members = self.honest();
        let Some(by) = members.choose(&mut self.rng).copied() else { return };
        let when = (self.queue.now(), self.millis());
        let admission =
            Admission { machine: machine_id(&machine.signed), cert: machine.signed.clone() };
        let place = (Kind::ADMISSION, machine.cert.node.as_bytes().as_slice(), [].as_slice());
        let cell = self.nodes.get_mut(by).and_then(|n| n.write(place, &admission, when));
        let Some(cell) = cell else { return };
        self.note(format_args!("n{by} admits n{i}"));
        self.ledger.acknowledged.push((by, cell.clone()));
        self.carry_out(by, vec![super::node::Effect::Gossip(cell, None)]);
        self.start(i);
        self.pump(by);
    }

    fn lie(&mut self) {
        let liars: Vec<usize> = (0..self.nodes.len())
            .filter(|i| self.nodes.get(*i).is_some_and(|n| n.liar && n.is_up()))
            .collect();
        for liar in liars {
            let known: Vec<Cell> = self.ledger.versions.values().flatten().cloned().collect();
            let Some(node) = self.nodes.get(liar) else { continue };
            let Some(to) = node.peers.iter().copied().choose(&mut self.rng) else { continue };
            let now: Millis = node.now(self.millis());
            let packet = liar::packet(&mut self.rng, &self.cast, &known, now);
            self.note(format_args!("n{liar} lies to n{to}"));
            self.send(liar, to, packet);
        }
    }
}

/// A release of a package that does not exist.
pub(crate) fn release(package: &str, version: &str) -> Option<Release> {
    Some(Release {
        package: PackageId {
            manager: Manager::Dpkg,
            name: package.to_owned(),
            version: version.to_owned(),
            architecture: "all".to_owned(),
        },
        file: format!("{package}_{version}_all.deb"),
        blob: BlobRef::new(Hash::of(version.as_bytes()), 1000).ok()?,
    })
}

/// The segment that an entry goes to, and its slot: the last one, or a new one when that is full.
pub(crate) fn append(history: Vec<Cell>, entry: HistoryEntry) -> (Vec<u8>, HistorySegment) {
    let number = |c: &Cell| c.id.slot.as_slice().try_into().ok().map(u64::from_be_bytes);
    let last = history.into_iter().max_by_key(number);
    let open = last.as_ref().and_then(|c| Some((number(c)?, c.record::<HistorySegment>().ok()?)));
    let (at, mut segment) =
        open.unwrap_or((0, HistorySegment { previous: None, entries: Vec::new() }));
    segment.entries.push(entry.clone());
    if codec::encode(&segment).is_ok_and(|b| b.len() <= limits::CELL_PAYLOAD) {
        return (at.to_be_bytes().to_vec(), segment);
    }
    let previous = last.map(|c| Hash::of(c.payload()));
    ((at + 1).to_be_bytes().to_vec(), HistorySegment { previous, entries: vec![entry] })
}
