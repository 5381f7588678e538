//! What a conversation with a controller, and those around it, know of each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2pinst_boot::power::action::PowerState;
use p2pinst_boot::power::drive::Surroundings;
use p2pinst_boot::power::error::PowerError;
use p2pinst_boot::power::run::{Answer, DriverStep, Seen};
use p2pinst_types::Millis;
use tracing::info;

use super::job::Observed;

#[derive(Debug)]
struct Inner {
    until: Instant,
    called_off: bool,
    seen: Seen,
    state: Option<PowerState>,
    doing: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watched(Mutex<Inner>);

impl Watched {
    /// Under a lease that ends then.
    pub(super) fn new(until: Instant) -> Self {
        Self(Mutex::new(Inner {
            until,
            called_off: false,
            seen: Seen::default(),
            state: None,
            doing: String::new(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the machine is on, as its controller said last.
    pub(super) fn on(&self) -> Option<bool> {
        match self.inner().state {
            Some(PowerState::On) => Some(true),
            Some(PowerState::Off) => Some(false),
            Some(PowerState::Unknown) | None => None,
        }
    }

    /// What the controller was asked last.
    pub(super) fn doing(&self) -> String {
        self.inner().doing.clone()
    }

    /// Whether the lease is still held: one that has ended is another's.
    pub(super) fn may_renew(&self) -> bool {
        let inner = self.inner();
        !inner.called_off && Instant::now() < inner.until
    }

    /// The lease ends then.
    pub(super) fn renewed(&self, until: Instant) {
        self.inner().until = until;
    }

    /// Nobody wants the conversation any more.
    pub(super) fn call_off(&self) {
        self.inner().called_off = true;
    }

    /// What others see of the machine, and what time it is for the cluster and for the conversation.
    pub(super) fn observed(&self, observed: Observed, (now, own): (Millis, Duration)) {
        let mut inner = self.inner();
        inner.seen.writing = observed.writing;
        let on_own_clock = |then: Millis| own.saturating_sub(now.since(then));
        inner.seen.booted = observed.booted.map(on_own_clock);
        inner.seen.arrived = observed.arrived.map(on_own_clock);
    }

    fn seen(&self) -> Seen {
        let inner = self.inner();
        let called_off = inner.called_off || Instant::now() >= inner.until;
        Seen { called_off, ..inner.seen }
    }
}

/// Calls a conversation off when it is dropped.
#[derive(Debug)]
pub(super) struct CallsOff(pub(super) Arc<Watched>);

impl Drop for CallsOff {
    fn drop(&mut self) {
        self.0.call_off();
    }
}

/// The conversation's side.
#[derive(Debug)]
pub(super) struct Watcher(pub(super) Arc<Watched>);

impl Surroundings for Watcher {
    fn seen(&mut self) -> Seen {
        self.0.seen()
    }

    fn did(&mut self, step: DriverStep, result: Result<Answer, &PowerError>) {
        let what = match step {
            DriverStep::Query => "read the power state".to_owned(),
            DriverStep::Set(switch) => format!("asked for {switch}"),
            DriverStep::SetBoot(boot) => format!("set the boot device to {}", boot.device),
            DriverStep::ReadBoot => "read the boot device".to_owned(),
            DriverStep::ClearBoot => "cleared the boot device".to_owned(),
        };
        let mut inner = self.0.inner();
        if let Ok(Answer::Power(state)) = result {
            inner.state = Some(state);
        }
        match result {
            Ok(_) if step == DriverStep::Query => {}
            Ok(_) => info!(%what, "a machine's controller was asked"),
            Err(error) => info!(%what, %error, "a machine's controller was asked in vain"),
        }
        inner.doing = match result {
            Ok(_) => what,
            Err(error) => error.to_string(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_has_ended_is_not_renewed() {
        let now = Instant::now();
        let watched = Arc::new(Watched::new(now + Duration::from_secs(60)));
        let mut watcher = Watcher(Arc::clone(&watched));
        assert!(watched.may_renew() && !watcher.seen().called_off);
        // as after a stop that was longer than the lease
        watched.renewed(now);
        assert!(!watched.may_renew() && watcher.seen().called_off);
        watched.renewed(now + Duration::from_secs(60));
        drop(CallsOff(Arc::clone(&watched)));
        assert!(!watched.may_renew() && watcher.seen().called_off);
    }

    #[test]
    fn what_others_saw_is_put_on_the_clock_of_the_conversation() {
        let watched = Watched::new(Instant::now() + Duration::from_secs(60));
        let observed = Observed {
            writing: true,
            booted: Some(Millis(95_000)),
            arrived: Some(Millis(99_000)),
            said: None,
        };
        watched.observed(observed, (Millis(100_000), Duration::from_secs(30)));
        let seen = watched.seen();
        let on_own_clock = [seen.booted, seen.arrived].map(|then| then.map(|t| t.as_secs()));
        assert_eq!((seen.writing, on_own_clock), (true, [Some(25), Some(29)]));
    }
}
