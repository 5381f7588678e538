//! One peer of a fetch: what it has, how fast it is, and how much to ask of it at a time.

use std::time::Duration;

use rand::{Rng, RngExt};

use super::{Limits, Place};
use crate::bitmap::Bitmap;

/// How much of the past a rate remembers: about the last ten pieces.
const MEMORY: f64 = 0.9;
/// First pause after a peer said that it is busy; doubled each time, up to [`BUSY_MAX`].
const BUSY_MIN: Duration = Duration::from_millis(200);
/// Longest pause after a peer said that it is busy.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// Requests to a peer of which nothing is known yet: enough to measure, few enough not to hide
/// from the source which pieces are rare.
const START: u32 = 2;

/// What a fetch knows of one peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Where it is.
    pub(super) place: Place,
    pub(super) have: Bitmap,
    /// What it offers, as long as it seeds the blob.
    pub(super) offered: Option<Bitmap>,
    /// How many of the pieces that it can be asked for are wanted.
    pub(super) useful: u32,
    /// Pieces asked of it.
    pub(super) asked: u32,
    /// It sent nothing for long while it owed something: it gets one request at a time.
    pub(super) snubbed: bool,
    /// When it was first or last judged by its speed.
    pub(super) judged: Duration,
    /// Bytes that have come since.
    pub(super) brought: u64,
    /// When it last sent something, or began to owe something.
    progress: Duration,
    busy_until: Duration,
    busy_times: u32,
    /// Bytes that came, and seconds they took while something was owed; both fade.
    bytes: f64,
    seconds: f64,
    /// Shortest time from a request to its piece.
    shortest: Option<Duration>,
    /// Usual time from a request to its piece.
    usual: Option<Duration>,
}

impl Peer {
    pub(super) fn new(now: Duration, place: Place, have: Bitmap, seeding: bool) -> Self {
        let offered = seeding.then(|| Bitmap::new(have.pieces()));
        Self {
            place,
            have,
            offered,
            useful: 0,
            asked: 0,
            snubbed: false,
            judged: now,
            brought: 0,
            progress: Duration::ZERO,
            busy_until: Duration::ZERO,
            busy_times: 0,
            bytes: 0.0,
            seconds: 0.0,
            shortest: None,
            usual: None,
        }
    }

    /// The pieces that it can be asked for.
    pub(super) fn askable(&self) -> &Bitmap {
        self.offered.as_ref().unwrap_or(&self.have)
    }

    /// A piece is asked of it.
    pub(super) fn ask(&mut self, now: Duration) {
        if self.asked == 0 {
            self.progress = now;
        }
        self.asked += 1;
    }

    /// A piece of `len` bytes came, asked for at `since`.
    pub(super) fn delivered(&mut self, now: Duration, since: Duration, len: u64) {
        let took = now.saturating_sub(since);
        self.bytes = self.bytes * MEMORY + len as f64;
        self.seconds = self.seconds * MEMORY + now.saturating_sub(self.progress).as_secs_f64();
        self.brought += len;
        self.progress = now;
        self.shortest = Some(self.shortest.map_or(took, |s| s.min(took)));
        self.usual = Some(smooth(self.usual, took));
        self.snubbed = false;
        self.busy_times = 0;
    }

    /// It said that it is busy: leave it alone for a while.
    pub(super) fn busy(&mut self, now: Duration, rng: &mut impl Rng) {
        let pause = BUSY_MIN.saturating_mul(1 << self.busy_times.min(8)).min(BUSY_MAX);
        self.busy_times = self.busy_times.saturating_add(1);
        self.busy_until = now + pause.mul_f64(rng.random_range(0.75..1.25));
    }

    /// Whether the last that it said was that it is busy.
    pub(super) fn is_busy(&self) -> bool {
        self.busy_times > 0
    }

    /// Usual time from a request to its piece; `None` before the first.
    pub(super) fn usual(&self) -> Option<Duration> {
        self.usual
    }

    /// How long nothing came although something is owed.
    pub(super) fn silence(&self, now: Duration) -> Duration {
        if self.asked == 0 { Duration::ZERO } else { now.saturating_sub(self.progress) }
    }

    /// Whether another piece may be asked of it now.
    pub(super) fn has_room(&self, now: Duration, piece_len: u64, limits: &Limits) -> bool {
        now >= self.busy_until && self.asked < self.window(piece_len, limits)
    }

    /// Pieces to keep in flight: twice what comes within its shortest answer time (rate × round
    /// trip: the bytes that the path itself holds), and at least two so that it never idles.
    fn window(&self, piece_len: u64, limits: &Limits) -> u32 {
        if self.snubbed {
            return 1;
        }
        let bytes = (limits.path_factor * self.path()).min(limits.per_peer as f64);
        // float to integer saturates
        (bytes / piece_len as f64) as u32 + START
    }

    /// Bytes that its path holds: what comes within its shortest answer time. 0 of a peer of which
    /// nothing is known yet.
    pub(super) fn path(&self) -> f64 {
        let shortest = self.shortest.filter(|_| self.seconds > 0.0);
        shortest.map_or(0.0, |s| self.bytes / self.seconds * s.as_secs_f64())
    }
}

/// An average that follows slowly.
pub(super) fn smooth(old: Option<Duration>, new: Duration) -> Duration {
    old.map_or(new, |old| (old * 15 + new) / 16)
}
