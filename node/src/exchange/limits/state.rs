//! What is set and ordered, and the limits that follow from it.

use std::collections::BTreeMap;

use p2pinst_chunks::rates::{LimitsConfig, LocalTime, Slots};
use p2pinst_chunks::throttle::{Throttle, Ticket};
use p2pinst_types::{Hash, Limit, NodeId, Rates};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Ordered, Setting, TooMany};
use crate::exchange::places::Places;

/// What is set by hand at the same time: each with an end of its own.
pub(super) const SETTINGS: usize = 16;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::exchange) enum Way {
    Up,
    Down,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bucket {
    All(Way),
    Wan(Way),
    /// What leaves a busy node and is not urgent.
    Busy,
    Blob(Way, Hash),
}

pub(super) struct State {
    pub(super) config: LimitsConfig,
    pub(super) settings: Vec<Setting>,
    pub(super) orders: BTreeMap<Hash, Ordered>,
    pub(super) busy: bool,
    /// The most bytes that left in one second.
    pub(super) most: u64,
    places: Places,
    pub(super) rates: Rates,
    pub(super) windows: Vec<usize>,
    pub(super) throttle: Throttle<Bucket>,
    pub(super) waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
}

impl State {
    pub(super) fn new(config: LimitsConfig, places: Places) -> Self {
        Self {
            config,
            settings: Vec::new(),
            orders: BTreeMap::new(),
            busy: false,
            most: 0,
            places,
            rates: Rates::default(),
            windows: Vec::new(),
            throttle: Throttle::default(),
            waiting: BTreeMap::new(),
        }
    }

    pub(super) fn set(&mut self, rates: Rates, until: Option<Instant>) -> Result<(), TooMany> {
        if let Some(ever) = self.settings.iter_mut().find(|s| s.until.is_none() && until.is_none())
        {
            ever.rates = rates.or(ever.rates);
            return Ok(());
        }
        if self.settings.len() >= SETTINGS {
            return Err(TooMany);
        }
        // what has no end is what is left when the others are over
        let at = if until.is_some() { 0 } else { self.settings.len() };
        self.settings.insert(at, Setting { rates, until });
        Ok(())
    }

    pub(super) fn keep(&mut self, rates: Rates) {
        let config = &mut self.config;
        let Rates { up, down, wan_up, wan_down } = rates.or(config.always());
        (config.up, config.down, config.wan_up, config.wan_down) = (up, down, wan_up, wan_down);
        for setting in &mut self.settings {
            for (name, _) in rates.named().filter(|(_, limit)| limit.is_some()) {
                if let Some(limit) = setting.rates.by_name(name) {
                    *limit = None;
                }
            }
        }
    }

    pub(super) fn is_urgent(&self, root: &Hash) -> bool {
        self.orders.get(root).is_some_and(|o| o.urgent)
    }

    /// What the bytes of a blob to or from a peer fall under, and whether they are urgent.
    pub(super) fn buckets(&self, way: Way, peer: &NodeId, root: &Hash) -> (Vec<Bucket>, bool) {
        let urgent = self.is_urgent(root);
        let mut buckets = vec![Bucket::All(way), Bucket::Blob(way, *root)];
        if !self.places.of(peer).is_near() {
            buckets.push(Bucket::Wan(way));
        }
        if way == Way::Up && !urgent {
            buckets.push(Bucket::Busy);
        }
        (buckets, urgent)
    }

    pub(super) fn slots(&self) -> Slots {
        let rate = |limit: Option<Limit>| limit.and_then(|l| l.rate());
        self.config.slots(rate(self.rates.up), rate(self.rates.wan_up))
    }

    pub(super) fn put_in_force(&mut self, now: LocalTime) {
        let instant = Instant::now();
        self.settings.retain(|s| s.until.is_none_or(|u| u > instant) && !s.rates.is_empty());
        let (rates, windows) = self.config.at(now);
        let by_hand = self.settings.iter().fold(Rates::default(), |all, s| all.or(s.rates));
        (self.rates, self.windows) = (by_hand.or(rates), windows);
        let rate = |limit: Option<Limit>| limit.and_then(|l| l.rate());
        let throttle = &mut self.throttle;
        throttle.set(Bucket::All(Way::Up), rate(self.rates.up));
        throttle.set(Bucket::All(Way::Down), rate(self.rates.down));
        throttle.set(Bucket::Wan(Way::Up), rate(self.rates.wan_up));
        throttle.set(Bucket::Wan(Way::Down), rate(self.rates.wan_down));
        let busy_up = self.config.busy_rate(self.most).filter(|_| self.busy);
        throttle.set(Bucket::Busy, busy_up);
        let limit = |root: &Hash| self.orders.get(root).and_then(|o| o.limit);
        throttle.retain(|bucket| match bucket {
            Bucket::Blob(_, root) => limit(root).is_some(),
            _ => true,
        });
        for (root, order) in self.orders.iter().filter(|(_, o)| o.limit.is_some()) {
            throttle.set(Bucket::Blob(Way::Up, *root), order.limit);
            throttle.set(Bucket::Blob(Way::Down, *root), order.limit);
        }
    }
}
