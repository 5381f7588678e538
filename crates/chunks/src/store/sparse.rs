//! Writing without the zeros: they become holes in the file, which take no room.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::recipe::leading_zeros;

/// Zeros in runs of this many bytes are not written: a multiple of every filesystem's blocks.
const RUN: usize = 64 << 10;

/// Writes bytes at an offset of a file that has room for them. Where runs of [`RUN`] zeros would be, aligned to
/// that in the file, holes are made instead.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut rest = bytes;
    let mut at = offset;
    while !rest.is_empty() {
        let (zero, len) = stretch(rest, at);
        let (now, later) = rest.split_at(len);
        if !zero || !punch(file, at, len as u64)? {
            file.write_all_at(now, at)?;
        }
        (rest, at) = (later, at + len as u64);
    }
    Ok(())
}

/// Whether bytes at an offset begin with whole runs of zeros, and how many bytes are of the same kind.
fn stretch(bytes: &[u8], offset: u64) -> (bool, usize) {
    let first = RUN - usize::try_from(offset % RUN as u64).unwrap_or(0);
    let mut kind = None;
    let mut end = 0;
    while end < bytes.len() {
        let len = if end == 0 { first } else { RUN }.min(bytes.len() - end);
        let run = bytes.get(end..end + len).unwrap_or_default();
        let zero = len == RUN && leading_zeros(run) == RUN;
        if *kind.get_or_insert(zero) != zero {
            break;
        }
        end += len;
    }
    (kind == Some(true), end)
}

/// Makes a hole; whether the filesystem can.
fn punch(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_are_holes_and_everything_reads_back() {
        let mut file = tempfile::tempfile().unwrap();
        let len = 40 * RUN + 17;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len as u64).unwrap();
        // where something else was
        file.write_all_at(&vec![9; len], 0).unwrap();
        let mut bytes = vec![0; len];
        bytes[5 * RUN + 3] = 1;
        bytes[30 * RUN - 1] = 2;
        bytes[len - 1] = 3;
        let (head, tail) = bytes.split_at(7 * RUN + 100);
        write_at(&file, head, 0).unwrap();
        write_at(&file, tail, head.len() as u64).unwrap();
        file.sync_all().unwrap();
        let mut back = Vec::new();
        file.read_to_end(&mut back).unwrap();
        assert!(back == bytes);
        let taken = file.metadata().unwrap().blocks() * 512;
        assert!(taken <= 5 * RUN as u64, "{taken} bytes are taken");
    }

    #[test]
    fn only_whole_runs_count() {
        let zeros = vec![0; 3 * RUN];
        assert_eq!(stretch(&zeros, 0), (true, 3 * RUN));
        assert_eq!(stretch(&zeros, 1), (false, RUN - 1));
        assert_eq!(stretch(&zeros[..RUN - 1], 0), (false, RUN - 1));
        assert_eq!(stretch(&zeros[..RUN + 5], 0), (true, RUN));
        let mut bytes = zeros.clone();
        bytes[RUN + 1] = 1;
        assert_eq!(stretch(&bytes, 0), (true, RUN));
        assert_eq!(stretch(&bytes[RUN..], RUN as u64), (false, RUN));
    }
}
