//! `p2pinst publish`

use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pinst_api::Client;
use p2pinst_api::request::{CountHolders, PreparePublish, PublishPlan};
use p2pinst_api::store::ReleaseView;
use p2pinst_api::view::{DeploymentView, MachineStatus, NodeInfo};
use p2pinst_types::record::{Deployment, Mode, PackageId, Release, Role};
use p2pinst_types::{
    BlobRef, DeploymentId, Kind, Name, PublicKey, Rate, ReleaseId, codec, limits, shard,
};
use serde::Serialize;

use crate::choose::{self, Chosen, Need};
use crate::context::Context;
use crate::error::CliError;
use crate::follow::{self, Link};
use crate::format;
use crate::handover::Source;
use crate::progress::Tally;
use crate::signer::Signer;

/// Install a package on every machine of a group
///
/// Returns when the order is durable on this node and announced; the machines fetch the package
/// from each other and install it when they are idle (with --urgent: at once). Prints the
/// deployment's name and short id.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst publish hello.deb --group gpu
  p2pinst publish big.deb --group all --limit 10MB/s
  p2pinst publish fix.deb --group all --urgent --wait")]
pub(crate) struct PublishArgs {
    /// The package, a .deb file
    pub(super) file: PathBuf,
    /// The group that gets it (all: every machine)
    #[arg(long)]
    pub(super) group: Name,
    /// Install at once, whatever the load
    #[arg(long)]
    pub(super) urgent: bool,
    /// How fast each machine may send it, and receive it (10MB/s, 20Mbit/s)
    #[arg(long, value_name = "RATE")]
    pub(super) limit: Option<Rate>,
    /// Also replace a newer version that is ordered or installed
    #[arg(long)]
    pub(super) allow_downgrade: bool,
    /// Stay until every machine that can be reached is done; fail if it failed anywhere
    #[arg(long)]
    pub(super) wait: bool,
    /// Stay until N other nodes hold all of it: from then on this machine's disk may die
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) durable: Option<u32>,
    /// The key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    pub(super) key: Option<Name>,
    /// Into how many parts the statuses are divided [default: one for each 64 members]
    #[arg(long, hide = true, value_parser = shards)]
    pub(super) shards: Option<u16>,
    /// Only bring it to the machines: `p2pinst preheat`.
    #[arg(skip)]
    pub(super) preheat: bool,
}

/// What is published.
#[derive(Debug)]
pub(super) enum What {
    /// A file, which becomes a release of that package.
    File(Source, PackageId),
    /// A release that a publisher has signed before.
    Release(Box<ReleaseView>),
}

impl What {
    /// What is no package is refused before anything else is looked at.
    pub(super) fn file(path: &Path) -> Result<Self, CliError> {
        let source = Source::open(path)?;
        let package = source.identify()?;
        Ok(Self::File(source, package))
    }

    /// The power that it takes: a new release needs a publisher's word, too.
    fn roles(&self) -> &'static [Role] {
        match self {
            Self::File(..) => &[Role::Operator, Role::Publisher],
            Self::Release(_) => &[Role::Operator],
        }
    }
}

/// A number of shards: a test asks for more of them than its machines need.
fn shards(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|n: &u16| n.is_power_of_two() && *n <= limits::SHARDS);
    number.ok_or_else(|| format!("a power of two, at most {}", limits::SHARDS))
}

/// What is ordered.
struct Order {
    id: DeploymentId,
    name: String,
    release: ReleaseId,
    package: PackageId,
    blob: BlobRef,
    group: Name,
    mode: Mode,
    preheat: bool,
    limit: Option<Rate>,
    members: Vec<Name>,
    peers: usize,
}

#[derive(Serialize)]
struct Document<'a> {
    deployment: DeploymentId,
    name: &'a str,
    release: ReleaseId,
    package: &'a PackageId,
    size: u64,
    group: &'a Name,
    mode: Mode,
    preheat: bool,
    /// In bytes per second.
    limit: Option<u64>,
    members: &'a [Name],
    peers: usize,
    holders: Vec<Name>,
    finished: bool,
    failed: Vec<Name>,
    unreachable: Vec<Name>,
    /// Empty without `--wait`.
    machines: Vec<MachineStatus>,
}

/// What is known of the order so far.
#[derive(Default)]
struct Outcome {
    holders: Vec<Name>,
    view: Option<DeploymentView>,
    waited: Duration,
}

pub(super) async fn run(context: &Context, args: PublishArgs) -> Result<(), CliError> {
    let what = What::file(&args.file)?;
    let (client, info) = context.connect_info().await?;
    deliver(context, client, &info, &args, what).await
}

/// Orders what is to be published, and follows it.
pub(super) async fn deliver(
    context: &Context,
    mut client: Client,
    info: &NodeInfo,
    args: &PublishArgs,
    what: What,
) -> Result<(), CliError> {
    let package = match &what {
        What::File(_, package) => package.clone(),
        What::Release(known) => known.release.package.clone(),
    };
    let roles = what.roles();
    let author = choose::key(context, &mut client, args.key.as_ref(), Need::All(roles)).await?;
    // once before the bytes are handed over, so that what cannot be is refused at once
    let plan = plan(&mut client, args, &package, author.key.public()).await?;
    check(context, args, &package, &plan, info, roles)?;
    let order = match what {
        What::File(source, _) => {
            let blob = source.hand_over_whole(context, &mut client).await?;
            let release = Release { package, file: source.file_name(), blob };
            order(context, &mut client, args, info, author, release, None).await?
        }
        What::Release(known) => {
            let release = known.release.clone();
            order(context, &mut client, args, info, author, release, Some(*known)).await?
        }
    };
    if !context.json {
        context.print(format_args!("{} {}\n", order.name, order.id.short()))?;
    }
    follow(context, client, args, &order).await
}

async fn plan(
    client: &mut Client,
    args: &PublishArgs,
    package: &PackageId,
    author: PublicKey,
) -> Result<PublishPlan, CliError> {
    let (package, group) = (package.clone(), args.group.clone());
    Ok(client.call(PreparePublish { package, group, author }).await?)
}

fn check(
    context: &Context,
    args: &PublishArgs,
    package: &PackageId,
    plan: &PublishPlan,
    info: &NodeInfo,
    roles: &[Role],
) -> Result<(), CliError> {
    let group = &args.group;
    if plan.members.is_empty() {
        return Err(CliError::failed(format!("the group {group} has no members"))
            .hint(format!("look at it: {}", context.command(&format!("group show {group}")))));
    }
    let replaces = !args.allow_downgrade && !args.preheat;
    if let Some((name, newer)) = plan.newer.as_ref().filter(|_| replaces) {
        return Err(CliError::failed(format!(
            "{package} is older than {}, which {name} has ordered for machines of {group}",
            newer.package.version
        ))
        .hint("if it is to replace the newer version, say --allow-downgrade"));
    }
    for role in roles {
        if !plan.roles.contains(role) {
            return Err(CliError::failed(format!("the key has no power as {role}"))
                .hint("see what the keys here may do: p2pinst key ls"));
        }
    }
    let others = plan.members.iter().filter(|m| **m != info.name).count();
    match args.durable.map(|n| n as usize) {
        Some(wanted) if wanted > others => {
            let has = format::count(others, "other machine");
            Err(CliError::failed(format!("{group} has {has}, {wanted} can never hold the package"))
                .hint(format!("ask for at most --durable {others}")))
        }
        _ => Ok(()),
    }
}

/// Signs the release, unless it is known, and the order, and hands both to the node.
async fn order(
    context: &Context,
    client: &mut Client,
    args: &PublishArgs,
    info: &NodeInfo,
    author: Chosen,
    release: Release,
    known: Option<ReleaseView>,
) -> Result<Order, CliError> {
    let roles: &[Role] =
        if known.is_some() { &[Role::Operator] } else { &[Role::Operator, Role::Publisher] };
    let Chosen { key, granted } = author;
    let mut signer = Signer::open(context, client, key, info.cluster).await?;
    // again, now that no other command signs with the key: numbers are given once
    let plan = plan(client, args, &release.package, signer.author()).await?;
    check(context, args, &release.package, &plan, info, roles)?;
    let mode = if args.urgent { Mode::Urgent } else { Mode::LoadAware };
    let manifest = codec::encode(&release)?;
    let (release_id, holders) = match &known {
        Some(known) => (known.id, known.holders.clone()),
        None => (Release::id(&manifest), vec![plan.node]),
    };
    let deployment = Deployment {
        number: plan.number,
        release: release_id,
        group: args.group.clone(),
        mode,
        allow_downgrade: args.allow_downgrade,
        holders,
        limit: args.limit,
        shards: args.shards.unwrap_or_else(|| shard::shards_for(plan.members.len())),
        preheat: args.preheat,
    };
    let payload = codec::encode(&deployment)?;
    let id = Deployment::id(&signer.author(), &payload);
    if known.is_none() {
        signer.add_encoded(Kind::RELEASE, release_id.0.as_bytes(), manifest)?;
    }
    signer.add_encoded(Kind::DEPLOYMENT, id.as_bytes(), payload)?;
    let peers = signer.submit(client).await?.peers;
    Ok(Order {
        id,
        name: format!("{granted}-{}", plan.number),
        release: release_id,
        package: release.package,
        blob: release.blob,
        group: args.group.clone(),
        mode,
        preheat: args.preheat,
        limit: args.limit,
        members: plan.members,
        peers,
    })
}

/// Everything from here on is about an order that stands, whatever goes wrong.
async fn follow(
    context: &Context,
    client: Client,
    args: &PublishArgs,
    order: &Order,
) -> Result<(), CliError> {
    let mut outcome = Outcome::default();
    let ended = tokio::select! {
        ended = observe(context, client, args, order, &mut outcome) => ended,
        _ = tokio::signal::ctrl_c() => Err(CliError::failed("interrupted")),
    };
    let verdict = match (&ended, &outcome.view) {
        (Ok(()), Some(view)) => follow::verdict(context, view, outcome.waited),
        _ => ended.map_err(|e| {
            let status = context.command(&format!("status {}", order.name));
            e.hint(format!("{} is ordered and goes on: {status}", order.name))
        }),
    };
    if context.json {
        context.print_json(&document(order, outcome))?;
    }
    verdict
}

async fn observe(
    context: &Context,
    client: Client,
    args: &PublishArgs,
    order: &Order,
    outcome: &mut Outcome,
) -> Result<(), CliError> {
    let mut link = Link::new(context, client);
    outcome.holders = match args.durable {
        Some(wanted) => link.held_by(order.blob, wanted as usize).await?,
        None => count_now(context, &mut link, order.blob).await,
    };
    let Order { package, group, mode, .. } = order;
    let what = if args.preheat { "is to be brought to" } else { "is ordered for" };
    context.tell(format_args!(
        "{package} ({}) {what} {} of {group}, {mode}; by now {} all of it.",
        format::size(order.blob.len()),
        format::count(order.members.len(), "machine"),
        match outcome.holders.len() {
            1 => "1 other node holds".to_owned(),
            n => format!("{n} other nodes hold"),
        }
    ));
    if args.wait {
        let view = link.finished(order.id).await?;
        outcome.waited = link.waited();
        outcome.view = Some(view);
    }
    Ok(())
}

/// Who holds all of it by now. The order stands whether that is known or not.
async fn count_now(context: &Context, link: &mut Link<'_>, blob: BlobRef) -> Vec<Name> {
    match link.call(CountHolders { blob }).await {
        Ok(holders) => holders.complete,
        Err(e) => {
            context.tell(format_args!("It is not known who holds the package: {e}."));
            Vec::new()
        }
    }
}

fn document(order: &Order, outcome: Outcome) -> Document<'_> {
    let names = |machines: &[&MachineStatus]| machines.iter().map(|m| m.name.clone()).collect();
    let (failed, unreachable) = match &outcome.view {
        Some(view) => {
            let tally = Tally::of(view, outcome.waited);
            (names(&tally.failed), names(&tally.unreachable))
        }
        None => (Vec::new(), Vec::new()),
    };
    Document {
        deployment: order.id,
        name: &order.name,
        release: order.release,
        package: &order.package,
        size: order.blob.len(),
        group: &order.group,
        mode: order.mode,
        preheat: order.preheat,
        limit: order.limit.map(Rate::bytes),
        members: &order.members,
        peers: order.peers,
        holders: outcome.holders,
        finished: outcome.view.is_some(),
        failed,
        unreachable,
        machines: outcome.view.map(|v| v.machines).unwrap_or_default(),
    }
}
