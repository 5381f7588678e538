//! `p2pinst node label`, `node rename`, `node rm`: what operators do to a machine of the roster.

use std::time::{Duration, Instant};

use p2pinst_api::Client;
use p2pinst_api::view::NodeView;
use p2pinst_types::name::parse_label;
use p2pinst_types::record::{LabelEdit, MachineName, Revocation, Role};
use p2pinst_types::{Kind, LabelValue, Name, NodeId, codec, limits};
use serde::Serialize;

use crate::args;
use crate::choose::{self, Need};
use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::signer::Signer;

/// How long a node may take until it shows what it has just been given.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is asked until then.
const PAUSE: Duration = Duration::from_millis(50);

/// Give a machine labels, or take them away
///
/// Groups follow at once: a machine whose labels match a group's selector is a member, and gets
/// what was published to the group. Taking a label away removes no package.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst node label n2 gpu=true rack=7
  p2pinst node label n2 gpu-        (takes the label gpu away)
  p2pinst node label n2 gpu=        (the label gpu with an empty value)")]
pub(crate) struct LabelArgs {
    /// The machine's name, or its node's id
    node: String,
    /// KEY=VALUE sets a label, KEY- takes it away
    #[arg(required = true, value_name = "LABEL", value_parser = parse_edit)]
    labels: Vec<LabelEdit>,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Give a machine another name
///
/// Its history, its labels and what was ordered for it stay. Groups that name machines go by the
/// new name. Of two machines that are given one name at the same time, the first keeps it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst node rename n2 gpu-02")]
pub(crate) struct RenameArgs {
    /// The machine's name, or its node's id
    node: String,
    /// Its new name
    name: Name,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Remove a machine from the cluster, for good
///
/// Revokes its node's key: no member talks to it any more, nothing that it writes from now on is
/// taken, and it stops installing as soon as it hears of it. Its packages stay installed. To come
/// back it needs a new invite. A machine leaves by itself with `p2pinst leave`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst node rm n2 --reason 'disk stolen'")]
pub(crate) struct RmArgs {
    /// The machine's name, or its node's id
    node: String,
    /// Why, for people
    #[arg(long, value_name = "TEXT", value_parser = args::reason, default_value = "", hide_default_value = true)]
    reason: String,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Serialize)]
struct Removed {
    name: Name,
    node: NodeId,
    peers: usize,
}

fn parse_edit(text: &str) -> Result<LabelEdit, String> {
    let (key, value): (Name, Option<LabelValue>) = match text.strip_suffix('-') {
        Some(key) if !text.contains('=') => (key.parse().map_err(words)?, None),
        _ => {
            let (key, value) =
                parse_label(text).map_err(|e| format!("{e} (or KEY- to take the label away)"))?;
            (key, Some(value))
        }
    };
    if LabelEdit::is_reserved(&key) {
        return Err(format!("{key} is no label: every machine has a {key}"));
    }
    Ok(LabelEdit { key, value })
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The machine of a name or a node id.
pub(super) fn find<'a>(
    context: &Context,
    nodes: &'a [NodeView],
    name: &str,
) -> Result<&'a NodeView, CliError> {
    let named = |n: &&NodeView| n.name.as_str() == name || n.id.to_string() == name;
    nodes.iter().find(named).ok_or_else(|| {
        CliError::failed(format!("no machine of the cluster is called {name:?}"))
            .hint(format!("see them all: {}", context.command("node ls")))
    })
}

/// An operator about to sign.
pub(super) async fn operator(
    context: &Context,
    client: &mut Client,
    named: Option<&Name>,
    info: &p2pinst_api::view::NodeInfo,
) -> Result<Signer, CliError> {
    let key = choose::key(context, client, named, Need::All(&[Role::Operator])).await?.key;
    Signer::open(context, client, key, info.cluster).await
}

pub(super) async fn label(context: &Context, args: LabelArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let nodes = client.nodes(false).await?;
    let node = find(context, &nodes, &args.node)?;
    let mut labels = node.labels.clone();
    for (i, edit) in args.labels.iter().enumerate() {
        if args.labels.iter().skip(i + 1).any(|other| other.key == edit.key) {
            return Err(CliError::usage(format!("the label {} is given twice", edit.key)));
        }
        match &edit.value {
            Some(value) => drop(labels.insert(edit.key.clone(), value.clone())),
            None => drop(labels.remove(&edit.key)),
        }
    }
    if labels.len() > limits::LABELS {
        let most = limits::LABELS;
        return Err(CliError::failed(format!("{} would have more than {most} labels", node.name))
            .hint("take one away in the same command: KEY-"));
    }
    let mut signer = operator(context, &mut client, args.key.as_ref(), &info).await?;
    for edit in &args.labels {
        let (slot, payload) = (LabelEdit::slot(&edit.key), codec::encode(edit)?);
        signer.add_in(Kind::LABEL, node.machine.as_bytes(), &slot, payload)?;
    }
    signer.submit(&mut client).await?;
    let shown = shown(&mut client, node.id, |n| n.labels == labels).await?;
    let list = format::labels(&shown.labels);
    let list = if list.is_empty() { "no labels".to_owned() } else { list };
    context.tell(format_args!("{} has now: {list}", shown.name));
    if context.json { context.print_json(&shown) } else { Ok(()) }
}

pub(super) async fn rename(context: &Context, args: RenameArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let nodes = client.nodes(false).await?;
    let node = find(context, &nodes, &args.node)?;
    if node.name == args.name {
        return Err(CliError::failed(format!("{} is called that already", node.name)));
    }
    if let Some(other) = nodes.iter().find(|n| n.name == args.name) {
        let id = other.id.short();
        return Err(CliError::failed(format!("another machine ({id}) is called {}", args.name))
            .hint("choose another name, or rename that one first"));
    }
    let mut signer = operator(context, &mut client, args.key.as_ref(), &info).await?;
    let record = MachineName { name: args.name.clone() };
    signer.add(Kind::MACHINE_NAME, node.machine.as_bytes(), &record)?;
    signer.submit(&mut client).await?;
    let shown = shown(&mut client, node.id, |n| n.name == args.name).await?;
    if shown.name != args.name {
        let reason = format!("{} keeps its name: another machine was first", shown.name);
        return Err(CliError::failed(reason).hint(format!("see {}", context.command("node ls"))));
    }
    context.tell(format_args!("{} is called {} now.", node.name, shown.name));
    if context.json { context.print_json(&shown) } else { Ok(()) }
}

/// A machine as the node shows it, once it is as it should be or the patience has ended.
async fn shown(
    client: &mut Client,
    id: NodeId,
    done: impl Fn(&NodeView) -> bool,
) -> Result<NodeView, CliError> {
    let begun = Instant::now();
    loop {
        let node = client.nodes(false).await?.into_iter().find(|n| n.id == id);
        let node = node.ok_or_else(|| CliError::failed("the machine was removed meanwhile"))?;
        if done(&node) || begun.elapsed() > GRACE {
            return Ok(node);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(super) async fn rm(context: &Context, args: RmArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let nodes = client.nodes(false).await?;
    let node = find(context, &nodes, &args.node)?;
    if node.id == info.id {
        return Err(CliError::failed(format!("{} is this machine", node.name))
            .hint(format!("it leaves with: {}", context.command("leave")))
            .hint("or remove it from another member"));
    }
    let mut signer = operator(context, &mut client, args.key.as_ref(), &info).await?;
    let record = Revocation { key: node.id.0, last_good: None, reason: args.reason };
    signer.add(Kind::REVOCATION, node.id.0.as_bytes(), &record)?;
    let peers = signer.submit(&mut client).await?.peers;
    let (name, node) = (node.name.clone(), node.id);
    context.tell(format_args!("{name} was removed; {} told.", format::count(peers, "peer")));
    if context.json {
        context.print_json(&Removed { name, node, peers })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_taken_away() {
        let edit = |text| {
            let edit = parse_edit(text).unwrap();
            (edit.key.to_string(), edit.value.map(|v| v.to_string()))
        };
        assert_eq!(edit("gpu=true"), ("gpu".into(), Some("true".into())));
        assert_eq!(edit("gpu="), ("gpu".into(), Some(String::new())));
        assert_eq!(edit("gpu-"), ("gpu".into(), None));
        assert_eq!(edit("gpu=a-"), ("gpu".into(), Some("a-".into())));
        assert_eq!(edit("a--"), ("a-".into(), None));
        for bad in ["gpu", "", "-", "=x", "name=x", "site-", "a b=c"] {
            assert!(parse_edit(bad).is_err(), "{bad:?}");
        }
    }
}
