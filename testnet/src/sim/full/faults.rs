//! What goes wrong, and when: planned by the seed before anything happens.

use rand::RngExt as _;

use super::actors::Act;
use super::node::Node;
use super::world::{Event, World};
use crate::sim::links::Accidents;
use crate::sim::queue::{Micros, SECOND};

/// Something that goes wrong, or is right again.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The network falls apart: the side of each node.
    Partition(Vec<u8>),
    /// And is one again.
    Heal,
    /// A process is killed.
    Kill(usize),
    /// A machine loses its power.
    Cut(usize),
    /// A machine loses its power so many steps into its next write.
    CutInWrite(usize, u64),
    /// A disk is full so many steps later, or has room again.
    Full(usize, Option<u64>),
    /// A machine is gone for ever.
    Lose(usize),
}

impl World {
    /// Plans what happens until `end`.
    pub(crate) fn plan(&mut self, end: Micros) {
        let founders = self.options.nodes;
        let minutes = end / (60 * SECOND);
        let moment = |rng: &mut rand::rngs::StdRng| rng.random_range(0..end);
        for _ in 0..minutes.max(1) * 5 {
            let operator = self.rng.random_range(0..2);
            let (a, b) = (moment(&mut self.rng), moment(&mut self.rng));
            self.queue.at(a, Event::Act(Act::Publish(operator)));
            self.queue.at(b, Event::Act(Act::Regroup(1 - operator)));
        }
        for _ in 0..minutes.max(1) * founders as u64 {
            let (at, i) = (moment(&mut self.rng), self.rng.random_range(0..founders));
            self.queue.at(at, Event::Act(Act::Report(i)));
        }
        for i in 0..self.options.late {
            let at = moment(&mut self.rng);
            self.queue.at(at, Event::Act(Act::Join(founders + i)));
        }
        if self.options.equivocator {
            for _ in 0..2 {
                let at = moment(&mut self.rng);
                self.queue.at(at, Event::Act(Act::Equivocate));
            }
        }
        if self.options.liar {
            if let Some(liar) = self.nodes.get_mut(founders / 2) {
                liar.liar = true;
            }
            for _ in 0..minutes * 10 {
                let at = moment(&mut self.rng);
                self.queue.at(at, Event::Act(Act::Lie));
            }
        }
        if self.options.partitions {
            self.plan_partitions(end);
        }
        if self.options.crashes {
            self.plan_crashes(end);
        }
    }

    fn plan_partitions(&mut self, end: Micros) {
        let mut at = self.rng.random_range(0..60 * SECOND);
        while at < end {
            let by_site = self.rng.random_bool(0.5);
            let side = |i: usize, rng: &mut rand::rngs::StdRng| {
                if by_site { self.links.site(i) } else { u8::from(rng.random_bool(0.5)) }
            };
            let rng = &mut self.rng;
            let sides: Vec<u8> = (0..self.nodes.len()).map(|i| side(i, rng)).collect();
            let lasts = self.rng.random_range(5 * SECOND..120 * SECOND);
            self.queue.at(at, Event::Fault(Fault::Partition(sides)));
            self.queue.at((at + lasts).min(end), Event::Fault(Fault::Heal));
            at += lasts + self.rng.random_range(10 * SECOND..90 * SECOND);
        }
    }

    fn plan_crashes(&mut self, end: Micros) {
        let founders = self.options.nodes;
        for n in 0..(end / (20 * SECOND)) {
            let i = self.rng.random_range(0..founders);
            let fault = match n % 4 {
                0 => Fault::Kill(i),
                1 => Fault::Cut(i),
                2 => Fault::CutInWrite(i, self.rng.random_range(0..30)),
                _ => Fault::Full(i, Some(self.rng.random_range(0..30))),
            };
            let at = self.rng.random_range(0..end);
            if matches!(fault, Fault::Full(..)) {
                let over = at + self.rng.random_range(0..20 * SECOND);
                self.queue.at(over.min(end), Event::Fault(Fault::Full(i, None)));
            }
            self.queue.at(at, Event::Fault(fault));
        }
        // administrators do not lose their machines here: what is lost is what nodes wrote
        for n in 0..self.options.lost {
            let at = self.rng.random_range(0..end);
            self.queue.at(at, Event::Fault(Fault::Lose(3 + n)));
        }
    }

    pub(crate) fn on_fault(&mut self, fault: Fault) {
        self.note(format_args!("fault {fault:?}"));
        match fault {
            Fault::Partition(sides) => self.links.partition(sides),
            Fault::Heal => self.links.heal(),
            Fault::Kill(i) => {
                if let Some(node) = self.nodes.get(i) {
                    node.disk.kill();
                }
                self.stop(i, false);
                self.start_later(i);
            }
            Fault::Cut(i) => self.cut(i),
            Fault::CutInWrite(i, step) => {
                if let Some(node) = self.nodes.get_mut(i).filter(|n| n.is_up()) {
                    node.disk.fail_after(Some(step));
                    node.dying = true;
                }
            }
            Fault::Full(i, full) => {
                if let Some(node) = self.nodes.get(i).filter(|n| !n.dying) {
                    node.disk.fail_after(full);
                }
            }
            Fault::Lose(i) => {
                self.stop(i, true);
                if let Some(node) = self.nodes.get_mut(i) {
                    node.lost = true;
                }
            }
        }
    }

    /// The power of a machine fails: any part of what was not synced may be there afterwards.
    fn cut(&mut self, i: usize) {
        let chance = f64::from(self.rng.random_range(0..3)) / 2.0;
        let Some(node) = self.nodes.get(i) else { return };
        let rng = &mut self.rng;
        node.disk.cut_power(|| rng.random_bool(chance));
        self.stop(i, true);
        self.start_later(i);
    }

    /// A node whose store could not write: the power has failed, or the disk is full, which it
    /// lives with.
    pub(crate) fn bury(&mut self, i: usize) {
        let Some(node) = self.nodes.get_mut(i).filter(|n| n.failed && n.is_up()) else { return };
        node.failed = false;
        if node.dying {
            self.cut(i);
        }
    }

    fn start_later(&mut self, i: usize) {
        let later = self.rng.random_range(SECOND..60 * SECOND);
        self.queue.after(later, Event::Start(i));
    }

    /// Nothing more goes wrong: one network, no accidents, and whoever can run runs.
    pub(crate) fn calm(&mut self) {
        self.note(format_args!("calm"));
        self.links.heal();
        self.links.accidents = Accidents::default();
        for i in 0..self.nodes.len() {
            let joined = self.nodes.get(i).is_some_and(|n: &Node| n.life > 0);
            if let Some(node) = self.nodes.get_mut(i) {
                node.disk.fail_after(None);
                node.dying = false;
                node.liar = false;
            }
            if joined {
                self.start(i);
            }
        }
    }
}
