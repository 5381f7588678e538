//! `p2pinst power`

mod set;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2pinst_api::Client;
use p2pinst_api::power::{MACHINES, PowerPlan, PowerTarget, PowerView};
use p2pinst_api::request::{Power, PreparePower};
use p2pinst_api::view::NodeInfo;
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::{BootFrom, PowerAction, PowerCause, PowerOrder, PowerOutcome, Role};
use p2pinst_types::{Kind, MachineId, Name, PowerOrderId};
use serde::Serialize;
use tokio::time::Instant;

pub(super) use self::set::{SetArgs, password, record, set, without_role};
use crate::args;
use crate::choose::{self, Need};
use crate::context::Context;
use crate::error::CliError;
use crate::format::{self, Table};
use crate::signer::Signer;

/// Switch machines on and off, and say by what
///
/// Any node with the power role that reaches a machine's controller does it: give the role to at least two
/// (`p2pinst grant KEY --role power`, with the node's key as `p2pinst node show` prints it).
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PowerCommand {
    /// Switch machines on
    #[command(after_long_help = "Example:\n  p2pinst power on 'node[1-8]'")]
    On(SwitchArgs),
    /// Switch machines off, at once
    #[command(after_long_help = "Example:\n  p2pinst power off n1 --force")]
    Off(SwitchArgs),
    /// Shut machines down: their systems are asked to
    #[command(after_long_help = "Example:\n  p2pinst power soft n1,n3")]
    Soft(SwitchArgs),
    /// Switch machines off and on; those that are off are switched on
    #[command(after_long_help = "Example:\n  p2pinst power cycle 'node[1-8]' --boot pxe")]
    Cycle(SwitchArgs),
    /// Start machines anew without switching them off
    #[command(after_long_help = "Example:\n  p2pinst power reset n1 --no-wait")]
    Reset(SwitchArgs),
    /// Show whether machines are on, as their controllers say now
    Status(StatusArgs),
    /// Choose what machines start from at their next start
    BootNext(BootNextArgs),
    /// Say by what a machine's power is switched
    Set(SetArgs),
}

/// What a machine starts from.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Device {
    /// The network, by PXE
    Pxe,
    /// The network, by UEFI HTTP Boot
    UefiHttp,
    /// Its disk
    Disk,
}

impl From<Device> for BootFrom {
    fn from(device: Device) -> Self {
        match device {
            Device::Pxe => Self::Pxe,
            Device::UefiHttp => Self::UefiHttp,
            Device::Disk => Self::Disk,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct SwitchArgs {
    /// The machines: a host expression, as in node[1-8],n12
    #[arg(value_name = "NODES")]
    hosts: HostExpr,
    /// What they start from at this start
    #[arg(long, value_name = "DEVICE", value_enum)]
    boot: Option<Device>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst power boot-next n1 uefi-http")]
pub(crate) struct BootNextArgs {
    /// The machines: a host expression, as in node[1-8],n12
    #[arg(value_name = "NODES")]
    hosts: HostExpr,
    /// What they start from
    #[arg(value_name = "DEVICE", value_enum, default_value = "pxe")]
    device: Device,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Do not wait for what comes of it
    #[arg(long)]
    no_wait: bool,
    /// Also while a machine's disk is being written
    #[arg(long)]
    force: bool,
    /// How long it may be tried
    #[arg(long, value_name = "TIME", value_parser = args::duration, default_value = "15m")]
    within: Duration,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst power status 'node[1-8]'")]
pub(crate) struct StatusArgs {
    /// The machines: a host expression, as in node[1-8],n12
    #[arg(value_name = "NODES")]
    hosts: HostExpr,
}

/// How often it is asked what has come of it.
const PAUSE: Duration = Duration::from_millis(500);
/// How much longer than the order it is waited: for the last report.
const GRACE: Duration = Duration::from_secs(5);

pub(super) async fn run(context: &Context, command: PowerCommand) -> Result<(), CliError> {
    let switch = |args: SwitchArgs, action| Wanted {
        hosts: args.hosts,
        action: Some(action),
        boot: args.boot.map(Into::into),
        how: args.how,
    };
    let wanted = match command {
        PowerCommand::On(args) => switch(args, PowerAction::On),
        PowerCommand::Off(args) => switch(args, PowerAction::Off),
        PowerCommand::Soft(args) => switch(args, PowerAction::Soft),
        PowerCommand::Cycle(args) => switch(args, PowerAction::Cycle),
        PowerCommand::Reset(args) => switch(args, PowerAction::Reset),
        PowerCommand::BootNext(BootNextArgs { hosts, device, how }) => {
            Wanted { hosts, action: None, boot: Some(device.into()), how }
        }
        PowerCommand::Status(args) => return status(context, args).await,
        PowerCommand::Set(args) => return set(context, args).await,
    };
    order(context, wanted).await
}

/// What is wanted of some machines.
#[derive(Debug)]
struct Wanted {
    hosts: HostExpr,
    action: Option<PowerAction>,
    boot: Option<BootFrom>,
    how: How,
}

/// An operator about to sign, and what is to be known before.
async fn prepare(
    context: &Context,
    client: &mut Client,
    info: &NodeInfo,
    hosts: HostExpr,
    key: Option<&Name>,
) -> Result<(Signer, PowerPlan), CliError> {
    let key = choose::key(context, client, key, Need::All(&[Role::Operator])).await?.key;
    let author = key.public();
    let plan = client.call(PreparePower { hosts, author }).await?;
    if !plan.unknown.is_empty() {
        let names = format::names(&plan.unknown, 20);
        return Err(CliError::failed(format!("no machine is called {names}"))
            .hint(format!("see them all: {}", context.command("node ls"))));
    }
    Ok((Signer::open(context, client, key, info.cluster).await?, plan))
}

async fn order(context: &Context, wanted: Wanted) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let Wanted { hosts, action, boot, how } = wanted;
    let (mut signer, plan) = prepare(context, &mut client, &info, hosts, how.key.as_ref()).await?;
    let blind: Vec<_> = plan.machines.iter().filter(|m| m.controller.is_none()).collect();
    if !blind.is_empty() {
        let names: Vec<_> = blind.iter().map(|m| &m.name).collect();
        let names = format::names(&names, 20);
        return Err(CliError::failed(format!("it is not known by what to switch {names}"))
            .hint("say it: p2pinst power set NAME CONTROLLER"));
    }
    let in_band = |m: &PowerTarget| m.controller.as_deref() == Some("inband:");
    if let Some(error) = without_role(&plan.nodes).filter(|_| !plan.machines.iter().all(in_band)) {
        return Err(error);
    }
    let order = PowerOrder {
        number: plan.number,
        action,
        boot,
        forced: how.force,
        not_after: signer.now().after(how.within),
    };
    let author = signer.author();
    let mut orders = BTreeMap::new();
    for target in &plan.machines {
        let machine = target.machine;
        let cell = signer.add(Kind::POWER_ORDER, machine.as_bytes(), &order)?;
        let id = PowerOrder::id(&author, &machine, cell.hlc, cell.payload());
        orders.insert(machine, (id, target.name.clone()));
    }
    signer.submit(&mut client).await?;
    if how.no_wait {
        let n = format::count(orders.len(), "machine");
        context.tell(format_args!("Ordered, of {n}; see what comes of it with `power status`."));
        if context.json {
            context.print_json(&Ordered { number: plan.number, machines: orders.len() })?;
        }
        return Ok(());
    }
    follow(context, &mut client, orders, how.within).await
}

#[derive(Serialize)]
struct Ordered {
    number: u64,
    machines: usize,
}

/// What came of an order.
#[derive(Debug, Serialize)]
struct Came {
    name: Name,
    outcome: Option<PowerOutcome>,
    on: Option<bool>,
    detail: String,
    by: Option<Name>,
}

/// Waits until each machine's order has ended, or its time.
async fn follow(
    context: &Context,
    client: &mut Client,
    orders: BTreeMap<MachineId, (PowerOrderId, Name)>,
    within: Duration,
) -> Result<(), CliError> {
    let until = Instant::now() + within + GRACE;
    let mut open: BTreeSet<MachineId> = orders.keys().copied().collect();
    let mut results = Vec::new();
    while !open.is_empty() {
        let last = Instant::now() >= until;
        let machines: Vec<_> = open.iter().copied().collect();
        for view in ask(client, &machines, false).await? {
            let Some((id, name)) = orders.get(&view.machine) else { continue };
            let ours = view.cause == Some(PowerCause::Order(*id));
            let replaced = view.order.is_some_and(|order| order != *id);
            let over = (ours && view.outcome.is_some()) || replaced;
            if !over && !last {
                continue;
            }
            open.remove(&view.machine);
            let result = result(view, name.clone(), ours, replaced);
            let words = result.words();
            if context.json {
                context.print_json_line(&result)?;
            } else {
                context.print(format_args!("{words}\n"))?;
            }
            results.push(result);
        }
        if !open.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let failed: Vec<_> =
        results.iter().filter(|r| r.outcome != Some(PowerOutcome::Done)).map(|r| &r.name).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(CliError::failed(format!("not done: {}", format::names(&failed, 20))))
}

fn result(view: PowerView, name: Name, ours: bool, replaced: bool) -> Came {
    let detail = match (replaced, ours) {
        (true, _) => "a newer order has taken its place".to_owned(),
        (false, true) if view.outcome.is_none() => format!("not done in time: {}", view.detail),
        (false, true) => view.detail,
        (false, false) => {
            "no node has taken it up: does one with the power role reach the controller?".to_owned()
        }
    };
    let outcome = view.outcome.filter(|_| ours && !replaced);
    Came { name, outcome, on: view.on, detail, by: view.by.filter(|_| ours) }
}

fn state(on: Option<bool>) -> &'static str {
    match on {
        Some(true) => "on",
        Some(false) => "off",
        None => "unknown",
    }
}

impl Came {
    fn words(&self) -> String {
        let outcome = self.outcome.map_or("not done".to_owned(), |o| o.to_string());
        let by = self.by.as_ref().map(|by| format!(", by {by}")).unwrap_or_default();
        let detail = match self.detail.as_str() {
            "" => String::new(),
            detail => format!(": {}", format::clean(detail)),
        };
        format!("{}: {outcome} ({}{by}){detail}", self.name, state(self.on))
    }
}

async fn ask(
    client: &mut Client,
    machines: &[MachineId],
    live: bool,
) -> Result<Vec<PowerView>, CliError> {
    let mut views = Vec::new();
    for machines in machines.chunks(MACHINES) {
        views.extend(client.call(Power { machines: machines.to_vec(), live }).await?);
    }
    Ok(views)
}

async fn status(context: &Context, args: StatusArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    // nobody orders anything
    let author = info.id.0;
    let plan = client.call(PreparePower { hosts: args.hosts, author }).await?;
    if !plan.unknown.is_empty() {
        let names = format::names(&plan.unknown, 20);
        return Err(CliError::failed(format!("no machine is called {names}")));
    }
    let machines: Vec<_> = plan.machines.iter().map(|m| m.machine).collect();
    let views = ask(&mut client, &machines, true).await?;
    if context.json {
        return context.print_json(&views);
    }
    let mut table = Table::new(&["NAME", "POWER", "CONTROLLER", "LAST", "DETAIL"]);
    for view in views {
        let name = view.name.map(|n| n.to_string()).unwrap_or_default();
        let last = match (view.working, view.outcome) {
            (true, _) => "at work".to_owned(),
            (false, Some(outcome)) => outcome.to_string(),
            (false, None) => "-".to_owned(),
        };
        let detail = view.error.unwrap_or(view.detail);
        let on = if view.controller.is_some() { state(view.on) } else { "-" };
        let controller = view.controller.unwrap_or_else(|| "-".to_owned());
        table.row([name, on.to_owned(), controller, last, format::clean(&detail)]);
    }
    context.print(table.text(""))
}
