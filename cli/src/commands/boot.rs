//! `p2pinst boot`

use std::time::Duration;

use p2pinst_api::Client;
use p2pinst_api::boot::{BootEvent, MachineView, OrderView};
use p2pinst_api::request::{BootLog, OneSetup, PrepareDeploy};
use p2pinst_boot::setup::Setup;
use p2pinst_types::record::{Disarmament, Ended, Role, Task};
use p2pinst_types::{AssignmentId, Kind, Mac, Millis, Name, SetupId};
use serde::Serialize;

use super::deploy::{CodeArgs, Order, Wanted};
use crate::args;
use crate::bare::{self, Which};
use crate::choose::{self, Need};
use crate::commands::roster;
use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::format::{self, Table};
use crate::planning::Planned;
use crate::signer::Signer;

/// How often the log is looked at.
const PAUSE: Duration = Duration::from_millis(500);

/// What machines do when they start over the network
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BootCommand {
    Ls(LsArgs),
    Show(ShowArgs),
    Arm(ArmArgs),
    Disarm(DisarmArgs),
    Log(LogArgs),
}

/// List the machines for which an order is in force
///
/// All others start from their disks.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  p2pinst boot ls\n  p2pinst boot ls --all")]
pub(crate) struct LsArgs {
    /// Also those whose last order is over
    #[arg(long)]
    all: bool,
}

/// Show the last order for a machine, and how far it is
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst boot show rack1-07")]
pub(crate) struct ShowArgs {
    /// The machine, by name or by the address of an interface
    #[arg(value_name = "NAME")]
    name: String,
}

/// Order a machine again, or only look at it
///
/// Without --inspect: the last order to install it is in force once more, with the same setup and images. With it: its
/// scout tells what it is made of, and waits; nothing is written.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  p2pinst boot arm rack1-07 --inspect\n  p2pinst boot arm rack1-07"
)]
pub(crate) struct ArmArgs {
    /// The machine, by name or by the address of an interface
    #[arg(value_name = "NAME")]
    name: String,
    /// Only look at it
    #[arg(long)]
    inspect: bool,
    /// Switch its power, so that it starts over the network now
    #[arg(long)]
    power: bool,
    #[command(flatten)]
    code: CodeArgs,
    /// How long the order is in force
    #[arg(long, value_name = "TIME", value_parser = args::duration, default_value = "24h")]
    ttl: Duration,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Take an order back: the machine starts from its disk again
///
/// A scout that is at work stops when it hears of it; a disk that it has begun to write does not start.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst boot disarm rack1-07 --reason 'wrong rack'")]
pub(crate) struct DisarmArgs {
    /// The machine, by name or by the address of an interface
    #[arg(value_name = "NAME")]
    name: String,
    /// Why, for people
    #[arg(long, value_name = "TEXT", value_parser = args::reason, default_value = "", hide_default_value = true)]
    reason: String,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Show what happened on this node's segments: who asked for something to boot, and what it got
///
/// Each node remembers its last 1024 events until it stops; others have logs of their own.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  p2pinst boot log --follow\n  p2pinst boot log 52:54:00:12:34:56"
)]
pub(crate) struct LogArgs {
    /// Only of this machine, by name or by the address of an interface
    #[arg(value_name = "NAME|MAC")]
    name: Option<String>,
    /// Stay, and show what happens, until interrupted
    #[arg(long)]
    follow: bool,
}

#[derive(Serialize)]
struct List<'a> {
    machines: Vec<&'a MachineView>,
}

#[derive(Serialize)]
struct Armed {
    name: Name,
    order: String,
    assignment: AssignmentId,
    inspect: bool,
    peers: usize,
}

#[derive(Serialize)]
struct Disarmed {
    name: Name,
    order: String,
    peers: usize,
}

pub(super) async fn run(context: &Context, command: BootCommand) -> Result<(), CliError> {
    match command {
        BootCommand::Ls(args) => list(context, &args).await,
        BootCommand::Show(args) => show(context, &args.name).await,
        BootCommand::Arm(args) => arm(context, args).await,
        BootCommand::Disarm(args) => disarm(context, args).await,
        BootCommand::Log(args) => log(context, args).await,
    }
}

/// `writing 2m 43 %`, `booting 20m, too long`
pub(super) fn progress(order: &OrderView, now: Millis) -> String {
    let mut text = format!("{} {}", order.state, format::age(now.since(order.since)));
    let (done, all) = order.done;
    if all > 0 && order.state == "writing" {
        let percent = u128::from(done) * 100 / u128::from(all);
        text.push_str(&format!(" {percent} % of {}", format::size(all)));
    }
    if order.late {
        text.push_str(", too long");
    }
    text
}

/// `install compute`, `inspect`
fn task(order: &OrderView) -> String {
    match (&order.assignment.task, &order.setup) {
        (Task::Inspect, _) => "inspect".to_owned(),
        (Task::Install { .. }, Some(setup)) => format!("install {setup}"),
        (Task::Install { setup, .. }, None) => format!("install {}", setup.0.short()),
    }
}

async fn list(context: &Context, args: &LsArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let machines = bare::machines(&mut client, &Which::default()).await?;
    let shown = |m: &&MachineView| m.order.as_ref().is_some_and(|o| o.armed || args.all);
    let machines: Vec<&MachineView> = machines.iter().filter(shown).collect();
    if context.json {
        return context.print_json(&List { machines });
    }
    if machines.is_empty() {
        context.tell("No order is in force: every machine starts from its disk.");
        return Ok(());
    }
    let now = cluster_now(&info);
    let mut table = Table::new(&["NAME", "ORDER", "TASK", "WAVE", "PROGRESS", "ENDS", "DETAIL"]);
    for machine in machines {
        let Some(order) = &machine.order else { continue };
        let left = order.assignment.not_after.since(now);
        table.row([
            machine.known.name.to_string(),
            order.name.clone(),
            task(order),
            (u32::from(order.assignment.wave) + 1).to_string(),
            progress(order, now),
            if order.armed { format!("in {}", format::age(left)) } else { "over".to_owned() },
            format::brief(&order.detail),
        ]);
    }
    context.print(table.text_within("", format::width()))
}

async fn show(context: &Context, name: &str) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let machine = bare::machine(context, &mut client, name).await?;
    let machine = MachineView { inventory: None, ..machine };
    if context.json {
        return context.print_json(&machine);
    }
    let name = &machine.known.name;
    let Some(order) = &machine.order else {
        context.tell(format_args!(
            "{name} was never ordered to be installed: it starts from its disk."
        ));
        return Ok(());
    };
    let now = cluster_now(&info);
    let assignment = &order.assignment;
    let mut table = Table::bare();
    let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
    row("machine", name.to_string());
    row("order", order.name.clone());
    row("assignment", order.id.to_string());
    row("task", task(order));
    if let Task::Install { images, plan, .. } = &assignment.task {
        let images: Vec<String> =
            images.iter().map(|(n, id)| format!("{n} {}", id.0.short())).collect();
        row("images", format::names(&images, 16));
        row("plan", plan.map_or_else(|| "left to the scout".to_owned(), |p| p.to_string()));
    }
    row("ordered", order.at.to_string());
    row("in force until", assignment.not_after.to_string());
    row("in force", if order.armed { "yes" } else { "no" }.to_owned());
    row("interfaces", format::names(&assignment.macs, usize::MAX));
    row("power", if assignment.power { "is switched for it" } else { "is not touched" }.to_owned());
    row(
        "wave",
        format!("{}, after {} % of those before", u32::from(assignment.wave) + 1, assignment.gate),
    );
    row("console code", code(&machine, order));
    row("progress", progress(order, now));
    row("detail", order.detail.clone());
    context.print(table.text(""))
}

/// Whether a code must be typed at the machine's console.
fn code(machine: &MachineView, order: &OrderView) -> String {
    match (&order.assignment.code, &machine.asks_for_code) {
        (Some(_), _) => "wanted".to_owned(),
        (None, Some(group)) => format!("the group {group} asks for one, and the order has none"),
        (None, None) => "not wanted".to_owned(),
    }
}

/// What the last order to install a machine said.
async fn again(
    context: &Context,
    client: &mut Client,
    wanted: &Wanted,
) -> Result<Planned, CliError> {
    let name = &wanted.machine.known.name;
    let none = || {
        CliError::failed(format!("{name} was never ordered to be installed"))
            .hint(format!("order it: {}", context.command(&format!("deploy IMAGE --nodes {name}"))))
            .hint(format!(
                "or look at it: {}",
                context.command(&format!("boot arm {name} --inspect"))
            ))
    };
    let order = wanted.machine.order.as_ref().ok_or_else(none)?;
    let Task::Install { setup, images: ids, .. } = &order.assignment.task else {
        return Err(none());
    };
    let text = setup_text(client, *setup).await?;
    let setup = Setup::parse(&text).map_err(CliError::failed)?;
    let images = bare::images(client).await?;
    let planned = Planned::with(setup, text, &images, ids);
    match planned.missing().first() {
        Some(image) => Err(bare::no_image(context, image)),
        None => Ok(planned),
    }
}

async fn setup_text(client: &mut Client, id: SetupId) -> Result<String, CliError> {
    let setup = client.call(OneSetup { id }).await?.setup;
    let setup =
        setup.ok_or_else(|| CliError::failed("the setup of the last order is not known here"))?;
    Ok(setup.text)
}

async fn arm(context: &Context, args: ArmArgs) -> Result<(), CliError> {
    let code = args.code.read()?;
    let (mut client, info) = context.connect_info().await?;
    let machine = bare::machine(context, &mut client, &args.name).await?;
    let wanted = Wanted::of(machine);
    let name = wanted.machine.known.name.clone();
    if wanted.macs().is_empty() {
        return Err(CliError::failed(format!("the interfaces of {name} are not known")).hint(
            format!("give one: {}", context.command(&format!("machine adopt {name} --mac MAC"))),
        ));
    }
    let last = wanted.machine.order.as_ref().and_then(|o| o.assignment.code);
    let code = code.or(last.filter(|_| !args.inspect));
    if let Err(reason) = wanted.may_start(code.is_some()) {
        return Err(CliError::failed(format!("{name} cannot be armed so: {reason}"))
            .hint("nothing was ordered"));
    }
    let planned = match args.inspect {
        true => None,
        false => Some(again(context, &mut client, &wanted).await?),
    };
    let need = Need::All(&[Role::Operator]);
    let author = choose::key(context, &mut client, args.key.as_ref(), need).await?;
    let granted = author.granted;
    let mut signer = Signer::open(context, &mut client, author.key, info.cluster).await?;
    let number = client.call(PrepareDeploy { author: signer.author() }).await?.number;
    let not_after = signer.now().after(args.ttl);
    let order = Order { number, power: args.power, code, not_after, gate: 0 };
    let (assignment, peers) = match &planned {
        Some(planned) => {
            let one = std::slice::from_ref(&wanted);
            let signed = order.install(signer, &mut client, planned, one, &[0]).await?;
            let id = signed.assignments.first().map(|(id, _)| *id);
            let id =
                id.ok_or_else(|| CliError::new(crate::error::Kind::Bug, "nothing was signed"))?;
            (id, signed.peers)
        }
        None => {
            let id = order.assign(&mut signer, &wanted, Task::Inspect, 0)?;
            (id, signer.submit(&mut client).await?.peers)
        }
    };
    let order = format!("{granted}-{number}");
    let what = if args.inspect { "to be looked at" } else { "to be installed again" };
    context.tell(format_args!("{name} is armed {what} when it starts over the network."));
    let inspect = args.inspect;
    match context.json {
        true => context.print_json(&Armed { name, order, assignment, inspect, peers }),
        false => context.print(format_args!("{order}\n")),
    }
}

async fn disarm(context: &Context, args: DisarmArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let machine = bare::machine(context, &mut client, &args.name).await?;
    let name = machine.known.name;
    let Some(order) = machine.order.filter(|o| o.armed) else {
        return Err(CliError::failed(format!("no order is in force for {name}"))
            .hint(format!("see them all: {}", context.command("boot ls"))));
    };
    let mut signer = roster::operator(context, &mut client, args.key.as_ref(), &info).await?;
    let (ended, reason) = (Ended::Cancelled, args.reason);
    let record = Disarmament { assignment: order.id, ended, reason };
    let slot = order.id.as_bytes().to_vec();
    signer.add_in_slot(Kind::DISARMAMENT, machine.id.as_bytes(), slot, &record)?;
    let peers = signer.submit(&mut client).await?.peers;
    let order = order.name;
    context.tell(format_args!("{order} is taken back for {name}: it starts from its disk."));
    if context.json {
        context.print_json(&Disarmed { name, order, peers })?;
    }
    Ok(())
}

async fn log(context: &Context, args: LogArgs) -> Result<(), CliError> {
    let mut client = context.connect().await?;
    let macs: Vec<Mac> = match &args.name {
        None => Vec::new(),
        Some(name) => match name.parse() {
            Ok(mac) => vec![mac],
            Err(_) => bare::machine(context, &mut client, name).await?.known.macs,
        },
    };
    if args.name.is_some() && macs.is_empty() {
        return Err(CliError::failed("the interfaces of this machine are not known"));
    }
    let mut known = None;
    let mut first = true;
    // one that comes while a node is asked is heard after that
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let view = client.call(BootLog { after: known, macs: macs.clone() }).await?;
        if std::mem::take(&mut first) && !context.json {
            match view.interfaces.is_empty() {
                true => context.tell("This node boots nobody now ([boot] mode in config.toml)."),
                false => {
                    context.tell(format_args!("Listens on {}.", format::names(&view.interfaces, 8)))
                }
            }
        }
        known = view.events.last().map(|e| e.number).or(known);
        let more = !view.events.is_empty();
        if context.json && !args.follow {
            return print_all(context, &mut client, view, macs).await;
        }
        for event in &view.events {
            match context.json {
                true => context.print_json_line(event)?,
                false => context.print(line(event))?,
            }
        }
        match (args.follow, more) {
            (false, false) => return Ok(()),
            (_, true) => {}
            (true, false) => tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = &mut interrupted => return Ok(()),
            },
        }
    }
}

/// One document with all events, however many answers they take.
async fn print_all(
    context: &Context,
    client: &mut Client,
    mut view: p2pinst_api::boot::BootLogView,
    macs: Vec<Mac>,
) -> Result<(), CliError> {
    loop {
        let after = view.events.last().map(|e| e.number);
        let more = client.call(BootLog { after, macs: macs.clone() }).await?.events;
        if more.is_empty() {
            return context.print_json(&view);
        }
        view.events.extend(more);
    }
}

fn line(event: &BootEvent) -> String {
    let mac = event.mac.map_or_else(|| "-".to_owned(), |m| m.to_string());
    format!("{}  {mac:17}  {}\n", event.at, format::clean(&event.what))
}
