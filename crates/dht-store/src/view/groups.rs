//! Groups: of several definitions the newest counts, of several edits of a machine the newest.
//!
//! An author has one definition of a group; a later one replaces it. So nothing here may depend on
//! what was replaced: a definition carries all that must be remembered of those before it
//! (`after`, `floor`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use p2pinst_types::record::{Adoption, Group, GroupEdit, Role};
use p2pinst_types::{Hlc, Labels, MachineId, Name, PublicKey};

use super::{Entry, Machine, Views};
use crate::record::Record;

/// One author's definition of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The definition.
    pub group: Group,
    /// Who wrote it.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
}

/// An edit that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditInfo {
    /// The edit.
    pub edit: GroupEdit,
    /// Who wrote it.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
}

/// A group: the definition that counts, and what was added and taken out by itself.
#[derive(Debug, Clone)]
pub struct GroupInfo {
    /// The definition.
    pub group: Group,
    /// Who wrote it.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
    /// The edits that count, one of each term, the newest first: the first that matches a machine
    /// decides. Of equally old ones those that take out come first.
    pub edits: Vec<EditInfo>,
    /// Definitions of others that the writer of the counting one did not know, and that say
    /// something else: oldest first. The next definition by somebody who knows them settles it.
    pub concurrent: Vec<Definition>,
}

/// What the next definition of a group is to carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupHead {
    /// The time of the newest definition: the next one's `after`.
    pub after: Hlc,
    /// The floor of one that leaves the edits as they are.
    pub floor: Hlc,
    /// The floor of one that says all by itself: no edit that is known here counts beside it.
    pub clean: Hlc,
}

impl Views {
    pub(super) fn fold_groups(&mut self, sorted: &[&Entry]) {
        let mut definitions: BTreeMap<&Name, Vec<Definition>> = BTreeMap::new();
        let mut edits: BTreeMap<&Name, Vec<EditInfo>> = BTreeMap::new();
        for entry in sorted {
            let (author, hlc) = (entry.cell.id.author, entry.cell.hlc);
            match &entry.record {
                Record::Group(name, group) if self.authorised(&entry.cell, &[Role::Operator]) => {
                    let group = group.clone();
                    definitions.entry(name).or_default().push(Definition { group, author, hlc });
                }
                Record::GroupEdit(name, edit)
                    if self.authorised(&entry.cell, &[Role::Operator]) =>
                {
                    let edit = edit.clone();
                    edits.entry(name).or_default().push(EditInfo { edit, author, hlc });
                    self.newest_edits.insert(name.clone(), hlc); // sorted by time
                }
                Record::GroupPolicy(name, policy)
                    if self.authorised(&entry.cell, &[Role::Operator]) =>
                {
                    self.policies.insert(name.clone(), *policy);
                }
                _ => {}
            }
        }
        for (name, definitions) in definitions {
            let edits = edits.remove(name).unwrap_or_default();
            let Some(info) = GroupInfo::fold(definitions, edits) else { continue };
            let removed = info.group.removed;
            let groups = if removed { &mut self.removed_groups } else { &mut self.groups };
            groups.insert(name.clone(), info);
        }
    }

    /// Whether there is such a group.
    #[must_use]
    pub fn has_group(&self, name: &Name) -> bool {
        *name == Name::all() || self.groups.contains_key(name)
    }

    /// Whether a machine is in a group. A pure function of roster and cells.
    #[must_use]
    pub fn is_member(&self, machine: &Machine, group: &Name) -> bool {
        let addresses: Vec<Ipv4Addr> = machine.ipv4().collect();
        let has =
            |info: &GroupInfo| info.has(&machine.name, &machine.site, &machine.labels, &addresses);
        *group == Name::all() || self.groups.get(group).is_some_and(has)
    }

    /// Whether a machine that was adopted belongs into a group, by what it is called.
    #[must_use]
    pub fn is_bare_member(&self, adoption: &Adoption, group: &Name) -> bool {
        let has =
            |info: &GroupInfo| info.has(&adoption.name, &adoption.site, &adoption.labels, &[]);
        *group == Name::all() || self.groups.get(group).is_some_and(has)
    }

    /// The groups that a machine is in, member or adopted, `all` among them; none of one that is not known.
    #[must_use]
    pub fn groups_of(&self, machine: &MachineId) -> BTreeSet<Name> {
        let is_in = |group: &&Name| match (self.machines.get(machine), self.adopted.get(machine)) {
            (Some(member), _) => self.is_member(member, group),
            (None, Some(adopted)) => self.is_bare_member(&adopted.adoption, group),
            (None, None) => false,
        };
        let all = Name::all();
        self.groups.keys().chain([&all]).filter(is_in).cloned().collect()
    }

    /// The group because of which the scout of a machine must know a code: one that the machine is in, or would be in with
    /// these properties. A group that names addresses knows those of members only. Who is in a group that a newer version has
    /// defined is not known: then everybody is asked.
    #[must_use]
    pub fn asks_for_code(
        &self,
        machine: &MachineId,
        (name, site, labels): (&Name, &Name, &Labels),
    ) -> Option<&Name> {
        let will_be = |info: &GroupInfo| info.has(name, site, labels, &[]);
        let member = self.machines.get(machine);
        let bare = self.adopted.get(machine).filter(|_| member.is_none());
        let asking = self.policies.iter().filter(|(_, policy)| policy.console_code);
        asking.map(|(group, _)| group).find(|group| {
            **group == Name::all()
                || self.groups.get(*group).is_some_and(will_be)
                || member.is_some_and(|m| self.is_member(m, group))
                || bare.is_some_and(|a| self.is_bare_member(&a.adoption, group))
                || self.group_needs(group).is_some()
        })
    }

    /// The members of a group, in the order of their ids.
    pub fn members<'a>(&'a self, group: &'a Name) -> impl Iterator<Item = &'a Machine> {
        self.machines.values().filter(move |m| self.is_member(m, group))
    }

    /// What the next definition of a group is to carry, of one that is not known here too.
    #[must_use]
    pub fn group_head(&self, name: &Name) -> GroupHead {
        let newest_edit = self.newest_edits.get(name).copied().unwrap_or_default();
        if let Some(info) = self.groups.get(name) {
            let floor = info.group.floor;
            return GroupHead { after: info.hlc, floor, clean: floor.max(newest_edit) };
        }
        let after = self.removed_groups.get(name).map(|info| info.hlc).unwrap_or_default();
        // a group that is founded anew begins without the edits of old
        let clean = after.max(newest_edit);
        GroupHead { after, floor: clean, clean }
    }
}

impl GroupInfo {
    /// From all definitions (one per author) and edits, both in a total order of time.
    fn fold(mut definitions: Vec<Definition>, mut edits: Vec<EditInfo>) -> Option<Self> {
        // on a tie the removal wins; the sort is stable, so the order stays total
        definitions.sort_by_key(|d| (d.hlc, d.group.removed));
        let Definition { group, author, hlc } = definitions.pop()?;
        let mut concurrent = definitions;
        concurrent.retain(|d| d.hlc > group.after && !d.group.says(&group));
        edits.retain(|e| e.hlc > group.floor);
        edits.sort_by_key(|e| Reverse((e.hlc, !e.edit.present)));
        let mut seen = BTreeSet::new();
        edits.retain(|e| seen.insert(e.edit.hosts.to_string()));
        Some(Self { group, author, hlc, edits, concurrent })
    }

    /// Whether a machine is in it.
    fn has(&self, name: &Name, site: &Name, labels: &Labels, addresses: &[Ipv4Addr]) -> bool {
        let edit = self.edits.iter().find(|e| e.edit.hosts.contains(name.as_str(), addresses));
        if let Some(edit) = edit {
            return edit.edit.present;
        }
        let hosts = self.group.hosts.as_ref();
        let select = self.group.select.as_ref();
        hosts.is_some_and(|h| h.contains(name.as_str(), addresses))
            || select.is_some_and(|s| s.matches(name, site, labels))
    }
}
