//! Pieces of which a part is known here: that part is put into its place unverified, and counts when the rest
//! has come and the whole verifies.

use std::ops::Range;
use std::sync::PoisonError;

use p2pinst_files::Context;
use p2pinst_types::{Hash, PieceIndex};

use super::data::Data;
use super::{BlobStore, Put, PutError};

/// The bytes of `whole` that are not in `missing`, as ranges of it.
fn others(missing: &[Range<u32>], len: usize) -> Vec<Range<usize>> {
    let (mut out, mut at) = (Vec::new(), 0);
    for range in missing {
        out.push(at..(range.start as usize).min(len));
        at = (range.end as usize).min(len);
    }
    out.push(at..len);
    out.retain(|r| !r.is_empty());
    out
}

impl BlobStore {
    /// Puts bytes that may be those of a piece into their place, but for the `missing` ranges of it. They
    /// do not count. A piece that is here is left alone.
    ///
    /// # Errors
    /// When the blob was not begun, or the bytes cannot be written.
    pub fn put_unverified(
        &self,
        root: &Hash,
        piece: PieceIndex,
        bytes: &[u8],
        missing: &[Range<u32>],
    ) -> Result<(), PutError> {
        let unknown = || PutError::Unknown { root: *root };
        let entry = self.inner.entry(root).ok_or_else(unknown)?;
        let data = self.inner.hot(&entry)?.data;
        let start = entry.blob.range(piece).map_or(0, |r| r.start);
        let path = self.inner.place(&entry);
        // nobody may write verified bytes there between the look and the write
        let _writing = entry.writing.write().unwrap_or_else(PoisonError::into_inner);
        if entry.has(piece).ok_or_else(unknown)? {
            return Ok(());
        }
        for range in others(missing, bytes.len()) {
            let part = bytes.get(range.clone()).unwrap_or_default();
            // no holes on the word of a recipe: the room stays reserved
            data.write_all_at(part, start + range.start as u64).context("write", &path)?;
        }
        Ok(())
    }

    /// Puts what was missing of a piece (see [`BlobStore::put_unverified`]) beside what is there of it,
    /// and if the whole verifies, it counts: like [`BlobStore::put_piece`].
    ///
    /// # Errors
    /// When the blob was not begun, the whole is not that piece, or it cannot be read or written.
    pub fn put_parts(
        &self,
        root: &Hash,
        piece: PieceIndex,
        parts: &[(u32, &[u8])],
    ) -> Result<Put, PutError> {
        let unknown = || PutError::Unknown { root: *root };
        let entry = self.inner.entry(root).ok_or_else(unknown)?;
        let hot = self.inner.hot(&entry)?;
        let range = entry.blob.range(piece).unwrap_or_default();
        let path = self.inner.place(&entry);
        if entry.has(piece).ok_or_else(unknown)? {
            return Ok(Put::Duplicate);
        }
        let mut whole = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
        hot.data.read_exact_at(&mut whole, range.start).context("read", &path)?;
        for (at, bytes) in parts {
            let at = *at as usize;
            if let Some(place) = whole.get_mut(at..at.saturating_add(bytes.len())) {
                place.copy_from_slice(bytes);
            }
        }
        hot.layer.check_piece(piece, &whole)?;
        self.inner.note_use(&entry);
        // all of it: what was read may have been written to since
        let write = |d: &Data| d.write_sparse_at(&whole, range.start).context("write", &path);
        self.inner.count(&entry, &hot.data, (piece, whole.len()), write)
    }
}
