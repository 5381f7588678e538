//! What lies between the simulated nodes: latency, faults, partitions, and what the bytes cost.

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

use super::queue::{Micros, SECOND};

/// TCP and IP headers with timestamps, and Noise's length and tag: for each segment.
const SEGMENT_OVERHEAD: u64 = 52 + 18;
/// What of a message fits in one segment.
const SEGMENT: u64 = 1380;
/// Opening and closing a stream: yamux frames and the two names of multistream-select, both ways.
const STREAM: u64 = 160;

/// Bytes on the wire, both ways together, of a message of `len` bytes.
#[must_use]
pub fn message_bytes(len: usize) -> u64 {
    let len = len as u64 + 4 + 12; // the frame's length, yamux's header
    len + len.div_ceil(SEGMENT).max(1) * SEGMENT_OVERHEAD
}

/// Bytes on the wire of the stream that a request and its response are sent on.
#[must_use]
pub fn stream_bytes() -> u64 {
    STREAM + 4 * SEGMENT_OVERHEAD
}

/// How often messages meet with an accident: chances from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Accidents {
    /// Lost.
    pub loss: f64,
    /// Delivered twice.
    pub twice: f64,
    /// Delayed by up to a second, so that later ones overtake it.
    pub reorder: f64,
    /// Delayed by up to half a minute: longer than who asked waits.
    pub late: f64,
}

impl Accidents {
    /// A tenth of all messages meets with each.
    #[must_use]
    pub fn tenth() -> Self {
        Self { loss: 0.1, twice: 0.1, reorder: 0.1, late: 0.1 }
    }
}

/// Between which nodes messages go, and how long they take.
#[derive(Debug, Clone)]
pub struct Links {
    /// The site of each node.
    sites: Vec<u8>,
    /// The side of the present partition on which each node is.
    sides: Vec<u8>,
    /// One way, within a site.
    pub lan: Micros,
    /// One way, between sites.
    pub wan: Micros,
    /// Up to so much is added at random, in percent.
    pub jitter: u64,
    /// What happens to messages.
    pub accidents: Accidents,
}

impl Links {
    /// Links between nodes at sites: 0.5 ms within one, 50 ms between two, 20 % jitter.
    #[must_use]
    pub fn new(sites: Vec<u8>) -> Self {
        let sides = vec![0; sites.len()];
        let accidents = Accidents::default();
        Self { sites, sides, lan: 500, wan: 50_000, jitter: 20, accidents }
    }

    /// The site of a node.
    #[must_use]
    pub fn site(&self, node: usize) -> u8 {
        self.sites.get(node).copied().unwrap_or_default()
    }

    /// Cuts the network: nodes reach those of their own side only.
    pub fn partition(&mut self, sides: Vec<u8>) {
        self.sides = sides;
    }

    /// One network again.
    pub fn heal(&mut self) {
        self.sides = vec![0; self.sites.len()];
    }

    /// Whether messages get from one node to another.
    #[must_use]
    pub fn reach(&self, a: usize, b: usize) -> bool {
        self.sides.get(a) == self.sides.get(b)
    }

    /// One way, without accidents.
    pub fn latency(&self, rng: &mut StdRng, a: usize, b: usize) -> Micros {
        let base = if self.site(a) == self.site(b) { self.lan } else { self.wan };
        base + rng.next_u64() % (base * self.jitter / 100).max(1)
    }

    /// When a message arrives, from now: never, once or twice.
    pub fn deliveries(&self, rng: &mut StdRng, from: usize, to: usize) -> [Option<Micros>; 2] {
        let lost = rng.random_bool(self.accidents.loss);
        let first = self.accident_latency(rng, from, to);
        let twice = rng.random_bool(self.accidents.twice);
        let second = twice.then(|| self.accident_latency(rng, from, to));
        if lost || !self.reach(from, to) { [None, None] } else { [Some(first), second] }
    }

    fn accident_latency(&self, rng: &mut StdRng, from: usize, to: usize) -> Micros {
        let mut delay = self.latency(rng, from, to);
        if rng.random_bool(self.accidents.reorder) {
            delay += rng.random_range(0..SECOND);
        }
        if rng.random_bool(self.accidents.late) {
            delay += rng.random_range(0..30 * SECOND);
        }
        delay
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn accidents_happen_as_often_as_they_should() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut links = Links::new(vec![0, 0, 1]);
        let near = links.latency(&mut rng, 0, 1);
        let far = links.latency(&mut rng, 0, 2);
        assert!((500..=600).contains(&near) && (50_000..=60_000).contains(&far), "{near} {far}");
        links.accidents = Accidents::tenth();
        let sent = 10_000;
        let got: Vec<_> = (0..sent).map(|_| links.deliveries(&mut rng, 0, 1)).collect();
        let count = |f: &dyn Fn(&[Option<Micros>; 2]) -> bool| got.iter().filter(|g| f(g)).count();
        let tenth = 800..1200;
        assert!(tenth.contains(&count(&|g| g[0].is_none())));
        assert!(tenth.contains(&count(&|g| g[1].is_some())));
        assert!(tenth.contains(&count(&|g| g[0].is_some_and(|d| d > SECOND + 600))));
        links.partition(vec![0, 1, 0]);
        assert!(!links.reach(0, 1) && links.reach(0, 2));
        assert_eq!(links.deliveries(&mut rng, 0, 1), [None, None]);
        links.heal();
        assert!(links.reach(0, 1));
    }

    #[test]
    fn bytes_are_counted_with_what_carries_them() {
        assert_eq!(message_bytes(0), 16 + 70);
        assert_eq!(message_bytes(2 * 1380 - 16), 2 * 1380 + 2 * 70);
    }
}
