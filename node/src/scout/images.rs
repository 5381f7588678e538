//! Images out of the swarm, onto disks and into filesystems; served to others meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2pinst_boot::image::verify::{Pieces, sample};
use p2pinst_boot::image::{Watch, rootfs};
use p2pinst_boot::setup::apply::{Cause, Images};
use p2pinst_types::{BlobRef, Hash, Name, NodeId};
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
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, current: Option<(Name, BlobRef)>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
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
            let mut nodes = named.lock().unwrap_or_else(PoisonError::into_inner).clone();
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
        let blob = self.blob(image)?;
        if blob.len() > most {
            let len = blob.len();
            return Err(format!("{image} has {len} bytes, at most {most} are possible").into());
        }
        self.fetch(image, blob, None).await?;
        let path = self.exchange.blobs().path(&blob.root);
        let path = path.ok_or_else(|| format!("{image} was removed again"))?;
        Ok(tokio::task::spawn_blocking(move || p2pinst_files::read(&path, most)).await??)
    }

    async fn fetch(&self, image: &Name, blob: BlobRef, onto: Option<&Path>) -> Result<(), Cause> {
        let named = Arc::new(Mutex::new(Vec::new()));
        let look = async {
            loop {
                if let Ok(found) = self.net.providers(blob.root).await {
                    *named.lock().unwrap_or_else(PoisonError::into_inner) = found;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let fetch = async {
            loop {
                let wish = Wish { onto: onto.map(Path::to_owned), ..Wish::default() };
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

    /// Fetches an image onto a disk or a file, and reads a part of it back.
    fn bring(&self, image: &Name, onto: &Path) -> Result<BlobRef, Cause> {
        let blob = self.blob(image)?;
        self.progress.set(Some((image.clone(), blob)));
        self.runtime.block_on(self.fetch(image, blob, Some(onto)))?;
        let blobs = self.exchange.blobs();
        let written = blobs.finish_target(&blob.root)?;
        let layer = blobs.layer(&blob.root)?;
        let pieces = Pieces { len: blob.len(), piece: blob.piece_len() };
        let is_right = |piece, bytes: &[u8]| layer.check_piece(piece, bytes).is_ok();
        let wrong = sample(&written, pieces, SAMPLE, &mut rand::random, &is_right)?;
        self.progress.set(None);
        if let Some(piece) = wrong.first() {
            let (wrong, path) = (wrong.len(), written.display());
            return Err(format!(
                "{path} does not keep what is written to it: {wrong} of {SAMPLE} pieces read back are wrong, among them number {}",
                piece.0
            )
            .into());
        }
        Ok(blob)
    }
}

impl Images for FromSwarm {
    fn write_raw(&self, image: &Name, device: &Path) -> Result<(), Cause> {
        self.bring(image, device).map(drop)
    }

    fn extract_tar(&self, image: &Name, dir: &Path) -> Result<(), Cause> {
        let path: PathBuf = dir.join(ARCHIVE);
        let len = self.blob(image)?.len();
        // what an attempt before has left of it is found again
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        file.set_len(len)?;
        drop(file);
        let blob = self.bring(image, &path)?;
        let stop = AtomicBool::new(false);
        let watch = Watch { progress: &|_, _| {}, stop: &stop };
        let options = rootfs::Options::default();
        let extracted = rootfs::extract(File::open(&path)?, dir, &options, &watch)?;
        info!(%image, entries = extracted.entries, bytes = extracted.bytes, "unpacked");
        self.exchange.remove(&blob.root)?;
        std::fs::remove_file(&path)?;
        Ok(())
    }
}
