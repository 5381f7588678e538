//! Whether a cell may enter the store: one pure function, the same order of checks for every cell.
//!
//! 1. shape: it parses, and its payload is what its kind says;
//! 2. signature, by its author, for this cluster;
//! 3. authority: the author was ever given the power to write anything of the sort. Which role it
//!    had *at the time* is for the views: they decide from all cells at once. What the views say
//!    may change with every cell, so admission does not ask them: cells that one node took
//!    must not be refused by another that heard of things in another order;
//! 4. time: not further ahead of cluster time than the clocks of honest machines can be.

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_trust::key::verify_cell;
use p2pinst_trust::policy;
use p2pinst_types::record::Role;
use p2pinst_types::{Cell, CellId, Kind, MachineId, Millis, Plane, PublicKey, limits, shard};
use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::view::{Entry, Views};

/// What became of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// New here, and stored durably.
    Accepted,
    /// This very cell is here already.
    Known,
    /// A newer version of the cell is here: on the control plane it was replaced; on the data plane
    /// its author has written on from another memory (a restored snapshot).
    Newer,
    /// Set aside, not stored: something that it depends on is not here (yet), or it is from the
    /// future.
    Held(String),
    /// Refused for good.
    Rejected(String),
}

impl Outcome {
    /// Whether the cell, or what has replaced it, is here.
    #[must_use]
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Accepted | Self::Known | Self::Newer)
    }
}

/// The checks' result, before the merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admit(Box<Record>),
    Hold(String),
    Reject(String),
}

/// Who was ever given anything, by the cells that are here. It only grows with them, and is the
/// same for the same cells, in whatever order they came.
#[derive(Debug, Default)]
pub(crate) struct Known {
    granted: BTreeSet<PublicKey>,
    invites: BTreeSet<PublicKey>,
    nodes: BTreeSet<PublicKey>,
    /// Places of records of a newer version, by author.
    opaque: BTreeMap<PublicKey, BTreeSet<CellId>>,
}

impl Known {
    /// A record is here.
    pub(crate) fn note(&mut self, entry: &Entry) {
        let id = &entry.cell.id;
        match &entry.record {
            Record::Grant(grant) => self.granted.insert(grant.key),
            Record::Invite(invite) => self.invites.insert(invite.key),
            Record::Admission(_, cert) => self.nodes.insert(cert.node),
            Record::Opaque => self.opaque.entry(id.author).or_default().insert(id.clone()),
            _ => false,
        };
    }
}

/// Records of a newer version that one node may write on the control plane, which every node
/// holds. Administrators may write as many as they like, as of those that are understood.
const OPAQUE: usize = 256;

fn hold(reason: impl Into<String>) -> Verdict {
    Verdict::Hold(reason.into())
}

fn reject(reason: impl Into<String>) -> Verdict {
    Verdict::Reject(reason.into())
}

/// Judges a cell by what the views know. `signed`: the signature was verified before.
pub(crate) fn judge(
    views: &Views,
    known: &Known,
    cell: &Cell,
    signed: bool,
    now: Millis,
) -> Verdict {
    let record = match cell.id.kind.plane() {
        Plane::Control => match Record::of(cell) {
            Some(record) => record,
            None => return reject(format!("the payload is no {}", cell.id.kind)),
        },
        Plane::Data => Record::Opaque,
    };
    if cell.version.incarnation == 0 || cell.version.seq == 0 {
        return reject("version zero");
    }
    if !signed && !verify_cell(views.roots.cluster(), cell) {
        return reject("the signature is not its author's");
    }
    let authority = match cell.id.kind.plane() {
        Plane::Control => control_authority(views, known, cell, &record),
        Plane::Data => data_authority(views, cell),
    };
    if let Some(verdict) = authority {
        return verdict;
    }
    if cell.hlc.millis() > now.after(limits::FUTURE) {
        return hold(format!("it is dated {}, which is in the future", cell.hlc));
    }
    Verdict::Admit(Box::new(record))
}

/// `None`: the author may.
fn control_authority(
    views: &Views,
    known: &Known,
    cell: &Cell,
    record: &Record,
) -> Option<Verdict> {
    let author = &cell.id.author;
    let is_root = views.roots.has_key(author);
    let is_granted = known.granted.contains(author);
    let is_node = known.nodes.contains(author);
    let may = match record {
        Record::Grant(grant) => {
            return policy::check_grant(&views.roots, cell, grant)
                .err()
                .map(|e| hold(e.to_string()));
        }
        Record::Admission(admission, cert) => {
            if !policy::signed_by_invite(&views.roots, cert, &admission.cert)
                || admission.machine != policy::machine_id(&admission.cert)
            {
                return Some(reject("the certificate is not its invite's"));
            }
            if !known.invites.contains(&cert.invite) {
                return Some(hold("its invite is not known here"));
            }
            is_node || is_granted
        }
        Record::Invite(_)
        | Record::Group(..)
        | Record::GroupEdit(..)
        | Record::GroupPolicy(..)
        | Record::Label(..)
        | Record::MachineName(..)
        | Record::Retirement(_)
        | Record::Release(..)
        | Record::Deployment(..)
        | Record::Adoption(..)
        | Record::Image(..)
        | Record::ImageRemoval(_)
        | Record::Setup(..)
        | Record::Assignment(..)
        | Record::Disarmament(..)
        | Record::Sighting(..)
        | Record::Controller(..)
        | Record::PowerOrder(..)
        | Record::Resealed(..) => is_granted,
        // a node may revoke itself, in one place: it leaves
        Record::Revocation(r) => {
            let farewell = r.key == *author && cell.id.slot.is_empty();
            is_root || is_granted || (is_node && farewell)
        }
        Record::Standing(..) => is_root,
        Record::Opaque => {
            let theirs = known.opaque.get(author);
            let full = theirs.is_some_and(|t| t.len() >= OPAQUE && !t.contains(&cell.id));
            if full && !is_root && !is_granted {
                return Some(reject("its author has used up its share of unknown records"));
            }
            is_root || is_granted || is_node
        }
    };
    (!may).then(|| hold(format!("its author {} is not known here", author.short())))
}

/// Segments that one machine's history may have: some hundred thousand entries.
const SEGMENTS: u64 = 16_384;

fn segment(slot: &[u8]) -> Option<u64> {
    slot.try_into().ok().map(u64::from_be_bytes)
}

/// `None`: the author may. R14: a node writes of itself only. R16: and nothing any more once it is
/// revoked; what it wrote before stands.
fn data_authority(views: &Views, cell: &Cell) -> Option<Verdict> {
    if let Kind::BOOT_STATUS | Kind::INVENTORY | Kind::POWER_STATUS = cell.id.kind {
        return boot_authority(views, cell);
    }
    let Some(machine) = views.writes_of(cell) else {
        if views.revoked.contains_key(&cell.id.author) {
            return Some(reject("its author was removed from the cluster before it wrote this"));
        }
        return Some(hold("its author is not in the roster here"));
    };
    let own = |part: &[u8]| part == machine.as_bytes();
    let slot = cell.id.slot.as_slice();
    match cell.id.kind {
        Kind::NODE_RECORD | Kind::HISTORY if !own(&cell.id.subject) => {
            Some(reject("its author writes of another machine"))
        }
        Kind::STATUS if !own(slot) => Some(reject("its author writes of another machine")),
        Kind::NODE_RECORD if !slot.is_empty() => Some(reject("a machine has one record")),
        Kind::HISTORY if segment(slot).is_none_or(|n| n >= SEGMENTS) => {
            Some(reject("no history has such a segment"))
        }
        kind if !kind.is_known() && !own(&cell.id.subject) && !own(slot) => {
            Some(reject("its author writes of another machine"))
        }
        Kind::STATUS => status_authority(views, cell, machine),
        _ => None,
    }
}

/// A machine says of itself how far it is with its assignment, what it is made of and what came of its power, its scout too; those
/// who boot it or switch its power say the first, those who switch it the last.
fn boot_authority(views: &Views, cell: &Cell) -> Option<Verdict> {
    let author = &cell.id.author;
    let Some(machine) = MachineId::from_slice(&cell.id.subject) else {
        return Some(reject("its subject is no machine"));
    };
    if !cell.id.slot.is_empty() {
        return Some(reject("a machine has one record of this kind"));
    }
    let own = views.scout_machine(author).or_else(|| views.writes_of(cell));
    let roles: &[Role] = match cell.id.kind {
        Kind::BOOT_STATUS => &[Role::Boot, Role::Power],
        Kind::POWER_STATUS => &[Role::Power],
        _ => &[],
    };
    let coordinates = views.authorised(cell, roles);
    if own == Some(machine) || coordinates {
        return None;
    }
    match own {
        Some(_) => Some(reject("its author writes of another machine")),
        None => Some(hold("its author is no machine, scout or coordinator here")),
    }
}

/// A status belongs to a known order, and lies in its machine's own shard of it.
fn status_authority(views: &Views, cell: &Cell, machine: MachineId) -> Option<Verdict> {
    let Some((id, shard)) = shard::parse_status_subject(&cell.id.subject) else {
        return Some(reject("its subject is no shard of a deployment"));
    };
    if views.is_retired(id.as_bytes()) {
        return Some(reject("its deployment is retired"));
    }
    let Some(deployment) = views.deployment(&id) else {
        return Some(hold("its deployment is not known here"));
    };
    let own = shard::shard_of(&id, &machine, deployment.shards);
    (shard != own).then(|| reject("it is not in its author's shard"))
}
