//! `p2pinst status`

use std::io::{self, IsTerminal};
use std::time::Duration;

use p2pinst_api::boot::DeployView;
use p2pinst_api::request::{Deploys, Info, Status, Watch};
use p2pinst_api::view::{DeploymentView, FEW, Lines, MachineStatus, NeedsView, StatusView};
use p2pinst_types::Millis;
use p2pinst_types::record::State;
use serde::Serialize;

use super::deploys;
use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::follow::Link;
use crate::format::{self, Table};
use crate::progress;
use crate::screen::screen;
use crate::spread;

/// Machines shown of each deployment when none is named.
const MOST: usize = 20;
/// Shortest time between two looks at a watched status.
const PAUSE: Duration = Duration::from_millis(100);
/// The same for groups of many machines.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// How long one wait for a change lasts.
const WAIT: Duration = Duration::from_secs(25);
/// The same where ages are shown that grow meanwhile.
const WAIT_REDRAWING: Duration = Duration::from_secs(5);

/// Show how far deployments are
///
/// Without a name: the latest deployments, and the machines that do not have them yet. With one:
/// its machines, and how fast the file came to them, if they are at most 64. Of more machines the
/// counts are shown; options say what to show besides.
///
/// Orders to install bare machines (p2pinst deploy) are shown by their names, too: each machine with its state, for how long
/// it has been in it, and why it waits or failed. A machine is healthy when its own system has checked in and is up.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst status
  p2pinst status alice-42 --watch
  p2pinst status alice-42 --failed --missing")]
pub(crate) struct StatusArgs {
    /// A deployment, by name (alice-42) or the beginning of its id
    deployment: Option<String>,
    /// List the machines where it failed
    #[arg(long)]
    failed: bool,
    /// List the machines that have heard of it and are not done
    #[arg(long)]
    pending: bool,
    /// List the machines of which there is no status
    #[arg(long)]
    missing: bool,
    /// List every machine, with all that it said
    #[arg(long)]
    all: bool,
    /// Show how the file came to the machines, also when they are more than 64
    #[arg(long, requires = "deployment")]
    report: bool,
    /// Stay, and show every change, until interrupted
    #[arg(long)]
    watch: bool,
    /// With --watch: leave when every machine is done
    #[arg(long, requires = "watch")]
    until_done: bool,
}

impl StatusArgs {
    fn ask(&self) -> Status {
        let Self { failed, pending, missing, .. } = *self;
        let some = failed || pending || missing;
        let lines = match self.all {
            true => Some(Lines::ALL),
            false => some.then_some(Lines { failed, pending, missing, done: false }),
        };
        let (deployment, report) = (self.deployment.clone(), self.report);
        Status { deployment, lines, signed: false, from: None, report }
    }

    fn shown(&self) -> Shown {
        let asked = self.ask().lines.is_some();
        Shown { named: self.deployment.is_some(), asked, full: self.all, width: format::width() }
    }
}

/// How much is shown of the machines.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    /// One deployment was named.
    named: bool,
    /// Some machines were asked for.
    asked: bool,
    /// With all that they said.
    full: bool,
    /// Cut to this many columns.
    width: Option<usize>,
}

/// What is shown of everything: of packages, and the orders of bare metal beside them.
#[derive(Serialize)]
struct All<'a> {
    #[serde(flatten)]
    view: &'a StatusView,
    deploys: &'a [DeployView],
}

pub(super) async fn run(context: &Context, args: StatusArgs) -> Result<(), CliError> {
    if let Some(name) = &args.deployment
        && deploys::show(context, name, args.watch, args.until_done).await?
    {
        return Ok(());
    }
    let client = context.connect().await?;
    let mut link = Link::new(context, client);
    if args.watch {
        return tokio::select! {
            ended = watch(context, &mut link, &args) => ended,
            // how a watch ends
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let view = link.status(args.ask()).await?;
    let orders = match args.deployment {
        None => link.call(Deploys { name: None, after: None }).await?,
        Some(_) => Vec::new(),
    };
    if context.json {
        return context.print_json(&All { view: &view, deploys: &orders });
    }
    if view.deployments.is_empty() && view.needs.is_empty() && orders.is_empty() {
        context.tell("Nothing has been published yet.");
        return Ok(());
    }
    let now = cluster_now(&link.call(Info {}).await?);
    let mut text = String::new();
    if !view.deployments.is_empty() || !view.needs.is_empty() {
        text.push_str(&report(&view, args.shown(), now));
    }
    if !orders.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&deploys::table(&orders, now, false));
    }
    context.print(text)
}

async fn watch(context: &Context, link: &mut Link<'_>, args: &StatusArgs) -> Result<(), CliError> {
    let mut shown: Option<StatusView> = None;
    let redraws = !context.json && io::stdout().is_terminal();
    let ask = |after, wait: Duration| Watch {
        deployment: args.deployment.clone(),
        after,
        wait_ms: wait.as_millis().try_into().unwrap_or(0),
    };
    // before the look, so that no change after it is missed
    let mut known = link.call(ask(None, Duration::ZERO)).await?;
    loop {
        let view = link.status(args.ask()).await?;
        let old = shown.replace(view.clone());
        if redraws {
            let now = cluster_now(&link.call(Info {}).await?);
            context.print(screen(&report(&view, args.shown(), now), old.is_none()))?;
        } else if context.json {
            if old.is_none_or(|old| steady(old) != steady(view.clone())) {
                context.print_json_line(&view)?;
            }
        } else {
            context.print(changes(old.as_ref(), &view))?;
        }
        if args.until_done && view.deployments.iter().all(progress::all_final) {
            // summaries are for display: what ends the command are signed records
            let signed = link.status(Status { signed: true, ..args.ask() }).await?;
            if signed.deployments.iter().all(progress::all_final) {
                return Ok(());
            }
        }
        let many = view.deployments.iter().any(|d| d.ordered > FEW);
        tokio::time::sleep(if many { LONG_PAUSE } else { PAUSE }).await;
        loop {
            let wait = if redraws { WAIT_REDRAWING } else { WAIT };
            let now = link.call(ask(Some(known), wait)).await?;
            if now != std::mem::replace(&mut known, now) {
                break;
            }
            if redraws {
                let now = cluster_now(&link.call(Info {}).await?);
                context.print(screen(&report(&view, args.shown(), now), false))?;
            }
        }
    }
}

/// The status without what changes all the time; `None` would be a value that has no JSON.
fn steady(mut view: StatusView) -> Option<serde_json::Value> {
    for machine in view.deployments.iter_mut().flat_map(|d| &mut d.machines) {
        machine.since_ms = 0;
    }
    serde_json::to_value(view).ok()
}

/// One line for each deployment that is new or further than before.
fn changes(old: Option<&StatusView>, new: &StatusView) -> String {
    let before = |d: &DeploymentView| old?.deployments.iter().find(|o| o.id == d.id);
    let mut text = String::new();
    for deployment in &new.deployments {
        let line = progress::line(deployment);
        if before(deployment).is_none_or(|old| progress::line(old) != line) {
            let package = format::clean(&deployment.package.to_string());
            text.push_str(&format!("{}: {package}: {line}\n", deployment.name));
        }
    }
    text
}

/// The status for people.
fn report(view: &StatusView, shown: Shown, now: Millis) -> String {
    let mut table =
        Table::new(&["DEPLOYMENT", "ID", "PACKAGE", "SIZE", "GROUP", "MODE", "AGE", "PROGRESS"]);
    for d in &view.deployments {
        table.row([
            d.name.clone(),
            d.id.short(),
            d.package.to_string(),
            format::size(d.size),
            d.group.to_string(),
            if d.preheat { format!("{}, fetch only", d.mode) } else { d.mode.to_string() },
            format::age(now.since(d.at)),
            progress::line(d),
        ]);
    }
    let mut text = table.text("");
    for d in &view.deployments {
        text.push_str(&notes(d, shown, now));
        text.push_str(&machines(d, shown));
    }
    for newer in &view.needs {
        text.push_str(&unread(newer));
    }
    text
}

/// A record that this version cannot read, and who waits because of it.
fn unread(newer: &NeedsView) -> String {
    let subject = format::clean(&newer.subject);
    let what = match &newer.name {
        Some(name) => format!("the {} of {}", newer.what, format::clean(name)),
        None => format!("the {} {subject}", newer.what),
    };
    let mut text = format!("\n{what} needs version {}\n", format::clean(&newer.needs));
    let mut table = Table::bare();
    for machine in newer.machines.iter().take(MOST) {
        let (name, detail) = (machine.name.to_string(), format::brief(&machine.detail));
        table.row([name, machine.state.clone(), detail]);
    }
    text.push_str(&table.text("  "));
    text
}

/// What there is to say about a status as a whole.
fn notes(d: &DeploymentView, shown: Shown, now: Millis) -> String {
    let mut text = String::new();
    if let (true, Some(oldest), Some(newest)) = (shown.named, d.oldest, d.newest) {
        let (oldest, newest) = (format::age(now.since(oldest)), format::age(now.since(newest)));
        text.push_str(&format!(
            "\nThe last reports of the machines are {newest} to {oldest} old.\n"
        ));
    }
    if d.silent > 0 {
        let of = format!("{} of {}", d.silent, format::count(d.shards, "part"));
        text.push_str(&format!(
            "\n{}: nobody answers who keeps {of} of the status: machines in it are unknown.\n",
            d.name
        ));
    }
    if let (true, Some(transfer)) = (shown.named, &d.transfer) {
        text.push_str(&format!("\n{}", spread::report(transfer)));
    }
    if shown.named && d.transfer.is_none() && d.ordered > FEW {
        text.push_str(&format!("How the file came to them: p2pinst status {} --report\n", d.name));
    }
    if shown.named && !shown.asked && d.ordered > FEW {
        let name = &d.name;
        text.push_str(&format!("List machines: p2pinst status {name} --failed --missing\n"));
    }
    text
}

/// The machines of a deployment: those that were asked for; of one that is named all; otherwise
/// those that do not have it.
fn machines(deployment: &DeploymentView, shown: Shown) -> String {
    let has_it = |m: &&MachineStatus| {
        [deployment.goal(), State::Skipped].iter().any(|s| s.as_str() == m.state)
    };
    let all = shown.named || shown.asked;
    let listed: Vec<_> = deployment.machines.iter().filter(|m| all || !has_it(m)).collect();
    if listed.is_empty() {
        return String::new();
    }
    let most = if all { usize::MAX } else { MOST };
    let mut table = Table::bare();
    for machine in listed.iter().take(most) {
        let since = format::age(Duration::from_millis(machine.since_ms));
        table.row([
            machine.name.to_string(),
            machine.state.clone(),
            if machine.up { "up".to_owned() } else { format!("down {since}") },
            format::brief(&machine.detail),
        ]);
    }
    let mut text = format!("\n{}\n", deployment.name);
    let width = shown.width.filter(|_| !shown.full);
    for (line, machine) in table.text_within("  ", width).lines().zip(&listed) {
        text.push_str(line);
        text.push('\n');
        if shown.full {
            for more in format::clean_lines(machine.detail.trim()).lines().skip(1) {
                text.push_str(&format!("      {more}\n"));
            }
        }
    }
    let name = &deployment.name;
    if listed.len() > most {
        let more = listed.len() - most;
        text.push_str(&format!("  and {more} more: p2pinst status {name}\n"));
    }
    if deployment.next.is_some() {
        text.push_str(&format!("  and more: p2pinst status {name} --all\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::tests::{deployment, machine};

    fn status(machines: Vec<MachineStatus>) -> StatusView {
        StatusView { deployments: vec![deployment(machines)], needs: vec![] }
    }

    #[test]
    fn who_does_not_have_it_is_listed() {
        let view = status(vec![
            machine("n1", "installed", true, 0),
            machine("n2", "failed", true, 0),
            machine("n3", "unknown", false, 65_000),
        ]);
        let want = "\
DEPLOYMENT  ID        PACKAGE        SIZE      GROUP  MODE    AGE  PROGRESS
alice-1     abababab  hello 1.0 all  20.0 KiB  gpu    urgent  3m   1/3 installed, 1 failed, 1 unknown

alice-1
  n2  failed   up       failed it is
  n3  unknown  down 1m  unknown it is
";
        assert_eq!(report(&view, Shown::default(), Millis(180_000)), want);
        let named = Shown { named: true, ..Shown::default() };
        assert!(report(&view, named, Millis(0)).contains("  n1  installed"));
        let narrow = report(&view, Shown { width: Some(20), ..named }, Millis(0));
        assert!(narrow.contains("\n  n3  unknown    do…\n"), "{narrow}");
    }

    #[test]
    fn long_lists_are_cut() {
        let view = status((0..30).map(|i| machine(&format!("n{i}"), "pending", true, 0)).collect());
        assert!(
            report(&view, Shown::default(), Millis(0))
                .ends_with("and 10 more: p2pinst status alice-1\n")
        );
    }

    #[test]
    fn what_the_package_manager_said_is_shown_in_full_only_when_asked_for() {
        let mut view =
            status(vec![machine("n1", "failed", true, 0), machine("n2", "failed", true, 0)]);
        let detail = "dpkg failed\nSelecting previously unselected package x.\nno\x1b space\n";
        view.deployments[0].machines[0].detail = detail.to_owned();
        let brief = report(&view, Shown::default(), Millis(0));
        assert!(
            brief.contains("n1  failed  up  dpkg failed\n  n2") && !brief.contains("Selecting")
        );
        let full = Shown { named: true, asked: true, full: true, width: Some(10) };
        let full = report(&view, full, Millis(0));
        let want = "  n1  failed  up  dpkg failed\n      Selecting previously unselected package x.\n      no? space\n  n2";
        assert!(full.contains(want), "{full}");
    }

    #[test]
    fn a_status_tells_how_old_and_how_whole_it_is() {
        let mut view =
            status((0..65).map(|i| machine(&format!("n{i}"), "pending", true, 0)).collect());
        let d = &mut view.deployments[0];
        (d.oldest, d.newest) = (Some(Millis(60_000)), Some(Millis(177_000)));
        (d.shards, d.silent) = (2, 1);
        d.machines.clear();
        let named = Shown { named: true, ..Shown::default() };
        let text = report(&view, named, Millis(180_000));
        assert!(text.contains("are 3s to 2m old"), "{text}");
        assert!(text.contains("nobody answers who keeps 1 of 2 parts"), "{text}");
        assert!(text.contains("p2pinst status alice-1 --failed --missing"), "{text}");
    }

    #[test]
    fn only_changes_are_told() {
        let old = status(vec![machine("n1", "fetching", true, 1)]);
        let same = status(vec![machine("n1", "fetching", true, 2)]);
        let new = status(vec![machine("n1", "installed", true, 3)]);
        assert_eq!(changes(Some(&old), &same), "");
        assert_eq!(changes(Some(&old), &new), "alice-1: hello 1.0 all: 1/1 installed\n");
        assert_eq!(changes(None, &new), changes(Some(&old), &new));
        assert_eq!(steady(old), steady(same));
    }
}
