//! `p2pinst node`

use p2pinst_api::view::{NodeInfo, NodeView, RemovalView};
use p2pinst_types::{Millis, Name};
use serde::Serialize;

use crate::commands::roster;
use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::format::{self, Table};

/// Show the machines of the cluster, label, rename and remove them
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NodeCommand {
    Ls(LsArgs),
    Show(ShowArgs),
    Label(roster::LabelArgs),
    Rename(roster::RenameArgs),
    Rm(roster::RmArgs),
}

/// List the machines: name, id, site, labels, addresses, whether they are up, version
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst node ls")]
pub(crate) struct LsArgs {}

/// Show all that is known of one machine
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst node show n2")]
pub(crate) struct ShowArgs {
    /// The machine's name, or its node's id
    name: String,
}

#[derive(Serialize)]
struct List {
    nodes: Vec<NodeView>,
    removed: Option<RemovalView>,
}

pub(super) async fn run(context: &Context, command: NodeCommand) -> Result<(), CliError> {
    match command {
        NodeCommand::Ls(LsArgs {}) => list(context).await,
        NodeCommand::Show(args) => show(context, &args.name).await,
        NodeCommand::Label(args) => roster::label(context, args).await,
        NodeCommand::Rename(args) => roster::rename(context, args).await,
        NodeCommand::Rm(args) => roster::rm(context, args).await,
    }
}

/// Says that this machine is no member any more, if so.
fn tell_removal(context: &Context, info: &NodeInfo) {
    let Some(RemovalView { at, by, reason }) = &info.removed else { return };
    let by = by.as_ref().map(|name| format!(" by {name}")).unwrap_or_default();
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    context.tell(format_args!(
        "This machine ({}) was removed from the cluster{by} at {at}{reason}\n\
         It installs nothing any more. To join anew: {}, and then join with a new token.\n",
        info.name,
        context.command("leave")
    ));
}

async fn list(context: &Context) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let nodes = client.nodes(true).await?;
    let now = cluster_now(&info);
    tell_removal(context, &info);
    if let Some(since) = info.isolated_since {
        let age = format::age(now.since(since));
        context.tell(format_args!("warning: this node reaches no other for {age}"));
    }
    if context.json {
        let removed = info.removed;
        return context.print_json(&List { nodes, removed });
    }
    let cloned: Vec<String> = nodes.iter().filter_map(clone_words).collect();
    let mut table =
        Table::new(&["NAME", "ID", "SITE", "STATE", "SEEN BY", "VERSION", "LABELS", "ADDRESSES"]);
    for node in nodes {
        table.row([
            node.name.to_string(),
            node.id.short(),
            node.site.to_string(),
            state(&node, now),
            node.seen_by.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            node.version.unwrap_or_else(|| "?".to_owned()),
            dash(format::labels(&node.labels)),
            dash(format::names(&node.addrs, 2)),
        ]);
    }
    context.print(table.text(""))?;
    cloned.iter().for_each(|words| context.tell(words));
    tell_refused(context, &info);
    Ok(())
}

/// `up 3m`, `suspect 2s`, `down 1h`, `never seen`; and what is odd about the machine.
fn state(node: &NodeView, now: Millis) -> String {
    let mut text = format::liveness(node.up, node.since, now);
    if node.state == "suspect" {
        text = text.replacen("up", "suspect", 1);
    }
    if node.cloned.is_some() {
        text.push_str(", cloned");
    }
    if let Some(needs) = &node.needs {
        text.push_str(&format!(", needs version {needs}"));
    }
    text
}

/// Which two machines use one key.
fn clone_words(node: &NodeView) -> Option<String> {
    let cloned = node.cloned.as_ref()?;
    let (name, since) = (&node.name, cloned.since);
    let at = |addrs: &[String]| {
        if addrs.is_empty() { "?".to_owned() } else { format::names(addrs, 2) }
    };
    let (first, second) = (at(&cloned.first), at(&cloned.second));
    Some(format!(
        "\nTwo machines are {name}, since {since}: the one at {first} goes on, the one at {second} is refused (a cloned disk?).\nhint: join the copy as a machine of its own: remove its data directory, then p2pinst join"
    ))
}

/// Says why the others do not let this node in.
fn tell_refused(context: &Context, info: &NodeInfo) {
    if let Some(refused) = &info.refused {
        let (reason, since, advice) = (&refused.reason, refused.since, &refused.advice);
        context.tell(format_args!(
            "\nThe cluster refuses this node since {since}: {reason}.\nhint: {advice}"
        ));
    }
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

async fn show(context: &Context, name: &str) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let nodes = client.nodes(true).await?;
    let now = cluster_now(&info);
    let node = roster::find(context, &nodes, name)?;
    if context.json {
        return context.print_json(node);
    }
    let mut table = Table::bare();
    let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
    row("name", node.name.to_string());
    row("node", node.id.to_string());
    row("machine", node.machine.to_string());
    row("site", node.site.to_string());
    row("labels", dash(format::labels(&node.labels)));
    row("addresses", dash(format::names(&node.addrs, usize::MAX)));
    row("state", state(node, now));
    row("seen by", node.seen_by.as_ref().map_or_else(|| "this node".to_owned(), Name::to_string));
    row("life", node.incarnation.map_or_else(|| "?".to_owned(), |i| i.to_string()));
    row("version", node.version.clone().unwrap_or_else(|| "?".to_owned()));
    row("started", node.started.map_or_else(|| "?".to_owned(), |t| t.to_string()));
    row("admitted", node.admitted.to_string());
    context.print(table.text(""))
}
