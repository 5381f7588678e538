//! Adoption by rule: all machines that were seen, that nobody knows, and that are made as the rule says. Nothing of the rule is
//! kept: it holds while the command runs.

use std::collections::BTreeMap;
use std::time::Duration;

use p2pinst_api::Client;
use p2pinst_api::boot::{MachineView, SightingView};
use p2pinst_api::view::NodeInfo;
use p2pinst_types::record::{Adoption, Inventory};
use p2pinst_types::{Labels, Mac, Name};
use serde::Serialize;

use super::naming::{Naming, Numbered};
use super::traits::{Seen, Traits};
use super::{AdoptArgs, Adopted, How, Taken, clash, site_of, stranger, take};
use crate::bare::{self, Which};
use crate::commands::deploy::{self, Ordered};
use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::format::{self, Table};

/// How often it is looked for machines that have appeared.
const PAUSE: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Rule {
    traits: Traits,
    names: Numbered,
    site: Option<Name>,
    labels: Labels,
    dry_run: bool,
    watch: bool,
}

#[derive(Serialize)]
struct Document {
    machines: Vec<Adopted>,
    group: Option<Name>,
    /// What was ordered for them.
    order: Option<Ordered>,
    dry_run: bool,
    peers: usize,
}

/// Machines that are not taken, and why: as they were made then.
type Left = BTreeMap<Mac, (String, Option<Inventory>)>;

impl Rule {
    pub(super) fn new(traits: Traits, args: &AdoptArgs, labels: Labels) -> Result<Self, CliError> {
        let Some(Naming::Numbered(names)) = args.name.clone() else {
            return Err(CliError::usage("one name is for one machine")
                .hint("write {n} where the number goes: --name 'node{n}'"));
        };
        let (site, dry_run, watch) = (args.site.clone(), args.dry_run, args.watch);
        Ok(Self { traits, names, site, labels, dry_run, watch })
    }

    pub(super) async fn run(
        &self,
        context: &Context,
        client: &mut Client,
        info: &NodeInfo,
        how: &How,
    ) -> Result<(), CliError> {
        let asks = |(planned, terms): &(crate::planning::Planned, deploy::Terms)| {
            planned.may_wipe() && !terms.yes
        };
        if self.watch && how.install.as_ref().is_some_and(asks) {
            return Err(CliError::usage("--watch asks nobody whether something may be lost")
                .hint("say with --yes that what is on the disks may go"));
        }
        if !self.watch {
            return self.round(context, client, info, how, &mut Left::new()).await.map(drop);
        }
        // one that comes while something is signed is heard after that
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut left = Left::new();
        let mut first = true;
        loop {
            let some = self.round(context, client, info, how, &mut left).await?;
            if std::mem::take(&mut first) && !some {
                context.tell(format_args!("Waiting for machines with {}.", self.traits));
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = &mut interrupted => return Ok(()),
            }
        }
    }

    /// Takes those that there are now; whether there were any.
    async fn round(
        &self,
        context: &Context,
        client: &mut Client,
        info: &NodeInfo,
        how: &How,
        left: &mut Left,
    ) -> Result<bool, CliError> {
        let which = Which { inventory: true, ..Which::default() };
        let known = bare::machines(client, &which).await?;
        let seen = bare::sightings(client).await?;
        let mut why_not = Left::new();
        let mut machines = self.select(&known, &seen, &mut why_not)?;
        if let Some((planned, terms)) = how.install.as_ref().filter(|_| self.watch) {
            // one that cannot be installed so does not keep the others waiting
            super::ask(client, how.group.as_ref(), &mut machines).await?;
            machines.retain(|machine| {
                let one = vec![deploy::Wanted::of(machine.clone())];
                let Err(reasons) =
                    deploy::judge(planned, one, terms.code.is_some(), cluster_now(info))
                else {
                    return true;
                };
                let reasons: Vec<String> = reasons.into_iter().map(|(_, why)| why).collect();
                let made = machine.inventory.as_ref().map(|i| i.inventory.clone());
                if let Some(mac) = machine.known.macs.first() {
                    why_not.insert(*mac, (reasons.join("; "), made));
                }
                false
            });
            self.name(&mut machines, &known)?;
        }
        for (mac, why) in &why_not {
            if left.get(mac) != Some(why) {
                context.tell(format_args!("{mac} is left alone: {}", why.0));
            }
        }
        *left = why_not;
        if machines.is_empty() {
            if !self.watch {
                self.nothing(context, seen.len(), left.len(), how)?;
            }
            return Ok(false);
        }
        let adopted = machines.iter().map(|m| Adopted { machine: m.id, adoption: m.known.clone() });
        let adopted: Vec<Adopted> = adopted.collect();
        let shown = shown(&machines);
        let Taken { order, peers } = match self.dry_run {
            true => Taken { order: None, peers: 0 },
            false => take(context, client, info, machines, how).await?,
        };
        let (group, dry_run) = (how.group.clone(), self.dry_run);
        let would = if dry_run { "would be" } else { "are" };
        let count = format::count(adopted.len(), "machine");
        context.tell(format_args!("{count} {would} adopted:"));
        let document = Document { machines: adopted, group, order, dry_run, peers };
        match (context.json, self.watch) {
            (true, true) => context.print_json_line(&document)?,
            (true, false) => context.print_json(&document)?,
            (false, _) => {
                context.tell(shown.trim_end());
                if let Some(order) = &document.order {
                    context.print(format_args!("{}\n", order.name))?;
                }
            }
        }
        Ok(true)
    }

    fn nothing(
        &self,
        context: &Context,
        seen: usize,
        left: usize,
        how: &How,
    ) -> Result<(), CliError> {
        let seen = format::count(seen, "interface");
        let none = if left > 0 { "No other machine" } else { "No machine" };
        context.tell(format_args!(
            "{none} that was seen and that nobody knows has {} ({seen} seen; p2pinst machine ls).",
            self.traits
        ));
        if !context.json {
            return Ok(());
        }
        let (group, dry_run) = (how.group.clone(), self.dry_run);
        context.print_json(&Document { machines: vec![], group, order: None, dry_run, peers: 0 })
    }

    /// The machines that are meant, as they are to be known. Those that are known by another interface are left alone.
    fn select(
        &self,
        known: &[MachineView],
        seen: &[SightingView],
        left: &mut Left,
    ) -> Result<Vec<MachineView>, CliError> {
        let mut by_mac: Vec<&SightingView> = seen.iter().collect();
        by_mac.sort_by_key(|s| s.mac);
        // any of them: which one is decided when it is known how many there are
        let mut names = self.names.next(known.iter().map(|m| &m.known.name), 1);
        let name = names.as_mut().map_err(|e| CliError::failed(e.clone()))?.pop();
        let mut machines: Vec<MachineView> = Vec::new();
        for sighting in by_mac {
            let mac = sighting.mac;
            if machines.iter().any(|m| m.known.macs.contains(&mac)) {
                continue;
            }
            let macs = super::interfaces(&[mac], seen);
            let Some(name) = name.clone() else { break };
            let adoption = Adoption {
                name,
                site: self.site.clone().map_or_else(|| site_of(&macs, seen), Ok)?,
                labels: self.labels.clone(),
                macs,
                removed: false,
            };
            let machine = stranger(Adoption::machine(mac), adoption, seen);
            let inventory = machine.inventory.as_ref().map(|i| &i.inventory);
            if !self.traits.matches(&Seen { mac, site: sighting.site.as_ref(), inventory }) {
                continue;
            }
            match clash(machine.id, &machine.known, known) {
                Some(reason) => drop(left.insert(mac, (reason, inventory.cloned()))),
                None => machines.push(machine),
            }
        }
        self.name(&mut machines, known)?;
        Ok(machines)
    }

    fn name(&self, machines: &mut [MachineView], known: &[MachineView]) -> Result<(), CliError> {
        let known = known.iter().map(|m| &m.known.name);
        let names = self.names.next(known, machines.len()).map_err(CliError::failed)?;
        for (machine, name) in machines.iter_mut().zip(names) {
            machine.known.name = name;
        }
        Ok(())
    }
}

/// The machines, line by line.
fn shown(machines: &[MachineView]) -> String {
    let mut table = Table::bare();
    for machine in machines {
        let made = machine.inventory.as_ref().map(|i| super::super::summary(&i.inventory));
        table.row([
            machine.known.name.to_string(),
            format::names(&machine.known.macs, 2),
            machine.known.site.to_string(),
            made.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.text("  ")
}
