//! `p2pinst power`

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pinst_api::Client;
use p2pinst_api::power::{MACHINES, PowerPlan, PowerTarget, PowerView};
use p2pinst_api::request::{Power, PreparePower};
use p2pinst_api::view::NodeInfo;
use p2pinst_boot::power::controller::Controller as Line;
use p2pinst_boot::power::credentials::Credentials;
use p2pinst_trust::sealed::{self, Place};
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::{
    BootFrom, Controller, PowerAction, PowerCause, PowerOrder, PowerOutcome, Role,
};
use p2pinst_types::{Kind, MachineId, Name, PowerOrderId, codec};
use serde::Serialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

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

#[derive(Debug, clap::Args)]
#[command(after_long_help = "Lines:
  redfish://HOST[/redfish/v1/Systems/ID]   Redfish (redfish+http:// without TLS)
  ipmi://HOST                              IPMI 2.0, through ipmitool
  wol://                                   Wake-on-LAN, from a node at the machine's site
  libvirt:///system?domain=NAME            libvirt, through virsh
  qmp:///run/vm1.qmp                       QEMU
  command:/usr/local/sbin/pdu {action} {mac}
  inband:                                  the machine itself, while it runs

Examples:
  p2pinst power set n1 ipmi://10.0.0.5 --user admin --password-file FILE
  p2pinst power set n1 --none")]
pub(crate) struct SetArgs {
    /// The machine
    name: Name,
    /// The controller; users and passwords do not belong into it
    #[arg(value_name = "CONTROLLER", required_unless_present = "none")]
    line: Option<Line>,
    /// The machine has no controller
    #[arg(long, conflicts_with_all = ["line", "user", "password_file"])]
    none: bool,
    /// The user at the controller
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Read the password from a file (its first line) in place of the terminal
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Longest password file, in bytes.
const PASSWORD_FILE: u64 = 4096;
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

fn without_role(plan: &PowerPlan) -> Option<CliError> {
    plan.nodes.is_empty().then(|| {
        CliError::failed("no node has the power role")
            .hint("give it to nodes that reach the controllers: p2pinst grant KEY --role power")
    })
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
    if let Some(error) = without_role(&plan).filter(|_| !plan.machines.iter().all(in_band)) {
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

/// The user and the password, where the controller needs them or they are given.
fn credentials(args: &SetArgs, line: &Line) -> Result<Option<Credentials>, CliError> {
    let user = match &args.user {
        Some(user) => user.clone(),
        None if line.driver().needs_credentials() => {
            return Err(CliError::usage("this controller asks for a user and a password")
                .hint("name the user with --user; the password is asked for"));
        }
        None => return Ok(None),
    };
    let password = match args.password_file.as_deref() {
        Some(file) => from_file(file)?,
        None => {
            rpassword::prompt_password("Password: ").map(Zeroizing::new).map_err(no_terminal)?
        }
    };
    let both = Credentials::new(user, password.as_str().to_owned());
    both.map(Some).map_err(CliError::usage)
}

fn from_file(file: &Path) -> Result<Zeroizing<String>, CliError> {
    let bytes = Zeroizing::new(p2pinst_files::read_private(file, PASSWORD_FILE)?);
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| CliError::failed("the password file is not text (UTF-8)"))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn no_terminal(error: io::Error) -> CliError {
    CliError::failed(format!("cannot ask for the password: {error}"))
        .hint("without a terminal, use --password-file FILE")
}

#[derive(Serialize)]
struct Named {
    name: Name,
    machine: MachineId,
    controller: Option<String>,
    nodes: usize,
}

async fn set(context: &Context, args: SetArgs) -> Result<(), CliError> {
    let both = match &args.line {
        Some(line) => credentials(&args, line)?,
        None => None,
    };
    let (mut client, info) = context.connect_info().await?;
    let hosts: HostExpr = args.name.as_str().parse().map_err(CliError::usage)?;
    let (mut signer, plan) = prepare(context, &mut client, &info, hosts, args.key.as_ref()).await?;
    let Some(target) = plan.machines.first() else {
        return Err(CliError::failed(format!("no machine is called {}", args.name)));
    };
    let machine = target.machine;
    let line = args.line.as_ref().map(ToString::to_string).unwrap_or_default();
    let sealed = match &both {
        None => None,
        Some(both) => {
            if let Some(error) = without_role(&plan) {
                return Err(error);
            }
            let place = Place { cluster: &info.cluster, machine: &machine, controller: &line };
            let secret = Zeroizing::new(codec::encode(both)?);
            Some(sealed::seal(&place, &secret, &plan.nodes).map_err(CliError::failed)?)
        }
    };
    let nodes = sealed.as_ref().map_or(0, |s| s.keys.len());
    let record = Controller { line: line.clone(), sealed };
    signer.add(Kind::CONTROLLER, machine.as_bytes(), &record)?;
    signer.submit(&mut client).await?;
    let name = &args.name;
    match (line.as_str(), nodes) {
        ("", _) => context.tell(format_args!("{name} has no controller any more.")),
        (line, 0) => context.tell(format_args!("{name} is switched by {line}.")),
        (line, nodes) => {
            let nodes = format::count(nodes, "node");
            context.tell(format_args!(
                "{name} is switched by {line}; the password is sealed to {nodes}."
            ));
        }
    }
    if context.json {
        let controller = (!line.is_empty()).then_some(line);
        context.print_json(&Named { name: name.clone(), machine, controller, nodes })?;
    }
    Ok(())
}
