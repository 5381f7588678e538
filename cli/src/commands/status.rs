//! `p2pinst status`

use std::io::{self, IsTerminal};
use std::time::Duration;

use p2pinst_api::request::{Info, Status};
use p2pinst_api::view::{DeploymentView, MachineStatus, NeedsView, StatusView};
use p2pinst_types::Millis;
use p2pinst_types::record::State;

use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::follow::Link;
use crate::format::{self, Table};
use crate::progress;

/// How often a watched status is looked at.
const REDRAW: Duration = Duration::from_millis(500);
/// Machines shown of each deployment when none is named.
const MOST: usize = 20;

/// Show how far deployments are
///
/// Without a name: every deployment, and the machines that do not have it yet. With one: all of
/// its machines.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst status
  p2pinst status alice-42 --watch")]
pub(crate) struct StatusArgs {
    /// A deployment, by name (alice-42) or the beginning of its id
    deployment: Option<String>,
    /// Stay, and show every change, until interrupted
    #[arg(long)]
    watch: bool,
    /// With --watch: leave when every machine is done
    #[arg(long, requires = "watch")]
    until_done: bool,
}

pub(super) async fn run(context: &Context, args: StatusArgs) -> Result<(), CliError> {
    let client = context.connect().await?;
    let mut link = Link::new(context, client);
    if args.watch {
        return tokio::select! {
            ended = watch(context, &mut link, &args) => ended,
            // how a watch ends
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let view = link.call(Status { deployment: args.deployment.clone() }).await?;
    if context.json {
        return context.print_json(&view);
    }
    if view.deployments.is_empty() && view.needs.is_empty() {
        context.tell("Nothing has been published yet.");
        return Ok(());
    }
    let now = cluster_now(&link.call(Info {}).await?);
    context.print(report(&view, args.deployment.is_some(), now))
}

async fn watch(context: &Context, link: &mut Link<'_>, args: &StatusArgs) -> Result<(), CliError> {
    let mut shown: Option<StatusView> = None;
    let redraws = !context.json && io::stdout().is_terminal();
    loop {
        let view = link.call(Status { deployment: args.deployment.clone() }).await?;
        let old = shown.replace(view.clone());
        if redraws {
            let now = cluster_now(&link.call(Info {}).await?);
            context.print(screen(&report(&view, args.deployment.is_some(), now), old.is_none()))?;
        } else if context.json {
            if old.is_none_or(|old| steady(old) != steady(view.clone())) {
                context.print_json_line(&view)?;
            }
        } else {
            context.print(changes(old.as_ref(), &view))?;
        }
        if args.until_done && view.deployments.iter().all(progress::all_final) {
            return Ok(());
        }
        tokio::time::sleep(REDRAW).await;
    }
}

/// The status without what changes all the time; `None` would be a value that has no JSON.
fn steady(mut view: StatusView) -> Option<serde_json::Value> {
    for machine in view.deployments.iter_mut().flat_map(|d| &mut d.machines) {
        machine.since_ms = 0;
    }
    serde_json::to_value(view).ok()
}

/// Draws over what was there; cut to the screen, so that it does not scroll.
fn screen(text: &str, first: bool) -> String {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let most = usize::from(rows).saturating_sub(2).max(3);
    let width = usize::from(columns.max(20));
    let clear = if first { "\x1b[2J" } else { "" };
    let mut drawn = format!("{clear}\x1b[H");
    for line in text.lines().take(most) {
        drawn.extend(line.chars().take(width));
        drawn.push_str("\x1b[K\n");
    }
    if text.lines().count() > most {
        drawn.push_str("…\x1b[K\n");
    }
    drawn.push_str("\x1b[J");
    drawn
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
fn report(view: &StatusView, every_machine: bool, now: Millis) -> String {
    let mut table =
        Table::new(&["DEPLOYMENT", "ID", "PACKAGE", "SIZE", "GROUP", "MODE", "AGE", "PROGRESS"]);
    for d in &view.deployments {
        table.row([
            d.name.clone(),
            d.id.short(),
            d.package.to_string(),
            format::size(d.size),
            d.group.to_string(),
            d.mode.to_string(),
            format::age(now.since(d.at)),
            progress::line(d),
        ]);
    }
    let mut text = table.text("");
    for d in &view.deployments {
        text.push_str(&machines(d, every_machine));
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

/// The machines of a deployment; without `all` only those that do not have it.
fn machines(deployment: &DeploymentView, all: bool) -> String {
    let has_it = |m: &&MachineStatus| {
        [State::Installed, State::Skipped].iter().any(|s| s.as_str() == m.state)
    };
    let shown: Vec<_> = deployment.machines.iter().filter(|m| all || !has_it(m)).collect();
    if shown.is_empty() {
        return String::new();
    }
    let most = if all { usize::MAX } else { MOST };
    let mut table = Table::bare();
    for machine in shown.iter().take(most) {
        let since = format::age(Duration::from_millis(machine.since_ms));
        table.row([
            machine.name.to_string(),
            machine.state.clone(),
            if machine.up { "up".to_owned() } else { format!("down {since}") },
            format::brief(&machine.detail),
        ]);
    }
    let mut text = format!("\n{}\n{}", deployment.name, table.text("  "));
    if shown.len() > most {
        let (name, more) = (&deployment.name, shown.len() - most);
        text.push_str(&format!("  and {more} more: p2pinst status {name}\n"));
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
        assert_eq!(report(&view, false, Millis(180_000)), want);
        assert!(report(&view, true, Millis(0)).contains("  n1  installed"));
    }

    #[test]
    fn long_lists_are_cut() {
        let view = status((0..30).map(|i| machine(&format!("n{i}"), "pending", true, 0)).collect());
        assert!(report(&view, false, Millis(0)).ends_with("and 10 more: p2pinst status alice-1\n"));
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
