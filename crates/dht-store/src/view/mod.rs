//! Views: what the cells of the control plane mean, folded from all of them at once.
//!
//! A pure function of the set of cells and the chain of roots: equal sets give equal views on
//! every node, in whatever order the cells came. Nobody writes a view.

mod boot;
mod grants;
mod groups;
mod naming;
mod newer;
mod orders;
mod power;
mod roster;

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_trust::{Refusal, RootChain};
use p2pinst_types::record::{GroupPolicy, Release, Role, Setup};
use p2pinst_types::{
    AssignmentId, Cell, DeploymentId, Hash, Hlc, ImageId, Mac, MachineId, Name, PublicKey,
    ReleaseId, SetupId,
};

pub use boot::{Adopted, Assigned, Published, Scout, Sighted};
pub use grants::{GrantInfo, InviteInfo, Revoked};
pub use groups::{Definition, EditInfo, GroupHead, GroupInfo};
pub use newer::{Blocked, Newer};
pub use orders::Order;
pub use power::{Controlled, PowerOrdered};
pub use roster::Machine;

use crate::record::Record;

/// A cell of the control plane and what it says.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The cell.
    pub cell: Cell,
    /// Its payload.
    pub record: Record,
}

/// Everything that the control plane says.
#[derive(Debug, Clone)]
pub struct Views {
    /// The chain of roots.
    pub roots: RootChain,
    /// Grants by key, revoked and expired ones too.
    pub grants: BTreeMap<PublicKey, GrantInfo>,
    /// Revocations by key.
    pub revoked: BTreeMap<PublicKey, Revoked>,
    /// Invites by key.
    pub invites: BTreeMap<PublicKey, InviteInfo>,
    /// The roster.
    pub machines: BTreeMap<MachineId, Machine>,
    /// Admissions that do not count, by node key, and why.
    pub void: BTreeMap<PublicKey, Refusal>,
    /// Node keys that were members until they were revoked, and of which machine.
    pub former: BTreeMap<PublicKey, MachineId>,
    /// When the systems of machines that were installed anew were replaced, by their node keys.
    replaced: BTreeMap<PublicKey, Hlc>,
    /// Machines that were put out and not taken in again, as they were.
    pub gone: BTreeMap<MachineId, Machine>,
    /// The version of the root that is in force here; newer ones wait for the list of the grants
    /// that go on.
    pub root_in_force: u64,
    by_node: BTreeMap<PublicKey, MachineId>,
    by_name: BTreeMap<Name, MachineId>,
    /// Machines that were adopted, also those whose own system has joined since.
    pub adopted: BTreeMap<MachineId, Adopted>,
    by_mac: BTreeMap<Mac, MachineId>,
    /// Images by id.
    pub images: BTreeMap<ImageId, Published>,
    /// The files of images that were removed, and that no other image has: nobody needs to keep them.
    pub removed_blobs: BTreeSet<Hash>,
    /// Host setups by id.
    pub setups: BTreeMap<SetupId, Setup>,
    /// All assignments, also those that are over.
    pub assignments: BTreeMap<AssignmentId, Assigned>,
    current: BTreeMap<MachineId, AssignmentId>,
    /// Scouts by node key: the latest of each machine.
    scouts: BTreeMap<PublicKey, Scout>,
    /// What was seen of interfaces that belong to no machine.
    pub sightings: BTreeMap<Mac, Sighted>,
    /// The controllers of machines.
    pub controllers: BTreeMap<MachineId, Controlled>,
    /// The newest order about the power of each machine, also those that are over.
    pub power_orders: BTreeMap<MachineId, PowerOrdered>,
    /// Groups by name, without the built-in group `all`.
    pub groups: BTreeMap<Name, GroupInfo>,
    /// Groups that were taken away: nobody is in them.
    pub removed_groups: BTreeMap<Name, GroupInfo>,
    /// What groups ask of machines that are installed into them, by the group's name, `all` and removed ones too.
    pub policies: BTreeMap<Name, GroupPolicy>,
    /// The time of the newest edit of each group.
    newest_edits: BTreeMap<Name, Hlc>,
    /// Releases by id.
    pub releases: BTreeMap<ReleaseId, Release>,
    /// Orders whose release is known, in the order of time.
    pub orders: Vec<Order>,
    /// Orders of retired deployments, in the order of time: nothing is installed because of them any
    /// more, and what they had superseded stays so.
    pub over: Vec<Order>,
    /// Deployments that are over.
    pub retired: BTreeSet<DeploymentId>,
    /// Cells of a kind or format that this version does not know.
    pub unknown: usize,
    /// Those of them that count: the latest, latest first.
    pub newer: Vec<Newer>,
    /// Orders whose release is among them.
    pub blocked: Vec<Blocked>,
    /// Keys that are proved, to this node, to have signed two cells of one version.
    pub equivocators: BTreeSet<PublicKey>,
}

impl Views {
    /// Folds the views from all cells.
    pub fn fold<'a>(roots: &RootChain, cells: impl Iterator<Item = &'a Entry>) -> Self {
        let mut sorted: Vec<&Entry> = cells.collect();
        // time order; hash as the last word, so that the order is total
        sorted.sort_by_cached_key(|e| (e.cell.hlc, e.cell.hash()));
        let mut views = Self {
            roots: roots.clone(),
            grants: BTreeMap::new(),
            revoked: BTreeMap::new(),
            invites: BTreeMap::new(),
            machines: BTreeMap::new(),
            void: BTreeMap::new(),
            former: BTreeMap::new(),
            replaced: BTreeMap::new(),
            gone: BTreeMap::new(),
            root_in_force: 1,
            by_node: BTreeMap::new(),
            by_name: BTreeMap::new(),
            adopted: BTreeMap::new(),
            by_mac: BTreeMap::new(),
            images: BTreeMap::new(),
            removed_blobs: BTreeSet::new(),
            setups: BTreeMap::new(),
            assignments: BTreeMap::new(),
            current: BTreeMap::new(),
            scouts: BTreeMap::new(),
            sightings: BTreeMap::new(),
            controllers: BTreeMap::new(),
            power_orders: BTreeMap::new(),
            groups: BTreeMap::new(),
            removed_groups: BTreeMap::new(),
            policies: BTreeMap::new(),
            newest_edits: BTreeMap::new(),
            releases: BTreeMap::new(),
            orders: Vec::new(),
            retired: BTreeSet::new(),
            over: Vec::new(),
            newer: Vec::new(),
            blocked: Vec::new(),
            equivocators: BTreeSet::new(),
            unknown: sorted.iter().filter(|e| e.record == Record::Opaque).count(),
        };
        views.fold_grants(&sorted);
        views.fold_boot(&sorted);
        views.fold_power(&sorted);
        views.fold_roster(&sorted);
        views.fold_labels(&sorted);
        views.fold_groups(&sorted);
        views.fold_newer(&sorted);
        views.fold_orders(&sorted);
        views.fold_blocked(&sorted);
        views
    }

    /// Whether `author` had one of the roles when it wrote `cell`, and is not revoked for it.
    #[must_use]
    pub fn authorised(&self, cell: &Cell, roles: &[Role]) -> bool {
        let author = &cell.id.author;
        let granted = self
            .grants
            .get(author)
            .is_some_and(|g| p2pinst_trust::policy::allows(g.at(cell.hlc), roles, cell.hlc));
        granted && !self.is_void(cell)
    }

    /// Whether a revocation makes this cell void.
    fn is_void(&self, cell: &Cell) -> bool {
        self.revoked.get(&cell.id.author).is_some_and(|r| r.voids(cell))
    }

    /// The machine that uses a node key now.
    #[must_use]
    pub fn machine_of(&self, node: &PublicKey) -> Option<&Machine> {
        self.by_node.get(node).and_then(|id| self.machines.get(id))
    }

    /// The machine of which a data-plane cell's author may write, if any: the one whose node it is,
    /// or was when it wrote.
    #[must_use]
    pub fn writes_of(&self, cell: &Cell) -> Option<MachineId> {
        let author = &cell.id.author;
        if let Some(machine) = self.by_node.get(author) {
            return Some(*machine);
        }
        // by the clock: what a revocation calls the last good cell is one of the control plane
        let until = self.revoked.get(author).map(|r| r.at).or(self.replaced.get(author).copied());
        let before = until.is_some_and(|end| cell.hlc <= end);
        self.former.get(author).filter(|_| before).copied()
    }

    /// Why a node is a member no more; `None` for members, and for those that never were.
    #[must_use]
    pub fn removal(&self, node: &PublicKey) -> Option<&Revoked> {
        self.revoked.get(node).filter(|_| self.former.contains_key(node))
    }

    /// The machine of a name.
    #[must_use]
    pub fn machine_named(&self, name: &Name) -> Option<&Machine> {
        self.by_name.get(name).and_then(|id| self.machines.get(id))
    }

    /// An order by the bytes of its id.
    #[must_use]
    pub fn order(&self, id: &[u8]) -> Option<&Order> {
        let id = DeploymentId::from_slice(id)?;
        self.orders.iter().find(|o| o.id == id)
    }

    /// Whether the subject of statuses is that of a deployment that is over.
    #[must_use]
    pub fn is_retired(&self, subject: &[u8]) -> bool {
        let id = subject.get(..DeploymentId::LEN).and_then(DeploymentId::from_slice);
        id.is_some_and(|id| self.retired.contains(&id))
    }

    /// The name of a key that has, or had, a grant.
    #[must_use]
    pub fn key_name(&self, key: &PublicKey) -> Option<&Name> {
        self.grants.get(key).map(|g| &g.grant.name)
    }

    /// The roles of a key for something written now.
    #[must_use]
    pub fn roles(&self, key: &PublicKey, now: Hlc) -> Vec<Role> {
        let Some(info) = self.grants.get(key) else { return Vec::new() };
        if self.revoked.contains_key(key) {
            return Vec::new();
        }
        let alive = |r: &Role| p2pinst_trust::policy::allows(&info.grant, &[*r], now);
        info.grant.roles.iter().copied().filter(alive).collect()
    }
}
