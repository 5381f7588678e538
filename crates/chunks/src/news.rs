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
/// Nothing is told sooner than this after the last time, but that the blob is complete.
const GAP: Duration = Duration::from_millis(20);

/// The pieces of one blob that have come and were not told.
#[derive(Debug, Default)]
pub struct News {
    /// How many, and until when at most.
    waiting: u32,
    due: Duration,
    told: Option<Duration>,
}

impl News {
    /// A piece came: `held` of `pieces` are here now. Whether to tell.
    pub fn came(&mut self, now: Duration, held: u32, pieces: u32) -> bool {
        if self.waiting == 0 {
            self.due = now + AFTER;
        }
        self.waiting = self.waiting.saturating_add(1);
        let few = held.min(pieces.saturating_sub(held)) / PART;
        if self.waiting < few.clamp(1, BATCH) && held < pieces {
            return false;
        }
        let soonest = self.told.map_or(now, |told| told + GAP);
        if now < soonest && held < pieces {
            self.due = self.due.min(soonest);
            return false;
        }
        self.tell(now);
        true
    }

    /// Time passed: whether to tell what waits.
    pub fn is_due(&mut self, now: Duration) -> bool {
        let due = self.due().is_some_and(|due| now >= due);
        if due {
            self.tell(now);
        }
        due
    }

    /// When what waits is to be told, unless more comes; `None`: nothing waits.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        (self.waiting > 0).then_some(self.due)
    }

    fn tell(&mut self, now: Duration) {
        self.told = Some(now);
        self.waiting = 0;
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
    fn what_comes_too_soon_waits_no_longer_than_it_must_and_the_last_piece_not_at_all() {
        let mut news = News::default();
        assert!(news.came(ms(100), 1, 10));
        assert!(!news.came(ms(105), 2, 10));
        assert_eq!(news.due(), Some(ms(120)));
        assert!(!news.is_due(ms(119)) && news.is_due(ms(120)));
        assert_eq!(news.due(), None);
        assert!(!news.came(ms(121), 9, 10));
        assert!(news.came(ms(122), 10, 10), "it is complete");
        assert_eq!(news.due(), None);
    }

    #[test]
    fn what_comes_fast_is_told_seldom() {
        let mut news = News::default();
        let told = (1..=10_000).filter(|n| news.came(ms(u64::from(*n) / 10), *n, 10_000));
        assert!((45..=51).contains(&told.count()));
    }
}
