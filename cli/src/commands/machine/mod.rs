//! `p2pinst machine`

mod adopt;
mod import;

use p2pinst_api::boot::{InventoryView, MachineView, SightingView};
use p2pinst_types::record::{Adoption, Inventory};
use p2pinst_types::{Kind, Millis, Name};
use serde::Serialize;

use crate::bare::{self, Which};
use crate::commands::{power, roster};
use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::format::{self, Table};

/// Machines before they run anything: discovered, adopted, installed
#[derive(Debug, clap::Subcommand)]
pub(crate) enum MachineCommand {
    Ls(LsArgs),
    Show(ShowArgs),
    Adopt(adopt::AdoptArgs),
    Import(import::ImportArgs),
    /// Say by what a machine's power is switched: the same as `p2pinst power set`
    SetPower(power::SetArgs),
    Rm(RmArgs),
}

/// List the machines that were adopted, members, and unknown ones that were seen
///
/// STATE: bare (adopted, and nothing of ours runs on it), up or down (its own system is a member), stranger (it asked
/// for something to boot, and nobody has adopted it). POWER: on or off, as it was said last by who switched it; no
/// controller is asked (`p2pinst power status` does that). ORDER: the last order to install it, and how far that is.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst machine ls")]
pub(crate) struct LsArgs {}

/// Show all that is known of a machine, and what it is made of
///
/// As its own system or its scout has told last; of a stranger what was seen of it.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  p2pinst machine show rack1-07\n  p2pinst machine show 52:54:00:12:34:56"
)]
pub(crate) struct ShowArgs {
    /// The machine, by name or by the address of an interface
    #[arg(value_name = "NAME|MAC")]
    name: String,
}

/// Forget a machine that was adopted
///
/// It is known by its interfaces no more: nothing is booted on it, and a scout of it gets no certificate. An order for
/// it has to be taken back before. When its own system is a member, that stays one (`p2pinst node rm` removes it).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst machine rm rack1-07")]
pub(crate) struct RmArgs {
    /// The machine, by name or by the address of an interface
    #[arg(value_name = "NAME|MAC")]
    name: String,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Serialize)]
struct List {
    machines: Vec<MachineView>,
    strangers: Vec<SightingView>,
}

#[derive(Serialize)]
struct Removed {
    name: Name,
    peers: usize,
}

pub(super) async fn run(context: &Context, command: MachineCommand) -> Result<(), CliError> {
    match command {
        MachineCommand::Ls(LsArgs {}) => list(context).await,
        MachineCommand::Show(args) => show(context, &args.name).await,
        MachineCommand::Adopt(args) => adopt::run(context, args).await,
        MachineCommand::Import(args) => import::run(context, args).await,
        MachineCommand::SetPower(args) => power::set(context, args).await,
        MachineCommand::Rm(args) => rm(context, args).await,
    }
}

/// `bare`, `up`, `down`
fn state(machine: &MachineView) -> &'static str {
    match (machine.member, machine.up) {
        (None, _) => "bare",
        (Some(_), true) => "up",
        (Some(_), false) => "down",
    }
}

/// `on`, `off`
fn power(machine: &MachineView) -> &'static str {
    match machine.power {
        Some(true) => "on",
        Some(false) => "off",
        None => "-",
    }
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// `4 processors, 8.0 GiB, disks vda (8.0 GiB, gpt)`
fn summary(inventory: &Inventory) -> String {
    let who = [&inventory.vendor, &inventory.product];
    let who: Vec<&str> = who.into_iter().filter_map(|t| t.as_deref()).collect();
    let mut parts = Vec::new();
    parts.extend((!who.is_empty()).then(|| who.join(" ")));
    parts.push(format::count(inventory.cpus as usize, "processor"));
    parts.push(format::size(inventory.memory));
    parts.push(dash(crate::planning::disks(inventory)));
    parts.join(", ")
}

async fn list(context: &Context) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let which = Which { inventory: context.json, power: true, ..Which::default() };
    let machines = bare::machines(&mut client, &which).await?;
    let strangers = bare::sightings(&mut client).await?;
    if context.json {
        return context.print_json(&List { machines, strangers });
    }
    let now = cluster_now(&info);
    let mut table =
        Table::new(&["NAME", "STATE", "POWER", "SITE", "MAC", "LABELS", "ORDER", "PROGRESS"]);
    for machine in &machines {
        let known = &machine.known;
        let order = machine.order.as_ref();
        table.row([
            known.name.to_string(),
            state(machine).to_owned(),
            power(machine).to_owned(),
            known.site.to_string(),
            dash(format::names(&known.macs, 2)),
            dash(format::labels(&known.labels)),
            order.map_or_else(|| "-".to_owned(), |o| o.name.clone()),
            order.map_or_else(|| "-".to_owned(), |o| super::boot::progress(o, now)),
        ]);
    }
    for stranger in &strangers {
        let made = stranger.inventory.as_ref().map(summary);
        let seen = format!("seen {} ago", format::age(now.since(stranger.at)));
        table.row([
            "-".to_owned(),
            "stranger".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            stranger.mac.to_string(),
            "-".to_owned(),
            "-".to_owned(),
            [Some(seen), made].into_iter().flatten().collect::<Vec<_>>().join("; "),
        ]);
    }
    if machines.is_empty() && strangers.is_empty() {
        context.tell("No machine is known.");
        return Ok(());
    }
    context.print(table.text(""))?;
    if let Some(first) = strangers.first() {
        let adopt = context.command(&format!("machine adopt {} --name NAME", first.mac));
        context.tell(format_args!("\nTake a stranger in: {adopt}"));
    }
    Ok(())
}

#[derive(Serialize)]
struct Stranger<'a> {
    stranger: &'a SightingView,
}

async fn show(context: &Context, name: &str) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let now = cluster_now(&info);
    let machine = match bare::machine(context, &mut client, name).await {
        Ok(machine) => machine,
        Err(error) => {
            let strangers = bare::sightings(&mut client).await?;
            let Some(seen) = strangers.iter().find(|s| name.parse() == Ok(s.mac)) else {
                return Err(error);
            };
            if context.json {
                return context.print_json(&Stranger { stranger: seen });
            }
            let mut table = Table::bare();
            table.row(["state".to_owned(), "stranger".to_owned()]);
            table.row(["interface".to_owned(), seen.mac.to_string()]);
            table.row(["seen".to_owned(), format!("{} ago", format::age(now.since(seen.at)))]);
            let made = seen.inventory.as_ref().map(|i| hardware(i, seen.at, now));
            return context.print(table.text("") + &made.unwrap_or_default());
        }
    };
    if context.json {
        return context.print_json(&machine);
    }
    let known = &machine.known;
    let mut table = Table::bare();
    let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
    row("name", known.name.to_string());
    row("machine", machine.id.to_string());
    row("state", state(&machine).to_owned());
    row("power", power(&machine).to_owned());
    row("site", known.site.to_string());
    row("labels", dash(format::labels(&known.labels)));
    row("interfaces", dash(format::names(&known.macs, usize::MAX)));
    if let Some(group) = &machine.asks_for_code {
        row("console code", format!("the group {group} asks for one"));
    }
    if let Some(order) = &machine.order {
        row("order", format!("{}, {}", order.name, super::boot::progress(order, now)));
    }
    let made = match &machine.inventory {
        Some(InventoryView { at, inventory }) => hardware(inventory, *at, now),
        None => {
            let told = context.command(&format!("boot arm {} --inspect", known.name));
            context.tell(format_args!("What it is made of is not known; let it tell: {told}"));
            String::new()
        }
    };
    context.print(table.text("") + &made)
}

/// What a machine is made of, line by line.
fn hardware(inventory: &Inventory, at: Millis, now: Millis) -> String {
    let unknown = || "?".to_owned();
    let mut table = Table::bare();
    let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
    row("told", format!("{} ago", format::age(now.since(at))));
    row("maker", inventory.vendor.clone().unwrap_or_else(unknown));
    row("product", inventory.product.clone().unwrap_or_else(unknown));
    row("serial number", inventory.serial.clone().unwrap_or_else(unknown));
    row("uuid", inventory.uuid.clone().unwrap_or_else(unknown));
    row("firmware", format!("{:?}", inventory.firmware).to_uppercase());
    let cpu = inventory.cpu.clone().unwrap_or_else(unknown);
    row("processors", format!("{} × {cpu} ({})", inventory.cpus, inventory.arch));
    row("memory", format::size(inventory.memory));
    row("controller", inventory.controller.clone().unwrap_or_else(|| "-".to_owned()));
    for disk in &inventory.disks {
        let texts = [&disk.model, &disk.serial, &disk.wwn, &disk.path];
        let mut parts = vec![disk.name.clone(), format::size(disk.size)];
        parts.push(disk.content.clone().unwrap_or_else(|| "empty".to_owned()));
        parts.push(if disk.rotational { "turns" } else { "solid" }.to_owned());
        parts.extend(disk.removable.then(|| "removable".to_owned()));
        parts.extend(texts.into_iter().flatten().cloned());
        row("disk", parts.join(", "));
    }
    for nic in &inventory.nics {
        let mut parts = vec![nic.name.clone(), nic.mac.to_string()];
        parts.extend(nic.driver.clone());
        parts.push(if nic.link { "link" } else { "no link" }.to_owned());
        parts.extend(nic.mbit.map(|mbit| format!("{mbit} Mbit/s")));
        row("interface", parts.join(", "));
    }
    table.text("")
}

async fn rm(context: &Context, args: RmArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let machine = bare::machine(context, &mut client, &args.name).await?;
    let name = machine.known.name.clone();
    if !machine.adopted {
        return Err(CliError::failed(format!("{name} was never adopted")).hint(format!(
            "it is a member; members are removed with: {}",
            context.command(&format!("node rm {name}"))
        )));
    }
    if let Some(order) = machine.order.as_ref().filter(|o| o.armed) {
        return Err(CliError::failed(format!("{} is in force for {name}", order.name))
            .hint(format!("take it back: {}", context.command(&format!("boot disarm {name}")))));
    }
    let mut signer = roster::operator(context, &mut client, args.key.as_ref(), &info).await?;
    let record = Adoption { removed: true, ..machine.known };
    signer.add(Kind::ADOPTION, machine.id.as_bytes(), &record)?;
    let peers = signer.submit(&mut client).await?.peers;
    context.tell(format_args!("{name} is forgotten; {} told.", format::count(peers, "peer")));
    if context.json {
        context.print_json(&Removed { name, peers })?;
    }
    Ok(())
}
