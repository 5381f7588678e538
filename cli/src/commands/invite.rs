//! `p2pinst invite`

use std::time::Duration;

use p2pinst_api::Client;
use p2pinst_api::request::PrepareInvite;
use p2pinst_api::view::{InviteView, NodeView};
use p2pinst_trust::{RootChain, SecretKey, Token};
use p2pinst_types::name::parse_label;
use p2pinst_types::record::{Invite, Revocation, Role};
use p2pinst_types::{Cell, Kind, LabelValue, Labels, Millis, Name, PublicKey, limits};
use serde::Serialize;

use crate::args;
use crate::choose::{self, Need};
use crate::context::Context;
use crate::error::CliError;
use crate::format::{self, Table};
use crate::signer::Signer;

/// Print a token with which other machines join
///
/// The token goes to stdout, and nothing else does. Whoever has it may join, until it has expired
/// or is used up: pass it on as you would a password. It carries the addresses of up to five live
/// nodes, so that joining needs any one of them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst invite --label gpu=true --uses 16 --ttl 2h >token
  p2pinst invite --replace n3 >token")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct InviteArgs {
    #[command(subcommand)]
    command: Option<InviteCommand>,
    /// The site that joining machines get
    #[arg(long, default_value = "default")]
    site: Name,
    /// A label that joining machines get; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(Name, LabelValue)>,
    /// How long the token is good: 30m, 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = args::duration, default_value = "24h")]
    ttl: Duration,
    /// How many machines may join with it
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// An address of a live node, in place of those that this node knows; may be repeated
    #[arg(long, value_name = "ADDR", value_parser = args::address)]
    bootstrap: Vec<String>,
    /// Give a machine that lost its disk its place again: revoke its old key, and let one machine join
    /// under its name, with its past
    #[arg(long, value_name = "NAME", conflicts_with_all = ["site", "labels", "uses"])]
    replace: Option<Name>,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// What else there is to do with invites.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum InviteCommand {
    Ls(LsArgs),
}

/// List the invites with which a machine may still join
///
/// `p2pinst revoke` takes one back, by its first digits.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst invite ls")]
pub(crate) struct LsArgs {
    /// Those that have expired, are used up or revoked too
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct List {
    invites: Vec<InviteView>,
}

#[derive(Serialize)]
struct Document<'a> {
    token: &'a str,
    invite: PublicKey,
    site: Name,
    labels: Labels,
    uses: u32,
    not_after: Millis,
    bootstrap: Vec<String>,
    replaces: Option<Name>,
}

async fn list(context: &Context, args: LsArgs) -> Result<(), CliError> {
    let mut invites = context.connect().await?.invites().await?;
    invites.retain(|i| i.open || args.all);
    if context.json {
        return context.print_json(&List { invites });
    }
    let mut table = Table::new(&["INVITE", "STATE", "USED", "UNTIL", "SITE", "LABELS", "BY"]);
    for invite in invites {
        let state = match (invite.open, invite.revoked, invite.used >= invite.uses) {
            (true, ..) => "open",
            (_, true, _) => "revoked",
            (_, _, true) => "used up",
            _ => "expired",
        };
        let labels = format::labels(&invite.labels);
        table.row([
            invite.invite.short(),
            state.to_owned(),
            format!("{}/{}", invite.used, invite.uses),
            invite.not_after.to_string(),
            invite.site.to_string(),
            if labels.is_empty() { "-".to_owned() } else { labels },
            invite.by.map_or_else(|| "?".to_owned(), |name| name.to_string()),
        ]);
    }
    context.print(table.text(""))
}

pub(super) async fn run(context: &Context, args: InviteArgs) -> Result<(), CliError> {
    if let Some(InviteCommand::Ls(args)) = args.command {
        return list(context, args).await;
    }
    let labels = args::labels(&args.labels)?;
    if args.bootstrap.len() > limits::ADDRS {
        let most = limits::ADDRS;
        return Err(CliError::usage(format!("a token carries at most {most} addresses")));
    }
    let (mut client, info) = context.connect_info().await?;
    let need = match &args.replace {
        None => Need::Any(&[Role::Operator, Role::Enroller]),
        Some(_) => Need::All(&[Role::Operator]), // it revokes, too
    };
    let operator = choose::key(context, &mut client, args.key.as_ref(), need).await?.key;
    let material = client.call(PrepareInvite { operator: operator.public() }).await?;
    let bootstrap = if args.bootstrap.is_empty() { material.bootstrap } else { args.bootstrap };
    if bootstrap.is_empty() {
        return Err(CliError::failed("no address is known under which a node could be reached")
            .hint("name one: --bootstrap /ip4/10.0.0.1/tcp/4001"));
    }
    let replaced = match &args.replace {
        Some(name) => Some(replaced(context, &mut client, name).await?),
        None => None,
    };
    let roots = RootChain::verify(info.cluster, material.roots)?;
    let grant = Cell::parse(material.grant.0)?;

    let mut signer = Signer::open(context, &mut client, operator, info.cluster).await?;
    let key = SecretKey::generate()?;
    let not_after = signer.now().after(args.ttl);
    let (site, labels, uses, replaces) = match &replaced {
        Some(machine) => (machine.site.clone(), machine.labels.clone(), 1, Some(machine.machine)),
        None => (args.site, labels, args.uses, None),
    };
    let invite = Invite { key: key.public(), site, labels, uses, not_after, replaces, boot: None };
    if let Some(machine) = &replaced {
        let reason = "replaced".to_owned();
        let revocation = Revocation { key: machine.id.0, last_good: None, reason };
        signer.add(Kind::REVOCATION, machine.id.0.as_bytes(), &revocation)?;
    }
    let invite_cell = signer.add(Kind::INVITE, invite.key.as_bytes(), &invite)?;
    signer.submit(&mut client).await?;

    if let Some(machine) = &replaced {
        let name = &machine.name;
        context.tell(format_args!(
            "The key of {name} is revoked. One machine may join in its place; it installs again what its groups prescribe."
        ));
    }
    let name = replaced.map(|m| m.name);
    let token = Token { roots, bootstrap, grant, invite_cell, invite, key, name };
    let text = token.encode()?;
    if context.json {
        let Token { invite, bootstrap, name: replaces, .. } = token;
        let Invite { key: invite, site, labels, uses, not_after, .. } = invite;
        let token = text.as_str();
        let document =
            Document { token, invite, site, labels, uses, not_after, bootstrap, replaces };
        return context.print_json(&document);
    }
    context.print(format_args!("{}\n", *text))
}

/// The machine whose place another is to take.
async fn replaced(
    context: &Context,
    client: &mut Client,
    name: &Name,
) -> Result<NodeView, CliError> {
    let nodes = client.nodes(false).await?;
    let found = nodes.into_iter().find(|n| n.name == *name);
    let machine = found.ok_or_else(|| {
        CliError::failed(format!("no machine of the cluster is called {name}"))
            .hint(format!("see them all: {}", context.command("node ls")))
            .hint("a machine that was removed joins as a new one: p2pinst invite")
    })?;
    if machine.up {
        context.tell(format_args!("{name} is up: its node is put out of the cluster now."));
    }
    Ok(machine)
}
