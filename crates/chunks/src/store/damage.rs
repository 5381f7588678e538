//! Blobs that the disk did not keep: their damaged pieces are given up, to be fetched again.

use std::fs;
use std::sync::Arc;

use p2pinst_files::{Access, Context, FileError, sync_dir};
use p2pinst_types::PieceIndex;

use super::data::Data;
use super::disk::{self, Kind};
use super::entry::{Entry, Partial, State, lock};
use super::pieces::is_damage;
use super::{Inner, LayerReadError};
use crate::bitmap::Bitmap;
use crate::layer::PieceLayer;

/// What a look at some pieces of a blob has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Bytes that were read.
    pub bytes: u64,
    /// The pieces that were damaged; they have been given up.
    pub damaged: Vec<PieceIndex>,
    /// Where to go on; `None`: that was the rest.
    pub next: Option<PieceIndex>,
}

/// Reads pieces back and says which of them are damaged.
pub(super) fn damaged(
    data: &Data,
    layer: &PieceLayer,
    pieces: impl Iterator<Item = PieceIndex>,
) -> std::io::Result<Vec<PieceIndex>> {
    let mut bad = Vec::new();
    let mut bytes = Vec::new();
    for piece in pieces {
        let range = layer.blob().range(piece).unwrap_or_default();
        bytes.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
        match data.read_exact_at(&mut bytes, range.start) {
            Ok(()) if layer.check_piece(piece, &bytes).is_ok() => {}
            Ok(()) => bad.push(piece),
            Err(e) if is_damage(&e) => bad.push(piece),
            Err(e) => return Err(e),
        }
    }
    Ok(bad)
}

impl Inner {
    /// Looks at the pieces from `from` on, as many as fit into `most` bytes but at least one, and
    /// makes the blob partial without the bad ones.
    pub(super) fn give_up_damaged(
        &self,
        entry: &Arc<Entry>,
        from: PieceIndex,
        most: u64,
    ) -> Result<Checked, LayerReadError> {
        let hot = self.hot(entry)?;
        let root = entry.blob.root;
        let _io = lock(&entry.io);
        let (have, kind) = match &*lock(&entry.state) {
            State::Partial(p) => (p.have.clone(), Kind::Part),
            State::Complete => (Bitmap::full(entry.blob.pieces()), Kind::Blob),
            State::Gone => return Err(LayerReadError::Unknown { root }),
        };
        let path = entry.target().map_or_else(|| self.file(kind, &root), |t| t.path.clone());
        // the open file outlives its name
        if !path.exists() {
            self.vanished(entry, &path);
            return Err(LayerReadError::Unknown { root });
        }
        let mut checked = Checked::default();
        let mut pieces = Vec::new();
        for piece in have.iter().filter(|p| *p >= from) {
            let len = entry.blob.range(piece).map_or(0, |r| r.end - r.start);
            if !pieces.is_empty() && checked.bytes.saturating_add(len) > most {
                checked.next = Some(piece);
                break;
            }
            checked.bytes = checked.bytes.saturating_add(len);
            pieces.push(piece);
        }
        let bad = damaged(&hot.data, &hot.layer, pieces.into_iter()).context("read", &path)?;
        if bad.is_empty() {
            return Ok(checked);
        }
        tracing::warn!(blob = %root, pieces = bad.len(), path = %path.display(),
            "The disk damaged pieces of a blob; they are fetched again.");
        self.without(entry, &bad, &hot.data)?;
        checked.damaged = bad;
        Ok(checked)
    }

    /// Called with the entry's `io` lock held.
    fn without(&self, entry: &Entry, bad: &[PieceIndex], data: &Data) -> Result<(), FileError> {
        let root = &entry.blob.root;
        entry.usage.set_damaged(true);
        let good = |map: &Bitmap| {
            let mut map = map.clone();
            for piece in bad {
                map.clear(*piece);
            }
            map
        };
        let (durable, complete) = match &mut *lock(&entry.state) {
            State::Partial(p) => {
                // from here on they are not served, whatever becomes of the files
                p.have = good(&p.have);
                p.durable = good(&p.durable);
                (p.durable.clone(), false)
            }
            State::Complete => (good(&Bitmap::full(entry.blob.pieces())), true),
            State::Gone => return Ok(()),
        };
        if entry.target().is_some() {
            if complete {
                *lock(&entry.state) = State::Partial(Partial::new(durable, true));
            }
            return Ok(());
        }
        // the record before the rename: beside a `.blob` it says nothing
        let record = disk::encode_have(root, &durable);
        p2pinst_files::write(&self.file(Kind::Have, root), &record, Access::Public)?;
        if complete {
            let (part, blob) = (self.file(Kind::Part, root), self.file(Kind::Blob, root));
            fs::rename(&blob, &part).context("rename", &blob)?;
            *lock(&entry.state) = State::Partial(Partial::new(durable, true));
            sync_dir(&self.dir)?;
        }
        data.set_len(entry.blob.len()).context("allocate", &self.file(Kind::Part, root))
    }
}
