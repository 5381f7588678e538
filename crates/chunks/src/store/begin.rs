//! Beginning a partial blob.

use std::fs::{self, OpenOptions};

use p2pinst_files::{Context, sync_dir};

use super::disk::{self, Kind};
use super::entry::{Entry, Partial, State, lock};
use super::{BeginError, BlobStore, Inner};
use crate::bitmap::Bitmap;
use crate::layer::PieceLayer;

impl BlobStore {
    /// Begins to fetch the blob of a verified layer: its room on the disk is taken at once. Does
    /// nothing when the blob is already here, complete or in part.
    ///
    /// # Errors
    /// When the disk is full, a file cannot be written, or the same bytes are here in other pieces.
    pub fn begin(&self, layer: &PieceLayer) -> Result<(), BeginError> {
        let inner = &*self.inner;
        let (blob, root) = (*layer.blob(), layer.blob().root);
        let _shape = lock(&inner.shape);
        if let Some(entry) = inner.entry(&root) {
            let same = entry.blob == blob;
            return if same { Ok(()) } else { Err(BeginError::OtherShape { root }) };
        }
        let aim = lock(&inner.aims).get(&root).cloned();
        let target = aim.map(|path| super::target::open(&path, blob.len())).transpose()?;
        if let Err(error) = inner.make_partial(layer, target.is_none()) {
            // what is left is tidied up when the store is next opened, at the latest
            inner.unlink_all(&root).unwrap_or_else(|e| tracing::debug!(%e, "Not tidied up yet."));
            return Err(error);
        }
        let partial = Partial::new(Bitmap::new(blob.pieces()), false);
        inner.write_entries(|map| {
            map.insert(root, Entry::on(blob, State::Partial(partial), target))
        });
        Ok(())
    }
}

impl Inner {
    /// Nothing is synced yet: that comes with the first sync of pieces, and until then a crash that
    /// loses or tears these files loses nothing.
    fn make_partial(&self, layer: &PieceLayer, in_store: bool) -> Result<(), BeginError> {
        let root = layer.blob().root;
        if disk::unlink(&self.file(Kind::Have, &root))? {
            sync_dir(&self.dir)?;
        }
        let path = self.file(Kind::Layer, &root);
        fs::write(&path, disk::encode_layer(layer)).context("write", &path)?;
        if !in_store {
            return Ok(());
        }
        let path = self.file(Kind::Part, &root);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .context("create", &path)?;
        disk::allocate(&file, layer.blob().len(), &self.dir, &path)??;
        Ok(())
    }
}
