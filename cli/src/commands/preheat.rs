//! `p2pinst preheat`

use std::path::PathBuf;

use p2pinst_api::request::FindRelease;
use p2pinst_types::{Name, Rate};

use super::publish::{self, PublishArgs, What};
use crate::context::Context;
use crate::error::CliError;

/// Bring a package to every machine of a group, and install nothing
///
/// The machines fetch the file from each other, check it, and keep it; `verified` is where they are
/// done. A later publish of the same package finds the bytes there. The order is signed like one that
/// installs, and ends with `p2pinst retire`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst preheat big_2.0_amd64.deb --group gpu --wait
  p2pinst preheat big=2.0 --group all
  p2pinst retire alice-43")]
pub(crate) struct PreheatArgs {
    /// A package file; or a release that was published before: NAME=VERSION, a deployment, an id
    what: String,
    /// The group that gets it (all: every machine)
    #[arg(long)]
    group: Name,
    /// Fetch at once, whatever the load
    #[arg(long)]
    urgent: bool,
    /// How fast each machine may send it, and receive it (10MB/s, 20Mbit/s)
    #[arg(long, value_name = "RATE")]
    limit: Option<Rate>,
    /// Stay until every machine that can be reached is done; fail if it failed anywhere
    #[arg(long)]
    wait: bool,
    /// Stay until N other nodes hold all of it: from then on this machine's disk may die
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    durable: Option<u32>,
    /// The key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

pub(super) async fn run(context: &Context, args: PreheatArgs) -> Result<(), CliError> {
    let file = PathBuf::from(&args.what);
    let what = if file.exists() { Some(What::file(&file)?) } else { None };
    let (mut client, info) = context.connect_info().await?;
    let what = match what {
        Some(what) => what,
        None => What::Release(Box::new(client.call(FindRelease { what: args.what }).await?)),
    };
    let publish = PublishArgs {
        file,
        group: args.group,
        urgent: args.urgent,
        limit: args.limit,
        allow_downgrade: false,
        wait: args.wait,
        durable: args.durable,
        key: args.key,
        shards: None,
        preheat: true,
    };
    publish::deliver(context, client, &info, &publish, what).await
}
