//! The simulated links: what a host sends, shared by its flows; what a host or a site takes in.
//!
//! An up-link is shared exactly, flow by flow. A down-link, and a site's link to the others, is a
//! fluid: it passes on no more than its rate from the moment at which it was offered something. There
//! is no loss; who sends into a full link queues there.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::sim::queue::{Micros, SECOND};

/// How the flows of one up-link share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Share {
    /// Evenly.
    Fair,
    /// As TCP does here: one flow may have nine tenths, another one another second.
    Unfair,
    /// One after the other.
    Fifo,
}

/// A flow on an up-link: one piece.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow<T> {
    pub(super) what: T,
    /// When it began.
    pub(super) since: f64,
    /// At which virtual time it has all been sent.
    until: f64,
    weight: f64,
}

/// A host's up-link.
#[derive(Debug)]
pub(super) struct Up<T> {
    /// Bytes per microsecond.
    rate: f64,
    share: Share,
    /// Bytes that a flow of weight 1 has been able to send so far.
    virtually: f64,
    updated: f64,
    flows: Vec<Flow<T>>,
    /// Which plan for the next end is valid.
    turn: u32,
}

impl<T: Copy> Up<T> {
    pub(super) fn new(rate: f64, share: Share) -> Self {
        Self { rate, share, virtually: 0.0, updated: 0.0, flows: Vec::new(), turn: 0 }
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.flows.is_empty()
    }

    fn weight(&self) -> f64 {
        match self.share {
            Share::Fifo => 1.0,
            Share::Fair | Share::Unfair => self.flows.iter().map(|f| f.weight).sum(),
        }
    }

    fn update(&mut self, now: f64) {
        if self.is_busy() {
            self.virtually += (now - self.updated) * self.rate / self.weight();
        }
        self.updated = now;
    }

    /// Begins to send so many bytes.
    pub(super) fn send(&mut self, now: Micros, what: T, bytes: f64, weight: f64) {
        let now = now as f64;
        self.update(now);
        let from = match self.share {
            Share::Fifo => self.flows.last().map_or(self.virtually, |f| f.until),
            Share::Fair | Share::Unfair => self.virtually,
        };
        let until = from + bytes / weight;
        self.flows.push(Flow { what, since: now, until, weight });
    }

    /// When the next flow ends, and the turn that this is told for.
    pub(super) fn next_end(&mut self) -> Option<(Micros, u32)> {
        self.turn = self.turn.wrapping_add(1);
        let until = self.flows.iter().map(|f| f.until).min_by(f64::total_cmp)?;
        let after = (until - self.virtually).max(0.0) * self.weight() / self.rate;
        Some(((self.updated + after).ceil() as Micros, self.turn))
    }

    /// The flows that have ended, if that turn is still valid.
    pub(super) fn ended(&mut self, now: Micros, turn: u32) -> Vec<Flow<T>> {
        if turn != self.turn {
            return Vec::new();
        }
        self.update(now as f64);
        let now = self.virtually + 1e-6;
        let (ended, rest) = self.flows.iter().partition(|f| f.until <= now);
        self.flows = rest;
        ended
    }

    /// Takes flows off.
    pub(super) fn remove(&mut self, now: Micros, which: impl Fn(&T) -> bool) {
        self.update(now as f64);
        self.flows.retain(|f| !which(&f.what));
    }
}

/// A link that takes in what others send.
#[derive(Debug)]
pub(super) struct Fluid {
    rate: f64,
    free: f64,
}

impl Fluid {
    pub(super) fn new(rate: f64) -> Self {
        Self { rate, free: 0.0 }
    }

    /// When so many bytes are through, that were sent from `since` to `until`.
    pub(super) fn pass(&mut self, since: f64, until: f64, bytes: f64) -> f64 {
        self.free = self.free.max(since) + bytes / self.rate;
        self.free.max(until)
    }
}

/// The weight of a flow between two hosts in this second.
pub(super) fn weight(share: Share, seed: u64, from: u32, to: u32, now: Micros) -> f64 {
    if share != Share::Unfair {
        return 1.0;
    }
    let pair = u64::from(from) << 40 ^ u64::from(to) << 20 ^ (now / SECOND);
    let mut rng = StdRng::seed_from_u64(seed ^ pair);
    10f64.powf(-2.0 * rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_share_an_up_link() {
        let mut up = Up::new(10.0, Share::Fair);
        up.send(0, 'a', 1000.0, 1.0);
        up.send(50, 'b', 1000.0, 1.0);
        // a: 500 left at 50, at half the rate
        let (at, turn) = up.next_end().unwrap();
        assert_eq!(at, 150);
        let ended = up.ended(at, turn);
        assert_eq!(ended.iter().map(|f| f.what).collect::<Vec<_>>(), ['a']);
        assert_eq!(up.next_end().map(|n| n.0), Some(200));
        assert!(up.ended(200, turn).is_empty(), "an old plan");
    }

    #[test]
    fn or_go_one_after_the_other() {
        let mut up = Up::new(10.0, Share::Fifo);
        up.send(0, 'a', 1000.0, 1.0);
        up.send(0, 'b', 500.0, 1.0);
        let (at, turn) = up.next_end().unwrap();
        assert_eq!((at, up.ended(at, turn).len()), (100, 1));
        assert_eq!(up.next_end().map(|n| n.0), Some(150));
    }

    #[test]
    fn a_fluid_passes_on_no_more_than_its_rate() {
        let mut down = Fluid::new(10.0);
        // two senders at half the rate each, at the same time
        assert_eq!(down.pass(0.0, 200.0, 1000.0), 200.0);
        assert_eq!(down.pass(0.0, 200.0, 1000.0), 200.0);
        assert_eq!(down.pass(0.0, 200.0, 1000.0), 300.0);
    }
}
