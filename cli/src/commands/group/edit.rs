//! `p2pinst group create|add|remove|describe|rm`

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::ArgGroup;
use p2pinst_api::Client;
use p2pinst_api::view::{GroupState, GroupView};
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::{Group, GroupEdit, Role};
use p2pinst_types::selector::Selector;
use p2pinst_types::{Kind, Name, limits};
use serde::Serialize;

use super::{members, state, tell_concurrent, unknown};
use crate::choose::{self, Need};
use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::signer::Signer;

/// How long a node may take until it shows what it has just been given.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is asked until then.
const PAUSE: Duration = Duration::from_millis(50);

/// Make a group of the machines that --hosts names or --select selects
///
/// Membership follows the cluster: a machine that joins later and matches is a member, and gets
/// what was published to the group.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").args(["hosts", "select"]).required(true).multiple(true)))]
#[command(after_long_help = "Examples:
  p2pinst group create gpu --select 'gpu=true'
  p2pinst group create rack1 --hosts 'node[01-16],10.0.0.1-12'
  p2pinst group create far --select 'gpu=true && site!=pisa'")]
pub(crate) struct CreateArgs {
    /// The group's name
    name: Name,
    /// Machines by name or address: node[01-16],10.0.0.1-12
    #[arg(long, value_name = "EXPR")]
    hosts: Option<HostExpr>,
    /// Machines by label, name or site: gpu=true && site!=pisa
    #[arg(long, value_name = "EXPR")]
    select: Option<Selector>,
    /// What the group is, for people
    #[arg(long, value_name = "TEXT", value_parser = description)]
    description: Option<String>,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Add machines to a group
///
/// They are in it whatever its definition says, until they are removed. Edits of several operators
/// are all kept, also those made while the network was cut; of two about one machine the later
/// counts.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst group add gpu node17
  p2pinst group add gpu 'node[20-24],10.0.0.1-12'")]
pub(crate) struct AddArgs {
    /// The group's name
    name: Name,
    /// Machines by name or address: node[01-16],10.0.0.1-12
    #[arg(value_name = "HOSTS")]
    hosts: HostExpr,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Take machines out of a group
///
/// They are out of it whatever its definition says, until they are added. Nothing is uninstalled.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst group remove gpu node05")]
pub(crate) struct RemoveArgs {
    /// The group's name
    name: Name,
    /// Machines by name or address: node[01-16],10.0.0.1-12
    #[arg(value_name = "HOSTS")]
    hosts: HostExpr,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Change what a group is said to be
///
/// The members stay. Where two operators have defined the group at the same time, this settles it:
/// what counts now stays.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst group describe gpu 'Room 214 - CT/UFSM'")]
pub(crate) struct DescribeArgs {
    /// The group's name
    name: Name,
    /// What it is, for people
    #[arg(value_parser = description)]
    text: String,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Remove a group
///
/// Nothing is uninstalled: what was published to the group stays where it is installed, and is
/// installed nowhere else any more. A group that is made anew under the name begins without the
/// machines that were added to the old one or taken out of it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst group rm gpu")]
pub(crate) struct RmArgs {
    /// The group's name
    name: Name,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Serialize)]
struct Removed {
    name: Name,
    removed: bool,
}

/// Checks a description.
fn description(text: &str) -> Result<String, String> {
    if text.len() > limits::DESCRIPTION {
        return Err(format!("a description has at most {} bytes", limits::DESCRIPTION));
    }
    Ok(text.to_owned())
}

/// Refuses to change the built-in group.
pub(super) fn refuse_all(name: &Name) -> Result<(), CliError> {
    if *name != Name::all() {
        return Ok(());
    }
    Err(CliError::failed("the group all is built in: every machine is in it")
        .hint("choose another name"))
}

/// Connects, and opens the log of the operator's key. What the cluster knows has just been asked
/// for then.
pub(super) async fn open(
    context: &Context,
    key: Option<&Name>,
) -> Result<(Client, Signer), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let need = Need::All(&[Role::Operator]);
    let operator = choose::key(context, &mut client, key, need).await?.key;
    let signer = Signer::open(context, &mut client, operator, info.cluster).await?;
    Ok((client, signer))
}

/// The group to be changed, and what its next definition has to carry.
pub(super) async fn existing(
    context: &Context,
    client: &mut Client,
    name: &Name,
) -> Result<(GroupView, GroupState), CliError> {
    let mut known = state(client, name).await?;
    match known.group.take() {
        Some(group) => Ok((group, known)),
        None => Err(unknown(context, name, &known)),
    }
}

/// A group's name as it shows after a change, which may be a moment after the node has taken it.
pub(super) async fn after(
    client: &mut Client,
    name: &Name,
    done: impl Fn(&GroupState) -> bool,
) -> Result<GroupState, CliError> {
    let begun = Instant::now();
    loop {
        let known = state(client, name).await?;
        if done(&known) || begun.elapsed() >= GRACE {
            return Ok(known);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(super) async fn create(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let name = args.name;
    refuse_all(&name)?;
    let (mut client, mut signer) = open(context, args.key.as_ref()).await?;
    let known = state(&mut client, &name).await?;
    if known.group.is_some() {
        return Err(CliError::failed(format!("there is a group {name} already"))
            .hint(format!("look at it: {}", context.command(&format!("group show {name}"))))
            .hint(format!("change it: {}", context.command(&format!("group add {name} HOSTS"))))
            .hint("or choose another name"));
    }
    let mut group = Group::new(args.description.unwrap_or_default(), args.hosts, args.select);
    (group.after, group.floor) = (known.after, known.floor);
    signer.not_before(known.clean.max(known.after));
    signer.add(Kind::GROUP, name.as_str().as_bytes(), &group)?;
    signer.submit(&mut client).await?;

    let known = after(&mut client, &name, |k| k.group.is_some()).await?;
    let Some(made) = known.group.as_ref() else { return Err(unknown(context, &name, &known)) };
    context.tell(format_args!("The group {name} has {}.", members(made)));
    if context.json {
        context.print_json(made)?;
    }
    Ok(())
}

pub(super) async fn add(context: &Context, args: AddArgs) -> Result<(), CliError> {
    edit(context, &args.name, &args.hosts, true, args.key.as_ref()).await
}

pub(super) async fn remove(context: &Context, args: RemoveArgs) -> Result<(), CliError> {
    edit(context, &args.name, &args.hosts, false, args.key.as_ref()).await
}

async fn edit(
    context: &Context,
    name: &Name,
    hosts: &HostExpr,
    present: bool,
    key: Option<&Name>,
) -> Result<(), CliError> {
    refuse_all(name)?;
    let (mut client, mut signer) = open(context, key).await?;
    let (before, known) = existing(context, &mut client, name).await?;
    signer.not_before(known.clean.max(known.after));
    let terms: BTreeSet<&str> = hosts.terms().collect();
    for term in &terms {
        // a term of an expression is an expression
        let hosts: HostExpr = term.parse().map_err(CliError::usage)?;
        let (slot, edit) = (GroupEdit::slot(&hosts), GroupEdit { hosts, present });
        signer.add_in_slot(Kind::GROUP_EDIT, name.as_str().as_bytes(), slot, &edit)?;
    }
    signer.submit(&mut client).await?;

    let shown = |group: &GroupView| {
        let now: BTreeSet<&str> =
            group.edits.iter().filter(|e| e.present == present).map(|e| e.hosts.as_str()).collect();
        terms.is_subset(&now)
    };
    let known = after(&mut client, name, |k| k.group.as_ref().is_none_or(shown)).await?;
    let Some(group) = known.group.as_ref() else { return Err(unknown(context, name, &known)) };
    let (less, more) = if present { (&before, group) } else { (group, &before) };
    let moved: Vec<&Name> = more.members.iter().filter(|m| !less.members.contains(m)).collect();
    let (what, stays) = match present {
        true => ("Added", ""),
        false => ("Removed", " Nothing is uninstalled."),
    };
    let moved = match moved.is_empty() {
        true => "no machine that is in the cluster now".to_owned(),
        false => format::names(&moved, 20),
    };
    context.tell(format_args!("{what}: {moved}.{stays} The group {name} has {}.", members(group)));
    if context.json {
        context.print_json(group)?;
    }
    Ok(())
}

pub(super) async fn describe(context: &Context, args: DescribeArgs) -> Result<(), CliError> {
    let name = args.name;
    refuse_all(&name)?;
    let (mut client, mut signer) = open(context, args.key.as_ref()).await?;
    let (group, known) = existing(context, &mut client, &name).await?;
    let settled = group.concurrent.len();
    let definition = Group {
        description: args.text.clone(),
        hosts: parsed(&name, group.hosts.as_deref())?,
        select: parsed(&name, group.select.as_deref())?,
        removed: false,
        after: known.after,
        floor: known.floor,
    };
    signer.not_before(known.clean.max(known.after));
    signer.add(Kind::GROUP, name.as_str().as_bytes(), &definition)?;
    signer.submit(&mut client).await?;

    let shown = |k: &GroupState| {
        k.group.as_ref().is_none_or(|g| g.description == args.text && k.after > known.after)
    };
    let known = after(&mut client, &name, shown).await?;
    let Some(group) = known.group.as_ref() else { return Err(unknown(context, &name, &known)) };
    let others = format::count(settled, "other definition");
    let settled = if settled > 0 { format!(" This settles {others}.") } else { String::new() };
    context.tell(format_args!("The group {name} is described anew.{settled}"));
    tell_concurrent(context, group);
    if context.json {
        context.print_json(group)?;
    }
    Ok(())
}

/// An expression that a node has shown.
fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &Name,
    text: Option<&str>,
) -> Result<Option<T>, CliError> {
    let cannot =
        |e| CliError::failed(format!("cannot read the definition of the group {name}: {e}"));
    text.map(|t| t.parse().map_err(cannot)).transpose()
}

pub(super) async fn rm(context: &Context, args: RmArgs) -> Result<(), CliError> {
    let name = args.name;
    refuse_all(&name)?;
    let (mut client, mut signer) = open(context, args.key.as_ref()).await?;
    let (_, known) = existing(context, &mut client, &name).await?;
    let mut definition = Group::new(String::new(), None, None);
    (definition.removed, definition.after, definition.floor) = (true, known.after, known.clean);
    signer.not_before(known.clean.max(known.after));
    signer.add(Kind::GROUP, name.as_str().as_bytes(), &definition)?;
    signer.submit(&mut client).await?;

    after(&mut client, &name, |k| k.group.is_none()).await?;
    context.tell(format_args!(
        "The group {name} is gone. What was published to it stays where it is installed, and is \
         installed nowhere else any more."
    ));
    if context.json {
        context.print_json(&Removed { name, removed: true })?;
    }
    Ok(())
}
