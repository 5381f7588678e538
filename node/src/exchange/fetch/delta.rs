//! What of a blob need not be fetched, because older versions of it are here, or because it is zeros.
//!
//! Sources name the blob's recipe when they open it (`p2pinst_chunks::recipe`). Where older blobs are here, or a good
//! part of the blob is zeros, it is fetched like any blob, and compared with the recipes of the blobs that
//! are here and with what people name; the pieces that come out of that, verified like all others, are here
//! before the scheduler begins. Others do without: each node makes the recipe of a whole blob by itself
//! (`storage`), for the version after this one.
//!
//! A recipe is a hint: one that lies, does not come in time, or is no recipe leaves the fetch as it would be without.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use p2pinst_chunks::fetch::Input;
use p2pinst_chunks::recipe::{
    Assembled, Named, Plan, Recipe, Seed, WORTH, assemble, most_bytes, tree,
};
use p2pinst_chunks::store::PutError;
use p2pinst_chunks::wire::{HELD_PIECES, Parts, ToSource};
use p2pinst_chunks::{BlobStore, Put};
use p2pinst_types::{BlobRef, Hash, NodeId, PieceIndex};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::super::Exchange;
use super::{FetchError, Running, SharedSources, Stage, Wish};

/// Different recipes of one blob that are tried.
const NAMED: usize = 3;
/// Older blobs that are looked through, those used last first.
const SEEDS: usize = 64;
/// Files that people name, or that are in directories that they name, from which something is taken.
const OPEN: usize = 512;
/// How long recipes may take to come, all that are tried together; and for each MiB of the blob: a recipe has
/// a seven-thousandth of it, and comes over the same line.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_millis(2));
/// How long the whole may take, and for each MiB of the blob: what was put together until then counts.
const LONGEST: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(10));
/// The same where people name disks to be looked through.
const LONGEST_NAMED: Duration = Duration::from_secs(600);
/// How long after the first source others may name a recipe that it does not have.
const HEARING: Duration = Duration::from_millis(300);
/// Nobody waits for the recipe of a blob of which less than this part is zeros, because of those.
const ZEROS_WORTH: u64 = 16;
/// Pieces after which others are told that more of the blob is here.
const NEWS: u32 = 16;

/// What a task of this has done.
pub(super) enum Cooked {
    /// Pieces were built.
    Built(Assembled),
    /// So many bytes of the blob were on its disk already.
    TakenOver(PathBuf, u64),
    /// No recipe was of use.
    Nothing,
    /// The disk says no.
    Disk(PutError),
}

/// What is known of older versions.
pub(super) struct Delta {
    /// Whether the blob may have a recipe, and nobody has looked yet.
    open: bool,
    /// Files, disks and directories that hold older versions.
    from: Vec<PathBuf>,
    /// The disk that is to become the blob, before anybody has looked at it.
    onto: Option<PathBuf>,
    /// Whether other blobs are here that have recipes, or may want one.
    seeds: bool,
    named: Vec<Named>,
    /// When the first source opened the blob.
    first: Option<Instant>,
    /// When the work began that is under way, and how long it may take.
    begun: (Instant, Duration),
    tasks: JoinSet<Cooked>,
    /// What is missing of pieces of which the rest is in its place, unverified.
    partial: BTreeMap<PieceIndex, Parts>,
    /// Tells the blocking thread to stop.
    stop: Arc<AtomicBool>,
}

impl Drop for Delta {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Delta {
    pub(super) fn new(blobs: &BlobStore, blob: &BlobRef, wish: Wish) -> Self {
        let open = wish.delta && blob.len() >= WORTH;
        Self {
            open,
            from: wish.delta_from,
            onto: wish.onto,
            seeds: open && !(blobs.seeds(1).is_empty() && blobs.without_recipe().is_empty()),
            named: blobs.recipe(&blob.root).filter(|_| open).into_iter().collect(),
            first: None,
            begun: (Instant::now(), Duration::ZERO),
            tasks: JoinSet::new(),
            partial: BTreeMap::new(),
            stop: Arc::default(),
        }
    }

    /// Whether the scheduler has to wait until it is known what is here.
    pub(super) fn is_open(&self) -> bool {
        self.open || self.onto.is_some()
    }

    pub(super) fn is_at_work(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// How to ask for a piece: for what is missing of it.
    pub(super) fn request(&self, piece: PieceIndex) -> ToSource {
        match self.partial.get(&piece) {
            Some(parts) => ToSource::RequestParts { piece, parts: parts.clone() },
            None => ToSource::Request { piece },
        }
    }

    /// The next task that ends.
    pub(super) async fn ended(&mut self) -> Option<Cooked> {
        self.tasks.join_next().await.map(|done| done.unwrap_or(Cooked::Nothing))
    }
}

/// Whether a blob of that root and length can be the recipe of another.
fn is_plausible(blob: &BlobRef, named: &Named) -> bool {
    let recipe = &named.blob;
    let usual = BlobRef::new(recipe.root, recipe.len()).is_ok_and(|usual| usual == *recipe);
    usual && recipe.root != blob.root && recipe.len() <= most_bytes(blob.len())
}

impl Running<'_> {
    /// A source has opened the blob.
    pub(super) fn hear_recipe(&mut self, recipe: Option<Named>) {
        let blob = self.blob;
        let delta = &mut self.delta;
        delta.first.get_or_insert_with(Instant::now);
        if let Some(named) = recipe.filter(|named| is_plausible(&blob, named))
            && delta.named.len() < NAMED
            && !delta.named.contains(&named)
        {
            delta.named.push(named);
        }
    }

    /// Decides whether to begin with what is here, or with the sources. Says whether the blob is complete.
    pub(super) fn consider(&mut self) -> bool {
        // before the layer is here nothing can be built
        if !matches!(self.stage, Stage::Seeds) {
            return false;
        }
        if self.delta.is_at_work() {
            self.fed = Instant::now(); // what takes long is the disk
            let (begun, longest) = self.delta.begun;
            if begun.elapsed() >= longest {
                self.delta.stop.store(true, Ordering::Relaxed);
            }
            return false;
        }
        if let Some(path) = self.delta.onto.take() {
            self.take_over(path);
            return false;
        }
        if !self.delta.open {
            return self.start();
        }
        let here = self.delta.seeds || !self.delta.from.is_empty();
        let worth = self.blob.len() / ZEROS_WORTH;
        let zeros = self.delta.named.iter().any(|n| n.zeros >= worth);
        if !self.delta.named.is_empty() {
            self.delta.open = false;
            if here || zeros {
                self.cook();
                return false;
            }
            return self.start();
        }
        // nobody says anything of a recipe yet
        let heard = self.delta.first.map(|at| at.elapsed());
        let hopeless = heard.is_some_and(|since| !here || since >= HEARING);
        if !hopeless {
            return false;
        }
        if !self.delta.from.is_empty() {
            let blob = self.blob.root.short();
            warn!(%blob, "nobody has a recipe of the blob: older versions are of no use");
        }
        self.delta.open = false;
        self.start()
    }

    /// Looks what of the blob is on its disk.
    fn take_over(&mut self, path: PathBuf) {
        self.delta.begun = (Instant::now(), LONGEST_NAMED);
        let (blobs, root) = (self.exchange.blobs.clone(), self.blob.root);
        let stop = Arc::clone(&self.delta.stop);
        self.delta.tasks.spawn(async move {
            let look = move || blobs.take_over(&root, &mut || !stop.load(Ordering::Relaxed));
            match tokio::task::spawn_blocking(look).await {
                Ok(Ok(bytes)) => Cooked::TakenOver(path, bytes),
                Ok(Err(error)) => Cooked::Disk(error),
                Err(_) => Cooked::Nothing,
            }
        });
    }

    /// Fetches a recipe, and builds what can be built.
    fn cook(&mut self) {
        let mib = u32::try_from(self.blob.len() >> 20).unwrap_or(u32::MAX);
        let longest = match self.delta.from.is_empty() {
            true => LONGEST.0 + LONGEST.1 * mib,
            false => LONGEST_NAMED,
        };
        self.delta.begun = (Instant::now(), longest);
        self.delta.stop = Arc::default();
        let cook = Cook {
            until: Instant::now() + PATIENCE.0 + PATIENCE.1 * mib,
            exchange: self.exchange.clone(),
            blob: self.blob,
            named: std::mem::take(&mut self.delta.named),
            sources: Arc::clone(&self.sources),
            from: std::mem::take(&mut self.delta.from),
            stop: Arc::clone(&self.delta.stop),
        };
        self.delta.tasks.spawn(cook.run());
    }

    /// A task has ended. Says whether the blob is complete.
    pub(super) fn on_cooked(&mut self, cooked: Cooked) -> Result<bool, FetchError> {
        match cooked {
            Cooked::Built(done) => {
                info!(
                    blob = %self.blob.root.short(), local = done.local, zero = done.zero,
                    "what older versions and zeros give of a blob was put together here"
                );
                self.done.local += done.local;
                self.done.zero += done.zero;
                // where the recipe lied once, parts are not worth the attempt
                let partial = if done.wrong == 0 { done.partial } else { BTreeMap::new() };
                let parts = |(piece, ranges)| Some((piece, Parts::new(ranges).ok()?));
                self.delta.partial = partial.into_iter().filter_map(parts).collect();
            }
            Cooked::TakenOver(path, bytes) => {
                self.done.local += bytes;
                if bytes > 0 {
                    info!(blob = %self.blob.root.short(), path = %path.display(), bytes, "a disk has a part of its image already");
                    self.delta.from.push(path);
                }
                return Ok(self.consider());
            }
            Cooked::Nothing => {}
            Cooked::Disk(error) => return Err(error.into()),
        }
        self.exchange.more(&self.blob.root);
        Ok(matches!(self.stage, Stage::Seeds) && self.start())
    }

    /// Tells a source that seeds the blob what need not be offered.
    pub(super) fn tell_held(&self, peer: &NodeId) {
        let Stage::Pieces(fetch) = &self.stage else { return };
        let none = fetch.have().is_empty() || fetch.have().pieces() > HELD_PIECES;
        if none || !self.offered.contains_key(peer) {
            return;
        }
        let mut bits = Vec::new();
        fetch.have().encode(&mut bits);
        if let Some(link) = self.links.get(peer) {
            let _best_effort = link.send(ToSource::Held { bits: bits.into() });
        }
    }

    /// Parts came, and the piece is here. Says whether the blob is complete.
    pub(super) fn on_stored_parts(
        &mut self,
        peer: NodeId,
        piece: PieceIndex,
        put: Put,
        bytes: u64,
    ) -> bool {
        self.delta.partial.remove(&piece);
        if put != Put::Duplicate {
            let whole = self.blob.range(piece).map_or(0, |r| r.end - r.start);
            self.done.local += whole.saturating_sub(bytes);
        }
        self.on_bytes(peer, piece, put, bytes)
    }

    /// Parts came, and with what is here they are not the piece: either may be wrong. The same source gives the
    /// whole piece, and is banned if that is wrong too.
    pub(super) fn on_bad_parts(&mut self, peer: NodeId, piece: PieceIndex, bytes: u64) -> bool {
        debug!(%peer, piece = piece.0, blob = %self.blob.root.short(), "parts of a piece do not fit: it is fetched whole");
        self.delta.partial.remove(&piece);
        self.done.received += bytes;
        let asked = self.links.get(&peer).is_some_and(|l| l.send(ToSource::Request { piece }));
        if asked {
            return false;
        }
        self.give_up(peer, "it does not take requests");
        self.step(Input::Left { peer })
    }
}

struct Cook {
    /// When recipes that have not come are done without.
    until: Instant,
    exchange: Exchange,
    blob: BlobRef,
    named: Vec<Named>,
    sources: SharedSources,
    from: Vec<PathBuf>,
    stop: Arc<AtomicBool>,
}

impl Cook {
    async fn run(self) -> Cooked {
        for named in &self.named {
            let Some(recipe) = self.recipe(named).await else { continue };
            let (blobs, root) = (self.exchange.blobs.clone(), self.blob.root);
            let (exchange, from) = (self.exchange.clone(), self.from.clone());
            let (stop, blob) = (Arc::clone(&self.stop), self.blob);
            let built = tokio::task::spawn_blocking(move || {
                let mut pieces = 0;
                let mut go_on = |piece: Option<_>| {
                    pieces += u32::from(piece.is_some());
                    if piece.is_some() && pieces % NEWS == 0 {
                        exchange.more(&root);
                    }
                    !stop.load(Ordering::Relaxed)
                };
                // what came a moment ago has none yet
                for root in blobs.without_recipe().iter().take(SEEDS) {
                    if let Err(error) = blobs.make_recipe(root, &|| !stop.load(Ordering::Relaxed)) {
                        debug!(blob = %root.short(), %error, "a blob has no recipe");
                    }
                }
                put_together(&blobs, blob, recipe, &from, &mut go_on)
            });
            return match built.await {
                Ok(Ok(done)) => Cooked::Built(done),
                Ok(Err(error)) => Cooked::Disk(error),
                Err(_) => Cooked::Nothing,
            };
        }
        Cooked::Nothing
    }

    /// The recipe that is named, if it comes in time and is one. What came and is none stays, like any blob
    /// that nobody needs: it may be another's.
    async fn recipe(&self, named: &Named) -> Option<Recipe> {
        let fetch = self.exchange.fetch_recipe(named.blob, Arc::clone(&self.sources));
        let came = tokio::time::timeout_at(self.until, fetch).await.unwrap_or(false);
        let (blobs, blob, from) = (self.exchange.blobs.clone(), self.blob, named.blob);
        let adopted = tokio::task::spawn_blocking(move || blobs.adopt_recipe(&blob, &from));
        adopted
            .await
            .ok()?
            .inspect_err(|error| {
                debug!(%error, came, blob = %self.blob.root.short(), "a recipe is not to be had");
            })
            .ok()
    }
}

impl Exchange {
    /// Fetches a recipe, which has none itself; whether it is here now. Boxed, since a fetch begins it.
    fn fetch_recipe(&self, recipe: BlobRef, sources: SharedSources) -> BoxFuture<'static, bool> {
        let exchange = self.clone();
        let sources = Box::new(move || sources());
        let plain = Wish { delta: false, delta_from: Vec::new(), onto: None };
        Box::pin(async move { exchange.fetch_as(recipe, sources, plain).await.is_ok() })
    }
}

/// Plans and builds. Blocking.
fn put_together(
    blobs: &BlobStore,
    blob: BlobRef,
    recipe: Recipe,
    from: &[PathBuf],
    go_on: &mut dyn FnMut(Option<PieceIndex>) -> bool,
) -> Result<Assembled, PutError> {
    let unknown = || PutError::Unknown { root: blob.root };
    let mut plan = Plan::new(blob, recipe).ok_or_else(unknown)?;
    let mut seeds = Vec::new();
    for seed in blobs.seeds(SEEDS) {
        if !plan.is_lacking() {
            break;
        }
        offer(blobs, &seed.root, &blob.root, &mut plan, &mut seeds);
    }
    for path in from.iter().flat_map(|path| tree::files(path)) {
        if !plan.is_lacking() || seeds.len() >= SEEDS + OPEN || !go_on(None) {
            break;
        }
        match Seed::open(&path) {
            Ok(mut seed) => {
                let lacking = plan.lacking();
                let scanned = seed.scan(seeds.len(), &mut plan, &mut || go_on(None));
                if plan.lacking() < lacking {
                    seeds.push(seed); // also when it cannot be read to its end
                }
                if let Err(error) = scanned {
                    warn!(path = %path.display(), %error, "an older version cannot be read to its end");
                }
            }
            Err(error) => warn!(%error, "an older version is not used"),
        }
    }
    let done = assemble(blobs, &plan, &seeds, go_on)?;
    if done.wrong > 0 {
        warn!(blob = %blob.root.short(), pieces = done.wrong, "the recipe of a blob is wrong: it is dropped");
        blobs.drop_hint(&blob.root);
    }
    Ok(done)
}

/// Shows a blob of the store to the plan.
fn offer(blobs: &BlobStore, seed: &Hash, wanted: &Hash, plan: &mut Plan, seeds: &mut Vec<Seed>) {
    if seed == wanted {
        return;
    }
    let (Ok(recipe), Some(file)) = (blobs.load_recipe(seed), blobs.open_seed(seed)) else { return };
    let lacking = plan.lacking();
    plan.offer(seeds.len(), 0, recipe.chunks());
    if plan.lacking() < lacking {
        blobs.touch(seed);
        seeds.push(file);
    }
}
