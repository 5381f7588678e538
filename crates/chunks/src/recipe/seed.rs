//! Where chunks may be taken from: blobs of the store, files and disks that hold an older version.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
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

impl Seed {
    /// Opens a file or a block device that may hold an older version.
    ///
    /// # Errors
    /// When it cannot be opened, or is neither.
    pub fn open(path: &Path) -> Result<Self, SeedError> {
        let failed = |source| SeedError { path: path.to_owned(), source };
        // without waiting: opening a pipe would wait for a writer, and reading one
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let opened = File::options().read(true).custom_flags(flags).open(path);
        let file = opened.map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(failed(io::Error::other("it is neither a file nor a disk")));
        }
        Ok(Self(file))
    }

    /// Looks through it for what a plan lacks, and gives that to the plan as of the seed of this number.
    /// Holes are not read. Blocking, at about the speed of the disk; `go_on` is asked each MiB.
    ///
    /// # Errors
    /// When it cannot be read; what was found before counts.
    pub fn scan(
        &mut self,
        number: usize,
        plan: &mut Plan,
        go_on: &mut dyn FnMut() -> bool,
    ) -> io::Result<()> {
        look_through(&mut self.0, number, plan, go_on)
    }
}

fn look_through(
    file: &mut File,
    number: usize,
    plan: &mut Plan,
    go_on: &mut dyn FnMut() -> bool,
) -> io::Result<()> {
    let is_file = file.metadata()?.is_file();
    let mut cutter = Cutter::default();
    let (mut offset, mut at) = (0, 0);
    let mut data_until = 0;
    let mut buffer = vec![0; BUFFER];
    while plan.is_lacking() && go_on() {
        if is_file && at >= data_until {
            let data = match rustix::fs::seek(&*file, Hole::Data(at)) {
                Ok(data) => data,
                // no data from here to the end
                Err(Errno::NXIO) => file.metadata()?.len(),
                Err(_) => at, // this filesystem does not tell
            };
            cutter.push_zeros(data.saturating_sub(at));
            at = data.max(at);
            data_until = rustix::fs::seek(&*file, Hole::Hole(at)).unwrap_or(u64::MAX);
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
    Ok(())
}
