//! What logs tell: when something was said, and numbers.

/// The time that a log line begins with (`2026-11-20T13:47:38.456098Z`), in milliseconds since 1970.
pub(crate) fn stamp(line: &str) -> Option<f64> {
    let (date, time) = line.split_once('Z')?.0.split_once('T')?;
    let mut date = date.split('-').map(str::parse::<i64>);
    let (y, m, d) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.split(':').map(str::parse::<f64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    // days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms")
    let (y, m) = if m <= 2 { (y - 1, m + 9) } else { (y, m - 3) };
    let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
    let days =
        era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + (153 * m + 2) / 5 + d - 1 - 719_468;
    Some(days as f64 * 86_400_000.0 + ((hour * 60.0 + minute) * 60.0 + second) * 1000.0)
}

/// When a log first says that, in milliseconds since 1970.
pub(crate) fn said_at(log: &str, words: &str) -> Option<f64> {
    log.lines().find(|line| line.contains(words)).and_then(stamp)
}

/// The number behind `key=` in the first line with these words.
pub(crate) fn number(log: &str, words: &str, key: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains(words))?;
    let field = line.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='))?;
    field.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read() {
        let at = stamp("2026-11-20T09:42:17.500000Z  INFO x").unwrap();
        assert!((at - 1_795_167_737_500.0).abs() < 0.1, "{at}");
        assert!(stamp("--- ip netns exec").is_none());
    }

    #[test]
    fn the_first_line_counts() {
        let log = "--- ip\n2026-11-20T09:42:17.5Z  INFO p2: it is here received=7 local=40\n2026-11-20T09:42:18.5Z  INFO p2: it is here received=8\n";
        assert_eq!(said_at(log, "it is here"), stamp("2026-11-20T09:42:17.5Z"));
        assert_eq!(said_at(log, "it is gone"), None);
        assert_eq!(number(log, "it is here", "received"), Some(7));
        assert_eq!(number(log, "it is here", "local"), Some(40));
        assert_eq!(number(log, "it is here", "loc"), None);
    }
}
