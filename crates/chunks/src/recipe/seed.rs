//! Where chunks may be taken from: blobs of the store, files and disks that hold an older version.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use p2pinst_types::Hash;
use rustix::fs::SeekFrom as Hole;
use rustix::io::Errno;
use thiserror::Error;

use super::{Chunk, Cutter, Kind, Local, Plan};

/// Read at a time.
const BUFFER: usize = 1 << 20;

/// A file or a disk cannot be used as a seed.
#[derive(Debug, Error)]
#[error("cannot use {} as an older version: {source}", path.display())]
pub struct SeedError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// An open file from which chunks are taken. It stays readable when its name is gone.
#[derive(Debug)]
pub struct Seed(File);

impl Seed {
    /// The file of a blob, or another one whose chunks are known.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(file)
    }

    /// Reads a chunk into `out`, whose old content goes; whether it is what it should be. What has changed
    /// since it was looked at, and what the disk has damaged, is not.
    pub(super) fn read(&self, chunk: &Chunk, local: Local, out: &mut Vec<u8>) -> bool {
        let Kind::Data(hash) = &chunk.kind else { return false };
        out.resize(chunk.len as usize, 0);
        self.0.read_exact_at(out, local.offset).is_ok() && Hash::of(out) == *hash
    }
}

/// Looks through a file or a block device for what a plan lacks, and gives it to the plan as the seed of that
/// number. Holes are not read. Blocking, at about the speed of the disk; `go_on` is asked each MiB.
///
/// # Errors
/// When it cannot be read, or is no file and no block device.
pub fn scan(
    path: &Path,
    number: usize,
    plan: &mut Plan,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Seed, SeedError> {
    let scanned = look_through(path, number, plan, go_on);
    scanned.map(Seed).map_err(|source| SeedError { path: path.to_owned(), source })
}

fn look_through(
    path: &Path,
    number: usize,
    plan: &mut Plan,
    go_on: &mut dyn FnMut() -> bool,
) -> io::Result<File> {
    // looked at before it is opened: opening a pipe would wait for a writer
    let kind = path.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("it is neither a file nor a disk"));
    }
    let mut file = File::open(path)?;
    let mut cutter = Cutter::default();
    let (mut offset, mut at) = (0, 0);
    let mut data_until = 0;
    let mut buffer = vec![0; BUFFER];
    while plan.is_lacking() && go_on() {
        if kind.is_file() && at >= data_until {
            let data = match rustix::fs::seek(&file, Hole::Data(at)) {
                Ok(data) => data,
                // no data from here to the end
                Err(Errno::NXIO) => file.metadata()?.len(),
                Err(_) => at, // this filesystem does not tell
            };
            cutter.push_zeros(data.saturating_sub(at));
            at = data.max(at);
            data_until = rustix::fs::seek(&file, Hole::Hole(at)).unwrap_or(u64::MAX);
            file.seek(SeekFrom::Start(at))?;
        }
        let n = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        at += n as u64;
        cutter.push(buffer.get(..n).unwrap_or_default());
        offset = plan.offer(number, offset, &cutter.take());
    }
    plan.offer(number, offset, &cutter.finish());
    Ok(file)
}
