//! `p2pinst root`

use std::path::PathBuf;

use p2pinst_install::minbase;
use p2pinst_install::root::{self, Prepared};
use serde::Serialize;

use crate::commands::rotate;
use crate::context::Context;
use crate::error::CliError;

/// Prepare directories that packages are installed to; show and replace the cluster's root key
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RootCommand {
    Prepare(PrepareArgs),
    Show(rotate::ShowArgs),
    Rotate(rotate::RotateArgs),
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
    /// Where the small Debian that the roots share is kept
    #[arg(long, value_name = "DIR", default_value = "/var/cache/p2pinst")]
    cache: PathBuf,
}

#[derive(Serialize)]
struct Document {
    root: PathBuf,
    minbase: bool,
    made: bool,
}

pub(super) async fn run(context: &Context, command: RootCommand) -> Result<(), CliError> {
    match command {
        RootCommand::Prepare(args) => prepare_root(context, args),
        RootCommand::Show(rotate::ShowArgs {}) => rotate::show(context).await,
        RootCommand::Rotate(args) => rotate::rotate(context, args).await,
    }
}

fn prepare_root(context: &Context, args: PrepareArgs) -> Result<(), CliError> {
    if args.minbase {
        context.tell("The first time this takes a minute, and a Debian mirror.");
    }
    let made = prepare(&args)? == Prepared::Made;
    let dir = args.dir.display();
    let ready = if made { "is ready" } else { "is a root already" };
    context.tell(format_args!("{dir} {ready}: p2pinstd{} --root {dir}", context.data_dir_option()));
    if context.json {
        context.print_json(&Document { root: args.dir, minbase: args.minbase, made })?;
    }
    Ok(())
}

fn prepare(args: &PrepareArgs) -> Result<Prepared, CliError> {
    let prepared = if args.minbase {
        minbase::prepare_minbase(&args.dir, &args.cache)
    } else {
        root::prepare_skeleton(&args.dir)
    };
    prepared.map_err(CliError::failed)
}
