//! Opening the store: which blobs there are, after whatever happened.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use p2pinst_files::{Access, Context, FileError, sync_dir};
use p2pinst_types::Hash;

use super::damage::damaged;
use super::data::Data;
use super::disk::{self, Kind};
use super::entry::{Entry, Partial, State};
use super::ingest::{hash_file, is_temp};
use super::recipes::{self, Recipes};
use crate::layer::PieceLayer;

/// The kinds of file found for one root.
#[derive(Debug, Default)]
struct Found {
    blob: bool,
    part: bool,
    have: bool,
    recipe: bool,
}

/// Reads the directory and tidies it up.
pub(super) fn scan(dir: &Path) -> Result<(BTreeMap<Hash, Arc<Entry>>, Recipes), FileError> {
    let mut found: BTreeMap<Hash, Found> = BTreeMap::new();
    for item in fs::read_dir(dir).context("list", dir)? {
        let item = item.context("list", dir)?;
        if is_temp(&item) {
            disk::unlink(&item.path())?;
            continue;
        }
        let name = item.file_name();
        let Some((root, kind)) = name.to_str().and_then(Kind::parse) else { continue };
        let files = found.entry(root).or_default();
        match kind {
            Kind::Blob => files.blob = true,
            Kind::Part => files.part = true,
            Kind::Have => files.have = true,
            Kind::Recipe => files.recipe = true,
            Kind::Layer => {}
        }
    }
    let named: Vec<Hash> = found.iter().filter(|(_, f)| f.recipe).map(|(root, _)| *root).collect();
    let mut entries = BTreeMap::new();
    for (root, files) in found {
        let entry = if files.blob {
            complete(dir, &root, &files)?
        } else if files.part {
            partial(dir, &root)?
        } else {
            None
        };
        match entry {
            Some(entry) => {
                entry.usage.recall(&Kind::Layer.path(dir, &root));
                entries.insert(root, entry);
            }
            None => forget(dir, &root)?,
        }
    }
    let recipes = recipes::recall(dir, &named, |root| entries.contains_key(root))?;
    Ok((entries, recipes))
}

/// Removes the files of a blob of which nothing can be used; the record of pieces first.
fn forget(dir: &Path, root: &Hash) -> Result<(), FileError> {
    if disk::unlink(&Kind::Have.path(dir, root))? {
        sync_dir(dir)?;
    }
    for kind in [Kind::Part, Kind::Blob, Kind::Layer, Kind::Recipe] {
        disk::unlink(&kind.path(dir, root))?;
    }
    sync_dir(dir)
}

fn complete(dir: &Path, root: &Hash, files: &Found) -> Result<Option<Arc<Entry>>, FileError> {
    // beside a complete blob they are what a crash left of its completion
    for (kind, there) in [(Kind::Have, files.have), (Kind::Part, files.part)] {
        if there {
            disk::unlink(&kind.path(dir, root))?;
        }
    }
    let path = Kind::Blob.path(dir, root);
    let len = fs::metadata(&path).context("read", &path)?.len();
    let blob = match header(dir, root)? {
        Some(blob) if blob.len() == len => blob,
        Some(blob) => {
            let Ok(layer) = disk::read_layer(dir, blob)? else { return Ok(None) };
            return salvage(dir, &layer).map(Some);
        }
        None => match rebuild_layer(dir, root)? {
            Some(layer) => *layer.blob(),
            None => {
                tracing::warn!(path = %path.display(), "A blob is damaged beyond use and is removed.");
                return Ok(None);
            }
        },
    };
    Ok(Some(Entry::new(blob, State::Complete)))
}

fn header(dir: &Path, root: &Hash) -> Result<Option<p2pinst_types::BlobRef>, FileError> {
    match disk::read_layer_header(dir, root) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

/// A complete blob whose file has the wrong length: what is good of it becomes a partial blob.
fn salvage(dir: &Path, layer: &PieceLayer) -> Result<Arc<Entry>, FileError> {
    let (blob, root) = (*layer.blob(), &layer.blob().root);
    let (path, part) = (Kind::Blob.path(dir, root), Kind::Part.path(dir, root));
    tracing::warn!(path = %path.display(), "A blob has lost bytes; they are fetched again.");
    let file = File::options().read(true).write(true).open(&path).context("open", &path)?;
    let file = Arc::new(file);
    let mut good = crate::bitmap::Bitmap::full(blob.pieces());
    for piece in
        damaged(&Data::File(Arc::clone(&file)), layer, blob.indices()).context("read", &path)?
    {
        good.clear(piece);
    }
    file.set_len(blob.len()).context("allocate", &path)?;
    file.sync_all().context("sync", &path)?;
    let record = disk::encode_have(root, &good);
    p2pinst_files::write(&Kind::Have.path(dir, root), &record, Access::Public)?;
    fs::rename(&path, &part).context("rename", &path)?;
    sync_dir(dir)?;
    let entry = Entry::new(blob, State::Partial(Partial::new(good, true)));
    entry.usage.set_damaged(true);
    Ok(entry)
}

fn partial(dir: &Path, root: &Hash) -> Result<Option<Arc<Entry>>, FileError> {
    let Some(blob) = header(dir, root)? else { return Ok(None) };
    let path = Kind::Part.path(dir, root);
    let len = fs::metadata(&path).context("read", &path)?.len();
    if len != blob.len() || disk::read_layer(dir, blob)?.is_err() {
        return Ok(None);
    }
    let have = disk::read_have(dir, &blob)?;
    if !have.is_full() {
        return Ok(Some(Entry::new(blob, State::Partial(Partial::new(have, false)))));
    }
    let done = Kind::Blob.path(dir, root);
    fs::rename(&path, &done).context("rename", &path)?;
    sync_dir(dir)?;
    disk::unlink(&Kind::Have.path(dir, root))?;
    Ok(Some(Entry::new(blob, State::Complete)))
}

/// Makes the layer of a complete blob anew when its own was damaged; `None` when the file is not
/// that blob either.
pub(super) fn rebuild_layer(dir: &Path, root: &Hash) -> Result<Option<PieceLayer>, FileError> {
    let path = Kind::Blob.path(dir, root);
    let layer = File::open(&path).and_then(|mut f| hash_file(&mut f)).context("read", &path)?;
    let Some(layer) = layer.filter(|l| l.blob().root == *root) else { return Ok(None) };
    let bytes = disk::encode_layer(&layer);
    p2pinst_files::write(&Kind::Layer.path(dir, root), &bytes, Access::Public)?;
    Ok(Some(layer))
}
