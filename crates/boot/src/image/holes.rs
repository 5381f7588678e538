//! Files with holes where zeros would be, and copies that keep them.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::process::Watch;
use super::source::ReadAt as _;
use super::source::Source;

/// The blocks of usual filesystems: a hole is of whole ones.
const BLOCK: usize = 4096;
/// Read and written at a time.
pub(crate) const BUFFER: usize = 1 << 20;

/// Writes a file from its beginning, zeros as holes, and no more than a limit.
#[derive(Debug)]
pub(crate) struct SparseWriter<'a> {
    file: &'a File,
    at: u64,
    limit: u64,
}

impl<'a> SparseWriter<'a> {
    /// Writes into an empty file.
    pub(crate) fn new(file: &'a File, limit: u64) -> Self {
        Self { file, at: 0, limit }
    }

    /// Gives the file its length, which holes at its end do not; the length.
    pub(crate) fn finish(self) -> io::Result<u64> {
        self.file.set_len(self.at)?;
        self.file.sync_data()?;
        Ok(self.at)
    }
}

impl Write for SparseWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.at.saturating_add(bytes.len() as u64);
        if end > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        write_data(self.file, self.at, bytes)?;
        self.at = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what is not zero.
pub(crate) fn write_data(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let skew = usize::try_from(at % BLOCK as u64).unwrap_or(0);
    let first = ((BLOCK - skew) % BLOCK).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    let mut at = at;
    let mut pending: Option<(u64, usize, usize)> = None;
    let mut start = first;
    put(file, at, head)?;
    at += first as u64;
    // neighbours are written together
    for block in rest.chunks(BLOCK) {
        let end = start + block.len();
        if is_zero(block) {
            flush(file, bytes, pending.take())?;
        } else {
            pending = match pending {
                Some((from, begin, _)) => Some((from, begin, end)),
                None => Some((at, start, end)),
            };
        }
        (at, start) = (at + block.len() as u64, end);
    }
    flush(file, bytes, pending)
}

fn flush(file: &File, bytes: &[u8], pending: Option<(u64, usize, usize)>) -> io::Result<()> {
    let Some((at, start, end)) = pending else { return Ok(()) };
    file.write_all_at(bytes.get(start..end).unwrap_or_default(), at)
}

fn put(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    if is_zero(bytes) { Ok(()) } else { file.write_all_at(bytes, at) }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// The parts of `start..end` that are no holes. All of it, where the system knows of no holes.
pub(crate) fn data(file: &File, start: u64, end: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut parts = Vec::new();
    let mut at = start;
    while at < end {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin.max(at),
            Err(Errno::NXIO) => break,
            // block devices
            Err(Errno::INVAL) => return Ok(vec![(start, end)]),
            Err(e) => return Err(e.into()),
        };
        if begin >= end {
            break;
        }
        let stop = rustix::fs::seek(file, SeekFrom::Hole(begin))?.min(end);
        parts.push((begin, stop));
        at = stop;
    }
    Ok(parts)
}

/// Copies `start..end` to the same place of a file that has zeros there; the bytes read.
pub(crate) fn copy(
    from: &Source,
    to: &File,
    (start, end): (u64, u64),
    watch: &Watch<'_>,
) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    for (mut at, stop) in data(from.file(), start, end.min(from.len()))? {
        while at < stop {
            if watch.is_stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let want = usize::try_from(stop - at).unwrap_or(BUFFER).min(BUFFER);
            let Some(part) = buffer.get_mut(..want) else { break };
            let n = from.read_at(at, part)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            write_data(to, at, part.get(..n).unwrap_or_default())?;
            (at, done) = (at + n as u64, done + n as u64);
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zeros_are_holes_and_the_limit_holds() {
        let mut file = tempfile::tempfile().unwrap();
        let mut writer = SparseWriter::new(&file, 10 << 20);
        let mut bytes = vec![0; 8 << 20];
        bytes[5 << 20] = 1;
        writer.write_all(&bytes).unwrap();
        assert!(writer.write_all(&bytes).is_err(), "more than the limit");
        assert_eq!(writer.finish().unwrap(), 8 << 20);
        assert!(file.metadata().unwrap().blocks() * 512 <= 64 << 10);
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        let parts = data(&file, 0, 8 << 20).unwrap();
        assert_eq!(parts, [(5 << 20, (5 << 20) + 4096)]);
    }

    proptest! {
        #[test]
        fn any_bytes_at_any_place(parts in prop::collection::vec((0usize..20_000, any::<u8>(), 0usize..20_000), 0..6)) {
            let mut file = tempfile::tempfile().unwrap();
            let mut writer = SparseWriter::new(&file, u64::MAX);
            let mut all = Vec::new();
            for (zeros, byte, count) in parts {
                let part = [vec![0; zeros], vec![byte; count]].concat();
                writer.write_all(&part).unwrap();
                all.extend(part);
            }
            prop_assert_eq!(writer.finish().unwrap(), all.len() as u64);
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            prop_assert!(read == all);
        }
    }
}
