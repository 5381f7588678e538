//! Images out of the swarm, onto disks and into filesystems; served to others meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pinst_boot::image::verify::{Pieces, sample};
use p2pinst_boot::image::{Watch, rootfs};
use p2pinst_boot::setup::apply::{Cause, Images};
use p2pinst_chunks::store::HELD_BACK;
use p2pinst_types::{BlobRef, Hash, Name, NodeId, PieceIndex};
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::exchange::{Exchange, FetchError, Sources, Wish};
use crate::net::Net;

/// Until an image that nobody has is looked for again.
const AGAIN: Duration = Duration::from_secs(3);
/// Between two questions to the DHT who has an image.
const LOOK: Duration = Duration::from_secs(5);
/// Pieces of a disk that are read back.
const SAMPLE: usize = 64;
/// The archive of a root filesystem, while it is unpacked, in that filesystem.
const ARCHIVE: &str = ".p2pinst-image.tar";

/// What is being written.
#[derive(Debug, Default)]
pub(super) struct Progress {
    current: Mutex<Option<(Name, BlobRef)>>,
    /// Why nothing comes, while that is so.
    trouble: Mutex<Option<String>>,
    received: AtomicU64,
    saved: AtomicU64,
}

impl Progress {
    pub(super) fn current(&self) -> Option<(Name, BlobRef)> {
        lock(&self.current).clone()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    fn set(&self, current: Option<(Name, BlobRef)>) {
        *lock(&self.current) = current;
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble;
    }

    /// Bytes that came, and bytes that need not come.
    pub(super) fn moved(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.saved.load(Ordering::Relaxed))
    }
}

/// See the module. Its functions block; they are called where that may be.
#[derive(Debug)]
pub(super) struct FromSwarm {
    pub(super) own: NodeId,
    pub(super) net: Net,
    pub(super) exchange: Exchange,
    pub(super) blobs: BTreeMap<Name, BlobRef>,
    pub(super) progress: Arc<Progress>,
    pub(super) runtime: Handle,
    /// Disks that have an image, each for the next place of the same one.
    pub(super) written: Mutex<BTreeMap<Hash, Vec<PathBuf>>>,
}

impl FromSwarm {
    fn blob(&self, image: &Name) -> Result<BlobRef, Cause> {
        self.blobs
            .get(image)
            .copied()
            .ok_or_else(|| format!("the order names no image {image}").into())
    }

    /// Whoever is connected, and whom the DHT has named.
    fn sources(&self, named: Arc<Mutex<Vec<NodeId>>>) -> Sources {
        let (net, exchange, own) = (self.net.clone(), self.exchange.clone(), self.own);
        Box::new(move || {
            let mut nodes = lock(&named).clone();
            let mut others = net.peers().connected();
            others.retain(|n| !nodes.contains(n));
            others.sort_by_cached_key(|n| {
                Hash::of_parts("p2pinst/neighbours/1", &[own.0.as_bytes(), n.0.as_bytes()])
            });
            nodes.extend(others);
            nodes.retain(|n| *n != own);
            exchange.candidates(own, nodes)
        })
    }

    /// Fetches something small into the store, and reads it.
    pub(super) async fn small(&self, image: &Name, most: u64) -> Result<Vec<u8>, Cause> {
        let path = self.kept(image, most).await?;
        Ok(tokio::task::spawn_blocking(move || p2pinst_files::read(&path, most)).await??)
    }

    /// Fetches something into the store; where it is.
    pub(super) async fn kept(&self, image: &Name, most: u64) -> Result<PathBuf, Cause> {
        let blob = self.blob(image)?;
        if blob.len() > most {
            let len = blob.len();
            return Err(format!("{image} has {len} bytes, at most {most} are possible").into());
        }
        self.progress.set(Some((image.clone(), blob)));
        self.fetch(image, blob, None).await?;
        self.progress.set(None);
        let path = self.exchange.blobs().path(&blob.root);
        Ok(path.ok_or_else(|| format!("{image} was removed again"))?)
    }

    async fn fetch(&self, image: &Name, blob: BlobRef, onto: Option<&Path>) -> Result<(), Cause> {
        let named = Arc::new(Mutex::new(Vec::new()));
        let look = async {
            loop {
                if let Ok(found) = self.net.providers(blob.root).await {
                    *lock(&named) = found;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let fetch = async {
            let mut written = lock(&self.written).get(&blob.root).cloned().unwrap_or_default();
            written.retain(|path| onto != Some(path.as_path()));
            loop {
                let (delta_from, onto) = (written.clone(), onto.map(Path::to_owned));
                let wish = Wish { delta_from, onto, ..Wish::default() };
                let sources = self.sources(Arc::clone(&named));
                match self.exchange.fetch_as(blob, sources, wish).await {
                    Ok(done) => {
                        self.progress.received.fetch_add(done.received, Ordering::Relaxed);
                        let saved = done.local + done.zero;
                        self.progress.saved.fetch_add(saved, Ordering::Relaxed);
                        info!(%image, received = done.received, duplicate = done.duplicate, local = done.local, zero = done.zero, sources = done.sources, "the image is here");
                        return Ok(());
                    }
                    Err(FetchError::Starved) => {
                        let reason =
                            format!("no peer that can be reached has all of the image {image}");
                        warn!("{reason}");
                        self.progress.set_trouble(Some(reason));
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(error) => return Err(error.into()),
                }
                self.progress.set_trouble(None);
            }
        };
        tokio::select! {
            done = fetch => done,
            never = look => never,
        }
    }

    /// Fetches an image onto a disk or a file, and reads a part of it back; what the store holds back is still to be written.
    fn bring(&self, image: &Name, onto: &Path) -> Result<(), Cause> {
        let blob = self.blob(image)?;
        // What was known of it is of another place, or of an earlier attempt, since which this place may have been erased: only
        // what is read from it counts.
        self.exchange.remove(&blob.root)?;
        self.progress.set(Some((image.clone(), blob)));
        self.runtime.block_on(self.fetch(image, blob, Some(onto)))?;
        let blobs = self.exchange.blobs();
        let layer = blobs.layer(&blob.root)?;
        let pieces = Pieces { len: blob.len(), piece: blob.piece_len() };
        let held = HELD_BACK.div_ceil(blob.piece_len());
        let is_right = |piece: PieceIndex, bytes: &[u8]| {
            u64::from(piece.0) < held || layer.check_piece(piece, bytes).is_ok()
        };
        let wrong = sample(onto, pieces, SAMPLE, &mut rand::random, &is_right)?;
        self.progress.set(None);
        if let Some(piece) = wrong.first() {
            let (wrong, path) = (wrong.len(), onto.display());
            return Err(format!(
                "{path} does not keep what is written to it: {wrong} of {SAMPLE} pieces read back are wrong, among them number {}",
                piece.0
            )
            .into());
        }
        Ok(())
    }

    fn unpack(&self, image: &Name, archive: &Path, dir: &Path) -> Result<(), Cause> {
        let len = self.blob(image)?.len();
        File::options().create(true).truncate(false).write(true).open(archive)?.set_len(len)?;
        self.bring(image, archive)?;
        self.exchange.blobs().finish_target(&self.blob(image)?.root, archive)?;
        let stop = AtomicBool::new(false);
        let watch = Watch { progress: &|_, _| {}, stop: &stop };
        let options = rootfs::Options::default();
        let extracted = rootfs::extract(File::open(archive)?, dir, &options, &watch)?;
        info!(%image, entries = extracted.entries, bytes = extracted.bytes, "unpacked");
        Ok(())
    }
}

impl Images for FromSwarm {
    fn write_raw(&self, image: &Name, device: &Path) -> Result<Vec<u8>, Cause> {
        self.bring(image, device)?;
        let root = self.blob(image)?.root;
        let head = self.exchange.blobs().held_back(&root, device)?;
        lock(&self.written).entry(root).or_default().push(device.to_owned());
        Ok(head)
    }

    fn let_go(&self) -> Result<(), Cause> {
        let roots: Vec<Hash> = lock(&self.written).keys().copied().collect();
        for root in roots {
            self.exchange.remove(&root)?;
        }
        Ok(())
    }

    fn extract_tar(&self, image: &Name, dir: &Path) -> Result<(), Cause> {
        let archive = dir.join(ARCHIVE);
        let unpacked = self.unpack(image, &archive, dir);
        // However that ended: a store that has the archive open keeps its filesystem in use, and the next attempt makes that anew.
        let root = self.blob(image)?.root;
        let closed = self.exchange.remove(&root);
        let removed = match std::fs::remove_file(&archive) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        unpacked?;
        closed?;
        Ok(removed?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use p2pinst_chunks::BlobStore;

    use super::*;
    use crate::exchange::tests::{Host, honest, host, store};

    const MIB: usize = 1 << 20;

    /// A node that has an image, and a scout's images beside it.
    struct Bench {
        images: FromSwarm,
        bytes: Vec<u8>,
        dir: tempfile::TempDir,
        _kept: (tempfile::TempDir, BlobStore, Host, Host),
    }

    fn image() -> Name {
        "lab".parse().unwrap()
    }

    /// Bytes that are neither an archive nor twice the same.
    async fn bench() -> Bench {
        let bytes: Vec<u8> = (0..9 * MIB / 32).flat_map(|n| Hash::of(&n.to_le_bytes()).0).collect();
        let (kept, full) = store();
        let blob = full.ingest(&mut bytes.as_slice(), bytes.len() as u64).unwrap();
        let (source, reader) = (honest(&full).await, host().await);
        reader.net.dial(Some(source.id), std::slice::from_ref(&source.addr)).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let empty = BlobStore::open(&dir.path().join("store")).unwrap();
        let images = FromSwarm {
            own: reader.id,
            net: reader.net.clone(),
            exchange: Exchange::new(reader.net.clone(), empty),
            blobs: [(image(), blob)].into(),
            progress: Arc::default(),
            runtime: Handle::current(),
            written: Mutex::default(),
        };
        Bench { images, bytes, dir, _kept: (kept, full, source, reader) }
    }

    /// A disk full of something else, a little larger than the image.
    fn disk(bench: &Bench, name: &str) -> PathBuf {
        let path = bench.dir.path().join(name);
        fs::write(&path, vec![0xee; bench.bytes.len() + 4096]).unwrap();
        path
    }

    /// Writes the image, and its beginning as who applies a setup does; nobody else has written that before.
    fn write(bench: &Bench, disk: &Path) {
        use std::os::unix::fs::FileExt as _;
        let before = fs::read(disk).unwrap();
        let head = bench.images.write_raw(&image(), disk).unwrap();
        assert!(fs::read(disk).unwrap()[..MIB] == before[..MIB]);
        File::options().write(true).open(disk).unwrap().write_all_at(&head, 0).unwrap();
        assert!(fs::read(disk).unwrap()[..bench.bytes.len()] == bench.bytes);
    }

    /// Whether this process has a file open.
    fn is_open(path: &Path) -> bool {
        let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
        files.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|open| open == path)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_image_comes_to_two_disks_and_once_over_the_network() {
        let bench = bench().await;
        let (one, two) = (disk(&bench, "one"), disk(&bench, "two"));
        tokio::task::spawn_blocking(move || {
            write(&bench, &one);
            let (once, _) = bench.images.progress.moved();
            assert_eq!(once, bench.bytes.len() as u64);
            write(&bench, &two);
            assert!(fs::read(&one).unwrap()[..bench.bytes.len()] == bench.bytes);
            let (twice, saved) = bench.images.progress.moved();
            assert!(twice - once < 2 * MIB as u64 && saved > 7 * MIB as u64, "{twice} {saved}");
        })
        .await
        .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_erased_since_is_written_again() {
        let bench = bench().await;
        let disk = disk(&bench, "disk");
        tokio::task::spawn_blocking(move || {
            write(&bench, &disk);
            let mut content = fs::read(&disk).unwrap();
            let end = bench.bytes.len();
            for place in [0..MIB, 5 * MIB..5 * MIB + 512, end - MIB..end] {
                content[place].fill(0);
            }
            fs::write(&disk, &content).unwrap();
            write(&bench, &disk);
        })
        .await
        .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_is_served_until_it_is_let_go_of() {
        let bench = bench().await;
        let disk = disk(&bench, "disk");
        tokio::task::spawn_blocking(move || {
            write(&bench, &disk);
            let (blob, blobs) =
                (bench.images.blob(&image()).unwrap(), bench.images.exchange.blobs());
            let last = PieceIndex(blob.pieces() - 1);
            let mut part = [0; 100];
            assert!(blobs.status(&blob.root).unwrap().complete, "others have it from here");
            blobs.read_part(&blob.root, last, 0, &mut part).unwrap();
            bench.images.let_go().unwrap();
            // as the new system's key comes onto it
            let content = fs::read(&disk).unwrap();
            fs::write(&disk, vec![b'k'; content.len()]).unwrap();
            assert_eq!(blobs.status(&blob.root), None);
            assert!(blobs.read_part(&blob.root, last, 0, &mut part).is_err());
            assert!(!is_open(&disk));
        })
        .await
        .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_archive_that_cannot_be_unpacked_keeps_nothing_in_use() {
        let bench = bench().await;
        let target = bench.dir.path().join("target");
        fs::create_dir(&target).unwrap();
        tokio::task::spawn_blocking(move || {
            let said = bench.images.extract_tar(&image(), &target).unwrap_err().to_string();
            assert!(said.contains("cannot unpack"), "{said}");
            let archive = target.join(ARCHIVE);
            assert!(!archive.exists() && bench.images.exchange.blobs().list().is_empty());
            let deleted = format!("{} (deleted)", archive.display());
            assert!(!is_open(&archive) && !is_open(Path::new(&deleted)));
        })
        .await
        .unwrap();
    }
}
