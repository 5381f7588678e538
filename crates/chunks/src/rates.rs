//! Which limits are in force: the configuration, windows of the day, what is derived from them.
//!
//! Pure: the local time is a parameter. Windows are of wall-clock time, so a shift of the clock needs
//! no care: an hour that a day does not have limits nothing, one that it has twice limits twice.

use p2pinst_types::{Limit, Rate, Rates};
use serde::{Deserialize, Serialize};

/// Windows that one node may have.
const WINDOWS: usize = 64;
/// Bytes per second that an upload should have: with less there are fewer uploads at a time.
const PER_SLOT: u64 = 256 << 10;
/// Uploads at a time, however slow the uplink is: two, so that it never idles.
const SLOTS_MIN: usize = 2;
/// For each of them so many to other sites: each connection learns anew what a WAN link holds, and few that
/// have just begun do not fill it.
const FAR_PER_SLOT: usize = 4;
/// Bytes per second that an upload to another site should have,
const PER_FAR: u64 = 128 << 10;
/// and how many there are, however slow the WAN link is.
const FAR_MIN: usize = 4;
/// What a busy node gives when nothing else is said: this part of the most that it was seen to give,
const BUSY_PART: u64 = 8;
/// and at least so many bytes per second.
const BUSY_MIN: u64 = 1_000_000;
/// Requests for what is not urgent that a busy node answers or lets wait; others are sent elsewhere.
pub const BUSY_QUEUE: usize = 8;

/// The limits of a node: `[limits]` in `config.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes of blobs that leave this node, to all peers together (`50MB/s`, `20Mbit/s`, `none`).
    pub up: Option<Limit>,
    /// Bytes of blobs that come to this node.
    pub down: Option<Limit>,
    /// Bytes that leave for other sites; they count for `up` as well.
    pub wan_up: Option<Limit>,
    /// Bytes that come from other sites; they count for `down` as well.
    pub wan_down: Option<Limit>,
    /// How fast blobs that are not urgent leave while other programs are at work here; when not
    /// given, an eighth of the most that was seen to leave, and at least 1 MB/s.
    pub busy_up: Option<Limit>,
    /// Pieces that are sent at a time, and four times as many to other sites; fewer when little may leave.
    pub upload_slots: u16,
    /// What holds instead at certain hours. The first one that holds now and speaks of a limit counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
}

impl Default for LimitsConfig {
    /// Nothing is limited; 4 uploads.
    fn default() -> Self {
        Self {
            up: None,
            down: None,
            wan_up: None,
            wan_down: None,
            busy_up: None,
            upload_slots: 4,
            windows: Vec::new(),
        }
    }
}

/// Pieces that are sent at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// To peers at the own site.
    pub near: usize,
    /// To peers at other sites.
    pub far: usize,
}

/// Certain hours, and what holds then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days on which it begins (`["mon-fri", "sun"]`); every day when not given.
    #[serde(default)]
    pub days: Days,
    /// When it begins, local time (`"08:00"`).
    pub from: TimeOfDay,
    /// When it ends; at or before `from`: on the next day.
    pub to: TimeOfDay,
    /// See [`LimitsConfig::up`].
    #[serde(default)]
    pub up: Option<Limit>,
    /// See [`LimitsConfig::down`].
    #[serde(default)]
    pub down: Option<Limit>,
    /// See [`LimitsConfig::wan_up`].
    #[serde(default)]
    pub wan_up: Option<Limit>,
    /// See [`LimitsConfig::wan_down`].
    #[serde(default)]
    pub wan_down: Option<Limit>,
}

/// A set of days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Days(u8);

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Days {
    /// Whether a day is in it, 0 being Monday.
    #[must_use]
    pub fn has(self, day: u8) -> bool {
        day < 7 && self.0 & (1 << day) != 0
    }
}

impl Default for Days {
    /// All of them.
    fn default() -> Self {
        Self(0x7f)
    }
}

impl TryFrom<Vec<String>> for Days {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let day = |text: &str| {
            let found = DAYS.iter().position(|d| *d == text.trim().to_ascii_lowercase());
            found.ok_or_else(|| format!("`{text}` is no day: write {} or mon-fri", DAYS.join(", ")))
        };
        let mut days = 0;
        for text in &texts {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (mut at, last) = (day(first)?, day(last)?);
            days |= 1 << at;
            while at != last {
                at = (at + 1) % DAYS.len();
                days |= 1 << at;
            }
        }
        if days == 0 { Err("a window needs a day".to_owned()) } else { Ok(Self(days)) }
    }
}

impl From<Days> for Vec<String> {
    fn from(days: Days) -> Self {
        let all = DAYS.iter().zip(0..).filter(|(_, n)| days.has(*n));
        all.map(|(name, _)| (*name).to_owned()).collect()
    }
}

/// A time of the day, to the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u16);

/// Minutes of a day.
const DAY: u16 = 24 * 60;

impl TryFrom<String> for TimeOfDay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let two = |t: &str| {
            let digits = t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| t.parse::<u16>().ok()).flatten()
        };
        let parts = text.split_once(':').and_then(|(h, m)| Some((two(h)?, two(m)?)));
        match parts {
            Some((24, 0)) => Ok(Self(DAY)),
            Some((h @ 0..24, m @ 0..60)) => Ok(Self(h * 60 + m)),
            _ => Err(format!("`{text}` is no time of the day: write 08:00")),
        }
    }
}

impl From<TimeOfDay> for String {
    fn from(TimeOfDay(minutes): TimeOfDay) -> Self {
        format!("{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// What a clock on the wall shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// The day of the week, from 0, Monday, to 6.
    pub day: u8,
    /// Minutes since midnight, by the clock.
    pub minute: u16,
}

impl Window {
    /// Whether it holds now.
    #[must_use]
    pub fn holds(&self, now: LocalTime) -> bool {
        let (from, to) = (self.from.0, self.to.0);
        let today = self.days.has(now.day);
        if from < to {
            return today && (from..to).contains(&now.minute);
        }
        let yesterday = self.days.has((now.day + 6) % 7);
        today && now.minute >= from || yesterday && now.minute < to
    }

    /// What holds then.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let Self { up, down, wan_up, wan_down, .. } = *self;
        Rates { up, down, wan_up, wan_down }
    }
}

impl LimitsConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.upload_slots == 0 || self.upload_slots > 256 {
            return Err("upload_slots must be from 1 to 256".to_owned());
        }
        if self.windows.len() > WINDOWS {
            return Err(format!("more than {WINDOWS} windows of limits"));
        }
        match self.windows.iter().position(|w| w.rates().is_empty()) {
            Some(n) => Err(format!("window {} of the limits limits nothing", n + 1)),
            None => Ok(()),
        }
    }

    /// What holds at all hours.
    #[must_use]
    pub fn always(&self) -> Rates {
        let Self { up, down, wan_up, wan_down, .. } = *self;
        Rates { up, down, wan_up, wan_down }
    }

    /// What holds now, and which windows (from 0) have a say in it.
    #[must_use]
    pub fn at(&self, now: LocalTime) -> (Rates, Vec<usize>) {
        let holding: Vec<_> =
            self.windows.iter().enumerate().filter(|(_, w)| w.holds(now)).collect();
        let rates = holding.iter().fold(Rates::default(), |rates, (_, w)| rates.or(w.rates()));
        (rates.or(self.always()), holding.into_iter().map(|(n, _)| n).collect())
    }

    /// How fast blobs that are not urgent leave a busy node of which so many bytes per second were
    /// seen to leave at most; `None`: as fast as others.
    #[must_use]
    pub fn busy_rate(&self, seen: u64) -> Option<Rate> {
        let usual = || Limit::At(Rate::nearest((seen / BUSY_PART).max(BUSY_MIN)));
        self.busy_up.unwrap_or_else(usual).rate()
    }

    /// How many pieces to send at a time when no more than `up` may leave, and `wan_up` for other sites.
    #[must_use]
    pub fn slots(&self, up: Option<Rate>, wan_up: Option<Rate>) -> Slots {
        let within = |rate: Option<Rate>, each: u64, least: usize, most: usize| {
            let by_rate = rate.map_or(u64::MAX, |r| r.bytes() / each);
            usize::try_from(by_rate).unwrap_or(usize::MAX).clamp(least.min(most), most)
        };
        let most = usize::from(self.upload_slots);
        let wan = up.into_iter().chain(wan_up).min();
        Slots {
            near: within(up, PER_SLOT, SLOTS_MIN, most),
            far: within(wan, PER_FAR, FAR_MIN, most * FAR_PER_SLOT),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use jiff::{Timestamp, Zoned};
    use proptest::prelude::*;

    use super::*;

    fn config(text: &str) -> LimitsConfig {
        let config: LimitsConfig = toml::from_str(text).unwrap();
        config.check().unwrap();
        config
    }

    fn at(day: u8, hour: u16, minute: u16) -> LocalTime {
        LocalTime { day, minute: hour * 60 + minute }
    }

    fn mbit(n: u64) -> Option<Limit> {
        Some(Limit::At(Rate::new(n * 125_000).unwrap()))
    }

    const OFFICE: &str = r#"
        up = "100Mbit/s"
        wan_up = "10Mbit/s"
        [[windows]]
        days = ["mon-fri"]
        from = "08:00"
        to = "18:00"
        wan_up = "2Mbit/s"
        [[windows]]
        days = ["fri", "sat"]
        from = "22:00"
        to = "06:00"
        up = "none"
        wan_up = "none"
    "#;

    #[test]
    fn windows_hold_by_day_and_hour() {
        let config = config(OFFICE);
        let wan = |t| config.at(t).0.wan_up;
        assert_eq!(wan(at(0, 7, 59)), mbit(10));
        assert_eq!(wan(at(0, 8, 0)), mbit(2));
        assert_eq!(wan(at(4, 17, 59)), mbit(2));
        assert_eq!(wan(at(4, 18, 0)), mbit(10));
        assert_eq!(wan(at(5, 9, 0)), mbit(10), "Saturday");
        // a night belongs to the day on which it begins
        assert_eq!(wan(at(4, 22, 0)), Some(Limit::None));
        assert_eq!(wan(at(6, 5, 59)), Some(Limit::None), "Sunday, from Saturday's");
        assert_eq!(wan(at(0, 5, 59)), mbit(10), "Monday");
        let (rates, windows) = config.at(at(0, 12, 0));
        assert_eq!((rates.up, rates.down, windows), (mbit(100), None, vec![0]));
    }

    #[test]
    fn the_first_window_that_speaks_of_a_limit_counts() {
        let config = config(
            r#"
            windows = [
                { from = "10:00", to = "12:00", up = "1MB/s" },
                { from = "00:00", to = "00:00", up = "2MB/s", down = "3MB/s" },
            ]"#,
        );
        let (rates, windows) = config.at(at(3, 11, 0));
        let limit = |n| Some(Limit::At(Rate::new(n).unwrap()));
        assert_eq!((rates.up, rates.down), (limit(1_000_000), limit(3_000_000)));
        assert_eq!(windows, [0, 1]);
        assert_eq!(config.at(at(3, 12, 0)).0.up, limit(2_000_000), "the whole day");
    }

    #[test]
    fn clocks_that_are_put_forward_or_back_are_followed() {
        // the last Sundays of March and October, as in most of Europe
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let window = |from: &str, to: &str| {
            let text = format!("[[windows]]\nfrom = '{from}'\nto = '{to}'\nup = '1MB/s'");
            config(&text).windows.remove(0)
        };
        let held = |window: &Window, day: &str| {
            let begin: Timestamp = format!("{day}T00:00:00Z").parse().unwrap();
            let minutes = (-180..24 * 60).filter(|m| {
                let at = begin + jiff::SignedDuration::from_mins(*m);
                let local = Zoned::new(at, zone.clone());
                let day_of_week = local.weekday().to_monday_zero_offset();
                let minute = i16::from(local.hour()) * 60 + i16::from(local.minute());
                let now = LocalTime { day: day_of_week as u8, minute: minute as u16 };
                local.date().to_string() == day && window.holds(now)
            });
            minutes.count()
        };
        let (night, lost) = (window("01:00", "04:00"), window("02:00", "03:00"));
        for (day, hours, lost_hours) in
            [("2026-03-29", 2, 0), ("2026-10-25", 4, 2), ("2026-07-01", 3, 1)]
        {
            assert_eq!(held(&night, day), hours * 60, "{day}");
            assert_eq!(held(&lost, day), lost_hours * 60, "{day}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (text, words) in [
            ("up = 5", "string"),
            ("up = '5'", "50MB/s"),
            ("upp = '5MB/s'", "upp"),
            ("[[windows]]\nfrom = '8:00'\nto = '09:00'\nup = 'none'", "08:00"),
            ("[[windows]]\nfrom = '08:00'\nto = '24:01'\nup = 'none'", "24:01"),
            ("[[windows]]\ndays = ['monday']\nfrom = '08:00'\nto = '09:00'\nup = 'none'", "monday"),
            ("[[windows]]\ndays = []\nfrom = '08:00'\nto = '09:00'\nup = 'none'", "needs a day"),
        ] {
            let error = toml::from_str::<LimitsConfig>(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        for text in ["upload_slots = 0", "[[windows]]\nfrom = '08:00'\nto = '09:00'"] {
            assert!(toml::from_str::<LimitsConfig>(text).unwrap().check().is_err(), "{text}");
        }
    }

    #[test]
    fn a_busy_node_gives_a_part_and_slow_ones_use_fewer_slots() {
        let config = LimitsConfig::default();
        assert_eq!(config.busy_rate(0), Rate::new(1_000_000).ok());
        assert_eq!(config.busy_rate(80_000_000), Rate::new(10_000_000).ok());
        let busy_up = Some(Limit::At(Rate::MIN));
        assert_eq!(LimitsConfig { busy_up, ..config.clone() }.busy_rate(1 << 30), Some(Rate::MIN));
        let rate = |n| Rate::new(n).ok();
        let slots = |config: &LimitsConfig, up, wan_up| {
            let slots = config.slots(up, wan_up);
            (slots.near, slots.far)
        };
        assert_eq!(slots(&config, None, None), (4, 16));
        assert_eq!(slots(&config, None, rate(1 << 20)), (4, 8));
        assert_eq!(slots(&config, rate(1 << 20), rate(125_000)), (4, 4));
        let config = LimitsConfig { upload_slots: 16, ..config };
        assert_eq!(slots(&config, None, None), (16, 64));
        assert_eq!(slots(&config, rate(1 << 20), None), (4, 8));
        assert_eq!(slots(&config, rate(125_000), None), (2, 4));
        let config = LimitsConfig { upload_slots: 1, ..config };
        assert_eq!(slots(&config, rate(125_000), None), (1, 4));
    }

    proptest! {
        #[test]
        fn a_window_holds_as_long_as_it_is_on_each_of_its_days(
            (from, to, days) in (0u16..DAY, 0u16..=DAY, 1u8..0x80),
        ) {
            let window = Window {
                days: Days(days),
                from: TimeOfDay(from),
                to: TimeOfDay(to),
                up: None, down: None, wan_up: None, wan_down: None,
            };
            let length = if from < to { to - from } else { DAY - from + to.min(from) };
            let week = (0..7).flat_map(|day| (0..DAY).map(move |minute| LocalTime { day, minute }));
            let held = week.filter(|t| window.holds(*t)).count();
            prop_assert_eq!(held, usize::from(length) * days.count_ones() as usize);
            let text = toml::to_string(&window).unwrap();
            prop_assert_eq!(toml::from_str::<Window>(&text).unwrap(), window);
        }
    }
}
