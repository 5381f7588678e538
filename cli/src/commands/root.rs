//! `p2pinst root`

use std::path::PathBuf;

use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;

/// Prepare directories that packages are installed to
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RootCommand {
    Prepare(PrepareArgs),
}

/// Make a directory with an empty package database
///
/// `p2pinstd --root DIR` installs into it. The skeleton that is made has the database only;
/// packages whose scripts need a system around them want --minbase.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst root prepare r1\n  p2pinstd --root r1")]
pub(crate) struct PrepareArgs {
    /// The directory, empty or not existing yet
    dir: PathBuf,
    /// Make a small Debian that can run maintainer scripts (made once, shared by overlay)
    #[arg(long)]
    minbase: bool,
}

#[derive(Serialize)]
struct Document {
    root: PathBuf,
    minbase: bool,
}

pub(super) fn run(context: &Context, command: RootCommand) -> Result<(), CliError> {
    let RootCommand::Prepare(args) = command;
    prepare(&args)?;
    context.tell(format_args!(
        "{} is ready: p2pinstd{} --root {}",
        args.dir.display(),
        context.data_dir_option(),
        args.dir.display()
    ));
    if context.json {
        context.print_json(&Document { root: args.dir, minbase: args.minbase })?;
    }
    Ok(())
}

fn prepare(_args: &PrepareArgs) -> Result<(), CliError> {
    Err(CliError::failed("not built in"))
}
