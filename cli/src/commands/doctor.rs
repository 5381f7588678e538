//! `p2pinst doctor`

use std::time::Duration;

use p2pinst_api::ClientError;
use p2pinst_api::inspect::{Check, Level};
use p2pinst_api::request::Doctor;
use p2pinst_node::doctor::offline;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::format::Table;

/// How long a node may take to look at itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Look at the health of this machine's node
///
/// Shows one line for each thing that was looked at, and what to do where it is not well. Works
/// as far as it goes when the node does not run. Fails if anything does not work.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst doctor")]
pub(crate) struct DoctorArgs {}

#[derive(Serialize)]
struct Document<'a> {
    healthy: bool,
    checks: &'a [Check],
}

pub(super) async fn run(context: &Context, _: DoctorArgs) -> Result<(), CliError> {
    let checks = look(context).await?;
    let failed: Vec<&Check> = checks.iter().filter(|c| c.level == Level::Fail).collect();
    if context.json {
        context.print_json(&Document { healthy: failed.is_empty(), checks: &checks })?;
    } else {
        context.print(text(&checks))?;
    }
    let names: Vec<&str> = failed.iter().map(|c| c.name.as_str()).collect();
    match failed.first() {
        None => Ok(()),
        Some(first) => {
            let message =
                format!("{} of {} checks failed: {}", names.len(), checks.len(), names.join(", "));
            let error = CliError::failed(message);
            Err(match &first.hint {
                Some(hint) => error.hint(hint.clone()),
                None => error,
            })
        }
    }
}

async fn look(context: &Context) -> Result<Vec<Check>, CliError> {
    let asked = async {
        let mut client = context.connect().await.ok()?;
        Some(client.call(Doctor {}).await)
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some(Ok(checks))) => Ok(checks),
        Ok(Some(Err(e @ (ClientError::Api(_) | ClientError::Protocol(_))))) => Err(e.into()),
        // no node, or one that does not answer: from outside then
        _ => Ok(offline(&context.dir)),
    }
}

fn text(checks: &[Check]) -> String {
    let mut table = Table::bare();
    for check in checks {
        let level = match check.level {
            Level::Ok => "ok",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        table.row([level.to_owned(), check.name.clone(), check.message.clone()]);
    }
    let mut text = String::new();
    for (line, check) in table.text("").lines().zip(checks) {
        text.push_str(line);
        text.push('\n');
        if let Some(hint) = &check.hint {
            text.push_str(&format!("      hint: {}\n", crate::format::clean(hint)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_stand_below_their_lines() {
        let checks = [
            Check::ok("daemon", "it runs"),
            Check::warn("clock", "wrong\nby far", "set it"),
            Check::fail("peers", "none", "look"),
        ];
        let want = "\
ok    daemon  it runs
WARN  clock   wrong by far
      hint: set it
FAIL  peers   none
      hint: look
";
        assert_eq!(text(&checks), want);
    }
}
