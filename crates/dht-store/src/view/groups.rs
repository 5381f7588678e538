//! Groups: the newest definition of each name, and who is in it.

use std::net::Ipv4Addr;

use p2pinst_types::record::{Group, Role};
use p2pinst_types::{Hlc, Name, PublicKey};

use super::{Entry, Machine, Views};
use crate::record::Record;

/// A group's definition that counts: the newest by clock.
#[derive(Debug, Clone)]
pub struct GroupInfo {
    /// The definition.
    pub group: Group,
    /// Who wrote it.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
}

impl Views {
    pub(super) fn fold_groups(&mut self, sorted: &[&Entry]) {
        // sorted by time: the last one stays
        for entry in sorted {
            let Record::Group(name, group) = &entry.record else { continue };
            if self.authorised(&entry.cell, &[Role::Operator]) {
                let info = GroupInfo {
                    group: group.clone(),
                    author: entry.cell.id.author,
                    hlc: entry.cell.hlc,
                };
                self.groups.insert(name.clone(), info);
            }
        }
    }

    /// Whether there is such a group.
    #[must_use]
    pub fn has_group(&self, name: &Name) -> bool {
        *name == Name::all() || self.groups.contains_key(name)
    }

    /// Whether a machine is in a group. A pure function of roster and definition.
    #[must_use]
    pub fn is_member(&self, machine: &Machine, group: &Name) -> bool {
        if *group == Name::all() {
            return true;
        }
        let Some(info) = self.groups.get(group) else { return false };
        let addresses: Vec<Ipv4Addr> = machine.ipv4().collect();
        let by_host = info
            .group
            .hosts
            .as_ref()
            .is_some_and(|hosts| hosts.contains(machine.name.as_str(), &addresses));
        let by_label = info
            .group
            .select
            .as_ref()
            .is_some_and(|s| s.matches(&machine.name, &machine.site, &machine.labels));
        by_host || by_label
    }

    /// The members of a group, in the order of their ids.
    pub fn members<'a>(&'a self, group: &'a Name) -> impl Iterator<Item = &'a Machine> {
        self.machines.values().filter(move |m| self.is_member(m, group))
    }
}
