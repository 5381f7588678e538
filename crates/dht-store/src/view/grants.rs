//! Who has which power: grants, revocations, invites.

use std::collections::BTreeSet;

use p2pinst_trust::policy;
use p2pinst_types::record::{Grant, Invite, Role};
use p2pinst_types::{Cell, Hlc, Kind, Name, Version};

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
    pub earlier: Vec<(Hlc, Grant)>,
}

impl GrantInfo {
    /// The grant that was in force at a time; before the first, the first.
    #[must_use]
    pub fn at(&self, at: Hlc) -> &Grant {
        let earlier = self.earlier.iter().rev().find(|(from, _)| *from <= at);
        match earlier.or(self.earlier.first()) {
            Some((_, grant)) if self.cell.hlc > at => grant,
            _ => &self.grant,
        }
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
        let mut names: BTreeSet<&Name> = BTreeSet::new();
        for entry in sorted {
            let Record::Grant(grant) = &entry.record else { continue };
            if policy::check_grant(&self.roots, &entry.cell, grant).is_err() {
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
                earlier.push((before.cell.hlc, before.grant));
            }
            let info = GrantInfo { grant: grant.clone(), cell: entry.cell.clone(), earlier };
            self.grants.insert(grant.key, info);
        }
        // R12: the root's first: one that reaches back makes an operator's revocations void
        for by_root in [true, false] {
            for entry in sorted {
                self.fold_revocation(entry, by_root);
            }
        }
        for entry in sorted {
            let Record::Invite(invite) = &entry.record else { continue };
            if self.authorised(&entry.cell, policy::roles_for(Kind::INVITE)) {
                let info = InviteInfo { invite: invite.clone(), cell: entry.cell.clone(), used: 0 };
                self.invites.insert(invite.key, info);
            }
        }
    }

    fn fold_revocation(&mut self, entry: &Entry, by_root: bool) {
        let Record::Revocation(revocation) = &entry.record else { return };
        let (cell, key) = (&entry.cell, revocation.key);
        // any version of the root, as for grants: a rotation undoes neither
        if self.roots.has_key(&cell.id.author) != by_root {
            return;
        }
        // R16: only the root revokes keys with a grant; operators revoke invites and nodes
        let of_grant = self.grants.contains_key(&key) || self.roots.has_key(&key);
        if !by_root && (of_grant || !self.authorised(cell, &[Role::Operator])) {
            return;
        }
        let revoked = Revoked {
            at: cell.hlc,
            last_good: revocation.last_good,
            reason: revocation.reason.clone(),
        };
        // the first counts: a later one cannot give time back
        self.revoked.entry(key).or_insert(revoked);
    }
}
