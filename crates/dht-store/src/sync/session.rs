//! One sync with one peer, as a state machine: says what it wants, is given it, goes on.
//!
//! Sans-IO: the shell asks the peer and the store. The peer only answers; whoever begins a sync
//! pulls what it lacks and pushes what the other lacks.

use std::collections::VecDeque;

use p2pinst_types::record::SignedRoot;
use p2pinst_types::{Cell, Hash, Millis, Plane};

use super::{Difference, LogState, Part, bucket_of, buckets, compare, rest};
use crate::admission::Outcome;
use crate::wire::{CellBytes, Request, Response};

/// Steps of one sync: each moves up to half a megabyte.
const STEPS: usize = 512;
/// Parts that one request may name: keeps the frame small.
const PARTS: usize = 512;
/// Buckets whose logs are asked for at once: an eighth of all.
const BUCKETS: usize = 32;

/// What the session needs to go on.
#[derive(Debug)]
pub enum Want {
    /// The state of the own control plane.
    State,
    /// An answer of the peer.
    Ask(Request),
    /// These cells judged and stored.
    Apply {
        /// The cells.
        cells: Vec<Cell>,
        /// What they cover, says the peer.
        covered: Vec<Part>,
    },
    /// The own cells of these parts, as many as a message may hold, and what they cover.
    Select(Vec<Part>),
    /// Newer roots taken over.
    Extend(Vec<SignedRoot>),
    /// Nothing: the sync is over.
    Nothing,
}

/// What the session is given.
#[derive(Debug)]
pub enum Given {
    /// To begin with.
    Nothing,
    /// To [`Want::State`].
    State {
        /// One hash over all of it.
        digest: Hash,
        /// How many roots there are.
        roots: u64,
        /// Every log.
        logs: Vec<LogState>,
        /// The local clock.
        clock: Millis,
    },
    /// To [`Want::Ask`].
    Answer(Response),
    /// To [`Want::Apply`].
    Applied(Vec<Outcome>),
    /// To [`Want::Select`].
    Selected(Vec<Cell>, Vec<Part>),
    /// To [`Want::Extend`].
    Extended,
}

/// The peer does not keep to the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not keep to the store protocol")]
pub struct Violation;

/// What a sync moved.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Cells that were new here.
    pub pulled: usize,
    /// Cells that were sent.
    pub pushed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begin,
    State,
    Heads,
    Logs,
    Roots,
    Pull,
    Apply,
    Select,
    Push,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    steps: usize,
    /// The own logs, as last seen.
    ours: Vec<LogState>,
    roots: u64,
    asked_roots: bool,
    /// Buckets whose logs are still to be compared.
    buckets: VecDeque<u8>,
    asked: Vec<u8>,
    /// What is still to be moved.
    difference: Difference,
    /// What was to be moved the last time: when it is the same again, one of the two cannot take it.
    last: Option<Difference>,
    pulled: Vec<Part>,
    moved: Moved,
    heard: Option<Millis>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            phase: Phase::Begin,
            steps: 0,
            ours: Vec::new(),
            roots: 0,
            asked_roots: false,
            buckets: VecDeque::new(),
            asked: Vec::new(),
            difference: Difference::default(),
            last: None,
            pulled: Vec::new(),
            moved: Moved::default(),
            heard: None,
        }
    }
}

impl Session {
    /// What was moved so far.
    #[must_use]
    pub fn moved(&self) -> Moved {
        self.moved
    }

    /// The peer's clock, if it was heard since this was asked last.
    pub fn heard(&mut self) -> Option<Millis> {
        self.heard.take()
    }

    /// Goes on with what was wanted.
    ///
    /// # Errors
    /// When the peer answers something else than was asked for.
    pub fn step(&mut self, given: Given) -> Result<Want, Violation> {
        self.steps += 1;
        if self.steps > STEPS {
            return Ok(Want::Nothing);
        }
        match (self.phase, given) {
            (Phase::Begin, Given::Nothing) | (Phase::Roots, Given::Extended) => Ok(self.look()),
            (Phase::State, Given::State { digest, roots, logs, clock }) => {
                (self.ours, self.roots) = (logs, roots);
                self.phase = Phase::Heads;
                Ok(Want::Ask(Request::Heads { digest, roots, clock }))
            }
            (Phase::Heads, Given::Answer(answer)) => self.on_heads(answer),
            (Phase::Logs, Given::Answer(Response::Logs { logs })) => self.on_logs(&logs),
            (Phase::Roots, Given::Answer(Response::Roots { roots })) => Ok(Want::Extend(roots)),
            (Phase::Pull, Given::Answer(Response::Cells { cells, covered })) => {
                self.difference.pull = rest(&self.difference.pull, &covered);
                self.phase = Phase::Apply;
                Ok(Want::Apply { cells: control_only(cells), covered })
            }
            (Phase::Apply, Given::Applied(outcomes)) => {
                self.moved.pulled += outcomes.iter().filter(|o| **o == Outcome::Accepted).count();
                if self.difference.pull == self.pulled {
                    self.difference.pull.clear(); // it brought no step forward
                }
                Ok(self.go_on())
            }
            (Phase::Select, Given::Selected(cells, covered)) => {
                let left = rest(&self.difference.push, &covered);
                self.difference.push = if left == self.difference.push { Vec::new() } else { left };
                self.phase = Phase::Push;
                let cells = cells.iter().map(CellBytes::of).collect();
                Ok(Want::Ask(Request::Push { cells, covered }))
            }
            (Phase::Push, Given::Answer(Response::Outcomes(outcomes))) => {
                self.moved.pushed += outcomes.iter().filter(|o| o.is_here()).count();
                Ok(self.go_on())
            }
            _ => Err(Violation),
        }
    }

    fn look(&mut self) -> Want {
        self.phase = Phase::State;
        Want::State
    }

    fn on_heads(&mut self, answer: Response) -> Result<Want, Violation> {
        let theirs = match answer {
            Response::Same { roots, clock } => {
                self.heard = Some(clock);
                return Ok(if self.lacks(roots) { self.ask_roots() } else { Want::Nothing });
            }
            Response::Heads { logs, roots, clock } => {
                self.heard = Some(clock);
                if self.lacks(roots) {
                    return Ok(self.ask_roots());
                }
                logs
            }
            Response::Buckets { digests, roots, clock } => {
                self.heard = Some(clock);
                if self.lacks(roots) {
                    return Ok(self.ask_roots());
                }
                let ours = buckets(&self.ours);
                let differ = |n: &u8| {
                    let of = |all: &[(u8, u64)]| all.iter().find(|(b, _)| b == n).map(|b| b.1);
                    of(&ours) != of(&digests)
                };
                self.buckets = (0..=u8::MAX).filter(differ).collect();
                self.difference = Difference::default();
                return Ok(self.ask_logs());
            }
            _ => return Err(Violation),
        };
        self.difference = compare(&self.ours, &theirs);
        Ok(self.settle())
    }

    /// Whether the peer has roots that were not asked for yet.
    fn lacks(&self, roots: u64) -> bool {
        roots > self.roots && !self.asked_roots
    }

    /// The peer knows newer roots: they come first, since they may say who has which power.
    fn ask_roots(&mut self) -> Want {
        self.phase = Phase::Roots;
        self.asked_roots = true;
        Want::Ask(Request::Roots)
    }

    fn ask_logs(&mut self) -> Want {
        let n = self.buckets.len().min(BUCKETS);
        self.asked = self.buckets.drain(..n).collect();
        if self.asked.is_empty() {
            return self.settle();
        }
        self.phase = Phase::Logs;
        Want::Ask(Request::Logs { buckets: self.asked.clone() })
    }

    fn on_logs(&mut self, theirs: &[LogState]) -> Result<Want, Violation> {
        let asked = |l: &LogState| self.asked.contains(&bucket_of(&l.author));
        if !theirs.iter().all(asked) {
            return Err(Violation);
        }
        let ours: Vec<LogState> = self.ours.iter().filter(|l| asked(l)).cloned().collect();
        let more = compare(&ours, theirs);
        self.difference.pull.extend(more.pull);
        self.difference.push.extend(more.push);
        Ok(self.ask_logs())
    }

    /// All that differs is known.
    fn settle(&mut self) -> Want {
        if self.last.as_ref() == Some(&self.difference) {
            return Want::Nothing; // what remains cannot be taken by one of the two
        }
        self.last = Some(self.difference.clone());
        self.go_on()
    }

    fn go_on(&mut self) -> Want {
        if !self.difference.pull.is_empty() {
            self.phase = Phase::Pull;
            self.pulled = self.difference.pull.clone();
            let parts = self.pulled.iter().take(PARTS).cloned().collect();
            return Want::Ask(Request::Pull { parts });
        }
        if !self.difference.push.is_empty() {
            self.phase = Phase::Select;
            return Want::Select(self.difference.push.iter().take(PARTS).cloned().collect());
        }
        self.look()
    }
}

/// Data-plane cells have their own way; what is no cell is left out.
fn control_only(cells: Vec<CellBytes>) -> Vec<Cell> {
    let cells = cells.into_iter().filter_map(|c| Cell::parse(c.0).ok());
    cells.filter(|c| c.id.kind.plane() == Plane::Control).collect()
}
