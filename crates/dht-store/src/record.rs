//! A control-plane cell with its payload decoded: what the views are folded from.

use p2pinst_types::record::{
    Admission, Deployment, Grant, Group, GroupEdit, Invite, LabelEdit, MachineName, NodeCert,
    Release, Retirement, Revocation, Standing,
};
use p2pinst_types::{
    Cell, DeploymentId, Hash, Kind, MachineId, Name, PublicKey, ReleaseId, codec, limits,
};

/// A decoded payload whose subject is the one that the payload calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A power given by the root.
    Grant(Grant),
    /// A permission to join.
    Invite(Invite),
    /// A machine, with its certificate decoded.
    Admission(Admission, NodeCert),
    /// A key that is no longer trusted.
    Revocation(Revocation),
    /// A set of machines, by name.
    Group(Name, Group),
    /// Machines in or out of a group, by the group's name.
    GroupEdit(Name, GroupEdit),
    /// A label of a machine.
    Label(MachineId, LabelEdit),
    /// A machine's new name.
    MachineName(MachineId, MachineName),
    /// A deployment that is over.
    Retirement(Retirement),
    /// The grants that go on under a new root, and the id that its document names.
    Standing(Hash, Standing),
    /// A signed manifest, by id.
    Release(ReleaseId, Release),
    /// An order, by id.
    Deployment(DeploymentId, Deployment),
    /// Of a kind or format that this version does not know: kept and passed on.
    Opaque,
}

/// Bounds that a decoded record must keep, beyond those of its bytes.
const LINE: usize = 1024;

/// The built-in group has no definition.
fn group_name(subject: &[u8]) -> Option<Name> {
    let name: Name = std::str::from_utf8(subject).ok()?.parse().ok()?;
    (name != Name::all()).then_some(name)
}

impl Record {
    /// Decodes a control-plane cell. `None`: the payload is not what its kind and subject say.
    #[must_use]
    pub fn of(cell: &Cell) -> Option<Self> {
        if !cell.id.kind.is_known() || cell.format != p2pinst_types::cell::FORMAT_CBOR {
            return Some(Self::Opaque);
        }
        let subject = cell.id.subject.as_slice();
        let is_key = |key: &PublicKey| subject == key.as_bytes();
        let record = match cell.id.kind {
            Kind::GRANT => Self::Grant(cell.record().ok().filter(|g: &Grant| is_key(&g.key))?),
            Kind::INVITE => Self::Invite(cell.record().ok().filter(|i: &Invite| is_key(&i.key))?),
            Kind::ADMISSION => {
                let admission: Admission = cell.record().ok()?;
                let cert: NodeCert = codec::decode(&admission.cert.cert).ok()?;
                if !is_key(&cert.node) {
                    return None;
                }
                Self::Admission(admission, cert)
            }
            Kind::REVOCATION => {
                let record: Revocation = cell.record().ok()?;
                if !is_key(&record.key) || record.reason.len() > LINE {
                    return None;
                }
                Self::Revocation(record)
            }
            Kind::GROUP => {
                let group: Group = cell.record().ok()?;
                if group.description.len() > LINE {
                    return None;
                }
                Self::Group(group_name(subject)?, group)
            }
            Kind::GROUP_EDIT => Self::GroupEdit(group_name(subject)?, cell.record().ok()?),
            Kind::LABEL => {
                let label: LabelEdit = cell.record().ok()?;
                if LabelEdit::is_reserved(&label.key) {
                    return None;
                }
                Self::Label(MachineId::from_slice(subject)?, label)
            }
            Kind::MACHINE_NAME => {
                Self::MachineName(MachineId::from_slice(subject)?, cell.record().ok()?)
            }
            Kind::RETIREMENT => {
                let record: Retirement = cell.record().ok()?;
                if subject != record.deployment.as_bytes() || record.reason.len() > LINE {
                    return None;
                }
                Self::Retirement(record)
            }
            Kind::RELEASE => {
                let id = Release::id(cell.payload());
                if subject != id.0.as_bytes() {
                    return None;
                }
                Self::Release(id, cell.record().ok()?)
            }
            Kind::DEPLOYMENT => {
                let id = Deployment::id(&cell.id.author, cell.payload());
                if subject != id.as_bytes() {
                    return None;
                }
                let order: Deployment = cell.record().ok()?;
                if !order.has_possible_shards() {
                    return None;
                }
                Self::Deployment(id, order)
            }
            Kind::STANDING => {
                let (id, list) = (Standing::id(cell.payload()), cell.record::<Standing>().ok()?);
                if subject != id.0 || list.cells() > limits::STANDING {
                    return None;
                }
                Self::Standing(id, list)
            }
            _ => return Some(Self::Opaque),
        };
        // grants to one key stand beside each other, told apart by their time: a later one must not
        // undo what was done under an earlier one. So do revocations, which cannot give time back,
        // and names: who may have a name depends on who had it when. Few other things have aspects
        let slot = cell.id.slot.as_slice();
        let is_time = slot == cell.hlc.0.to_be_bytes();
        let fits = match &record {
            Self::Grant(_) | Self::Revocation(_) => slot.is_empty() || is_time,
            Self::MachineName(..) => is_time,
            Self::GroupEdit(_, edit) => slot == GroupEdit::slot(&edit.hosts),
            Self::Label(_, label) => slot == LabelEdit::slot(&label.key),
            _ => slot.is_empty(),
        };
        fits.then_some(record)
    }
}
