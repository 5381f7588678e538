//! Whether a cell may enter the store: one pure function, the same order of checks for every cell.
//!
//! 1. shape: it parses, and its payload is what its kind says;
//! 2. signature, by its author, for this cluster;
//! 3. authority: the author has, or ever had, the power to write cells of this kind and subject
//!    (whether it had it *at the time* is for the views: they decide from all cells at once);
//! 4. time: not further ahead of cluster time than the clocks of honest machines can be.

use p2pinst_trust::key::verify_cell;
use p2pinst_trust::policy;
use p2pinst_types::record::Role;
use p2pinst_types::{Cell, Kind, Millis, Plane, limits};
use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::view::Views;

/// What became of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// New here, and stored durably.
    Accepted,
    /// Already here, or replaced by a newer version that is here.
    Known,
    /// Set aside, not stored: something that it depends on is not here (yet), or it is from the
    /// future.
    Held(String),
    /// Refused for good.
    Rejected(String),
}

/// The checks' result, before the merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admit(Box<Record>),
    Hold(String),
    Reject(String),
}

fn hold(reason: impl Into<String>) -> Verdict {
    Verdict::Hold(reason.into())
}

fn reject(reason: impl Into<String>) -> Verdict {
    Verdict::Reject(reason.into())
}

/// Judges a cell by what the views know. `signed`: the signature was verified before.
pub(crate) fn judge(views: &Views, cell: &Cell, signed: bool, now: Millis) -> Verdict {
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
        Plane::Control => control_authority(views, cell, &record),
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
fn control_authority(views: &Views, cell: &Cell, record: &Record) -> Option<Verdict> {
    let author = &cell.id.author;
    let is_root = views.roots.has_key(author);
    let has_role = |roles: &[Role]| {
        views.grants.get(author).is_some_and(|g| roles.iter().any(|r| g.grant.roles.contains(r)))
    };
    let is_member = || views.was_admitted(author);
    let unknown = || Some(hold(format!("its author {} is not known here", author.short())));
    match record {
        Record::Grant(grant) => match policy::check_grant(&views.roots, cell, grant) {
            Ok(()) => None,
            Err(e) => Some(hold(e.to_string())),
        },
        Record::Invite(_) | Record::Group(..) | Record::Release(..) | Record::Deployment(..) => {
            if has_role(policy::roles_for(cell.id.kind)) {
                None
            } else {
                unknown()
            }
        }
        Record::Admission(admission, cert) => {
            let Some(invite) = views.invites.get(&cert.invite) else {
                return Some(hold("its invite is not known here"));
            };
            let cert = policy::check_cert(&views.roots, &invite.invite, &admission.cert);
            if cert.is_err() || admission.machine != policy::machine_id(&admission.cert) {
                return Some(reject("the certificate is not its invite's"));
            }
            if is_member() || has_role(&[Role::Operator]) { None } else { unknown() }
        }
        Record::Revocation(_) => {
            if is_root || has_role(&[Role::Operator]) {
                None
            } else {
                unknown()
            }
        }
        Record::Opaque => {
            if is_root || views.grants.contains_key(author) || is_member() {
                None
            } else {
                unknown()
            }
        }
    }
}

/// `None`: the author may. R14: a node writes of itself only.
fn data_authority(views: &Views, cell: &Cell) -> Option<Verdict> {
    let Some(machine) = views.machine_of(&cell.id.author) else {
        return Some(hold("its author is not in the roster here"));
    };
    let own = |part: &[u8]| part == machine.id.as_bytes();
    match cell.id.kind {
        Kind::NODE_RECORD | Kind::HISTORY if !own(&cell.id.subject) => {
            Some(reject("its author writes of another machine"))
        }
        Kind::STATUS if !own(&cell.id.slot) => Some(reject("its author writes of another machine")),
        Kind::STATUS if views.order(&cell.id.subject).is_none() => {
            Some(hold("its deployment is not known here"))
        }
        _ => None,
    }
}
