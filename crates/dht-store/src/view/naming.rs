//! What administrators call the machines of the roster: later names, and labels.
//!
//! Names are taken in the order of time, together with the admissions: of two that claim one name
//! the earlier has it. The later is void, and its machine keeps the name it had. Labels have no
//! such conflicts: the newest edit of each key counts, whoever wrote it.

use std::collections::BTreeMap;

use p2pinst_types::record::{LabelEdit, Role};
use p2pinst_types::{Cell, Hlc, MachineId, Name, limits};

use super::{Entry, Views};
use crate::record::Record;

impl Views {
    /// Gives a machine another name, if an operator says so and the name is free at that time.
    pub(super) fn fold_name(&mut self, cell: &Cell, id: MachineId, name: &Name) {
        let Some(machine) = self.machines.get(&id) else { return };
        let gone = |m: &MachineId| {
            let node = self.machines.get(m).map(|m| m.node.0);
            node.and_then(|n| self.revoked.get(&n)).is_some_and(|r| r.at < cell.hlc)
        };
        // a machine that was revoked before leaves its name to others, and gets no new one
        let taken = self.by_name.get(name).is_some_and(|m| *m != id && !gone(m));
        if taken || gone(&id) || !self.authorised(cell, &[Role::Operator]) {
            return;
        }
        let former = machine.name.clone();
        if self.by_name.get(&former) == Some(&id) {
            self.by_name.remove(&former);
        }
        self.by_name.insert(name.clone(), id);
        if let Some(machine) = self.machines.get_mut(&id) {
            machine.name.clone_from(name);
        }
    }

    /// The labels of the certificate, overlaid by the newest edit of each key. Of two edits of one
    /// time the removal wins, then the hash. A machine that has as many labels as it may gets no
    /// more.
    pub(super) fn fold_labels(&mut self, sorted: &[&Entry]) {
        let mut newest: BTreeMap<(MachineId, &Name), (Hlc, &LabelEdit)> = BTreeMap::new();
        // sorted by time and hash: the last one stays
        for entry in sorted {
            let Record::Label(machine, edit) = &entry.record else { continue };
            let at = entry.cell.hlc;
            let known = newest.get(&(*machine, &edit.key));
            let removed = known.is_some_and(|(then, e)| *then == at && e.value.is_none());
            if !removed && self.authorised(&entry.cell, &[Role::Operator]) {
                newest.insert((*machine, &edit.key), (at, edit));
            }
        }
        let mut edits: Vec<_> = newest.into_iter().collect();
        // what makes room comes first; then the elder
        edits.sort_by_key(|((machine, key), (at, edit))| {
            (edit.value.is_some(), *at, *machine, (*key).clone())
        });
        for ((machine, key), (_, edit)) in edits {
            let member = self.machines.get_mut(&machine).map(|m| &mut m.labels);
            let bare = self.adopted.get_mut(&machine).map(|a| &mut a.adoption.labels);
            for labels in member.into_iter().chain(bare) {
                match &edit.value {
                    None => drop(labels.remove(key)),
                    Some(value) => {
                        if labels.len() < limits::LABELS || labels.contains_key(key) {
                            labels.insert(key.clone(), value.clone());
                        }
                    }
                }
            }
        }
    }
}
