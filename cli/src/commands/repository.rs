//! `p2pinst repository`

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use p2pinst_api::boot::ImageView;
use p2pinst_boot::repository::{INDEX, INDEX_MAX, Index, tree};
use p2pinst_types::record::{Image, ImageKind, Role};
use p2pinst_types::{BlobRef, Hash, Name};

use super::{image, seed};
use crate::bare;
use crate::choose::{self, Need};
use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::format;

/// Publish repositories of packages, for installers and machines: any node that boots machines hands them out
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RepositoryCommand {
    Publish(PublishArgs),
    Ls(LsArgs),
    /// Remove a repository from the cluster, as p2pinst image rm does
    ///
    /// Files that another repository has too stay on this machine.
    #[command(after_long_help = "Example:\n  p2pinst repository rm debian")]
    Rm(image::RmArgs),
}

/// Publish a directory of packages under a name
///
/// The directory is a repository as apt, dnf or an installer reads it (made by apt-ftparchive, reprepro, createrepo, or
/// copied from a mirror), of at most 4096 files. Every node with a boot service brings all of it from the others, and hands
/// it out at http://NODE:4080/boot/mirror/NAME/: to everybody on its segments. Repositories and their versions share the
/// files that are equal. Templates see the addresses as `mirrors`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst repository publish /srv/debian --name debian
  echo 'deb http://10.0.0.1:4080/boot/mirror/debian bookworm main' > /etc/apt/sources.list")]
pub(crate) struct PublishArgs {
    /// The directory
    dir: PathBuf,
    /// What it is called
    #[arg(long)]
    name: Name,
    /// What it is, for people [default: how many files it has]
    #[arg(long, value_name = "TEXT", value_parser = image::about)]
    about: Option<String>,
    /// The publisher's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// List the published repositories
///
/// SIZE and HERE are those of the index, not of the packages.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst repository ls")]
pub(crate) struct LsArgs {
    /// Also the versions that a newer one has replaced
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(context: &Context, command: RepositoryCommand) -> Result<(), CliError> {
    match command {
        RepositoryCommand::Publish(args) => publish(context, args).await,
        RepositoryCommand::Ls(args) => {
            image::list(context, args.all, Some(ImageKind::Repository)).await
        }
        RepositoryCommand::Rm(args) => image::rm_kind(context, args, ImageKind::Repository).await,
    }
}

async fn publish(context: &Context, args: PublishArgs) -> Result<(), CliError> {
    let files = tree(&args.dir).map_err(CliError::failed)?;
    let (mut client, info) = context.connect_info().await?;
    let need = Need::All(&[Role::Publisher]);
    choose::key(context, &mut client, args.key.as_ref(), need).await?;
    bare::check_name(&bare::images(&mut client).await?, &args.name, ImageKind::Repository)?;
    let mut blobs = BTreeMap::new();
    // links within the directory are one file
    let mut known: BTreeMap<PathBuf, Option<BlobRef>> = BTreeMap::new();
    for (path, file) in files {
        let blob = match known.get(&file) {
            Some(blob) => *blob,
            None if is_empty(&file)? => None,
            None => Some(tokio::select! {
                blob = image::keep(context, &mut client, &file) => blob?,
                _ = tokio::signal::ctrl_c() => return Err(seed::interrupted()),
            }),
        };
        known.insert(file, blob);
        blobs.insert(path, blob);
    }
    let index = Index::new(blobs).map_err(CliError::failed)?;
    let bytes = index.encode().map_err(CliError::failed)?;
    if bytes.len() as u64 > INDEX_MAX {
        let len = bytes.len();
        return Err(CliError::failed(format!(
            "the index of {} would have {len} bytes, at most {INDEX_MAX} are possible",
            args.dir.display()
        ))
        .hint("shorten the names of directories, or publish it in parts"));
    }
    let room = seed::room(None)?;
    let blob = image::keep_bytes(context, &mut client, &room.path().join(INDEX), &bytes).await?;
    let what = || {
        format!("{}, {}", format::count(index.files().len(), "file"), format::size(index.size()))
    };
    let image = Image {
        name: args.name,
        kind: ImageKind::Repository,
        arch: String::new(),
        files: BTreeMap::from([(INDEX.to_owned(), blob)]),
        about: args.about.unwrap_or_else(what),
        at: cluster_now(&info),
    };
    let published = image::sign(context, &mut client, args.key.as_ref(), image).await?;
    context.tell(what());
    image::told(context, &published)
}

fn is_empty(file: &std::path::Path) -> Result<bool, CliError> {
    use p2pinst_files::Context as _;
    Ok(std::fs::metadata(file).context("read", file)?.len() == 0)
}

/// The files that the repositories of a name have and no others; nothing for images of other kinds.
pub(super) fn only_in(
    context: &Context,
    name: &Name,
    images: &[ImageView],
) -> Result<BTreeSet<Hash>, CliError> {
    let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
    let here = |i: &&ImageView| i.image.kind == ImageKind::Repository && i.here;
    for view in images.iter().filter(here) {
        let into = if view.image.name == *name { &mut own } else { &mut others };
        for index in view.image.files.values() {
            let path = context.dir.blobs().join(format!("{}.blob", index.root));
            let bytes = p2pinst_files::read(&path, INDEX_MAX)?;
            let index = Index::decode(&bytes).map_err(CliError::failed)?;
            into.extend(index.blobs().map(|blob| blob.root));
        }
    }
    Ok(own.difference(&others).copied().collect())
}
