//! Bare metal: machines that are known before they run anything, images, host setups, assignments, scouts.

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_trust::Refusal;
use p2pinst_types::record::{
    Adoption, Assignment, BootUse, Disarmament, Ended, Guise, Image, NodeCert, Role, Sighting, Task,
};
use p2pinst_types::{
    AssignmentId, Cell, Hlc, ImageId, Labels, Mac, MachineId, Millis, Name, NodeId, PublicKey,
};

use super::{Entry, InviteInfo, Views};
use crate::record::Record;

/// A machine that was adopted. Once its own system has joined, the roster has it too, under the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// What is known of it, its labels as they were edited since.
    pub adoption: Adoption,
    /// Who said so.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
}

/// A published image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The image.
    pub image: Image,
    /// Who published it.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
}

/// An unknown machine, as far as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighted {
    /// What was seen of it, and when last.
    pub sighting: Sighting,
    /// Who saw it last.
    pub by: PublicKey,
}

/// An assignment that counts, or counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Its id.
    pub id: AssignmentId,
    /// The machine.
    pub machine: MachineId,
    /// What was ordered.
    pub order: Assignment,
    /// Who ordered.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
    /// When and how it ended, if it did.
    pub ended: Option<(Hlc, Disarmament)>,
    /// When a newer order took its place, if one did.
    pub superseded: Option<Hlc>,
    /// When the machine's own system joined, if it did: that ends the order, whoever says so or not.
    pub joined: Option<Hlc>,
}

impl Assigned {
    /// Whether it was in force at a time: a machine that started over the network then got its scout.
    #[must_use]
    pub fn is_open(&self, at: Hlc) -> bool {
        let over = self.ended.as_ref().is_some_and(|(then, _)| *then <= at)
            || self.superseded.is_some_and(|then| then <= at);
        self.hlc <= at && !over && at.millis() <= self.order.not_after
    }

    /// Whether it is in force, as far as is known now.
    #[must_use]
    pub fn is_armed(&self, now: Millis) -> bool {
        self.ended.is_none() && self.superseded.is_none() && now <= self.order.not_after
    }
}

/// A scout: a machine that is being installed.
#[derive(Debug, Clone)]
pub struct Scout {
    /// The machine.
    pub machine: MachineId,
    /// The assignment that it carries out.
    pub assignment: AssignmentId,
    /// The key of its node.
    pub node: NodeId,
    /// The name of the machine.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// Its labels.
    pub labels: Labels,
    /// Where it listens.
    pub addrs: Vec<String>,
    /// When it was admitted.
    pub admitted: Hlc,
    /// It is nobody any more after this.
    pub not_after: Millis,
    /// The cell of its admission.
    pub cell: Cell,
}

impl Views {
    /// After the grants, before the roster.
    pub(super) fn fold_boot(&mut self, sorted: &[&Entry]) {
        let mut removed = BTreeSet::new();
        for entry in sorted {
            let (author, hlc) = (entry.cell.id.author, entry.cell.hlc);
            let operator = || self.authorised(&entry.cell, &[Role::Operator]);
            match &entry.record {
                Record::Adoption(machine, adoption) if operator() => {
                    // sorted by time: the newest stays
                    let adopted = Adopted { adoption: adoption.clone(), author, hlc };
                    self.adopted.insert(*machine, adopted);
                }
                Record::Setup(id, setup) if operator() => {
                    self.setups.insert(*id, setup.clone());
                }
                Record::Image(id, image) if self.authorised(&entry.cell, &[Role::Publisher]) => {
                    let published = Published { image: image.clone(), author, hlc };
                    self.images.insert(*id, published);
                }
                Record::ImageRemoval(removal)
                    if self.authorised(&entry.cell, &[Role::Publisher, Role::Operator]) =>
                {
                    removed.insert(removal.image);
                }
                Record::Sighting(sighting) if self.authorised(&entry.cell, &[Role::Boot]) => {
                    self.sight(sighting, author);
                }
                _ => {}
            }
        }
        self.remove_images(&removed);
        self.adopted.retain(|_, a| !a.adoption.removed);
        // of two machines with one interface the one that was adopted last has it
        let mut by_age: Vec<_> = self.adopted.iter().collect();
        by_age.sort_by_key(|(id, a)| (a.hlc, **id));
        let macs = by_age.into_iter().flat_map(|(id, a)| a.adoption.macs.iter().map(|m| (*m, *id)));
        self.by_mac = macs.collect();
        let (by_mac, adopted) = (&self.by_mac, &self.adopted);
        self.sightings.retain(|mac, _| by_mac.get(mac).is_none_or(|id| !adopted.contains_key(id)));
        self.fold_assignments(sorted);
    }

    /// An image that was removed comes never again; its files may be published again as another one.
    fn remove_images(&mut self, removed: &BTreeSet<ImageId>) {
        let roots = |p: &Published| p.image.files.values().map(|b| b.root).collect::<Vec<_>>();
        let gone = self.images.iter().filter(|(id, _)| removed.contains(id));
        self.removed_blobs = gone.flat_map(|(_, p)| roots(p)).collect();
        self.images.retain(|id, _| !removed.contains(id));
        for root in self.images.values().flat_map(roots) {
            self.removed_blobs.remove(&root);
        }
    }

    /// Of what several have seen of one interface, the newest counts; what it is made of goes on to count when it is only
    /// seen again.
    fn sight(&mut self, sighting: &Sighting, by: PublicKey) {
        let seen = self.sightings.entry(sighting.mac);
        let seen = seen.or_insert_with(|| Sighted { sighting: sighting.clone(), by });
        // the cells come in the order of their time: so it does not depend on who came first
        if sighting.at >= seen.sighting.at {
            seen.by = by;
        }
        let known = &mut seen.sighting;
        let inventory = match (&known.inventory, &sighting.inventory) {
            (Some(_), Some(_)) if sighting.at < known.at => known.inventory.clone(),
            (known, newer) => newer.clone().or_else(|| known.clone()),
        };
        known.at = known.at.max(sighting.at);
        known.inventory = inventory;
    }

    fn fold_assignments(&mut self, sorted: &[&Entry]) {
        for entry in sorted {
            let Record::Assignment(machine, id, order) = &entry.record else { continue };
            if !self.authorised(&entry.cell, &[Role::Operator]) {
                continue;
            }
            let hlc = entry.cell.hlc;
            if let Some(before) = self.current.insert(*machine, *id)
                && let Some(before) = self.assignments.get_mut(&before)
            {
                before.superseded = Some(hlc);
            }
            let assigned = Assigned {
                id: *id,
                machine: *machine,
                order: order.clone(),
                author: entry.cell.id.author,
                hlc,
                ended: None,
                superseded: None,
                joined: None,
            };
            self.assignments.insert(*id, assigned);
        }
        for entry in sorted {
            let Record::Disarmament(machine, over) = &entry.record else { continue };
            if !self.authorised(&entry.cell, &[Role::Operator, Role::Boot]) {
                continue;
            }
            // the first word counts
            if let Some(assigned) = self.assignments.get_mut(&over.assignment)
                && assigned.machine == *machine
                && assigned.ended.is_none()
            {
                assigned.ended = Some((entry.cell.hlc, over.clone()));
            }
        }
    }

    /// The assignment that gives an invite of the boot role its power, if it does: the invite is for one machine, the one
    /// that was assigned, as it was assigned, and the assignment was in force when it was written.
    #[must_use]
    pub fn assignment_of(&self, info: &InviteInfo) -> Option<(&Assigned, BootUse)> {
        let boot = info.invite.boot?;
        let assigned = self.assignments.get(&boot.assignment)?;
        let (invite, order) = (&info.invite, &assigned.order);
        let installs = matches!(order.task, Task::Install { .. });
        let as_ordered = invite.uses == 1
            && (boot.guise == Guise::Scout || installs)
            && invite.replaces == Some(assigned.machine)
            && invite.site == order.site
            && invite.labels == order.labels;
        (as_ordered && assigned.is_open(info.cell.hlc)).then_some((assigned, boot))
    }

    /// Why a certificate that an invite of the boot role signed is not welcome.
    pub(super) fn why_not_booted(&self, info: &InviteInfo, cert: &NodeCert) -> Option<Refusal> {
        let Some((assigned, boot)) = self.assignment_of(info) else {
            return Some(Refusal::NotCertified);
        };
        if cert.name != assigned.order.name {
            return Some(Refusal::NotCertified);
        }
        // one system for an order: a certificate that was asked for and not used is worth nothing once the machine is there
        if assigned.joined.is_some() {
            return Some(Refusal::UsedUp);
        }
        let other =
            |m: &super::Machine| m.id != assigned.machine && !self.revoked.contains_key(&m.node.0);
        (boot.guise == Guise::System && self.machine_named(&cert.name).is_some_and(other))
            .then_some(Refusal::NameTaken)
    }

    /// A system that was installed under an order has joined.
    pub(super) fn joined(&mut self, cert: &NodeCert, at: Hlc) {
        let boot = self.invites.get(&cert.invite).and_then(|info| info.invite.boot);
        let Some(boot) = boot.filter(|b| b.guise == Guise::System) else { return };
        let Some(assigned) = self.assignments.get_mut(&boot.assignment) else { return };
        assigned.joined = Some(at);
        if assigned.ended.as_ref().is_none_or(|(then, _)| *then > at) {
            let reason = "its own system has joined".to_owned();
            let over = Disarmament { assignment: assigned.id, ended: Ended::Installed, reason };
            assigned.ended = Some((at, over));
        }
    }

    /// A scout that was admitted. Another of the same machine was admitted before: it is one no more, so that two never write
    /// one disk.
    pub(super) fn enrol_scout(&mut self, cell: &Cell, cert: &NodeCert) {
        let Some(info) = self.invites.get_mut(&cert.invite) else { return };
        info.used += 1;
        let not_after = info.invite.not_after;
        let (Some(boot), Some(machine)) = (info.invite.boot, info.invite.replaces) else { return };
        let former = self.scouts.iter().find(|(_, s)| s.machine == machine).map(|(node, _)| *node);
        if let Some(former) = former {
            self.scouts.remove(&former);
            self.void.insert(former, Refusal::Revoked);
        }
        let scout = Scout {
            machine,
            assignment: boot.assignment,
            node: NodeId(cert.node),
            name: cert.name.clone(),
            site: cert.site.clone(),
            labels: cert.labels.clone(),
            addrs: cert.addrs.clone(),
            admitted: cell.hlc,
            not_after,
            cell: cell.clone(),
        };
        self.void.remove(&cert.node);
        self.scouts.insert(cert.node, scout);
    }

    /// The scout that uses a node key, if it still is one.
    #[must_use]
    pub fn scout_of(&self, node: &PublicKey, now: Millis) -> Option<&Scout> {
        self.scouts.get(node).filter(|s| now <= s.not_after)
    }

    /// Whether a node may take part: a machine of the roster, or a scout whose time is not over.
    #[must_use]
    pub fn is_welcome(&self, node: &PublicKey, now: Millis) -> bool {
        self.machine_of(node).is_some() || self.scout_of(node, now).is_some()
    }

    /// The site and the labels of a node, also of a scout.
    #[must_use]
    pub fn place_of(&self, node: &PublicKey) -> Option<(&Name, &Labels)> {
        let member = self.machine_of(node).map(|m| (&m.site, &m.labels));
        member.or_else(|| self.scouts.get(node).map(|s| (&s.site, &s.labels)))
    }

    /// The scouts: the latest of each machine, also those whose time is over.
    pub fn scouts(&self) -> impl Iterator<Item = &Scout> {
        self.scouts.values()
    }

    /// The machine of a scout, also of one whose time is over: what it wrote stands.
    #[must_use]
    pub fn scout_machine(&self, node: &PublicKey) -> Option<MachineId> {
        self.scouts.get(node).map(|s| s.machine)
    }

    /// The assignment of a machine that was given last.
    #[must_use]
    pub fn current_assignment(&self, machine: &MachineId) -> Option<&Assigned> {
        self.current.get(machine).and_then(|id| self.assignments.get(id))
    }

    /// The machine that has an interface.
    #[must_use]
    pub fn machine_with(&self, mac: &Mac) -> Option<MachineId> {
        self.by_mac.get(mac).copied()
    }

    /// The newest image of a name.
    #[must_use]
    pub fn image_named(&self, name: &Name) -> Option<(&ImageId, &Published)> {
        let named = self.images.iter().filter(|(_, p)| p.image.name == *name);
        named.max_by_key(|(id, p)| (p.hlc, **id))
    }

    /// The name, site and labels of a machine: as it is in the roster, or as it was adopted.
    #[must_use]
    pub fn known_as(&self, machine: &MachineId) -> Option<(&Name, &Name, &Labels)> {
        let member = self.machines.get(machine).map(|m| (&m.name, &m.site, &m.labels));
        let bare = self.adopted.get(machine).map(|a| &a.adoption);
        member.or_else(|| bare.map(|a| (&a.name, &a.site, &a.labels)))
    }

    /// The machines that were adopted and have no system of ours (yet), by name.
    #[must_use]
    pub fn bare(&self) -> BTreeMap<&Name, MachineId> {
        let bare = self.adopted.iter().filter(|(id, _)| !self.machines.contains_key(id));
        bare.map(|(id, a)| (&a.adoption.name, *id)).collect()
    }
}
