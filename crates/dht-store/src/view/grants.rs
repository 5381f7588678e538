//! Who has which power: grants, revocations, invites.

use std::collections::BTreeSet;

use p2pinst_trust::policy;
use p2pinst_types::record::{Grant, Invite, Role, Standing};
use p2pinst_types::{Cell, Hash, Hlc, Name, PublicKey, Version};

use super::{Entry, Views};
use crate::record::Record;

/// A grant that counts.
#[derive(Debug, Clone)]
pub struct GrantInfo {
    /// The grant.
    pub grant: Grant,
    /// Its cell: a part of the chain that nodes show.
    pub cell: Cell,
    /// The grants to the key that this one has replaced, oldest first: what was written under them
    /// stands.
    pub earlier: Vec<(Cell, Grant)>,
}

impl GrantInfo {
    /// The grant that was in force at a time; before the first, the first.
    #[must_use]
    pub fn at(&self, at: Hlc) -> &Grant {
        let earlier = self.earlier.iter().rev().find(|(cell, _)| cell.hlc <= at);
        match earlier.or(self.earlier.first()) {
            Some((_, grant)) if self.cell.hlc > at => grant,
            _ => &self.grant,
        }
    }

    /// The cells of all grants to the key, oldest first.
    pub fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.earlier.iter().map(|(cell, _)| cell).chain([&self.cell])
    }
}

/// An invite that counts.
#[derive(Debug, Clone)]
pub struct InviteInfo {
    /// The invite.
    pub invite: Invite,
    /// Its cell: a part of the chain that nodes show.
    pub cell: Cell,
    /// Machines that were admitted by it.
    pub used: u32,
}

/// A revocation that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// When.
    pub at: Hlc,
    /// The last cell of the key that counts; `None`: those dated before `at`.
    pub last_good: Option<Version>,
    /// Why, for people.
    pub reason: String,
    /// The cell that says so: by a root key, an operator, or the key itself.
    pub cell: Cell,
    /// Whether a root key says so.
    pub by_root: bool,
}

impl Revoked {
    /// Whether the revocation makes a cell of the key void.
    #[must_use]
    pub fn voids(&self, cell: &Cell) -> bool {
        self.last_good.map_or(cell.hlc > self.at, |last| cell.version > last)
    }
}

impl Views {
    /// Grants first: they say who may revoke; then revocations; then invites.
    pub(super) fn fold_grants(&mut self, sorted: &[&Entry]) {
        let standing = self.put_in_force(sorted);
        let mut names: BTreeSet<&Name> = BTreeSet::new();
        for entry in sorted {
            let Record::Grant(grant) = &entry.record else { continue };
            if !self.is_good(&entry.cell, grant, &standing.grants) {
                continue;
            }
            // a name belongs to the first key that got it; later grants to that key replace
            let ours = self.grants.get(&grant.key).is_some_and(|g| g.grant.name == grant.name);
            if !ours && !names.insert(&grant.name) {
                continue;
            }
            let mut earlier = Vec::new();
            if let Some(before) = self.grants.remove(&grant.key) {
                earlier = before.earlier;
                earlier.push((before.cell, before.grant));
            }
            let info = GrantInfo { grant: grant.clone(), cell: entry.cell.clone(), earlier };
            self.grants.insert(grant.key, info);
        }
        // R12: the root's first: one that reaches back makes an operator's revocations void. The
        // keys' own last: who is removed cannot say that it left before
        for by in [By::Root, By::Operator, By::Itself] {
            for entry in sorted {
                self.fold_revocation(entry, by, &standing.revocations);
            }
        }
        for entry in sorted {
            let Record::Invite(invite) = &entry.record else { continue };
            if self.authorised(&entry.cell, policy::roles_for_invite(invite)) {
                let info = InviteInfo { invite: invite.clone(), cell: entry.cell.clone(), used: 0 };
                self.invites.insert(invite.key, info);
            }
        }
    }

    /// Finds the root that is in force: the newest whose list of standing grants is here. Until
    /// the list has come, what counted before counts: a node that hears of a new root first must
    /// not take its own cluster for strangers. Returns the list.
    fn put_in_force(&mut self, sorted: &[&Entry]) -> Standing {
        let list = |id: &Hash| {
            sorted.iter().find_map(|e| match &e.record {
                Record::Standing(of, list) if of == id => Some(list.clone()),
                _ => None,
            })
        };
        for doc in self.roots.docs().iter().skip(1).rev() {
            let found = match &doc.standing {
                None => Some(Standing::default()),
                Some(id) => list(id),
            };
            if let Some(standing) = found {
                self.root_in_force = doc.version;
                return standing;
            }
        }
        Standing::default()
    }

    /// R12: a grant counts when it is signed by the root in force, or a newer one, or is one that
    /// it took over. The keys of former roots give no power any more.
    fn is_good(&self, cell: &Cell, grant: &Grant, standing: &BTreeSet<Hash>) -> bool {
        let stands = || standing.contains(&cell.hash());
        policy::check_grant_from(&self.roots, self.root_in_force, cell, grant).is_ok()
            || (stands() && policy::check_grant(&self.roots, cell, grant).is_ok())
    }

    /// R16: whether the author of a new revocation may revoke this key: the root any key, operators
    /// invites and nodes, a node itself.
    #[must_use]
    pub fn may_revoke(&self, cell: &Cell, key: &PublicKey) -> bool {
        let by = [By::Root, By::Operator, By::Itself];
        by.into_iter().any(|by| self.may_revoke_as(cell, key, by, &BTreeSet::new()))
    }

    /// R12: whether a key of the root in force, or of a newer one, has signed this. What the keys
    /// of former roots have revoked counts when the root in force took it over.
    fn is_by_root(&self, cell: &Cell, standing: &BTreeSet<Hash>) -> bool {
        let mut docs = self.roots.docs().iter();
        docs.any(|d| d.version >= self.root_in_force && d.keys.contains(&cell.id.author))
            || (standing.contains(&cell.hash()) && self.roots.has_key(&cell.id.author))
    }

    /// The revocations by root keys that count: what a new root has to take over.
    pub fn root_revocations(&self) -> impl Iterator<Item = &Cell> {
        self.revoked.values().filter(|r| r.by_root).map(|r| &r.cell)
    }

    fn may_revoke_as(
        &self,
        cell: &Cell,
        key: &PublicKey,
        by: By,
        standing: &BTreeSet<Hash>,
    ) -> bool {
        let is_root = self.is_by_root(cell, standing);
        let of_grant = self.grants.contains_key(key) || self.roots.has_key(key);
        match by {
            By::Root => is_root,
            By::Operator => !is_root && !of_grant && self.authorised(cell, &[Role::Operator]),
            By::Itself => !is_root && !of_grant && cell.id.author == *key,
        }
    }

    fn fold_revocation(&mut self, entry: &Entry, by: By, standing: &BTreeSet<Hash>) {
        let Record::Revocation(revocation) = &entry.record else { return };
        let (cell, key) = (&entry.cell, revocation.key);
        if !self.may_revoke_as(cell, &key, by, standing) {
            return;
        }
        let revoked = Revoked {
            at: cell.hlc,
            // a node that leaves takes back nothing that it did, whatever it dates its farewell
            last_good: if by == By::Itself { Some(cell.version) } else { revocation.last_good },
            reason: revocation.reason.clone(),
            cell: cell.clone(),
            by_root: by == By::Root,
        };
        // the first counts: a later one cannot give time back
        self.revoked.entry(key).or_insert(revoked);
    }
}

/// As what somebody revokes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Root,
    Operator,
    Itself,
}
