//! Taking in a whole blob from this machine: one pass of reading, hashing and writing.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;

use p2pinst_files::{Access, Context, sync_dir};
use p2pinst_types::{BlobRef, limits};
use tempfile::NamedTempFile;

use super::disk::{self, Kind, TEMP_PREFIX};
use super::entry::{Entry, State, lock};
use super::{BlobStore, IngestError, Inner, NoSpace, RecipeStoreError, sparse};
use crate::layer::{LayerBuilder, LengthError, PieceLayer};
use crate::recipe::{Chunk, Cutter, Recipe, WORTH, is_compressed};
use crate::seekable;

/// Read at a time: long enough for blake3's vector code, short enough for any machine.
const BUFFER: usize = 256 << 10;

/// What is compressed says so in its first bytes.
const HEAD: usize = seekable::HEAD;
/// First bytes of zstd, which may have a table of its frames.
const ZSTD: [u8; 4] = *b"\x28\xb5\x2f\xfd";

/// Makes a recipe of what goes by.
#[derive(Debug)]
struct Cook {
    head: Vec<u8>,
    /// `None`: its frames are its chunks, if it has any.
    cutter: Option<Cutter>,
}

impl Default for Cook {
    fn default() -> Self {
        Self { head: Vec::new(), cutter: Some(Cutter::default()) }
    }
}

impl Cook {
    /// Takes the next bytes; whether a recipe is (still) of use.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.head.extend(bytes.iter().take(HEAD.saturating_sub(self.head.len())));
        if seekable::is_image(&self.head) || self.head.starts_with(&ZSTD) {
            self.cutter = None;
            return true;
        }
        let Some(cutter) = &mut self.cutter else { return true };
        cutter.push(bytes);
        !is_compressed(&self.head) && !cutter.is_too_many()
    }

    fn finish(self, frames: impl FnOnce() -> Option<Vec<Chunk>>) -> Option<Vec<Chunk>> {
        let many = self.cutter.as_ref().is_some_and(Cutter::is_too_many);
        let chunks = self.cutter.map_or_else(frames, |c| Some(c.finish()))?;
        (!many && chunks.len() <= limits::RECIPE_CHUNKS as usize).then_some(chunks)
    }
}

impl BlobStore {
    /// Takes in a blob of exactly `len` bytes. When it returns, the blob is complete and durable. A
    /// blob that is already here is read, hashed, and left as it is. Its recipe is made in the same pass,
    /// where one is of use; without room for that the blob has none.
    ///
    /// # Errors
    /// When the input is shorter or longer or cannot be read, or the disk is full or fails; then
    /// nothing is left behind and nothing that was there is lost.
    pub fn ingest(&self, reader: &mut dyn Read, len: u64) -> Result<BlobRef, IngestError> {
        let mut cook = (len >= WORTH).then(Cook::default);
        let blob = self.take_in(reader, len, &mut cook)?;
        if len >= WORTH && self.own_recipe(&blob.root).is_none() {
            match cook.and_then(|c| c.finish(|| self.frames(&blob))) {
                None => self.wants_no_recipe(&blob.root),
                Some(chunks) => {
                    let made = Recipe::new(&blob, chunks).map_err(RecipeStoreError::from);
                    if let Err(error) = made.and_then(|recipe| self.put_recipe(&recipe)) {
                        tracing::warn!(%error, blob = %blob.root.short(), "A blob has no recipe.");
                    }
                }
            }
        }
        Ok(blob)
    }

    /// The chunks of a blob that is here, of which this is the file; `None`: a recipe is of no use.
    pub(super) fn cook(
        &self,
        blob: &BlobRef,
        file: &mut File,
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<Option<Vec<Chunk>>> {
        let mut cook = Cook::default();
        let mut buffer = vec![0; BUFFER];
        loop {
            if !go_on() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "it was told to stop"));
            }
            let n = fill(file, &mut buffer)?;
            if n == 0 {
                return Ok(cook.finish(|| self.frames(blob)));
            }
            if !cook.push(buffer.get(..n).unwrap_or_default()) {
                return Ok(None);
            }
            if cook.cutter.is_none() {
                return Ok(self.frames(blob));
            }
        }
    }

    /// The frames of a compressed image that is here, if it is one.
    fn frames(&self, blob: &BlobRef) -> Option<Vec<Chunk>> {
        let file = File::open(self.path(&blob.root)?).ok()?;
        seekable::Reader::open(file).and_then(|image| image.chunks()).ok()
    }

    /// The same without a recipe.
    pub(super) fn ingest_plain(
        &self,
        reader: &mut dyn Read,
        len: u64,
    ) -> Result<BlobRef, IngestError> {
        self.take_in(reader, len, &mut None)
    }

    fn take_in(
        &self,
        reader: &mut dyn Read,
        len: u64,
        cook: &mut Option<Cook>,
    ) -> Result<BlobRef, IngestError> {
        let inner = &*self.inner;
        let dir = &inner.dir;
        let builder = LayerBuilder::new(len)?;
        let mut temp = tempfile::Builder::new()
            .prefix(TEMP_PREFIX)
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(dir)
            .context("create a file in", dir)?;
        disk::allocate(temp.as_file(), len, dir, temp.path())??;
        let layer = inner.copy(reader, &mut temp, (builder, cook), len)?;
        inner.publish(&layer, temp)?;
        Ok(*layer.blob())
    }
}

impl Inner {
    fn copy(
        &self,
        reader: &mut dyn Read,
        temp: &mut NamedTempFile,
        (mut builder, cook): (LayerBuilder, &mut Option<Cook>),
        len: u64,
    ) -> Result<PieceLayer, IngestError> {
        let mut buffer = vec![0; BUFFER];
        let mut seen = 0;
        loop {
            let n = fill(reader, &mut buffer).map_err(IngestError::Input)?;
            if n == 0 {
                break;
            }
            seen += n as u64;
            if seen > len {
                return Err(LengthError { expected: len, got: seen }.into());
            }
            let bytes = buffer.get(..n).unwrap_or_default();
            builder.update(bytes);
            if cook.as_mut().is_some_and(|c| !c.push(bytes)) {
                *cook = None;
            }
            match sparse::write_at(temp.as_file(), bytes, seen - n as u64) {
                Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                    let free = disk::free(&self.dir).unwrap_or(0);
                    let path = self.dir.clone();
                    return Err(NoSpace { path, needed: len - (seen - n as u64), free }.into());
                }
                done => done.context("write", temp.path())?,
            }
        }
        Ok(builder.finish()?)
    }

    /// Puts a whole blob in its place: layer, then data, then the name.
    fn publish(&self, layer: &PieceLayer, temp: NamedTempFile) -> Result<(), IngestError> {
        let root = &layer.blob().root;
        temp.as_file().sync_all().context("sync", temp.path())?;
        let _shape = lock(&self.shape);
        let old = self.entry(root);
        if old.as_ref().is_some_and(|e| e.is_complete() && e.blob == *layer.blob()) {
            return Ok(());
        }
        // a partial blob of this root has the same bytes to come, one that is cut otherwise has them
        // all: it gives way
        let _io = old.as_ref().map(|e| lock(&e.io));
        let path = self.file(Kind::Layer, root);
        p2pinst_files::write(&path, &disk::encode_layer(layer), Access::Public)?;
        let path = self.file(Kind::Blob, root);
        temp.persist(&path).map_err(|e| e.error).context("rename", &path)?;
        sync_dir(&self.dir)?;
        if let Some(old) = &old {
            *lock(&old.state) = State::Gone;
        }
        self.write_entries(|map| map.insert(*root, Entry::new(*layer.blob(), State::Complete)));
        for kind in [Kind::Have, Kind::Part] {
            disk::unlink(&self.file(kind, root))?;
        }
        Ok(())
    }
}

/// Reads until the buffer is full or there is no more: runs of zeros are found in whole buffers.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while let Some(rest) = buffer.get_mut(n..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Hashes a file whole: its piece layer; `None` when it changed meanwhile or is too long.
pub(super) fn hash_file(file: &mut File) -> io::Result<Option<PieceLayer>> {
    let Ok(mut builder) = LayerBuilder::new(file.metadata()?.len()) else { return Ok(None) };
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(builder.finish().ok()),
            n => builder.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

/// Whether this is something half-written that an earlier process left.
pub(super) fn is_temp(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_str().is_some_and(|n| n.starts_with(TEMP_PREFIX) || n.starts_with(".new-"))
}
