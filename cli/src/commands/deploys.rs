//! How far orders of bare metal are: what `p2pinst status` shows of them.

use std::io::{self, IsTerminal};
use std::time::Duration;

use p2pinst_api::boot::{DeployLine, DeployView};
use p2pinst_api::request::Info;
use p2pinst_types::{Millis, Name};

use super::boot::progress;
use crate::bare;
use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::format::{self, Table};
use crate::screen::screen;

/// How often a watched order is looked at: each look reads the statuses of all its machines.
const PAUSE: Duration = Duration::from_secs(1);

/// Shows an order, if there is one of that name; whether there is.
pub(super) async fn show(
    context: &Context,
    name: &str,
    watch: bool,
    until_done: bool,
) -> Result<bool, CliError> {
    let mut client = context.connect().await?;
    let Some(mut view) = bare::deploy(&mut client, name).await? else { return Ok(false) };
    if !watch {
        let now = cluster_now(&client.call(Info {}).await?);
        match context.json {
            true => context.print_json(&view)?,
            false => context.print(report(&view, now, format::width()))?,
        }
        return Ok(true);
    }
    let redraws = !context.json && io::stdout().is_terminal();
    let mut shown: Option<DeployView> = None;
    // one that comes while a node is asked is heard after that
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let now = cluster_now(&client.call(Info {}).await?);
        if redraws {
            let text = report(&view, now, format::width());
            context.print(screen(&text, shown.is_none()))?;
        } else if context.json {
            let is_new = shown.as_ref().is_none_or(|old| steady(old) != steady(&view));
            if is_new {
                context.print_json_line(&view)?;
            }
        } else {
            context.print(changes(shown.as_ref(), &view))?;
        }
        if until_done && view.lines.iter().all(|l| l.order.is_over()) {
            return Ok(true);
        }
        shown = Some(view);
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            // how a watch ends
            _ = &mut interrupted => return Ok(true),
        }
        let Some(next) = bare::deploy(&mut client, name).await? else { return Ok(true) };
        view = next;
    }
}

/// What of it is worth a new line.
fn steady(view: &DeployView) -> Vec<(&Name, &str, (u64, u64))> {
    let of = |l: &'_ DeployLine| (l.order.done.0, l.order.done.1);
    view.lines.iter().map(|l| (&l.name, l.order.state.as_str(), of(l))).collect()
}

/// `3/16 healthy, 12 writing, 1 failed`
pub(super) fn line(view: &DeployView) -> String {
    let count = |is: &dyn Fn(&DeployLine) -> bool| view.lines.iter().filter(|l| is(l)).count();
    let healthy = count(&|l| l.order.is_healthy());
    let mut parts = vec![format!("{healthy}/{} healthy", view.machines)];
    let mut states: Vec<&str> = view.lines.iter().map(|l| l.order.state.as_str()).collect();
    states.sort_unstable();
    states.dedup();
    for state in states.into_iter().filter(|s| *s != "healthy") {
        parts.push(format!("{} {state}", count(&|l| l.order.state == state)));
    }
    let late = count(&|l| l.order.late);
    parts.extend((late > 0).then(|| format!("{late} for too long")));
    parts.join(", ")
}

/// One line for each machine that is in another state than before.
fn changes(old: Option<&DeployView>, new: &DeployView) -> String {
    let before = |name: &Name| {
        let line = old?.lines.iter().find(|l| l.name == *name)?;
        Some((line.order.state.as_str(), line.order.late))
    };
    let mut text = String::new();
    for line in &new.lines {
        let order = &line.order;
        if before(&line.name) == Some((order.state.as_str(), order.late)) {
            continue;
        }
        let late = if order.late { " for too long" } else { "" };
        let detail = format::brief(&format::clean(&order.detail));
        let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
        text.push_str(&format!("{}: {}{late}{detail}\n", line.name, order.state));
    }
    text
}

/// An order for people.
fn report(view: &DeployView, now: Millis, width: Option<usize>) -> String {
    let mut text = table(std::slice::from_ref(view), now, true);
    let mut lines = Table::bare();
    for line in &view.lines {
        let wave = u32::from(line.order.assignment.wave) + 1;
        lines.row([
            line.name.to_string(),
            format!("wave {wave}"),
            progress(&line.order, now),
            format::brief(&line.order.detail),
        ]);
    }
    text.push('\n');
    text.push_str(&lines.text_within("  ", width));
    text
}

/// Orders of machines, one line each.
pub(super) fn table(views: &[DeployView], now: Millis, named: bool) -> String {
    let mut headings = vec!["ORDER", "SETUP", "IMAGES", "MACHINES", "BY", "AGE"];
    headings.extend(named.then_some("PROGRESS"));
    let mut table = Table::new(&headings);
    for view in views {
        let images = format::names(&view.images, 4);
        let by = view.author.as_ref().map_or_else(|| "?".to_owned(), Name::to_string);
        let mut row = vec![
            view.name.clone(),
            view.what.clone(),
            if images.is_empty() { "-".to_owned() } else { images },
            view.machines.to_string(),
            by,
            format::age(now.since(view.at)),
        ];
        row.extend(named.then(|| line(view)));
        table.row(row);
    }
    table.text("")
}

#[cfg(test)]
mod tests {
    use p2pinst_api::boot::OrderView;
    use p2pinst_types::record::{Assignment, Task};
    use p2pinst_types::{AssignmentId, MachineId, PublicKey};

    use super::*;

    fn order(name: &str, state: &str, done: (u64, u64), late: bool) -> DeployLine {
        let name: Name = name.parse().unwrap();
        let assignment = Assignment {
            number: 42,
            task: Task::Inspect,
            name: name.clone(),
            site: "pisa".parse().unwrap(),
            labels: [].into(),
            macs: vec![],
            power: false,
            wave: 0,
            gate: 0,
            code: None,
            not_after: Millis(9_000_000),
        };
        let order = OrderView {
            id: AssignmentId([1; 16]),
            name: "alice-42".to_owned(),
            author: PublicKey([1; 32]),
            at: Millis(0),
            assignment,
            setup: None,
            armed: true,
            ended: None,
            state: state.to_owned(),
            since: Millis(0),
            done,
            detail: "so\x1b it is".to_owned(),
            late,
        };
        DeployLine { name, machine: MachineId([1; 16]), order }
    }

    fn deploy(lines: Vec<DeployLine>) -> DeployView {
        DeployView {
            name: "alice-42".to_owned(),
            author: None,
            at: Millis(0),
            what: "compute".to_owned(),
            images: vec!["debian".parse().unwrap()],
            machines: lines.len(),
            lines,
            next: None,
        }
    }

    #[test]
    fn an_order_is_shown_machine_by_machine() {
        let view = deploy(vec![
            order("n1", "writing", (512 << 20, 1 << 30), false),
            order("n2", "booting", (0, 0), true),
            order("n3", "healthy", (0, 0), false),
        ]);
        let want = "\
ORDER     SETUP    IMAGES  MACHINES  BY  AGE  PROGRESS
alice-42  compute  debian  3         ?   2m   1/3 healthy, 1 booting, 1 writing, 1 for too long

  n1  wave 1  writing 2m 50 % of 1.0 GiB  so? it is
  n2  wave 1  booting 2m, too long        so? it is
  n3  wave 1  healthy 2m                  so? it is
";
        assert_eq!(report(&view, Millis(120_000), None), want);
    }

    #[test]
    fn only_new_states_are_told() {
        let old = deploy(vec![order("n1", "writing", (1, 9), false)]);
        let same = deploy(vec![order("n1", "writing", (2, 9), false)]);
        let late = deploy(vec![order("n1", "writing", (2, 9), true)]);
        assert_eq!(changes(Some(&old), &same), "");
        assert_eq!(changes(None, &old), "n1: writing: so? it is\n");
        assert_eq!(changes(Some(&old), &late), "n1: writing for too long: so? it is\n");
        assert_ne!(steady(&old), steady(&same));
    }
}
