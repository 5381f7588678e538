//! Waiting for something to become true, with a deadline instead of a guess.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How often a condition is looked at. Each look may start a process; more often would slow down
/// what is waited for.
const INTERVAL: Duration = Duration::from_millis(60);

/// Looks until `check` succeeds, and returns what it found.
///
/// # Errors
/// When the deadline passes: what was waited for, how long, and the last reason why not.
pub fn eventually<T>(
    within: Duration,
    what: &str,
    mut check: impl FnMut() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match check() {
            Ok(found) => return Ok(found),
            Err(why) if started.elapsed() >= within => {
                return Err(why).with_context(|| format!("not within {within:?}: {what}"));
            }
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

/// Looks during the whole time that `check` keeps succeeding.
///
/// # Errors
/// When it fails once.
pub fn throughout(time: Duration, what: &str, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < time {
        check().with_context(|| format!("did not hold after {:?}: {what}", started.elapsed()))?;
        thread::sleep(INTERVAL);
    }
    Ok(())
}
