//! When to tell those who fetch a blob from here which pieces have come: a message for each piece and
//! taker would cost more than the pieces do, and pieces that nobody hears of lie idle.
//!
//! At the beginning, when few pieces are anywhere, each is told at once; so are the last; in between
//! they are told together. Sans-IO.

use std::time::Duration;

/// Most pieces told together, unless they come faster than [`GAP`] lets tell them.
const BATCH: u32 = 8;
/// Of the pieces that are here, or of those that are missing, this part is told together.
const PART: u32 = 16;
/// No piece waits longer than this to be told.
const AFTER: Duration = Duration::from_millis(200);
/// Nothing is told sooner than this after the last time.
const GAP: Duration = Duration::from_millis(20);

/// The pieces of one blob that have come and were not told.
#[derive(Debug, Default)]
pub struct News {
    /// How many, and since when the first.
    waiting: u32,
    since: Duration,
    told: Option<Duration>,
}

impl News {
    /// A piece came: `held` of `pieces` are here now. Whether to tell.
    pub fn came(&mut self, now: Duration, held: u32, pieces: u32) -> bool {
        if self.waiting == 0 {
            self.since = now;
        }
        self.waiting = self.waiting.saturating_add(1);
        let few = held.min(pieces.saturating_sub(held)) / PART;
        self.waiting >= few.clamp(1, BATCH) && self.tell(now)
    }

    /// Time passed: whether to tell what waits.
    pub fn is_due(&mut self, now: Duration) -> bool {
        self.waiting > 0 && now.saturating_sub(self.since) >= AFTER && self.tell(now)
    }

    /// How long what waits may wait still; `None`: nothing does.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        (self.waiting > 0).then_some(self.since + AFTER)
    }

    fn tell(&mut self, now: Duration) -> bool {
        if self.told.is_some_and(|t| now.saturating_sub(t) < GAP) {
            return false;
        }
        self.told = Some(now);
        self.waiting = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_and_the_last_are_told_at_once_and_others_together() {
        let mut news = News::default();
        let mut told = Vec::new();
        for held in 1..=1000 {
            // one each 30 ms: eight take longer than any may wait, but nobody looks
            if news.came(ms(u64::from(held) * 30), held, 1000) {
                told.push(held);
            }
        }
        assert!((1..32).all(|n| told.contains(&n)));
        assert!((970..=1000).all(|n| told.contains(&n)));
        let middle = told.iter().filter(|n| (300..700).contains(*n)).count();
        assert!((45..=55).contains(&middle), "{middle}");
    }

    #[test]
    fn no_piece_waits_long_and_none_is_told_twice() {
        let mut news = News::default();
        assert!(!news.is_due(ms(0)));
        assert_eq!(news.due(), None);
        assert!(!news.came(ms(0), 300, 1000));
        assert!(!news.came(ms(150), 301, 1000));
        assert_eq!(news.due(), Some(AFTER));
        assert!(!news.is_due(ms(199)));
        assert!(news.is_due(ms(200)) && !news.is_due(ms(999)));
    }

    #[test]
    fn what_comes_fast_is_told_seldom() {
        let mut news = News::default();
        let told = (1..=10_000).filter(|n| news.came(ms(u64::from(*n) / 10), *n, 10_000));
        assert!((45..=51).contains(&told.count()));
    }
}
