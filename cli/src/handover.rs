//! Handing a file over to the node, and making sure that it is one and the same file all along.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2pinst_api::{Client, ClientError};
use p2pinst_files::Context as _;
use p2pinst_types::record::PackageId;
use p2pinst_types::{BlobRef, Hash};

use crate::context::Context;
use crate::error::{CliError, Kind};

/// What changes when a file is written to, or another is put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(m: Metadata) -> Self {
        Self {
            file: (m.dev(), m.ino()),
            len: m.len(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        }
    }
}

/// An open file that is to be published.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

impl Source {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Self, CliError> {
        let shown = path.display();
        // looked at before it is opened: opening a pipe would wait for a writer
        if !fs::metadata(path).context("read", path)?.is_file() {
            return Err(CliError::failed(format!("{shown} is not a file")));
        }
        let file = File::open(path).context("read", path)?;
        let stamp = Stamp::from(file.metadata().context("read", path)?);
        if stamp.len == 0 {
            return Err(CliError::failed(format!("{shown} is empty, not a package")));
        }
        Ok(Self { path: path.to_owned(), file, stamp })
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.stamp.len
    }

    /// The file's own name.
    pub(crate) fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Reads what the package says of itself; what follows is not looked at.
    pub(crate) fn identify(&self) -> Result<PackageId, CliError> {
        let found = p2pinst_install::identify(&self.path);
        // a file that is being written is no package yet: say that, not what is wrong with it
        self.check_unchanged()?;
        Ok(found.map_err(CliError::failed)?.package)
    }

    /// Hands the package over to the node, and looks meanwhile whether all of it can be unpacked. What cannot
    /// lies in the store for ten minutes, and is ordered nowhere.
    pub(crate) async fn hand_over_whole(
        &self,
        context: &Context,
        client: &mut Client,
    ) -> Result<BlobRef, CliError> {
        let path = self.path.clone();
        let inspect = tokio::task::spawn_blocking(move || p2pinst_install::inspect(&path));
        let inspected = async {
            let inspected = inspect.await.map_err(|e| CliError::new(Kind::Bug, e))?;
            self.check_unchanged()?;
            inspected.map_err(CliError::failed)
        };
        let (blob, _) = tokio::try_join!(self.hand_over(context, client), inspected)?;
        Ok(blob)
    }

    /// Makes sure that it is still what it was when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), CliError> {
        let open = self.file.metadata().map(Stamp::from);
        let named = fs::metadata(&self.path).map(Stamp::from);
        let same = |stamp: io::Result<Stamp>| stamp.is_ok_and(|s| s == self.stamp);
        if same(open) && same(named) { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> CliError {
        let path = self.path.display();
        CliError::failed(format!("{path} was changed while it was read; nothing is published"))
            .hint("wait until whatever writes it is done, and publish again")
    }

    /// Hands the file over to the node, and makes sure that the node has what was read.
    pub(crate) async fn hand_over(
        &self,
        context: &Context,
        client: &mut Client,
    ) -> Result<BlobRef, CliError> {
        let file = File::open(&self.path).context("read", &self.path)?;
        if Stamp::from(file.metadata().context("read", &self.path)?) != self.stamp {
            return Err(self.changed());
        }
        let bar = bytes_bar(context, self.len(), "handing over");
        let mut hasher = blake3::Hasher::new();
        let mut source = tokio::fs::File::from_std(file);
        let put = client
            .put_blob(&mut source, self.len(), |bytes| {
                hasher.update(bytes);
                bar.inc(bytes.len() as u64);
            })
            .await;
        bar.finish_and_clear();
        let put = put.map_err(|e| match e {
            ClientError::Source(_) if self.check_unchanged().is_err() => self.changed(),
            e => CliError::from(e),
        })?;
        self.check_unchanged()?;
        let read = BlobRef::new(Hash(*hasher.finalize().as_bytes()), self.len())?;
        if read != put {
            return Err(CliError::new(
                Kind::Bug,
                format!("the node stored {}, but {} was handed over", put.root, read.root),
            )
            .hint("memory or disk of this machine may be failing"));
        }
        Ok(read)
    }
}

/// A bar of bytes.
pub(crate) fn bytes_bar(context: &Context, len: u64, message: &'static str) -> ProgressBar {
    const TEMPLATE: &str = "{msg} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}";
    bar(context, len, TEMPLATE, message)
}

/// A progress bar on the terminal; an invisible one when nobody watches.
pub(crate) fn bar(
    context: &Context,
    len: u64,
    template: &str,
    message: &'static str,
) -> ProgressBar {
    let target =
        if context.watched() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::with_draw_target(Some(len), target).with_style(style).with_message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| Source::open(path).unwrap_err().error;
        assert!(error(dir.path()).contains("is not a file"));
        assert!(error(&dir.path().join("none")).contains("No such file"));
        let empty = dir.path().join("empty.deb");
        fs::write(&empty, "").unwrap();
        assert!(error(&empty).contains("is empty"));
    }

    #[test]
    fn a_change_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.deb");
        fs::write(&path, "one").unwrap();
        let source = Source::open(&path).unwrap();
        source.check_unchanged().unwrap();
        fs::write(dir.path().join("b.deb"), "two").unwrap();
        fs::rename(dir.path().join("b.deb"), &path).unwrap();
        assert!(source.check_unchanged().unwrap_err().error.contains("changed while"));
        let source = Source::open(&path).unwrap();
        fs::write(&path, "longer").unwrap();
        assert!(source.check_unchanged().is_err());
        assert_eq!(source.file_name(), "a.deb");
    }
}
