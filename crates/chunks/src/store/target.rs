//! Blobs that are written straight onto a disk, and served from it meanwhile.
//!
//! Nothing of such a blob is in the store's directory but its layer; it is forgotten when the store is opened anew, and what
//! of it is on the disk is found again by reading ([`BlobStore::take_over`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2pinst_files::{Context, FileError};
use p2pinst_types::{Hash, PieceIndex};

use super::data::{Data, HELD_BACK, Target};
use super::entry::{Entry, lock};
use super::{BeginError, BlobStore, PutError, SyncError};
use crate::recipe::leading_zeros;

/// Pieces, spread over a disk, that are looked at before all of it is read.
const SAMPLE: u32 = 64;

impl BlobStore {
    /// From now on a blob belongs onto a disk, a partition, or a file of at least its length: what is there stays until
    /// pieces of the blob take its place. Nothing is done yet.
    ///
    /// # Errors
    /// When the blob is here already, complete or in part.
    pub fn aim(&self, root: Hash, path: PathBuf) -> Result<(), BeginError> {
        let _shape = lock(&self.inner.shape);
        if let Some(entry) = self.inner.entry(&root) {
            let same = entry.target().is_some_and(|t| t.path == path);
            return if same { Ok(()) } else { Err(BeginError::Elsewhere { root }) };
        }
        lock(&self.inner.aims).insert(root, path);
        Ok(())
    }

    /// The disk that a blob is written onto, if it was begun there.
    #[must_use]
    pub fn target(&self, root: &Hash) -> Option<PathBuf> {
        Some(self.inner.entry(root)?.target()?.path.clone())
    }

    /// Counts the pieces of a blob that are on its disk already: of an earlier version, or of an attempt that was cut off. The
    /// disk is read where a sample gives hope. Says how many bytes there were.
    ///
    /// # Errors
    /// When the blob was not begun, belongs onto no disk, or the disk fails.
    pub fn take_over(&self, root: &Hash, go_on: &mut dyn FnMut() -> bool) -> Result<u64, PutError> {
        let unknown = || PutError::Unknown { root: *root };
        let entry = self.inner.entry(root).ok_or_else(unknown)?;
        let target = entry.target().ok_or_else(unknown)?;
        let held = u32::try_from(HELD_BACK.div_ceil(entry.blob.piece_len())).unwrap_or(u32::MAX);
        let all = held..entry.blob.pieces();
        let step = (all.len() / SAMPLE as usize).max(1);
        let (mut found, mut hope) = (0, false);
        for piece in all.clone().step_by(step) {
            let (bytes, zero) = self.take_over_piece(&entry, &target, PieceIndex(piece))?;
            found += bytes;
            hope |= bytes > 0 && !zero;
        }
        // the zeros of a blank disk promise nothing
        if !hope {
            return Ok(found);
        }
        for piece in all.map(PieceIndex) {
            if !go_on() {
                break;
            }
            if entry.has(piece) == Some(false) {
                found += self.take_over_piece(&entry, &target, piece)?.0;
            }
        }
        Ok(found)
    }

    /// How many bytes count, and whether they are zeros.
    fn take_over_piece(
        &self,
        entry: &Arc<Entry>,
        target: &Arc<Target>,
        piece: PieceIndex,
    ) -> Result<(u64, bool), PutError> {
        let hot = self.inner.hot(entry)?;
        let range = entry.blob.range(piece).unwrap_or_default();
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
        // what cannot be read is not there
        let read = Data::Target(Arc::clone(target)).read_exact_at(&mut bytes, range.start);
        if read.is_err() || hot.layer.check_piece(piece, &bytes).is_err() {
            return Ok((0, false));
        }
        self.inner.count(entry, &hot.data, (piece, bytes.len()), |_| Ok(()))?;
        Ok((bytes.len() as u64, leading_zeros(&bytes) == bytes.len()))
    }

    /// Writes what was held back: this disk is what the blob is. Durable when it returns.
    ///
    /// # Errors
    /// When the blob is not complete, belongs elsewhere, or the disk fails.
    pub fn finish_target(&self, root: &Hash, path: &Path) -> Result<(), SyncError> {
        let target = self.whole(root, path)?;
        Ok(target.finish().context("finish", path)?)
    }

    /// What was held back, for who writes it: of a blob that is complete and belongs onto this disk.
    ///
    /// # Errors
    /// When it is not complete, or belongs elsewhere.
    pub fn held_back(&self, root: &Hash, path: &Path) -> Result<Vec<u8>, SyncError> {
        Ok(self.whole(root, path)?.held_back())
    }

    /// The disk of a blob that is complete, if it is this one.
    fn whole(&self, root: &Hash, path: &Path) -> Result<Arc<Target>, SyncError> {
        let unknown = || SyncError::Unknown { root: *root };
        let entry = self.inner.entry(root).ok_or_else(unknown)?;
        let target = entry.target().filter(|_| entry.is_complete()).ok_or_else(unknown)?;
        if target.path == path {
            return Ok(target);
        }
        let (root, is) = (*root, target.path.clone());
        Err(SyncError::Elsewhere { root, is, wanted: path.to_owned() })
    }
}

/// Opens what a blob is aimed at.
pub(super) fn open(path: &Path, len: u64) -> Result<Arc<Target>, FileError> {
    Target::open(path, len).map(Arc::new).context("write an image onto", path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use p2pinst_types::BlobRef;

    use super::*;
    use crate::Put;
    use crate::layer::{LayerBuilder, PieceLayer};

    const LEN: usize = (3 << 20) + 17;

    fn image(seed: u8) -> (Vec<u8>, PieceLayer) {
        let mut bytes: Vec<u8> =
            (0..LEN).map(|i| (i % 251) as u8 ^ (i >> 9) as u8 ^ seed).collect();
        bytes[(2 << 20)..(2 << 20) + (128 << 10)].fill(0);
        let mut builder = LayerBuilder::new(LEN as u64).unwrap();
        builder.update(&bytes);
        (bytes, builder.finish().unwrap())
    }

    struct Bench {
        dir: tempfile::TempDir,
        store: BlobStore,
        disk: PathBuf,
    }

    /// A store, and a disk that is a little larger than the image and full of something else.
    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&dir.path().join("store")).unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, vec![0xee; LEN + 4096]).unwrap();
        Bench { dir, store, disk }
    }

    fn piece<'a>(bytes: &'a [u8], blob: &BlobRef, piece: PieceIndex) -> &'a [u8] {
        let range = blob.range(piece).unwrap();
        &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }

    #[test]
    fn a_disk_becomes_the_image_and_its_beginning_last() {
        let Bench { dir: _dir, store, disk } = bench();
        let (bytes, layer) = image(1);
        let (blob, root) = (*layer.blob(), layer.blob().root);
        store.aim(root, disk.clone()).unwrap();
        store.begin(&layer).unwrap();
        // out of order
        let mut order: Vec<_> = blob.indices().collect();
        order.reverse();
        let mut out = Vec::new();
        for (n, index) in order.iter().enumerate() {
            let put = store.put_piece(&root, *index, piece(&bytes, &blob, *index)).unwrap();
            assert_eq!(put, if n + 1 == order.len() { Put::Completed } else { Put::New });
            // served while it is written, also what is held back
            store.read_piece(&root, *index, &mut out).unwrap();
            assert!(out == piece(&bytes, &blob, *index));
            store.sync(&root).unwrap();
            let head = fs::read(&disk).unwrap();
            assert!(head[..1 << 20].iter().all(|b| *b == 0xee), "the beginning is as it was");
        }
        assert_eq!(store.path(&root), None, "nobody links it into place");
        assert!(store.check(&root).unwrap().is_empty());
        assert_eq!(store.target(&root), Some(disk.clone()));
        assert!(store.held_back(&root, &disk).unwrap() == bytes[..1 << 20]);
        assert!(store.held_back(&root, Path::new("/other")).is_err());
        store.finish_target(&root, &disk).unwrap();
        let done = fs::read(&disk).unwrap();
        assert!(done[..LEN] == bytes && done[LEN..].iter().all(|b| *b == 0xee));
        assert!(store.remove(&root).unwrap());
        assert!(fs::read(&disk).unwrap()[..LEN] == bytes, "the disk stays");
    }

    #[test]
    fn what_is_on_the_disk_need_not_come() {
        let Bench { dir, store, disk } = bench();
        let (old, _) = image(1);
        // the same but for one piece, and cut off before the beginning was written
        let mut bytes = old.clone();
        bytes[(5 << 19) + 7] ^= 1;
        let mut builder = LayerBuilder::new(LEN as u64).unwrap();
        builder.update(&bytes);
        let layer = builder.finish().unwrap();
        let (blob, root) = (*layer.blob(), layer.blob().root);
        let mut content = old;
        content[..1 << 20].fill(0);
        fs::write(&disk, &content).unwrap();
        store.aim(root, disk.clone()).unwrap();
        store.begin(&layer).unwrap();
        let found = store.take_over(&root, &mut || true).unwrap();
        assert_eq!(found, LEN as u64 - (1 << 20) - blob.piece_len());
        let have = store.status(&root).unwrap().have;
        let missing: Vec<_> = blob.indices().filter(|i| !have.get(*i)).collect();
        for index in missing {
            store.put_piece(&root, index, piece(&bytes, &blob, index)).unwrap();
        }
        store.finish_target(&root, &disk).unwrap();
        assert!(fs::read(&disk).unwrap() == bytes);
        // a start later nothing of it is known but what is read
        drop(store);
        let store = BlobStore::open(&dir.path().join("store")).unwrap();
        assert_eq!(store.status(&root), None);
        store.aim(root, disk).unwrap();
        store.begin(&layer).unwrap();
        assert_eq!(store.take_over(&root, &mut || true).unwrap(), LEN as u64 - (1 << 20));
    }

    #[test]
    fn a_foreign_disk_is_not_read_and_a_small_one_refused() {
        let Bench { dir, store, disk } = bench();
        let (_, layer) = image(2);
        let root = layer.blob().root;
        store.aim(root, disk.clone()).unwrap();
        store.begin(&layer).unwrap();
        assert_eq!(store.take_over(&root, &mut || panic!("it is not read")).unwrap(), 0);
        assert!(store.finish_target(&root, &disk).is_err(), "it is not complete");
        assert!(matches!(
            store.aim(root, dir.path().join("other")),
            Err(BeginError::Elsewhere { .. })
        ));
        let (_, layer) = image(3);
        let small = dir.path().join("small");
        fs::write(&small, b"too small").unwrap();
        store.aim(layer.blob().root, small.clone()).unwrap();
        let error = store.begin(&layer).unwrap_err();
        assert!(error.to_string().contains("small"), "{error}");
        assert_eq!(fs::read(&small).unwrap(), b"too small");
        assert_eq!(store.status(&layer.blob().root), None);
    }

    #[test]
    fn a_damaged_disk_is_noticed_when_it_is_read() {
        let Bench { dir: _dir, store, disk } = bench();
        let (bytes, layer) = image(1);
        let (blob, root) = (*layer.blob(), layer.blob().root);
        store.aim(root, disk.clone()).unwrap();
        store.begin(&layer).unwrap();
        for index in blob.indices() {
            store.put_piece(&root, index, piece(&bytes, &blob, index)).unwrap();
        }
        let mut content = fs::read(&disk).unwrap();
        content[(5 << 19) + 7] ^= 1;
        fs::write(&disk, &content).unwrap();
        let damaged = store.check(&root).unwrap();
        assert_eq!(damaged.len(), 1);
        let status = store.status(&root).unwrap();
        assert!(!status.complete && !status.have.get(damaged[0]));
        store.put_piece(&root, damaged[0], piece(&bytes, &blob, damaged[0])).unwrap();
        assert!(store.check(&root).unwrap().is_empty());
        store.finish_target(&root, &disk).unwrap();
        assert!(fs::read(&disk).unwrap()[..LEN] == bytes);
    }

    #[test]
    fn one_image_for_two_disks_is_finished_on_the_one_it_was_written_to() {
        let Bench { dir, store, disk } = bench();
        let (bytes, layer) = image(1);
        let (blob, root) = (*layer.blob(), layer.blob().root);
        let other = dir.path().join("other");
        fs::write(&other, vec![0xdd; LEN]).unwrap();
        let write = |disk: &Path| {
            store.aim(root, disk.to_owned()).unwrap();
            store.begin(&layer).unwrap();
            for index in blob.indices() {
                store.put_piece(&root, index, piece(&bytes, &blob, index)).unwrap();
            }
        };
        write(&disk);
        store.finish_target(&root, &disk).unwrap();
        // somebody works on it
        fs::write(&disk, vec![0xee; LEN]).unwrap();
        assert!(matches!(store.finish_target(&root, &other), Err(SyncError::Elsewhere { .. })));
        assert!(fs::read(&other).unwrap().iter().all(|b| *b == 0xdd));
        assert!(store.remove(&root).unwrap());
        write(&other);
        store.finish_target(&root, &other).unwrap();
        assert!(fs::read(&other).unwrap() == bytes);
        assert!(fs::read(&disk).unwrap().iter().all(|b| *b == 0xee), "the first is let alone");
    }

    #[test]
    fn what_is_removed_belongs_onto_no_disk_any_more() {
        let Bench { dir: _dir, store, disk } = bench();
        let (_, layer) = image(1);
        let root = layer.blob().root;
        // also before anything of it was here
        store.aim(root, disk.clone()).unwrap();
        assert!(!store.remove(&root).unwrap());
        store.begin(&layer).unwrap();
        assert_eq!(store.target(&root), None);
        let part = store.dir().join(format!("{root}.part"));
        assert!(part.exists(), "it is a blob of the store");
    }
}
