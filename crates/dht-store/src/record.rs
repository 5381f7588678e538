//! A control-plane cell with its payload decoded: what the views are folded from.

use p2pinst_types::record::{
    Admission, Adoption, Assignment, Controller, Deployment, Disarmament, Grant, Group, GroupEdit,
    GroupPolicy, Image, ImageRemoval, Inventory, Invite, LabelEdit, MachineName, NodeCert,
    PowerOrder, Release, Resealed, Retirement, Revocation, Setup, Sighting, Standing,
};
use p2pinst_types::{
    AssignmentId, Cell, DeploymentId, Hash, ImageId, Kind, Mac, MachineId, Name, PowerOrderId,
    PublicKey, ReleaseId, SetupId, codec, limits,
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
    /// What a group asks of machines that are installed into it.
    GroupPolicy(Name, GroupPolicy),
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
    /// A machine that is known before anything of ours runs on it.
    Adoption(MachineId, Adoption),
    /// An image, by id.
    Image(ImageId, Image),
    /// An image that is published no more.
    ImageRemoval(ImageRemoval),
    /// A host setup, by id.
    Setup(SetupId, Setup),
    /// What a machine does at its next start over the network, by id.
    Assignment(MachineId, AssignmentId, Assignment),
    /// An assignment of a machine that is over.
    Disarmament(MachineId, Disarmament),
    /// An unknown machine that was seen.
    Sighting(Sighting),
    /// By what a machine's power is switched.
    Controller(MachineId, Controller),
    /// What is ordered of a machine's power, by id.
    PowerOrder(MachineId, PowerOrderId, PowerOrder),
    /// Credentials of a machine's controller, sealed anew.
    Resealed(MachineId, Resealed),
    /// Of a kind or format that this version does not know: kept and passed on.
    Opaque,
}

/// Bounds that a decoded record must keep, beyond those of its bytes.
const LINE: usize = 1024;

/// The built-in group has no definition.
fn group_name(subject: &[u8]) -> Option<Name> {
    name(subject).filter(|name| *name != Name::all())
}

fn name(subject: &[u8]) -> Option<Name> {
    std::str::from_utf8(subject).ok()?.parse().ok()
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
            Kind::GROUP_POLICY => Self::GroupPolicy(name(subject)?, cell.record().ok()?),
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
            _ => return Self::of_boot(cell),
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

    /// The records of bare metal.
    fn of_boot(cell: &Cell) -> Option<Self> {
        let (subject, slot) = (cell.id.subject.as_slice(), cell.id.slot.as_slice());
        let macs = |macs: &[Mac]| macs.len() <= limits::HARDWARE_NICS;
        let record = match cell.id.kind {
            Kind::ADOPTION => {
                let record: Adoption = cell.record().ok()?;
                let fits = macs(&record.macs) && record.labels.len() <= limits::LABELS;
                Self::Adoption(MachineId::from_slice(subject)?, fits.then_some(record)?)
            }
            Kind::IMAGE => {
                let id = Image::id(cell.payload());
                let image: Image = cell.record().ok()?;
                (subject == id.0.0 && image.is_bounded()).then_some(Self::Image(id, image))?
            }
            Kind::IMAGE_REMOVAL => {
                let record: ImageRemoval = cell.record().ok()?;
                let fits =
                    subject == record.image.0.0 && record.reason.len() <= limits::DESCRIPTION;
                Self::ImageRemoval(fits.then_some(record)?)
            }
            Kind::SETUP => {
                let id = Setup::id(cell.payload());
                let setup: Setup = cell.record().ok()?;
                let fits = subject == id.0.0 && setup.text.len() <= limits::SETUP;
                fits.then_some(Self::Setup(id, setup))?
            }
            Kind::ASSIGNMENT => {
                let machine = MachineId::from_slice(subject)?;
                let order: Assignment = cell.record().ok()?;
                let fits = slot == cell.hlc.0.to_be_bytes()
                    && macs(&order.macs)
                    && order.labels.len() <= limits::LABELS;
                let id = Assignment::id(&cell.id.author, &machine, cell.hlc, cell.payload());
                return fits.then_some(Self::Assignment(machine, id, order));
            }
            Kind::DISARMAMENT => {
                let record: Disarmament = cell.record().ok()?;
                let fits = slot == record.assignment.as_bytes()
                    && record.reason.len() <= limits::DESCRIPTION;
                let machine = MachineId::from_slice(subject)?;
                return fits.then_some(Self::Disarmament(machine, record));
            }
            Kind::SIGHTING => {
                let record: Sighting = cell.record().ok()?;
                let number = subject.try_into().map(u16::from_be_bytes).ok()?;
                let fits = number < limits::SIGHTINGS
                    && record.inventory.as_ref().is_none_or(Inventory::is_bounded);
                fits.then_some(Self::Sighting(record))?
            }
            _ => Self::of_power(cell)?,
        };
        slot.is_empty().then_some(record)
    }
    /// The records of power.
    fn of_power(cell: &Cell) -> Option<Self> {
        let machine = || MachineId::from_slice(&cell.id.subject);
        Some(match cell.id.kind {
            Kind::CONTROLLER => {
                let record: Controller = cell.record().ok()?;
                Self::Controller(machine()?, record.is_bounded().then_some(record)?)
            }
            Kind::POWER_ORDER => {
                let (machine, record) = (machine()?, cell.record().ok()?);
                let id = PowerOrder::id(&cell.id.author, &machine, cell.hlc, cell.payload());
                Self::PowerOrder(machine, id, record)
            }
            Kind::RESEALED => {
                let record: Resealed = cell.record().ok()?;
                Self::Resealed(machine()?, record.sealed.is_bounded().then_some(record)?)
            }
            _ => Self::Opaque,
        })
    }
}
