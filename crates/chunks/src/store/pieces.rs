//! Pieces in, pieces out, and making them durable.

use std::fs::{self, File};
use std::io;
use std::sync::{Arc, PoisonError};

use p2pinst_files::{Access, Context, FileError, sync_dir};
use p2pinst_types::{Hash, PieceIndex};

use super::damage::Checked;
use super::data::Data;
use super::disk::{self, Kind};
use super::entry::{Entry, State, lock};
use super::{BlobStore, Inner, PutError, ReadError, SyncError};

/// Bytes after which pieces are synced without being asked: what a crash may cost to fetch again.
pub const SYNC_BYTES: u64 = 256 << 20;

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is here now, and can be served.
    New,
    /// It was the last: the blob is complete and durable now.
    Completed,
    /// It was here already.
    Duplicate,
}

impl BlobStore {
    /// Verifies a piece, writes it, and from then on serves it. The last piece makes the blob
    /// complete and durable.
    ///
    /// # Errors
    /// When the blob was not begun, the bytes are not that piece, or cannot be written.
    pub fn put_piece(&self, root: &Hash, piece: PieceIndex, bytes: &[u8]) -> Result<Put, PutError> {
        let unknown = PutError::Unknown { root: *root };
        let Some(entry) = self.inner.entry(root) else { return Err(unknown) };
        let hot = self.inner.hot(&entry)?;
        hot.layer.check_piece(piece, bytes)?;
        match entry.has(piece) {
            Some(false) => {}
            Some(true) => return Ok(Put::Duplicate),
            None => return Err(unknown),
        }
        self.inner.note_use(&entry);
        let start = entry.blob.range(piece).map_or(0, |r| r.start);
        let path = self.inner.place(&entry);
        let verified = |data: &Data| data.write_sparse_at(bytes, start).context("write", &path);
        self.inner.count(&entry, &hot.data, (piece, bytes.len()), verified)
    }

    /// Reads a piece into `out` (its old content goes) and verifies it. Partial blobs give what they
    /// have.
    ///
    /// # Errors
    /// When the piece is not here, cannot be read, or was damaged on disk: then the blob has been
    /// made partial, without its damaged pieces. `out` is empty after an error.
    pub fn read_piece(
        &self,
        root: &Hash,
        piece: PieceIndex,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        out.clear();
        let unknown = ReadError::Unknown { root: *root };
        let Some(entry) = self.inner.entry(root) else { return Err(unknown) };
        match entry.has(piece) {
            Some(true) => {}
            Some(false) => return Err(ReadError::Missing { root: *root, piece }),
            None => return Err(unknown),
        }
        self.inner.note_use(&entry);
        self.inner.read_checked(&entry, piece, out).inspect_err(|_| out.clear())
    }

    /// Reads bytes of a piece, from its byte `at` on, as many as `out` has room for. They are not verified:
    /// for who has read the whole piece before and goes on with the rest. Of a blob that is removed meanwhile nothing is given: its disk
    /// may have something else by now.
    ///
    /// # Errors
    /// When the piece is not here, is not that long, or cannot be read.
    pub fn read_part(
        &self,
        root: &Hash,
        piece: PieceIndex,
        at: u64,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        let unknown = ReadError::Unknown { root: *root };
        let Some(entry) = self.inner.entry(root) else { return Err(unknown) };
        let range = entry.blob.range(piece).unwrap_or_default();
        let end = at.saturating_add(out.len() as u64);
        if entry.has(piece) != Some(true) || end > range.end - range.start {
            return Err(ReadError::Missing { root: *root, piece });
        }
        let path = self.inner.place(&entry);
        let hot = self.inner.hot(&entry)?;
        hot.data.read_exact_at(out, range.start + at).context("read", &path)?;
        if entry.has(piece) == Some(true) {
            return Ok(());
        }
        out.fill(0);
        Err(ReadError::Missing { root: *root, piece })
    }

    /// Reads a whole blob back and gives up its damaged pieces; which those were.
    ///
    /// # Errors
    /// When the blob is not here, or its files cannot be used at all.
    pub fn check(&self, root: &Hash) -> Result<Vec<PieceIndex>, ReadError> {
        let entry = self.inner.entry(root).ok_or(ReadError::Unknown { root: *root })?;
        Ok(self.inner.give_up_damaged(&entry, PieceIndex(0), u64::MAX)?.damaged)
    }

    /// Reads pieces of a blob back, from one on and about so many bytes of them, and gives up those
    /// that are damaged. A blob that is looked at in steps can be used in between.
    ///
    /// # Errors
    /// When the blob is not here, or its files cannot be used at all.
    pub fn check_some(
        &self,
        root: &Hash,
        from: PieceIndex,
        most: u64,
    ) -> Result<Checked, ReadError> {
        let entry = self.inner.entry(root).ok_or(ReadError::Unknown { root: *root })?;
        Ok(self.inner.give_up_damaged(&entry, from, most)?)
    }

    /// Makes all pieces of a blob that are here durable: they survive a crash from now on. Call it
    /// about once a second while a blob is being fetched; without new pieces it costs nothing.
    ///
    /// # Errors
    /// When the blob is not here or the disk fails; pieces that are not durable are then given up.
    pub fn sync(&self, root: &Hash) -> Result<(), SyncError> {
        let entry = self.inner.entry(root).ok_or(SyncError::Unknown { root: *root })?;
        let idle = match &*lock(&entry.state) {
            State::Partial(p) => p.have == p.durable && !p.have.is_full(),
            State::Complete | State::Gone => true,
        };
        if idle {
            return Ok(());
        }
        let path = self.inner.file(Kind::Part, root);
        let data = match (entry.hot(), entry.target()) {
            (Some(hot), _) => hot.data,
            (None, Some(target)) => Data::Target(target),
            (None, None) => Data::File(Arc::new(File::open(&path).context("open", &path)?)),
        };
        Ok(self.inner.sync(&entry, &data)?)
    }
}

impl Inner {
    /// Writes verified bytes of a piece, and counts it from then on.
    pub(super) fn count(
        &self,
        entry: &Arc<Entry>,
        data: &Data,
        (piece, len): (PieceIndex, usize),
        write: impl FnOnce(&Data) -> Result<(), FileError>,
    ) -> Result<Put, PutError> {
        let (new, full, due) = {
            let _writing = entry.writing.read().unwrap_or_else(PoisonError::into_inner);
            if matches!(*lock(&entry.state), State::Gone) {
                return Err(PutError::Unknown { root: entry.blob.root });
            }
            write(data)?;
            match &mut *lock(&entry.state) {
                State::Partial(p) => {
                    let new = p.have.set(piece);
                    p.unsynced += len as u64;
                    (new, p.have.is_full(), p.unsynced >= SYNC_BYTES)
                }
                State::Complete => return Ok(Put::Duplicate),
                State::Gone => return Err(PutError::Unknown { root: entry.blob.root }),
            }
        };
        if new && (full || due) {
            self.sync(entry, data)?;
        }
        Ok(match (new, full) {
            (false, _) => Put::Duplicate,
            (true, true) => Put::Completed,
            (true, false) => Put::New,
        })
    }

    /// Data first, then the record that names it; the rename last. Every crash in between leaves a
    /// record that names only pieces on the disk.
    fn sync(&self, entry: &Entry, data: &Data) -> Result<(), FileError> {
        let root = &entry.blob.root;
        let _io = lock(&entry.io);
        let (have, layer_synced, unsynced) = match &*lock(&entry.state) {
            State::Partial(p) => (p.have.clone(), p.layer_synced, p.unsynced),
            State::Complete | State::Gone => return Ok(()),
        };
        let written = self.write_out(entry, data, layer_synced);
        let recorded = written.is_ok().then(|| {
            if entry.target().is_some() {
                return Ok(()); // the disk is its own record
            }
            if have.is_full() {
                return self.rename_complete(root);
            }
            let record = disk::encode_have(root, &have);
            p2pinst_files::write(&self.file(Kind::Have, root), &record, Access::Public)
        });
        let mut state = lock(&entry.state);
        let State::Partial(p) = &mut *state else { return written.and(recorded.unwrap_or(Ok(()))) };
        if let Err(error) = written {
            // after a failed fsync the kernel may have dropped the pages: only the record counts
            p.have = p.durable.clone();
            p.unsynced = 0;
            return Err(error);
        }
        p.layer_synced = true;
        // the pieces are on the disk: where only the record did not fit, a crash alone loses them
        recorded.unwrap_or(Ok(()))?;
        p.unsynced = p.unsynced.saturating_sub(unsynced);
        if have.is_full() {
            *state = State::Complete;
            entry.usage.set_damaged(false);
        } else {
            p.durable = have;
        }
        Ok(())
    }

    fn write_out(&self, entry: &Entry, data: &Data, layer_synced: bool) -> Result<(), FileError> {
        let root = &entry.blob.root;
        data.sync_data().context("sync", &self.place(entry))?;
        if !layer_synced {
            let path = self.file(Kind::Layer, root);
            File::open(&path).and_then(|f| f.sync_all()).context("sync", &path)?;
        }
        Ok(())
    }

    fn rename_complete(&self, root: &Hash) -> Result<(), FileError> {
        let (part, blob) = (self.file(Kind::Part, root), self.file(Kind::Blob, root));
        fs::rename(&part, &blob).context("rename", &part)?;
        if let Err(error) = sync_dir(&self.dir) {
            return fs::rename(&blob, &part).context("rename", &blob).and(Err(error));
        }
        // beside a complete blob the record says nothing: one that stays goes at the next opening
        disk::unlink(&self.file(Kind::Have, root)).map(drop).or(Ok(()))
    }

    fn read_checked(
        &self,
        entry: &Arc<Entry>,
        piece: PieceIndex,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let hot = self.hot(entry)?;
        let range = entry.blob.range(piece).unwrap_or_default();
        out.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
        let path = self.place(entry);
        match hot.data.read_exact_at(out, range.start) {
            Ok(()) if hot.layer.check_piece(piece, out).is_ok() => return Ok(()),
            Ok(()) => {}
            Err(e) if is_damage(&e) => {}
            Err(e) => return Err(e).context("read", &path)?,
        }
        // a disk that damaged one piece may have damaged others: one pass over the blob, rare
        self.give_up_damaged(entry, PieceIndex(0), u64::MAX)?;
        Err(ReadError::Damaged { root: entry.blob.root, piece, path })
    }
}

/// Whether a failed read means that the bytes are lost, and not that the attempt was unlucky.
pub(super) fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
