//! `p2pinst leave`

use std::time::{Duration, Instant};

use p2pinst_api::request::Leave;
use p2pinst_types::Name;
use serde::Serialize;

use crate::confirm;
use crate::context::Context;
use crate::error::CliError;
use crate::format;

/// How long the node may take to end. A package manager that is at work may take longer.
const GOODBYE: Duration = Duration::from_secs(60);
/// How often it is looked for until then.
const PAUSE: Duration = Duration::from_millis(100);

/// Take this machine out of its cluster
///
/// The node revokes its own key, tells the others, waits for a package manager that is at work,
/// and ends. Its identity, key, records and journal are put aside in a directory left-… in the
/// data directory, which then can be used to join anew. Installed packages, blobs and
/// administrators' keys stay.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst leave --reason 'moves to another lab'")]
pub(crate) struct LeaveArgs {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Also when no other member can be told (one of them removes this machine: node rm)
    #[arg(long)]
    alone: bool,
}

#[derive(Serialize)]
struct Document {
    name: Name,
    told: usize,
    ended: bool,
}

pub(super) async fn run(context: &Context, args: LeaveArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    if !args.yes {
        let question = format!("Take {} out of the cluster {}?", info.name, info.cluster_name);
        let refused = "nothing was done: this machine stays a member";
        confirm::ask(&question, "leaving must be confirmed", refused)?;
    }
    let LeaveArgs { reason, alone, .. } = args;
    let left = client.call(Leave { reason, alone }).await?;
    let begun = Instant::now();
    let socket = context.dir.socket();
    while socket.exists() && begun.elapsed() < GOODBYE {
        tokio::time::sleep(PAUSE).await;
    }
    let ended = !socket.exists();
    let told = match left.told {
        0 => "nobody else has confirmed that it knows".to_owned(),
        n => format!("{} told", format::count(n, "member")),
    };
    context.tell(format_args!("{} has left the cluster {}; {told}.", left.name, info.cluster_name));
    if ended {
        context.tell(format_args!("To join anew: {}", context.command("join TOKEN")));
    } else {
        context.tell("Its node still waits for the package manager, and ends then.");
    }
    if context.keystore().names().is_ok_and(|names| !names.is_empty()) {
        context.tell(format_args!(
            "The administrators' keys in {} stay, and keep their power.",
            context.dir.keys().display()
        ));
    }
    if context.json {
        context.print_json(&Document { name: left.name, told: left.told, ended })?;
    }
    Ok(())
}
