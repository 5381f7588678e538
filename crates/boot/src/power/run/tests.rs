use p2pinst_types::record::hardware::Firmware;
use proptest::prelude::*;

use super::*;
use crate::power::action::Span;
use crate::power::error::{Class, Fault};

const ALL: Capabilities = Capabilities {
    reads: true,
    off: true,
    soft_off: true,
    boot: true,
    once: true,
    reads_boot: true,
};
const PXE: Boot = Boot { device: BootDevice::Pxe, firmware: Firmware::Uefi, span: Span::Once };

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn plan(desired: Desired) -> Plan {
    Plan {
        desired: Some(desired),
        boot: None,
        expect: None,
        forced: false,
        deadline: secs(3600),
        pace: Pace::default(),
    }
}

/// A controller and its machine, in virtual time, with the faults that a test gives it.
struct World {
    now: Duration,
    on: bool,
    /// What is becoming of the power, and when.
    change: Option<(bool, Duration)>,
    slow: Duration,
    /// Orders that are accepted and forgotten.
    lies: u32,
    /// Overrides that are accepted and forgotten.
    loses: u32,
    faults: Vec<Class>,
    boot: Option<Boot>,
    seen: Seen,
    /// How many starts go by before the machine really starts from the network.
    dead_starts: u32,
    /// How many of those that begin stop on their way.
    broken_starts: u32,
    log: Vec<DriverStep>,
}

impl World {
    fn new(on: bool) -> Self {
        Self {
            now: secs(100),
            on,
            change: None,
            slow: secs(3),
            lies: 0,
            loses: 0,
            faults: Vec::new(),
            boot: None,
            seen: Seen::default(),
            dead_starts: 0,
            broken_starts: 0,
            log: Vec::new(),
        }
    }

    fn state(&mut self) -> PowerState {
        if let Some((on, _)) = self.change.filter(|(_, at)| *at <= self.now) {
            self.on = on;
            self.change = None;
        }
        if self.on { PowerState::On } else { PowerState::Off }
    }

    fn start(&mut self) {
        if self.dead_starts > 0 {
            self.dead_starts -= 1;
        } else if self.boot.is_some() {
            let booted = self.now + self.slow + secs(5);
            self.seen.booted = Some(booted);
            self.seen.arrived = match self.broken_starts {
                0 => Some(booted + secs(20)),
                _ => None,
            };
            self.broken_starts = self.broken_starts.saturating_sub(1);
        }
        if self.boot.is_some_and(|boot| boot.span == Span::Once) {
            self.boot = None;
        }
    }

    fn answer(&mut self, step: DriverStep) -> Result<Answer, PowerError> {
        self.log.push(step);
        self.now += Duration::from_millis(300);
        if let Some(class) = self.faults.pop() {
            return Err(Fault::new(class, "it fails").at("try", "test:"));
        }
        let was = self.state();
        Ok(match step {
            DriverStep::Query => Answer::Power(was),
            DriverStep::ReadBoot => {
                Answer::Boot(Some(self.boot.map_or(BootDevice::None, |boot| boot.device)))
            }
            DriverStep::SetBoot(boot) => {
                if self.loses == 0 {
                    self.boot = Some(boot);
                }
                self.loses = self.loses.saturating_sub(1);
                Answer::Done
            }
            DriverStep::ClearBoot => {
                self.boot = None;
                Answer::Done
            }
            DriverStep::Set(_) if self.lies > 0 => {
                self.lies -= 1;
                Answer::Done
            }
            DriverStep::Set(switch) => {
                let on = matches!(switch, Switch::On | Switch::Reset);
                if switch == Switch::Reset || (on && was == PowerState::Off) {
                    self.start();
                }
                self.change = Some((on, self.now + self.slow));
                Answer::Done
            }
        })
    }

    fn run(&mut self, plan: Plan, can: Capabilities) -> (Outcome, History) {
        self.run_after(plan, can, History::default())
    }

    fn run_after(&mut self, plan: Plan, can: Capabilities, history: History) -> (Outcome, History) {
        let mut run = Run::new(plan, can, history, 7);
        let mut input = Input::Tick;
        for _ in 0..10_000 {
            let past = |at: &Duration| *at <= self.now;
            let (booted, arrived) = (self.seen.booted.filter(past), self.seen.arrived.filter(past));
            let seen = Seen { booted, arrived, ..self.seen };
            match run.step(self.now, seen, input) {
                Output::Do(step) => input = Input::Did(self.answer(step)),
                Output::Wait(until) => {
                    assert!(until > self.now, "a wait of no time at {:?}", self.now);
                    self.now = until.min(self.now + secs(5));
                    input = Input::Tick;
                }
                Output::Done(outcome) => return (outcome, run.history()),
            }
        }
        panic!("the run does not end: {:?}", self.log);
    }

    fn orders(&self) -> Vec<Switch> {
        let order = |step: &DriverStep| match step {
            DriverStep::Set(switch) => Some(*switch),
            _ => None,
        };
        self.log.iter().filter_map(order).collect()
    }
}

#[test]
fn what_is_so_already_is_left_alone() {
    for (on, desired) in [(true, Desired::On), (false, Desired::Off), (false, Desired::SoftOff)] {
        let mut world = World::new(on);
        assert_eq!(world.run(plan(desired), ALL).0, Outcome::Ok { orders: 0 });
        assert_eq!(world.log, [DriverStep::Query]);
    }
}

#[test]
fn a_cycle_is_off_then_the_override_then_on() {
    let mut world = World::new(true);
    let plan = Plan { boot: Some(PXE), ..plan(Desired::Cycle) };
    assert_eq!(world.run(plan, ALL).0, Outcome::Ok { orders: 2 });
    world.log.dedup();
    let expected = [
        DriverStep::Query,
        DriverStep::Set(Switch::Off),
        DriverStep::Query,
        DriverStep::SetBoot(PXE),
        DriverStep::ReadBoot,
        DriverStep::Set(Switch::On),
        DriverStep::Query,
    ];
    assert_eq!(world.log, expected);
    let mut off = World::new(false);
    assert_eq!(off.run(plan, ALL).0, Outcome::Ok { orders: 1 });
    assert_eq!(off.orders(), [Switch::On]);
}

#[test]
fn a_reset_of_what_is_off_switches_on() {
    let mut world = World::new(false);
    assert_eq!(world.run(plan(Desired::Reset), ALL).0, Outcome::Ok { orders: 1 });
    assert_eq!(world.orders(), [Switch::On]);
    let mut world = World::new(true);
    world.run(Plan { boot: Some(PXE), ..plan(Desired::Reset) }, ALL);
    assert_eq!(
        world.log[1..4],
        [DriverStep::SetBoot(PXE), DriverStep::ReadBoot, DriverStep::Set(Switch::Reset)]
    );
}

#[test]
fn a_liar_is_found_out() {
    let mut world = World::new(false);
    world.lies = 2;
    assert_eq!(world.run(plan(Desired::On), ALL).0, Outcome::Ok { orders: 3 });
    world = World::new(false);
    world.lies = 1000;
    let (outcome, _) = world.run(plan(Desired::On), ALL);
    let Outcome::Failed(reason) = outcome else { panic!("{outcome:?}") };
    assert_eq!(
        reason.to_string(),
        "the controller accepted on 8 times, but the machine is still off"
    );
}

#[test]
fn transient_failures_are_retried_by_the_table_and_fatal_ones_are_not() {
    let mut world = World::new(true);
    world.faults = vec![Class::Conn, Class::Busy, Class::Action];
    assert_eq!(world.run(plan(Desired::On), ALL).0, Outcome::Ok { orders: 0 });
    let waited = world.now - secs(100);
    assert!(waited >= secs(5) && waited < secs(9), "1, 2 and 2 s and a quarter: {waited:?}");

    for class in [Class::Auth, Class::Config, Class::Tool] {
        let mut world = World::new(true);
        world.faults = vec![class];
        let (outcome, _) = world.run(plan(Desired::Off), ALL);
        assert!(matches!(outcome, Outcome::Failed(Reason::Controller { tries: 1, .. })));
        assert_eq!(world.log.len(), 1);
    }
    let mut world = World::new(true);
    world.faults = vec![Class::Conn; 100];
    let (outcome, history) = world.run(plan(Desired::Off), ALL);
    assert!(matches!(outcome, Outcome::Failed(Reason::Controller { tries: 8, .. })), "{outcome:?}");
    assert_eq!((world.log.len(), history.failures), (8, 8));
    let waited = world.now - secs(100);
    assert!(waited >= secs(35) && waited < secs(50), "{waited:?}");
}

#[test]
fn already_there_is_no_failure() {
    let mut run = Run::new(plan(Desired::On), ALL, History::default(), 3);
    let there = || Err(Fault::new(Class::AlreadyThere, "it is on").at("switch", "test:"));
    let (mut now, mut input) = (secs(1), Input::Tick);
    let mut states = vec![PowerState::On, PowerState::Off];
    let outcome = loop {
        input = match run.step(now, Seen::default(), input) {
            Output::Do(DriverStep::Query) => Input::Did(Ok(Answer::Power(states.pop().unwrap()))),
            Output::Do(_) => Input::Did(there()),
            Output::Wait(until) => {
                now = until;
                Input::Tick
            }
            Output::Done(outcome) => break outcome,
        };
    };
    assert_eq!(outcome, Outcome::Ok { orders: 1 });
    assert_eq!(run.history().failures, 0);
}

proptest! {
    #[test]
    fn nonsense_for_answers_ends_in_time(
        desired in 0usize..5,
        answers in proptest::collection::vec(0usize..9, 1..200),
    ) {
        let all = [Desired::On, Desired::Off, Desired::SoftOff, Desired::Cycle, Desired::Reset];
        let plan = Plan { boot: Some(PXE), expect: Some(secs(20)), deadline: secs(600), ..plan(all[desired]) };
        let mut run = Run::new(plan, ALL, History::default(), 3);
        let (mut now, mut input, mut asked) = (secs(1), Input::Tick, 0);
        loop {
            input = match run.step(now, Seen::default(), input) {
                Output::Done(_) => break,
                Output::Wait(until) => {
                    prop_assert!(until > now && until <= secs(600));
                    now = until;
                    Input::Tick
                }
                Output::Do(_) => {
                    asked += 1;
                    prop_assert!(asked < 2000, "asked again and again");
                    let fault = |class| Err(Fault::new(class, "it fails").at("try", "test:"));
                    Input::Did(match answers[asked % answers.len()] {
                        0 => Ok(Answer::Power(PowerState::On)),
                        1 => Ok(Answer::Power(PowerState::Off)),
                        2 => Ok(Answer::Power(PowerState::Unknown)),
                        3 => Ok(Answer::Boot(Some(BootDevice::Pxe))),
                        4 => Ok(Answer::Boot(Some(BootDevice::Disk))),
                        5 => Ok(Answer::Boot(None)),
                        6 => fault(Class::Busy),
                        7 => fault(Class::AlreadyThere),
                        _ => Ok(Answer::Done),
                    })
                }
            };
        }
    }
}

#[test]
fn nothing_is_switched_off_while_a_scout_writes_unless_forced() {
    for desired in [Desired::Off, Desired::SoftOff, Desired::Cycle, Desired::Reset] {
        let mut world = World::new(true);
        world.seen.writing = true;
        let (outcome, _) = world.run(plan(desired), ALL);
        assert_eq!(outcome, Outcome::Failed(Reason::Writing), "{desired}");
        assert_eq!(world.orders(), []);
        let forced = Plan { forced: true, ..plan(desired) };
        assert!(matches!(world.run(forced, ALL).0, Outcome::Ok { .. }));
    }
    let mut world = World::new(false);
    world.seen.writing = true;
    assert_eq!(world.run(plan(Desired::On), ALL).0, Outcome::Ok { orders: 1 });
}

#[test]
fn a_lost_override_is_set_again_before_the_start() {
    let mut world = World::new(true);
    world.loses = 2;
    let armed = Plan { boot: Some(PXE), ..plan(Desired::Cycle) };
    assert_eq!(world.run(armed, ALL).0, Outcome::Ok { orders: 2 });
    world = World::new(true);
    world.loses = 100;
    let (outcome, _) = world.run(armed, ALL);
    assert!(matches!(outcome, Outcome::Failed(Reason::BootLost { tries: 3, .. })), "{outcome:?}");
    assert_eq!(world.orders(), [Switch::Off], "it is not started from its disk");
}

#[test]
fn only_the_machine_itself_proves_that_it_starts() {
    let armed = Plan { boot: Some(PXE), expect: Some(secs(60)), ..plan(Desired::Cycle) };
    let mut world = World::new(true);
    assert_eq!(world.run(armed, ALL).0, Outcome::Ok { orders: 2 });
    assert!(!world.log.contains(&DriverStep::ClearBoot), "the override was for one start");

    // ignored twice: the third time it lasts, and is taken back
    let mut world = World::new(true);
    world.dead_starts = 2;
    assert_eq!(world.run(armed, ALL).0, Outcome::Ok { orders: 6 });
    let lasting = DriverStep::SetBoot(Boot { span: Span::Lasting, ..PXE });
    assert_eq!(world.log.iter().filter(|step| **step == lasting).count(), 1);
    assert_eq!(world.log.last(), Some(&DriverStep::ClearBoot));
    assert_eq!(world.boot, None);

    let mut world = World::new(true);
    world.dead_starts = 100;
    let (outcome, _) = world.run(armed, ALL);
    assert!(matches!(outcome, Outcome::Failed(Reason::NotSeen { starts: 3, .. })), "{outcome:?}");
    assert_eq!(world.boot, None, "a lasting override is taken back");

    // what does not forget its override is told to
    let mut world = World::new(true);
    let can = Capabilities { once: false, ..ALL };
    assert_eq!(world.run(armed, can).0, Outcome::Ok { orders: 2 });
    assert_eq!(world.log.last(), Some(&DriverStep::ClearBoot));
    // seen before the start does not count
    let mut world = World::new(true);
    world.dead_starts = 100;
    (world.seen.booted, world.seen.arrived) = (Some(secs(98)), Some(secs(99)));
    assert!(matches!(world.run(armed, ALL).0, Outcome::Failed(Reason::NotSeen { .. })));
}

#[test]
fn a_start_that_stops_on_its_way_is_repeated() {
    let armed = Plan { boot: Some(PXE), expect: Some(secs(60)), ..plan(Desired::Cycle) };
    let mut world = World::new(true);
    world.broken_starts = 1;
    assert_eq!(world.run(armed, ALL).0, Outcome::Ok { orders: 4 });
    // as long as there are signs of it, it is waited for
    let mut world = World::new(true);
    (world.broken_starts, world.slow) = (1, secs(50));
    assert_eq!(world.run(armed, ALL).0, Outcome::Ok { orders: 4 });
    assert!(world.now >= secs(100 + 50 + 55 + 60), "{:?}", world.now);

    let mut world = World::new(true);
    world.broken_starts = 100;
    let (outcome, _) = world.run(armed, ALL);
    assert!(
        matches!(outcome, Outcome::Failed(Reason::NotArrived { starts: 3, .. })),
        "{outcome:?}"
    );
    assert_eq!(world.boot, None, "a lasting override is taken back");
}

#[test]
fn who_cannot_be_read_ends_unknown_unless_the_machine_is_seen() {
    let blind = Capabilities {
        reads: false,
        off: false,
        soft_off: false,
        boot: false,
        once: false,
        reads_boot: false,
    };
    let mut world = World::new(false);
    let mut run = Run::new(plan(Desired::On), blind, History::default(), 1);
    let mut input = Input::Tick;
    let mut steps = Vec::new();
    let outcome = loop {
        match run.step(world.now, Seen::default(), input) {
            Output::Do(step) => {
                steps.push(step);
                let unknown = Answer::Power(PowerState::Unknown);
                input =
                    Input::Did(Ok(if step == DriverStep::Query { unknown } else { Answer::Done }));
            }
            Output::Wait(until) => {
                world.now = until;
                input = Input::Tick;
            }
            Output::Done(outcome) => break outcome,
        }
    };
    assert_eq!(outcome, Outcome::Unknown(Reason::Unseen));
    assert!(steps.contains(&DriverStep::Set(Switch::On)));
    let mut world = World::new(true);
    let (outcome, _) = world.run(plan(Desired::Off), blind);
    assert_eq!(outcome, Outcome::Failed(Reason::Cannot("switch the machine off")));
    assert_eq!(world.log, []);
}

#[test]
fn reboots_keep_their_distance_and_bad_controllers_are_left_alone() {
    let mut world = World::new(true);
    let (_, history) = world.run(plan(Desired::Reset), ALL);
    let first = history.last_reboot.unwrap();
    let (outcome, history) = world.run_after(plan(Desired::Reset), ALL, history);
    assert_eq!(outcome, Outcome::Ok { orders: 1 });
    assert!(history.last_reboot.unwrap() - first >= secs(30), "{history:?}");
    let short = Plan { deadline: world.now + secs(5), ..plan(Desired::Reset) };
    let (outcome, history) = world.run_after(short, ALL, history);
    assert!(matches!(outcome, Outcome::Failed(Reason::Cooling(_))), "{outcome:?}");

    world.faults = vec![Class::Conn; 100];
    let (_, history) = world.run_after(plan(Desired::On), ALL, history);
    let (outcome, history) = world.run_after(plan(Desired::On), ALL, history);
    assert!(matches!(outcome, Outcome::Failed(Reason::Controller { tries: 2, .. })), "{outcome:?}");
    let asked = world.log.len();
    let (outcome, history) = world.run_after(plan(Desired::On), ALL, history);
    assert!(
        matches!(outcome, Outcome::Failed(Reason::Resting { failures: 10, .. })),
        "{outcome:?}"
    );
    assert_eq!(world.log.len(), asked, "it is not asked at all");
    world.now += secs(700);
    world.faults.clear();
    let (outcome, history) = world.run_after(plan(Desired::On), ALL, history);
    assert_eq!((outcome, history.failures), (Outcome::Ok { orders: 0 }, 0));
}

#[test]
fn the_deadline_holds() {
    let mut world = World::new(true);
    world.slow = secs(10_000);
    let short = Plan { deadline: secs(120), ..plan(Desired::Off) };
    let (outcome, _) = world.run(short, ALL);
    assert_eq!(outcome, Outcome::Unknown(Reason::Deadline { last: None }));
    assert!(world.now <= secs(121), "{:?}", world.now);
    let mut stubborn = World::new(true);
    stubborn.slow = secs(10_000);
    let (outcome, _) = stubborn.run(plan(Desired::SoftOff), ALL);
    assert_eq!(outcome, Outcome::Failed(Reason::StaysUp(secs(180))));
    let mut off = World::new(true);
    off.seen.called_off = true;
    assert_eq!(off.run(plan(Desired::Off), ALL).0, Outcome::Failed(Reason::CalledOff));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_run_ends_and_ok_means_so(
        on: bool,
        desired in 0usize..5,
        slow in 0u64..100,
        lies in 0u32..10,
        loses in 0u32..4,
        dead_starts in 0u32..4,
        broken_starts in 0u32..4,
        armed: bool,
        expect: bool,
        writing: bool,
        faults in proptest::collection::vec(0usize..7, 0..12),
    ) {
        let all = [Desired::On, Desired::Off, Desired::SoftOff, Desired::Cycle, Desired::Reset];
        let classes = [Class::Conn, Class::Busy, Class::Action, Class::AlreadyThere, Class::Conn, Class::Busy, Class::Auth];
        let mut world = World::new(on);
        world.slow = secs(slow);
        world.lies = lies;
        world.loses = loses;
        world.dead_starts = dead_starts;
        world.broken_starts = broken_starts;
        world.seen.writing = writing;
        world.faults = faults.into_iter().map(|i| classes[i]).collect();
        let plan = Plan {
            boot: armed.then_some(PXE),
            expect: expect.then_some(secs(90)),
            ..plan(all[desired])
        };
        let (outcome, _) = world.run(plan, ALL);
        if writing {
            prop_assert!(world.orders().iter().all(|switch| *switch == Switch::On));
        }
        if let Outcome::Ok { .. } = outcome {
            let wants_on = !matches!(all[desired], Desired::Off | Desired::SoftOff);
            let is_on = world.state() == PowerState::On;
            prop_assert!(is_on == wants_on, "{:?}", world.log);
        }
    }
}
