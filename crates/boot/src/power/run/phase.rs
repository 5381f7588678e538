//! The course of a run.

use std::time::Duration;

use super::{
    Answer, Capabilities, Desired, DriverStep, History, Input, Outcome, Output, Plan, PowerError,
    PowerState, RETRY, Reason, Seen, Switch, lacks,
};
use crate::power::action::{BootDevice, Span};
use crate::power::error::Class;

/// What the run is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Reads, to compare.
    Compare,
    /// Sets the override.
    Arm,
    /// Reads the override.
    CheckArmed,
    /// Gives the order.
    Order(Switch),
    /// Reads again until it has come about.
    Verify { switch: Switch, until: Duration },
    /// Waits for the machine to be seen.
    Expect { since: Duration },
    /// Takes a lasting override back.
    Disarm,
}

/// Where the power shall go next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    On,
    Off(Switch),
    /// On, by a reset where it is on already.
    Anew,
    /// The override alone.
    Boot,
}

/// A plan on its way. It has the history of its controller meanwhile.
#[derive(Debug)]
pub struct Run {
    plan: Plan,
    can: Capabilities,
    history: History,
    scatter: u64,
    goal: Goal,
    /// After it is off it is switched on.
    then_on: bool,
    phase: Phase,
    /// What was asked of the driver and not yet answered.
    asked: Option<DriverStep>,
    not_before: Duration,
    tries: u32,
    armings: u32,
    starts: u32,
    orders: u32,
    /// When the last order was given: a machine may be seen before its controller says that it is on.
    ordered: Duration,
    span: Span,
    /// Something was taken for granted that nobody could read.
    blind: bool,
    state: PowerState,
    last: Option<PowerError>,
    /// How the run ends once a lasting override is taken back.
    verdict: Option<Outcome>,
}

impl Run {
    /// A plan for a controller that can do this and has that history. The seed scatters waits, so that many runs do not ask at
    /// once.
    #[must_use]
    pub fn new(plan: Plan, can: Capabilities, history: History, seed: u64) -> Self {
        let (goal, then_on) = match plan.desired {
            None => (Goal::Boot, false),
            Some(Desired::On) => (Goal::On, false),
            Some(Desired::Off) => (Goal::Off(Switch::Off), false),
            Some(Desired::SoftOff) => (Goal::Off(Switch::SoftOff), false),
            Some(Desired::Cycle) => (Goal::Off(Switch::Off), true),
            Some(Desired::Reset) => (Goal::Anew, false),
        };
        let phase = if goal == Goal::Boot { Phase::Arm } else { Phase::Compare };
        let span = plan.boot.map_or(Span::Once, |boot| boot.span);
        Self {
            plan,
            can,
            history,
            scatter: seed,
            goal,
            then_on,
            phase,
            asked: None,
            not_before: Duration::ZERO,
            tries: 0,
            armings: 0,
            starts: 0,
            orders: 0,
            ordered: Duration::ZERO,
            span,
            blind: false,
            state: PowerState::Unknown,
            last: None,
            verdict: None,
        }
    }

    /// What is to be remembered of the controller, for its next run.
    #[must_use]
    pub fn history(&self) -> History {
        self.history
    }

    /// What to do now, after what was asked for last.
    pub fn step(&mut self, now: Duration, seen: Seen, input: Input) -> Output {
        if let (Input::Did(result), Some(step)) = (input, self.asked.take())
            && let Some(outcome) = self.answered(now, step, result)
        {
            return Output::Done(outcome);
        }
        if let Some(step) = self.asked {
            return Output::Do(step);
        }
        match self.next(now, seen) {
            Ok(Output::Do(step)) => {
                self.asked = Some(step);
                Output::Do(step)
            }
            Ok(other) => other,
            Err(reason) => Output::Done(self.ended(reason)),
        }
    }

    fn ended(&self, reason: Reason) -> Outcome {
        let given = self.orders > 0 && matches!(self.phase, Phase::Verify { .. });
        match reason {
            Reason::Deadline { .. } | Reason::CalledOff if given => Outcome::Unknown(reason),
            Reason::Unseen => Outcome::Unknown(reason),
            _ => Outcome::Failed(reason),
        }
    }

    fn next(&mut self, now: Duration, seen: Seen) -> Result<Output, Reason> {
        if seen.called_off {
            return Err(Reason::CalledOff);
        }
        if let Some(what) = lacks(&self.plan, self.can) {
            return Err(Reason::Cannot(what));
        }
        if let Some(until) = self.history.rests_until.filter(|until| now < *until) {
            let left = until.saturating_sub(now);
            if let Some(error) = &self.last {
                return Err(Reason::Controller { tries: self.tries, error: error.clone() });
            }
            return Err(Reason::Resting { failures: self.history.failures, left });
        }
        if let Phase::Expect { since } = self.phase {
            return self.expect(now, seen, since);
        }
        if now >= self.plan.deadline {
            return Err(Reason::Deadline { last: self.last.clone() });
        }
        if now < self.not_before {
            return Ok(Output::Wait(self.not_before.min(self.plan.deadline)));
        }
        match self.phase {
            Phase::Compare | Phase::Verify { .. } => Ok(Output::Do(DriverStep::Query)),
            Phase::Arm => Ok(match self.plan.boot {
                Some(boot) => {
                    Output::Do(DriverStep::SetBoot(super::Boot { span: self.span, ..boot }))
                }
                None => Output::Done(Outcome::Ok { orders: self.orders }),
            }),
            Phase::CheckArmed => Ok(Output::Do(DriverStep::ReadBoot)),
            Phase::Order(switch) => self.order(now, seen, switch),
            Phase::Disarm => Ok(Output::Do(DriverStep::ClearBoot)),
            // answered above
            Phase::Expect { .. } => Ok(Output::Wait(self.plan.deadline)),
        }
    }

    /// The last look before an order: nothing stands against it now.
    fn order(&mut self, now: Duration, seen: Seen, switch: Switch) -> Result<Output, Reason> {
        if switch != Switch::On {
            if seen.writing && !self.plan.forced {
                return Err(Reason::Writing);
            }
            let pause = self.plan.pace.min_reboot_interval;
            if let Some(last) = self.history.last_reboot
                && now < last.saturating_add(pause)
            {
                let until = last.saturating_add(pause);
                if until >= self.plan.deadline {
                    return Err(Reason::Cooling(now.saturating_sub(last)));
                }
                return Ok(Output::Wait(until));
            }
            self.history.last_reboot = Some(now);
        }
        self.orders += 1;
        self.ordered = now;
        Ok(Output::Do(DriverStep::Set(switch)))
    }

    fn answered(
        &mut self,
        now: Duration,
        step: DriverStep,
        result: Result<Answer, PowerError>,
    ) -> Option<Outcome> {
        let answer = match result {
            Err(error)
                if error.class == Class::AlreadyThere && matches!(step, DriverStep::Set(_)) =>
            {
                Answer::Done
            }
            Err(error) => return self.failed(now, step, error),
            Ok(answer) => answer,
        };
        match (step, answer) {
            (DriverStep::Query, Answer::Power(state)) => {
                self.state = state;
                if let Phase::Verify { switch, until } = self.phase {
                    return self.verify(now, switch, until);
                }
                return self.compare();
            }
            (DriverStep::ReadBoot, Answer::Boot(kept)) => return self.armed(now, kept),
            (DriverStep::Set(switch), _) => {
                let pace = self.plan.pace;
                let time = if switch == Switch::SoftOff { pace.shutdown } else { pace.settle };
                let (time, wait) = match (self.can.reads, switch) {
                    (true, _) => (time, pace.poll),
                    (false, Switch::On) => (Duration::ZERO, Duration::ZERO),
                    (false, _) => (pace.blind, pace.blind),
                };
                self.phase = Phase::Verify { switch, until: now.saturating_add(time) };
                self.pause(now, wait.min(time));
            }
            (DriverStep::SetBoot(_), _) => {
                self.armings += 1;
                self.phase = Phase::CheckArmed;
                if !self.can.reads_boot {
                    return self.armed(now, None);
                }
            }
            (DriverStep::ClearBoot, _) => {
                return Some(self.verdict.take().unwrap_or_else(|| self.done()));
            }
            // no answer to the question: asked again
            _ => self.pause(now, self.plan.pace.poll),
        }
        None
    }

    fn done(&self) -> Outcome {
        if self.blind {
            Outcome::Unknown(Reason::Unseen)
        } else {
            Outcome::Ok { orders: self.orders }
        }
    }

    /// The machine's state has been read, and nothing ordered since.
    fn compare(&mut self) -> Option<Outcome> {
        self.phase = match (self.goal, self.state) {
            (Goal::On, PowerState::On) | (Goal::Off(_), PowerState::Off) => {
                return self.reached(self.orders > 0);
            }
            (Goal::Off(switch), _) => Phase::Order(switch),
            (Goal::Anew, PowerState::On | PowerState::Unknown) if self.plan.boot.is_none() => {
                Phase::Order(Switch::Reset)
            }
            (Goal::On | Goal::Anew, PowerState::Off) if self.plan.boot.is_none() => {
                self.goal = Goal::On;
                Phase::Order(Switch::On)
            }
            (Goal::On, PowerState::Unknown) if self.plan.boot.is_none() => Phase::Order(Switch::On),
            (Goal::On | Goal::Anew | Goal::Boot, _) => Phase::Arm,
        };
        None
    }

    /// The override has been read, after it was set.
    fn armed(&mut self, now: Duration, kept: Option<BootDevice>) -> Option<Outcome> {
        let wanted = self.plan.boot.map_or(BootDevice::None, |boot| boot.device);
        if let Some(kept) = kept.filter(|kept| !kept.is_like(wanted)) {
            let tries = self.armings;
            if tries >= 3 {
                return Some(Outcome::Failed(Reason::BootLost { wanted, kept, tries }));
            }
            self.phase = Phase::Arm;
            self.pause(now, self.plan.pace.poll);
            return None;
        }
        self.armings = 0;
        self.phase = match (self.goal, self.state) {
            (Goal::Boot, _) => {
                self.well();
                return Some(Outcome::Ok { orders: self.orders });
            }
            (Goal::Anew, PowerState::On | PowerState::Unknown) => Phase::Order(Switch::Reset),
            _ => {
                self.goal = Goal::On;
                Phase::Order(Switch::On)
            }
        };
        None
    }

    /// The state has been read, after an order.
    fn verify(&mut self, now: Duration, switch: Switch, until: Duration) -> Option<Outcome> {
        let wanted = match switch {
            Switch::On | Switch::Reset => PowerState::On,
            Switch::Off | Switch::SoftOff => PowerState::Off,
        };
        if self.state == wanted {
            return self.reached(true);
        }
        if now < until {
            self.pause(now, self.plan.pace.poll);
            return None;
        }
        if self.state == PowerState::Unknown {
            self.blind = true;
            return self.reached(true);
        }
        if switch == Switch::SoftOff {
            return Some(Outcome::Failed(Reason::StaysUp(self.plan.pace.shutdown)));
        }
        self.count(now);
        if self.over() {
            let tries = self.tries;
            return Some(Outcome::Failed(Reason::Liar { switch, tries, state: self.state }));
        }
        self.phase = Phase::Compare;
        None
    }

    /// The goal is reached, with an order or without.
    fn reached(&mut self, ordered: bool) -> Option<Outcome> {
        self.well();
        if let (Goal::Off(_), true) = (self.goal, self.then_on) {
            self.then_on = false;
            self.goal = Goal::On;
            self.state = PowerState::Off;
            self.phase = match self.plan.boot {
                Some(_) => Phase::Arm,
                None => Phase::Order(Switch::On),
            };
            return None;
        }
        if matches!(self.goal, Goal::On | Goal::Anew) && ordered && self.plan.expect.is_some() {
            self.starts += 1;
            self.phase = Phase::Expect { since: self.ordered };
            return None;
        }
        Some(self.done())
    }

    /// The controller did what it was asked.
    fn well(&mut self) {
        self.tries = 0;
        self.history.failures = 0;
        self.history.rests_until = None;
    }

    fn expect(&mut self, now: Duration, seen: Seen, since: Duration) -> Result<Output, Reason> {
        let within = self.plan.expect.unwrap_or_default();
        let of_this_start = |then: &Duration| *then >= since;
        if seen.arrived.is_some_and(|arrived| of_this_start(&arrived)) {
            self.blind = false;
            return Ok(self.disarmed(self.done()));
        }
        let sign = seen.booted.filter(of_this_start);
        let until = sign.unwrap_or(since).saturating_add(within);
        if now < until && now < self.plan.deadline {
            return Ok(Output::Wait(until.min(self.plan.deadline)));
        }
        let not_seen = match sign {
            None => Reason::NotSeen { within, starts: self.starts },
            Some(_) => Reason::NotArrived { within, starts: self.starts },
        };
        // a controller that cannot switch off, or a machine that starts from what it likes, is not started again and again
        if now >= self.plan.deadline || self.starts >= 3 || !self.can.off {
            return Ok(self.disarmed(Outcome::Failed(not_seen)));
        }
        if self.starts == 2 && self.can.boot {
            self.span = Span::Lasting;
        }
        self.goal = Goal::Off(Switch::Off);
        self.then_on = true;
        self.phase = Phase::Compare;
        self.next(now, seen)
    }

    /// The end; before it a lasting override that nobody asked for is taken back.
    fn disarmed(&mut self, verdict: Outcome) -> Output {
        let once = self.plan.boot.filter(|boot| boot.span == Span::Once);
        let lasts = self.span == Span::Lasting || !self.can.once;
        if once.is_none_or(|boot| boot.device == BootDevice::None || !lasts) {
            return Output::Done(verdict);
        }
        self.verdict = Some(verdict);
        self.phase = Phase::Disarm;
        Output::Do(DriverStep::ClearBoot)
    }

    fn failed(&mut self, now: Duration, step: DriverStep, error: PowerError) -> Option<Outcome> {
        let transient = error.class.is_transient();
        self.last = Some(error.clone());
        self.count(now);
        if !transient || self.over() {
            return Some(Outcome::Failed(Reason::Controller { tries: self.tries, error }));
        }
        // what an order has done that was not answered is to be read first
        if matches!(step, DriverStep::Set(_)) && self.can.reads {
            self.phase = Phase::Compare;
        }
        None
    }

    fn over(&self) -> bool {
        self.tries as usize > RETRY.len()
    }

    fn count(&mut self, now: Duration) {
        self.tries += 1;
        self.history.failures = self.history.failures.saturating_add(1);
        if self.history.failures >= self.plan.pace.breaker {
            self.history.rests_until = Some(now.saturating_add(self.plan.pace.rest));
        }
        let nth = (self.tries as usize).saturating_sub(1);
        let seconds = RETRY.get(nth).copied().unwrap_or(0);
        self.pause(now, Duration::from_secs(seconds));
    }

    /// Waits, and up to a quarter longer.
    fn pause(&mut self, now: Duration, time: Duration) {
        // xorshift64 (Marsaglia 2003): good enough to scatter
        let mut x = self.scatter | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.scatter = x;
        let part = u32::try_from(x >> 40 & 0xff).unwrap_or(0);
        let more = (time / 4).saturating_mul(part) / 255;
        self.not_before = now.saturating_add(time).saturating_add(more);
    }
}
