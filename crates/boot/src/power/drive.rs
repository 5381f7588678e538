//! Drives a run: asks the driver, waits, and says what happened. Blocks; call it from a thread that may.
//!
//! [`Desk`] gives each controller to one run at a time and remembers what [`History`] is for.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::action::PowerState;
use super::driver::{Learnt, PowerDriver};
use super::error::{Class, Fault, PowerError};
use super::run::{Answer, DriverStep, History, Input, Outcome, Output, Plan, Run, Seen};

/// How long a run sleeps before it looks again at what is seen.
const LOOK: Duration = Duration::from_millis(200);

/// What is around a run.
pub trait Surroundings {
    /// What is seen of the machine now.
    fn seen(&mut self) -> Seen;

    /// The driver was asked this, and answered that. Everything that was done to a machine passes here.
    fn did(&mut self, step: DriverStep, result: Result<Answer, &PowerError>);
}

/// Runs a plan to its end, by the clock that began at `start`.
pub fn drive(
    driver: &mut dyn PowerDriver,
    plan: Plan,
    history: &mut History,
    start: Instant,
    seed: u64,
    around: &mut dyn Surroundings,
) -> Outcome {
    let mut run = Run::new(plan, driver.capabilities(), *history, seed);
    let mut input = Input::Tick;
    loop {
        let output = run.step(start.elapsed(), around.seen(), input);
        *history = run.history();
        input = match output {
            Output::Done(outcome) => return outcome,
            Output::Do(step) => {
                let result = ask(driver, step);
                around.did(step, result.as_ref().copied());
                Input::Did(result)
            }
            Output::Wait(until) => {
                thread::sleep(until.saturating_sub(start.elapsed()).min(LOOK));
                Input::Tick
            }
        };
    }
}

fn ask(driver: &mut dyn PowerDriver, step: DriverStep) -> Result<Answer, PowerError> {
    match step {
        DriverStep::Query => driver.query().map(Answer::Power),
        DriverStep::Set(switch) => driver.set(switch).map(|()| Answer::Done),
        DriverStep::SetBoot(boot) => driver.set_boot(boot).map(|()| Answer::Done),
        DriverStep::ReadBoot => driver.boot().map(Answer::Boot),
        DriverStep::ClearBoot => driver.clear_boot().map(|()| Answer::Done),
    }
}

/// What is known of a controller, kept between conversations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// For runs.
    pub history: History,
    /// For drivers.
    pub learnt: Learnt,
    /// What it said last, and when.
    pub state: Option<(PowerState, Duration)>,
}

/// Controllers that are remembered: more than a cluster has.
const CONTROLLERS: usize = 65_536;

#[derive(Debug, Default)]
struct Table {
    memories: HashMap<String, Memory>,
    at_work: Vec<String>,
}

/// Controllers by their lines, each given to one at a time.
#[derive(Debug, Clone, Default)]
pub struct Desk {
    table: Arc<(Mutex<Table>, Condvar)>,
}

/// A controller that nobody else of this process talks to now. Given back when dropped.
#[derive(Debug)]
pub struct Turn {
    /// What is known of the controller, to be changed.
    pub memory: Memory,
    controller: String,
    desk: Desk,
}

impl Desk {
    /// Waits for a controller to be free.
    ///
    /// # Errors
    /// Of class [`Class::Busy`] when it is not free after `patience`.
    pub fn turn(&self, controller: &str, patience: Duration) -> Result<Turn, PowerError> {
        let (table, free) = &*self.table;
        let table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = |table: &mut Table| table.at_work.iter().any(|c| c == controller);
        let (mut table, _) =
            free.wait_timeout_while(table, patience, taken).unwrap_or_else(PoisonError::into_inner);
        if taken(&mut table) || table.at_work.len() >= CONTROLLERS {
            return Err(Fault::new(Class::Busy, "another request to this controller is at work")
                .at("talk to the controller", controller));
        }
        table.at_work.push(controller.to_owned());
        let memory = table.memories.get(controller).copied().unwrap_or_default();
        Ok(Turn { memory, controller: controller.to_owned(), desk: self.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (table, free) = &*self.desk.table;
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        table.at_work.retain(|c| c != &self.controller);
        if table.memories.len() < CONTROLLERS || table.memories.contains_key(&self.controller) {
            table.memories.insert(std::mem::take(&mut self.controller), self.memory);
        }
        free.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_talks_to_one_at_a_time() {
        let desk = Desk::default();
        let mut first = desk.turn("ipmi://a", Duration::ZERO).unwrap();
        first.memory.history.failures = 3;
        let error = desk.turn("ipmi://a", Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.class, Class::Busy);
        drop(desk.turn("ipmi://b", Duration::ZERO).unwrap());
        let waits = thread::spawn({
            let desk = desk.clone();
            move || desk.turn("ipmi://a", Duration::from_secs(60)).map(|t| t.memory.history)
        });
        drop(first);
        assert_eq!(waits.join().unwrap().unwrap().failures, 3);
    }
}
