//! `p2pinst group`

mod edit;
mod file;
mod policy;

use p2pinst_api::Client;
use p2pinst_api::request::{Groups, OneGroup};
use p2pinst_api::view::{GroupDefinition, GroupState, GroupView};
use p2pinst_types::Name;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::format::{self, Table};

/// Make, show and change groups of machines
///
/// Every machine is in the built-in group `all`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GroupCommand {
    Create(edit::CreateArgs),
    Ls(LsArgs),
    Show(ShowArgs),
    Add(edit::AddArgs),
    Remove(edit::RemoveArgs),
    Describe(edit::DescribeArgs),
    Policy(policy::PolicyArgs),
    Rm(edit::RmArgs),
    Import(file::ImportArgs),
    Export(file::ExportArgs),
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
        GroupCommand::Create(args) => edit::create(context, args).await,
        GroupCommand::Ls(LsArgs {}) => list(context).await,
        GroupCommand::Show(args) => show(context, &args.name).await,
        GroupCommand::Add(args) => edit::add(context, args).await,
        GroupCommand::Remove(args) => edit::remove(context, args).await,
        GroupCommand::Describe(args) => edit::describe(context, args).await,
        GroupCommand::Policy(args) => policy::run(context, args).await,
        GroupCommand::Rm(args) => edit::rm(context, args).await,
        GroupCommand::Import(args) => file::import(context, args).await,
        GroupCommand::Export(args) => file::export(context, args).await,
    }
}

/// All groups, page by page.
async fn all(client: &mut Client) -> Result<Vec<GroupView>, CliError> {
    let mut groups: Vec<GroupView> = Vec::new();
    loop {
        let after = groups.last().map(|g| g.name.clone());
        let page = client.call(Groups { after }).await?;
        if page.is_empty() {
            return Ok(groups);
        }
        groups.extend(page);
    }
}

async fn state(client: &mut Client, name: &Name) -> Result<GroupState, CliError> {
    Ok(client.call(OneGroup { name: name.clone() }).await?)
}

/// There is no such group (any more).
fn unknown(context: &Context, name: &Name, state: &GroupState) -> CliError {
    let Some(removed) = &state.removed else {
        return CliError::failed(format!("there is no group {name}"))
            .hint(format!("see them all: {}", context.command("group ls")))
            .hint(format!("make one: {}", context.command("group create NAME --select EXPR")));
    };
    let (by, at) = (author(removed), removed.at);
    let mut error = CliError::failed(format!("there is no group {name}: {by} removed it, {at}"));
    for other in &state.concurrent {
        let (by, what) = (author(other), words(other));
        error = error.hint(format!("{by} wrote at the same time: {what}"));
    }
    let again = context.command(&format!("group create {name} --select EXPR"));
    error.hint(format!("make it anew: {again}"))
}

/// A definition's author, for people.
fn author(definition: &GroupDefinition) -> String {
    definition.author.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string)
}

/// What a definition says, on one line.
fn words(definition: &GroupDefinition) -> String {
    if definition.removed {
        return "the group is removed".to_owned();
    }
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let (hosts, select) = (dash(&definition.hosts), dash(&definition.select));
    format!("hosts {hosts}, select {select}, description {:?}", definition.description)
}

/// What to do where two have written at the same time.
fn tell_concurrent(context: &Context, group: &GroupView) {
    if group.concurrent.is_empty() {
        return;
    }
    let ours = group.author.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
    let mut others: Vec<String> = group.concurrent.iter().map(author).collect();
    others.dedup();
    let (name, others) = (&group.name, others.join(", "));
    context.tell(format_args!(
        "The group {name} was written at the same time by {ours}, whose word is the later and \
         counts, and by {others}. Settle it: make it as it should be, then\n  {}",
        context.command(&format!("group describe {name} TEXT"))
    ));
}

async fn list(context: &Context) -> Result<(), CliError> {
    let groups = all(&mut context.connect().await?).await?;
    if context.json {
        return context.print_json(&List { groups });
    }
    let headings = ["NAME", "MEMBERS", "HOSTS", "SELECT", "EDITS", "BY", "DESCRIPTION"];
    let mut table = Table::new(&headings);
    for group in &groups {
        let added = group.edits.iter().filter(|e| e.present).count();
        let edits = match (added, group.edits.len() - added) {
            (0, 0) => "-".to_owned(),
            (added, 0) => format!("+{added}"),
            (0, out) => format!("-{out}"),
            (added, out) => format!("+{added} -{out}"),
        };
        let by = group.author.iter().map(ToString::to_string);
        let by: Vec<String> = by.chain(group.concurrent.iter().map(author)).collect();
        table.row([
            group.name.to_string(),
            group.members.len().to_string(),
            group.hosts.clone().unwrap_or_else(|| "-".to_owned()),
            group.select.clone().unwrap_or_else(|| "-".to_owned()),
            edits,
            if by.is_empty() { "-".to_owned() } else { by.join(" | ") },
            group.description.clone(),
        ]);
    }
    context.print(table.text(""))?;
    groups.iter().for_each(|group| tell_concurrent(context, group));
    Ok(())
}

async fn show(context: &Context, name: &Name) -> Result<(), CliError> {
    let state = state(&mut context.connect().await?, name).await?;
    let Some(group) = state.group.as_ref() else { return Err(unknown(context, name, &state)) };
    if context.json {
        return context.print_json(group);
    }
    let mut table = Table::bare();
    let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
    row("name", group.name.to_string());
    row("description", group.description.clone());
    row("hosts", group.hosts.clone().unwrap_or_else(|| "-".to_owned()));
    row("select", group.select.clone().unwrap_or_else(|| "-".to_owned()));
    row("by", group.author.as_ref().map_or_else(|| "built in".to_owned(), ToString::to_string));
    for edit in &group.edits {
        let by = edit.author.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
        let what = if edit.present { "added" } else { "removed" };
        row(what, format!("{} by {by}, {}", edit.hosts, edit.at));
    }
    for other in &group.concurrent {
        row("at the same time", format!("{}: {}", author(other), words(other)));
    }
    if group.console_code {
        row("console code", "wanted, of machines that are installed into it".to_owned());
    }
    row("members", group.members.len().to_string());
    for member in &group.members {
        row("", member.to_string());
    }
    context.print(table.text(""))?;
    tell_concurrent(context, group);
    Ok(())
}

/// `: n1, n2`; what that means when there is none.
fn members(group: &GroupView) -> String {
    let count = format::count(group.members.len(), "member");
    if group.members.is_empty() {
        return format!("{count}; machines that match and join later will be in it");
    }
    format!("{count}: {}", format::names(&group.members, 20))
}
