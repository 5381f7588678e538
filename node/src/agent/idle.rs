//! Whether the machine is idle: samples, judged by the detector of `p2pinst-install`.

use std::time::Instant;

use p2pinst_install::idle::{IdleConfig, IdleDetector, Idleness};
use p2pinst_install::sampler::Sampler;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Idle since when, or busy for which reason.
pub type Idle = watch::Receiver<Result<(), String>>;

/// The current idleness, and the task that keeps it current.
pub fn watch(config: IdleConfig, shutdown: CancellationToken) -> (Idle, impl Future<Output = ()>) {
    let unknown = "the load has not been measured for long enough yet".to_owned();
    let (tx, idle) = watch::channel(Err(unknown));
    (idle, sample(config, tx, shutdown))
}

async fn sample(
    config: IdleConfig,
    tx: watch::Sender<Result<(), String>>,
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
        let idleness = match detector.step(begun.elapsed(), sample) {
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
