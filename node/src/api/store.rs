//! The blobs of this node: what there is, what goes, what is damaged, what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dht_store::Views;
use p2pinst_api::request::{ApiError, CheckBlob, CleanStore, ErrorKind, FetchBlob, PinBlob};
use p2pinst_api::store::{
    CheckView, CleanView, FetchView, PinView, ReleaseView, RemovedView, StoreView, StoredState,
    StoredView,
};
use p2pinst_chunks::quota::Hold;
use p2pinst_chunks::store::{LayerReadError, ReadError, Stored};
use p2pinst_types::record::Release;
use p2pinst_types::{BlobRef, Hash, NodeId, PieceIndex, ReleaseId};

use super::publish::internal;
use super::show::fitting;
use super::{Api, Reply, status};
use crate::storage::{Cleaning, PinError, Progress, Reasons};

/// Bytes that one look at a blob reads: a second or two on a slow disk.
const STEP: u64 = 128 << 20;
/// Removed blobs that one answer lists.
const LISTED: usize = 1000;
/// The longest that one question waits.
const WAIT: Duration = Duration::from_secs(30);
/// How often what came is looked at, for the bar.
const LOOK: Duration = Duration::from_millis(100);
/// Files and disks with older versions that one fetch looks through.
const OLDER: usize = 16;
/// Digits of a root or an id that name it.
const DIGITS: usize = 4;

/// A blob that somebody has named.
struct Named {
    root: Hash,
    /// `None`: nothing but its root is known.
    blob: Option<BlobRef>,
    holders: Vec<NodeId>,
}

fn invalid(reason: String, hint: &str) -> super::ApiFailure {
    ApiError::new(ErrorKind::Invalid, reason).hint(hint).into()
}

/// The bytes of a blob that are here.
fn have(stored: &p2pinst_chunks::BlobStatus) -> u64 {
    let blob = stored.blob;
    if stored.have.is_full() {
        return blob.len();
    }
    stored.have.iter().filter_map(|p| blob.range(p)).map(|r| r.end - r.start).sum()
}

/// The packages of the releases, by blob.
fn releases(views: &Views) -> BTreeMap<Hash, BTreeSet<String>> {
    let mut by_root: BTreeMap<Hash, BTreeSet<String>> = BTreeMap::new();
    for release in views.releases.values() {
        by_root.entry(release.blob.root).or_default().insert(release.package.to_string());
    }
    by_root
}

/// The releases that are meant by `NAME=VERSION`, a deployment, or the beginning of an id.
fn matching(views: &Views, what: &str) -> Vec<(ReleaseId, Release)> {
    let by_name = what.split_once('=').map(|(name, version)| {
        let is = |r: &Release| r.package.name == name && r.package.version == version;
        views.releases.iter().filter(|(_, r)| is(r)).map(|(id, r)| (*id, r.clone())).collect()
    });
    let by_order = || {
        let order = status::find(views, what).ok()?;
        Some(vec![(order.deployment.release, order.release)])
    };
    let by_id = || {
        let starts = |id: &ReleaseId| what.len() >= DIGITS && id.to_string().starts_with(what);
        views.releases.iter().filter(|(id, _)| starts(id)).map(|(id, r)| (*id, r.clone())).collect()
    };
    by_name.or_else(by_order).unwrap_or_else(by_id)
}

impl Api {
    pub(super) async fn list_store(&self, after: Option<Hash>) -> Reply<StoreView> {
        let (blobs, storage) = (self.exchange.blobs().clone(), self.storage.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let stored = blobs.stored();
            let limits = storage.limits(&stored)?;
            Ok::<_, p2pinst_files::FileError>((stored, limits, storage.free()?))
        });
        let (stored, limits, free) = looked.await.map_err(internal)?.map_err(internal)?;
        let bytes = stored.iter().map(|s| s.status.blob.len()).sum();
        // recipes are no files of their own: they come and go with those that they describe
        let stored: Vec<Stored> = stored.into_iter().filter(|s| s.recipe_of.is_none()).collect();
        let count = stored.len();
        let releases = releases(&self.store.views());
        let rest: Vec<Stored> = stored
            .into_iter()
            .filter(|s| after.is_none_or(|after| s.status.blob.root > after))
            .collect();
        let roots: Vec<Hash> = rest.iter().map(|s| s.status.blob.root).collect();
        let reasons = self.storage.reasons(&roots);
        let listed = rest.iter().zip(reasons).map(|(s, why)| stored_view(s, why, &releases));
        let blobs = fitting(listed);
        let next = blobs.last().map(|b| b.root).filter(|_| blobs.len() < roots.len());
        let (high, low) = (limits.high, limits.low);
        let quota = self.storage.quota().most.to_string();
        Ok(StoreView { blobs, next, count, bytes, free, high, low, quota })
    }

    pub(super) async fn clean_store(&self, ask: &CleanStore) -> Reply<CleanView> {
        let storage = self.storage.clone();
        let how = Cleaning { dry_run: ask.dry_run, scrap: true, all: ask.all };
        let cleaned = tokio::task::spawn_blocking(move || storage.clean(how)).await;
        let cleaned = cleaned.map_err(internal)?.map_err(internal)?;
        let removed = cleaned.removed.iter().take(LISTED).map(|item| RemovedView {
            root: item.root,
            size: item.bytes,
            complete: item.hold != Hold::Scrap,
            used: item.used,
        });
        Ok(CleanView {
            removed: removed.collect(),
            count: cleaned.removed.len(),
            before: cleaned.bytes.0,
            after: cleaned.bytes.1,
            high: cleaned.limits.high,
            low: cleaned.limits.low,
        })
    }

    pub(super) async fn check_blob(&self, ask: CheckBlob) -> Reply<CheckView> {
        let (blobs, CheckBlob { root, from }) = (self.exchange.blobs().clone(), ask);
        let check = move || blobs.check_some(&root, PieceIndex(from), STEP);
        let checked = match tokio::task::spawn_blocking(check).await.map_err(internal)? {
            Ok(checked) => checked,
            Err(
                e @ (ReadError::Unknown { .. } | ReadError::Layer(LayerReadError::Unknown { .. })),
            ) => {
                return Err(invalid(e.to_string(), "p2pinst store ls shows what is there"));
            }
            Err(e) => return Err(internal(e)),
        };
        let needed = self.storage.reasons(&[root]);
        Ok(CheckView {
            root,
            bytes: checked.bytes,
            damaged: checked.damaged.len() as u64,
            next: checked.next.map(|p| p.0),
            needed: needed.iter().any(|r| r.pinned || !r.orders.is_empty()),
        })
    }

    pub(super) async fn pin_blob(&self, ask: PinBlob) -> Reply<PinView> {
        let root = self.stored_named(&ask.blob)?;
        self.pin(root, ask.pin).await
    }

    pub(super) async fn seed_blob(&self, root: Hash) -> Reply<PinView> {
        let pinned = self.pin(root, true).await?;
        self.storage.announce(root).await;
        Ok(pinned)
    }

    async fn pin(&self, root: Hash, pin: bool) -> Reply<PinView> {
        let storage = self.storage.clone();
        let done = tokio::task::spawn_blocking(move || storage.pin(root, pin)).await;
        match done.map_err(internal)? {
            Ok(changed) => Ok(PinView { root, pinned: pin, changed }),
            Err(e @ PinError::Unknown { .. }) => {
                Err(invalid(e.to_string(), "p2pinst fetch brings it here"))
            }
            Err(e @ PinError::TooMany) => {
                Err(invalid(e.to_string(), "p2pinst store ls shows them"))
            }
            Err(e) => Err(internal(e)),
        }
    }

    /// A blob that is here, by the beginning of its root or as in [`Api::named`].
    fn stored_named(&self, what: &str) -> Reply<Hash> {
        let hex = what.len() >= DIGITS && what.chars().all(|c| c.is_ascii_hexdigit());
        if hex {
            let stored = self.exchange.blobs().stored();
            let stored = stored.iter().filter(|s| s.recipe_of.is_none());
            let roots = stored.map(|s| s.status.blob.root);
            let found: Vec<Hash> = roots.filter(|r| r.to_string().starts_with(what)).collect();
            match found.as_slice() {
                [one] => return Ok(*one),
                [] => {}
                [_, ..] => {
                    let reason = format!("{} blobs begin with {what}", found.len());
                    return Err(invalid(reason, "give more digits: p2pinst store ls"));
                }
            }
        }
        Ok(self.named(what)?.root)
    }

    /// The blob that is meant by its root, a deployment, or `NAME=VERSION`.
    fn named(&self, what: &str) -> Reply<Named> {
        let views = self.store.views();
        let root: Option<Hash> = what.parse().ok();
        let found: BTreeSet<Hash> = match root {
            Some(root) => [root].into(),
            None => matching(&views, what).iter().map(|(_, r)| r.blob.root).collect(),
        };
        let mut roots = found.iter();
        let (Some(root), None) = (roots.next(), roots.next()) else {
            let reason = match found.len() {
                0 => format!("nothing is known of {what}"),
                n => {
                    let all: Vec<String> = found.iter().map(ToString::to_string).collect();
                    format!("{what} may be one of {n} files: {}", all.join(", "))
                }
            };
            let hint =
                "name a root (64 digits), a deployment (alice-42) or a release (NAME=VERSION)";
            return Err(invalid(reason, hint));
        };
        // what was signed says how long it is
        let blob = views.releases.values().find(|r| r.blob.root == *root).map(|r| r.blob);
        let orders = views.orders.iter().filter(|o| o.release.blob.root == *root);
        let holders: BTreeSet<NodeId> = orders.flat_map(|o| o.deployment.holders.clone()).collect();
        Ok(Named { root: *root, blob, holders: holders.into_iter().collect() })
    }

    pub(super) fn find_release(&self, what: &str) -> Reply<ReleaseView> {
        let views = self.store.views();
        let found = matching(&views, what);
        let [(id, release)] = found.as_slice() else {
            let reason = match found.len() {
                0 => format!("there is neither a file nor a release {what}"),
                n => {
                    let all: Vec<String> = found.iter().map(|(id, _)| id.to_string()).collect();
                    format!("{what} may be one of {n} releases: {}", all.join(", "))
                }
            };
            let hint = "name a release (NAME=VERSION), a deployment (alice-42), or a package file";
            return Err(invalid(reason, hint));
        };
        let orders: Vec<_> = views.orders.iter().filter(|o| o.deployment.release == *id).collect();
        let mut holders: BTreeSet<NodeId> =
            orders.iter().flat_map(|o| o.deployment.holders.clone()).collect();
        if self.exchange.blobs().path(&release.blob.root).is_some() {
            holders = [self.own.node].into();
        }
        let groups: BTreeSet<_> = orders.iter().map(|o| o.deployment.group.clone()).collect();
        Ok(ReleaseView {
            id: *id,
            release: release.clone(),
            holders: holders.into_iter().take(8).collect(),
            groups: groups.into_iter().collect(),
        })
    }

    pub(super) async fn fetch_blob(&self, ask: &FetchBlob) -> Reply<FetchView> {
        let Named { root, blob, holders } = self.named(&ask.what)?;
        if let Some(ended) = self.storage.ended(&root) {
            return Ok(self.fetch_view(root, &ended));
        }
        let is_here = || self.exchange.blobs().path(&root).is_some();
        if is_here() && !self.storage.is_fetching(&root) {
            // kept while whoever asks comes for it
            let storage = self.storage.clone();
            let held = tokio::task::spawn_blocking(move || storage.hold(root)).await;
            if matches!(held, Ok(true)) && is_here() {
                return Ok(self.fetch_view(root, &Progress::default()));
            }
        }
        if ask.delta_from.len() > OLDER || ask.delta_from.iter().any(|path| !path.is_absolute()) {
            let reason = format!("older versions are at most {OLDER} absolute paths");
            return Err(invalid(reason, "name fewer"));
        }
        let older = ask.delta_from.clone();
        let mut progress = self.storage.fetch(root, blob, holders, older).map_err(|busy| {
            ApiError::new(ErrorKind::Refused, busy.to_string()).hint("try again in a while")
        })?;
        let wait = Duration::from_millis(ask.wait_ms).min(WAIT);
        let before = self.fetch_view(root, &progress.borrow()).have;
        let changed = async {
            let mut look = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    _ = progress.wait_for(|p| p.end.is_some()) => break,
                    _ = look.tick() => {
                        if self.exchange.blobs().status(&root).is_some_and(|s| have(&s) != before) {
                            break;
                        }
                    }
                }
            }
        };
        // nothing new is something to tell, too
        drop(tokio::time::timeout(wait, changed).await);
        let seen = progress.borrow().clone();
        if seen.end.is_some() {
            drop(self.storage.ended(&root)); // it is told now
        }
        Ok(self.fetch_view(root, &seen))
    }

    fn fetch_view(&self, root: Hash, progress: &Progress) -> FetchView {
        let status = self.exchange.blobs().status(&root);
        let blob = status.as_ref().map(|s| s.blob).or(progress.blob);
        let failed = progress.end.clone().and_then(Result::err);
        FetchView {
            root,
            size: blob.map(|b| b.len()),
            have: status.as_ref().map_or(0, have),
            complete: failed.is_none() && status.is_some_and(|s| s.complete),
            failed,
            sources: progress.sources,
            received: progress.received,
            local: progress.saved.0,
            zero: progress.saved.1,
        }
    }
}

fn stored_view(
    stored: &Stored,
    why: Reasons,
    releases: &BTreeMap<Hash, BTreeSet<String>>,
) -> StoredView {
    let root = stored.status.blob.root;
    let packages = releases.get(&root).into_iter().flatten();
    StoredView {
        root,
        size: stored.status.blob.len(),
        state: match (stored.status.complete, stored.damaged) {
            (true, _) => StoredState::Complete,
            (false, true) => StoredState::Damaged,
            (false, false) => StoredState::Part,
        },
        have: have(&stored.status),
        pinned: why.pinned,
        orders: why.orders,
        fetching: why.fetching,
        serving: why.serving,
        fresh: why.fresh,
        used: stored.used,
        releases: packages.take(16).cloned().collect(),
    }
}
