//! Repositories of packages: each fetched from the swarm, file by file, and laid out where the boot service sees it.
//!
//! A version is in a directory of its own, which gets its name when all is in it: what the service is told of is whole. It is
//! told of the newest version of each name; those that it was told of before go a while later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dht_store::Views;
use p2pinst_boot::repository::{DIRECTORY, INDEX_MAX, Index, directory};
use p2pinst_files::{Context, FileError};
use p2pinst_types::record::ImageKind;
use p2pinst_types::{BlobRef, Hash, ImageId, Name, NodeId};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;
use tracing::{info, warn};

use super::artefacts::{AGAIN, link, make_directory};
use crate::storage::Storage;

/// Files that are fetched at once: small ones wait for answers, not for the line.
const AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Mirrors {
    /// The directory of boot files.
    top: PathBuf,
    here: BTreeMap<Name, Here>,
    /// The one that was tried last: the next time it is another's turn.
    last: Option<Name>,
    not_before: Option<Instant>,
    /// Whether there may be directories that nobody is told of.
    stale: bool,
}

/// A repository that is whole.
#[derive(Debug)]
struct Here {
    id: ImageId,
    roots: BTreeSet<Hash>,
}

/// A repository that is to be fetched.
#[derive(Debug)]
pub(super) struct Wanted {
    name: Name,
    id: ImageId,
    index: BlobRef,
    top: PathBuf,
}

/// How that went.
#[derive(Debug)]
pub(super) struct Came {
    name: Name,
    id: ImageId,
    roots: Result<BTreeSet<Hash>, String>,
}

impl Mirrors {
    pub(super) fn new(top: &Path) -> Self {
        let (top, here) = (top.to_owned(), BTreeMap::new());
        Self { top, here, last: None, not_before: None, stale: true }
    }

    /// A repository of which the newest version is not here; each in its turn.
    pub(super) fn wanted(&mut self, views: &Views) -> Option<Wanted> {
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return None;
        }
        let missing: BTreeMap<&Name, (ImageId, BlobRef)> = newest(views)
            .filter(|(name, id, _)| self.here.get(*name).is_none_or(|here| here.id != *id))
            .map(|(name, id, index)| (name, (id, index)))
            .collect();
        let later = |(name, _): &(&&Name, &_)| self.last.as_ref().is_none_or(|last| **name > last);
        let next = missing.iter().find(later).or_else(|| missing.first_key_value())?;
        let (name, (id, index)) = ((*next.0).clone(), *next.1);
        self.last = Some(name.clone());
        Some(Wanted { name, id, index, top: self.top.clone() })
    }

    /// A fetch has ended.
    pub(super) fn came(&mut self, done: Option<Came>) {
        let Some(Came { name, id, roots }) = done else { return };
        match roots {
            Ok(roots) => {
                info!(repository = %name, files = roots.len(), "a repository is here");
                self.stale |= self.here.insert(name, Here { id, roots }).is_some();
                self.not_before = None;
            }
            Err(reason) => {
                warn!(repository = %name, %reason, "a repository is not to be had now");
                self.not_before = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// Forgets repositories whose names are something else by now.
    pub(super) fn forget(&mut self, views: &Views) {
        let names: BTreeSet<&Name> = newest(views).map(|(name, ..)| name).collect();
        let before = self.here.len();
        self.here.retain(|name, _| names.contains(name));
        self.stale |= self.here.len() < before;
    }

    /// What the service gives away.
    pub(super) fn offered(&self) -> BTreeMap<Name, ImageId> {
        self.here.iter().map(|(name, here)| (name.clone(), here.id)).collect()
    }

    /// The blobs that these are.
    pub(super) fn roots(&self) -> impl Iterator<Item = Hash> {
        self.here.values().flat_map(|here| &here.roots).copied()
    }

    /// Removes directories that nobody is told of, where there may be any.
    pub(super) fn sweep(&mut self) -> Option<impl FnOnce() + use<>> {
        let kept: BTreeSet<String> = self.here.values().map(|h| h.id.0.to_string()).collect();
        let top = self.top.join(DIRECTORY);
        std::mem::take(&mut self.stale).then_some(move || sweep(&top, &kept))
    }
}

/// The repositories that are published: name, version, index.
fn newest(views: &Views) -> impl Iterator<Item = (&Name, ImageId, BlobRef)> {
    let repositories = views.images.iter().filter(|(_, p)| p.image.kind == ImageKind::Repository);
    repositories.filter_map(|(id, published)| {
        let name = &published.image.name;
        let (newest, _) = views.image_named(name)?;
        let index = published.image.files.values().next()?;
        (newest == id).then_some((name, *id, *index))
    })
}

fn sweep(top: &Path, kept: &BTreeSet<String>) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| kept.contains(name))
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            warn!(path = %entry.path().display(), %error, "cannot remove an old repository");
        }
    }
}

impl Wanted {
    /// Brings the files, and lays them out.
    pub(super) async fn fetch(self, storage: Storage) -> Came {
        let (name, id) = (self.name.clone(), self.id);
        Came { name, id, roots: self.bring(storage).await }
    }

    async fn bring(self, storage: Storage) -> Result<BTreeSet<Hash>, String> {
        if self.index.len() > INDEX_MAX {
            return Err(format!("its index has {} bytes", self.index.len()));
        }
        storage.get(self.index).await?;
        let index = self.read_index(&storage)?;
        // who has the index has the rest, or has it soon
        let from = storage.providers(self.index.root).await;
        fetch_all(&storage, &index, &from).await?;
        let mut roots: BTreeSet<Hash> = index.blobs().map(|blob| blob.root).collect();
        roots.insert(self.index.root);
        let laid = spawn_blocking(move || self.lay_out(&storage, &index)).await;
        laid.map_err(|_| "the node is stopping".to_owned())??;
        Ok(roots)
    }

    fn read_index(&self, storage: &Storage) -> Result<Index, String> {
        let path = storage.blob_path(&self.index.root).ok_or("its index was removed again")?;
        let bytes = p2pinst_files::read(&path, INDEX_MAX).map_err(|e| e.to_string())?;
        Index::decode(&bytes).map_err(|e| e.to_string())
    }

    /// Blocking.
    fn lay_out(&self, storage: &Storage, index: &Index) -> Result<(), String> {
        let to = self.top.join(directory(&self.id));
        if to.is_dir() {
            // it got its name when all was in it
            return Ok(());
        }
        let words = |error: FileError| error.to_string();
        let new = to.with_extension("new");
        match fs::remove_dir_all(&new) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            removed => removed.context("remove", &new).map_err(words)?,
        }
        make_directory(&self.top.join(DIRECTORY)).map_err(words)?;
        make_directory(&new).map_err(words)?;
        for (path, blob) in index.files() {
            let file = new.join(path.as_str());
            let above = file.ancestors().skip(1).take_while(|dir| *dir != new);
            let above: Vec<&Path> = above.collect();
            for dir in above.into_iter().rev() {
                make_directory(dir).map_err(words)?;
            }
            match blob {
                Some(blob) => {
                    let from = storage.blob_path(&blob.root);
                    let from = from.ok_or_else(|| format!("{path} was removed again"))?;
                    link(&from, &file, blob).map_err(words)?;
                }
                None => fs::write(&file, []).context("write", &file).map_err(words)?,
            }
        }
        fs::rename(&new, &to).context("rename", &new).map_err(words)
    }
}

/// Brings all files that are not here.
async fn fetch_all(storage: &Storage, index: &Index, from: &[NodeId]) -> Result<(), String> {
    let mut missing: Vec<BlobRef> =
        index.blobs().filter(|blob| storage.blob_path(&blob.root).is_none()).collect();
    missing.sort_by_key(|blob| blob.root);
    missing.dedup_by_key(|blob| blob.root);
    let mut fetches = JoinSet::new();
    let mut left = missing.into_iter();
    loop {
        while fetches.len() < AT_ONCE
            && let Some(blob) = left.next()
        {
            let (storage, from) = (storage.clone(), from.to_vec());
            fetches.spawn(async move { storage.get_from(blob, from).await });
        }
        match fetches.join_next().await {
            Some(Ok(fetched)) => fetched?,
            Some(Err(_)) => return Err("the node is stopping".to_owned()),
            None => return Ok(()),
        }
    }
}
