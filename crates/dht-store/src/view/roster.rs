//! The roster: admissions that count.
//!
//! They are taken in the order of time. Whoever admits was admitted before (its own admission is
//! dated earlier), so one pass is enough. Of two admissions that claim one name, and of the
//! surplus of an invite, the earlier count.

use std::net::Ipv4Addr;

use p2pinst_trust::{Refusal, policy};
use p2pinst_types::record::{Admission, Guise, NodeCert, Role};
use p2pinst_types::{Cell, Hlc, Labels, MachineId, Name, NodeId, PublicKey};

use super::{Entry, Views};
use crate::record::Record;

/// A machine of the roster.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its id: records are filed under it.
    pub id: MachineId,
    /// The key that its node uses now.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// Its labels.
    pub labels: Labels,
    /// Where it listened when it joined.
    pub addrs: Vec<String>,
    /// When it was admitted.
    pub admitted: Hlc,
    /// The cell of its admission: a part of what it shows.
    pub cell: Cell,
}

impl Machine {
    /// The IPv4 addresses among [`Machine::addrs`].
    pub fn ipv4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.addrs.iter().filter_map(|a| {
            let mut parts = a.split('/').skip(1);
            (parts.next() == Some("ip4")).then(|| parts.next()?.parse().ok()).flatten()
        })
    }
}

impl Views {
    pub(super) fn fold_roster(&mut self, sorted: &[&Entry]) {
        for entry in sorted {
            let (admission, cert) = match &entry.record {
                Record::Admission(admission, cert) => (admission, cert),
                Record::MachineName(machine, named) => {
                    self.fold_name(&entry.cell, *machine, &named.name);
                    continue;
                }
                _ => continue,
            };
            if !self.may_admit(&entry.cell) {
                continue;
            }
            match self.why_not(&entry.cell, admission, cert) {
                None if self.is_scout(cert) => self.enrol_scout(&entry.cell, cert),
                None => self.enrol(&entry.cell, admission, cert),
                Some(why) => {
                    if !self.by_node.contains_key(&cert.node) {
                        self.void.insert(cert.node, why);
                    }
                }
            }
        }
        // a revoked key was a member: what it wrote before still stands, but it is one no more
        let gone: Vec<_> =
            self.by_node.keys().filter(|n| self.revoked.contains_key(*n)).copied().collect();
        for node in gone {
            let Some(id) = self.by_node.remove(&node) else { continue };
            self.former.insert(node, id);
            if let Some(machine) = self.machines.remove(&id) {
                if self.by_name.get(&machine.name) == Some(&machine.id) {
                    self.by_name.remove(&machine.name);
                }
                self.gone.insert(id, machine);
            }
            self.void.insert(node, Refusal::Revoked);
        }
    }

    fn is_scout(&self, cert: &NodeCert) -> bool {
        let boot = self.invites.get(&cert.invite).and_then(|info| info.invite.boot);
        boot.is_some_and(|b| b.guise == Guise::Scout)
    }

    /// Members and operators admit.
    fn may_admit(&self, cell: &Cell) -> bool {
        let by_member = self
            .machine_of(&cell.id.author)
            .is_some_and(|m| m.admitted < cell.hlc && !self.is_void(cell));
        by_member || self.authorised(cell, &[Role::Operator])
    }

    /// Why an admission does not count.
    fn why_not(&self, cell: &Cell, admission: &Admission, cert: &NodeCert) -> Option<Refusal> {
        let Some(info) = self.invites.get(&cert.invite) else {
            return Some(Refusal::NotCertified);
        };
        // the signatures were verified when the cell came in
        if !policy::as_invited(&info.invite, cert)
            || admission.machine != policy::machine_id(&admission.cert)
        {
            return Some(Refusal::NotCertified);
        }
        self.why_not_cert(cert, cell.hlc, true)
    }

    /// Why a certificate that its invite signed is not welcome at a time: the rules that depend on
    /// what else is in the roster. `strict`: also when the node is in the roster already.
    #[must_use]
    pub fn why_not_cert(&self, cert: &NodeCert, at: Hlc, strict: bool) -> Option<Refusal> {
        let revoked = |key: &PublicKey| self.revoked.get(key).is_some_and(|r| !strict || r.at < at);
        if revoked(&cert.invite) || (!strict && revoked(&cert.node)) {
            return Some(Refusal::Revoked);
        }
        let info = self.invites.get(&cert.invite)?;
        if !policy::invite_open(&info.invite, at.millis()) {
            return Some(Refusal::Expired);
        }
        if self.by_node.contains_key(&cert.node) || self.scouts.contains_key(&cert.node) {
            // admitted twice by two members: the earlier admission counts
            return strict.then_some(Refusal::NameTaken);
        }
        if info.invite.boot.is_some() {
            let used_up = (info.used >= info.invite.uses).then_some(Refusal::UsedUp);
            return self.why_not_booted(info, cert).or(used_up);
        }
        let mut name = &cert.name;
        if let Some(id) = cert.replaces {
            // the machine that it takes the place of was put out before, and has not come back
            let Some(place) = self.machines.get(&id).or_else(|| self.gone.get(&id)) else {
                return Some(Refusal::NotCertified);
            };
            if !revoked(&place.node.0) {
                return Some(Refusal::NameTaken);
            }
            name = &place.name;
        }
        // a machine that was revoked before leaves its name to the one that takes its place
        if self.machine_named(name).is_some_and(|m| !revoked(&m.node.0)) {
            return Some(Refusal::NameTaken);
        }
        (info.used >= info.invite.uses).then_some(Refusal::UsedUp)
    }

    fn enrol(&mut self, cell: &Cell, admission: &Admission, cert: &NodeCert) {
        // a machine that is replaced keeps its name, unless it was installed under another; its former key was a member
        let before = self.machines.remove(&admission.machine);
        let booted = self.invites.get(&cert.invite).is_some_and(|info| info.invite.boot.is_some());
        let kept = before.as_ref().filter(|_| !booted).map(|m| m.name.clone());
        let name = kept.unwrap_or_else(|| cert.name.clone());
        if let Some(before) = before {
            if self.by_name.get(&before.name) == Some(&before.id) {
                self.by_name.remove(&before.name);
            }
            self.by_node.remove(&before.node.0);
            self.replaced.insert(before.node.0, cell.hlc);
            self.former.insert(before.node.0, before.id);
            self.void.insert(before.node.0, Refusal::Revoked);
        }
        let machine = Machine {
            id: admission.machine,
            node: NodeId(cert.node),
            name,
            site: cert.site.clone(),
            labels: cert.labels.clone(),
            addrs: cert.addrs.clone(),
            admitted: cell.hlc,
            cell: cell.clone(),
        };
        if let Some(info) = self.invites.get_mut(&cert.invite) {
            info.used += 1;
        }
        self.joined(cert, cell.hlc);
        self.void.remove(&cert.node);
        self.by_node.insert(cert.node, machine.id);
        self.by_name.insert(machine.name.clone(), machine.id);
        self.machines.insert(machine.id, machine);
    }
}
