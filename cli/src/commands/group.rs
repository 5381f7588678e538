//! `p2pinst group`

use std::time::{Duration, Instant};

use clap::ArgGroup;
use p2pinst_api::Client;
use p2pinst_api::request::Groups;
use p2pinst_api::view::GroupView;
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::{Group, Role};
use p2pinst_types::selector::Selector;
use p2pinst_types::{Kind, Name};
use serde::Serialize;

use crate::choose::{self, Need};
use crate::context::Context;
use crate::error::CliError;
use crate::format::{self, Table};
use crate::signer::Signer;

/// How long a node may take until it shows a group that it has just been given.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is asked until then.
const PAUSE: Duration = Duration::from_millis(50);

/// Make and show groups of machines
///
/// Every machine is in the built-in group `all`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GroupCommand {
    Create(CreateArgs),
    Ls(LsArgs),
    Show(ShowArgs),
}

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
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// List the groups
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst group ls")]
pub(crate) struct LsArgs {}

/// Show a group and its members
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst group show gpu")]
pub(crate) struct ShowArgs {
    /// The group's name
    name: Name,
}

#[derive(Serialize)]
struct List {
    groups: Vec<GroupView>,
}

pub(super) async fn run(context: &Context, command: GroupCommand) -> Result<(), CliError> {
    match command {
        GroupCommand::Create(args) => create(context, args).await,
        GroupCommand::Ls(LsArgs {}) => list(context).await,
        GroupCommand::Show(args) => show(context, &args.name).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let name = args.name;
    if name == Name::all() {
        return Err(CliError::failed("the group all is built in: every machine is in it")
            .hint("choose another name"));
    }
    let (mut client, info) = context.connect_info().await?;
    let need = Need::All(&[Role::Operator]);
    let operator = choose::key(context, &mut client, args.key.as_ref(), need).await?.key;
    let mut signer = Signer::open(context, &mut client, operator, info.cluster).await?;
    if client.call(Groups {}).await?.iter().any(|g| g.name == name) {
        return Err(CliError::failed(format!("there is a group {name} already"))
            .hint(format!("look at it: {}", context.command(&format!("group show {name}"))))
            .hint("or choose another name"));
    }
    let description = args.description.unwrap_or_default();
    let group = Group::new(description, args.hosts, args.select);
    signer.add(Kind::GROUP, name.as_str().as_bytes(), &group)?;
    signer.submit(&mut client).await?;

    let made = made(context, &mut client, &name).await?;
    let members = format::count(made.members.len(), "member");
    let list = if made.members.is_empty() {
        "; machines that match and join later will be in it".to_owned()
    } else {
        format!(": {}", format::names(&made.members, 20))
    };
    context.tell(format_args!("The group {name} has {members}{list}."));
    if context.json {
        context.print_json(&made)?;
    }
    Ok(())
}

/// The group as the node shows it, which may be a moment after it has taken it.
async fn made(context: &Context, client: &mut Client, name: &Name) -> Result<GroupView, CliError> {
    let begun = Instant::now();
    loop {
        match find(context, client.call(Groups {}).await?, name) {
            Err(_) if begun.elapsed() < GRACE => tokio::time::sleep(PAUSE).await,
            found => return found,
        }
    }
}

fn find(context: &Context, groups: Vec<GroupView>, name: &Name) -> Result<GroupView, CliError> {
    groups.into_iter().find(|g| g.name == *name).ok_or_else(|| {
        CliError::failed(format!("there is no group {name}"))
            .hint(format!("see them all: {}", context.command("group ls")))
            .hint(format!("make one: {}", context.command("group create NAME --select EXPR")))
    })
}

async fn list(context: &Context) -> Result<(), CliError> {
    let groups = context.connect().await?.call(Groups {}).await?;
    if context.json {
        return context.print_json(&List { groups });
    }
    let mut table = Table::new(&["NAME", "MEMBERS", "HOSTS", "SELECT", "BY", "DESCRIPTION"]);
    for group in groups {
        table.row([
            group.name.to_string(),
            group.members.len().to_string(),
            group.hosts.unwrap_or_else(|| "-".to_owned()),
            group.select.unwrap_or_else(|| "-".to_owned()),
            group.author.map_or_else(|| "-".to_owned(), |a| a.to_string()),
            group.description,
        ]);
    }
    context.print(table.text(""))
}

async fn show(context: &Context, name: &Name) -> Result<(), CliError> {
    let groups = context.connect().await?.call(Groups {}).await?;
    let group = find(context, groups, name)?;
    if context.json {
        return context.print_json(&group);
    }
    let mut table = Table::bare();
    let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
    row("name", group.name.to_string());
    row("description", group.description);
    row("hosts", group.hosts.unwrap_or_else(|| "-".to_owned()));
    row("select", group.select.unwrap_or_else(|| "-".to_owned()));
    row("by", group.author.map_or_else(|| "built in".to_owned(), |a| a.to_string()));
    row("members", group.members.len().to_string());
    for member in &group.members {
        row("", member.to_string());
    }
    context.print(table.text(""))
}
