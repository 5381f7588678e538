//! Files that are compressed before they are handed over, and unpacked where they are fetched.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use p2pinst_chunks::recipe;
use p2pinst_chunks::seekable::{self, Reader, SeekableError};
use p2pinst_files::Context as _;

use crate::error::CliError;

/// Read and written at a time.
const BUFFER: usize = 1 << 20;

/// A file that was compressed.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) path: PathBuf,
    /// Bytes of what it holds.
    pub(crate) content: u64,
}

/// Reads until it is told to stop, and shows how far it is.
struct Watched<'a, R> {
    from: R,
    bar: &'a ProgressBar,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let n = self.from.read(buffer)?;
        self.bar.inc(n as u64);
        Ok(n)
    }
}

/// Compresses a file into a new one in `dir`. Blocking.
pub(crate) fn pack(
    from: &Path,
    dir: &Path,
    level: i32,
    bar: &ProgressBar,
    stop: &AtomicBool,
) -> Result<Packed, CliError> {
    let head = head(from).context("read", from)?;
    if recipe::is_compressed(&head) || seekable::is_image(&head) {
        return Err(CliError::failed(format!("{} is compressed already", from.display()))
            .hint("put it in as it is, without --zstd"));
    }
    let source = File::open(from).context("read", from)?;
    let path = dir.join("packed");
    let target = File::create_new(&path).context("create", &path)?;
    let mut reader = Watched { from: BufReader::with_capacity(BUFFER, source), bar, stop };
    let mut writer = BufWriter::with_capacity(BUFFER, target);
    let written = seekable::write(&mut reader, &mut writer, level);
    let written = written.map_err(|e| match e {
        SeekableError::Output(e) => cannot("write what is made of", from, &e)
            .hint("is there room? --temp names another directory"),
        e => cannot("compress", from, &e),
    })?;
    Ok(Packed { path, content: written.content })
}

/// Whether a file is one that `pack` has made.
pub(crate) fn is_packed(path: &Path) -> io::Result<bool> {
    Ok(seekable::is_image(&head(path)?))
}

/// How a file begins.
fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(seekable::HEAD);
    File::open(path)?.take(seekable::HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Writes what a compressed file holds into an empty one, zeros as holes. Blocking.
pub(crate) fn unpack(from: (&Path, File), to: (&Path, &File)) -> Result<(), CliError> {
    let image = Reader::open(from.1);
    image.and_then(|mut image| image.extract(to.1)).map_err(|e| match e {
        SeekableError::NoTable => {
            cannot("unpack", from.0, &e).hint("fetch it without --unpack: it is here as it is")
        }
        SeekableError::Output(e) => cannot("write", to.0, &e).hint("is there room?"),
        e => cannot("unpack", from.0, &e).hint("was it made by p2pinst seed --zstd?"),
    })
}

fn cannot(what: &str, path: &Path, error: &dyn std::error::Error) -> CliError {
    CliError::failed(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_packed_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("image"), dir.path().join("copy"));
        let mut content = b"all work and no play ".repeat(9999);
        content.resize(3 << 20, 0);
        fs::write(&from, &content).unwrap();
        let (bar, stop) = (ProgressBar::hidden(), AtomicBool::new(false));
        let packed = pack(&from, dir.path(), 3, &bar, &stop).unwrap();
        assert_eq!((packed.content, bar.position()), (content.len() as u64, content.len() as u64));
        assert!(fs::metadata(&packed.path).unwrap().len() < content.len() as u64 / 100);
        assert!(is_packed(&packed.path).unwrap() && !is_packed(&from).unwrap());
        let target = File::create_new(&to).unwrap();
        unpack((&packed.path, File::open(&packed.path).unwrap()), (&to, &target)).unwrap();
        assert!(fs::read(&to).unwrap() == content);
        let again = pack(&packed.path, dir.path(), 3, &bar, &stop).unwrap_err();
        assert!(again.error.contains("compressed already"), "{}", again.error);
        let raw = unpack((&from, File::open(&from).unwrap()), (&to, &target)).unwrap_err();
        assert!(raw.error.contains("no compressed image"), "{}", raw.error);
    }

    #[test]
    fn it_stops_when_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("image");
        fs::write(&from, [0; 99]).unwrap();
        let (bar, stop) = (ProgressBar::hidden(), AtomicBool::new(true));
        let error = pack(&from, dir.path(), 3, &bar, &stop).unwrap_err();
        assert!(error.error.contains("interrupted"), "{}", error.error);
    }
}
