//! From what is desired to what is asked of the controller: read, compare, act, read again. Pure: no clock, socket or process.
//!
//! A run ends in [`Outcome`], and always does: every failure is counted, every wait is bounded, and the whole has a deadline.
//! A controller that accepts an order and does nothing has failed at it. Nothing is switched off or reset while the machine's
//! scout is writing its disk, unless the run is forced. Lost when the process ends: the run; who starts another begins by reading.

mod phase;

use std::time::Duration;

use super::action::{Boot, BootDevice, Desired, PowerState, Switch};
use super::driver::Capabilities;
use super::error::PowerError;

pub use phase::Run;

/// Seconds before the next try, after the first failure, the second, …; after the last the run ends.
const RETRY: [u64; 7] = [1, 2, 2, 4, 6, 8, 12];

/// What is to be done. Times are [`Duration`]s since a start that the caller chooses and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What the machine's power shall be; none: only the override of its boot device is set.
    pub desired: Option<Desired>,
    /// The override, set immediately before every start.
    pub boot: Option<Boot>,
    /// How long the machine may say nothing after its start, and after each sign of it, until it has arrived; none: the
    /// controller's word is enough.
    pub expect: Option<Duration>,
    /// Switches off and resets although a scout is writing.
    pub forced: bool,
    /// When the run ends at the latest.
    pub deadline: Duration,
    /// What it keeps to.
    pub pace: Pace,
}

/// How fast controllers and machines are asked and judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two readings: controllers lose packets, or themselves, when they are asked often.
    pub poll: Duration,
    /// How long a change may take after it was accepted. Simulators take 11 s, real ones 30 s.
    pub settle: Duration,
    /// How long a system may take to shut down.
    pub shutdown: Duration,
    /// How long a machine stays off whose controller does not say that it is.
    pub blind: Duration,
    /// Between two times that a machine is switched off or reset.
    pub min_reboot_interval: Duration,
    /// After so many failures in a row the controller is left alone.
    pub breaker: u32,
    /// For so long.
    pub rest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(2),
            settle: Duration::from_secs(60),
            shutdown: Duration::from_secs(180),
            blind: Duration::from_secs(10),
            min_reboot_interval: Duration::from_secs(30),
            breaker: 10,
            rest: Duration::from_secs(600),
        }
    }
}

/// What is remembered of a controller between runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// When its machine was switched off or reset last.
    pub last_reboot: Option<Duration>,
    /// How often it has failed in a row.
    pub failures: u32,
    /// Until when it is left alone.
    pub rests_until: Option<Duration>,
}

/// What others see of the machine meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its scout is writing its disk.
    pub writing: bool,
    /// When it was last seen on its way: it asked for something to boot.
    pub booted: Option<Duration>,
    /// When it arrived: its scout is known.
    pub arrived: Option<Duration>,
    /// Nobody wants the run any more.
    pub called_off: bool,
}

/// What is asked of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverStep {
    /// Read the power state.
    Query,
    /// Change it.
    Set(Switch),
    /// Override the boot device.
    SetBoot(Boot),
    /// Read the override.
    ReadBoot,
    /// Take the override back.
    ClearBoot,
}

/// What a driver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To [`DriverStep::Query`].
    Power(PowerState),
    /// To [`DriverStep::ReadBoot`].
    Boot(Option<BootDevice>),
    /// To the others.
    Done,
}

/// What a run is told.
#[derive(Debug)]
pub enum Input {
    /// Time has passed; also how a run begins.
    Tick,
    /// The driver has done what it was asked last.
    Did(Result<Answer, PowerError>),
}

/// What a run wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask the driver, and say what it answered.
    Do(DriverStep),
    /// Come again then, or when something is seen.
    Wait(Duration),
    /// It is over.
    Done(Outcome),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As desired, and verified; with how many orders were given to the controller. None: it was so before.
    Ok {
        /// Orders given.
        orders: u32,
    },
    /// Not as desired.
    Failed(Reason),
    /// The orders were given, and nobody can say what came of them.
    Unknown(Reason),
}

/// Why a run did not end well. `Display` says it for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The controller failed, for the last time or in a way that asking again does not mend.
    #[error("after {tries} tries: {error}")]
    Controller {
        /// How often it was tried.
        tries: u32,
        /// The last failure.
        error: PowerError,
    },
    /// The controller accepted an order, and nothing happened.
    #[error("the controller accepted {switch} {tries} times, but the machine is still {state}")]
    Liar {
        /// The order.
        switch: Switch,
        /// How often it was given.
        tries: u32,
        /// What the controller says of the machine.
        state: PowerState,
    },
    /// The system does not shut down.
    #[error("the machine's system has not shut down within {} s: switch it off without asking it", .0.as_secs())]
    StaysUp(Duration),
    /// The controller does not keep the override.
    #[error("the controller accepted the boot device {wanted} {tries} times, but says {kept}")]
    BootLost {
        /// What was asked for.
        wanted: BootDevice,
        /// What it says.
        kept: BootDevice,
        /// How often it was asked.
        tries: u32,
    },
    /// The machine was not seen.
    #[error(
        "the controller says that the machine is on, but it was not seen within {} s after {starts} starts: look at its console and its boot order",
        within.as_secs()
    )]
    NotSeen {
        /// How long it had, each time.
        within: Duration,
        /// How often it was started.
        starts: u32,
    },
    /// The machine began to start, and did not arrive.
    #[error(
        "the machine asked for something to boot and then nothing more was heard of it for {} s, after {starts} starts: look at its console, and at `p2pinst boot log`",
        within.as_secs()
    )]
    NotArrived {
        /// How long it said nothing, each time.
        within: Duration,
        /// How often it was started.
        starts: u32,
    },
    /// Its scout is writing.
    #[error("the machine's scout is writing its disk: wait for it, or force it")]
    Writing,
    /// The controller is left alone.
    #[error("the controller has failed {failures} times in a row and is left alone for {} s more", left.as_secs())]
    Resting {
        /// How often.
        failures: u32,
        /// For how long still.
        left: Duration,
    },
    /// The machine was switched a moment ago.
    #[error("the machine was switched off or reset {} s ago, and the time does not suffice to wait", .0.as_secs())]
    Cooling(Duration),
    /// The controller has no such order.
    #[error("the controller cannot {0}")]
    Cannot(&'static str),
    /// The time is over.
    #[error("the time is over{}", last.as_ref().map_or(String::new(), |e| format!("; last: {e}")))]
    Deadline {
        /// The last failure, if there was one.
        last: Option<PowerError>,
    },
    /// Nobody can see what came of it.
    #[error("the orders were given, but the controller does not say whether the machine is on")]
    Unseen,
    /// Nobody wants it any more.
    #[error("it was called off")]
    CalledOff,
}

/// What of a plan a controller cannot do; none when it can do all.
#[must_use]
pub fn lacks(plan: &Plan, can: Capabilities) -> Option<&'static str> {
    let off = matches!(plan.desired, Some(Desired::Off | Desired::Cycle | Desired::Reset));
    if off && !can.off {
        return Some("switch the machine off");
    }
    if plan.desired == Some(Desired::SoftOff) && !can.soft_off {
        return Some("ask the machine's system to shut down");
    }
    (plan.boot.is_some() && !can.boot).then_some("choose what the machine starts from")
}

#[cfg(test)]
mod tests;
