//! `p2pinst template`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use p2pinst_boot::template::{Files, Format, Graph, pack};
use p2pinst_files::Context as _;
use p2pinst_types::Name;
use p2pinst_types::record::{Image, ImageKind, Role};
use serde::Serialize;

use super::image;
use crate::bare;
use crate::choose::{self, Need};
use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::format;

/// The file of a published image of this kind.
const ARCHIVE: &str = "templates.tar";

/// Publish and check templates: what installers' files (kickstart, preseed, autoinstall, cloud-init) are made of
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TemplateCommand {
    Check(CheckArgs),
    Publish(PublishArgs),
    Ls(LsArgs),
    /// Remove templates from the cluster, as p2pinst image rm does
    #[command(after_long_help = "Example:\n  p2pinst template rm site")]
    Rm(image::RmArgs),
}

/// Read a directory of templates, and show everything that is wrong with it
///
/// The directory has graph.toml (appliances, edges, order), nodes/NAME.toml (fragments) and templates/ (texts that these
/// name). Without an error: the appliances, and the formats for which there are fragments. No node is asked.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst template check site")]
pub(crate) struct CheckArgs {
    /// The directory
    dir: PathBuf,
}

/// Publish a directory of templates under a name
///
/// Host setups name it (template = "NAME"), and p2pinst render shows what comes of it for a machine. A second one of the
/// same name is a newer version: what is ordered from then on gets that. Every member can read it: no secrets in it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst template publish site --name site")]
pub(crate) struct PublishArgs {
    /// The directory
    dir: PathBuf,
    /// What it is called
    #[arg(long)]
    name: Name,
    /// What it is, for people
    #[arg(long, value_name = "TEXT", value_parser = image::about, default_value = "", hide_default_value = true)]
    about: String,
    /// The publisher's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// List the published templates
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst template ls")]
pub(crate) struct LsArgs {
    /// Also the versions that a newer one has replaced
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct Checked {
    appliances: BTreeMap<Name, String>,
    formats: BTreeSet<Format>,
    nodes: usize,
    files: usize,
}

pub(super) async fn run(context: &Context, command: TemplateCommand) -> Result<(), CliError> {
    match command {
        TemplateCommand::Check(args) => check(context, &args),
        TemplateCommand::Publish(args) => publish(context, args).await,
        TemplateCommand::Ls(args) => {
            image::list(context, args.all, Some(ImageKind::Templates)).await
        }
        TemplateCommand::Rm(args) => image::rm_kind(context, args, ImageKind::Templates).await,
    }
}

/// Reads a directory of templates, and what is wrong with it.
fn read(dir: &Path) -> Result<(Files, Graph), CliError> {
    let files = Files::read(dir).map_err(CliError::failed)?;
    let shown = dir.display();
    let graph = Graph::parse(&files).map_err(|e| CliError::failed(format!("{shown}: {e}")))?;
    Ok((files, graph))
}

/// The archive of a directory that has nothing wrong.
pub(super) fn archive(dir: &Path) -> Result<Vec<u8>, CliError> {
    let (files, _) = read(dir)?;
    Ok(pack(&files).context("pack", dir)?)
}

fn check(context: &Context, args: &CheckArgs) -> Result<(), CliError> {
    let (files, graph) = read(&args.dir)?;
    let appliances = graph.appliances().map(|(name, what)| (name.clone(), what.to_owned()));
    let checked = Checked {
        appliances: appliances.collect(),
        formats: graph.formats(),
        nodes: graph.nodes().count(),
        files: files.iter().count(),
    };
    if context.json {
        return context.print_json(&checked);
    }
    let mut table = format::Table::bare();
    for (name, what) in &checked.appliances {
        table.row([name.to_string(), what.clone()]);
    }
    let formats: Vec<&str> = checked.formats.iter().map(|f| f.as_str()).collect();
    let formats = if formats.is_empty() { "none".to_owned() } else { formats.join(", ") };
    context.tell(format_args!(
        "{} in {}; fragments of their own for: {formats}",
        format::count(checked.nodes, "fragment"),
        format::count(checked.files, "file")
    ));
    context.print(table.text(""))
}

async fn publish(context: &Context, args: PublishArgs) -> Result<(), CliError> {
    let bytes = archive(&args.dir)?;
    let (mut client, info) = context.connect_info().await?;
    let need = Need::All(&[Role::Publisher]);
    choose::key(context, &mut client, args.key.as_ref(), need).await?;
    bare::check_name(&bare::images(&mut client).await?, &args.name, ImageKind::Templates)?;
    let room = super::seed::room(None)?;
    let blob = image::keep_bytes(context, &mut client, &room.path().join(ARCHIVE), &bytes).await?;
    let image = Image {
        name: args.name,
        kind: ImageKind::Templates,
        arch: String::new(),
        files: BTreeMap::from([(ARCHIVE.to_owned(), blob)]),
        about: args.about,
        at: cluster_now(&info),
    };
    let published = image::sign(context, &mut client, args.key.as_ref(), image).await?;
    image::told(context, &published)
}
