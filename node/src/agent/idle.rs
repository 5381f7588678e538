//! Whether the machine is idle: samples, judged by the detector of `p2pinst-install`.

use std::time::Instant;

use p2pinst_install::idle::{IdleConfig, IdleDetector, Idleness, Why};
use p2pinst_install::sampler::Sampler;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Idle since when, or busy for which reason.
pub type Idle = watch::Receiver<Result<(), String>>;

/// Whether other programs are at work now. Not the same as not idle: a machine that was quiet for a
/// moment only is neither.
pub type Loaded = watch::Receiver<bool>;

/// The current idleness and load, and the task that keeps them current.
pub fn watch(
    config: IdleConfig,
    shutdown: CancellationToken,
) -> (Idle, Loaded, impl Future<Output = ()>) {
    let unknown = "the load has not been measured for long enough yet".to_owned();
    let (tx, idle) = watch::channel(Err(unknown));
    let (load, loaded) = watch::channel(false);
    (idle, loaded, sample(config, tx, load, shutdown))
}

async fn sample(
    config: IdleConfig,
    tx: watch::Sender<Result<(), String>>,
    load: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let mut sampler = match Sampler::new() {
        Ok(sampler) => sampler,
        Err(error) => return warn!(%error, "cannot measure the load: only urgent orders proceed"),
    };
    let mut detector = IdleDetector::new(config);
    let begun = Instant::now();
    let mut tick = tokio::time::interval(config.period());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(sample) = sampler.sample() else { continue };
        let idleness = detector.step(begun.elapsed(), sample);
        let loaded = matches!(idleness, Idleness::Busy(Why::Load { .. }));
        load.send_if_modified(|old| std::mem::replace(old, loaded) != loaded);
        let idleness = match idleness {
            Idleness::Idle { .. } => Ok(()),
            Idleness::Busy(why) => Err(why.to_string()),
        };
        tx.send_if_modified(|old| {
            if old.is_ok() != idleness.is_ok() {
                info!(idle = idleness.is_ok(), "the machine's load has changed");
            }
            let changed = *old != idleness;
            *old = idleness;
            changed
        });
    }
}
