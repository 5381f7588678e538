//! Power: the controllers of machines, what is ordered of their power, and who may read the credentials.

use std::collections::BTreeSet;

use p2pinst_types::record::{Controller, PowerOrder, Role, Sealed};
use p2pinst_types::{Hash, Hlc, MachineId, Millis, PowerOrderId, PublicKey, limits};

use super::{Entry, Views};
use crate::record::Record;

/// By what a machine's power is switched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controlled {
    /// As the operator wrote it.
    pub controller: Controller,
    /// Who wrote it.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
    /// The hash of its cell: what is sealed anew names it.
    pub cell: Hash,
    /// Its credentials, as they were sealed anew last, by whom.
    pub resealed: Option<(PublicKey, Sealed)>,
}

impl Controlled {
    /// The credentials: as they were sealed last.
    #[must_use]
    pub fn sealed(&self) -> Option<&Sealed> {
        let first = self.controller.sealed.as_ref()?;
        Some(self.resealed.as_ref().map_or(first, |(_, sealed)| sealed))
    }

    /// Where credentials may be that a node can open: as they were sealed last, and first.
    pub fn sealings(&self) -> impl Iterator<Item = &Sealed> {
        let last = self.resealed.as_ref().map(|(_, sealed)| sealed);
        last.into_iter().chain(self.controller.sealed.as_ref())
    }

    /// Whether the credentials are sealed to others than these.
    #[must_use]
    pub fn is_sealed_to_others(&self, nodes: &BTreeSet<PublicKey>) -> bool {
        self.sealed().is_some_and(|sealed| !sealed.keys.keys().eq(nodes))
    }
}

/// What was ordered last of a machine's power.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerOrdered {
    /// The order's id.
    pub id: PowerOrderId,
    /// What was ordered.
    pub order: PowerOrder,
    /// Who ordered.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
}

impl PowerOrdered {
    /// Whether its time is not over; whether it is done is for the reports to say.
    #[must_use]
    pub fn is_open(&self, now: Millis) -> bool {
        now <= self.order.not_after
    }
}

impl Views {
    /// After the grants.
    pub(super) fn fold_power(&mut self, sorted: &[&Entry]) {
        for entry in sorted {
            let (author, hlc) = (entry.cell.id.author, entry.cell.hlc);
            if !matches!(entry.record, Record::Controller(..) | Record::PowerOrder(..))
                || !self.authorised(&entry.cell, &[Role::Operator])
            {
                continue;
            }
            // sorted by time: the newest stays
            match &entry.record {
                Record::Controller(machine, controller) => {
                    let cell = entry.cell.hash();
                    let controller = controller.clone();
                    let new = Controlled { controller, author, hlc, cell, resealed: None };
                    self.controllers.insert(*machine, new);
                }
                Record::PowerOrder(machine, id, order) => {
                    let new = PowerOrdered { id: *id, order: order.clone(), author, hlc };
                    self.power_orders.insert(*machine, new);
                }
                _ => {}
            }
        }
        self.controllers.retain(|_, c| !c.controller.line.is_empty());
        for entry in sorted {
            let Record::Resealed(machine, resealed) = &entry.record else { continue };
            if self.authorised(&entry.cell, &[Role::Power])
                && let Some(known) = self.controllers.get_mut(machine)
                && known.cell == resealed.of
                && known.controller.sealed.is_some()
            {
                known.resealed = Some((entry.cell.id.author, resealed.sealed.clone()));
            }
        }
    }

    /// The nodes with the power role: members of the roster whose keys have a grant. Of more than a secret can be sealed to,
    /// those with the lowest keys.
    #[must_use]
    pub fn power_nodes(&self, now: Hlc) -> BTreeSet<PublicKey> {
        let granted = self.grants.keys().filter(|key| self.machine_of(key).is_some());
        let able = granted.filter(|key| self.roles(key, now).contains(&Role::Power));
        able.take(limits::SEALED_KEYS).copied().collect()
    }

    /// Whether a machine's power can be switched.
    #[must_use]
    pub fn controller_of(&self, machine: &MachineId) -> Option<&Controlled> {
        self.controllers.get(machine)
    }
}
