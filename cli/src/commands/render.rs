//! `p2pinst render`

use std::path::PathBuf;

use p2pinst_api::Client;
use p2pinst_api::boot::{ImageView, MachineView};
use p2pinst_api::request::{BootLog, OneSetup};
use p2pinst_api::view::NodeInfo;
use p2pinst_boot::setup::Setup;
use p2pinst_boot::template::confined::{self, ConfinedError};
use p2pinst_boot::template::{ARCHIVE_MAX, Attributes, Format, Mirror, Rendered};
use p2pinst_types::record::{ImageKind, Task};
use p2pinst_types::{Hlc, ImageId, Millis, Name};
use serde::Serialize;

use super::{fetch, setup, template};
use crate::bare;
use crate::context::{Context, cluster_now};
use crate::error::{CliError, Kind};
use crate::planning::Planned;

/// Show the installer's file that a machine would get
///
/// Renders templates with what the cluster knows of the machine: its name, site, labels and groups, its interfaces, what it is
/// made of, the partitions that its setup gives it, and where this node hands out packages. Its scout does the same when
/// it installs it, and knows more by then: its disks as they are, and the peers of its segment.
///
/// The templates are those of the machine's order, or the only published ones. What the machine becomes is said by
/// --appliance, by its label `appliance`, or by templates that have one alone.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst render rack1-07 kickstart
  p2pinst render rack1-07 user-data --dir site --appliance compute --setup compute.toml")]
pub(crate) struct RenderArgs {
    /// The machine, by name or by the address of an interface
    #[arg(value_name = "NODE")]
    node: String,
    /// The file: kickstart, preseed, autoinstall, user-data, meta-data or network-config
    format: Format,
    /// The published templates
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    templates: Option<Name>,
    /// Templates that are not published (yet)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What of the templates the machine becomes
    #[arg(long, value_name = "NAME")]
    appliance: Option<Name>,
    /// The host setup, for its partitions [default: that of the machine's order]
    #[arg(long, value_name = "FILE")]
    setup: Option<PathBuf>,
}

#[derive(Serialize)]
struct Document {
    node: Name,
    format: Format,
    /// The published templates; `null`: those of a directory.
    templates: Option<ImageId>,
    appliance: Name,
    nodes: Vec<Name>,
    text: String,
}

pub(super) async fn run(context: &Context, args: RenderArgs) -> Result<(), CliError> {
    let document = args.setup.as_deref().map(setup::read).transpose()?;
    let (mut client, info) = context.connect_info().await?;
    let machine = bare::machine(context, &mut client, &args.node).await?;
    let images = bare::images(&mut client).await?;
    let (id, archive) = match &args.dir {
        Some(dir) => (None, template::archive(dir)?),
        None => {
            let view = templates(context, args.templates.as_ref(), &machine, &images)?;
            (Some(view.id), published(context, &mut client, view).await?)
        }
    };
    let mut seen = attributes(&mut client, &info, &machine, &images).await?;
    let planned = match document {
        Some((setup, text)) => Some(Planned::new(setup, text, &images)),
        None => ordered(&mut client, &machine, &images).await?,
    };
    partition(context, planned, &machine, &mut seen, cluster_now(&info));
    let (appliance, format) = (args.appliance, args.format);
    let render = move || {
        let command = confined::itself()?;
        confined::render(command, &archive, appliance.as_ref(), format, &seen)
    };
    let rendered = tokio::task::spawn_blocking(render).await;
    let rendered = rendered.map_err(|e| CliError::new(Kind::Bug, e))?;
    let Rendered { appliance, text, nodes } = rendered.map_err(|error| match error {
        ConfinedError::Refused(reason) => CliError::failed(reason),
        error => CliError::failed(error),
    })?;
    if context.json {
        let node = machine.known.name;
        let document = Document { node, format, templates: id, appliance, nodes, text };
        return context.print_json(&document);
    }
    context.print(text)
}

/// The templates by name; without one those of the machine's order, or the only ones.
fn templates<'a>(
    context: &Context,
    name: Option<&Name>,
    machine: &MachineView,
    images: &'a [ImageView],
) -> Result<&'a ImageView, CliError> {
    let graphs = || images.iter().filter(|i| i.image.kind == ImageKind::Templates);
    if let Some(name) = name {
        let named = graphs().find(|i| i.image.name == *name && !i.replaced);
        return named.ok_or_else(|| {
            CliError::failed(format!("no templates are called {name}"))
                .hint(format!("see them all: {}", context.command("template ls")))
        });
    }
    let order = machine.order.as_ref().filter(|o| o.armed).map(|o| &o.assignment.task);
    let ordered = |i: &&ImageView| match order {
        Some(Task::Install { images, .. }) => images.values().any(|id| *id == i.id),
        _ => false,
    };
    let only = |mut found: Vec<&'a ImageView>| {
        let first = found.pop();
        first.filter(|_| found.is_empty())
    };
    only(graphs().filter(ordered).collect())
        .or_else(|| only(graphs().filter(|i| !i.replaced).collect()))
        .ok_or_else(|| {
            CliError::usage("it is not clear which templates are meant")
                .hint("name published ones: --templates NAME (p2pinst template ls)")
                .hint("or a directory: --dir DIR")
        })
}

/// The archive of published templates, fetched where it is not here.
async fn published(
    context: &Context,
    client: &mut Client,
    view: &ImageView,
) -> Result<Vec<u8>, CliError> {
    let name = &view.image.name;
    let blob = view.image.files.values().next();
    let blob = blob.filter(|blob| blob.len() <= ARCHIVE_MAX);
    let blob =
        *blob.ok_or_else(|| CliError::failed(format!("{name} is no archive of templates")))?;
    if !view.here {
        fetch::bring(context, client, &blob.root.to_string(), &[]).await?;
    }
    let path = context.dir.blobs().join(format!("{}.blob", blob.root));
    Ok(p2pinst_files::read(&path, ARCHIVE_MAX)?)
}

/// What templates see of a machine.
async fn attributes(
    client: &mut Client,
    info: &NodeInfo,
    machine: &MachineView,
    images: &[ImageView],
) -> Result<Attributes, CliError> {
    let cluster = &info.cluster_name;
    let cluster = cluster
        .parse()
        .map_err(|_| CliError::failed(format!("the cluster's name is {cluster:?}")))?;
    let known = &machine.known;
    let mut seen = Attributes::new(cluster, known.name.clone(), known.site.clone());
    seen.labels.clone_from(&known.labels);
    seen.groups.clone_from(&machine.groups);
    seen.macs.clone_from(&known.macs);
    seen.inventory = machine.inventory.as_ref().map(|view| view.inventory.clone());
    if seen.macs.is_empty() {
        let nics = seen.inventory.iter().flat_map(|i| &i.nics);
        seen.macs = nics.map(|nic| nic.mac).filter(|mac| !mac.is_group()).collect();
    }
    seen.instance = machine.order.as_ref().map(|order| order.id.to_string());
    let peers = client.call(BootLog { after: None, macs: Vec::new() }).await?.http;
    let is_repository = |i: &&ImageView| i.image.kind == ImageKind::Repository && !i.replaced;
    let repositories = images.iter().filter(is_repository).map(|i| &i.image.name);
    let at = |name| peers.iter().map(move |peer| Mirror::at(name, (*peer).into()));
    seen.mirrors = repositories.flat_map(at).collect();
    Ok(seen)
}

/// The setup of the machine's order in force.
async fn ordered(
    client: &mut Client,
    machine: &MachineView,
    images: &[ImageView],
) -> Result<Option<Planned>, CliError> {
    let order = machine.order.as_ref().filter(|o| o.armed);
    let Some(Task::Install { setup, images: ids, .. }) = order.map(|o| &o.assignment.task) else {
        return Ok(None);
    };
    let Some(record) = client.call(OneSetup { id: *setup }).await?.setup else { return Ok(None) };
    let parsed = Setup::parse(&record.text).ok();
    Ok(parsed.map(|setup| Planned::with(setup, record.text, images, ids)))
}

/// The partitions, where disks and a setup are known.
fn partition(
    context: &Context,
    planned: Option<Planned>,
    machine: &MachineView,
    seen: &mut Attributes,
    now: Millis,
) {
    let (Some(planned), Some(known)) = (planned, &machine.inventory) else { return };
    match planned.plan(machine, &known.inventory, Hlc::at(now)) {
        Ok(plan) => seen.set_partitions(&plan.goal),
        Err(refusals) => context.tell(format_args!(
            "Its partitions are not known, for the setup {} does not fit: {refusals}",
            planned.setup.name
        )),
    }
}
