//! `p2pinst version`

use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;

/// Show the version of p2pinst
///
/// Needs no node. `p2pinst node ls` shows which version each machine runs.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst version --json")]
pub(crate) struct VersionArgs {}

#[derive(Serialize)]
struct Document {
    version: &'static str,
}

pub(super) fn run(context: &Context, _args: &VersionArgs) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    if context.json {
        return context.print_json(&Document { version });
    }
    context.print(format_args!("p2pinst {version}\n"))
}
