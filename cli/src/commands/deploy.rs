//! `p2pinst deploy`

mod order;
mod waves;

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgGroup;
use p2pinst_api::Client;
use p2pinst_api::boot::{ImageView, MachineView};
use p2pinst_api::request::PrepareDeploy;
use p2pinst_boot::setup::Setup;
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::{Assignment, Role};
use p2pinst_types::{AssignmentId, Hash, MachineId, Name, SetupId};
use serde::Serialize;

pub(super) use self::order::{Order, Wanted};
use self::waves::Waves;
use super::setup;
use crate::args;
use crate::bare::{self, Which};
use crate::choose::{self, Need};
use crate::confirm;
use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::planning::{self, Planned};
use crate::signer::Signer;

/// The longest code that is read from a file.
const CODE_MAX: u64 = 1024;
/// Machines that are shown before they are wiped.
const SHOWN: usize = 64;

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
    /// A scout gets its certificate only when this is typed at the machine's console
    #[arg(long, conflicts_with = "code_file")]
    code: Option<String>,
    /// The same, in a file
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Power {
    /// Off and on again
    Cycle,
    /// Somebody else starts them
    None,
}

#[derive(Serialize)]
struct Document {
    name: String,
    number: u64,
    setup: SetupId,
    machines: Vec<Line>,
    peers: usize,
}

#[derive(Serialize)]
struct Line {
    name: Name,
    machine: MachineId,
    assignment: AssignmentId,
    wave: u16,
    plan: Option<Hash>,
}

pub(super) async fn run(context: &Context, args: DeployArgs) -> Result<(), CliError> {
    let code = code(&args)?;
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
    let now = crate::context::cluster_now(&info);
    let wanted = order::judge(&planned, machines, now).map_err(|all| refuse(&all))?;
    warn(context, &mut client, &args, author.key.public()).await?;
    if !args.yes {
        ask(context, &planned, &wanted)?;
    }
    let granted = author.granted;
    let signer = Signer::open(context, &mut client, author.key, info.cluster).await?;
    // now that no other command signs with the key: numbers are given once
    let number = client.call(PrepareDeploy { author: signer.author() }).await?.number;
    let name = format!("{granted}-{number}");
    let order = Order {
        number,
        power: args.power == Power::Cycle,
        code,
        not_after: signer.now().after(args.ttl),
        gate: args.after,
    };
    let waves = args.waves.of(&signer.author(), number, wanted.iter().map(|w| w.machine.id));
    let signed = order.install(signer, &mut client, &planned, &wanted, &waves).await?;
    told(context, &name, &args, &wanted, &waves)?;
    if !context.json {
        return context.print(format_args!("{name}\n"));
    }
    let machines = wanted.into_iter().zip(signed.assignments).zip(waves).map(
        |((wanted, (assignment, plan)), wave)| Line {
            name: wanted.machine.known.name,
            machine: wanted.machine.id,
            assignment,
            wave,
            plan,
        },
    );
    let (machines, setup, peers) = (machines.collect(), signed.setup, signed.peers);
    context.print_json(&Document { name, number, setup, machines, peers })
}

/// The hash of the console code, if one is wanted.
fn code(args: &DeployArgs) -> Result<Option<Hash>, CliError> {
    let text = match (&args.code, &args.code_file) {
        (Some(code), _) => code.clone(),
        (None, Some(file)) => {
            let bytes = p2pinst_files::read(file, CODE_MAX)?;
            String::from_utf8(bytes)
                .map_err(|_| CliError::failed("the code is no text in UTF-8"))?
        }
        (None, None) => return Ok(None),
    };
    let code = text.trim();
    if code.is_empty() || code.len() > p2pinst_types::limits::HARDWARE_TEXT {
        let most = p2pinst_types::limits::HARDWARE_TEXT;
        return Err(CliError::usage(format!("a code has 1 to {most} bytes")));
    }
    Ok(Some(Assignment::code_hash(code)))
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
    let wanted = |machine: MachineView| Wanted { inventory: machine.inventory.clone(), machine };
    Ok(found.into_iter().map(wanted).collect())
}

/// What would keep the order from being carried out.
async fn warn(
    context: &Context,
    client: &mut Client,
    args: &DeployArgs,
    author: p2pinst_types::PublicKey,
) -> Result<(), CliError> {
    let plan = client.call(PrepareDeploy { author }).await?;
    let grant = |role: &str| context.command(&format!("grant NODE --role {role}"));
    if plan.boot.is_empty() {
        let hint = format!("where the root key is: {}", grant("boot"));
        return Err(
            CliError::failed("no node may certify the machines that are installed").hint(hint)
        );
    }
    if args.power == Power::Cycle && plan.power.is_empty() {
        let hint = format!("where the root key is: {}", grant("power"));
        return Err(CliError::failed("no node may switch the machines' power")
            .hint(hint)
            .hint("or start them yourself: --power none"));
    }
    Ok(())
}

fn refuse(refused: &[(Name, String)]) -> CliError {
    let mut text = format!("{} cannot be installed so:", format::count(refused.len(), "machine"));
    for (name, reason) in refused.iter().take(SHOWN) {
        let reason = reason.replace('\n', "\n  ");
        text.push_str(&format!("\n  {name}: {reason}"));
    }
    if refused.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", refused.len() - SHOWN));
    }
    CliError::failed(text).hint("nothing was ordered")
}

/// Asks before something is lost.
fn ask(context: &Context, planned: &Planned, wanted: &[Wanted]) -> Result<(), CliError> {
    let at_risk: Vec<&Wanted> = wanted.iter().filter(|w| w.is_at_risk(planned)).collect();
    if at_risk.is_empty() {
        return Ok(());
    }
    let mut table = format::Table::bare();
    for wanted in at_risk.iter().take(SHOWN) {
        let disks = match &wanted.inventory {
            Some(known) => planning::disks(&known.inventory),
            None => "nobody knows what is on its disks".to_owned(),
        };
        table.row([wanted.machine.known.name.to_string(), disks]);
    }
    let count = format::count(at_risk.len(), "machine");
    context.tell(format_args!(
        "What is on the disks of {count} may be lost:\n{}",
        table.text("  ").trim_end()
    ));
    if at_risk.len() > SHOWN {
        context.tell(format_args!("  and {} more", at_risk.len() - SHOWN));
    }
    let unasked = format!("what is on the disks of {count} may be lost: that must be confirmed");
    confirm::ask("Go on?", &unasked, "nothing was ordered")
}

fn told(
    context: &Context,
    name: &str,
    args: &DeployArgs,
    wanted: &[Wanted],
    waves: &[u16],
) -> Result<(), CliError> {
    let count = format::count(wanted.len(), "machine");
    let last = waves.iter().max().copied().unwrap_or(0) + 1;
    let how = if last > 1 { format!(" in {last} waves") } else { String::new() };
    context.tell(format_args!("{count} armed{how}."));
    let unknown = wanted.iter().filter(|w| w.inventory.is_none()).count();
    if unknown > 0 {
        context.tell(format_args!(
            "The disks of {} are not known: what the setup says decides alone.",
            format::count(unknown, "machine")
        ));
    }
    if args.power == Power::None {
        context.tell("Start them over the network.");
    }
    context.tell(format_args!("Watch: {}", context.command(&format!("status {name} --watch"))));
    Ok(())
}
