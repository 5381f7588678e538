//! `p2pinst image`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use p2pinst_api::Client;
use p2pinst_api::boot::{ImageView, OrderView};
use p2pinst_api::request::{PinBlob, SeedBlob};
use p2pinst_boot::image::{self, Prepared, Watch, archive, capture, layout, prepare};
use p2pinst_boot::setup::installer::{INITRD_MAX, KERNEL_MAX};
use p2pinst_types::record::{INSTALLER, Image, ImageKind, ImageRemoval, Role, Task};
use p2pinst_types::{BlobRef, Hash, ImageId, Kind, Millis, Name, codec, limits};
use serde::Serialize;
use tempfile::TempDir;

use super::{repository, seed};
use crate::args;
use crate::bare::{self, Which};
use crate::choose::{self, Need};
use crate::context::{Context, cluster_now};
use crate::error::{CliError, Kind as Failure};
use crate::format::{self, Table};
use crate::handover::{self, Source};
use crate::signer::Signer;

/// Publish, list and capture images: what is installed on bare machines
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageCommand {
    Publish(PublishArgs),
    Ls(LsArgs),
    Rm(RmArgs),
    Inspect(InspectArgs),
    Capture(CaptureArgs),
}

/// Publish an image under a name
///
/// A disk (raw, qcow2, vmdk, vdi, vhdx), the image of one partition, or a root filesystem as a tar; also compressed with
/// zstd, gzip or xz. It is unpacked here, once, so that machines write it as it comes and two versions share what is
/// equal. The publisher signs what it is; this machine keeps it until `image rm`, others fetch it from each other.
/// A second image of the same name is a newer version: what is ordered from then on gets that.
///
/// With --initrd the file is the kernel of a distribution's own installer: a host setup (`[installer]`) starts both.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst image publish debian-12.qcow2 --name debian
  p2pinst image publish rootfs.tar.zst --name debian-root --arch x86_64 --about 'bookworm, 2026-11-20'
  p2pinst image publish linux --initrd initrd.gz --name d-i --arch x86_64")]
pub(crate) struct PublishArgs {
    /// The image
    file: PathBuf,
    /// The file is an installer's kernel, and this its initrd
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// What it is called
    #[arg(long)]
    name: Name,
    /// The architecture that it is for, as `uname -m` says [default: any]
    #[arg(long, value_name = "ARCH", value_parser = arch, default_value = "", hide_default_value = true)]
    arch: String,
    /// What it is, for people
    #[arg(long, value_name = "TEXT", value_parser = about, default_value = "", hide_default_value = true)]
    about: String,
    /// Where to put what is unpacked until the node has it [default: $TMPDIR or /var/tmp]
    #[arg(long, value_name = "DIR")]
    temp: Option<PathBuf>,
    /// The publisher's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// List the published images
///
/// Of each name the newest; HERE: whether this machine has all of it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  p2pinst image ls\n  p2pinst image ls --all")]
pub(crate) struct LsArgs {
    /// Also the versions that a newer one has replaced
    #[arg(long)]
    all: bool,
}

/// Remove an image from the cluster, or from this machine's store alone
///
/// All versions of it are published no more, for good: no machine is installed with them, and no node keeps them for anybody: pins
/// on them count no more, and they go when there is need for room. An image that an order in force needs is not removed. Machines that
/// were installed with it stay as they are.
///
/// With --here nothing is signed: the image stays published, and is unpinned on this machine.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  p2pinst image rm debian\n  p2pinst image rm debian --here"
)]
pub(crate) struct RmArgs {
    /// Its name
    name: Name,
    /// Only unpin it on this machine
    #[arg(long, conflicts_with_all = ["reason", "key"])]
    here: bool,
    /// Why, for people
    #[arg(long, value_name = "TEXT", value_parser = args::reason, default_value = "", hide_default_value = true)]
    reason: String,
    /// The publisher's or operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Show what is in an image: partitions, filesystems, the system in a tar
///
/// A file or a disk, or the name of a published image; of one that is not on this machine only what its publisher said.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  p2pinst image inspect disk.raw\n  p2pinst image inspect debian\n  p2pinst image inspect /dev/sdb"
)]
pub(crate) struct InspectArgs {
    /// A file or a disk, or an image's name
    #[arg(value_name = "FILE|NAME")]
    what: String,
}

/// Make an image of a disk or a partition
///
/// Copies what its filesystems use; the rest are holes. Mounted filesystems are refused, or frozen while they are copied
/// (--running), so that the image is consistent. What is in swap space is never copied.
///
/// --seal takes out what is this one machine's: machine-id, ssh host keys, p2pinst's data. Free space is emptied, and
/// every byte searched for what was taken out. Do not publish an image that is not sealed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst image capture /dev/sdb golden.raw --seal
  p2pinst image capture /dev/sda golden.raw --running --seal")]
pub(crate) struct CaptureArgs {
    /// The disk or the partition, or a file with one
    disk: PathBuf,
    /// The new file
    out: PathBuf,
    /// Take out what makes it one machine's
    #[arg(long)]
    seal: bool,
    /// Its filesystems may be in use: each is frozen while it is copied
    #[arg(long)]
    running: bool,
}

/// An image that was just published.
#[derive(Debug, Serialize)]
pub(super) struct Published {
    image: ImageId,
    name: Name,
    kind: ImageKind,
    arch: String,
    files: BTreeMap<String, BlobRef>,
    size: u64,
    peers: usize,
}

#[derive(Serialize)]
struct List {
    images: Vec<ImageView>,
}

#[derive(Serialize)]
struct Removed {
    name: Name,
    /// Versions that are published no more.
    removed: Vec<ImageId>,
    /// Files that were pinned on this machine.
    unpinned: usize,
    peers: usize,
}

#[derive(Serialize)]
struct Inspected {
    image: Option<ImageView>,
    layout: Option<layout::Layout>,
}

#[derive(Serialize)]
struct Captured {
    file: PathBuf,
    size: u64,
    stored: u64,
    /// Whether nobody could have written to any part while it was copied.
    consistent: bool,
    /// `None`: it is not sealed.
    removed: Option<Vec<PathBuf>>,
}

fn arch(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match text.len() <= limits::HARDWARE_TEXT && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("write it as `uname -m` does: x86_64".to_owned()),
    }
}

pub(super) fn about(text: &str) -> Result<String, String> {
    match text.len() <= limits::DESCRIPTION {
        true => Ok(text.to_owned()),
        false => Err(format!("longer than {} bytes", limits::DESCRIPTION)),
    }
}

pub(super) async fn run(context: &Context, command: ImageCommand) -> Result<(), CliError> {
    match command {
        ImageCommand::Publish(args) => publish(context, args).await,
        ImageCommand::Ls(args) => list(context, args.all, None).await,
        ImageCommand::Rm(args) => rm(context, args).await,
        ImageCommand::Inspect(args) => inspect(context, args).await,
        ImageCommand::Capture(args) => capture_disk(context, args).await,
    }
}

/// Does something long on a thread of its own; a signal ends it.
async fn work<T: Send + 'static>(
    bar: &ProgressBar,
    job: impl FnOnce(&Watch<'_>) -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, shown) = (Arc::clone(&stop), bar.clone());
    let task = tokio::task::spawn_blocking(move || {
        let progress = |done: u64, all: Option<u64>| {
            all.into_iter().for_each(|all| shown.set_length(all));
            shown.set_position(done);
        };
        job(&Watch { progress: &progress, stop: &stopped })
    });
    let done = seed::stoppable(task, &stop, tokio::signal::ctrl_c).await;
    bar.finish_and_clear();
    if stop.load(Ordering::Relaxed) { Err(seed::interrupted()) } else { done }
}

async fn prepared(
    context: &Context,
    file: &Path,
    temp: Option<&PathBuf>,
) -> Result<(Prepared, TempDir), CliError> {
    let room = seed::room(temp)?;
    let source = Source::open(file)?;
    let options = prepare::Options {
        work_dir: room.path().to_owned(),
        max_len: limits::BLOB,
        limits: archive::Limits::default(),
    };
    let bar = handover::bytes_bar(context, source.len(), "looking into it");
    let path = file.to_owned();
    let job = move |watch: &Watch<'_>| prepare(&path, &options, watch).map_err(CliError::failed);
    let made = work(&bar, job).await?;
    source.check_unchanged()?;
    Ok((made, room))
}

async fn publish(context: &Context, args: PublishArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    // before it takes its time: may anybody here publish?
    let need = Need::All(&[Role::Publisher]);
    choose::key(context, &mut client, args.key.as_ref(), need).await?;
    if let Some(initrd) = &args.initrd {
        return publish_installer(context, client, &args, initrd, cluster_now(&info)).await;
    }
    let (made, _room) = prepared(context, &args.file, args.temp.as_ref()).await?;
    let (kind, file) = match made.kind {
        layout::Kind::Disk => (ImageKind::Disk, "disk.raw"),
        layout::Kind::Partition { .. } => (ImageKind::Partition, "partition.raw"),
        layout::Kind::Rootfs => (ImageKind::Rootfs, "rootfs.tar"),
    };
    let blob = tokio::select! {
        blob = seed::hand_over(context, &made.path) => blob?,
        _ = tokio::signal::ctrl_c() => return Err(seed::interrupted()),
    };
    let files = BTreeMap::from([(file.to_owned(), blob)]);
    let at = cluster_now(&info);
    let PublishArgs { name, arch, about, key, .. } = args;
    let image = Image { name, kind, arch, files, about, at };
    let published = sign(context, &mut client, key.as_ref(), image).await?;
    context.tell(format_args!("{}", made.description.describe().trim_end()));
    told(context, &published)
}

/// Publishes a kernel with its initrd.
async fn publish_installer(
    context: &Context,
    mut client: Client,
    args: &PublishArgs,
    initrd: &Path,
    at: Millis,
) -> Result<(), CliError> {
    let kernel = args.file.as_path();
    let mut files = BTreeMap::new();
    for (path, name, most) in [(kernel, INSTALLER.0, KERNEL_MAX), (initrd, INSTALLER.1, INITRD_MAX)]
    {
        let len = Source::open(path)?.len();
        if len > most {
            let most = format::size(most);
            return Err(CliError::failed(format!("{}: more than {most}", path.display()))
                .hint("the kernel comes first: p2pinst image publish KERNEL --initrd INITRD"));
        }
        files.insert(name.to_owned(), keep(context, &mut client, path).await?);
    }
    let (name, arch, about) = (args.name.clone(), args.arch.clone(), args.about.clone());
    let image = Image { name, kind: ImageKind::Installer, arch, files, about, at };
    let published = sign(context, &mut client, args.key.as_ref(), image).await?;
    told(context, &published)
}

/// Signs an image whose files the node has, and hands it over.
pub(super) async fn sign(
    context: &Context,
    client: &mut Client,
    key: Option<&Name>,
    image: Image,
) -> Result<Published, CliError> {
    let need = Need::All(&[Role::Publisher]);
    let key = choose::key(context, client, key, need).await?.key;
    let info = client.call(p2pinst_api::request::Info {}).await?;
    let mut signer = Signer::open(context, client, key, info.cluster).await?;
    let payload = codec::encode(&image)?;
    let id = Image::id(&payload);
    signer.add_encoded(Kind::IMAGE, id.0.as_bytes(), payload)?;
    let peers = signer.submit(client).await?.peers;
    let size = image.files.values().map(BlobRef::len).sum();
    let Image { name, kind, arch, files, .. } = image;
    Ok(Published { image: id, name, kind, arch, files, size, peers })
}

impl Published {
    fn words(&self) -> String {
        let (name, kind, size) = (&self.name, self.kind, format::size(self.size));
        let told = format::count(self.peers, "peer");
        format!("{name} is published ({kind}, {size}); {told} told.")
    }
}

/// Says what was published.
pub(super) fn told(context: &Context, published: &Published) -> Result<(), CliError> {
    context.tell(published.words());
    match context.json {
        true => context.print_json(published),
        false => context.print(format_args!("{}\n", published.image.0)),
    }
}

/// Lists images, of all kinds or of one.
pub(super) async fn list(
    context: &Context,
    all: bool,
    kind: Option<ImageKind>,
) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let mut images = bare::images(&mut client).await?;
    images.retain(|i| (all || !i.replaced) && kind.is_none_or(|kind| i.image.kind == kind));
    if context.json {
        return context.print_json(&List { images });
    }
    if images.is_empty() {
        context.tell(match kind {
            None => "No image is published yet.",
            Some(_) => "Nothing of that kind is published yet.",
        });
        return Ok(());
    }
    let now = cluster_now(&info);
    let mut table =
        Table::new(&["NAME", "ID", "KIND", "ARCH", "SIZE", "HERE", "AGE", "BY", "ABOUT"]);
    for view in &images {
        let image = &view.image;
        table.row([
            image.name.to_string(),
            view.id.0.short(),
            image.kind.to_string(),
            if image.arch.is_empty() { "any".to_owned() } else { image.arch.clone() },
            format::size(view.size),
            if view.here { "yes" } else { "no" }.to_owned(),
            format::age(now.since(image.at)),
            view.author.as_ref().map_or_else(|| "?".to_owned(), Name::to_string),
            format::brief(&image.about),
        ]);
    }
    context.print(table.text(""))
}

/// As [`rm`], of something that is of this kind.
pub(super) async fn rm_kind(
    context: &Context,
    args: RmArgs,
    kind: ImageKind,
) -> Result<(), CliError> {
    let mut client = context.connect().await?;
    let images = bare::images(&mut client).await?;
    let name = &args.name;
    match images.iter().find(|i| i.image.name == *name).map(|i| i.image.kind) {
        Some(other) if other != kind => Err(CliError::failed(format!("{name} is a {other}"))
            .hint(format!("remove it so: {}", context.command(&format!("image rm {name}"))))),
        _ => rm(context, args).await,
    }
}

async fn rm(context: &Context, args: RmArgs) -> Result<(), CliError> {
    let mut client = context.connect().await?;
    let images = bare::images(&mut client).await?;
    let named: Vec<&ImageView> = images.iter().filter(|i| i.image.name == args.name).collect();
    if named.is_empty() {
        return Err(bare::no_image(context, &args.name));
    }
    let (removed, peers) = match args.here {
        true => (Vec::new(), 0),
        false => remove(context, &mut client, &args, &named).await?,
    };
    let here = named.iter().filter(|i| i.here);
    let mut roots: BTreeSet<Hash> =
        here.flat_map(|i| i.image.files.values()).map(|blob| blob.root).collect();
    roots.extend(repository::only_in(context, &args.name, &images)?);
    let mut unpinned = 0;
    for root in roots {
        let pin = PinBlob { blob: root.to_string(), pin: false };
        unpinned += usize::from(client.call(pin).await?.changed);
    }
    let name = &args.name;
    match args.here {
        true => context.tell(format_args!(
            "{} of {name} may go from this machine when there is need for room. {name} stays published.",
            format::count(unpinned, "file")
        )),
        false => context.tell(format_args!(
            "{name} is removed ({}): no node keeps it for anybody; {} told.",
            format::count(removed.len(), "version"),
            format::count(peers, "peer")
        )),
    }
    if context.json {
        context.print_json(&Removed { name: args.name, removed, unpinned, peers })?;
    }
    Ok(())
}

/// Signs that versions of an image are published no more; which, and how many nodes were told.
async fn remove(
    context: &Context,
    client: &mut Client,
    args: &RmArgs,
    named: &[&ImageView],
) -> Result<(Vec<ImageId>, usize), CliError> {
    let name = &args.name;
    let machines = bare::machines(client, &Which::default()).await?;
    let ids: Vec<ImageId> = named.iter().map(|i| i.id).collect();
    let needs = |order: &OrderView| match &order.assignment.task {
        Task::Install { images, .. } => order.armed && images.values().any(|i| ids.contains(i)),
        Task::Inspect => false,
    };
    let needed = machines.iter().filter(|m| m.order.as_ref().is_some_and(needs));
    let needed: Vec<&Name> = needed.map(|m| &m.known.name).collect();
    if let Some(first) = needed.first() {
        let all = format::names(&needed, 8);
        let disarm = context.command(&format!("boot disarm {first}"));
        return Err(CliError::failed(format!("orders in force need {name}, for {all}"))
            .hint("wait until they are carried out")
            .hint(format!("or take them back: {disarm}")));
    }
    let need = Need::Any(&[Role::Publisher, Role::Operator]);
    let key = choose::key(context, client, args.key.as_ref(), need).await?.key;
    let info = client.call(p2pinst_api::request::Info {}).await?;
    let mut signer = Signer::open(context, client, key, info.cluster).await?;
    for image in &ids {
        let record = ImageRemoval { image: *image, reason: args.reason.clone() };
        signer.add(Kind::IMAGE_REMOVAL, &image.0.0, &record)?;
    }
    let peers = signer.submit(client).await?.peers;
    Ok((ids, peers))
}

async fn inspect(context: &Context, args: InspectArgs) -> Result<(), CliError> {
    let path = PathBuf::from(&args.what);
    if path.exists() {
        let layout = look(context, path).await?;
        return inspected(context, &Inspected { image: None, layout: Some(layout) });
    }
    let Ok(name) = args.what.parse::<Name>() else {
        return Err(CliError::failed(format!("there is no file {}", args.what)));
    };
    let mut client = context.connect().await?;
    let images = bare::images(&mut client).await?;
    let image = bare::image(context, &images, &name)?;
    let mut files = image.image.files.values();
    use ImageKind::{Disk, Partition, Rootfs};
    let has_layout = matches!(image.image.kind, Disk | Partition | Rootfs);
    let layout = match (image.here && has_layout, files.next(), files.next()) {
        (true, Some(blob), None) => {
            let path = context.dir.blobs().join(format!("{}.blob", blob.root));
            Some(look(context, path).await?)
        }
        _ => None,
    };
    inspected(context, &Inspected { image: Some(image.clone()), layout })
}

async fn look(context: &Context, path: PathBuf) -> Result<layout::Layout, CliError> {
    let bar = handover::bytes_bar(context, 0, "looking into it");
    let job = move |watch: &Watch<'_>| image::inspect(&path, watch).map_err(CliError::failed);
    work(&bar, job).await
}

fn inspected(context: &Context, found: &Inspected) -> Result<(), CliError> {
    if context.json {
        return context.print_json(found);
    }
    let mut text = String::new();
    if let Some(view) = &found.image {
        let mut table = Table::bare();
        let image = &view.image;
        table.row(["image".to_owned(), format!("{} {}", image.name, view.id.0)]);
        let kind = [image.kind.as_str(), image.arch.as_str()].join(" ");
        table.row(["kind".to_owned(), kind]);
        table.row(["published".to_owned(), image.at.to_string()]);
        table.row(["about".to_owned(), image.about.clone()]);
        for (name, blob) in &image.files {
            let size = format::size(blob.len());
            table.row(["file".to_owned(), format!("{name} {size} {}", blob.root)]);
        }
        text.push_str(&table.text(""));
    }
    let described = found.layout.as_ref().map(layout::Layout::describe);
    text.push_str(&format::clean_lines(&described.unwrap_or_default()));
    context.print(text)
}

async fn capture_disk(context: &Context, args: CaptureArgs) -> Result<(), CliError> {
    let bar = handover::bytes_bar(context, 0, "copying");
    let CaptureArgs { disk, out, seal, running } = args;
    if out.exists() {
        return Err(
            CliError::failed(format!("{} is there already", out.display())).hint("name a new file")
        );
    }
    let data = std::path::absolute(context.dir.path());
    let data = data.map_err(|e| CliError::new(Failure::Failed, e))?;
    let to = out.clone();
    let job = move |watch: &Watch<'_>| {
        let options = capture::Options { running, ..capture::Options::default() };
        let captured = capture(&disk, &to, &options, watch).map_err(CliError::failed)?;
        let sealed = seal.then(|| image::seal(&to, &[data, "/var/lib/p2pinst".into()], watch));
        match sealed.transpose() {
            Ok(sealed) => Ok((captured, sealed)),
            Err(error) => {
                // with one machine's keys in it: nobody shall publish it
                drop(std::fs::remove_file(&to));
                Err(CliError::failed(error))
            }
        }
    };
    let (captured, sealed) = work(&bar, job).await?;
    let in_use = captured.parts.iter().any(|p| p.state == capture::State::InUse);
    context.tell(captured.describe().trim_end());
    match &sealed {
        Some(sealed) => context.tell(format_args!(
            "Sealed: {} taken out.",
            format::count(sealed.removed.len(), "file of this machine")
        )),
        None => context.tell(
            "It is not sealed: it has this machine's identity and keys. Publish what was captured with --seal.",
        ),
    }
    if !context.json {
        return Ok(());
    }
    context.print_json(&Captured {
        file: out,
        size: captured.len,
        stored: captured.stored,
        consistent: !in_use,
        removed: sealed.map(|s| s.removed),
    })
}

/// Hands over and pins what is written into a new file for that.
pub(super) async fn keep_bytes(
    context: &Context,
    client: &mut Client,
    path: &Path,
    bytes: &[u8],
) -> Result<BlobRef, CliError> {
    p2pinst_files::write(path, bytes, p2pinst_files::Access::Private)?;
    keep(context, client, path).await
}

/// Hands over and pins one file.
pub(super) async fn keep(
    context: &Context,
    client: &mut Client,
    path: &Path,
) -> Result<BlobRef, CliError> {
    let blob = Source::open(path)?.hand_over(context, client).await?;
    client.call(SeedBlob { root: blob.root }).await?;
    Ok(blob)
}
