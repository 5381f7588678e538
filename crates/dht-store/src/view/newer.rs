//! What a newer version has written: cells of a kind or format that this one cannot read. They are
//! kept and passed on; what depends on them waits, everything else goes on.

use std::cmp::Ordering;

use p2pinst_types::record::{Deployment, Role};
use p2pinst_types::version::compare_debian;
use p2pinst_types::{Cell, DeploymentId, Hlc, Kind, Name, PublicKey, ReleaseId, codec};
use serde::Deserialize;

use super::{Entry, Machine, Order, Views};
use crate::record::Record;

/// Cells that the list has room for: the latest.
const LISTED: usize = 1024;
/// Longest version, in bytes.
const VERSION: usize = 64;
/// What stands for a version that the cell does not tell.
const UNTOLD: &str = "?";

/// A cell that needs a newer version of p2pinst, and counts: its author had the power to write of
/// such things, as far as this version knows which that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newer {
    /// Its kind.
    pub kind: Kind,
    /// Its subject.
    pub subject: Vec<u8>,
    /// The version of p2pinst that understands it; `?` when it does not say.
    pub needs: String,
    /// Who wrote it.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
}

/// An order whose release cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The deployment's id.
    pub id: DeploymentId,
    /// Who ordered.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
    /// What was ordered, to whom and how.
    pub deployment: Deployment,
    /// The version of p2pinst that understands the release.
    pub needs: String,
}

/// The frozen convention: the payload of every kind and format to come is a map with this field.
#[derive(Deserialize)]
struct Convention {
    needs: String,
}

fn needs_of(cell: &Cell) -> String {
    let told = codec::decode::<Convention>(cell.payload()).ok().map(|c| c.needs);
    let plain =
        |v: &String| !v.is_empty() && v.len() <= VERSION && v.bytes().all(|b| b.is_ascii_graphic());
    told.filter(plain).unwrap_or_else(|| UNTOLD.to_owned())
}

fn later<'a>(a: &'a str, b: &'a str) -> &'a str {
    match (a, b) {
        (UNTOLD, other) | (other, UNTOLD) => other,
        _ if compare_debian(a, b) == Ordering::Less => b,
        _ => a,
    }
}

impl Views {
    /// After grants and groups, before orders.
    pub(super) fn fold_newer(&mut self, sorted: &[&Entry]) {
        let cells = sorted.iter().filter(|e| e.record == Record::Opaque).map(|e| &e.cell);
        let roles = |c: &Cell| p2pinst_trust::policy::roles_for(c.id.kind);
        // what something may depend on takes a role to write; the rest, which any node may write in
        // any number, does not push it out
        let counts = |c: &&&Cell| !roles(c).is_empty() && self.authorised(c, roles(c));
        let cells: Vec<&Cell> = cells.rev().collect();
        let rest = cells.iter().filter(|c| roles(c).is_empty());
        let newer = cells.iter().filter(counts).chain(rest).take(LISTED).map(|c| Newer {
            kind: c.id.kind,
            subject: c.id.subject.to_vec(),
            needs: needs_of(c),
            author: c.id.author,
            hlc: c.hlc,
        });
        let newer: Vec<Newer> = newer.collect();
        self.newer = newer;
    }

    /// Orders of which only the release cannot be read; in the order of time.
    pub(super) fn fold_blocked(&mut self, sorted: &[&Entry]) {
        if self.newer.is_empty() {
            return;
        }
        let mut blocked = Vec::new();
        for entry in sorted {
            let Record::Deployment(id, deployment) = &entry.record else { continue };
            if self.releases.contains_key(&deployment.release) || self.retired.contains(id) {
                continue;
            }
            let Some(release) = self.newer_release(&deployment.release) else { continue };
            let needs = release.needs.clone();
            if self.authorised(&entry.cell, &[Role::Operator]) {
                let (author, hlc) = (entry.cell.id.author, entry.cell.hlc);
                let (id, deployment) = (*id, deployment.clone());
                blocked.push(Blocked { id, author, hlc, deployment, needs });
            }
        }
        self.blocked = blocked;
    }

    fn newer_release(&self, id: &ReleaseId) -> Option<&Newer> {
        self.newer.iter().find(|n| n.kind == Kind::RELEASE && n.subject == id.0.as_bytes())
    }

    /// The version of p2pinst that knows who is in a group; `None`: this one does. What is known
    /// here of the members is what an older definition said.
    #[must_use]
    pub fn group_needs(&self, name: &Name) -> Option<&str> {
        let of_group = |n: &&Newer| {
            [Kind::GROUP, Kind::GROUP_EDIT].contains(&n.kind)
                && n.subject == name.as_str().as_bytes()
        };
        let known = self.groups.get(name).map(|g| g.hlc);
        let unread = self.newer.iter().filter(of_group).filter(|n| known.is_none_or(|k| k < n.hlc));
        unread.map(|n| n.needs.as_str()).reduce(later)
    }

    /// The orders to a machine that wait for a newer version of p2pinst, and for which: those to a
    /// group or of a release that cannot be read.
    pub fn waiting_of<'a>(
        &'a self,
        machine: &'a Machine,
    ) -> impl Iterator<Item = (DeploymentId, &'a str)> + 'a {
        let blocked = self.blocked.iter();
        let blocked = blocked
            .filter(|b| self.is_member(machine, &b.deployment.group))
            .map(|b| (b.id, b.needs.as_str()));
        let in_group = |o: &'a Order| {
            let needs = self.group_needs(&o.deployment.group)?;
            self.is_member(machine, &o.deployment.group).then_some((o.id, needs))
        };
        let any = !self.newer.is_empty();
        blocked.chain(self.orders.iter().filter(move |_| any).filter_map(in_group))
    }

    /// The version of p2pinst that a machine needs in order to do all that is wanted of it; `None`:
    /// this one will do.
    #[must_use]
    pub fn needs_of(&self, machine: &Machine) -> Option<String> {
        self.waiting_of(machine).map(|(_, needs)| needs).reduce(later).map(str::to_owned)
    }

    /// What was ordered by a deployment, also when its release cannot be read.
    #[must_use]
    pub fn deployment(&self, id: &DeploymentId) -> Option<&Deployment> {
        let blocked = || self.blocked.iter().find(|b| b.id == *id).map(|b| &b.deployment);
        self.order(id.as_bytes()).map(|o| &o.deployment).or_else(blocked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_versions_the_later_is_needed() {
        assert_eq!(later("0.9", "0.10"), "0.10");
        assert_eq!(later("0.10", "0.9"), "0.10");
        assert_eq!(later(UNTOLD, "0.9"), "0.9");
        assert_eq!(later(UNTOLD, UNTOLD), UNTOLD);
    }
}
