//! `p2pinst machine adopt`

use std::collections::BTreeSet;

use p2pinst_api::Client;
use p2pinst_api::boot::{MachineView, SightingView};
use p2pinst_api::request::OneGroup;
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::name::parse_label;
use p2pinst_types::record::{Adoption, GroupEdit};
use p2pinst_types::{Kind, LabelValue, Mac, MachineId, Name, limits};
use serde::Serialize;

use crate::args;
use crate::bare::{self, Which};
use crate::commands::roster;
use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::signer::Signer;

/// Take a machine in, by the address of one of its interfaces
///
/// It gets a name, a site and labels, and is known by its interfaces: all of those that were seen when its scout told what
/// it is made of, and those that are given. It may be one that nobody has ever seen. Groups follow at once; nothing is
/// installed before an order says so. Adopting it again changes what is said of it.
///
/// A member is adopted by its name, so that it can be installed anew.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst machine adopt 52:54:00:12:34:56 --name rack1-07 --group rack1
  p2pinst machine adopt 52:54:00:12:34:56 --name rack1-07 --site pisa --label gpu=true
  p2pinst machine adopt n2 --mac 52:54:00:12:34:57")]
pub(crate) struct AdoptArgs {
    /// The address of an interface, or the name of a member
    #[arg(value_name = "MAC|NAME")]
    machine: String,
    /// What it is called, also once its own system runs
    #[arg(long)]
    name: Option<Name>,
    /// More of its interfaces; may be repeated
    #[arg(long = "mac", value_name = "MAC")]
    macs: Vec<Mac>,
    /// Its site [default: default]
    #[arg(long)]
    site: Option<Name>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(Name, LabelValue)>,
    /// A group that it is added to
    #[arg(long)]
    group: Option<Name>,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Serialize)]
struct Document {
    machine: MachineId,
    #[serde(flatten)]
    adoption: Adoption,
    group: Option<Name>,
    peers: usize,
}

/// The site of a machine of which nothing else is said.
pub(super) fn default_site() -> Result<Name, CliError> {
    "default".parse().map_err(CliError::failed)
}

/// Interfaces of one machine, those of the inventory too; each once.
pub(super) fn interfaces(first: &[Mac], seen: &[SightingView]) -> Vec<Mac> {
    let mut macs: BTreeSet<Mac> = first.iter().copied().collect();
    for sighting in seen.iter().filter(|s| first.contains(&s.mac)) {
        let nics = sighting.inventory.iter().flat_map(|i| &i.nics);
        macs.extend(nics.map(|n| n.mac).filter(|m| !m.is_group() && *m != Mac([0; 6])));
    }
    // those that were named are never cut off
    let others: Vec<Mac> = macs.into_iter().filter(|m| !first.contains(m)).collect();
    let mut all = first.to_vec();
    all.extend(others);
    all.dedup();
    all.truncate(limits::HARDWARE_NICS);
    all
}

/// What speaks against names and interfaces beside the machines that there are.
pub(super) fn clash(id: MachineId, wanted: &Adoption, known: &[MachineView]) -> Option<String> {
    if let Some(group) = wanted.macs.iter().find(|m| m.is_group() || **m == Mac([0; 6])) {
        return Some(format!("{group} is no address of one interface"));
    }
    let others = || known.iter().filter(|m| m.id != id);
    if let Some(other) = others().find(|m| m.known.name == wanted.name) {
        return Some(format!("another machine ({}) is called {}", other.id, wanted.name));
    }
    others().find_map(|other| {
        let mac = other.known.macs.iter().find(|m| wanted.macs.contains(m))?;
        Some(format!("{mac} is an interface of {}", other.known.name))
    })
}

pub(super) async fn run(context: &Context, args: AdoptArgs) -> Result<(), CliError> {
    let labels = args::labels(&args.labels)?;
    let (mut client, info) = context.connect_info().await?;
    let which = Which { inventory: true, ..Which::default() };
    let known = bare::machines(&mut client, &which).await?;
    let seen = bare::sightings(&mut client).await?;
    let mac: Option<Mac> = args.machine.parse().ok();
    let before = match mac {
        Some(mac) => known.iter().find(|m| m.known.macs.contains(&mac)),
        None => {
            Some(known.iter().find(|m| m.known.name.as_str() == args.machine).ok_or_else(|| {
                CliError::failed(format!(
                    "{:?} is neither a machine nor an address of an interface",
                    args.machine
                ))
                .hint("write it as 52:54:00:12:34:56")
                .hint(format!("see what was seen: {}", context.command("machine ls")))
            })?)
        }
    };
    let mut first: Vec<Mac> = mac.into_iter().chain(args.macs.iter().copied()).collect();
    if let Some(before) = before {
        first.extend(before.known.macs.iter().copied());
        let nics = before.inventory.iter().flat_map(|i| &i.inventory.nics);
        first.extend(nics.map(|n| n.mac).filter(|m| !m.is_group() && *m != Mac([0; 6])));
    }
    first = first
        .iter()
        .enumerate()
        .filter(|(i, m)| !first.iter().take(*i).any(|o| o == *m))
        .map(|(_, m)| *m)
        .collect();
    let macs = interfaces(&first, &seen);
    let Some(first) = macs.first().copied() else {
        return Err(CliError::failed(format!("no interface of {} is known", args.machine))
            .hint("give one: --mac 52:54:00:12:34:56"));
    };
    let name = args.name.clone().or_else(|| before.map(|b| b.known.name.clone()));
    let name =
        name.ok_or_else(|| CliError::usage("the machine needs a name").hint("--name NAME"))?;
    if let Some(member) = before.filter(|b| b.member.is_some() && b.known.name != name) {
        let old = &member.known.name;
        return Err(CliError::failed(format!("{old} is a member, which keeps its name")).hint(
            format!("rename it first: {}", context.command(&format!("node rename {old} {name}"))),
        ));
    }
    let site = match (args.site.clone(), before) {
        (Some(site), _) => site,
        (None, Some(before)) => before.known.site.clone(),
        (None, None) => default_site()?,
    };
    let labels = match before {
        Some(before) if labels.is_empty() => before.known.labels.clone(),
        _ => labels,
    };
    let id = before.map_or_else(|| Adoption::machine(first), |b| b.id);
    let adoption = Adoption { name, macs, site, labels, removed: false };
    if let Some(reason) = clash(id, &adoption, &known) {
        return Err(CliError::failed(reason).hint("nothing was adopted"));
    }
    let mut signer = roster::operator(context, &mut client, args.key.as_ref(), &info).await?;
    if let Some(group) = &args.group {
        join(context, &mut client, &mut signer, group, &adoption.name).await?;
    }
    signer.add(Kind::ADOPTION, id.as_bytes(), &adoption)?;
    let peers = signer.submit(&mut client).await?.peers;
    let (name, macs) = (&adoption.name, format::names(&adoption.macs, 4));
    context
        .tell(format_args!("{name} is adopted ({macs}); {} told.", format::count(peers, "peer")));
    if !context.json {
        return Ok(());
    }
    context.print_json(&Document { machine: id, adoption, group: args.group, peers })
}

/// Adds a machine to a group.
async fn join(
    context: &Context,
    client: &mut Client,
    signer: &mut Signer,
    group: &Name,
    name: &Name,
) -> Result<(), CliError> {
    let known = client.call(OneGroup { name: group.clone() }).await?;
    if known.group.is_none() || *group == Name::all() {
        return Err(CliError::failed(format!("there is no group {group} to add it to")).hint(
            format!(
                "make it: {}",
                context.command(&format!("group create {group} --hosts {name}"))
            ),
        ));
    }
    signer.not_before(known.clean.max(known.after));
    let hosts: HostExpr = name.as_str().parse().map_err(CliError::failed)?;
    let (slot, edit) = (GroupEdit::slot(&hosts), GroupEdit { hosts, present: true });
    signer.add_in_slot(Kind::GROUP_EDIT, group.as_str().as_bytes(), slot, &edit)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planning::tests::{inventory, machine};

    #[test]
    fn all_interfaces_of_a_machine_that_was_seen_are_taken() {
        use p2pinst_types::Millis;
        use p2pinst_types::record::Nic;
        let (a, b, c) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 3]));
        let nic = |mac| Nic { name: "eth0".into(), mac, driver: None, link: true, mbit: None };
        let mut made = inventory(None);
        made.nics = vec![nic(b), nic(a), nic(Mac([0; 6]))];
        let seen = [
            SightingView { mac: a, at: Millis(1), inventory: Some(made) },
            SightingView { mac: c, at: Millis(1), inventory: None },
        ];
        assert_eq!(interfaces(&[a], &seen), [a, b]);
        assert_eq!(interfaces(&[c], &seen), [c]);
    }

    #[test]
    fn two_machines_share_nothing() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let mut other = machine();
        other.known.macs = vec![mac];
        let id = MachineId([2; 16]);
        let wanted = |name: &str, mac| Adoption {
            name: name.parse().unwrap(),
            macs: vec![mac],
            ..other.known.clone()
        };
        let all = [other.clone()];
        let free = Mac([2, 0, 0, 0, 0, 9]);
        assert_eq!(clash(id, &wanted("n2", free), &all), None);
        assert!(clash(id, &wanted("n1", free), &all).unwrap().contains("is called n1"));
        assert!(clash(id, &wanted("n2", mac), &all).unwrap().contains("interface of n1"));
        assert_eq!(clash(other.id, &wanted("n1", mac), &all), None);
        assert!(clash(id, &wanted("n2", Mac([255; 6])), &all).is_some());
    }
}
