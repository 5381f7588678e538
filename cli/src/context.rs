//! What every command has at hand: the data directory, the node, and ways to speak.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use p2pinst_api::request::Info;
use p2pinst_api::view::NodeInfo;
use p2pinst_api::{Client, ClientError, DataDir, paths};
use p2pinst_types::Millis;
use serde::Serialize;

use crate::error::{CliError, Kind};
use crate::format;
use crate::keystore::Keystore;

const HEADING: &str = "Global options";

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// Print JSON (the fields are stable; see JSON.md)
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
    /// Where the node keeps its data
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "P2PINST_DATA_DIR",
        default_value = paths::DEFAULT,
        hide_env_values = true,
        help_heading = HEADING
    )]
    pub(crate) data_dir: PathBuf,
}

/// What every command has at hand.
#[derive(Debug)]
pub(crate) struct Context {
    /// The node's data directory.
    pub(crate) dir: DataDir,
    /// Whether to print JSON.
    pub(crate) json: bool,
}

impl Context {
    /// From the options.
    pub(crate) fn new(global: &Global) -> Self {
        Self { dir: DataDir::new(&global.data_dir), json: global.json }
    }

    /// The administrators' keys of this data directory.
    pub(crate) fn keystore(&self) -> Keystore {
        Keystore::new(self.dir.keys())
    }

    /// Connects to the node on this data directory.
    pub(crate) async fn connect(&self) -> Result<Client, CliError> {
        let dir = self.dir.path().display();
        match self.dir.identity().try_exists() {
            Ok(true) => {}
            Ok(false) => {
                return Err(CliError::failed(format!("{dir} belongs to no cluster"))
                    .hint(format!("found one: {}", self.command("init")))
                    .hint(format!("or join one: {}", self.command("join TOKEN")))
                    .hint("or name another data directory with --data-dir or P2PINST_DATA_DIR"));
            }
            Err(e) => {
                return Err(CliError::failed(format!("cannot look into {dir}: {e}"))
                    .hint("run it as the user that the node runs as (sudo?)"));
            }
        }
        Client::connect(&self.dir).await.map_err(|e| self.not_running(e))
    }

    fn not_running(&self, error: ClientError) -> CliError {
        let denied = match &error {
            ClientError::NotRunning { source, .. } => {
                source.kind() == io::ErrorKind::PermissionDenied
            }
            _ => return error.into(),
        };
        let hint = if denied {
            "run it as the user that the node runs as (sudo?)".to_owned()
        } else {
            format!("start the node: p2pinstd{}", self.data_dir_option())
        };
        CliError::new(Kind::Unreachable, error).hint(hint)
    }

    /// Connects, and asks the node who it is.
    pub(crate) async fn connect_info(&self) -> Result<(Client, NodeInfo), CliError> {
        let mut client = self.connect().await?;
        let info = client.call(Info {}).await?;
        Ok((client, info))
    }

    /// A command line of p2pinst for this data directory, to be shown in hints.
    pub(crate) fn command(&self, rest: &str) -> String {
        format!("p2pinst{} {rest}", self.data_dir_option())
    }

    /// ` --data-dir DIR`, unless it is the default.
    pub(crate) fn data_dir_option(&self) -> String {
        let dir = self.dir.path().to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
        if dir == paths::DEFAULT {
            String::new()
        } else if dir.chars().all(plain) {
            format!(" --data-dir {dir}")
        } else {
            format!(" --data-dir '{}'", dir.replace('\'', r"'\''"))
        }
    }

    /// Says something on stderr; nothing with `--json`, where stderr holds an error or nothing.
    pub(crate) fn tell(&self, words: impl Display) {
        if !self.json {
            // a closed stderr is no reason to stop
            drop(writeln!(io::stderr(), "{}", format::clean_lines(&words.to_string())));
        }
    }

    /// Prints data.
    pub(crate) fn print(&self, data: impl Display) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        let printed = write!(stdout, "{data}").and_then(|()| stdout.flush());
        printed.map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => CliError::new(Kind::NoReader, e),
            _ => CliError::failed(format!("cannot print: {e}")),
        })
    }

    /// Prints one JSON document.
    pub(crate) fn print_json(&self, document: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(document).map_err(bug)?;
        self.print(format_args!("{text}\n"))
    }

    /// Prints one JSON document on one line.
    pub(crate) fn print_json_line(&self, document: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(document).map_err(bug)?;
        self.print(format_args!("{text}\n"))
    }

    /// Whether a person watches stderr.
    pub(crate) fn watched(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }
}

fn bug(error: serde_json::Error) -> CliError {
    CliError::new(Kind::Bug, format!("cannot encode the answer: {error}"))
}

/// Cluster time, as this machine's node reckons it.
pub(crate) fn cluster_now(info: &NodeInfo) -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let local = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    Millis(local.saturating_add_signed(info.clock_ahead_ms.saturating_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(dir: &str) -> String {
        Context { dir: DataDir::new(dir), json: false }.data_dir_option()
    }

    #[test]
    fn commands_in_hints_can_be_pasted() {
        assert_eq!(option("/var/lib/p2pinst"), "");
        assert_eq!(option("d1"), " --data-dir d1");
        assert_eq!(option("my dir's"), r" --data-dir 'my dir'\''s'");
    }
}
