//! `p2pinst fetch`

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use p2pinst_api::Client;
use p2pinst_api::request::FetchBlob;
use p2pinst_api::store::FetchView;
use p2pinst_files::Context as _;
use p2pinst_types::Hash;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Kind};
use crate::format;
use crate::handover;
use crate::packed;

/// How long one question waits for something new.
const WAIT_MS: u64 = 500;
/// Read at a time.
const COPY: usize = 256 * 1024;

/// Fetch a file from the other machines into this machine's store
///
/// Takes a root (what `p2pinst seed` printed), a deployment, or a release. Every byte is verified. The
/// file is kept for ten minutes, and longer where there is room: pin it to keep it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst fetch alice-42 -o hello.deb
  p2pinst fetch hello=1.0
  p2pinst fetch 3f2a9c51… -o /srv/disk.img
  p2pinst fetch 3f2a9c51… --unpack -o /srv/disk.img
  p2pinst fetch 3f2a9c51… --delta-from /dev/vg0/root -o /srv/disk.img
  p2pinst fetch 3f2a9c51… --delta-from /srv/tree-1 -o /srv/tree-2.tar")]
pub(crate) struct FetchArgs {
    /// The file: its root, a deployment (alice-42) or NAME=VERSION
    what: String,
    /// Also put it there (shares the blocks on the disk where the filesystem can); replaces a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Put there what it holds: for what `p2pinst seed --zstd` has compressed
    #[arg(long, requires = "output", conflicts_with = "hard_link")]
    unpack: bool,
    /// Make a hard link instead of a copy: whoever writes to it damages the store
    #[arg(long, requires = "output")]
    hard_link: bool,
    /// A file, disk or directory that holds an older version: only what it lacks comes (older versions in
    /// this machine's store are used anyway)
    #[arg(long, value_name = "PATH")]
    delta_from: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Document {
    root: Hash,
    size: u64,
    received: u64,
    sources: usize,
    local: u64,
    zero: u64,
    file: Option<PathBuf>,
}

/// How a file of the store is put where it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Copy,
    HardLink,
    /// What it holds.
    Content,
}

pub(super) async fn run(context: &Context, args: FetchArgs) -> Result<(), CliError> {
    // before anything comes: can it be put there?
    let temp = args.output.as_deref().map(temporary).transpose()?;
    let older = args.delta_from.iter().map(|path| older(path)).collect::<Result<Vec<_>, _>>()?;
    let mut client = context.connect().await?;
    let fetched = tokio::select! {
        fetched = bring(context, &mut client, &args.what, &older) => fetched?,
        _ = tokio::signal::ctrl_c() => {
            return Err(CliError::failed("interrupted").hint("what has come stays for an hour"));
        }
    };
    let (root, size) = (fetched.root, fetched.size.unwrap_or(fetched.have));
    if let Some((output, temp)) = args.output.as_ref().zip(temp) {
        let from = context.dir.blobs().join(format!("{root}.blob"));
        let to = output.clone();
        let how = match (args.unpack, args.hard_link) {
            (true, _) => As::Content,
            (false, true) => As::HardLink,
            (false, false) => As::Copy,
        };
        let (temp, half) = (temp.clone(), temp);
        let put = tokio::task::spawn_blocking(move || {
            put(&from, &temp, &to, (root, how)).map(|()| packed::is_packed(&from).unwrap_or(false))
        });
        let packed = tokio::select! {
            put = put => put.map_err(|e| CliError::new(Kind::Bug, e))??,
            _ = tokio::signal::ctrl_c() => {
                drop(fs::remove_file(half)); // without it nothing is put in the file's place
                return Err(CliError::failed("interrupted").hint("the file is in the store"));
            }
        };
        if packed && how != As::Content {
            context.tell("It is compressed: with --unpack you get what it holds.");
        }
    }
    if context.json {
        let FetchView { received, sources, local, zero, .. } = fetched;
        let file = args.output;
        return context.print_json(&Document { root, size, received, sources, local, zero, file });
    }
    context.print(format_args!("{root}\n"))?;
    let came = match (fetched.received, fetched.local + fetched.zero) {
        (0, 0) => "was here already".to_owned(),
        (n, _) => {
            format!("{} came from {}", format::size(n), format::count(fetched.sources, "node"))
        }
    };
    if !args.delta_from.is_empty() && fetched.local == 0 && fetched.received > 0 {
        context
            .tell("Nothing could be taken from older versions: the log of the node may say why.");
    }
    let saved = match (fetched.local, fetched.zero) {
        (0, 0) => String::new(),
        (local, 0) => format!(", {} were here in older versions", format::size(local)),
        (0, zero) => format!(", {} are zeros", format::size(zero)),
        (local, zero) => format!(
            ", {} were here in older versions, {} are zeros",
            format::size(local),
            format::size(zero)
        ),
    };
    context.tell(format_args!("{}: {came}{saved}.", format::size(size)));
    Ok(())
}

/// The absolute path of what holds an older version: the node reads it.
fn older(path: &Path) -> Result<PathBuf, CliError> {
    let kind = fs::metadata(path).context("read", path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() && !kind.is_dir() {
        let shown = path.display();
        return Err(CliError::failed(format!(
            "{shown} is neither a file nor a disk nor a directory"
        ))
        .hint("--delta-from takes the older version itself"));
    }
    Ok(fs::canonicalize(path).context("read", path)?)
}

/// Asks until all of it is here.
pub(super) async fn bring(
    context: &Context,
    client: &mut Client,
    what: &str,
    older: &[PathBuf],
) -> Result<FetchView, CliError> {
    let bar = handover::bytes_bar(context, 0, "looking");
    loop {
        let delta_from = older.to_vec();
        let ask = FetchBlob { what: what.to_owned(), wait_ms: WAIT_MS, delta_from };
        let view = client.call(ask).await?;
        if let Some(size) = view.size {
            bar.set_length(size);
            bar.set_position(view.have);
            bar.set_message("fetching");
        }
        if let Some(reason) = view.failed {
            bar.finish_and_clear();
            return Err(CliError::failed(format!("cannot fetch {what}: {reason}"))
                .hint("is a machine that has it up? p2pinst node ls"));
        }
        if view.complete {
            bar.finish_and_clear();
            return Ok(view);
        }
    }
}

fn directory(to: &Path) -> &Path {
    to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Beside the file that is to be made, or replaced.
fn temporary(to: &Path) -> Result<PathBuf, CliError> {
    let shown = to.display();
    if fs::metadata(to).is_ok_and(|m| !m.is_file()) {
        return Err(CliError::failed(format!(
            "{shown} is there, and is no file: it stays as it is"
        ))
        .hint("name a file; what is in a file can be written to a disk with dd"));
    }
    let name = to.file_name();
    let name = name.ok_or_else(|| CliError::usage(format!("{shown} is no name of a file")))?;
    let name = format!(".{}.{}.new", name.to_string_lossy(), std::process::id());
    Ok(directory(to).join(name))
}

/// Puts a blob of the store where it is wanted, whole or not at all, and makes sure that it is what it
/// should be.
fn put(from: &Path, temp: &Path, to: &Path, (root, how): (Hash, As)) -> Result<(), CliError> {
    let made = make(from, temp, root, how)
        .and_then(|()| Ok(fs::rename(temp, to).context("rename", temp)?))
        .and_then(|()| Ok(p2pinst_files::sync_dir(directory(to))?));
    if made.is_err() {
        drop(fs::remove_file(temp));
    }
    made
}

fn make(from: &Path, temp: &Path, root: Hash, how: As) -> Result<(), CliError> {
    let mut source = File::open(from).context("read", from)?;
    if how == As::HardLink {
        fs::hard_link(from, temp).context("make a hard link", temp)?;
        return expect(hash(&mut source, &mut io::sink()).context("read", from)?, root);
    }
    let mut target = File::create_new(temp).context("create", temp)?;
    if how == As::Content {
        expect(hash(&mut source, &mut io::sink()).context("read", from)?, root)?;
        packed::unpack((from, source), (temp, &target))?;
        return Ok(target.sync_all().context("sync", temp)?);
    }
    // shares the blocks, where both are on one filesystem that can
    let hash = if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        hash(&mut source, &mut io::sink()).context("read", from)?
    } else {
        hash(&mut source, &mut target).context("copy to", temp)?
    };
    target.sync_all().context("sync", temp)?;
    expect(hash, root)
}

fn hash(source: &mut File, target: &mut dyn Write) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; COPY];
    loop {
        let n = source.read(&mut buffer)?;
        let bytes = buffer.get(..n).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(Hash(*hasher.finalize().as_bytes()));
        }
        hasher.update(bytes);
        target.write_all(bytes)?;
    }
}

fn expect(found: Hash, wanted: Hash) -> Result<(), CliError> {
    if found == wanted {
        return Ok(());
    }
    Err(CliError::failed(format!("the disk has damaged {} in the store", wanted.short()))
        .hint(format!("give up what is damaged: p2pinst store verify {}", wanted.short()))
        .hint("and fetch it again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("blob"), dir.path().join("file"));
        let bytes = vec![7; COPY + 3];
        fs::write(&from, &bytes).unwrap();
        fs::write(&to, "old").unwrap();
        let root = Hash(*blake3::hash(&bytes).as_bytes());
        let put = |to: &Path, root, how| put(&from, &temporary(to)?, to, (root, how));
        let error = put(&to, Hash([1; 32]), As::Copy).unwrap_err();
        assert!(error.error.contains("damaged"), "{}", error.error);
        assert_eq!(fs::read(&to).unwrap(), b"old");
        let error = put(&to, root, As::Content).unwrap_err();
        assert!(error.error.contains("no compressed image"), "{}", error.error);
        assert_eq!(fs::read(&to).unwrap(), b"old");
        put(&to, root, As::Copy).unwrap();
        assert_eq!(fs::read(&to).unwrap(), bytes);
        put(&to, root, As::HardLink).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
        assert!(put(&dir.path().join("no/file"), root, As::Copy).is_err());
        let error = put(Path::new("/dev/null"), root, As::Copy).unwrap_err();
        assert!(error.error.contains("is no file"), "{}", error.error);
    }
}
