//! `p2pinst seed`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use p2pinst_api::request::SeedBlob;
use p2pinst_types::Hash;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Kind};
use crate::format;
use crate::handover::{self, Source};
use crate::mirror::{self, Downloaded, Gave, Sum};

/// Put a file into this machine's store, for others to fetch
///
/// Prints the file's root (what b3sum prints): any member gets the file with `p2pinst fetch ROOT`. The
/// file stays in the store until it is unpinned. Nothing is installed anywhere, so nothing is signed.
///
/// The file may also be on the web: parts of it are downloaded from several mirrors at once, and those that
/// fail or send something else are left out.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst seed disk.img
  p2pinst seed https://example.org/disk.img
  p2pinst seed https://a.example/disk.img https://b.example/disk.img --sha256 9f86d081…
  p2pinst seed disk.img.meta4
  p2pinst store unpin 3f2a9c51")]
pub(crate) struct SeedArgs {
    /// The file; or the URLs (http, https) of one file; or a Metalink (.meta4, .metalink), as file or URL
    #[arg(required = true, value_name = "FILE|URL")]
    files: Vec<String>,
    /// What the file of the URLs must hash to
    #[arg(long, value_name = "HEX")]
    sha256: Option<Sum>,
    /// Where to put what is downloaded until the node has it [default: $TMPDIR or /var/tmp]
    #[arg(long, value_name = "DIR")]
    temp: Option<PathBuf>,
}

#[derive(Serialize)]
struct Document {
    root: Hash,
    size: u64,
    #[serde(skip_serializing_if = "<[Gave]>::is_empty")]
    mirrors: Vec<Gave>,
}

/// What is to be handed over: a file, or what was downloaded.
enum File {
    Here(PathBuf),
    Downloaded(String, Downloaded),
}

impl File {
    async fn of(context: &Context, args: SeedArgs) -> Result<Self, CliError> {
        if let [file] = args.files.as_slice()
            && !mirror::is_wanted(file)
        {
            if args.sha256.is_some() {
                return Err(CliError::usage("--sha256 is for what is downloaded"));
            }
            return Ok(Self::Here(PathBuf::from(file)));
        }
        // before anything is downloaded: is there a node to give it to?
        drop(context.connect().await?);
        let bar = handover::bytes_bar(context, 0, "downloading");
        let stop = Arc::new(AtomicBool::new(false));
        let (shown, stopped) = (bar.clone(), Arc::clone(&stop));
        let download = tokio::task::spawn_blocking(move || {
            let wanted = mirror::wanted(&args.files, args.sha256)?;
            let dir = args.temp.unwrap_or_else(mirror::temporary);
            let downloaded = mirror::download(&wanted, &dir, &shown, &stopped)?;
            Ok(Self::Downloaded(wanted.name, downloaded))
        });
        tokio::pin!(download);
        let downloaded = tokio::select! {
            downloaded = &mut download => downloaded,
            // the threads notice at the latest when a mirror has been silent for a while
            _ = tokio::signal::ctrl_c() => {
                stop.store(true, Ordering::Relaxed);
                download.await
            }
        };
        bar.finish_and_clear();
        downloaded.map_err(|e| CliError::new(Kind::Bug, e))?
    }

    fn path(&self) -> &Path {
        match self {
            Self::Here(path) => path,
            Self::Downloaded(_, downloaded) => downloaded.path(),
        }
    }

    /// Its name, and which mirrors gave it.
    fn told(&self, context: &Context) -> (String, Vec<Gave>) {
        match self {
            Self::Here(path) => {
                (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), Vec::new())
            }
            Self::Downloaded(name, downloaded) => {
                let gave = downloaded.mirrors.iter().filter(|m| m.bytes > 0).count();
                context.tell(format_args!("{name} came from {}.", format::count(gave, "mirror")));
                for mirror in &downloaded.mirrors {
                    if let Some(reason) = &mirror.failed {
                        context.tell(format_args!("{}: {reason}", mirror.url));
                    }
                }
                if !downloaded.vouched {
                    context.tell("Nothing vouches for what it is: no SHA-256 was given.");
                }
                (name.clone(), downloaded.mirrors.clone())
            }
        }
    }
}

pub(super) async fn run(context: &Context, args: SeedArgs) -> Result<(), CliError> {
    let file = File::of(context, args).await?;
    let source = Source::open(file.path())?;
    let mut client = context.connect().await?;
    let blob = source.hand_over(context, &mut client).await?;
    client.call(SeedBlob { root: blob.root }).await?;
    let (root, size) = (blob.root, blob.len());
    let (name, mirrors) = file.told(context);
    if context.json {
        return context.print_json(&Document { root, size, mirrors });
    }
    context.print(format_args!("{root}\n"))?;
    context.tell(format_args!(
        "{} ({}) is here for others; on another machine: {}",
        name,
        format::size(size),
        context.command(&format!("fetch {root} -o FILE"))
    ));
    Ok(())
}
