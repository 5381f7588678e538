//! `p2pinst machine adopt`: one machine, or by a rule all that were seen and are made so ([`rule`]).

mod naming;
mod rule;
mod traits;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgGroup;
use p2pinst_api::Client;
use p2pinst_api::boot::{InventoryView, MachineView, SightingView};
use p2pinst_api::request::{AskingGroup, OneGroup};
use p2pinst_api::view::NodeInfo;
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::name::parse_label;
use p2pinst_types::record::{Adoption, GroupEdit, Role};
use p2pinst_types::{Kind, LabelValue, Labels, Mac, MachineId, Name, limits};
use serde::Serialize;

use self::naming::Naming;
use self::traits::Traits;
use crate::args;
use crate::bare::{self, Which};
use crate::choose::{self, Need};
use crate::commands::deploy::{self, CodeArgs, Ordered, Power, Ready, Terms};
use crate::commands::setup;
use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::format;
use crate::planning::Planned;
use crate::signer::Signer;

/// Take machines in, by the address of an interface or by what they are made of
///
/// A machine gets a name, a site and labels, and is known by its interfaces: all of those that were seen when its scout told what
/// it is made of, and those that are given. It may be one that nobody has ever seen. Groups follow at once. Adopting it
/// again changes what is said of it. A member is adopted by its name, so that it can be installed anew.
///
/// With --setup its installation is ordered in the same breath, as `p2pinst deploy --setup` does; a machine whose scout waits
/// in discovery is installed at once. Without it nothing is installed before an order says so.
///
/// With --where all machines are taken that were seen, that nobody knows, and that are made so. Conditions stand between
/// commas or &&: mac (its first digits), site (of the node that saw it), vendor, product, serial, uuid, firmware, arch,
/// cpu, controller (texts; * stands for any), cpus, memory, disks (how many) and disk (the size of one), with =, !=, and of
/// numbers <, <=, > and >=; a name alone says that it is known. Of a machine that has not told what it is made of only mac
/// and site hold. {nn} in the name is a number, in the order of their addresses, after the highest in use; it has as many
/// digits at least as there are n, from one.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").args(["machine", "traits"]).required(true)))]
#[command(after_long_help = "Examples:
  p2pinst machine adopt 52:54:00:12:34:56 --name rack1-07 --group rack1
  p2pinst machine adopt 52:54:00:12:34:56 --name rack1-07 --setup compute.toml --power cycle
  p2pinst machine adopt n2 --mac 52:54:00:12:34:57
  p2pinst machine adopt --where 'vendor=Dell*,memory>=64GB,site=s1' --name 'node{nn}' --dry-run
  p2pinst machine adopt --where 'disk>=200GB' --name 'node{nn}' --setup compute.toml --yes --watch")]
pub(crate) struct AdoptArgs {
    /// The address of an interface, or the name of a member
    #[arg(value_name = "MAC|NAME")]
    machine: Option<String>,
    /// Machines that were seen, by what they are made of
    #[arg(long = "where", value_name = "TRAITS", requires = "name", conflicts_with = "macs")]
    traits: Option<Traits>,
    /// What it is called, also once its own system runs; with --where a name with {nn} in it
    #[arg(long)]
    name: Option<Naming>,
    /// More of its interfaces; may be repeated
    #[arg(long = "mac", value_name = "MAC")]
    macs: Vec<Mac>,
    /// Its site [default: that of the node that saw it, or default]
    #[arg(long)]
    site: Option<Name>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(Name, LabelValue)>,
    /// A group that it is added to
    #[arg(long)]
    group: Option<Name>,
    /// Install it: a host setup, TOML (p2pinst setup check)
    #[arg(long, value_name = "FILE")]
    setup: Option<PathBuf>,
    /// With --setup: switch its power, so that it starts over the network now
    #[arg(long, value_enum, default_value = "none", requires = "setup")]
    power: Power,
    #[command(flatten)]
    code: CodeArgs,
    /// With --setup: how long the order is in force
    #[arg(long, value_name = "TIME", value_parser = args::duration, default_value = "24h", requires = "setup")]
    ttl: Duration,
    /// With --setup: do not ask before something is lost
    #[arg(long, requires = "setup")]
    yes: bool,
    /// With --where: only show which machines it would be
    #[arg(long, requires = "traits")]
    dry_run: bool,
    /// With --where: go on with those that appear, until interrupted
    #[arg(long, requires = "traits", conflicts_with = "dry_run")]
    watch: bool,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    adopted: Adopted,
    group: Option<Name>,
    /// What was ordered for it.
    order: Option<Ordered>,
    peers: usize,
}

/// A machine as it is known from now on.
#[derive(Serialize)]
struct Adopted {
    machine: MachineId,
    #[serde(flatten)]
    adoption: Adoption,
}

/// What becomes of machines that are adopted.
struct How {
    group: Option<Name>,
    key: Option<Name>,
    install: Option<(Planned, Terms)>,
}

/// What came of it.
struct Taken {
    order: Option<Ordered>,
    peers: usize,
}

// clap makes a new line of {n} in help texts: they speak of {nn}

/// The site of a machine of which nothing else is said.
pub(super) fn default_site() -> Result<Name, CliError> {
    "default".parse().map_err(CliError::failed)
}

/// Whether a sighting is of a machine with one of these interfaces.
fn is_of(seen: &SightingView, macs: &[Mac]) -> bool {
    let mut nics = seen.inventory.iter().flat_map(|i| &i.nics);
    macs.contains(&seen.mac) || nics.any(|nic| macs.contains(&nic.mac))
}

/// What a machine with one of these interfaces is made of, as it has told last.
fn made_of(macs: &[Mac], seen: &[SightingView]) -> Option<InventoryView> {
    let told = seen.iter().filter(|s| s.inventory.is_some() && is_of(s, macs));
    let last = told.max_by_key(|s| s.at)?;
    let inventory = last.inventory.clone()?;
    Some(InventoryView { at: last.at, inventory })
}

/// Interfaces of one machine, those of the inventory too; each once.
pub(super) fn interfaces(first: &[Mac], seen: &[SightingView]) -> Vec<Mac> {
    let mut macs: BTreeSet<Mac> = first.iter().copied().collect();
    for sighting in seen.iter().filter(|s| is_of(s, first)) {
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
        // of a member that was never adopted its own system tells
        let told = other.inventory.iter().flat_map(|i| &i.inventory.nics).map(|n| &n.mac);
        let mac = other.known.macs.iter().chain(told).find(|m| wanted.macs.contains(m))?;
        Some(format!("{mac} is an interface of {}", other.known.name))
    })
}

pub(super) async fn run(context: &Context, args: AdoptArgs) -> Result<(), CliError> {
    let labels = args::labels(&args.labels)?;
    let document = args.setup.as_deref().map(setup::read).transpose()?;
    if document.is_none() && args.code.is_given() {
        return Err(CliError::usage("a code is for a machine that is installed")
            .hint("with --setup FILE, or later: p2pinst deploy --code"));
    }
    let code = args.code.read()?;
    let (mut client, info) = context.connect_info().await?;
    let install = match document {
        None => None,
        Some((setup, text)) => {
            let images = bare::images(&mut client).await?;
            let waves = deploy::Waves::at_once();
            let AdoptArgs { power, ttl, yes, .. } = args;
            let terms = Terms { power, ttl, gate: 0, waves, code, yes };
            Some((Planned::new(setup, text, &images), terms))
        }
    };
    let how = How { group: args.group.clone(), key: args.key.clone(), install };
    match args.traits.clone() {
        Some(traits) => {
            let rule = rule::Rule::new(traits, &args, labels)?;
            rule.run(context, &mut client, &info, &how).await
        }
        None => one(context, &mut client, &info, (args, labels), how).await,
    }
}

/// Signs that machines are known as they are shown, what group they are in, and what is installed on them.
async fn take(
    context: &Context,
    client: &mut Client,
    info: &NodeInfo,
    mut machines: Vec<MachineView>,
    how: &How,
) -> Result<Taken, CliError> {
    let need = Need::All(&[Role::Operator]);
    let author = choose::key(context, client, how.key.as_ref(), need).await?;
    let ready = match how.install.clone() {
        None => None,
        Some((planned, terms)) => {
            ask(client, how.group.as_ref(), &mut machines).await?;
            let wanted = machines.iter().cloned().map(deploy::Wanted::of).collect();
            let by = (author.key.public(), cluster_now(info));
            Some(Ready::judge(context, client, planned, wanted, terms, by).await?)
        }
    };
    let granted = author.granted;
    let mut signer = Signer::open(context, client, author.key, info.cluster).await?;
    if let Some(group) = &how.group {
        join(context, client, &mut signer, group, &machines).await?;
    }
    if let Some(ready) = ready {
        // it signs the adoptions too
        let order = ready.sign(context, client, signer, &granted).await?;
        return Ok(Taken { peers: order.peers, order: Some(order) });
    }
    for machine in &machines {
        signer.add(Kind::ADOPTION, machine.id.as_bytes(), &machine.known)?;
    }
    let peers = signer.submit(client).await?.peers;
    Ok(Taken { order: None, peers })
}

async fn one(
    context: &Context,
    client: &mut Client,
    info: &NodeInfo,
    (args, labels): (AdoptArgs, Labels),
    how: How,
) -> Result<(), CliError> {
    let which = Which { inventory: true, ..Which::default() };
    let known = bare::machines(client, &which).await?;
    let seen = bare::sightings(client).await?;
    let machine = one_of(context, &args, labels, &known, &seen)?;
    let (id, known) = (machine.id, machine.known.clone());
    let Taken { order, peers } = take(context, client, info, vec![machine], &how).await?;
    let (name, macs) = (&known.name, format::names(&known.macs, 4));
    context
        .tell(format_args!("{name} is adopted ({macs}); {} told.", format::count(peers, "peer")));
    if context.json {
        let adopted = Adopted { machine: id, adoption: known };
        return context.print_json(&Document { adopted, group: how.group, order, peers });
    }
    order.map_or(Ok(()), |order| context.print(format_args!("{}\n", order.name)))
}

/// The machine that is meant, as it is to be known.
fn one_of(
    context: &Context,
    args: &AdoptArgs,
    labels: Labels,
    known: &[MachineView],
    seen: &[SightingView],
) -> Result<MachineView, CliError> {
    let machine = args.machine.as_deref().unwrap_or_default();
    let mac: Option<Mac> = machine.parse().ok();
    let before = match mac {
        Some(mac) => known.iter().find(|m| m.known.macs.contains(&mac)),
        None => Some(known.iter().find(|m| m.known.name.as_str() == machine).ok_or_else(|| {
            CliError::failed(format!(
                "{machine:?} is neither a machine nor an address of an interface"
            ))
            .hint("write it as 52:54:00:12:34:56")
            .hint(format!("see what was seen: {}", context.command("machine ls")))
        })?),
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
    let macs = interfaces(&first, seen);
    let Some(first) = macs.first().copied() else {
        return Err(CliError::failed(format!("no interface of {machine} is known"))
            .hint("give one: --mac 52:54:00:12:34:56"));
    };
    let name = match &args.name {
        Some(Naming::One(name)) => Some(name.clone()),
        Some(Naming::Numbered(_)) => {
            return Err(CliError::usage("{n} in a name is for --where: one machine has one name"));
        }
        None => before.map(|b| b.known.name.clone()),
    };
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
        (None, None) => site_of(&macs, seen)?,
    };
    let labels = match before {
        Some(before) if labels.is_empty() => before.known.labels.clone(),
        _ => labels,
    };
    let id = before.map_or_else(|| Adoption::machine(first), |b| b.id);
    let adoption = Adoption { name, macs, site, labels, removed: false };
    if let Some(reason) = clash(id, &adoption, known) {
        return Err(CliError::failed(reason).hint("nothing was adopted"));
    }
    let mut machine = stranger(id, adoption, seen);
    if let Some(before) = before {
        (machine.member, machine.up, machine.order) =
            (before.member, before.up, before.order.clone());
        machine.inventory = before.inventory.clone().or(machine.inventory);
    }
    Ok(machine)
}

/// A machine that was seen, or not even that, as it is to be known.
fn stranger(id: MachineId, known: Adoption, seen: &[SightingView]) -> MachineView {
    let inventory = made_of(&known.macs, seen);
    // what is adopted now is not adopted yet: who signs an order for it signs that too
    let (adopted, up) = (false, false);
    let groups = BTreeSet::new();
    MachineView {
        id,
        known,
        adopted,
        groups,
        asks_for_code: None,
        member: None,
        up,
        order: None,
        inventory,
        power: None,
    }
}

/// The site of the node that saw it last.
fn site_of(macs: &[Mac], seen: &[SightingView]) -> Result<Name, CliError> {
    let last = seen.iter().filter(|s| is_of(s, macs)).max_by_key(|s| s.at);
    last.and_then(|s| s.site.clone()).map_or_else(default_site, Ok)
}

/// Notes which machines a group asks a code of, as they are to be.
async fn ask(
    client: &mut Client,
    group: Option<&Name>,
    machines: &mut [MachineView],
) -> Result<(), CliError> {
    for machine in machines {
        let (id, known, group) = (machine.id, machine.known.clone(), group.cloned());
        machine.asks_for_code = client.call(AskingGroup { machine: id, known, group }).await?;
    }
    Ok(())
}

/// Adds machines to a group.
async fn join(
    context: &Context,
    client: &mut Client,
    signer: &mut Signer,
    group: &Name,
    machines: &[MachineView],
) -> Result<(), CliError> {
    let names: Vec<&Name> = machines.iter().map(|m| &m.known.name).collect();
    let known = client.call(OneGroup { name: group.clone() }).await?;
    if known.group.is_none() || *group == Name::all() {
        return Err(CliError::failed(format!("there is no group {group} to add it to")).hint(
            format!(
                "make it: {}",
                context
                    .command(&format!("group create {group} --hosts {}", format::names(&names, 8)))
            ),
        ));
    }
    signer.not_before(known.clean.max(known.after));
    for name in names {
        let hosts: HostExpr = name.as_str().parse().map_err(CliError::failed)?;
        let (slot, edit) = (GroupEdit::slot(&hosts), GroupEdit { hosts, present: true });
        signer.add_in_slot(Kind::GROUP_EDIT, group.as_str().as_bytes(), slot, &edit)?;
    }
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
            SightingView { mac: a, at: Millis(1), site: None, inventory: Some(made) },
            SightingView { mac: c, at: Millis(1), site: None, inventory: None },
        ];
        assert_eq!(interfaces(&[a], &seen), [a, b]);
        assert_eq!(interfaces(&[c], &seen), [c]);
        // the other interface asked, and told nothing
        assert_eq!(interfaces(&[b], &seen), [b, a]);
        assert_eq!(made_of(&[b], &seen).map(|m| m.at), Some(Millis(1)));
        assert_eq!(made_of(&[c], &seen), None);
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
