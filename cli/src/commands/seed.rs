//! `p2pinst seed`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use p2pinst_api::request::SeedBlob;
use p2pinst_files::Context as _;
use p2pinst_types::{BlobRef, Hash};
use serde::Serialize;
use tempfile::TempDir;
use tokio::task::JoinError;

use crate::context::Context;
use crate::error::{CliError, Kind};
use crate::format;
use crate::handover::{self, Source};
use crate::mirror::{self, Downloaded, Gave, Sum};
use crate::packed::{self, Packed};

/// Put a file into this machine's store, for others to fetch
///
/// Prints the file's root (what b3sum prints): any member gets the file with `p2pinst fetch ROOT`. The
/// file stays in the store until it is unpinned. Nothing is installed anywhere, so nothing is signed.
///
/// The file may also be on the web: parts of it are downloaded from several mirrors at once, and mirrors that
/// fail are left out. Mirrors that send something else are found and left out by the sums of the pieces,
/// which a Metalink may have. With --sha256 alone the whole is checked; when it is wrong, the mirrors are asked for
/// the whole, one after the other, until one sends the right one.
///
/// With --zstd the file is compressed first, in frames, so that a second version of an image costs little
/// more than what has changed, if both were compressed at the same level: `p2pinst fetch ROOT --unpack -o FILE`
/// gives it back, and so does `zstd -d`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst seed disk.img
  p2pinst seed --zstd disk.img
  p2pinst seed https://example.org/disk.img
  p2pinst seed https://a.example/disk.img https://b.example/disk.img --sha256 9f86d081…
  p2pinst seed disk.img.meta4
  p2pinst seed --as-is disk.img.meta4
  p2pinst store unpin 3f2a9c51")]
pub(crate) struct SeedArgs {
    /// The file; or the URLs (http, https) of one file; or a Metalink (.meta4, .metalink), as file or URL
    #[arg(required = true, value_name = "FILE|URL")]
    files: Vec<String>,
    /// What the file of the URLs must hash to
    #[arg(long, value_name = "HEX")]
    sha256: Option<Sum>,
    /// Put a file named .meta4 or .metalink into the store itself, not what it describes
    #[arg(long)]
    as_is: bool,
    /// Compress it first, 1 (fast) to 19 (small), 9 if no level is given
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, require_equals = true,
        default_missing_value = "9", value_parser = clap::value_parser!(i32).range(1..=19))]
    zstd: Option<i32>,
    /// Where to put what is downloaded or compressed until the node has it [default: $TMPDIR or /var/tmp]
    #[arg(long, value_name = "DIR")]
    temp: Option<PathBuf>,
}

#[derive(Serialize)]
struct Document {
    root: Hash,
    size: u64,
    /// Bytes of the file before it was compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<u64>,
    #[serde(skip_serializing_if = "<[Gave]>::is_empty")]
    mirrors: Vec<Gave>,
}

/// What is to be handed over: a file, or what was downloaded.
enum File {
    Here(PathBuf),
    Downloaded {
        name: String,
        file: Downloaded,
        /// Where the file is; goes with all that is in it when this is dropped.
        _room: TempDir,
    },
}

/// A directory for what is made on the way; goes with all that is in it when it is dropped.
pub(super) fn room(temp: Option<&PathBuf>) -> Result<TempDir, CliError> {
    let dir = temp.cloned().unwrap_or_else(mirror::temporary);
    let made = tempfile::Builder::new().prefix(".p2pinst-").tempdir_in(&dir);
    Ok(made.context("create a directory in", &dir)?)
}

/// Waits for a download; tells it to stop when a signal comes, and does not wait for it after a second one.
pub(super) async fn stoppable<T>(
    download: impl Future<Output = Result<Result<T, CliError>, JoinError>>,
    stop: &AtomicBool,
    signal: impl AsyncFn() -> std::io::Result<()>,
) -> Result<T, CliError> {
    tokio::pin!(download);
    let downloaded = tokio::select! {
        downloaded = &mut download => downloaded,
        _ = signal() => {
            stop.store(true, Ordering::Relaxed);
            tokio::select! {
                downloaded = &mut download => downloaded,
                _ = signal() => return Err(interrupted()),
            }
        }
    };
    downloaded.map_err(|e| CliError::new(Kind::Bug, e))?
}

pub(super) fn interrupted() -> CliError {
    CliError::failed("interrupted")
}

impl File {
    async fn of(context: &Context, args: &SeedArgs) -> Result<Self, CliError> {
        if let [file] = args.files.as_slice()
            && !mirror::is_wanted(file, args.as_is)
        {
            if args.sha256.is_some() {
                return Err(CliError::usage("--sha256 is for what is downloaded"));
            }
            return Ok(Self::Here(PathBuf::from(file)));
        }
        // before anything is downloaded: is there a node to give it to?
        drop(context.connect().await?);
        let room = room(args.temp.as_ref())?;
        let bar = handover::bytes_bar(context, 0, "downloading");
        let stop = Arc::new(AtomicBool::new(false));
        let (shown, stopped) = (bar.clone(), Arc::clone(&stop));
        let to = room.path().to_owned();
        let (files, sum, as_is) = (args.files.clone(), args.sha256, args.as_is);
        let download = tokio::task::spawn_blocking(move || {
            let wanted = mirror::wanted(&files, sum, as_is, &stopped)?;
            let downloaded = mirror::download(&wanted, &to, &shown, &stopped)?;
            Ok((wanted.name, downloaded))
        });
        let downloaded = stoppable(download, &stop, tokio::signal::ctrl_c).await;
        bar.finish_and_clear();
        let (name, file) = downloaded?;
        Ok(Self::Downloaded { name, file, _room: room })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Here(path) => path,
            Self::Downloaded { file, .. } => file.path(),
        }
    }

    /// Its name, and which mirrors gave it.
    fn told(&self, context: &Context) -> (String, Vec<Gave>) {
        match self {
            Self::Here(path) => {
                (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), Vec::new())
            }
            Self::Downloaded { name, file, .. } => {
                let gave = file.mirrors.iter().filter(|m| m.bytes > 0).count();
                context.tell(format_args!("{name} came from {}.", format::count(gave, "mirror")));
                for mirror in &file.mirrors {
                    if let Some(reason) = &mirror.failed {
                        context.tell(format_args!("{}: {reason}", mirror.url));
                    }
                }
                if !file.vouched {
                    context.tell("Nothing vouches for what it is: no sum was given.");
                }
                (name.clone(), file.mirrors.clone())
            }
        }
    }
}

/// Compresses a file that must not change meanwhile, in a directory that goes when it is dropped.
async fn pack(
    context: &Context,
    path: &Path,
    level: i32,
    temp: Option<&PathBuf>,
) -> Result<(Packed, TempDir), CliError> {
    // before it takes its time: is there a node to give it to?
    drop(context.connect().await?);
    let room = room(temp)?;
    let source = Source::open(path)?;
    let bar = handover::bytes_bar(context, source.len(), "compressing");
    let stop = Arc::new(AtomicBool::new(false));
    let (shown, stopped) = (bar.clone(), Arc::clone(&stop));
    let (from, to) = (path.to_owned(), room.path().to_owned());
    let pack =
        tokio::task::spawn_blocking(move || packed::pack(&from, &to, level, &shown, &stopped));
    let packed = stoppable(pack, &stop, tokio::signal::ctrl_c).await;
    bar.finish_and_clear();
    if stop.load(Ordering::Relaxed) {
        return Err(interrupted());
    }
    let packed = packed?;
    source.check_unchanged()?;
    Ok((packed, room))
}

pub(super) async fn hand_over(context: &Context, path: &Path) -> Result<BlobRef, CliError> {
    let source = Source::open(path)?;
    let mut client = context.connect().await?;
    let blob = source.hand_over(context, &mut client).await?;
    client.call(SeedBlob { root: blob.root }).await?;
    Ok(blob)
}

pub(super) async fn run(context: &Context, args: SeedArgs) -> Result<(), CliError> {
    let file = File::of(context, &args).await?;
    let packed = match args.zstd {
        Some(level) => Some(pack(context, file.path(), level, args.temp.as_ref()).await?),
        None => None,
    };
    let path = packed.as_ref().map_or(file.path(), |(packed, _)| &packed.path);
    // the runtime keeps the signal to itself once it was asked for
    let blob = tokio::select! {
        blob = hand_over(context, path) => blob?,
        _ = tokio::signal::ctrl_c() => return Err(interrupted()),
    };
    let (root, size) = (blob.root, blob.len());
    let content = packed.map(|(packed, _room)| packed.content);
    let (name, mirrors) = file.told(context);
    if context.json {
        return context.print_json(&Document { root, size, content, mirrors });
    }
    context.print(format_args!("{root}\n"))?;
    let (sizes, option) = match content {
        None => (format::size(size), ""),
        Some(content) => (
            format!("{}, compressed to {}", format::size(content), format::size(size)),
            "--unpack ",
        ),
    };
    context.tell(format_args!(
        "{name} ({sizes}) is here for others; on another machine: {}",
        context.command(&format!("fetch {root} {option}-o FILE"))
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_level_is_the_one_that_is_told() {
        #[derive(clap::Parser)]
        struct Words {
            #[command(flatten)]
            args: SeedArgs,
        }
        let words = <Words as clap::Parser>::try_parse_from(["seed", "--zstd", "disk.img"]);
        assert_eq!(words.unwrap().args.zstd, Some(p2pinst_chunks::seekable::LEVEL));
    }

    #[tokio::test]
    async fn the_first_signal_stops_and_the_second_does_not_wait() {
        let stop = AtomicBool::new(false);
        let at_once = async || Ok(());
        let never = std::future::pending::<Result<Result<(), CliError>, JoinError>>();
        let error = stoppable(never, &stop, at_once).await.unwrap_err();
        assert!(stop.load(Ordering::Relaxed));
        assert_eq!(error.error, "interrupted");

        let stops = async { Ok(Err::<(), _>(CliError::failed("it stopped by itself"))) };
        let none = async || std::future::pending().await;
        let error = stoppable(stops, &stop, none).await.unwrap_err();
        assert_eq!(error.error, "it stopped by itself");
    }
}
