//! How fast bytes may go and come: the shell around `p2pinst-chunks`' throttle and rates.
//!
//! Every chunk of a piece's bytes passes [`Flow::pass`]: before it is written, after it was read. While
//! nothing is limited that is one atomic load. What was set by hand is forgotten when the node stops,
//! unless it was kept in the configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use p2pinst_chunks::rates::{LimitsConfig, LocalTime};
use p2pinst_chunks::throttle::{CHUNK, Throttle, Ticket, chunk_under};
use p2pinst_types::{Hash, NodeId, Rate, Rates};
use thiserror::Error;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::lock;

/// What is set by hand at the same time: each with an end of its own.
const SETTINGS: usize = 16;
/// Of the bytes of a limit this part is left for headers of TCP, IP, Ethernet and encryption.
const HEADERS: usize = 20;
/// Urgent bytes that came within this time let what is not urgent wait.
const LATELY: Duration = Duration::from_secs(2);
/// Seconds of a limit on incoming bytes that may be asked for ahead.
const AHEAD: u64 = 1;

/// Whether a member is at another site.
pub type Far = Box<dyn Fn(&NodeId) -> bool + Send + Sync>;

/// What the orders say of one blob.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ordered {
    /// Whether one of them is urgent.
    pub urgent: bool,
    /// The limit, if all of them have one: the highest.
    pub limit: Option<Rate>,
}

/// Too much is set by hand.
#[derive(Debug, Error)]
#[error("{SETTINGS} settings are in force already")]
pub struct TooMany;

/// What was set by hand.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The limits that it speaks of.
    pub rates: Rates,
    /// When it ends; `None`: when it is taken back or the node stops.
    pub until: Option<Instant>,
}

/// What is in force, to be shown.
#[derive(Debug, Clone)]
pub struct InForce {
    /// The limits now.
    pub rates: Rates,
    /// The configuration.
    pub config: LimitsConfig,
    /// Which of its windows hold now.
    pub windows: Vec<usize>,
    /// What was set by hand, the newest first.
    pub settings: Vec<Setting>,
    /// Whether other programs are at work on the machine.
    pub busy: bool,
    /// How fast blobs that are not urgent leave while that is so; `None`: as others.
    pub busy_up: Option<Rate>,
    /// Pieces that are sent at a time.
    pub slots: usize,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Up,
    Down,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bucket {
    All(Way),
    Wan(Way),
    /// What leaves a busy node and is not urgent.
    Busy,
    Blob(Way, Hash),
}

struct State {
    config: LimitsConfig,
    settings: Vec<Setting>,
    orders: BTreeMap<Hash, Ordered>,
    busy: bool,
    /// The most bytes that left in one second.
    most: u64,
    far: Option<Far>,
    rates: Rates,
    windows: Vec<usize>,
    throttle: Throttle<Bucket>,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
}

struct Inner {
    /// Whether anything is limited.
    active: AtomicBool,
    state: Mutex<State>,
    /// Somebody new waits, or the limits have changed.
    wake: Notify,
    begun: Instant,
    /// Bytes of pieces that have left.
    sent: AtomicU64,
    /// When urgent bytes last came, in milliseconds after `begun`, plus one; 0: never.
    urgent: AtomicU64,
}

/// A handle on a node's limits; cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("active", &self.0.active).finish_non_exhaustive()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(LimitsConfig::default(), None)
    }
}

/// What the clock on the wall shows.
fn local_time() -> LocalTime {
    let now = jiff::Zoned::now();
    let day = now.weekday().to_monday_zero_offset();
    let minute = i16::from(now.hour()) * 60 + i16::from(now.minute());
    LocalTime { day: day.unsigned_abs(), minute: minute.unsigned_abs() }
}

impl Limits {
    /// The limits of a node. Without `far` all peers count as near. Nothing that is limited moves on
    /// unless [`Limits::keep_time`] runs.
    #[must_use]
    pub fn new(config: LimitsConfig, far: Option<Far>) -> Self {
        let state = State {
            config,
            settings: Vec::new(),
            orders: BTreeMap::new(),
            busy: false,
            most: 0,
            far,
            rates: Rates::default(),
            windows: Vec::new(),
            throttle: Throttle::default(),
            waiting: BTreeMap::new(),
        };
        let limits = Self(Arc::new(Inner {
            active: AtomicBool::new(false),
            state: Mutex::new(state),
            wake: Notify::new(),
            begun: Instant::now(),
            sent: AtomicU64::new(0),
            urgent: AtomicU64::new(0),
        }));
        limits.refresh();
        limits
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Changes something, and puts in force what follows from it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let changed = change(&mut state);
        state.put_in_force(local_time());
        self.0.active.store(!state.throttle.is_open(), Ordering::Relaxed);
        drop(state);
        self.0.wake.notify_one();
        changed
    }

    /// Looks at the time of the day, and at what was set until now.
    pub(super) fn refresh(&self) {
        self.change(|_| ());
    }

    /// Whether the time alone may change what is in force.
    pub(super) fn depends_on_time(&self) -> bool {
        let state = self.state();
        !state.config.windows.is_empty() || state.settings.iter().any(|s| s.until.is_some())
    }

    /// Sets limits by hand, until then or until they are set again.
    ///
    /// # Errors
    /// When too much is set already.
    pub fn set(&self, rates: Rates, until: Option<Instant>) -> Result<(), TooMany> {
        self.change(|state| {
            if let Some(ever) =
                state.settings.iter_mut().find(|s| s.until.is_none() && until.is_none())
            {
                ever.rates = rates.or(ever.rates);
                return Ok(());
            }
            if state.settings.len() >= SETTINGS {
                return Err(TooMany);
            }
            // what has no end is what is left when the others are over
            let at = if until.is_some() { 0 } else { state.settings.len() };
            state.settings.insert(at, Setting { rates, until });
            Ok(())
        })
    }

    /// Makes limits part of the configuration; what was set by hand of the same counts no more.
    pub fn keep(&self, rates: Rates) {
        self.change(|state| {
            let config = &mut state.config;
            let Rates { up, down, wan_up, wan_down } = rates.or(config.always());
            (config.up, config.down, config.wan_up, config.wan_down) = (up, down, wan_up, wan_down);
            for setting in &mut state.settings {
                for (name, _) in rates.named().filter(|(_, limit)| limit.is_some()) {
                    if let Some(limit) = setting.rates.by_name(name) {
                        *limit = None;
                    }
                }
            }
        });
    }

    /// Forgets what was set by hand.
    pub fn reset(&self) {
        self.change(|state| state.settings.clear());
    }

    /// What the orders say, by blob. A blob that is not named is not urgent and has no limit.
    pub fn set_orders(&self, orders: BTreeMap<Hash, Ordered>) {
        self.change(|state| state.orders = orders);
    }

    /// Whether other programs are at work on the machine.
    pub fn set_busy(&self, busy: bool) {
        self.change(|state| state.busy = busy);
    }

    /// So many bytes of a piece have left.
    pub(super) fn sent(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.0.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A second is over: what left in it may be the most so far. `before` is what had left by then.
    pub(super) fn measure(&self, before: u64) -> u64 {
        let sent = self.0.sent.load(Ordering::Relaxed);
        let mut state = self.state();
        state.most = state.most.max(sent.saturating_sub(before));
        sent
    }

    /// What is in force.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        let state = self.state();
        InForce {
            rates: state.rates,
            config: state.config.clone(),
            windows: state.windows.clone(),
            settings: state.settings.clone(),
            busy: state.busy,
            busy_up: state.config.busy_rate(state.most),
            slots: state.slots(),
        }
    }

    /// Pieces to send at a time, and whether others than urgent ones are to be sent elsewhere.
    pub(super) fn serving(&self) -> (usize, bool) {
        let state = self.state();
        (state.slots(), state.busy && state.config.busy_rate(state.most).is_some())
    }

    /// Whether an order that stands wants this blob at once.
    #[must_use]
    pub fn is_urgent(&self, root: &Hash) -> bool {
        self.state().orders.get(root).is_some_and(|o| o.urgent)
    }

    /// Bytes of an urgent blob have come, or it has just begun.
    pub(super) fn urgent_came(&self) {
        let now = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.urgent.store(now.saturating_add(1), Ordering::Relaxed);
    }

    /// How many bytes of a blob may be asked for ahead, at most `most`; 0 while it has to wait.
    pub(super) fn ahead(&self, root: &Hash, most: u64) -> u64 {
        let urgent = self.0.urgent.load(Ordering::Relaxed);
        let active = self.0.active.load(Ordering::Relaxed);
        if urgent == 0 && !active {
            return most;
        }
        let state = self.state();
        let last = Duration::from_millis(urgent.saturating_sub(1));
        let lately = urgent > 0 && self.0.begun.elapsed().saturating_sub(last) < LATELY;
        if lately && !state.orders.get(root).is_some_and(|o| o.urgent) {
            return 0;
        }
        let keys = [Bucket::All(Way::Down), Bucket::Blob(Way::Down, *root)];
        let rate = state.throttle.least(&keys);
        rate.map_or(most, |r| r.bytes().saturating_mul(AHEAD).clamp(1, most))
    }

    /// The way of one blob's bytes to or from one peer.
    pub(super) fn flow(&self, way: Way, peer: NodeId, root: Hash) -> Flow {
        Flow { limits: self.clone(), way, peer, root }
    }

    /// Lets through who waits when it is time. Runs until dropped.
    pub async fn keep_time(self) {
        loop {
            let next = self.step(&mut self.state());
            let wake = self.0.wake.notified();
            match next {
                Some(next) => {
                    tokio::select! {
                        () = wake => {}
                        () = tokio::time::sleep_until(self.0.begun + next) => {}
                    }
                }
                None => wake.await,
            }
        }
    }

    fn step(&self, state: &mut State) -> Option<Duration> {
        let mut through = Vec::new();
        let next = state.throttle.step(self.0.begun.elapsed(), &mut through);
        for ticket in through {
            if let Some(waiting) = state.waiting.remove(&ticket) {
                // one that is gone has taken its request back, or is just about to
                let _gone = waiting.send(());
            }
        }
        next
    }
}

impl State {
    fn slots(&self) -> usize {
        self.config.slots(self.rates.up.and_then(|l| l.rate()))
    }

    fn put_in_force(&mut self, now: LocalTime) {
        let instant = Instant::now();
        self.settings.retain(|s| s.until.is_none_or(|u| u > instant) && !s.rates.is_empty());
        let (rates, windows) = self.config.at(now);
        let by_hand = self.settings.iter().fold(Rates::default(), |all, s| all.or(s.rates));
        (self.rates, self.windows) = (by_hand.or(rates), windows);
        let rate = |limit: Option<p2pinst_types::Limit>| limit.and_then(|l| l.rate());
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

/// The way of one blob's bytes to or from one peer.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    limits: Limits,
    way: Way,
    peer: NodeId,
    root: Hash,
}

impl Flow {
    /// Whether nothing at all is limited: one atomic load.
    pub(super) fn is_open(&self) -> bool {
        !self.limits.0.active.load(Ordering::Relaxed)
    }

    /// How many bytes to move in one go.
    pub(super) fn chunk(&self) -> usize {
        if self.is_open() {
            return usize::MAX;
        }
        let state = self.limits.state();
        chunk_under(state.throttle.least(&self.buckets(&state).0))
    }

    /// What the bytes fall under, and whether they are urgent.
    fn buckets(&self, state: &State) -> (Vec<Bucket>, bool) {
        let urgent = state.orders.get(&self.root).is_some_and(|o| o.urgent);
        let mut buckets = vec![Bucket::All(self.way), Bucket::Blob(self.way, self.root)];
        if state.far.as_ref().is_some_and(|far| far(&self.peer)) {
            buckets.push(Bucket::Wan(self.way));
        }
        if self.way == Way::Up && !urgent {
            buckets.push(Bucket::Busy);
        }
        (buckets, urgent)
    }

    /// Waits until so many bytes may pass: at most what [`Flow::chunk`] said, or as many as came.
    pub(super) async fn pass(&self, bytes: usize) {
        if self.is_open() {
            return;
        }
        let mut rest = bytes;
        while rest > 0 {
            let now = rest.min(CHUNK);
            rest -= now;
            if let Some((waiting, let_through)) = self.ask(now + now / HEADERS) {
                // it fails only when the node ends
                let _ended = let_through.await;
                drop(waiting);
            }
        }
    }

    /// Asks for bytes; `None` when they may pass at once.
    fn ask(&self, bytes: usize) -> Option<(Waiting<'_>, oneshot::Receiver<()>)> {
        let mut state = self.limits.state();
        let (buckets, urgent) = self.buckets(&state);
        let ticket = state.throttle.ask(&buckets, bytes, urgent);
        let (tell, mut let_through) = oneshot::channel();
        state.waiting.insert(ticket, tell);
        self.limits.step(&mut state);
        if let_through.try_recv().is_ok() {
            return None;
        }
        drop(state);
        self.limits.0.wake.notify_one();
        Some((Waiting { limits: &self.limits, ticket }, let_through))
    }
}

/// Who goes away while it waits takes its request back.
struct Waiting<'a> {
    limits: &'a Limits,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.limits.state();
        state.waiting.remove(&self.ticket);
        state.throttle.cancel(self.ticket);
        drop(state);
        self.limits.0.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::{Limit, PublicKey};
    use tokio::task::JoinSet;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId(PublicKey([n; 32]))
    }

    fn rate(bytes: u64) -> Rate {
        Rate::new(bytes).unwrap()
    }

    fn up(bytes: u64) -> Rates {
        Rates { up: Some(Limit::At(rate(bytes))), ..Rates::default() }
    }

    const ROOT: Hash = Hash([1; 32]);
    const OTHER: Hash = Hash([2; 32]);

    fn limits(config: LimitsConfig) -> (Limits, JoinSet<()>) {
        let far: Far = Box::new(|n| *n == node(9));
        let limits = Limits::new(config, Some(far));
        let mut tasks = JoinSet::new();
        tasks.spawn(limits.clone().keep_time());
        (limits, tasks)
    }

    /// How long it takes until so many bytes have passed.
    async fn time_of(flow: &Flow, bytes: usize) -> f64 {
        let begun = Instant::now();
        let mut rest = bytes;
        while rest > 0 {
            let now = rest.min(flow.chunk());
            flow.pass(now).await;
            rest -= now;
        }
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_limited_does_not_wait() {
        let (limits, _tasks) = limits(LimitsConfig::default());
        let flow = limits.flow(Way::Up, node(1), ROOT);
        assert!(flow.is_open());
        assert!(time_of(&flow, 1 << 30).await < 0.001);
        assert_eq!(limits.ahead(&ROOT, 77), 77);
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_counts_what_falls_under_it() {
        let (limits, _tasks) = limits(LimitsConfig::default());
        limits.set(Rates { wan_up: up(500_000).up, ..up(2_000_000) }, None).unwrap();
        let ordered = Ordered { urgent: false, limit: Some(rate(100_000)) };
        limits.set_orders([(OTHER, ordered)].into());
        let of = |way, peer, root| limits.flow(way, node(peer), root);
        let near = of(Way::Up, 1, ROOT);
        let far = of(Way::Up, 9, ROOT);
        let limited = of(Way::Up, 1, OTHER);
        let down = of(Way::Down, 1, OTHER);
        // a twentieth is left for headers
        let times = tokio::join!(
            time_of(&near, 10_000_000),
            time_of(&far, 2_500_000),
            time_of(&limited, 500_000),
            time_of(&down, 500_000),
        );
        for (time, least, most) in [
            (times.0, 6.0, 8.5), // what the others leave
            (times.1, 5.0, 5.6),
            (times.2, 5.0, 5.6),
            (times.3, 5.0, 5.6),
        ] {
            assert!((least..most).contains(&time), "{times:?}");
        }
        assert_eq!(limits.ahead(&OTHER, 1 << 20), 100_000);
        assert_eq!(limits.ahead(&ROOT, 1 << 20), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn limits_change_while_bytes_wait_and_who_leaves_waits_no_more() {
        let (limits, _tasks) =
            limits(LimitsConfig { up: up(16_000).up, ..LimitsConfig::default() });
        let flow = limits.flow(Way::Up, node(1), ROOT);
        let gone = tokio::time::timeout(Duration::from_secs(1), time_of(&flow, 1 << 20)).await;
        assert!(gone.is_err());
        assert_eq!(limits.state().throttle.waiting(), 0);
        assert!(limits.state().waiting.is_empty());
        let (slow, ()) = tokio::join!(time_of(&flow, 1 << 20), async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            limits.set(Rates { up: Some(Limit::None), ..Rates::default() }, None).unwrap();
        });
        assert!((9.0..10.5).contains(&slow), "{slow}");
        assert!(flow.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_set_for_a_while_covers_the_rest_for_that_long() {
        let (limits, _tasks) =
            limits(LimitsConfig { up: up(1_000_000).up, ..LimitsConfig::default() });
        let now = || limits.in_force().rates.up.and_then(Limit::rate).map(Rate::bytes);
        let after = |secs| Some(Instant::now() + Duration::from_secs(secs));
        limits.set(up(2_000_000), after(100)).unwrap();
        limits.set(up(3_000_000), None).unwrap();
        assert_eq!(now(), Some(2_000_000));
        assert!(limits.depends_on_time());
        tokio::time::sleep(Duration::from_secs(101)).await;
        limits.refresh();
        assert_eq!(now(), Some(3_000_000));
        assert!(!limits.depends_on_time());
        limits.set(up(4_000_000), None).unwrap();
        assert_eq!((now(), limits.in_force().settings.len()), (Some(4_000_000), 1));
        limits.keep(up(5_000_000));
        assert_eq!((now(), limits.in_force().settings.len()), (Some(5_000_000), 0));
        limits.set(up(6_000_000), after(9)).unwrap();
        limits.reset();
        assert_eq!(now(), Some(5_000_000));
        let all = (0..99).map(|_| limits.set(up(6_000_000), after(9)));
        assert!(all.collect::<Result<Vec<_>, _>>().is_err(), "bounded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_node_throttles_what_is_not_urgent() {
        let (limits, _tasks) = limits(LimitsConfig::default());
        limits.set_orders([(ROOT, Ordered { urgent: true, limit: None })].into());
        let (urgent, other) =
            (limits.flow(Way::Up, node(1), ROOT), limits.flow(Way::Up, node(1), OTHER));
        limits.set_busy(true);
        assert_eq!(limits.serving(), (3, true));
        assert!(time_of(&urgent, 100_000_000).await < 0.01);
        let time = time_of(&other, 5_000_000).await;
        assert!((5.0..5.5).contains(&time), "{time}");
        limits.sent(80_000_000);
        assert_eq!(limits.measure(0), 80_000_000);
        limits.refresh();
        assert_eq!(limits.in_force().busy_up, Some(rate(10_000_000)));
        limits.set_busy(false);
        assert!(other.is_open() && !limits.serving().1);
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_blobs_that_come_let_others_wait() {
        let (limits, _tasks) = limits(LimitsConfig::default());
        limits.set_orders([(ROOT, Ordered { urgent: true, limit: None })].into());
        assert_eq!(limits.ahead(&OTHER, 99), 99);
        limits.urgent_came();
        assert_eq!((limits.ahead(&OTHER, 99), limits.ahead(&ROOT, 99)), (0, 99));
        tokio::time::sleep(LATELY).await;
        assert_eq!(limits.ahead(&OTHER, 99), 99, "one that gets nothing holds up nobody");
    }
}
