//! The files of the newest scout: fetched like any blob, and linked to where the boot service sees them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dht_store::Views;
use p2pinst_boot::dhcp::client::Family;
use p2pinst_boot::dhcp::table::{Artefacts as Offered, FileName, Files};
use p2pinst_boot::service::Program;
use p2pinst_files::{Context, FileError};
use p2pinst_types::record::{Image, ImageKind};
use p2pinst_types::{BlobRef, Hash, ImageId};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::storage::Storage;

/// Older scouts whose files are looked for in their places.
const OLDER: usize = 4;
/// Until files that were not to be had are looked for again.
pub(super) const AGAIN: Duration = Duration::from_secs(10);
/// The scout as one program that UEFI starts.
const UKI: &str = "scout.efi";
/// Its kernel and initramfs.
const LINUX: (&str, &str) = ("vmlinuz", "initrd");
/// iPXE for BIOS, and for UEFI: the first that there is.
const IPXE: (&[&str], &[&str]) = (&["undionly.kpxe"], &["snponly.efi", "ipxe.efi"]);
/// The kernel's arguments where a script of iPXE starts it.
const ARGUMENTS: &str = "console=ttyS0,115200n8 console=tty0 panic=60 p2pinst.peer={peer}";

/// See the module.
#[derive(Debug)]
pub(super) struct Artefacts {
    directory: PathBuf,
    /// The scout whose files are there.
    here: Option<(ImageId, Image)>,
    not_before: Option<Instant>,
}

/// A scout whose files are to be fetched.
#[derive(Debug)]
pub(super) struct Wanted {
    id: ImageId,
    image: Image,
    /// Older ones, the newest first, where none is here.
    older: Vec<(ImageId, Image)>,
    directory: PathBuf,
}

/// Makes the directory of boot files, which everybody may read.
pub(super) fn make_directory(directory: &Path) -> Result<(), FileError> {
    fs::create_dir_all(directory).context("make the directory", directory)?;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory, open).context("open to all", directory)
}

impl Artefacts {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, here: None, not_before: None }
    }

    /// The newest scout that is published for this kind of machine, unless its files are here.
    pub(super) fn wanted(&self, views: &Views) -> Option<Wanted> {
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return None;
        }
        let scouts = views.images.iter().filter(|(_, p)| p.image.kind == ImageKind::Scout);
        let mut scouts: Vec<_> = scouts.collect();
        scouts.sort_by_key(|(id, p)| std::cmp::Reverse((p.hlc, **id)));
        let mut scouts = scouts.into_iter().map(|(id, p)| (*id, p.image.clone()));
        let (id, image) = scouts.next()?;
        let new = self.here.as_ref().is_none_or(|(here, _)| *here != id);
        let older = if self.here.is_none() { scouts.take(OLDER).collect() } else { Vec::new() };
        new.then(|| Wanted { id, image, older, directory: self.directory.clone() })
    }

    /// Whether the scout whose files are here was removed from the cluster since: they are given to nobody any more.
    pub(super) fn forget_removed(&mut self, views: &Views) {
        if self.here.as_ref().is_some_and(|(id, _)| !views.images.contains_key(id)) {
            self.here = None;
        }
    }

    /// A fetch has ended.
    pub(super) fn came(&mut self, done: Option<Result<Wanted, String>>) {
        match done {
            Some(Ok(wanted)) => {
                info!(scout = %wanted.image.name, "the files of the scout are here");
                self.here = Some((wanted.id, wanted.image));
                self.not_before = None;
            }
            Some(Err(reason)) => {
                warn!(%reason, "the scout's files are not to be had now");
                self.not_before = Some(Instant::now() + AGAIN);
            }
            None => {}
        }
    }

    fn has(&self, name: &str) -> Option<FileName> {
        let (_, image) = self.here.as_ref()?;
        image.files.contains_key(name).then(|| name.parse().ok()).flatten()
    }

    fn first(&self, names: &[&str]) -> Option<FileName> {
        names.iter().find_map(|name| self.has(name))
    }

    /// The files that the boot service gives away.
    pub(super) fn files(&self) -> impl Iterator<Item = FileName> {
        let names = self.here.iter().flat_map(|(_, image)| image.files.keys());
        names.filter_map(|name| name.parse().ok())
    }

    /// The blobs that these are.
    pub(super) fn roots(&self) -> impl Iterator<Item = Hash> {
        self.here.iter().flat_map(|(_, image)| image.files.values()).map(|blob| blob.root)
    }

    /// What each family of machines starts.
    pub(super) fn offered(&self) -> (Offered, BTreeMap<Family, Program>) {
        let (uki, kernel, initrd) = (self.has(UKI), self.has(LINUX.0), self.has(LINUX.1));
        let mut programs = BTreeMap::new();
        if let Some(file) = uki.clone() {
            programs.insert(Family::EfiX64, Program::Uki { file });
        }
        if let (Some(kernel), Some(initrd), Ok(arguments)) = (kernel, initrd, ARGUMENTS.parse()) {
            programs.insert(Family::Bios, Program::Linux { kernel, initrd, arguments });
        }
        let files = |family: Family, scout: Option<FileName>, ipxe: &[&str]| {
            let script = programs.contains_key(&family);
            (family, Files { scout, ipxe: self.first(ipxe), script })
        };
        let offered = [files(Family::Bios, None, IPXE.0), files(Family::EfiX64, uki, IPXE.1)];
        (Offered(offered.into()), programs)
    }
}

impl Wanted {
    /// Brings the files, and links them to their places. An older scout whose files lie there is better than none: the newest is
    /// wanted next.
    pub(super) async fn fetch(self, storage: Storage) -> Result<Self, String> {
        let stopping = |_| "the node is stopping".to_owned();
        // they may lie in their places, though the store has made room since, and nobody else is in reach
        let look = move || {
            let are_at = |image: &Image| {
                image.files.iter().all(|(name, blob)| is_at(&self.directory.join(name), blob))
            };
            if are_at(&self.image) {
                return (self, true);
            }
            match self.older.iter().position(|(_, image)| are_at(image)) {
                Some(older) => (self.instead(older), true),
                None => (self, false),
            }
        };
        let (this, here) = tokio::task::spawn_blocking(look).await.map_err(stopping)?;
        if here {
            return Ok(this);
        }
        for blob in this.image.files.values() {
            storage.get(*blob).await?;
        }
        tokio::task::spawn_blocking(move || this.link_all(&storage)).await.map_err(stopping)?
    }

    /// One of the older scouts.
    fn instead(mut self, older: usize) -> Self {
        let (id, image) = self.older.swap_remove(older);
        Self { id, image, older: Vec::new(), directory: self.directory }
    }

    fn link_all(self, storage: &Storage) -> Result<Self, String> {
        for (name, blob) in &self.image.files {
            let from = storage.blob_path(&blob.root);
            let from = from.ok_or_else(|| format!("{name} was removed again"))?;
            link(&from, &self.directory.join(name), blob).map_err(|e| e.to_string())?;
        }
        Ok(self)
    }
}

/// Whether a blob's content is at a place.
fn is_at(path: &Path, blob: &BlobRef) -> bool {
    let hash = |file: File| -> io::Result<bool> {
        if file.metadata()?.len() != blob.len() {
            return Ok(false);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        Ok(*hasher.finalize().as_bytes() == blob.root.0)
    };
    File::open(path).and_then(hash).unwrap_or(false)
}

/// Links a blob to a place, at once: whoever reads what was there goes on.
pub(super) fn link(from: &Path, to: &Path, blob: &BlobRef) -> Result<(), FileError> {
    let temp = to.with_file_name(format!(".{}.new", blob.root.short()));
    match fs::remove_file(&temp) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        removed => removed.context("remove", &temp)?,
    }
    // another filesystem: a copy
    if fs::hard_link(from, &temp).is_err() {
        fs::copy(from, &temp).context("copy", from)?;
    }
    let readable = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&temp, readable).context("open to all", &temp)?;
    fs::rename(&temp, to).context("rename", &temp)
}

#[cfg(test)]
mod tests {
    use p2pinst_types::Hash;

    use super::*;

    #[test]
    fn what_lies_in_its_place_is_known_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scout.efi");
        let blob = BlobRef::new(Hash::of(b"the scout"), 9).unwrap();
        assert!(!is_at(&path, &blob));
        for (content, is) in [("the scout", true), ("the scour", false), ("the", false)] {
            fs::write(&path, content).unwrap();
            assert_eq!(is_at(&path, &blob), is, "{content}");
        }
    }
}
