//! One order of bare metal: judged for all machines at once, then signed, one assignment for each.

use p2pinst_api::Client;
use p2pinst_api::boot::{InventoryView, MachineView};
use p2pinst_types::record::{Adoption, Assignment, ConsoleCode, Setup as Record, Task};
use p2pinst_types::{AssignmentId, Hash, Hlc, Kind, Mac, Millis, Name, SetupId, codec};

use crate::error::CliError;
use crate::planning::Planned;
use crate::signer::Signer;

/// A machine that is to be installed.
#[derive(Debug, Clone)]
pub(in crate::commands) struct Wanted {
    pub(in crate::commands) machine: MachineView,
    pub(in crate::commands) inventory: Option<InventoryView>,
}

/// What all machines of an order share.
#[derive(Debug, Clone)]
pub(in crate::commands) struct Order {
    pub(in crate::commands) number: u64,
    pub(in crate::commands) power: bool,
    pub(in crate::commands) code: Option<ConsoleCode>,
    pub(in crate::commands) not_after: Millis,
    pub(in crate::commands) gate: u8,
}

/// What was signed.
#[derive(Debug)]
pub(in crate::commands) struct Signed {
    pub(in crate::commands) setup: SetupId,
    /// In the order of the machines.
    pub(in crate::commands) assignments: Vec<(AssignmentId, Option<Hash>)>,
    pub(in crate::commands) peers: usize,
}

impl Wanted {
    /// A machine with what is known of it.
    pub(in crate::commands) fn of(machine: MachineView) -> Self {
        Self { inventory: machine.inventory.clone(), machine }
    }

    /// Its interfaces: as it was adopted, or as its own system has told.
    pub(in crate::commands) fn macs(&self) -> Vec<Mac> {
        if !self.machine.known.macs.is_empty() {
            return self.machine.known.macs.clone();
        }
        let nics = self.inventory.iter().flat_map(|i| &i.inventory.nics).map(|n| n.mac);
        nics.filter(|m| !m.is_group() && *m != Mac([0; 6])).collect()
    }

    /// Whether its groups are content with an order that has a code for its console, or none.
    pub(in crate::commands) fn may_start(&self, has_code: bool) -> Result<(), String> {
        match &self.machine.asks_for_code {
            Some(group) if !has_code => Err(format!(
                "the group {group} asks for a code, typed at its console (--code or --code-file FILE)"
            )),
            _ => Ok(()),
        }
    }

    /// Whether something on its disks may be lost.
    pub(super) fn is_at_risk(&self, planned: &Planned) -> bool {
        // what an installer does is not known here, and what is known of a member's disks is what its scout found before
        if planned.setup.installer.is_some() {
            return true;
        }
        let Some(known) = &self.inventory else { return planned.may_wipe() };
        let has_data = known.inventory.disks.iter().any(|d| d.content.is_some());
        planned.may_wipe() && has_data
    }
}

/// Everything that speaks against an order, for all machines; the machines, when nothing does.
pub(in crate::commands) fn judge(
    planned: &Planned,
    machines: Vec<Wanted>,
    has_code: bool,
    now: Millis,
) -> Result<Vec<Wanted>, Vec<(Name, String)>> {
    let mut refused = Vec::new();
    for wanted in &machines {
        let mut refuse = |reason: String| refused.push((wanted.machine.known.name.clone(), reason));
        if wanted.macs().is_empty() {
            refuse("its interfaces are not known (p2pinst machine adopt NAME --mac …)".to_owned());
        }
        if let Err(reason) = wanted.may_start(has_code) {
            refuse(reason);
        }
        let under_way = wanted.machine.order.as_ref().filter(|o| {
            o.armed && ["scouting", "writing", "finishing"].contains(&o.state.as_str())
        });
        if let Some(order) = under_way {
            let (name, state) = (&order.name, &order.state);
            refuse(format!("{name} is being carried out ({state}): wait, or p2pinst boot disarm"));
        }
        match planned.installer() {
            Ok(Some(_)) => planned.no_templates().into_iter().for_each(&mut refuse),
            Ok(None) => {}
            Err(reason) => refuse(reason),
        }
        let Some(known) = &wanted.inventory else { continue };
        if let Some(reason) = planned.foreign(&known.inventory) {
            refuse(reason);
        }
        if planned.setup.installer.is_some() {
            continue;
        }
        if let Err(refusals) = planned.plan(&wanted.machine, &known.inventory, Hlc::at(now)) {
            refusals.0.iter().for_each(|refusal| refuse(refusal.to_string()));
        }
    }
    if refused.is_empty() { Ok(machines) } else { Err(refused) }
}

impl Order {
    /// Signs the setup and the assignments, and hands them over.
    pub(in crate::commands) async fn install(
        &self,
        mut signer: Signer,
        client: &mut Client,
        planned: &Planned,
        wanted: &[Wanted],
        waves: &[u16],
    ) -> Result<Signed, CliError> {
        let record = Record { name: planned.setup.name.clone(), text: planned.text.clone() };
        let payload = codec::encode(&record)?;
        let setup = Record::id(&payload);
        signer.add_encoded(Kind::SETUP, setup.0.as_bytes(), payload)?;
        let mut assignments = Vec::new();
        for (wanted, wave) in wanted.iter().zip(waves) {
            if !wanted.machine.adopted {
                // who boots it has to know it by its interfaces
                let adoption = Adoption { macs: wanted.macs(), ..wanted.machine.known.clone() };
                signer.add(Kind::ADOPTION, wanted.machine.id.as_bytes(), &adoption)?;
            }
            let at = signer.next_hlc();
            let known = wanted.inventory.as_ref();
            let known = known.filter(|_| planned.setup.installer.is_none());
            let plan = known.and_then(|k| planned.plan(&wanted.machine, &k.inventory, at).ok());
            let plan = plan.map(|plan| plan.hash());
            let task = Task::Install { setup, images: planned.images.clone(), plan };
            let id = self.assign(&mut signer, wanted, task, *wave)?;
            assignments.push((id, plan));
        }
        let peers = signer.submit(client).await?.peers;
        Ok(Signed { setup, assignments, peers })
    }

    /// Signs one assignment.
    pub(in crate::commands) fn assign(
        &self,
        signer: &mut Signer,
        wanted: &Wanted,
        task: Task,
        wave: u16,
    ) -> Result<AssignmentId, CliError> {
        let known = &wanted.machine.known;
        let record = Assignment {
            number: self.number,
            task,
            name: known.name.clone(),
            site: known.site.clone(),
            labels: known.labels.clone(),
            macs: wanted.macs(),
            power: self.power,
            wave,
            gate: self.gate,
            code: self.code,
            not_after: self.not_after,
        };
        let machine = wanted.machine.id;
        let cell = signer.add(Kind::ASSIGNMENT, machine.as_bytes(), &record)?;
        Ok(Assignment::id(&signer.author(), &machine, cell.hlc, cell.payload()))
    }
}
