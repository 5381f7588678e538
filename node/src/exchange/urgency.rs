//! Urgent before the rest, and what a fetch makes of limits and of advice: policies that the orders and the
//! load of the machine set, carried to those who serve and fetch.

use std::collections::BTreeMap;
use std::time::Duration;

use dht_store::Views;
use p2pinst_chunks::fetch::Limits as FetchLimits;
use p2pinst_chunks::rates::BUSY_QUEUE;
use p2pinst_chunks::wire::OTHERS;
use p2pinst_types::record::{ImageKind, Mode};
use p2pinst_types::{Hash, NodeId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::fetch::{FOUND, HEARSAY, Running, Stage};
use super::limits::Ordered;
use super::{Exchange, lock};

/// How often the clock on the wall and what has left are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the orders that stand say of their blobs: one that is urgent for somebody is urgent, and the
/// highest limit counts, or none if one of them has none. The files of a scout are urgent: a machine that
/// waits for them does nothing else. Blobs of which nothing is said are left out.
#[must_use]
pub fn ordered(views: &Views) -> BTreeMap<Hash, Ordered> {
    let mut all: BTreeMap<Hash, Ordered> = BTreeMap::new();
    for order in &views.orders {
        let said = Ordered {
            urgent: order.deployment.mode == Mode::Urgent,
            limit: order.deployment.limit,
        };
        let one = all.entry(order.release.blob.root).or_insert(said);
        one.urgent |= said.urgent;
        one.limit =
            one.limit.max(said.limit).filter(|_| one.limit.is_some() && said.limit.is_some());
    }
    let scouts = views.images.values().filter(|p| p.image.kind == ImageKind::Scout);
    for file in scouts.flat_map(|p| p.image.files.values()) {
        all.entry(file.root).or_default().urgent = true;
    }
    all.retain(|_, one| *one != Ordered::default());
    all
}

impl Exchange {
    /// Keeps the limits and the order of serving as the orders, the load and the time of the day say.
    pub async fn keep_limits(
        self,
        mut views: watch::Receiver<std::sync::Arc<Views>>,
        mut loaded: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) {
        let keeper = self.limits().clone().keep_time();
        tokio::pin!(keeper);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut last, mut sent) = (BTreeMap::new(), 0);
        views.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = &mut keeper => return,
                Ok(()) = views.changed() => {
                    let now = ordered(&views.borrow_and_update());
                    if now != last {
                        last.clone_from(&now);
                        self.set_orders(now);
                    }
                }
                Ok(()) = loaded.changed() => {
                    self.limits().set_busy(*loaded.borrow_and_update());
                }
                _ = tick.tick() => {
                    sent = self.limits().measure(sent);
                    if self.limits().depends_on_time() {
                        self.limits().refresh();
                    }
                }
            }
            self.keep_serving();
        }
    }

    /// What the orders say of blobs, from now on.
    pub fn set_orders(&self, orders: BTreeMap<Hash, Ordered>) {
        let urgent = orders.iter().filter(|(_, o)| o.urgent).map(|(root, _)| *root).collect();
        self.limits().set_orders(orders);
        lock(&self.shared.uploads).serve.set_urgent(urgent);
        self.dispatch();
    }

    fn keep_serving(&self) {
        let (slots, few) = self.limits().serving();
        let mut uploads = lock(&self.shared.uploads);
        uploads.serve.set_slots(slots);
        uploads.serve.throttle(few.then_some(BUSY_QUEUE));
        drop(uploads);
        self.dispatch();
    }
}

impl Running<'_> {
    /// How many bytes may be asked for ahead.
    pub(super) fn ahead(&self) -> u64 {
        self.exchange.limits().ahead(&self.blob.root, FetchLimits::default().in_flight)
    }

    /// Lets the limits bound what is asked for, and urgent blobs come first.
    pub(super) fn keep_limits(&mut self) {
        let limits = self.exchange.limits();
        let fed = self.fed.elapsed() < Duration::from_millis(500);
        if fed && limits.is_urgent(&self.blob.root) {
            limits.urgent_came();
        }
        let ahead = self.ahead();
        if ahead == 0 {
            self.fed = Instant::now(); // it waits for others, not for sources
        }
        if let Stage::Pieces(fetch) = &mut self.stage {
            fetch.set_in_flight(ahead);
        }
    }

    /// A busy source names others: members that are up are tried, a few for each that names some.
    pub(super) fn hear_of(&mut self, from: NodeId, others: Vec<NodeId>) {
        let peers = self.exchange.peers();
        let before = self.found.len();
        let named = self.advised.entry(from).or_default();
        for other in others {
            let new = !self.found.contains(&other) && !self.banned.contains(&other);
            let room = self.found.len() < FOUND && self.hearsay.len() < HEARSAY;
            if new && room && *named < OTHERS && peers.is_up(&other) {
                *named += 1;
                debug!(%from, %other, blob = %self.blob.root.short(), "a busy source names another");
                self.found.push(other);
                self.hearsay.insert(other);
            }
        }
        if self.found.len() > before {
            self.news();
        }
    }
}

#[cfg(test)]
mod tests {
    use dht_store::Store;
    use p2pinst_trust::fixture::{Lab, name};
    use p2pinst_types::record::Image;
    use p2pinst_types::{BlobRef, Kind, Millis, codec};

    use super::*;

    #[test]
    fn a_scout_is_urgent_and_other_images_are_not() {
        let mut lab = Lab::default();
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("store.redb"), lab.roots.clone()).unwrap();
        let blob = |n| BlobRef::new(Hash([n; 32]), 1000).unwrap();
        let mut cells = vec![lab.publisher_grant.clone()];
        for (n, kind) in [(1, ImageKind::Scout), (2, ImageKind::Disk)] {
            let files = [("file".to_owned(), blob(n))].into();
            let about = String::new();
            let image =
                Image { name: name("x"), kind, arch: about.clone(), files, about, at: Millis(1) };
            let id = Image::id(&codec::encode(&image).unwrap());
            cells.push(lab.write(&lab.publisher.clone(), Kind::IMAGE, &id.0.0, &image));
        }
        store.apply(cells, &[], lab.clock.after(Duration::from_secs(60))).unwrap();
        let urgent = Ordered { urgent: true, limit: None };
        assert_eq!(ordered(&store.views()), [(blob(1).root, urgent)].into());
    }
}
