//! How fast bytes may go and come: the shell around `p2pinst-chunks`' throttle and rates. What is set
//! is in `state`, who waits in `flow`.
//!
//! Every chunk of a piece's bytes passes [`Flow::pass`]: before it is written, after it was read. While
//! nothing is limited that is one atomic load. What was set by hand is forgotten when the node stops,
//! unless it was kept in the configuration.

mod flow;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use p2pinst_chunks::rates::{LimitsConfig, LocalTime, Slots};
use p2pinst_types::{Hash, Rate, Rates};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) use self::flow::Flow;
pub(super) use self::state::Way;
use self::state::{Bucket, SETTINGS, State};
use super::lock;
use super::places::Places;

/// Urgent bytes that came within this time let what is not urgent wait.
const LATELY: Duration = Duration::from_secs(2);
/// Seconds of a limit on incoming bytes that may be asked for ahead.
const AHEAD: u64 = 1;

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
    pub slots: Slots,
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
        Self::new(LimitsConfig::default(), Places::default())
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
    /// The limits of a node. Nothing that is limited moves on unless [`Limits::keep_time`] runs.
    #[must_use]
    pub fn new(config: LimitsConfig, places: Places) -> Self {
        let limits = Self(Arc::new(Inner {
            active: AtomicBool::new(false),
            state: Mutex::new(State::new(config, places)),
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
        self.change(|state| state.set(rates, until))
    }

    /// Makes limits part of the configuration; what was set by hand of the same counts no more.
    pub fn keep(&self, rates: Rates) {
        self.change(|state| state.keep(rates));
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
    pub(super) fn serving(&self) -> (Slots, bool) {
        let state = self.state();
        (state.slots(), state.busy && state.config.busy_rate(state.most).is_some())
    }

    /// Whether an order that stands wants this blob at once.
    #[must_use]
    pub fn is_urgent(&self, root: &Hash) -> bool {
        self.state().is_urgent(root)
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
        if lately && !state.is_urgent(root) {
            return 0;
        }
        let keys = [Bucket::All(Way::Down), Bucket::Blob(Way::Down, *root)];
        let rate = state.throttle.least(&keys);
        rate.map_or(most, |r| r.bytes().saturating_mul(AHEAD).clamp(1, most))
    }
}
