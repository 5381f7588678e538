//! `p2pinst scout`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use p2pinst_api::request::ReadRoots;
use p2pinst_boot::scout::{self, Extra, Level, Manifest, Options, Profile};
use p2pinst_files::Access;
use p2pinst_trust::ScoutCluster;
use p2pinst_types::record::{Image, ImageKind, Role};
use p2pinst_types::{ClusterId, Hash, Name, limits};
use serde::Serialize;

use super::image;
use crate::choose::{self, Need};
use crate::context::{Context, cluster_now};
use crate::error::{CliError, Kind};
use crate::format;

/// The longest manifest that is read.
const MANIFEST: u64 = 1 << 20;
/// Where packages are kept from build to build.
const CACHE: &str = "/var/cache/p2pinst/scout";

/// Make and publish the scout: the small system that bare machines start first
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ScoutCommand {
    Build(BuildArgs),
    Publish(PublishArgs),
    Cluster(ClusterArgs),
}

/// Which kernel.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kernel {
    /// Small, for virtual machines
    Cloud,
    /// With the drivers of real machines
    Full,
}

/// Make a scout of Debian's packages
///
/// Downloads the packages with this machine's apt (no root needed), and puts a kernel, programs for disks, p2pinstd and
/// this cluster's public data into boot files: scout.efi for UEFI, vmlinuz and initrd for BIOS, iPXE. There is no
/// secret in it. The same packages and programs give the same files, byte for byte.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst scout build --out scout
  p2pinst scout build --out scout --kernel cloud && p2pinst scout publish scout")]
pub(crate) struct BuildArgs {
    /// The directory for the files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The kernel
    #[arg(long, value_enum, default_value = "full")]
    kernel: Kernel,
    /// The daemon for it [default: p2pinstd beside this program]
    #[arg(long, value_name = "PATH")]
    daemon: Option<PathBuf>,
    /// With LVM, for setups that have volumes
    #[arg(long)]
    lvm: bool,
    /// With ipmitool, to learn the address of the machine's controller
    #[arg(long)]
    ipmitool: bool,
    /// Compress less and faster, for trials
    #[arg(long)]
    quick: bool,
    /// Where packages are kept from build to build
    #[arg(long, value_name = "DIR", default_value = CACHE)]
    cache: PathBuf,
}

/// Publish a scout, for the nodes to give to bare machines
///
/// Every node that boots machines fetches it, and gives the newest one away.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst scout publish scout")]
pub(crate) struct PublishArgs {
    /// The directory that `scout build` has made
    dir: PathBuf,
    /// What it is called
    #[arg(long, default_value = "scout")]
    name: Name,
    /// The publisher's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Write down what a scout has to know of this cluster
///
/// For a scout that is started by hand, in a live system that runs on the machine already:
/// p2pinstd scout --cluster FILE --peer ADDR:PORT. `scout build` puts the same into the scout; there is no secret in it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst scout cluster cluster.cbor")]
pub(crate) struct ClusterArgs {
    /// The new file
    file: PathBuf,
}

#[derive(Serialize)]
struct Built<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
}

#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    cluster: ClusterId,
    peers: Vec<String>,
}

pub(super) async fn run(context: &Context, command: ScoutCommand) -> Result<(), CliError> {
    match command {
        ScoutCommand::Build(args) => build(context, args).await,
        ScoutCommand::Publish(args) => publish(context, args).await,
        ScoutCommand::Cluster(args) => write_cluster(context, args).await,
    }
}

/// What the scout has to know of the cluster.
async fn cluster(context: &Context) -> Result<ScoutCluster, CliError> {
    let (mut client, info) = context.connect_info().await?;
    let roots = client.call(ReadRoots {}).await?.chain;
    let mut nodes = client.nodes(true).await?;
    nodes.sort_by_key(|n| (!n.up, n.name.clone()));
    let peers = nodes.into_iter().filter_map(|n| n.addrs.into_iter().next());
    Ok(ScoutCluster { cluster: info.cluster, roots, peers: peers.take(limits::ADDRS).collect() })
}

async fn write_cluster(context: &Context, args: ClusterArgs) -> Result<(), CliError> {
    let cluster = cluster(context).await?;
    p2pinst_files::write(&args.file, &cluster.encode()?, Access::Public)?;
    let (file, peers) = (args.file, cluster.peers);
    match context.json {
        true => context.print_json(&Written { file: &file, cluster: cluster.cluster, peers }),
        false => context.print(format_args!("{}\n", file.display())),
    }
}

async fn build(context: &Context, args: BuildArgs) -> Result<(), CliError> {
    let cluster = cluster(context).await?.encode()?;
    let cli = std::env::current_exe()
        .map_err(|e| CliError::failed(format!("cannot find this program: {e}")))?;
    let daemon = args.daemon.unwrap_or_else(|| cli.with_file_name("p2pinstd"));
    if !daemon.is_file() {
        return Err(CliError::failed(format!("there is no daemon {}", daemon.display()))
            .hint("name it with --daemon PATH"));
    }
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let options = Options {
        profile: match args.kernel {
            Kernel::Cloud => Profile::Cloud,
            Kernel::Full => Profile::Full,
        },
        daemon,
        cli: Some(cli),
        extras: vec![Extra::new(ScoutCluster::PATH, cluster)],
        lvm: args.lvm,
        ipmitool: args.ipmitool,
        epoch: epoch.unwrap_or(0),
        level: if args.quick { Level::QUICK } else { Level::BEST },
        cache: args.cache,
    };
    context.tell("Making the scout; this takes a minute or two…");
    let out = args.out.clone();
    let built = tokio::task::spawn_blocking(move || scout::build(&options, &out)).await;
    let built = built.map_err(|e| CliError::new(Kind::Bug, e))?.map_err(CliError::failed)?;
    let manifest = &built.manifest;
    for (name, file) in &manifest.files {
        context.tell(format_args!("{name}: {}", format::size(file.size)));
    }
    let dir = args.out.display();
    context.tell(format_args!(
        "Linux {} with {}. Next: {}",
        manifest.kernel,
        format::count(manifest.modules, "module"),
        context.command(&format!("scout publish {dir}"))
    ));
    match context.json {
        true => context.print_json(&Built { dir: &args.out, manifest }),
        false => context.print(format_args!("{dir}\n")),
    }
}

async fn publish(context: &Context, args: PublishArgs) -> Result<(), CliError> {
    let path = args.dir.join("manifest.json");
    let text = p2pinst_files::read(&path, MANIFEST)
        .map_err(|e| CliError::from(e).hint("make it: p2pinst scout build --out DIR"))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|e| CliError::failed(format!("{} is no scout: {e}", path.display())))?;
    if manifest.format != Manifest::FORMAT || manifest.files.is_empty() {
        return Err(CliError::failed(format!("{} is not of this version", path.display())));
    }
    let bad = manifest.files.keys().find(|name| name.parse::<Name>().is_err());
    if let Some(bad) = bad {
        return Err(CliError::failed(format!("{bad:?} is no name of a scout's file")));
    }
    let (mut client, info) = context.connect_info().await?;
    let need = Need::All(&[Role::Publisher]);
    choose::key(context, &mut client, args.key.as_ref(), need).await?;
    let mut files = BTreeMap::new();
    for (name, file) in &manifest.files {
        let blob = image::keep(context, &mut client, &args.dir.join(name)).await?;
        if (blob.root, blob.len()) != (Hash(file.blake3.0), file.size) {
            return Err(CliError::failed(format!("{name} is not what manifest.json says"))
                .hint("make the scout again: p2pinst scout build"));
        }
        files.insert(name.clone(), blob);
    }
    let lvm = manifest.packages.contains_key("lvm2");
    let about = format!("Linux {}{}", manifest.kernel, if lvm { ", with LVM" } else { "" });
    let image = Image {
        name: args.name,
        kind: ImageKind::Scout,
        arch: "x86_64".to_owned(),
        files,
        about,
        at: cluster_now(&info),
    };
    let published = image::sign(context, &mut client, args.key.as_ref(), image).await?;
    image::told(context, &published)
}
