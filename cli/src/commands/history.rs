//! `p2pinst history`

use p2pinst_api::request::History;
use p2pinst_api::view::HistoryView;
use p2pinst_types::Name;
use p2pinst_types::record::State;

use crate::context::Context;
use crate::error::CliError;
use crate::format::{self, Table};

/// Show what was installed on a machine, and when
///
/// The history is kept by several nodes: it can be read while the machine itself is down.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst history n2")]
pub(crate) struct HistoryArgs {
    /// The machine's name [default: this machine]
    node: Option<Name>,
}

pub(super) async fn run(context: &Context, args: HistoryArgs) -> Result<(), CliError> {
    let mut client = context.connect().await?;
    let history = client.call(History { machine: args.node }).await?;
    if context.json {
        return context.print_json(&history);
    }
    print(context, &history)
}

fn print(context: &Context, history: &HistoryView) -> Result<(), CliError> {
    let machine = &history.machine;
    let mut table = Table::new(&["AT", "ACTION", "PACKAGE", "BEFORE", "OUTCOME", "TOOK", "ORDER"]);
    for entry in &history.entries {
        table.row([
            entry.at.to_string(),
            entry.action.to_string(),
            entry.package.to_string(),
            entry.old_version.clone().unwrap_or_else(|| "-".to_owned()),
            entry.outcome.to_string(),
            format::took(entry.millis),
            entry.deployment.short(),
        ]);
    }
    if history.entries.is_empty() {
        context.tell(format_args!("Nothing is recorded of {machine}."));
    } else {
        context.print(table.text(""))?;
    }
    let last = history.entries.last().filter(|e| e.outcome == State::Failed && !e.log.is_empty());
    if let Some(failed) = last {
        context.tell(format_args!("\nThe last one failed:\n{}", format::clean_lines(&failed.log)));
    }
    let (answered, replicas) = (history.answered, history.replicas);
    let as_of = history.as_of.map(|t| format!(", as of {t}")).unwrap_or_default();
    context.tell(format_args!(
        "\n{answered} of {} answered{as_of}; checksum {}",
        format::count(replicas, "replica"),
        history.checksum.short()
    ));
    if !history.behind.is_empty() {
        let names = format::names(&history.behind, 8);
        context.tell(format_args!("What {names} kept of it differed, and got what was missing."));
    }
    if answered == 0 {
        context.tell("Nobody who keeps this history could be asked: it may be incomplete.");
    }
    Ok(())
}
