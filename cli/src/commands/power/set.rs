//! `p2pinst power set`, which is `p2pinst machine set-power` too; and the record of a controller, which others make as well.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use p2pinst_boot::power::controller::Controller as Line;
use p2pinst_boot::power::credentials::Credentials;
use p2pinst_trust::sealed::{self, Place};
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::Controller;
use p2pinst_types::{ClusterId, Kind, MachineId, Name, PublicKey, codec};
use serde::Serialize;
use zeroize::Zeroizing;

use super::prepare;
use crate::context::Context;
use crate::error::CliError;
use crate::format;

/// Longest password file, in bytes.
const PASSWORD_FILE: u64 = 4096;

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

/// The controller of a machine as it is filed, with its password sealed to the nodes that may switch it.
///
/// # Errors
/// When there is a password, and nobody who could open it.
pub(in crate::commands) fn record(
    cluster: &ClusterId,
    machine: &MachineId,
    line: &str,
    credentials: Option<&Credentials>,
    nodes: &BTreeSet<PublicKey>,
) -> Result<Controller, CliError> {
    let sealed = match credentials {
        None => None,
        Some(both) => {
            if let Some(error) = without_role(nodes) {
                return Err(error);
            }
            let place = Place { cluster, machine, controller: line };
            let secret = Zeroizing::new(codec::encode(both)?);
            Some(sealed::seal(&place, &secret, nodes).map_err(CliError::failed)?)
        }
    };
    Ok(Controller { line: line.to_owned(), sealed })
}

/// What is wrong when no node may switch anything.
pub(in crate::commands) fn without_role(nodes: &BTreeSet<PublicKey>) -> Option<CliError> {
    nodes.is_empty().then(|| {
        CliError::failed("no node has the power role")
            .hint("give it to nodes that reach the controllers: p2pinst grant KEY --role power")
    })
}

/// The first line of a file that only its owner may read.
pub(in crate::commands) fn password(file: &Path) -> Result<Zeroizing<String>, CliError> {
    let bytes = Zeroizing::new(p2pinst_files::read_private(file, PASSWORD_FILE)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        CliError::failed(format!("the password file {} is not text (UTF-8)", file.display()))
    })?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
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
        Some(file) => password(file)?,
        None => {
            rpassword::prompt_password("Password: ").map(Zeroizing::new).map_err(no_terminal)?
        }
    };
    let both = Credentials::new(user, password.as_str().to_owned());
    both.map(Some).map_err(CliError::usage)
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

/// Says by what a machine is switched.
pub(in crate::commands) async fn set(context: &Context, args: SetArgs) -> Result<(), CliError> {
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
    let controller = record(&info.cluster, &machine, &line, both.as_ref(), &plan.nodes)?;
    let nodes = controller.sealed.as_ref().map_or(0, |s| s.keys.len());
    signer.add(Kind::CONTROLLER, machine.as_bytes(), &controller)?;
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
