//! `p2pinst deploy`

mod code;
mod order;
mod ready;
mod waves;

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgGroup;
use p2pinst_api::Client;
use p2pinst_api::boot::{ImageView, MachineView};
use p2pinst_boot::setup::Setup;
use p2pinst_types::Name;
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::Role;

pub(super) use self::code::CodeArgs;
pub(super) use self::order::{Order, Wanted, judge};
pub(super) use self::ready::{Ordered, Power, Ready, Terms};
pub(super) use self::waves::Waves;
use super::setup;
use crate::args;
use crate::bare::{self, Which};
use crate::choose::{self, Need};
use crate::context::Context;
use crate::error::CliError;
use crate::planning::{self, Planned};
use crate::signer::Signer;

/// Install bare machines with an image, or as a host setup says
///
/// Each machine is armed: when it starts over the network, it gets the scout, which partitions, writes and finishes its
/// disks, and starts it from them. The order is over for a machine when it is installed, taken back (`p2pinst boot disarm`)
/// or after --ttl. Returns when the order is durable on this node and announced; prints its name.
///
/// An image alone goes to one disk: the only one, or the smallest; never to one that can be pulled out by hand. A
/// disk image is written as it is, and its last partition enlarged; of a root filesystem (tar) a GPT disk is
/// made, with an EFI system partition, a partition for BIOS loaders, and ext4 on the rest. The machine is called as it
/// is in the cluster, and joins it. A disk with anything on it is refused, unless --wipe says that it may be
/// lost.
///
/// With several waves a machine begins when enough of those in the waves before are installed (--after). Which machine is in
/// which wave is drawn by lot, the same on every node.
///
/// Where the disks of a machine are known, the order names the plan that was made for them; its scout touches nothing
/// if it comes to another. Refusals are shown for all machines at once, and then nothing is ordered.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("what").args(["image", "setup"]).required(true)))]
#[command(group(ArgGroup::new("where").args(["nodes", "group"]).required(true)))]
#[command(after_long_help = "Examples:
  p2pinst deploy debian --nodes 'rack1-[01-16]' --power cycle
  p2pinst deploy debian --nodes rack1-07 --wipe
  p2pinst deploy --setup compute.toml --group rack1 --waves 10%,50%,100% --after 90%
  p2pinst deploy --setup compute.toml --nodes rack1-07 --code-file code.txt --ttl 2h")]
pub(crate) struct DeployArgs {
    /// An image, by name
    #[arg(value_name = "IMAGE")]
    image: Option<Name>,
    /// A host setup, TOML (p2pinst setup check)
    #[arg(long, value_name = "FILE")]
    setup: Option<PathBuf>,
    /// Machines by name: rack1-[01-16]
    #[arg(long, value_name = "EXPR")]
    nodes: Option<HostExpr>,
    /// The machines of a group, adopted and installed ones
    #[arg(long)]
    group: Option<Name>,
    /// With an image: what is on the disk may be lost
    #[arg(long, conflicts_with = "setup")]
    wipe: bool,
    /// How many waves, or how many of the machines have begun after each: 10%,50%,100%
    #[arg(long, default_value = "1")]
    waves: Waves,
    /// How many of the machines of the waves before must be installed
    #[arg(long, value_name = "PERCENT", value_parser = waves::percent, default_value = "90%")]
    after: u8,
    /// Switch the machines' power, so that they start over the network now
    #[arg(long, value_enum, default_value = "none")]
    power: Power,
    #[command(flatten)]
    code: CodeArgs,
    /// How long the order is in force
    #[arg(long, value_name = "TIME", value_parser = args::duration, default_value = "24h")]
    ttl: Duration,
    /// Do not ask before something is lost
    #[arg(long)]
    yes: bool,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

pub(super) async fn run(context: &Context, args: DeployArgs) -> Result<(), CliError> {
    let code = args.code.read()?;
    let document = args.setup.as_deref().map(setup::read).transpose()?;
    let (mut client, info) = context.connect_info().await?;
    let need = Need::All(&[Role::Operator]);
    let author = choose::key(context, &mut client, args.key.as_ref(), need).await?;
    let images = bare::images(&mut client).await?;
    let planned = match document {
        Some((setup, text)) => Planned::new(setup, text, &images),
        None => made_up(context, &images, &args)?,
    };
    if let Some(name) = planned.missing().first() {
        return Err(bare::no_image(context, name));
    }
    let machines = machines(context, &mut client, &args).await?;
    let DeployArgs { power, ttl, after: gate, waves, yes, .. } = args;
    let terms = Terms { power, ttl, gate, waves, code, yes };
    let now = crate::context::cluster_now(&info);
    let ready =
        Ready::judge(context, &mut client, planned, machines, terms, (author.key.public(), now));
    let ready = ready.await?;
    let granted = author.granted;
    let signer = Signer::open(context, &mut client, author.key, info.cluster).await?;
    let ordered = ready.sign(context, &mut client, signer, &granted).await?;
    match context.json {
        true => context.print_json(&ordered),
        false => context.print(format_args!("{}\n", ordered.name)),
    }
}

/// The setup of an image alone.
fn made_up(
    context: &Context,
    images: &[ImageView],
    args: &DeployArgs,
) -> Result<Planned, CliError> {
    let name = args.image.as_ref().ok_or_else(|| CliError::usage("an image, or --setup FILE"))?;
    let image = bare::image(context, images, name)?;
    let text = planning::one_disk(image, args.wipe).ok_or_else(|| {
        let kind = image.image.kind;
        CliError::failed(format!("{name} ({kind}) is no whole system: it needs a host setup"))
            .hint("p2pinst deploy --setup FILE")
    })?;
    let setup = Setup::parse(&text).map_err(|e| CliError::new(crate::error::Kind::Bug, e))?;
    Ok(Planned::new(setup, text, images))
}

async fn machines(
    context: &Context,
    client: &mut Client,
    args: &DeployArgs,
) -> Result<Vec<Wanted>, CliError> {
    let (hosts, group) = (args.nodes.clone(), args.group.clone());
    let which = Which { hosts, group, inventory: true, power: false };
    let found = bare::machines(client, &which).await?;
    for term in args.nodes.iter().flat_map(HostExpr::terms) {
        let one: HostExpr = term.parse().map_err(CliError::usage)?;
        // of a member the node knows the addresses too
        let named = |m: &MachineView| one.contains(m.known.name.as_str(), &[]);
        let by_address = term.starts_with(|c: char| c.is_ascii_digit());
        if !by_address && !found.iter().any(named) {
            return Err(CliError::failed(format!("no machine is called {term}"))
                .hint(format!("see them all: {}", context.command("machine ls")))
                .hint("machines that run nothing yet are taken in with: p2pinst machine adopt"));
        }
    }
    if found.is_empty() {
        let what = args.group.as_ref().map_or_else(|| "that name".to_owned(), Name::to_string);
        return Err(CliError::failed(format!("there is no machine in {what}"))
            .hint(format!("see them all: {}", context.command("machine ls"))));
    }
    Ok(found.into_iter().map(Wanted::of).collect())
}
