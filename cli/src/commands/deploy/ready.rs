//! From machines and a setup to a signed order: everything that speaks against it is said before anything is signed.
//! `p2pinst deploy` and `p2pinst machine adopt --setup` are this.

use std::time::Duration;

use p2pinst_api::Client;
use p2pinst_api::request::PrepareDeploy;
use p2pinst_types::record::ConsoleCode;
use p2pinst_types::{AssignmentId, Hash, MachineId, Millis, Name, PublicKey, SetupId};
use serde::Serialize;

use super::order::{self, Order, Wanted};
use super::waves::Waves;
use crate::bare;
use crate::confirm;
use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::planning::{self, Planned};
use crate::signer::Signer;

/// Machines that are shown before they are wiped.
const SHOWN: usize = 64;

/// What becomes of the machines' power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::commands) enum Power {
    /// Off and on again
    Cycle,
    /// Somebody else starts them
    None,
}

/// How it is ordered.
#[derive(Debug, Clone)]
pub(in crate::commands) struct Terms {
    pub(in crate::commands) power: Power,
    pub(in crate::commands) ttl: Duration,
    pub(in crate::commands) gate: u8,
    pub(in crate::commands) waves: Waves,
    pub(in crate::commands) code: Option<ConsoleCode>,
    /// Nobody is asked before something is lost.
    pub(in crate::commands) yes: bool,
}

/// What was ordered.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Ordered {
    pub(in crate::commands) name: String,
    number: u64,
    setup: SetupId,
    machines: Vec<Line>,
    pub(in crate::commands) peers: usize,
}

#[derive(Debug, Serialize)]
struct Line {
    name: Name,
    machine: MachineId,
    assignment: AssignmentId,
    wave: u16,
    plan: Option<Hash>,
}

/// An order that may be signed.
#[derive(Debug)]
pub(in crate::commands) struct Ready {
    planned: Planned,
    wanted: Vec<Wanted>,
    terms: Terms,
}

impl Ready {
    /// Looks at everything that speaks against it, and asks before something is lost.
    pub(in crate::commands) async fn judge(
        context: &Context,
        client: &mut Client,
        planned: Planned,
        machines: Vec<Wanted>,
        terms: Terms,
        (author, now): (PublicKey, Millis),
    ) -> Result<Self, CliError> {
        if let Some(name) = planned.missing().first() {
            return Err(bare::no_image(context, name));
        }
        let wanted = order::judge(&planned, machines, terms.code.is_some(), now)
            .map_err(|all| refuse(&all))?;
        warn(context, client, terms.power, author).await?;
        if !terms.yes {
            ask(context, &planned, &wanted)?;
        }
        Ok(Self { planned, wanted, terms })
    }

    /// Signs it, with what the signer has signed before.
    pub(in crate::commands) async fn sign(
        self,
        context: &Context,
        client: &mut Client,
        signer: Signer,
        granted: &Name,
    ) -> Result<Ordered, CliError> {
        let Self { planned, wanted, terms } = self;
        // now that no other command signs with the key: numbers are given once
        let number = client.call(PrepareDeploy { author: signer.author() }).await?.number;
        let name = format!("{granted}-{number}");
        let order = Order {
            number,
            power: terms.power == Power::Cycle,
            code: terms.code,
            not_after: signer.now().after(terms.ttl),
            gate: terms.gate,
        };
        let waves = terms.waves.of(&signer.author(), number, wanted.iter().map(|w| w.machine.id));
        let signed = order.install(signer, client, &planned, &wanted, &waves).await?;
        told(context, &name, terms.power, &wanted, &waves);
        let machines = wanted.into_iter().zip(signed.assignments).zip(waves).map(
            |((wanted, (assignment, plan)), wave)| Line {
                name: wanted.machine.known.name,
                machine: wanted.machine.id,
                assignment,
                wave,
                plan,
            },
        );
        let (machines, setup, peers) = (machines.collect(), signed.setup, signed.peers);
        Ok(Ordered { name, number, setup, machines, peers })
    }
}

/// What would keep the order from being carried out.
async fn warn(
    context: &Context,
    client: &mut Client,
    power: Power,
    author: PublicKey,
) -> Result<(), CliError> {
    let plan = client.call(PrepareDeploy { author }).await?;
    let grant = |role: &str| context.command(&format!("grant NODE --role {role}"));
    if plan.boot.is_empty() {
        let hint = format!("where the root key is: {}", grant("boot"));
        return Err(
            CliError::failed("no node may certify the machines that are installed").hint(hint)
        );
    }
    if power == Power::Cycle && plan.power.is_empty() {
        let hint = format!("where the root key is: {}", grant("power"));
        return Err(CliError::failed("no node may switch the machines' power")
            .hint(hint)
            .hint("or start them yourself: --power none"));
    }
    Ok(())
}

fn refuse(refused: &[(Name, String)]) -> CliError {
    let mut text = format!("{} cannot be installed so:", format::count(refused.len(), "machine"));
    for (name, reason) in refused.iter().take(SHOWN) {
        let reason = reason.replace('\n', "\n  ");
        text.push_str(&format!("\n  {name}: {reason}"));
    }
    if refused.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", refused.len() - SHOWN));
    }
    CliError::failed(text).hint("nothing was ordered")
}

/// Asks before something is lost.
fn ask(context: &Context, planned: &Planned, wanted: &[Wanted]) -> Result<(), CliError> {
    let at_risk: Vec<&Wanted> = wanted.iter().filter(|w| w.is_at_risk(planned)).collect();
    if at_risk.is_empty() {
        return Ok(());
    }
    let mut table = format::Table::bare();
    for wanted in at_risk.iter().take(SHOWN) {
        let disks = match &wanted.inventory {
            Some(known) => planning::disks(&known.inventory),
            None => "nobody knows what is on its disks".to_owned(),
        };
        table.row([wanted.machine.known.name.to_string(), disks]);
    }
    let count = format::count(at_risk.len(), "machine");
    context.tell(format_args!(
        "What is on the disks of {count} may be lost:\n{}",
        table.text("  ").trim_end()
    ));
    if at_risk.len() > SHOWN {
        context.tell(format_args!("  and {} more", at_risk.len() - SHOWN));
    }
    let unasked = format!("what is on the disks of {count} may be lost: that must be confirmed");
    confirm::ask("Go on?", &unasked, "nothing was ordered")
}

fn told(context: &Context, name: &str, power: Power, wanted: &[Wanted], waves: &[u16]) {
    let count = format::count(wanted.len(), "machine");
    let last = waves.iter().max().copied().unwrap_or(0) + 1;
    let how = if last > 1 { format!(" in {last} waves") } else { String::new() };
    context.tell(format_args!("{count} armed{how}."));
    let unknown = wanted.iter().filter(|w| w.inventory.is_none()).count();
    if unknown > 0 {
        context.tell(format_args!(
            "The disks of {} are not known: what the setup says decides alone.",
            format::count(unknown, "machine")
        ));
    }
    if power == Power::None {
        context.tell("Start them over the network.");
    }
    context.tell(format_args!("Watch: {}", context.command(&format!("status {name} --watch"))));
}
