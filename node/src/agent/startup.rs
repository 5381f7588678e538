//! What a crash has interrupted: found in the journal, and brought to an end before anything new.

use std::sync::Arc;
use std::time::Duration;

use dht_store::Store;
use p2pinst_install::Patience;
use p2pinst_install::journal::{Record, Step, Unfinished};
use p2pinst_types::Kind;
use p2pinst_types::record::{Action, HistoryEntry, State};
use tracing::{info, warn};

use super::Context;
use super::reporter::entries;

/// How long the start waits for the package manager's locks.
const LOCKS: Duration = Duration::from_secs(5);

/// Repairs the package database, then asks it how far each interrupted install came. One that is
/// properly there is recorded as installed; any other is begun anew by the reconcile loop.
pub(super) async fn resolve(context: &Context, unfinished: Vec<Unfinished>) {
    repair(context).await;
    tell_again(context).await;
    for record in unfinished.into_iter().filter(|r| r.step == Step::Installing) {
        resolve_one(context, record).await;
    }
}

/// What the journal knows and the records do not: the node was killed between the two.
async fn tell_again(context: &Context) {
    let machine = context.own.machine.as_bytes().to_vec();
    let held = context.store.run(move |s: &mut Store| s.data(Kind::HISTORY, &machine)).await;
    let Ok(Ok(cells)) = held else { return warn!("cannot read this node's history") };
    let told = entries(cells);
    let mut untold = Vec::new();
    let journal = context.journal();
    let is_told =
        |e: &&HistoryEntry| told.iter().any(|t| (t.at, t.deployment) == (e.at, e.deployment));
    for entry in journal.history().filter(|e| !is_told(e)) {
        // a status only from the entry that the last attempt ended with
        let ended = match entry.outcome {
            State::Installed => Step::Committed,
            _ => Step::Failed,
        };
        let last = journal.last(&entry.deployment).filter(|r| r.step == ended);
        untold.push((entry.clone(), last.map(|r| r.attempt)));
    }
    drop(journal);
    for (entry, attempt) in untold {
        info!(package = %entry.package, "the history is completed from the journal");
        let (id, outcome) = (entry.deployment, entry.outcome);
        context.reporter.record(entry);
        if let Some(attempt) = attempt {
            let detail = "recorded after an interruption".to_owned();
            context.reporter.report(id, attempt, outcome, detail);
        }
    }
}

async fn repair(context: &Context) {
    let dpkg = Arc::clone(&context.dpkg);
    // not longer: each install begins with a repair, too
    let patience = Patience { locks: LOCKS, ..context.patience };
    match tokio::task::spawn_blocking(move || dpkg.repair(&patience)).await {
        Ok(Ok(report)) if report.exit.is_some() => {
            info!(
                before = report.before.len(),
                remaining = report.remaining.len(),
                "an interrupted run of the package manager was brought to its end"
            );
            for broken in report.remaining {
                warn!(package = %broken, "still broken");
            }
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!(%error, "cannot repair the package database"),
        Err(_) => {}
    }
}

async fn resolve_one(context: &Context, record: Record) {
    let views = context.store.views();
    let Some(order) = views.order(record.deployment.as_bytes()) else { return };
    let package = order.release.package.clone();
    let (dpkg, wanted) = (Arc::clone(&context.dpkg), package.clone());
    let there = tokio::task::spawn_blocking(move || {
        let database = dpkg.database()?;
        let found = database.installed_version(&wanted.name, &wanted.architecture);
        Ok::<_, p2pinst_files::FileError>(found == Some(wanted.version.as_str()))
    })
    .await;
    if !matches!(there, Ok(Ok(true))) {
        info!(%package, "an install was interrupted: it is begun anew");
        return;
    }
    info!(%package, "an install was interrupted after its end: it is recorded now");
    let entry = HistoryEntry {
        at: context.store.clock().now(),
        deployment: record.deployment,
        release: order.deployment.release,
        package,
        action: Action::Install,
        old_version: None,
        outcome: State::Installed,
        exit_code: None,
        millis: 0,
        log: "the node was stopped while the package manager ran; found installed".to_owned(),
    };
    let done = Record {
        at: entry.at,
        step: Step::Committed,
        history: Some(entry.clone()),
        ran: true,
        ..record.clone()
    };
    let journal = context.clone();
    let kept = tokio::task::spawn_blocking(move || journal.journal().append(done)).await;
    if !matches!(kept, Ok(Ok(()))) {
        warn!("cannot write the journal");
    }
    context.reporter.record(entry);
    let detail = "finished after an interruption".to_owned();
    context.reporter.report(record.deployment, record.attempt, State::Installed, detail);
}
