//! `p2pinst seed`

use std::path::PathBuf;

use p2pinst_api::request::SeedBlob;
use p2pinst_types::Hash;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::handover::Source;

/// Put a file into this machine's store, for others to fetch
///
/// Prints the file's root (what b3sum prints): any member gets the file with `p2pinst fetch ROOT`. The
/// file stays in the store until it is unpinned. Nothing is installed anywhere, so nothing is signed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst seed disk.img
  p2pinst store unpin 3f2a9c51")]
pub(crate) struct SeedArgs {
    /// The file
    file: PathBuf,
}

#[derive(Serialize)]
struct Document {
    root: Hash,
    size: u64,
}

pub(super) async fn run(context: &Context, args: SeedArgs) -> Result<(), CliError> {
    let source = Source::open(&args.file)?;
    let mut client = context.connect().await?;
    let blob = source.hand_over(context, &mut client).await?;
    client.call(SeedBlob { root: blob.root }).await?;
    let (root, size) = (blob.root, blob.len());
    if context.json {
        return context.print_json(&Document { root, size });
    }
    context.print(format_args!("{root}\n"))?;
    context.tell(format_args!(
        "{} ({}) is here for others; on another machine: {}",
        source.file_name(),
        format::size(size),
        context.command(&format!("fetch {root} -o FILE"))
    ));
    Ok(())
}
