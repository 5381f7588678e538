//! `p2pinst retire`

use p2pinst_api::request::Status;
use p2pinst_api::view::Lines;
use p2pinst_types::record::{Retirement, Role};
use p2pinst_types::{DeploymentId, Kind, Name};
use serde::Serialize;

use crate::choose::{self, Need};
use crate::context::Context;
use crate::error::CliError;
use crate::signer::Signer;

/// End a deployment for good
///
/// Machines that have not installed it yet never will, nor what it had superseded, and its statuses
/// are dropped everywhere.
/// Nothing is removed from any machine, and what was installed stays in the histories.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst retire alice-42 --reason 'superseded'")]
pub(crate) struct RetireArgs {
    /// The deployment: its name, or the beginning of its id
    deployment: String,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Serialize)]
struct Document {
    deployment: DeploymentId,
    name: String,
    peers: usize,
}

/// Longest reason, in bytes: as records bound it.
const REASON: usize = 1024;

pub(super) async fn run(context: &Context, args: RetireArgs) -> Result<(), CliError> {
    if args.reason.len() > REASON {
        return Err(CliError::usage(format!("a reason has at most {REASON} bytes")));
    }
    let (mut client, info) = context.connect_info().await?;
    let deployment = Some(args.deployment.clone());
    let ask = Status {
        deployment,
        lines: Some(Lines::default()),
        signed: false,
        from: None,
        report: false,
    };
    let status = client.call(ask).await?;
    let Some(order) = status.deployments.first() else {
        let text = args.deployment;
        return Err(CliError::failed(format!("there is no deployment {text}"))
            .hint(format!("see them all: {}", context.command("status"))));
    };
    let need = Need::All(&[Role::Operator]);
    let operator = choose::key(context, &mut client, args.key.as_ref(), need).await?.key;
    let mut signer = Signer::open(context, &mut client, operator, info.cluster).await?;
    let record = Retirement { deployment: order.id, reason: args.reason };
    signer.add(Kind::RETIREMENT, order.id.as_bytes(), &record)?;
    let peers = signer.submit(&mut client).await?.peers;
    let name = order.name.clone();
    context.tell(format_args!("{name} ({}, {}) is retired.", order.package, order.group));
    if context.json {
        context.print_json(&Document { deployment: order.id, name, peers })?;
    }
    Ok(())
}
